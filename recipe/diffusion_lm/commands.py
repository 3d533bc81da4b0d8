"""The verbs that make models: `dlm vocab`, `dlm train`, `dlm perplexity`. Each is a plain function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.cli import Command

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
        from diffusion_lm import compat

        tree = read_yaml(config)
        if compat.is_foreign(tree):
            compat.run(config, overrides or [], out=out, print_only=print_config)
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
    from diffusion_lm.train import train as run_training

    result = run_training(settings, out)
    print(f"{result.model}: {result.steps} steps, {result.tokens:,} tokens, {result.seconds:.0f} s")


def perplexity(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence a line.")],
    passes: Annotated[int, typer.Option(help="Network passes per sentence for a bound (at least 2).")] = 8,
    seed: Annotated[int, typer.Option(help="Of the masks.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    batch_tokens: Annotated[int, typer.Option(help="Most tokens of one forward pass.")] = 8192,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON here.")] = None,
) -> None:
    """Perplexity of text: exact for autoregressive models, a bound with its error bar for diffusion models."""
    from diffusion_lm.evaluate import evaluate_text
    from diffusion_lm.model import LanguageModel

    result = evaluate_text(
        LanguageModel.load(model, device=device), text, passes=passes, seed=seed, batch_tokens=batch_tokens
    )
    print(result.summary())
    if out is not None:
        write_whole(out, json.dumps(result.to_dict(), indent=1) + "\n")


def read_yaml(path: Path) -> dict:
    """A YAML mapping, plain data only."""
    import yaml

    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: got {type(tree).__name__}; expected a mapping of sections")
    return tree


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    import os

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


COMMANDS: list[Command] = [vocab, train, perplexity]
