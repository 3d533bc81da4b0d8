"""The base class of estimators: ways to measure the score of a text with a diffusion model. No network is used here.

    estimator = build_estimator("control", passes=9)
    estimator.describe()            # {"estimator": "control", "target": "elbo", "unbiased": True, "passes": 9}

There are three kinds, which differ in what they need from a network:

    MaskPlan    (plans.py)              rows of masks with weights, all known before the network is run
    Sequential  (confidence_order.py)   masks that depend on the output of the network for earlier masks
    Drawn       (drawn_noise.py)        noise that is drawn by the family of the model

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
    """A score and the independent replicates whose mean it is."""

    value: float
    """The score in nats, higher is better."""
    replicates: tuple[float, ...] | None
    """Independent estimates in nats; None for a deterministic score. A single one gives no standard error."""
    passes: int
    """Network passes used for the score."""

    @property
    def standard_error(self) -> float:
        """Standard error in nats; 0 for a deterministic score, nan for a single replicate."""
        return standard_error(self.replicates)


class Estimator(ABC):
    """A way to measure scores.

    The docstring of each class explains `passes` and `replicates`; `dlm estimators` prints its first paragraph.
    """

    name: ClassVar[str]
    target: ClassVar[Target]
    """The quantity that is estimated: ELBO, PLL, ORDER or another functional."""
    unbiased: ClassVar[bool]
    """Whether the expectation of the score is the target."""
    usual_passes: ClassVar[int | None] = 16
    """Default number of passes; None if it can not be chosen, see `cost`."""
    cost: ClassVar[str] = "one pass per token"
    """The number of passes in words, if it can not be chosen."""
    replicated: ClassVar[bool] = False
    """Whether `replicates` has an effect."""
    measures: ClassVar[Literal["masks", "noise"]]
    """The families that it fits: those with this `scoring`."""
    fits_race: ClassVar[bool] = True
    """Whether it can be used in a race (rescore.racing); False if a race would save nothing."""

    def __init__(self, *, passes: int = 1, replicates: int = 1):
        if passes < 1 or replicates < 1:
            raise ValueError(f"passes {passes}, replicates {replicates}: expected at least 1")
        self.passes, self.replicates = passes, replicates

    def describe(self) -> dict[str, object]:
        """The settings that the scores depend on, for the header of a score file."""
        facts: dict[str, object] = {"estimator": self.name, "target": self.target, "unbiased": self.unbiased}
        if self.usual_passes is not None:
            facts["passes"] = self.passes
        if self.replicated:
            facts["replicates"] = self.replicates
        return facts
