import sys

from diffusion_lm.commands.models import COMMANDS, HELP
from diffusion_lm.commands.runner import run_commands

if __name__ == "__main__":
    sys.exit(run_commands("python -m diffusion_lm", COMMANDS, HELP))
