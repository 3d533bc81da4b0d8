"""Command-line options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="Device of the network: cpu, cuda, cuda:1 ...")]
