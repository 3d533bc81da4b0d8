"""Command-line options that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="Device of the network: auto (a GPU if there is one), cpu, cuda, cuda:1 ...")]


def say_device(*devices: str) -> None:
    """Print which devices the networks of a command run on; nothing if it has no network."""
    if used := sorted({device for device in devices if device}):
        print(f"device: {', '.join(used)}", flush=True)
