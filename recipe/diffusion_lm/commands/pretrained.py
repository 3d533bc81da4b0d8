"""The verb `dlm pretrained`: published weights as a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pretrained(
    folder: Annotated[Path, typer.Argument(help="Folder of a published BD3-LM or MDLM model, downloaded before.")],
    vocab: Annotated[
        Path,
        typer.Option(
            help="The vocabulary it was trained with: a folder of GPT-2's tokenizer.json (or vocab.json and merges.txt), or a SentencePiece one."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    check: Annotated[
        list[Path] | None, typer.Option(help="Text file; its perplexity shows whether weights and vocabulary fit.")
    ] = None,
    passes: Annotated[int, typer.Option(help="Network passes per sentence for --check (at least 2).")] = 8,
) -> None:
    """Turn published weights into a model folder of ours. Nothing is downloaded, and no code of the folder is run."""
    from diffusion_lm.evaluate import evaluate_text
    from diffusion_lm.foreign.published import import_pretrained
    from diffusion_lm.model import LanguageModel

    def look(model: LanguageModel) -> None:
        if check:
            result = evaluate_text(model, check, passes=passes)
            print(f"{result.summary()}; a model that knows nothing has {model.vocab.num_pieces} per piece")

    # It looks before it writes: a text that is not there is no reason to leave a model behind.
    model = import_pretrained(folder, vocab, out, look)
    print(f"{out}: {model.family_options['name']}, {model.num_parameters / 1e6:.1f} M parameters")
