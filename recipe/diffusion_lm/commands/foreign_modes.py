"""Run the configuration tree of an MDLM, ASR-fork or BD3-LM run in its mode (foreign/translate.py reads the tree).

    run("mdlm_returnn_asr.yaml", ["checkpointing.save_dir=run", "model.hidden_size=32", "trainer.accelerator=cpu"])
    run("mdlm_returnn_asr.yaml", ["mode=ppl_eval", "eval.checkpoint_path=run/model", ...])
    job = prepare(translate(tree), Path("run"), Services())         # raises all errors that can be known now
    job()                                                           # only this writes files

train        trains as `dlm train` does
ppl_eval     computes a perplexity bound with its error bar for each validation set; perplexity.json
sample_eval  draws samples and reports their entropy and their perplexity under a local model; samples.txt
rescore      scores an N-best list with `sampling_number` passes of the reference run's estimator; lm_scores.py.gz

The file at the end of a line is written into the run's folder, that of rescore into rescore.output_dir.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from diffusion_lm.backbones.flex import check_attention
from diffusion_lm.commands.services import Services
from diffusion_lm.evaluate import Perplexity, evaluate_packed, evaluate_tokens
from diffusion_lm.foreign.agreement import check_agreement
from diffusion_lm.foreign.data import files_of
from diffusion_lm.foreign.published import is_pretrained, open_pretrained
from diffusion_lm.foreign.translate import Translation, describe, given, read_tree, translate, with_origin
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling import Samples, build_sampler, sample
from diffusion_lm.sampling.samples import draw_lengths, sample_entropy, text_of
from diffusion_lm.training.run import train
from returnn_bridge.batching import ReturnnBatches
from returnn_bridge.files import named, write_text
from returnn_bridge.packing import pack

ESTIMATOR = "plain"  # the estimator of the reference run
Job = Callable[[], None]


def run(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    out: str | os.PathLike[str] | None = None,
    print_only: bool = False,
    services: Services | None = None,
    max_seconds: float | None = None,
) -> None:
    """Run the tree in `path` in its mode. The tree is printed and saved as config_tree.txt in the run's folder.

    out: folder to use instead of `checkpointing.save_dir`. print_only: only print the tree and the verdicts. services:
    functions that score a hypothesis file and open a judge; the `dlm` command passes both. max_seconds: as for `dlm
    train`, in mode train only. ValueError and OSError are errors that the user can fix; errors in keys, paths,
    vocabularies and the device are raised before anything is written.
    """
    tree = read_tree(path, overrides)
    with named(path):
        made = translate(tree)
    text = describe(tree, made)
    print(text)
    if print_only:
        return
    if max_seconds is not None and made.mode != "train":
        raise ValueError(f"--max-seconds {max_seconds:g}: only mode train can stop and go on; got mode {made.mode!r}")
    folder = Path(out if out is not None else given("checkpointing.save_dir", made.save_dir))
    with named(path):
        job = prepare(made, folder, services or Services(), max_seconds=max_seconds)
    write_text(folder / "config_tree.txt", text)
    job()


def prepare(made: Translation, folder: Path, services: Services, *, max_seconds: float | None = None) -> Job:
    """Check everything that the mode needs and return the job to run.

    ValueError and OSError for errors that the user can fix.
    """
    if made.mode == "train":
        return _train(made, folder, max_seconds)
    return _MODES[made.mode](made, folder, services)


def _train(made: Translation, folder: Path, max_seconds: float | None) -> Job:
    _check_files({made.origin.get("data.train", "data.train"): made.config.data.train, **_valid_sets(made)})
    if not made.resume and (folder / "checkpoints" / "last.ckpt").exists():
        raise ValueError(
            f"checkpointing.resume_from_ckpt: got false, but {folder} holds a run; expected true, or a new folder"
        )

    _device(made)
    trainer = made.config.trainer
    try:
        check_attention(trainer.attention, head_width=made.config.model.head_width, accelerator=trainer.accelerator)
    except ValueError as error:
        raise ValueError(with_origin(str(error), made.origin)) from None

    def job() -> None:
        result = train(made.config, folder, max_seconds=max_seconds)
        print(f"{result.model}: {result.steps} steps, {result.tokens:,} tokens, {result.seconds:.0f} s")

    return job


def _perplexity(made: Translation, folder: Path, services: Services) -> Job:
    if not made.config.data.valid:
        raise ValueError(
            "data.returnn_valid_config: got no set; expected one for mode ppl_eval, or text as data.valid=FILE"
        )
    model = _model(made)
    _check_files(_valid_sets(made), model)

    def job() -> None:
        results = {}
        for name in made.config.data.valid:
            for kind, result in _evaluate(made, name, model).items():
                print(f"{kind}: {result.summary()}")
                results[kind] = result.to_dict()
        write_text(folder / "perplexity.json", json.dumps(results, indent=1) + "\n")

    return job


def _evaluate(made: Translation, name: str, model: LanguageModel) -> dict[str, Perplexity]:
    """The perplexity of a validation set by its name and, if asked for, the exact one by NAME/exact."""
    kinds = {name: False} | ({f"{name}/exact": True} if made.likelihood else {})
    sentences = list(_sentences(made, name, model))
    if made.packing is None:
        return {
            kind: evaluate_tokens(model, sentences, seed=made.config.seed, likelihood=likelihood)
            for kind, likelihood in kinds.items()
        }
    packed = pack(sentences, made.packing, bos_id=model.vocab.bos_id, eos_id=model.vocab.eos_id)
    print(
        f"{name}: {packed.documents} documents in {len(packed.rows)} rows of {made.packing.length} tokens, "
        f"{packed.left_over} tokens left over"
    )
    return {
        kind: evaluate_packed(model, packed, seed=made.config.seed, likelihood=likelihood)
        for kind, likelihood in kinds.items()
    }


def _samples(made: Translation, folder: Path, services: Services) -> Job:
    settings = made.sampling
    model = _model(made)
    judge = services.judge(made.judge, device=_device(made)) if made.judge else None
    if made.judge_wanted and judge is None:
        raise ValueError("eval.compute_generative_perplexity: got true without eval.gen_ppl_eval_model_name_or_path")
    count = settings.num_batches * settings.batch_size
    # A fixed length counts BOS and the last token, which need not be EOS.
    lengths = [made.config.data.max_seq_length + settings.fixed_length] * count
    if not model.family.exact and model.family.block_size is None:
        if not made.config.data.valid:
            raise ValueError("data.returnn_valid_config: got no set; samples take their lengths from the first one")
        first = next(iter(made.config.data.valid))
        _check_files({name: opts for name, opts in _valid_sets(made).items() if name.endswith(f".{first}")}, model)
        lengths = draw_lengths([len(row) for row in _sentences(made, first, model)], count, seed=made.config.seed)

    def job() -> None:
        drawn = _draw(made, model, lengths)
        texts = [text_of(tokens, model.vocab) for tokens in drawn.tokens]
        write_text(folder / "samples.txt", "".join(f"{text}\n" for text in texts))
        for text in texts[: settings.num_shown]:
            print(text)
        print(
            f"{count} samples in {folder / 'samples.txt'}; entropy {sample_entropy(drawn.tokens):.3f} nats a sentence, "
            f"{drawn.passes / count:.1f} passes a sentence, {drawn.unfinished} unfinished"
        )
        if judge is None:
            print("generative perplexity: not computed, eval.gen_ppl_eval_model_name_or_path is nothing here")
        else:
            print(judge(texts))

    return job


def _draw(made: Translation, model: LanguageModel, lengths: list[int]) -> Samples:
    settings, seed = made.sampling, made.config.seed
    if settings.semi_autoregressive:
        sampler = build_sampler(
            model,
            "semi-autoregressive",
            stride=settings.stride,
            num_strides=settings.num_strides,
            window_predictor=settings.predictor or "ddpm_cache",
            steps=settings.steps,
            noise_removal=settings.noise_removal,
        )
        return sampler.draw_all(lengths, seed=seed, batch_size=len(lengths))
    predictor = settings.predictor
    if model.family.block_size is not None:
        predictor = "first-hitting" if settings.first_hitting else "ancestral"
    return sample(
        model,
        lengths,
        predictor=predictor,
        steps=settings.steps,
        noise_removal=settings.noise_removal,
        nucleus_p=settings.nucleus_p,
        seed=seed,
        batch_size=settings.batch_size,
        options={"fixed_length": True} if settings.fixed_length else {},
    )


def _rescore(made: Translation, folder: Path, services: Services) -> Job:
    settings = made.rescore
    if services.rescore is None:
        raise ValueError(
            "mode: got 'rescore'; it needs the `dlm` command, as in `dlm train --config FILE mode=rescore`"
        )
    scorer = services.rescore
    source = given("rescore.hypothesis_file", settings.hypothesis_file)
    if not os.path.isfile(source):
        raise FileNotFoundError(f"{source}: no such file (rescore.hypothesis_file)")
    output = Path(given("rescore.output_dir", settings.output_dir)) / "lm_scores.py.gz"
    device = _device(made)
    _model(made)

    def job() -> None:
        scorer(
            source,
            output,
            made.model,
            estimator=ESTIMATOR,
            passes=settings.passes,
            seed=made.config.seed,
            device=device,
        )

    return job


# All modes except "train".
_MODES: dict[str, Callable[[Translation, Path, Services], Job]] = {
    "ppl_eval": _perplexity,
    "sample_eval": _samples,
    "rescore": _rescore,
}


def _device(made: Translation) -> str:
    """Device for torch. ValueError if the tree asks for a GPU and there is none."""
    wanted = made.config.trainer.accelerator
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("trainer.accelerator: got 'cuda', but there is no GPU here; expected trainer.accelerator=cpu")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _model(made: Translation) -> LanguageModel:
    path = given("eval.checkpoint_path", made.model)
    if not os.path.isdir(path):
        raise FileNotFoundError(
            f"{path}: no such folder (eval.checkpoint_path), and nothing is downloaded; "
            "expected a model folder, or the folder of a published model"
        )
    if is_pretrained(path):
        vocab = given("data.tokenizer_name_or_path", made.config.data.vocab)
        model = open_pretrained(path, vocab, device=_device(made))
    else:
        model = LanguageModel.load(path, device=_device(made))
    check_agreement(made, model, path)
    return model


def _valid_sets(made: Translation) -> dict[str, Any]:
    key = made.origin.get("data.valid", "data.valid")
    return {f"{key}.{name}": opts for name, opts in made.config.data.valid.items()}


def _check_files(sets: Mapping[str, Any], model: LanguageModel | None = None) -> None:
    """Check that all files of these dataset dicts exist and that all use one vocabulary, that of the model if given."""
    proto = model.vocab.content if model is not None else None
    whose = "the model"
    for key, path in (item for name, opts in sets.items() for item in files_of(opts, name)):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such file ({key})")
        if not key.endswith(".model_file"):
            continue
        found = Path(path).read_bytes()
        if proto is not None and found != proto:
            raise ValueError(f"{key}: {path} is not the vocabulary of {whose}; expected the same SentencePiece model")
        proto, whose = found, whose if model is not None else key


def _sentences(made: Translation, name: str, model: LanguageModel) -> Iterator[list[int]]:
    """Piece ids of the sentences of a validation set, in at most trainer.limit_val_batches batches."""
    data = made.config.data
    rows = ReturnnBatches(
        data.valid[name], num_tokens=model.vocab.num_pieces, batch_size=data.batch_size, max_seqs=data.max_seqs
    )
    batches = list(rows)
    limit = made.config.trainer.limit_val_batches
    for batch in batches[: limit if isinstance(limit, int) else int(len(batches) * limit)]:
        for row, length in zip(batch.tokens.tolist(), batch.lengths.tolist()):
            yield row[:length]
