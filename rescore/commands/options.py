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
RESAMPLES = 50
"""Default of `Resamples`; docs/results.md compares it with others."""
Resamples = Annotated[
    int,
    typer.Option(
        help="Number of bootstrap resamples of the tuning utterances. The scales are the mean of those with the fewest "
        "errors on each resample; with 0, those with the fewest errors on the utterances as they are."
    ),
]
