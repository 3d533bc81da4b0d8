"""Scores of a family that draws its noise (uniform, hybrid, block).

Every draw of every text is a row, and rows of many utterances form a batch. The random numbers of a draw come from the
estimator (rescore.estimators.drawn_noise), so scores do not depend on the composition of batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.layout import Layout
from rescore.estimators.alignment import Tokens
from rescore.estimators.base import Estimate, Estimator, FloatArray
from rescore.estimators.drawn_noise import Draw, Drawn, Draws, OnePass
from rescore.lms.network_runner import Measurement, NetworkRunner
from rescore.scores import SequenceScore


class NoiseMeasurement(Measurement):
    """Scores by a `Drawn` estimator, which calls `bounds` and `one_pass`
    (rescore.estimators.drawn_noise.NoiseNetwork)."""

    def __init__(self, runner: NetworkRunner, estimator: Estimator | None, seed: int):
        assert estimator is not None, "a family with noise has a usual estimator"
        self.runner, self.model, self.seed = runner, runner.model, seed
        name = self.model.family_options["name"]
        if not isinstance(estimator, Drawn):
            raise ValueError(
                f"estimator {estimator.name} is made of masks, a model of family {name} has other noise; "
                f"expected {Draws.name} or {OnePass.name}"
            )
        if estimator.needs_one_pass and not self.model.family.sees_errors:
            raise ValueError(
                f"estimator {estimator.name} is for models that see errors (uniform, hybrid with p_uniform); "
                f"family {name} does not, expected {Draws.name}"
            )
        self.estimator = estimator

    @property
    def runs_per_draw(self) -> int:
        return self.model.family.runs_per_draw

    def score(self, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]]) -> list[list[SequenceScore]]:
        """As in the base class. Texts without tokens to score count no passes."""
        estimates = self.estimator.estimate(self, seq_tags, texts, seed=self.seed)
        framed = Layout(torch.tensor([len(tokens) + 2 for own in texts for tokens in own]))  # with BOS and EOS
        counts = iter(self.model.family.num_scored(framed).tolist())
        return [[self._score(estimate, next(counts)) for estimate in found] for found in estimates]

    def _score(self, estimate: Estimate, num_scored: int) -> SequenceScore:
        passes, target = estimate.passes if num_scored else 0, self.estimator.target
        return SequenceScore(estimate.value, estimate.standard_error, passes, num_scored, target, estimate.replicates)

    def bounds(self, texts: Sequence[Tokens], draws: Sequence[Draw]) -> FloatArray:
        """[texts]: a lower bound on log p of each text in nats, estimated with its draw."""
        values = np.zeros(len(texts))
        for batch in self.runner.batches([len(tokens) for tokens in texts]):
            sentences = self.model.frame([texts[index] for index in batch])
            draw = _stacked([draws[index] for index in batch]).to(self.model.device)
            values[batch] = -self.model.family.nelbo(self.model.network, sentences, draw).double().cpu().numpy()
            self.runner.passes_run += self.runs_per_draw * len(batch)
        return values

    def one_pass(self, texts: Sequence[Tokens]) -> FloatArray:
        """[texts]: sum of log p of all tokens in nats, from one pass over the clean text."""
        values = np.zeros(len(texts))
        for batch in self.runner.batches([len(tokens) for tokens in texts]):
            sentences = self.model.frame([texts[index] for index in batch])
            values[batch] = self.model.family.one_pass(self.model.network, sentences).tolist()
            self.runner.passes_run += len(batch)
        return values


def _stacked(draws: Sequence[Draw]) -> NoiseDraw:
    """The noise of a batch of framed sentences. BOS is never noised, so its number is not used."""

    def flat(parts: Sequence[FloatArray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([np.concatenate([[0.5], part]) for part in parts]))

    return NoiseDraw(
        torch.tensor([draw.time for draw in draws], dtype=torch.float64),
        flat([draw.keep for draw in draws]),
        flat([draw.category for draw in draws]),
    )
