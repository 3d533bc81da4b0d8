"""The `dlm` command: the verbs of both packages.

Imports are inside the functions, and `typing` is not imported, so that Ctrl-C at the start of the program is no
traceback.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in `typing`: type checkers read the block
if TYPE_CHECKING:
    from diffusion_lm.commands.runner import Command

HELP = "Train diffusion language models and rescore N-best lists of speech recognisers with them."


def all_commands() -> list[Command]:
    """All verbs, each once. Where both packages have a verb, rescore's is taken because it supports more kinds of
    models."""
    from diffusion_lm.commands import commands as model_commands
    from rescore.commands import commands as rescore_commands
    from rescore.commands.services import SERVICES

    rescore_verbs = rescore_commands()
    names = {command.__name__ for command in rescore_verbs}
    return [*(command for command in model_commands(SERVICES) if command.__name__ not in names), *rescore_verbs]


def main(argv: list[str] | None = None) -> None:
    """Entry point of `dlm`."""
    try:
        from diffusion_lm.commands.runner import run_commands

        sys.exit(run_commands("dlm", all_commands(), HELP, argv))
    except KeyboardInterrupt:  # a later one is handled by run_commands
        print("dlm: interrupted before it began", file=sys.stderr)
        sys.exit(130)
