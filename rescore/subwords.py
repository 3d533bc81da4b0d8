"""Refusing to count errors of words against subword pieces, which would give a WER of neither.

    check_same_units(lists)             # ValueError naming utterance and rank

Pieces are recognised by the marks of three tokenizers: "▁AS ▁I ▁APPROACH ED" (SentencePiece), "approa@@ ched"
(subword-nmt) and "approa ##ched" (WordPiece). Hypotheses and references may both be pieces with the same marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rescore.nbest.types import NBestList

BEGIN = "\u2581"
"""SentencePiece's mark. Every text of pieces has it, because its first word begins with it."""
_JOINTS = {"@@": re.compile(r"\S@@(?=\s|$)"), "##": re.compile(r"(?<=\s)##\S")}
"""Marks between the pieces of a word. A text without a split word has none, so whole sets of texts are compared."""


def check_same_units(lists: Sequence[NBestList]) -> None:
    """ValueError if hypotheses are subword pieces and references are words, or the other way round.

    Every hypothesis is checked, because lists of several sources may be mixed. The lists have references.
    """
    for utterance in lists:
        reference = utterance.reference or ""
        for rank, hypothesis in enumerate(utterance.hypotheses, 1):
            if (BEGIN in hypothesis.text) != (BEGIN in reference) and hypothesis.text.split() and reference.split():
                raise _of_other_units(utterance, rank, BEGIN in reference)
    for mark, joint in _JOINTS.items():
        split = next(
            (
                (utterance, rank)
                for utterance in lists
                for rank, hypothesis in enumerate(utterance.hypotheses, 1)
                if mark in hypothesis.text and joint.search(hypothesis.text)
            ),
            None,
        )
        reference_split = next((utterance for utterance in lists if joint.search(utterance.reference or "")), None)
        if split and not reference_split:
            raise _of_other_units(*split, False)
        if reference_split and not split:
            raise _of_other_units(reference_split, 1, True)


def _of_other_units(utterance: NBestList, rank: int, reference_is_pieces: bool) -> ValueError:
    text = utterance.hypotheses[rank - 1].text
    if reference_is_pieces:
        return ValueError(
            f"the reference of {utterance.seq_tag!r} is made of subword pieces ({(utterance.reference or '')[:40]!r}) "
            f"and hypothesis {rank} is not ({text[:40]!r}); expected words in both"
        )
    return ValueError(
        f"hypothesis {rank} of {utterance.seq_tag!r} is made of subword pieces ({text[:40]!r}); "
        "expected words, as in the reference"
    )
