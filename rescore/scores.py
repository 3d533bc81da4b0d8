"""The score of one text under one language model, and what it is an estimate of.

    score = SequenceScore(log_prob=-41.2, standard_error=0.3, num_passes=17, num_tokens=14, target="elbo")
    score.details()         # as a dict for the score file

Scores are in nats, higher is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan, sqrt
from statistics import stdev
from typing import Any


class Target(str):
    """The quantity that a score estimates, as it is written to score files."""

    __slots__ = ()

    @property
    def is_exact(self) -> bool:
        """Whether it is the model's exact log-probability."""
        return self == LOG_P

    @property
    def is_bound(self) -> bool:
        """Whether it is a lower bound on the log-probability."""
        return self == ELBO

    @property
    def is_other(self) -> bool:
        """Whether it is neither the log-probability nor a bound on it."""
        return not (self.is_exact or self.is_bound)

    def predicted(self) -> Target:
        """The target of a predicted score, which is not an estimate of the quantity, so neither exact nor a bound."""
        return Target(f"predicted {self}")


LOG_P = Target("log p")
ELBO = Target("elbo")
PLL = Target("pll")
STRIDED_PLL = Target("strided pll")
ONE_PASS_PLL = Target("one-pass pll")
CONTRAST_PLL = Target("contrast pll")
WEIGHTED_PLLS = Target("sum_k 2k/(L(L+1)) PLL_k")
ORDER = Target("order")
"""Log-probability of generating the text in one order."""
CONTRAST_ORDER = Target("contrast order")

MOST_REPLICATES = 32  # with more, a score file holds only the standard error


def standard_error(replicates: Sequence[float] | None) -> float:
    """Standard error of the mean of independent values; 0 for None (nothing was drawn), nan for a single value."""
    if replicates is None:
        return 0.0
    return stdev(replicates) / sqrt(len(replicates)) if len(replicates) > 1 else nan


UNITS = ("words", "tokens", "pieces")
"""What `UnknownCounts` may count."""


class NotFinite(ValueError):
    """A model gave a score that is not finite. Callers that know the file, utterance and rank add them to the
    message."""


@dataclass(frozen=True, slots=True)
class UnknownCounts:
    """How many words or tokens of the texts a model did not know. The model can not tell different unknown words
    apart."""

    count: int
    """Number of unknown words, tokens or pieces."""
    total: int
    """Number of words or tokens of the texts. For "pieces" this counts words, each of which may have unknown pieces."""
    unit: str
    """The unit of `count`: "words", "tokens" or "pieces"."""

    def __add__(self, other: UnknownCounts) -> UnknownCounts:
        return UnknownCounts(self.count + other.count, self.total + other.total, self.unit)

    def __sub__(self, other: UnknownCounts) -> UnknownCounts:
        return UnknownCounts(self.count - other.count, self.total - other.total, self.unit)

    @property
    def most(self) -> bool:
        """Whether more than half is unknown."""
        return 2 * self.count > self.total

    def __str__(self) -> str:
        if self.unit == "pieces":
            return f"{self.count:,} pieces in {self.total:,} words"
        return f"{self.count:,} of {self.total:,} {self.unit}"


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """A log-probability, or an estimate used in its place; nats, higher is better."""

    log_prob: float
    """The value of `target`, summed over all scored tokens."""
    standard_error: float
    """Standard error of the estimate in nats; 0 for deterministic scores, nan if unknown."""
    num_passes: int
    """Network passes used for the score; 0 for an n-gram and for an empty text with nothing to score."""
    num_tokens: int
    """Number of scored tokens."""
    target: str
    """The quantity that was estimated: LOG_P, ELBO, or another one that the estimator names, such as "pll"."""
    replicates: tuple[float, ...] | None = None
    """Independent estimates whose mean is the score. For hypotheses that share random numbers, the n-th estimates of
    both use the same ones."""

    win_probability: float | None = None
    """For a hypothesis that a race has dropped: the probability that it is the winner with full scoring."""

    def __post_init__(self) -> None:
        if not isfinite(self.log_prob):
            raise NotFinite(f"a score is {self.log_prob}; expected a finite log-probability (nats)")
        if self.standard_error < 0 or self.num_passes < 0 or self.num_tokens < 0:
            raise ValueError(f"{self}: expected no negative standard error, passes or tokens")

    @property
    def exact(self) -> bool:
        """Whether `log_prob` is the model's log-probability of the text."""
        return Target(self.target).is_exact

    def details(self) -> dict[str, Any]:
        """The score as a dict for JSON. An unknown standard error is left out, because JSON has no nan."""
        values: dict[str, Any] = {
            "num_passes": self.num_passes,
            "num_tokens": self.num_tokens,
            "target": self.target,
        }
        if not isnan(self.standard_error):
            values["standard_error"] = self.standard_error
        if self.win_probability is not None:
            values["win_probability"] = self.win_probability
        if self.replicates is not None and 1 < len(self.replicates) <= MOST_REPLICATES:
            values["replicates"] = list(self.replicates)
        return values
