"""The verbs that use models and lists, one function each."""

from __future__ import annotations

from diffusion_lm.commands.runner import Command
from rescore.commands.lists import combine, convert, formats
from rescore.commands.ngram import ngram
from rescore.commands.perplexity import perplexity
from rescore.commands.race import race
from rescore.commands.report import overview, wer
from rescore.commands.rescore import rescore
from rescore.commands.score import estimators, merge, prior, score
from rescore.commands.tune import tune

HELP = "Rescore N-best lists: score, tune, wer, rescore, ngram, convert, combine."


def commands() -> list[Command]:
    """All verbs of this package. `perplexity` replaces the verb of diffusion_lm because it also supports n-grams."""
    return [
        score,
        prior,
        merge,
        race,
        tune,
        wer,
        overview,
        rescore,
        ngram,
        convert,
        combine,
        formats,
        estimators,
        perplexity,
    ]
