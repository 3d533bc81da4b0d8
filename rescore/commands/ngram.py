"""The verb `dlm ngram`, which trains a Kneser-Ney n-gram as a baseline for the neural LMs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from returnn_bridge.files import check_outputs


def ngram(
    text: Annotated[list[Path], typer.Argument(help="Training text files (plain or .gz), one sentence per line.")],
    out: Annotated[Path, typer.Option(help="ARPA file to write.")],
    order: Annotated[int, typer.Option(help="Order of the model: the number of words in its longest n-grams.")] = 4,
) -> None:
    """Train a Kneser-Ney n-gram language model, the usual baseline for neural LMs."""
    from rescore.lms.ngram import train_ngram

    check_outputs([out], text)
    train_ngram(text, order=order, out=out)
    print(f"{out}: {order}-gram")
