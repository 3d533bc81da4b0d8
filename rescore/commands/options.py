"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Sources = Annotated[
    list[str],
    typer.Argument(help="N-best file, or several aligned files as NAME=PATH; `dlm formats` lists what is read."),
]
ListFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Format of all N-best files that are read, of those that `dlm formats` lists (default: chosen by the "
        "suffix, and where several share it by the beginning of the file).",
    ),
]
