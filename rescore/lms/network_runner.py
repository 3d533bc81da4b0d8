"""Runs rows of token ids through a network, in batches of a token budget and in a given precision, and counts passes.

    runner = NetworkRunner(model, precision="32", batch_tokens=2048)
    for batch in runner.batches([len(row) for row in rows]):        # indices of rows
        ...

The measurements in network_exact.py, network_masks.py and network_noise.py choose the rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from diffusion_lm.model import LanguageModel
from rescore.estimators.alignment import Tokens
from rescore.estimators.base import Estimator
from rescore.scores import SequenceScore


class NetworkRunner:
    """A model, with the settings and the count of passes that all measurements share."""

    def __init__(self, model: LanguageModel, *, precision: str, batch_tokens: int):
        self.model, self.precision, self.batch_tokens = model, precision, batch_tokens
        self.passes_run = 0

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Context without gradients and with the precision of the network."""
        kind = self.model.device.type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16"):
            yield

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Batches of indices, grouped by length, within the token budget (with BOS and EOS). A longer row is a batch by
        itself."""
        batches: list[list[int]] = []
        room = 0
        for index in sorted(range(len(lengths)), key=lambda index: (lengths[index], index)):
            size = lengths[index] + 2
            if size > room or not batches:
                batches.append([])
                room = self.batch_tokens
            batches[-1].append(index)
            room -= size
        return batches


class Measurement(ABC):
    """A way to compute the scores of texts with a network."""

    @abstractmethod
    def __init__(self, runner: NetworkRunner, estimator: Estimator | None, seed: int):
        """ValueError for an estimator that does not fit the model's family."""

    @abstractmethod
    def score(self, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]]) -> list[list[SequenceScore]]:
        """One score for each of the distinct texts (piece ids) of every utterance, in order."""
