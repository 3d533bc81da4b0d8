import sys

from diffusion_lm.commands import HELP, commands
from diffusion_lm.commands.runner import run_commands
from diffusion_lm.commands.services import Services

if __name__ == "__main__":
    sys.exit(run_commands("python -m diffusion_lm", commands(Services()), HELP))
