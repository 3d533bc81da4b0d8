"""What measuring one text with one language model gives.

score = SequenceScore(log_prob=-41.2, standard_error=0.3, num_passes=17, num_tokens=14, target="elbo")
score.details()         # for the result file
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, isnan

LOG_P = "log p"  # the model's log-probability itself
ELBO = "elbo"  # a lower bound of it


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

    def __post_init__(self) -> None:
        if not isfinite(self.log_prob):
            raise ValueError(f"a score is {self.log_prob}; expected a finite log-probability (nats)")
        if self.standard_error < 0 or self.num_passes < 0 or self.num_tokens < 0:
            raise ValueError(f"{self}: expected no negative standard error, passes or tokens")

    @property
    def exact(self) -> bool:
        """Whether `log_prob` is the model's log-probability of the text."""
        return self.target == LOG_P

    def details(self) -> dict[str, float | int | str]:
        """For JSON; an unknown standard error is left out, because JSON knows no nan."""
        values: dict[str, float | int | str] = {
            "num_passes": self.num_passes,
            "num_tokens": self.num_tokens,
            "target": self.target,
        }
        if not isnan(self.standard_error):
            values["standard_error"] = self.standard_error
        return values
