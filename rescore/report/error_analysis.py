"""Which words a choice of winners gets wrong, and in which utterances.

    errors = word_errors(lists, winners(lists, scales))
    errors.confusions.most_common(3)                        # [(("ring", "king"), 4), ...]: reference, hypothesis
    bins = length_bins(table.reference_words)
    binned_wer(bins, table.errors_of(best), table.reference_words)    # WER (%) in each bin

The alignment is that of the table, so the counts add up to its S, D and I.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rapidfuzz.distance import Levenshtein

from rescore.combination.scales import Scales, combined_scores
from rescore.nbest.types import NBestList
from rescore.wer import IntArray, list_offsets

_LENGTHS = (5, 10, 20, 40)
_PARTS = 4


@dataclass(frozen=True)
class WordErrors:
    """How often each word was wrong, over all utterances."""

    confusions: Counter[tuple[str, str]]
    """Substitutions by (word of the reference, word of the hypothesis)."""
    deleted: Counter[str]
    """Words of the reference that are missing."""
    inserted: Counter[str]
    """Words of hypotheses that are too many."""


@dataclass(frozen=True)
class Bin:
    """Some of the utterances."""

    name: str
    """What they have in common, such as "6 to 10 words"."""
    utterances: IntArray
    """Their indices."""


def word_errors(lists: Sequence[NBestList], winners: IntArray) -> WordErrors:
    """The word errors of the winners, [utterances], as indices into their lists. All lists must have a reference."""
    found = WordErrors(Counter(), Counter(), Counter())
    for utterance, index in zip(lists, winners.tolist(), strict=True):
        assert utterance.reference is not None, utterance.seq_tag  # without one there would be no table
        reference, words = utterance.reference.split(), utterance.hypotheses[index].text.split()
        for step in Levenshtein.editops(reference, words):
            if step.tag == "replace":
                found.confusions[reference[step.src_pos], words[step.dest_pos]] += 1
            elif step.tag == "delete":
                found.deleted[reference[step.src_pos]] += 1
            else:
                found.inserted[words[step.dest_pos]] += 1
    return found


def length_bins(reference_words: IntArray) -> list[Bin]:
    """Utterances by the number of words in their reference, [utterances]; bins without utterances are left out."""
    parts = np.searchsorted(_LENGTHS, reference_words)
    names = [f"up to {_LENGTHS[0]} words", *(f"{low + 1} to {high}" for low, high in pairwise(_LENGTHS))]
    names.append(f"over {_LENGTHS[-1]}")
    bins = [Bin(name, np.flatnonzero(parts == part)) for part, name in enumerate(names)]
    return [each for each in bins if each.utterances.size]


def margin_bins(margins: Sequence[float]) -> list[Bin]:
    """Utterances in four parts of about equal size by a margin, [utterances], smallest first; equal margins are not
    parted."""
    values = np.asarray(margins, np.float64)
    ordered = np.sort(values)
    cuts = [float(ordered[len(values) * part // _PARTS]) for part in range(1, _PARTS)]
    parts = np.searchsorted(cuts, values, side="right")
    bins = []
    for part in range(_PARTS):
        indices = np.flatnonzero(parts == part)
        if indices.size:
            low, high = values[indices].min(), values[indices].max()
            bins.append(Bin(f"{low:.3g} to {high:.3g}" if np.isfinite(high) else f"{low:.3g} and more", indices))
    return bins


def margins(lists: Sequence[NBestList], scales: Scales) -> list[float]:
    """[utterances]: how far the largest total is above that of the best hypothesis with other words, nats;
    infinite if there is none."""
    totals, offsets = combined_scores(lists, scales), list_offsets(lists)
    found = []
    for number, utterance in enumerate(lists):
        own = totals[offsets[number] : offsets[number + 1]]
        order = np.argsort(-own, kind="stable").tolist()
        winner = utterance.hypotheses[order[0]].text.split()
        rival = next((index for index in order[1:] if utterance.hypotheses[index].text.split() != winner), None)
        found.append(float("inf") if rival is None else float(own[order[0]] - own[rival]))
    return found


def binned_wer(bins: Sequence[Bin], errors: IntArray, reference_words: IntArray) -> list[float | None]:
    """The WER (%) in each bin from errors and reference words of all utterances; None where there are no words."""
    sums = [(int(errors[each.utterances].sum()), int(reference_words[each.utterances].sum())) for each in bins]
    return [100.0 * wrong / words if words else None for wrong, words in sums]
