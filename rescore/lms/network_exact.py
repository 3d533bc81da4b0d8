"""Scores of a family with exact log-probabilities (`family.exact`): one pass per text, batched across utterances."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffusion_lm.draws import NoiseDraw
from rescore.estimators.alignment import Tokens
from rescore.estimators.base import Estimator
from rescore.lms.network_runner import Measurement, NetworkRunner
from rescore.scores import LOG_P, SequenceScore


class ExactMeasurement(Measurement):
    """log p of every text; no estimator is used."""

    def __init__(self, runner: NetworkRunner, estimator: Estimator | None, seed: int):
        self.runner = runner

    def score(self, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]]) -> list[list[SequenceScore]]:
        model, family = self.runner.model, self.runner.model.family
        unique = list(dict.fromkeys(tokens for own in texts for tokens in own))
        nothing = NoiseDraw(torch.empty(0), torch.empty(0))
        found: dict[Tokens, SequenceScore] = {}
        for batch in self.runner.batches([len(tokens) for tokens in unique]):
            sentences = model.frame([unique[index] for index in batch])
            log_probs = (-family.nelbo(model.network, sentences, nothing)).tolist()
            for index, log_prob, count in zip(batch, log_probs, family.num_scored(sentences.layout).tolist()):
                found[unique[index]] = SequenceScore(log_prob, 0.0, 1, count, LOG_P)
            self.runner.passes_run += len(batch)
        return [[found[tokens] for tokens in own] for own in texts]
