"""What every estimator is: a way to measure the score of a text with a diffusion model. No model and no network in here.

    estimator = build_estimator("control", passes=9)
    estimator.describe()            # {"estimator": "control", "target": "elbo", "unbiased": True, "passes": 9}

There are three kinds, told apart by what they ask of a network:

    MaskPlan    (plans.py)              rows of masks that are known beforehand, with weights: a plan is data
    Sequential  (confidence_order.py)   masks that follow from what the network answered to the masks before
    Drawn       (drawn_noise.py)        noise that the model's family draws itself

The first two are for families with masks (`family.scoring` "masks"), the third for families with other noise ("noise").
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from rescore.scores import Target, standard_error

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A score and the independent replicates that it is the mean of."""

    value: float
    """Nats, higher is better."""
    replicates: tuple[float, ...] | None
    """Nats. None: deterministic, nothing was drawn. A single one tells no standard error."""
    passes: int
    """Network passes that the score took."""

    @property
    def standard_error(self) -> float:
        """Nats; 0 for a deterministic score, nan where a single replicate can not tell it."""
        return standard_error(self.replicates)


class Estimator(ABC):
    """A way to measure. What `passes` and `replicates` mean is said by the docstring of the class, which `dlm estimators` prints."""

    name: ClassVar[str]
    target: ClassVar[Target]
    """The quantity that is estimated: ELBO, PLL, ORDER or another functional."""
    unbiased: ClassVar[bool]
    """Whether the mean over seeds is the target."""
    usual_passes: ClassVar[int | None] = 16
    """None: the number of passes is no choice, see `cost`."""
    cost: ClassVar[str] = "one pass per token"
    """The number of passes in words, where it is no choice."""
    replicated: ClassVar[bool] = False
    """Whether `replicates` has an effect."""
    measures: ClassVar[Literal["masks", "noise"]]
    """The families it fits: those of whose `scoring` it is."""
    fits_race: ClassVar[bool] = True
    """Whether it can be a step of a race (rescore.racing): False where there is nothing to save."""

    def __init__(self, *, passes: int = 1, replicates: int = 1):
        if passes < 1 or replicates < 1:
            raise ValueError(f"passes {passes}, replicates {replicates}: expected at least 1")
        self.passes, self.replicates = passes, replicates

    def describe(self) -> dict[str, object]:
        """What the scores depend on, for the header of a score file."""
        facts: dict[str, object] = {"estimator": self.name, "target": self.target, "unbiased": self.unbiased}
        if self.usual_passes is not None:
            facts["passes"] = self.passes
        if self.replicated:
            facts["replicates"] = self.replicates
        return facts
