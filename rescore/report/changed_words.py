"""The utterances whose winner changed, and which of their words did.

    for change in changed_winners(lists, winners(lists, first_pass), winners(lists, tuned.scales)):
        print(change.verdict, change.seq_tag, change.baseline, "->", change.system)
    old, new = mark_words(change)

Utterances whose winner has the same words as before are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from rescore.nbest.types import NBestList
from rescore.wer import IntArray, count_errors


@dataclass(frozen=True, slots=True)
class Change:
    """An utterance for which two systems have chosen different words."""

    seq_tag: str
    reference: str
    baseline: str
    """Text of the old winner."""
    system: str
    """Text of the new winner."""
    baseline_errors: int
    system_errors: int

    @property
    def gain(self) -> int:
        """Errors fewer than before; negative if there are more."""
        return self.baseline_errors - self.system_errors

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "same"."""
        return "better" if self.gain > 0 else "worse" if self.gain < 0 else "same"


@dataclass(frozen=True, slots=True)
class MarkedWord:
    """A word of a hypothesis, or a word of the reference that the hypothesis lacks."""

    text: str
    right: bool
    """Aligned with the same word of the reference."""
    changed: bool
    """Not in the other hypothesis at this place."""
    missing: bool = False
    """The reference has it and the hypothesis does not."""


def changed_winners(lists: Sequence[NBestList], baseline_winners: IntArray, system_winners: IntArray) -> list[Change]:
    """One entry for each utterance whose winners differ in their words, in the order of the lists.

    Winners: [utterances], places in the lists from 0. ValueError if a reference is missing.
    """
    changes = []
    for utterance, old, new in zip(lists, baseline_winners.tolist(), system_winners.tolist(), strict=True):
        before, after = utterance.hypotheses[old].text, utterance.hypotheses[new].text
        if before.split() == after.split():
            continue
        reference = utterance.reference
        if reference is None:
            raise ValueError(f"utterance {utterance.seq_tag!r} has no reference; expected one to judge the change")
        errors = count_errors(reference, before).errors, count_errors(reference, after).errors
        changes.append(Change(utterance.seq_tag, reference, before, after, *errors))
    return changes


def mark_words(change: Change) -> tuple[list[MarkedWord], list[MarkedWord]]:
    """The old and the new winner word by word, aligned to the reference and to each other (edit distance)."""
    reference, old, new = change.reference.split(), change.baseline.split(), change.system.split()
    kept = [block for block in Levenshtein.opcodes(old, new) if block.tag == "equal"]
    kept_old = {place for block in kept for place in range(block.src_start, block.src_end)}
    kept_new = {place for block in kept for place in range(block.dest_start, block.dest_end)}
    lacks = _missing(reference, old), _missing(reference, new)
    return _mark(reference, old, kept_old, lacks[1]), _mark(reference, new, kept_new, lacks[0])


def _missing(reference: list[str], hypothesis: list[str]) -> set[int]:
    """Places of the reference that are deleted."""
    return {step.src_pos for step in Levenshtein.editops(reference, hypothesis) if step.tag == "delete"}


def _mark(reference: list[str], hypothesis: list[str], kept: set[int], other_lacks: set[int]) -> list[MarkedWord]:
    marked = []
    for block in Levenshtein.opcodes(reference, hypothesis):
        for place in range(block.dest_start, block.dest_end):
            marked.append(MarkedWord(hypothesis[place], block.tag == "equal", place not in kept))
        if block.tag == "delete":
            for place in range(block.src_start, block.src_end):
                marked.append(MarkedWord(reference[place], False, place not in other_lacks, missing=True))
    return marked
