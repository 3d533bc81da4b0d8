"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="Device that the network runs on: cpu, cuda, cuda:1 ...")]
