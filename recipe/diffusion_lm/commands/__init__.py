"""The verbs that make and try models, one function each.

    commands(Services())        # all of them, for a command line

Each is a plain function: its signature is its options, and jobs call it as it is.
"""

from __future__ import annotations

from diffusion_lm.commands.clip import clip
from diffusion_lm.commands.data import bliss, oggzip, tokenize, vocab
from diffusion_lm.commands.models import average, perplexity, pretrained
from diffusion_lm.commands.runner import Command, with_given
from diffusion_lm.commands.sample import sample
from diffusion_lm.commands.services import Services
from diffusion_lm.commands.train import train

HELP = "Train diffusion and autoregressive language models on RETURNN datasets."


def commands(services: Services) -> list[Command]:
    """All verbs of this package; `services` are what they can use of others."""
    return [
        vocab,
        tokenize,
        bliss,
        oggzip,
        with_given(train, services=services),
        average,
        pretrained,
        perplexity,
        with_given(sample, services=services),
        clip,
    ]
