"""The utterances whose winner changed between two rows, and their changed words.

    for change in changed_winners(lists, winners(lists, first_pass), winners(lists, tuned.scales)):
        print(change.verdict, change.seq_tag, change.before, "->", change.after)
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
    """An utterance whose winners in two rows have different words."""

    seq_tag: str
    """Utterance."""
    reference: str
    """Its reference text."""
    before: str
    """Text of the winner in the baseline."""
    after: str
    """Text of the winner in the row."""
    errors_before: int
    errors_after: int
    """Word errors of the two winners."""

    @property
    def gain(self) -> int:
        """Decrease of the word errors; negative if there are more."""
        return self.errors_before - self.errors_after

    @property
    def verdict(self) -> str:
        """ "better", "worse" or "same"."""
        return "better" if self.gain > 0 else "worse" if self.gain < 0 else "same"


@dataclass(frozen=True, slots=True)
class MarkedWord:
    """A word of a hypothesis, or a word of the reference that the hypothesis lacks."""

    text: str
    """The word."""
    right: bool
    """Whether it is aligned with the same word of the reference."""
    changed: bool
    """Whether the other hypothesis has another word at this position."""
    missing: bool = False
    """Whether it is a word of the reference that the hypothesis lacks."""


def changed_winners(lists: Sequence[NBestList], winners_before: IntArray, winners_after: IntArray) -> list[Change]:
    """One entry for each utterance whose winners differ in their words, in the order of the lists.

    Winners: [utterances], indices into the lists from 0. ValueError if a reference is missing.
    """
    changes = []
    for utterance, old, new in zip(lists, winners_before.tolist(), winners_after.tolist(), strict=True):
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
    reference, old, new = change.reference.split(), change.before.split(), change.after.split()
    kept = [block for block in Levenshtein.opcodes(old, new) if block.tag == "equal"]
    kept_old = {index for block in kept for index in range(block.src_start, block.src_end)}
    kept_new = {index for block in kept for index in range(block.dest_start, block.dest_end)}
    lacks = _missing(reference, old), _missing(reference, new)
    return _mark(reference, old, kept_old, lacks[1]), _mark(reference, new, kept_new, lacks[0])


def _missing(reference: list[str], hypothesis: list[str]) -> set[int]:
    """Positions of the reference that are deleted in the hypothesis."""
    return {step.src_pos for step in Levenshtein.editops(reference, hypothesis) if step.tag == "delete"}


def _mark(reference: list[str], hypothesis: list[str], kept: set[int], other_lacks: set[int]) -> list[MarkedWord]:
    marked = []
    for block in Levenshtein.opcodes(reference, hypothesis):
        for index in range(block.dest_start, block.dest_end):
            marked.append(MarkedWord(hypothesis[index], block.tag == "equal", index not in kept))
        if block.tag == "delete":
            for index in range(block.src_start, block.src_end):
                marked.append(MarkedWord(reference[index], False, index not in other_lacks, missing=True))
    return marked
