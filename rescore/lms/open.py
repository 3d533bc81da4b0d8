"""Any language model as a scorer: what it is follows from what lies at its path.

    scorer = open_scorer("masked=runs/masked/model", estimator="auto", passes=None, replicates=4, pieces=False, seed=1, device="cpu")

A model folder of ours, a Hugging Face folder, an ARPA file or a KenLM binary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rescore.scores import UnknownWords
from returnn_bridge.files import read_json_object


def open_scorer(
    model: str,
    *,
    estimator: str,
    passes: int | None,
    replicates: int,
    pieces: bool,
    seed: int,
    chosen: bool = True,
    **options: Any,
) -> Any:
    """The scorer for a model path, `NAME=PATH` or a path alone; what it is follows from what lies there.

    `chosen`: the estimator was asked for with this very model, so one that has no use for it is refused. ValueError if nothing fits.
    """
    from rescore.estimators import build_estimator
    from rescore.nbest import split_source

    given_name, rest = split_source(model)
    path, name = Path(rest), given_name or ""
    if chosen and (estimator != "auto" or passes is not None):
        unused = f"{path}: --estimator and --passes are for diffusion models; expected neither for this one"
    else:
        unused = ""
    if path.is_dir() and (path / "config.json").is_file():
        config = read_json_object(path / "config.json", "that of a model")
        if config.get("format") == "diffusion-lm":
            from rescore.lms.network import NetworkScorer, usual_estimator

            scorer = NetworkScorer(str(path), name=name, seed=seed, pieces=pieces, **options)
            if unused and scorer.model.family.exact:
                raise ValueError(unused)
            wanted = usual_estimator(scorer.model.family) if estimator == "auto" else estimator
            scorer.estimator = build_estimator(wanted, passes=passes, replicates=replicates)
            return scorer
    if unused:
        raise ValueError(unused)
    if pieces:
        raise ValueError(
            f"{path}: --pieces, of SentencePiece, is for model folders of ours; expected word-level lists for this one"
        )
    if path.is_dir() and (path / "config.json").is_file():
        from rescore.lms.huggingface import load_huggingface

        return load_huggingface(
            path, name=name or path.name, **{key: value for key, value in options.items() if value is not None}
        )
    if path.is_file():
        from rescore.lms.ngram import NgramScorer

        return NgramScorer(path, name=name or path.name.split(".")[0])
    raise FileNotFoundError(
        f"{path}: no such model; expected a model folder, an .arpa / KenLM file, or a Hugging Face folder"
    )


def unknown_of(scorer: Any) -> UnknownWords | None:
    """How much of all texts so far the model did not know, the first thing to look at when an LM does not help; None if it does not tell."""
    if hasattr(scorer, "counts"):
        counts = scorer.counts()
        return UnknownWords(counts["oov_tokens"], counts["tokens"], "words" if "oov_words" in counts else "tokens")
    if hasattr(scorer, "unknown_pieces"):
        return UnknownWords(scorer.unknown_pieces, scorer.words, "pieces")
    return None


def describe_short(scorer: Any) -> str:
    return ", ".join(
        f"{key} {value}" for key, value in scorer.describe().items() if key in ("kind", "estimator", "target")
    )
