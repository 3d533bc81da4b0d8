"""Open any language model as a scorer; its kind is detected from the files at its path.

    scorer = open_scorer("masked=runs/masked/model", ScoringOptions(device="cuda"))

A model can be a model folder or a run folder of this package, a Hugging Face folder, an ARPA file, a KenLM binary, or
the description of an LM that RETURNN trained.
"""

from __future__ import annotations

from diffusion_lm.locate import locate
from rescore.lms.base import LanguageModelScorer, NetworkOptions
from rescore.lms.options import ScoringOptions
from returnn_bridge.files import read_json_object


def open_scorer(model: str, options: ScoringOptions, *, chosen: bool = True) -> LanguageModelScorer:
    """The scorer for the model `PATH` or `NAME=PATH`. FileNotFoundError if there is no model at the path.

    chosen: the user chose the estimator for this model, so a model that does not use one raises a ValueError.
    """
    from rescore.nbest import split_source

    name, rest = split_source(model)
    path = locate(rest)
    asked = chosen and (options.estimator != "auto" or options.passes is not None)
    network: NetworkOptions = {
        "device": options.device,
        "precision": options.precision,
        "batch_tokens": options.batch_tokens,
    }
    unused = f"{path}: --estimator and --passes are for diffusion models; expected neither for this one"
    if path.is_dir() and (path / "config.json").is_file():
        config = read_json_object(path / "config.json", "that of a model", finite=False)
        if config.get("format") == "diffusion-lm":
            from rescore.estimators import build_estimator
            from rescore.lms.network import NetworkScorer, usual_estimator

            scorer = NetworkScorer(path, name=name or "", seed=options.seed, pieces=options.pieces, **network)
            if asked and scorer.estimator is None:
                raise ValueError(unused)
            estimator = usual_estimator(scorer.model.family) if options.estimator == "auto" else options.estimator
            return scorer.with_estimator(
                build_estimator(estimator, passes=options.passes, replicates=options.replicates)
            )
    if asked:
        raise ValueError(unused)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        from rescore.lms.returnn import ReturnnScorer

        return ReturnnScorer(path, name=name or "", pieces=options.pieces, **network)
    if options.pieces:
        raise ValueError(
            f"{path}: --pieces, of SentencePiece, is for model folders of ours and RETURNN LMs; "
            "expected word-level lists for this one"
        )
    if path.is_dir() and (path / "config.json").is_file():
        from rescore.lms.huggingface import load_huggingface

        return load_huggingface(path, name=name or path.name, **network)
    if path.suffix == ".pt":
        raise ValueError(f"{path}: a checkpoint; expected the description of its LM, which `dlm returnnlm` writes")
    if path.is_file():
        from rescore.lms.ngram import NgramScorer

        return NgramScorer(path, name=name or path.name.split(".")[0])
    raise FileNotFoundError(
        f"{path}: no such model; expected a model folder, an .arpa / KenLM file, a Hugging Face folder, or the "
        "description of a RETURNN LM (.yaml)"
    )


def describe_short(scorer: LanguageModelScorer) -> str:
    """The kind of the scorer and its estimator, in a few words."""
    facts = scorer.describe()
    return ", ".join(f"{key} {facts[key]}" for key in facts if key in ("kind", "estimator", "target"))
