"""The verbs that make models: `dlm vocab`, `dlm bliss`, `dlm oggzip`, `dlm train`, `dlm pretrained` ... Each is a plain function."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import typer

from diffusion_lm.commands.clip import clip
from diffusion_lm.commands.pretrained import pretrained
from diffusion_lm.commands.runner import Command
from returnn_bridge.files import check_outputs, read_yaml, write_text


class RescoreMode(Protocol):
    """Scores a hypothesis file: what mode `rescore` of an MDLM tree needs. The rescore package brings it, which this one never imports."""

    def __call__(
        self,
        hypothesis_file: str,
        output: Path,
        model_folder: str,
        *,
        estimator: str,
        passes: int,
        seed: int,
        device: str,
    ) -> None: ...


_rescore_modes: list[RescoreMode] = []  # at most one


def provide_rescore(mode: RescoreMode) -> None:
    """Say what `train --config` does with a tree of mode `rescore`."""
    _rescore_modes[:] = [mode]


class OpenJudge(Protocol):
    """Opens a language model of any kind that tells the perplexity of texts in a line. The rescore package brings it too."""

    def __call__(self, model: str, *, device: str) -> Callable[[Sequence[str]], str]: ...


_judges: list[OpenJudge] = []  # at most one


def provide_judge(opener: OpenJudge) -> None:
    """Say what measures generative perplexity."""
    _judges[:] = [opener]


def open_judge(model: str, *, device: str) -> Callable[[Sequence[str]], str]:
    """The judge at that path. ValueError where the rescore package, which knows all kinds of models, is not there."""
    if not _judges:
        raise ValueError(f"{model}: generative perplexity needs the `dlm` command")
    return _judges[0](model, device=device)


HELP = "Train diffusion and autoregressive language models on RETURNN datasets."


def vocab(
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence a line.")],
    out: Annotated[Path, typer.Option(help="Folder for spm.model.")],
    size: Annotated[int, typer.Option(help="Number of pieces.")] = 10240,
    model_type: Annotated[str, typer.Option(help="'unigram' or 'bpe'.")] = "unigram",
) -> None:
    """Train a SentencePiece vocabulary."""
    from returnn_bridge.vocab import train_vocab

    made = train_vocab(text, size=size, out=out, model_type=model_type)
    print(
        f"{out}: {made.num_pieces} pieces; mask {made.mask_id}, BOS {made.bos_id}, EOS {made.eos_id}, padding {made.pad_id}"
    )


def tokenize(
    text: Annotated[
        list[Path], typer.Argument(help="Text files (plain or .gz), one sentence a line, in the order of data.text.")
    ],
    vocab: Annotated[Path, typer.Option(help="Vocabulary folder or SentencePiece .model file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Token store (.hdf) for data.store; without it, a file beside the vocabulary, which training finds by itself."
        ),
    ] = None,
) -> None:
    """Tokenise training text once, for training and RETURNN's HDFDataset; interrupted, the same command goes on."""
    from rich.progress import Progress

    from returnn_bridge.token_store import build_store, default_store

    out = out or default_store(text, vocab)
    there = out.exists()
    with Progress(transient=True) as bar:
        total = sum(path.stat().st_size for path in text if path.suffix != ".gz") if not there else 0
        task = bar.add_task("tokenising", total=total or None)
        store = build_store(text, vocab, out, progress=lambda size: bar.advance(task, size))
    print(f"{out}: {'complete already, ' if there else ''}{len(store)} sentences, {len(store.ids)} tokens")


def oggzip(
    audio: Annotated[
        Path,
        typer.Argument(
            help="Folder of .flac, .wav or .ogg files named by utterance, searched through; or a Bliss corpus (.xml, .xml.gz)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The zip.")],
    transcripts: Annotated[
        Path | None,
        typer.Option(
            help="For a folder: lines of 'utterance-id TEXT' (Kaldi text, LibriSpeech .trans.txt), plain or .gz."
        ),
    ] = None,
    lower: Annotated[bool, typer.Option("--lower", help="Lower-case the transcripts.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Of a Bliss corpus: leave the audio out.")] = False,
) -> None:
    """Build an OggZip for RETURNN's OggZipDataset from audio and transcripts."""
    from returnn_bridge.bliss import build_bliss_ogg_zip
    from returnn_bridge.oggzip import build_folder_ogg_zip

    if audio.is_file():
        if transcripts is not None:
            raise ValueError(f"--transcripts {transcripts}: a Bliss corpus has its own; expected a folder of audio")
        count = build_bliss_ogg_zip(audio, out, with_audio=not text_only, lower=lower)
        print(f"{out}: {count} utterances")
        return
    if text_only:
        raise ValueError(f"{audio}: --text-only is for a Bliss corpus; expected a .xml or .xml.gz file with it")
    if transcripts is None:
        raise ValueError(f"{audio}: no such Bliss corpus; for a folder of audio, --transcripts is missing")
    count, left_out = build_folder_ogg_zip(audio, transcripts, out, lower=lower)
    print(f"{out}: {count} utterances; {left_out} transcripts without audio left out")


def bliss(
    corpus: Annotated[Path, typer.Argument(help="Bliss corpus (.xml, .xml.gz).")],
    out: Annotated[
        Path, typer.Option(help="Text, a sentence a line; named .py, references by segment. Each also .gz.")
    ],
    lower: Annotated[bool, typer.Option("--lower", help="Lower-case the text.")] = False,
) -> None:
    """Write the text of a Bliss corpus: lines to train on, or references."""
    from returnn_bridge.bliss import write_bliss_text

    print(f"{out}: {write_bliss_text(corpus, out, lower=lower)} segments")


def train(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings on top, e.g. optim.lr=1e-3."),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="NAME or NAME:SUFFIX, e.g. librispeech_masked:ar. See --list-presets.")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(help="A configuration file (YAML): ours, or one of an MDLM / BD3-LM run.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; with a run in it, that run is continued.")] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Save and stop after that time (status 75); the same command goes on.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the complete configuration and stop.")
    ] = False,
    list_presets: Annotated[
        bool, typer.Option("--list-presets", help="Print the presets and suffixes and stop.")
    ] = False,
) -> None:
    """Train a language model, or continue an interrupted run to the same weights."""
    import yaml

    from diffusion_lm import presets
    from diffusion_lm.config import apply_overrides, from_dict, to_dict

    if list_presets:
        for kind, table in (("preset", presets.PRESETS), ("suffix", presets.SUFFIXES)):
            for name, function in table.items():
                print(f"{kind} {name}: {' '.join((function.__doc__ or '').split())}")
        return
    if bool(preset) == (config is not None):
        raise ValueError("give exactly one of --preset NAME and --config FILE")
    if config is not None:
        from diffusion_lm.foreign import translate as compat

        tree = read_yaml(config)
        if compat.is_foreign(tree):
            rescore = _rescore_modes[0] if _rescore_modes else None
            compat.run(config, overrides or [], out=out, print_only=print_config, rescore=rescore)
            return
        settings = from_dict(tree)
    else:
        settings = presets.build(preset)
    settings = apply_overrides(settings, overrides or [])
    if print_config:
        print(yaml.safe_dump(to_dict(settings), sort_keys=False), end="")
        return
    if out is None:
        raise ValueError("--out is missing; expected a folder for the run")
    from diffusion_lm.training.run import train as run_training

    run_training(settings, out, max_seconds=max_seconds)


def average(
    models: Annotated[list[Path], typer.Argument(help="Model folders of one training, such as RUN/kept/*.")],
    out: Annotated[Path, typer.Option(help="Folder of the averaged model.")],
) -> None:
    """Average the weights of models, checkpoints of one training for instance."""
    from diffusion_lm.training.averaging import average_models

    average_models(models, out)
    print(f"{out}: mean of the weights of {len(models)} models")


def perplexity(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence a line.")],
    passes: Annotated[int, typer.Option(help="Network passes per sentence for a bound (at least 2).")] = 8,
    seed: Annotated[int, typer.Option(help="Of the masks.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    batch_tokens: Annotated[int, typer.Option(help="Most tokens of one forward pass.")] = 2048,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON here.")] = None,
) -> None:
    """Perplexity of text: exact for autoregressive models, a bound with its error bar for diffusion models."""
    from diffusion_lm.evaluate import evaluate_text
    from diffusion_lm.model import LanguageModel

    check_outputs([] if out is None else [out], [model, *text])
    result = evaluate_text(
        LanguageModel.load(model, device=device), text, passes=passes, seed=seed, batch_tokens=batch_tokens
    )
    if out is not None:
        write_text(out, json.dumps(result.to_dict(), indent=1) + "\n")
    print(result.summary())


def sample(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    count: Annotated[int, typer.Option(help="Number of sentences.")] = 10,
    length: Annotated[
        int, typer.Option(help="Pieces in each (at most that many, for an autoregressive or a block model).")
    ] = 0,
    like: Annotated[Path | None, typer.Option(help="Text whose sentence lengths are drawn from, instead.")] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            help="Masked model: ddpm_cache (default), ddpm, analytic, certain-first or uncertain-first. "
            "Uniform or hybrid: ancestral (default) or greedy-tail. Block: first-hitting (default) or ancestral."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Reverse steps of a diffusion model.")] = 1000,
    nucleus: Annotated[
        float, typer.Option(help="Block model: draw from the most probable pieces with this much probability.")
    ] = 1.0,
    self_correct: Annotated[
        int, typer.Option(help="Uniform or hybrid model: at most that many rounds of correcting its own samples.")
    ] = 0,
    judge: Annotated[
        str, typer.Option(help="Language model (ours, .arpa, Hugging Face folder) for generative perplexity.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Also write the sentences here, one a line.")] = None,
) -> None:
    """Draw sentences from a model."""
    from diffusion_lm.model import LanguageModel
    from diffusion_lm.sampling import masked as sampling
    from diffusion_lm.sampling.samples import draw_lengths, one_line, sample_entropy
    from returnn_bridge.vocab import read_lines

    if (length > 0) == (like is not None):
        raise ValueError("give exactly one of --length NUMBER and --like TEXT")
    check_outputs([] if out is None else [out], [model, *([like] if like else []), *([judge] if judge else [])])
    trained = LanguageModel.load(model, device=device)
    judged = open_judge(judge, device=device) if judge else None
    lengths = [length] * count
    if like is not None:
        known = [len(ids) for ids in trained.vocab.encode_batch(list(read_lines([like])))]
        lengths = draw_lengths(known, count, seed=seed)
    drawn = sampling.sample(trained, lengths, predictor=predictor, steps=steps, nucleus_p=nucleus, seed=seed)
    lines = []
    if self_correct:
        from diffusion_lm.sampling.self_correction import self_correct as correct

        corrected = correct(trained, drawn.tokens, seed=seed, most_rounds=self_correct)
        drawn = sampling.Samples(corrected.tokens, drawn.passes + corrected.passes, drawn.unfinished)
        lines.append(f"self-correction changed {corrected.changed} tokens; agreement {corrected.agreement:.3f}")
    texts = [one_line(trained.vocab.decode(tokens)) for tokens in drawn.tokens]
    if out is not None:
        write_text(out, "".join(f"{text}\n" for text in texts))
    lines += texts
    lines.append(
        f"entropy {sample_entropy(drawn.tokens):.3f} nats a sentence, "
        f"{drawn.passes / max(1, count):.1f} passes a sentence, {drawn.unfinished} unfinished"
    )
    print("\n".join(lines))
    if judged is not None:
        print(judged(texts))


COMMANDS: list[Command] = [vocab, tokenize, bliss, oggzip, train, average, pretrained, perplexity, sample, clip]
