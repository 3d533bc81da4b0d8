"""The verb `dlm ngram`: a Kneser-Ney n-gram, the baseline every neural LM has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from returnn_bridge.files import check_outputs


def ngram(
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence a line.")],
    out: Annotated[Path, typer.Option(help="ARPA file.")],
    order: Annotated[int, typer.Option(help="Longest n-gram.")] = 4,
) -> None:
    """Train a Kneser-Ney n-gram, the baseline every neural LM has to beat."""
    from rescore.lms.ngram import train_ngram

    check_outputs([out], text)
    train_ngram(text, order=order, out=out)
    print(f"{out}: {order}-gram")
