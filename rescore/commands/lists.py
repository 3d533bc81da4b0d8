"""The verb `dlm convert`: N-best lists from one format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from returnn_bridge.files import check_outputs


def convert(
    source: Annotated[str, typer.Argument(help="N-best file, PATH or NAME=PATH.")],
    target: Annotated[Path, typer.Argument(help="Where to: .py, .jsonl, .json (mlm-scoring), each also .gz.")],
    score: Annotated[
        str | None, typer.Option(help="Which score, for formats that hold one (default: the only one).")
    ] = None,
) -> None:
    """Convert an N-best file: the same utterances, order and texts, floats with all their digits (nan and inf from .py to .py)."""
    from rescore.nbest import iterate_nbest, split_source, write_nbest
    from returnn_bridge.files import has_suffix

    name, path = split_source(source)
    check_outputs([target], [path])
    odd = has_suffix(target, ".py")  # the one format that can hold nan and inf
    write_nbest(target, iterate_nbest(path, name=name, allow_non_finite=odd), score=score, allow_non_finite=odd)
    print(f"{target}: written")
