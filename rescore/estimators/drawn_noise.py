"""Estimators for families with noise other than masks (uniform, hybrid), or with one mask per block (block).

    for draw in Draws(passes=16, replicates=4).draws(length, numbers): ...

A draw is a noise level and two random numbers for every token. Levels are evenly spaced and shared by the hypotheses of
an utterance. The numbers of the tokens depend on the slots of an alignment (common_random_numbers.py), so that two
hypotheses are compared with the same noise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol

import numpy as np

from rescore.estimators.alignment import Tokens, leader_of, slots_of
from rescore.estimators.base import Estimate, Estimator, FloatArray
from rescore.estimators.common_random_numbers import CommonRandomNumbers
from rescore.scores import ELBO, ONE_PASS_PLL


class Draw(NamedTuple):
    """One noise draw for one text of L tokens (EOS counted)."""

    replicate: int
    """Index of the independent replicate that it belongs to."""
    time: float
    """Noise level, uniform in [0, 1); the family maps it to its time."""
    keep: FloatArray
    """[L] uniform in [0, 1): decides whether a token is noised."""
    category: FloatArray
    """[L] uniform in [0, 1): decides which symbol replaces a noised token."""


class NoiseNetwork(Protocol):
    """The network that a `Drawn` estimator calls. Texts are token ids without EOS."""

    @property
    def runs_per_draw(self) -> int:
        """Number of network passes for one draw."""

    def bounds(self, texts: Sequence[Tokens], draws: Sequence[Draw]) -> FloatArray:
        """[texts]: a lower bound on log p of each text in nats, estimated with its draw."""

    def one_pass(self, texts: Sequence[Tokens]) -> FloatArray:
        """[texts]: sum of log p of all tokens in nats, from one pass over the clean text. ValueError for a model that
        does not support it."""


class Drawn(Estimator):
    """An estimator for families with noise other than one mask per text."""

    measures: ClassVar[Literal["masks", "noise"]] = "noise"
    needs_one_pass: ClassVar[bool] = False
    """Whether it calls `NoiseNetwork.one_pass`, which needs a model trained on wrong tokens (`family.sees_errors`)."""

    @abstractmethod
    def estimate(
        self, network: NoiseNetwork, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]], *, seed: int
    ) -> list[list[Estimate]]:
        """One estimate for each of the distinct texts of every utterance."""


class Draws(Drawn):
    """For models with noise other than masks: the bound of the family at `passes` noise levels, evenly spaced in each
    of `replicates` designs."""

    name, target, unbiased, replicated = "draws", ELBO, True, True

    def draws(self, length: int, numbers: CommonRandomNumbers) -> Iterator[Draw]:
        """`passes` draws for a text of `length` tokens (EOS counted)."""
        designs = min(self.replicates, self.passes)
        for design in range(designs):
            rows = len(range(design, self.passes, designs))
            offset = numbers.scalar("u", design)
            for index in range(rows):
                keep, category = (numbers.tokens(name, design, index) for name in ("keep", "category"))
                yield Draw(design, (index + offset) / rows, keep, category)

    def estimate(
        self, network: NoiseNetwork, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]], *, seed: int
    ) -> list[list[Estimate]]:
        rows: list[Tokens] = []
        draws: list[Draw] = []
        for tag, own in zip(seq_tags, texts, strict=True):
            leader = leader_of(own)
            drawn: dict[str, FloatArray] = {}
            for tokens in own:
                # Some families noise the EOS, so it gets the slot after the last token of the leader.
                slots = [*slots_of(leader, tokens), (len(leader), 0)]
                draws += self.draws(len(tokens) + 1, CommonRandomNumbers(seed, tag, slots, drawn))
                rows += [tokens] * (len(draws) - len(rows))
        values = iter(network.bounds(rows, draws).reshape(-1, self.passes))
        replicate = np.array([draw.replicate for draw in draws[: self.passes]])
        passes = network.runs_per_draw * self.passes

        def estimate(values: FloatArray) -> Estimate:
            parts = tuple(float(values[replicate == design].mean()) for design in range(int(replicate.max()) + 1))
            return Estimate(float(np.mean(parts)), parts, passes)

        return [[estimate(next(values)) for _ in own] for own in texts]


class OnePass(Drawn):
    """For models with uniform noise: log p of each token given all others, from one pass over the text. Deterministic,
    not a bound."""

    name, target, unbiased, usual_passes = "one-pass", ONE_PASS_PLL, True, None
    cost, fits_race, needs_one_pass = "one", False, True

    def estimate(
        self, network: NoiseNetwork, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]], *, seed: int
    ) -> list[list[Estimate]]:
        unique = list(dict.fromkeys(tokens for own in texts for tokens in own))
        found = dict(zip(unique, network.one_pass(unique).tolist(), strict=True))
        return [[Estimate(found[tokens], None, 1) for tokens in own] for own in texts]
