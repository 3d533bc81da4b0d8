"""The `dlm` command: the verbs of both packages."""

from __future__ import annotations

import sys

from diffusion_lm.commands.runner import run_commands
from rescore.commands.verbs import ALL_COMMANDS

HELP = "Train diffusion language models and rescore N-best lists of speech recognisers with them."


def main(argv: list[str] | None = None) -> None:
    """Entry point of `dlm`."""
    sys.exit(run_commands("dlm", ALL_COMMANDS, HELP, argv))
