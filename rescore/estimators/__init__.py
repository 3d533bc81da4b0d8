"""The registry of estimators, which define how a score is measured. Estimators do not import models.

    estimator = build_estimator("control", passes=9)
    ESTIMATORS.add("mine", MyEstimator)         # in your own program, before `dlm score --estimator mine`

base.py describes the three kinds of estimators and when to write which.
"""

from __future__ import annotations

from rescore.estimators.base import Estimator
from rescore.estimators.bound import (
    Control,
    Coupled,
    Exact,
    FixedK,
    GlobalNorm,
    Pairs,
    Plain,
    SampleNorm,
    SystematicK,
)
from rescore.estimators.confidence_order import ConfidentFirst
from rescore.estimators.drawn_noise import Draws, OnePass
from rescore.estimators.pseudo_likelihood import Chain, Contrast, LeftToRight, PseudoLogLikelihood, Strided
from returnn_bridge.registry import Registry

BUILT_IN: tuple[type[Estimator], ...] = (
    Plain,
    SampleNorm,
    GlobalNorm,
    Coupled,
    FixedK,
    SystematicK,
    Pairs,
    Control,
    Exact,
    PseudoLogLikelihood,
    Strided,
    LeftToRight,
    ConfidentFirst,
    Contrast,
    Chain,
    Draws,
    OnePass,
)
ESTIMATORS: Registry[type[Estimator]] = Registry("estimator", {kind.name: kind for kind in BUILT_IN})


def build_estimator(name: str, *, passes: int | None = None, replicates: int = 4) -> Estimator:
    """The estimator of that name. passes: None for its default number. ValueError for an unknown name, naming the known
    ones."""
    kind = ESTIMATORS[name]
    if kind.usual_passes is None and passes is not None:
        raise ValueError(f"estimator {name} with {passes} passes: it takes {kind.cost}; expected no number")
    return kind(passes=(kind.usual_passes or 1) if passes is None else passes, replicates=replicates)
