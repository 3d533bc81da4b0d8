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
RESAMPLES = 50
"""Default of `Resamples`; docs/results.md compares it with others."""
Resamples = Annotated[
    int,
    typer.Option(
        help="Number of bootstrap resamples of the tuning utterances. The scales are the mean of those with the fewest "
        "errors on each resample; with 0, those with the fewest errors on the utterances as they are."
    ),
]
