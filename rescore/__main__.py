import sys

from diffusion_lm.commands.runner import run_commands
from rescore.commands.verbs import COMMANDS

if __name__ == "__main__":
    sys.exit(
        run_commands("python -m rescore", COMMANDS, "Rescore N-best lists: score, tune, wer, rescore, ngram, convert.")
    )
