"""The verbs for trained models: `dlm average`, `dlm pretrained`, `dlm returnnlm`, `dlm perplexity`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diffusion_lm.commands.options import Device
from returnn_bridge.files import check_outputs, write_text


def average(
    models: Annotated[list[Path], typer.Argument(help="Model folders of one training run, such as RUN/kept/*.")],
    out: Annotated[Path, typer.Option(help="Folder to write the averaged model into.")],
) -> None:
    """Average the weights of several models, such as checkpoints of one training run."""
    from diffusion_lm.training.averaging import average_models

    average_models(models, out)
    print(f"{out}: mean of the weights of {len(models)} models")


def pretrained(
    folder: Annotated[Path, typer.Argument(help="Local folder of a published BD3-LM or MDLM model.")],
    vocab: Annotated[
        Path,
        typer.Option(
            help="Vocabulary that the model was trained with: a folder with GPT-2's tokenizer.json (or vocab.json and "
            "merges.txt), or a SentencePiece vocabulary."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    check: Annotated[
        list[Path] | None, typer.Option(help="Text file; its perplexity shows whether weights and vocabulary fit.")
    ] = None,
    passes: Annotated[int, typer.Option(help="Network passes per sentence for --check (at least 2).")] = 8,
) -> None:
    """Convert published weights into a model folder.

    Nothing is downloaded, and no code of the published folder is run.
    """
    from diffusion_lm.evaluate import evaluate_text
    from diffusion_lm.foreign.published import import_pretrained
    from diffusion_lm.model import LanguageModel

    def look(model: LanguageModel) -> None:
        if check:
            result = evaluate_text(model, check, passes=passes)
            print(f"{result.summary()}; a model that knows nothing has {model.vocab.num_pieces} per piece")

    # The check runs before the model is written, so that a missing text file leaves nothing behind.
    model = import_pretrained(folder, vocab, out, look)
    print(f"{out}: {model.family_options['name']}, {model.num_parameters / 1e6:.1f} M parameters")


def returnnlm(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of RETURNN's Torch backend (.pt).")],
    network: Annotated[
        list[str],
        typer.Argument(
            metavar="OPTION=VALUE...",
            help="Arguments of RETURNN's TransformerDecoder that the training had, e.g. num_layers=24 model_dim=1024.",
        ),
    ],
    vocab: Annotated[Path, typer.Option(help="SentencePiece .model file that the LM was trained with.")],
    behavior_version: Annotated[int, typer.Option(help="behavior_version of the RETURNN configuration.")],
    out: Annotated[Path, typer.Option(help="Description to write (.yaml), which can be scored with.")],
) -> None:
    """Describe an autoregressive LM that RETURNN trained, for scoring. Options and weights are checked."""
    from diffusion_lm.config import override_tree
    from returnn_bridge.transformer_lm import write_description

    check_outputs([out], [checkpoint, vocab])
    tree = override_tree({"network": {}}, [f"network.{option}" for option in network], open_sections=["network"])
    lm = write_description(
        out, checkpoint=checkpoint, vocab=vocab, behavior_version=behavior_version, model=tree["network"]
    )
    print(f"{out}: {lm.num_parameters / 1e6:.1f} M parameters, {lm.vocab.num_pieces} pieces")


def perplexity(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence per line.")],
    passes: Annotated[
        int, typer.Option(help="Network passes per sentence, if the result is a bound (at least 2).")
    ] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the masks.")] = 1,
    device: Device = "auto",
    batch_tokens: Annotated[int, typer.Option(help="Largest number of tokens in a forward pass.")] = 2048,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON here.")] = None,
) -> None:
    """Compute the perplexity of text: exact for autoregressive models, a bound with error bar for diffusion models."""
    from diffusion_lm.evaluate import evaluate_text
    from diffusion_lm.model import LanguageModel

    check_outputs([] if out is None else [out], [model, *text])
    result = evaluate_text(
        LanguageModel.load(model, device=device), text, passes=passes, seed=seed, batch_tokens=batch_tokens
    )
    if out is not None:
        write_text(out, json.dumps(result.to_dict(), indent=1) + "\n")
    print(result.summary())
