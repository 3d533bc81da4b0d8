"""The `dlm` command: the verbs of both packages."""

from __future__ import annotations

import sys

from diffusion_lm.commands import commands as model_commands
from diffusion_lm.commands.runner import Command, run_commands
from rescore.commands import commands as rescore_commands
from rescore.commands.services import SERVICES

HELP = "Train diffusion language models and rescore N-best lists of speech recognisers with them."


def all_commands() -> list[Command]:
    """Every verb once. One of the same name in both packages is the one of rescore, which knows more kinds of models."""
    own = rescore_commands()
    names = {command.__name__ for command in own}
    return [*(command for command in model_commands(SERVICES) if command.__name__ not in names), *own]


def main(argv: list[str] | None = None) -> None:
    """Entry point of `dlm`."""
    sys.exit(run_commands("dlm", all_commands(), HELP, argv))
