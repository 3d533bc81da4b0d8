"""The `dlm` command: the verbs of both packages."""

from __future__ import annotations

import sys

from diffusion_lm.commands import commands as model_commands
from diffusion_lm.commands.runner import Command, run_commands
from rescore.commands import commands as rescore_commands
from rescore.commands.services import SERVICES

HELP = "Train diffusion language models and rescore N-best lists of speech recognisers with them."


def all_commands() -> list[Command]:
    """All verbs, each once. Where both packages have a verb, rescore's is taken because it supports more kinds of
    models."""
    rescore_verbs = rescore_commands()
    names = {command.__name__ for command in rescore_verbs}
    return [*(command for command in model_commands(SERVICES) if command.__name__ not in names), *rescore_verbs]


def main(argv: list[str] | None = None) -> None:
    """Entry point of `dlm`."""
    sys.exit(run_commands("dlm", all_commands(), HELP, argv))
