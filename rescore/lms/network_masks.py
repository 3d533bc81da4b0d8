"""Scores of a family with masks: an estimator selects the rows to run, the network gives log p of their masked tokens.

Masks depend on random numbers of (seed, utterance, draw, slot) along an alignment of the utterance's hypotheses, not on
the position in a batch. Rows with the same visible tokens are run once, so two hypotheses that differ only in a masked
word share the pass. The output layer is computed only at the positions whose log-probability is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_lm.layout import Layout, Sentences
from rescore.estimators.alignment import Tokens
from rescore.estimators.base import BoolArray, Estimator, FloatArray
from rescore.estimators.plans import MaskEstimator, Plan
from rescore.lms.network_runner import Measurement, NetworkRunner
from rescore.scores import SequenceScore

Ids = NDArray[np.int32]
Indices = NDArray[np.int64]
FROM_COUNT = -1.0  # in place of a time: the time is derived from the number of masked tokens


class MaskMeasurement(Measurement):
    """Scores by a `MaskEstimator`, which calls `log_probs` and `confidences` (rescore.estimators.plans.MaskNetwork)."""

    def __init__(self, runner: NetworkRunner, estimator: Estimator | None, seed: int):
        assert estimator is not None, "a family with masks has a usual estimator"
        if not isinstance(estimator, MaskEstimator):
            raise ValueError(
                f"estimator {estimator.name} is not for noise by masks; expected one that is, see `dlm estimators`"
            )
        self.runner, self.estimator, self.seed = runner, estimator, seed
        self.model = runner.model

    def score(self, seq_tags: Sequence[str], texts: Sequence[Sequence[Tokens]]) -> list[list[SequenceScore]]:
        eos = (self.model.vocab.eos_id,) if self.model.family.scores_end else ()
        scored = [[tokens + eos for tokens in own] for own in texts]
        estimates = self.estimator.estimate(self, seq_tags, scored, seed=self.seed)
        return [
            [
                SequenceScore(
                    estimate.value,
                    estimate.standard_error,
                    estimate.passes,
                    len(tokens),
                    self.estimator.target,
                    estimate.replicates,
                )
                for tokens, estimate in zip(own, found, strict=True)
            ]
            for own, found in zip(scored, estimates, strict=True)
        ]

    def confidences(self, texts: Sequence[Tokens], masks: Sequence[BoolArray]) -> list[tuple[FloatArray, FloatArray]]:
        """For each text with its mask [L]: log p of the masked tokens [masked], and the largest log p of any symbol at
        the same positions [masked]."""
        rows = [np.where(mask, self.model.vocab.mask_id, tokens) for tokens, mask in zip(texts, masks)]
        results: list[tuple[FloatArray, FloatArray]] = [(np.empty(0), np.empty(0))] * len(rows)
        for batch in self.runner.batches([len(row) for row in rows]):
            positions = [np.nonzero(masks[index])[0] for index in batch]
            batch_row = np.repeat(np.arange(len(batch)), [len(own) for own in positions])
            found = self._predict(
                [rows[index] for index in batch], [FROM_COUNT] * len(batch), batch_row, np.concatenate(positions)
            )
            targets = np.concatenate([np.array(texts[index])[own] for index, own in zip(batch, positions)])
            log_probs = found.gather(1, torch.from_numpy(targets).to(found.device)[:, None])[:, 0]
            largest = found.max(dim=1).values
            cuts = np.cumsum([len(own) for own in positions])[:-1]
            split = (np.split(values.double().cpu().numpy(), cuts) for values in (log_probs, largest))
            for index, own, best in zip(batch, *split):
                results[index] = own, best
        return results

    def log_probs(self, texts: Sequence[Tokens], plans: Sequence[Plan]) -> list[FloatArray]:
        """[rows, L] for each plan and its text: log p in nats, nan where the weight is 0. Equal network inputs are run
        once."""
        mask_id, told_time = np.int32(self.model.vocab.mask_id), self.model.family.time_conditioning
        inputs: dict[tuple[bytes, float], int] = {}
        noised: list[Ids] = []
        times: list[float] = []
        query_row, query_position, query_target, sizes = [], [], [], []
        for tokens, plan in zip(texts, plans):
            ids = np.array(tokens, dtype=np.int32)
            input_of_row = np.empty(len(plan.masks), dtype=np.int64)
            for index, row in enumerate(np.where(plan.masks, mask_id, ids)):
                time = float(plan.time[index]) if plan.time is not None and told_time else FROM_COUNT
                key = (row.tobytes(), time)
                if key not in inputs:
                    inputs[key] = len(noised)
                    noised.append(row)
                    times.append(time)
                input_of_row[index] = inputs[key]
            wanted_row, wanted_position = np.nonzero(plan.weights)
            query_row.append(input_of_row[wanted_row])
            query_position.append(wanted_position)
            query_target.append(ids[wanted_position] if len(ids) else wanted_position)
            sizes.append(len(wanted_row))
        if not noised:
            return [np.full(plan.masks.shape, np.nan) for plan in plans]
        targets = np.concatenate(query_target).astype(np.int64)
        answers = self._answer(noised, times, np.concatenate(query_row), np.concatenate(query_position), targets)
        results = []
        for plan, own in zip(plans, np.split(answers, np.cumsum(sizes)[:-1])):
            values = np.full(plan.masks.shape, np.nan)
            values[np.nonzero(plan.weights)] = own
            results.append(values)
        return results

    def _answer(
        self, noised: list[Ids], times: list[float], query_row: Indices, query_position: Indices, query_target: Indices
    ) -> FloatArray:
        """log p of query_target at query_position of noised[query_row], nats, float64 [queries]."""
        answers = np.full(len(query_row), np.nan)
        order = np.argsort(query_row, kind="stable")
        starts = np.searchsorted(query_row[order], np.arange(len(noised) + 1))
        for batch in self.runner.batches([len(row) for row in noised]):
            queries = np.concatenate([order[starts[row] : starts[row + 1]] for row in batch])
            if not len(queries):
                continue
            index_in_batch = {row: index for index, row in enumerate(batch)}
            batch_row = np.array([index_in_batch[row] for row in query_row[queries]], dtype=np.int64)
            width = max(len(noised[row]) for row in batch)
            asked, back = np.unique(batch_row * width + query_position[queries], return_inverse=True)
            log_probs = self._predict(
                [noised[row] for row in batch], [times[row] for row in batch], *np.divmod(asked, width)
            )
            targets = torch.from_numpy(query_target[queries]).to(log_probs.device)
            chosen = log_probs[torch.from_numpy(back).to(log_probs.device), targets]
            answers[queries] = chosen.double().cpu().numpy()
        return answers

    def _predict(self, rows: list[Ids], times: list[float], row: Indices, position: Indices) -> torch.Tensor:
        """log p of every symbol at these positions of these rows of noised ids, nats, [queries, symbols]. One forward
        pass."""
        family = self.model.family
        layout, z = self._framed(rows)
        starts = (torch.cumsum(layout.lengths, 0) - layout.lengths).numpy(force=True)
        select = torch.from_numpy(starts[row] + 1 + position).to(z.device)  # + 1 for BOS
        level = self._levels(rows, times) if family.time_conditioning else None
        self.runner.passes_run += len(rows)
        return family.predict(self.model.network, z, layout, level=level, select=select)

    def _framed(self, rows: list[Ids]) -> tuple[Layout, torch.Tensor]:
        """Rows of noised ids between BOS and EOS, concatenated. If EOS is scored, it is the last id of a row and may be
        masked."""
        end_in_row = self.model.family.scores_end
        framed = Sentences.of(
            [(row[:-1] if end_in_row else row).tolist() for row in rows],
            bos_id=self.model.vocab.bos_id,
            eos_id=self.model.vocab.eos_id,
        )
        ids = framed.ids
        if end_in_row:
            ids[framed.is_eos] = torch.tensor([int(row[-1]) for row in rows])
        device = self.model.device
        return Layout(framed.layout.lengths.to(device)), ids.to(device)

    def _levels(self, rows: list[Ids], times: list[float]) -> torch.Tensor:
        """[rows]: the noise level that is an input of the network, from the time of a row or from its number of
        masks."""
        family = self.model.family
        counts = torch.tensor([int((row == self.model.vocab.mask_id).sum()) for row in rows])
        level = family.level_of_count(counts, torch.tensor([len(row) for row in rows]))
        drawn = torch.tensor(times, dtype=torch.float32)
        return torch.where(drawn >= 0, family.level_of_time(drawn), level).to(self.model.device)
