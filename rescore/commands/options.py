"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Sources = Annotated[
    list[str],
    typer.Argument(
        help="N-best file, or several aligned files as NAME=PATH: .py, .jsonl, .json, each also .gz "
        "(for others see --format)."
    ),
]
ListFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Format of all N-best files that are read: returnn-py, json-lines, mlm-scoring or flat-json "
        "(default: chosen by the suffix, and for .json by the beginning of the file).",
    ),
]
