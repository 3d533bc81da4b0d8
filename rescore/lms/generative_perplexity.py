"""Generative perplexity: how likely another language model finds drawn sentences.

    judge = open_judge("4gram.arpa", device="cpu")
    judge(["he hoped there would be stew"])
    # 'generative perplexity under 4gram.arpa: 171.3 a word, ends of sentences counted (1 sentences, 6 words, 0 unknown)'

Low entropy flatters it, so it is reported beside the entropy. Any local model with an exact log-probability can be the judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rescore.lms.base import LanguageModelScorer
from rescore.lms.open import open_scorer
from rescore.scores import LOG_P, NotFinite


class GenerativePerplexity:
    """Says the generative perplexity of texts under a language model, in one line."""

    def __init__(self, model: str, scorer: LanguageModelScorer):
        """model: what the line calls it. ValueError for a scorer that gives no log-probability, such as a diffusion model with its bound."""
        self.model, self.scorer = model, scorer
        (trial,) = scorer.score_texts("trial", ["a"])
        if trial.target != LOG_P:
            raise ValueError(
                f"{model}: gives {trial.target}, no log-probability; "
                "expected an autoregressive model, an n-gram or a causal Hugging Face model"
            )

    def __call__(self, texts: Sequence[str]) -> str:
        """ValueError for a text whose log-probability is no finite number."""
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
    """The judge for a model path. ValueError for a model that gives no log-probability of a text."""
    scorer = open_scorer(
        model, estimator="auto", passes=None, replicates=4, pieces=False, seed=1, chosen=False, device=device
    )
    return GenerativePerplexity(model, scorer)
