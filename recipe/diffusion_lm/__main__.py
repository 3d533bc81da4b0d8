import sys

from diffusion_lm.cli import run_commands
from diffusion_lm.commands import COMMANDS, HELP

if __name__ == "__main__":
    sys.exit(run_commands("python -m diffusion_lm", COMMANDS, HELP))
