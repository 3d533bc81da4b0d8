"""Generative perplexity: the perplexity of generated sentences under another language model.

    judge = open_judge("4gram.arpa", device="cpu")
    judge(["he hoped there would be stew"])
    # 'generative perplexity under 4gram.arpa: 171.3 a word, ends of sentences counted
    # (1 sentences, 6 words, 0 unknown)'

Samples of low entropy have a low generative perplexity, so both are reported. The judge can be any local model with an
exact log-probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rescore.lms.base import LanguageModelScorer
from rescore.lms.open import open_scorer
from rescore.lms.options import ScoringOptions
from rescore.scores import LOG_P, NotFinite


class GenerativePerplexity:
    """Reports the generative perplexity of texts under a language model, in one line."""

    def __init__(self, model: str, scorer: LanguageModelScorer):
        """model: its name in the report. ValueError for a scorer without exact log-probabilities, such as a diffusion
        model, which gives a bound."""
        self.model, self.scorer = model, scorer
        (trial,) = scorer.score_texts("trial", ["a"])
        if trial.target != LOG_P:
            raise ValueError(
                f"{model}: gives {trial.target}, no log-probability; "
                "expected an autoregressive model, an n-gram or a causal Hugging Face model"
            )

    def __call__(self, texts: Sequence[str]) -> str:
        """The report on these texts. ValueError for a text whose log-probability is not finite."""
        before = self.scorer.unknown()
        try:
            scores = self.scorer.score_texts("samples", texts)
        except NotFinite as error:
            raise ValueError(f"{self.model}: of one of the samples {error}") from None
        words = sum(len(text.split()) for text in texts)
        per_word = math.exp(-sum(score.log_prob for score in scores) / max(1, words + len(texts)))
        unknown = (self.scorer.unknown() - before).count
        return (
            f"generative perplexity under {self.model}: {per_word:.1f} a word, ends of sentences counted "
            f"({len(texts)} sentences, {words} words, {unknown} unknown)"
        )


def open_judge(model: str, *, device: str) -> GenerativePerplexity:
    """The judge for a model path. ValueError for a model without exact log-probabilities."""
    return GenerativePerplexity(model, open_scorer(model, ScoringOptions(device=device), chosen=False))
