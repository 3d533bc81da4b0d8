"""The verbs that train models and try them, one function each.

    commands(Services())        # all verbs, for a command line

A verb is a plain function whose parameters are its options, so jobs can call it too.
"""

from __future__ import annotations

from diffusion_lm.commands.clip import clip
from diffusion_lm.commands.data import bliss, oggzip, tokenize, vocab
from diffusion_lm.commands.models import average, perplexity, pretrained, returnnlm
from diffusion_lm.commands.runner import Command, with_given
from diffusion_lm.commands.sample import sample
from diffusion_lm.commands.services import Services
from diffusion_lm.commands.train import train

HELP = "Train diffusion and autoregressive language models on RETURNN datasets."


def commands(services: Services) -> list[Command]:
    """All verbs of this package; `services` holds functions of other packages that they call."""
    return [
        vocab,
        tokenize,
        bliss,
        oggzip,
        with_given(train, services=services),
        average,
        pretrained,
        returnnlm,
        perplexity,
        with_given(sample, services=services),
        clip,
    ]
