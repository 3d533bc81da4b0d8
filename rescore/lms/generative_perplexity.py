"""Generative perplexity: how likely another language model finds drawn sentences.

    judge = open_judge("4gram.arpa", device="cpu")
    judge(["he hoped there would be stew"])          # 'generative perplexity under 4gram.arpa: 171.3 a word (1 sentence, 6 words, 0 unknown)'

Low entropy flatters it, so it is reported beside the entropy. Any local model with an exact log-probability can be the judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rescore.lms.open import open_scorer
from rescore.scores import LOG_P, NotFinite


def open_judge(model: str, *, device: str) -> Callable[[Sequence[str]], str]:
    """What judges texts. ValueError for a model that gives no log-probability of a text, such as a diffusion model with its bound."""
    scorer = open_scorer(
        model, estimator="auto", passes=None, replicates=4, pieces=False, seed=1, chosen=False, device=device
    )
    (trial,) = scorer.score_texts("trial", ["a"])
    if trial.target != LOG_P:
        raise ValueError(
            f"{model}: gives {trial.target}, no log-probability; expected an autoregressive model, an n-gram or a causal Hugging Face model"
        )

    def judge(texts: Sequence[str]) -> str:
        before = _unknown(scorer)
        try:
            scores = scorer.score_texts("samples", texts)
        except NotFinite as error:
            raise ValueError(f"{model}: of one of the samples {error}") from None
        words = sum(len(text.split()) for text in texts)
        per_word = math.exp(-sum(score.log_prob for score in scores) / max(1, words + len(texts)))
        return (
            f"generative perplexity under {model}: {per_word:.1f} a word, ends of sentences counted "
            f"({len(texts)} sentences, {words} words, {_unknown(scorer) - before} unknown)"
        )

    return judge


def _unknown(scorer: object) -> int:
    if hasattr(scorer, "counts"):
        return int(scorer.counts()["oov_tokens"])
    return int(getattr(scorer, "unknown_pieces", 0))
