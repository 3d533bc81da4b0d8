"""What measuring one text with one language model gives.

    score = SequenceScore(log_prob=-41.2, standard_error=0.3, num_passes=17, num_tokens=14, target="elbo")
    score.details()         # for the result file

Its unit is nats, and higher is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, isfinite, isnan, nan, sqrt
from statistics import stdev
from typing import Any


class Target(str):
    """What a score is an estimate of: the text that stands in score files, with the facts that others ask for."""

    __slots__ = ()

    @property
    def is_exact(self) -> bool:
        """The model's log-probability itself."""
        return self == LOG_P

    @property
    def is_bound(self) -> bool:
        """A lower bound on the log-probability."""
        return self == ELBO

    @property
    def is_other(self) -> bool:
        """Neither the log-probability nor a bound on it."""
        return not (self.is_exact or self.is_bound)

    def predicted(self) -> Target:
        """What a prediction of such a score is: no estimate of the quantity, so neither exact nor a bound."""
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

MOST_REPLICATES = 32  # that a result file holds; with more the standard error says it all


def standard_error(replicates: Sequence[float] | None) -> float:
    """Of the mean of independent values; 0 for None (nothing was drawn), nan for a single one, which can not tell it."""
    if replicates is None:
        return 0.0
    return stdev(replicates) / sqrt(len(replicates)) if len(replicates) > 1 else nan


class NotFinite(ValueError):
    """A model has given a score that is no number. Who knows the file, the utterance and the rank adds them."""


@dataclass(frozen=True, slots=True)
class UnknownCounts:
    """How much of the texts a model did not know: of that much, the score says nothing but how often it happened."""

    count: int
    """Unknown ones."""
    total: int
    """Of the words or tokens of the texts; for "pieces", of their words, into which several unknown pieces may fall."""
    unit: str
    """What is counted: "words", "tokens" or "pieces"."""

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
    """A log-probability, or an estimate that stands for one; nats, higher is better."""

    log_prob: float
    """The sum over all scored tokens of what `target` names."""
    standard_error: float
    """Nats, of the estimate; 0 for deterministic scores, nan where it can not be told."""
    num_passes: int
    """Network passes that the score took; 0 for an n-gram and for an empty text with nothing to score."""
    num_tokens: int
    """Tokens that were scored."""
    target: str
    """LOG_P, ELBO, or the estimator's name of a quantity that is neither, such as "pll"."""
    replicates: tuple[float, ...] | None = None
    """Independent estimates whose mean the score is; of hypotheses that share their random numbers the n-th ones belong together."""

    win_probability: float | None = None
    """Of a hypothesis that a race has dropped: the probability that it is the winner after all."""

    def __post_init__(self) -> None:
        if not isfinite(self.log_prob):
            raise NotFinite(f"a score is {self.log_prob}; expected a finite log-probability (nats)")
        if self.standard_error < 0 or self.num_passes < 0 or self.num_tokens < 0:
            raise ValueError(f"{self}: expected no negative standard error, passes or tokens")

    @property
    def exact(self) -> bool:
        """Whether `log_prob` is the model's log-probability of the text."""
        return Target(self.target).is_exact

    def paired_error(self, other: SequenceScore) -> float:
        """Standard error of the difference to another hypothesis of the same utterance, from paired replicates; nats, nan if unknown."""
        if self.replicates is None and other.replicates is None:
            return hypot(self.standard_error, other.standard_error)
        if self.replicates is None or other.replicates is None or len(self.replicates) != len(other.replicates):
            return nan
        return standard_error([here - there for here, there in zip(self.replicates, other.replicates)])

    def details(self) -> dict[str, Any]:
        """For JSON; an unknown standard error is left out, because JSON knows no nan."""
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
