"""Score texts with a trained language model: rows of many utterances -> token-budget batches -> network -> SequenceScore.

    scorer = NetworkScorer("run/model", estimator=build_estimator("control", passes=17))
    scorer.score_lists([("utt-1", ["he hoped there would be stew", "he hope there would be stew"])])

Masks come from keys of (seed, utterance, draw, slot) along an alignment of the utterance's hypotheses, never from the place in a batch.
Rows with the same visible tokens are run once, whatever hypothesis asks (two hypotheses that differ in a masked word only share the pass),
only the positions whose log-probability is needed reach the output layer, and nothing is padded or truncated.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families import Family
from diffusion_lm.families.masked import MaskedFamily
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.model import LanguageModel, fingerprint
from rescore.estimators import build_estimator
from rescore.estimators.confidence_order import confident_order
from rescore.estimators.plans import Estimator, Plan
from rescore.estimators.pseudo_likelihood import ConfidentFirst
from rescore.lms.network_noise import score_drawn
from rescore.scores import LOG_P, SequenceScore


def usual_batch_tokens(device: str) -> int:
    """2,048 on a CPU, where a larger batch leaves its caches (1.5 times slower at 8,192 for a network of width 192); else 32,768."""
    return 2048 if device == "cpu" else 32768


def usual_estimator(family: Family) -> str:
    """The estimator of a family's scores where none is asked for."""
    if family.scoring == "noise":
        # One run ranks better than several draws of the bound, and costs less (docs/results.md).
        return "one-pass" if getattr(family, "sees_errors", False) else "draws"
    # Below 1 the network has never seen a sentence with most of it masked.
    return "strided" if getattr(family, "sampling_max", 1.0) < 1 else "control"


@dataclass
class NetworkScorer:
    """Any model folder of ours. The estimator is used by families that have a bound; exact families score in one pass."""

    folder: str
    name: str = ""
    estimator: Estimator | None = None  # None: the usual one of the family
    seed: int = 1
    device: str = "cpu"
    precision: str = "32"  # "32" or "bf16" (network only; softmax and sums stay in full precision)
    batch_tokens: int | None = None  # most tokens of one forward pass; None: what suits the device
    pieces: bool = False  # texts are space-separated pieces (label level) instead of words

    def __post_init__(self) -> None:
        if self.precision not in ("32", "bf16"):
            raise ValueError(f"precision {self.precision!r}; expected '32' or 'bf16'")
        if self.batch_tokens is None:
            self.batch_tokens = usual_batch_tokens(self.device)
        if self.batch_tokens < 1:
            raise ValueError(f"batch tokens {self.batch_tokens}: expected at least 1")
        self.model = LanguageModel.load(self.folder, device=self.device)
        self.name = self.name or Path(self.folder).resolve().parent.name
        if self.estimator is None:
            self.estimator = build_estimator(usual_estimator(self.model.family))
        self.rows_run = 0
        self.words = 0
        self.unknown_pieces = 0

    def describe(self) -> dict[str, Any]:
        """What the scores depend on; part of the result file's header."""
        facts: dict[str, Any] = {
            "kind": self.model.family_options["name"],
            "model": fingerprint(self.folder),
            "precision": self.precision,
        }
        facts |= {"batch_tokens": self.batch_tokens, "pieces": self.pieces}
        if not self.model.family.exact:
            assert self.estimator is not None, "set in __post_init__"
            facts |= self.estimator.describe() | {"seed": self.seed}
        return facts

    def score_texts(self, seq_tag: str, texts: Sequence[str]) -> list[SequenceScore]:
        """One utterance's hypotheses, in order."""
        return self.score_lists([(seq_tag, texts)])[0]

    def score_lists(self, lists: Sequence[tuple[str, Sequence[str]]]) -> list[list[SequenceScore]]:
        """Scores of several utterances' hypotheses, in order; a text that occurs twice in an utterance is scored once."""
        encoded, tags = [self.encode(texts) for _, texts in lists], [tag for tag, _ in lists]
        scoring = self.model.family.scoring
        if scoring == "masks":
            return self._planned(tags, encoded)
        if scoring == "noise":
            assert self.estimator is not None, "set in __post_init__"
            with self._inference():
                results, rows = score_drawn(
                    self.model, self.estimator, tags, encoded, seed=self.seed, batches=self._batches
                )
            self.rows_run += rows
            return results
        unique = list(dict.fromkeys(tokens for utterance in encoded for tokens in utterance))
        with self._inference():
            found = dict(zip(unique, self._exact(unique)))
        return [[found[tokens] for tokens in utterance] for utterance in encoded]

    @contextmanager
    def _inference(self) -> Iterator[None]:
        kind = self.model.device.type
        with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16"):
            yield

    def with_estimator(self, estimator: Estimator) -> NetworkScorer:
        """The same network, measured in another way; it counts its own rows."""
        other = copy.copy(self)
        other.estimator, other.rows_run, other.words, other.unknown_pieces = estimator, 0, 0, 0
        return other

    def encode(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Piece ids of each text; unknown pieces are counted."""
        vocab = self.model.vocab
        if not self.pieces and any("▁" in text for text in texts):
            raise ValueError(
                f"{next(text for text in texts if '▁' in text)!r} is a text of pieces; expected words, or --pieces"
            )
        words = [vocab.join_pieces(text) for text in texts] if self.pieces else list(texts)
        ids = vocab.encode_batch(words)
        self.words += sum(len(text.split()) for text in words)
        self.unknown_pieces += sum(map(vocab.count_unknown, ids))
        return [tuple(row) for row in ids]

    def _exact(self, sequences: list[tuple[int, ...]]) -> list[SequenceScore]:
        """-NELBO of an exact family, one pass each."""
        scores: list[SequenceScore | None] = [None] * len(sequences)
        family = self.model.family
        for batch in self._batches([len(tokens) for tokens in sequences]):
            sentences = self.model.frame([sequences[place] for place in batch])
            nothing = NoiseDraw(torch.empty(0), torch.empty(0))
            values = -family.nelbo(self.model.network, sentences, nothing)
            for place, value, count in zip(batch, values.tolist(), family.num_scored(sentences.layout).tolist()):
                scores[place] = SequenceScore(value, 0.0, 1, count, LOG_P)
            self.rows_run += len(batch)
        assert None not in scores, "every sequence is in exactly one batch"
        return scores  # type: ignore[return-value]

    def _planned(self, tags: Sequence[str], encoded: list[list[tuple[int, ...]]]) -> list[list[SequenceScore]]:
        family, estimator = self.model.family, self.estimator
        assert isinstance(family, MaskedFamily) and estimator is not None, "plans are for families with masks"
        if estimator.measures != "masks":
            raise ValueError(f"estimator {estimator.name} is for models whose noise is no mask; see `dlm estimators`")
        eos = (self.model.vocab.eos_id,) if family.score_eos else ()
        if isinstance(estimator, ConfidentFirst):
            unique = list(dict.fromkeys(tokens + eos for utterance in encoded for tokens in utterance))
            totals = dict(zip(unique, confident_order(unique, self._confidences)))
            return [
                [
                    SequenceScore(totals[tokens + eos], 0.0, len(tokens + eos), len(tokens + eos), estimator.target)
                    for tokens in utterance
                ]
                for utterance in encoded
            ]
        distinct = [list(dict.fromkeys(tokens + eos for tokens in utterance)) for utterance in encoded]
        listed = [estimator.plan_list(tag, texts, seed=self.seed) for tag, texts in zip(tags, distinct)]
        log_probs = iter(
            self.log_probs([text for plan in listed for text in plan.texts], [p for plan in listed for p in plan.plans])
        )
        results = []
        for utterance, texts, plan in zip(encoded, distinct, listed):
            estimates = plan.estimates([next(log_probs) for _ in plan.plans])
            found = {
                tokens: SequenceScore(
                    estimate.value,
                    estimate.standard_error,
                    estimate.passes,
                    len(tokens),
                    estimator.target,
                    estimate.replicates,
                )
                for tokens, estimate in zip(texts, estimates)
            }
            results.append([found[tokens + eos] for tokens in utterance])
        return results

    def _confidences(
        self, sequences: Sequence[tuple[int, ...]], hidden: Sequence[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each row log p of its hidden tokens and the largest log p there; what `confident_order` asks."""
        family, vocab = self.model.family, self.model.vocab
        assert isinstance(family, MaskedFamily)
        rows = [np.where(mask, vocab.mask_id, tokens) for tokens, mask in zip(sequences, hidden)]
        results: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * len(rows)
        for batch in self._batches([len(row) for row in rows]):
            layout, z = self._framed_rows([rows[place] for place in batch], family.score_eos)
            starts = (torch.cumsum(layout.lengths, 0) - layout.lengths).numpy(force=True)
            places = [np.nonzero(hidden[place])[0] for place in batch]
            select = np.concatenate([start + 1 + own for start, own in zip(starts, places)])
            level = None
            if family.time_conditioning:
                level = self._levels([rows[place] for place in batch], [-1.0] * len(batch), family)
            with self._inference():
                found = family.predict(self.model.network, z, layout, level, torch.from_numpy(select).to(z.device))
            targets = np.concatenate([np.array(sequences[place])[own] for place, own in zip(batch, places)])
            own_values = found.gather(1, torch.from_numpy(targets).to(z.device)[:, None])[:, 0].double().cpu().numpy()
            largest = found.max(dim=1).values.double().cpu().numpy()
            cuts = np.cumsum([len(own) for own in places])[:-1]
            for place, value, best in zip(batch, np.split(own_values, cuts), np.split(largest, cuts)):
                results[place] = value, best
            self.rows_run += len(batch)
        return results

    def log_probs(self, sequences: Sequence[tuple[int, ...]], plans: Sequence[Plan]) -> list[np.ndarray]:
        """log p [rows, L], nats, for every plan over its sequence of ids, nan where its weight is 0. Equal network inputs are run once."""
        vocab, family = self.model.vocab, self.model.family
        assert isinstance(family, MaskedFamily), "plans are for families with masks"
        inputs: dict[tuple[bytes, float], int] = {}
        noised: list[np.ndarray] = []
        times: list[float] = []
        query_row, query_position, query_target, sizes = [], [], [], []
        for tokens, plan in zip(sequences, plans):
            ids = np.array(tokens, dtype=np.int32)
            rows = np.where(plan.masks, np.int32(vocab.mask_id), ids)
            index = np.empty(len(rows), dtype=np.int64)
            for place, row in enumerate(rows):
                time = float(plan.time[place]) if plan.time is not None and family.time_conditioning else -1.0
                key = (row.tobytes(), time)
                if key not in inputs:
                    inputs[key] = len(noised)
                    noised.append(row)
                    times.append(time)
                index[place] = inputs[key]
            wanted_row, wanted_position = np.nonzero(plan.weights)
            query_row.append(index[wanted_row])
            query_position.append(wanted_position)
            query_target.append(ids[wanted_position] if len(ids) else wanted_position)
            sizes.append(len(wanted_row))
        if not noised:
            return [np.full(plan.masks.shape, np.nan) for plan in plans]
        all_rows, all_positions = np.concatenate(query_row), np.concatenate(query_position)
        with self._inference():
            answers = self._answer(noised, times, all_rows, all_positions, np.concatenate(query_target), family)
        results, start = [], 0
        for plan, size in zip(plans, sizes):
            values = np.full(plan.masks.shape, np.nan)
            values[np.nonzero(plan.weights)] = answers[start : start + size]
            results.append(values)
            start += size
        return results

    def _answer(
        self,
        noised: list[np.ndarray],
        times: list[float],
        query_row: np.ndarray,
        query_position: np.ndarray,
        query_target: np.ndarray,
        family: MaskedFamily,
    ) -> np.ndarray:
        """log p of query_target at query_position of noised[query_row], float64 [queries]."""
        answers = np.full(len(query_row), np.nan)
        order = np.argsort(query_row, kind="stable")
        starts = np.searchsorted(query_row[order], np.arange(len(noised) + 1))
        for batch in self._batches([len(row) for row in noised]):
            queries = np.concatenate([order[starts[row] : starts[row + 1]] for row in batch])
            if not len(queries):
                continue
            place_of = {row: place for place, row in enumerate(batch)}
            batch_row = np.array([place_of[row] for row in query_row[queries]], dtype=np.int64)
            layout, z = self._framed_rows([noised[row] for row in batch], family.score_eos)
            offsets = (torch.cumsum(layout.lengths, 0) - layout.lengths).numpy(force=True)
            flat = offsets[batch_row] + 1 + query_position[queries]
            select, back = np.unique(flat, return_inverse=True)
            level = None
            if family.time_conditioning:
                level = self._levels([noised[row] for row in batch], [times[row] for row in batch], family)
            log_probs = family.predict(self.model.network, z, layout, level, torch.from_numpy(select).to(z.device))
            targets = torch.from_numpy(query_target[queries].astype(np.int64)).to(z.device)
            answers[queries] = log_probs[torch.from_numpy(back).to(z.device), targets].double().cpu().numpy()
            self.rows_run += len(batch)
        return answers

    def _framed_rows(self, rows: list[np.ndarray], eos_in_row: bool) -> tuple[Layout, torch.Tensor]:
        framed = Sentences.of(
            [(row[:-1] if eos_in_row else row).tolist() for row in rows],
            bos_id=self.model.vocab.bos_id,
            eos_id=self.model.vocab.eos_id,
        )
        ids = framed.ids
        if eos_in_row:  # the last id may be the mask
            ids[framed.is_eos] = torch.tensor([int(row[-1]) for row in rows])
        device = self.model.device
        return Layout(framed.layout.lengths.to(device)), ids.to(device)

    def _levels(self, rows: list[np.ndarray], times: list[float], family: MaskedFamily) -> torch.Tensor:
        """Conditioning of each row: its own t where the plan drew one, else that of its number of masked tokens."""
        counts = torch.tensor([int((row == self.model.vocab.mask_id).sum()) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        level = family.level_of_count(counts, lengths)
        drawn = torch.tensor(times, dtype=torch.float32)
        level = torch.where(drawn >= 0, family.level_of_time(drawn), level)
        return level.to(self.model.device)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices grouped by length within the token budget (BOS and EOS counted); a longer one is a batch of its own."""
        batches: list[list[int]] = []
        room = 0
        for index in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
            size = lengths[index] + 2
            if size > room or not batches:
                batches.append([])
                room = self.batch_tokens or 1
            batches[-1].append(index)
            room -= size
        return batches
