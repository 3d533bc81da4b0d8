"""Generative perplexity: the perplexity of generated sentences under another language model.

    judge = open_judge("4gram.arpa", device="cpu")
    judge(["he hoped there would be stew"])
    # 'generative perplexity under 4gram.arpa: 171.3 a word, 171.3 a token of the judge, ends of sentences counted
    # (1 sentences, 6 words, 7 tokens, 0 unknown)'

Samples of low entropy have a low generative perplexity, so both are reported. The judge can be any local model with an
exact log-probability. The value a token is exp of the mean negative log-probability of the judge's tokens, as other
code for diffusion LMs reports it; here the first token is predicted too, after BOS, and so is the end. A sample with
more tokens than the judge can read is measured in its first words, which `limit` says beforehand.
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

    @property
    def limit(self) -> str:
        """A line on what happens to samples that are too long for the model; "" if it reads any length."""
        if self.scorer.longest is None:
            return ""
        return (
            f"{self.model} reads at most {self.scorer.longest} tokens; of longer samples the first words are measured"
        )

    def __call__(self, texts: Sequence[str]) -> str:
        """The report on these texts. ValueError for a text whose log-probability is not finite."""
        before = self.scorer.unknown()
        measured = [self.scorer.first_words(text) for text in texts]
        cut = sum(short != text for short, text in zip(measured, texts, strict=True))
        try:
            scores = self.scorer.score_texts("samples", measured)
        except NotFinite as error:
            raise ValueError(f"{self.model}: of one of the samples {error}") from None
        words, tokens = sum(len(text.split()) for text in measured), sum(score.num_tokens for score in scores)
        nats = -sum(score.log_prob for score in scores)
        per_word, per_token = math.exp(nats / max(1, words + len(texts))), math.exp(nats / max(1, tokens))
        unknown = (self.scorer.unknown() - before).count
        return (
            f"generative perplexity under {self.model}: {per_word:.1f} a word, {per_token:.1f} a token of the judge, "
            f"ends of sentences counted ({len(texts)} sentences, {words} words, {tokens} tokens, {unknown} unknown"
            f"{f', {cut} cut' if cut else ''})"
        )


def open_judge(model: str, *, device: str) -> GenerativePerplexity:
    """The judge for a model path. ValueError for a model without exact log-probabilities."""
    return GenerativePerplexity(model, open_scorer(model, ScoringOptions(device=device), chosen=False))
