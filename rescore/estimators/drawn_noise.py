"""Measures for families whose noise is no mask (uniform, hybrid) or not one mask for the whole text (block): drawn noise instead of plans.

    for draw in Draws(passes=16, replicates=4).draws(length, keys): ...

A draw is a noise level and two random numbers for every token. Levels are spread evenly and shared by an utterance's hypotheses, the
tokens' numbers follow the slots of an alignment (rescore.estimators.plans.Keys), so a difference of two hypotheses is measured with the same noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

from rescore.estimators.plans import Estimator, FloatArray, Keys, Plan
from rescore.scores import ELBO


class Draw(NamedTuple):
    """One noise draw for one text of L tokens (EOS counted)."""

    replicate: int
    time: float
    keep: FloatArray  # [L]
    category: FloatArray  # [L]


class Drawn(Estimator):
    """Made of noise that the family itself draws."""

    measures: ClassVar[Literal["masks", "noise"]] = "noise"

    def _plan(self, length: int, keys: Keys) -> Plan:
        raise NotImplementedError("noise is no plan of masks: see rescore.lms.network_noise")


class Draws(Drawn):
    """For models whose noise is no mask: their own bound at `passes` noise levels, spread evenly in each of `replicates` designs."""

    name, target, unbiased, replicated = "draws", ELBO, True, True

    def draws(self, length: int, keys: Keys) -> Iterator[Draw]:
        designs = min(self.replicates, self.passes)
        for design in range(designs):
            rows = len(range(design, self.passes, designs))
            offset = keys.scalar("u", design)
            for place in range(rows):
                keep, category = (keys.tokens(name, design, place) for name in ("keep", "category"))
                yield Draw(design, (place + offset) / rows, keep, category)


class OnePass(Drawn):
    """For models with uniform noise: log p of every token in one run over the whole text, each as if it were left out. Deterministic, no bound."""

    name, target, unbiased, usual_passes = "one-pass", "one-pass pll", True, None
    cost = "one"
