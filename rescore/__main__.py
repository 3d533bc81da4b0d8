import sys

from diffusion_lm.commands.runner import run_commands
from rescore.commands import HELP, commands

if __name__ == "__main__":
    sys.exit(run_commands("python -m rescore", commands(), HELP))
