"""Checks of the hypotheses of a list: copies, padding, lists of one, empty texts, and signs that are no words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rescore.doctor.case import Case, Finding, Source
from rescore.nbest.types import NBestList

_MARKUP = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|\{[^{}\s]+\}")
_MANY = 0.5  # share of lists from which something is no accident


def _copies(utterance: NBestList) -> list[int]:
    """The ranks, from 1, of hypotheses with the words of an earlier one."""
    seen: set[str] = set()
    ranks = []
    for rank, hypothesis in enumerate(utterance.hypotheses, 1):
        words = " ".join(hypothesis.text.split())
        ranks += [rank] if words in seen else []
        seen.add(words)
    return ranks


def _is_padded(source: Source) -> bool:
    """Whether all lists have one length, and most of them end in a copy of an earlier hypothesis."""
    lengths = {len(utterance.hypotheses) for utterance in source.lists}
    ends = sum(len(utterance.hypotheses) in _copies(utterance) for utterance in source.lists)
    return len(source.lists) > 1 and len(lengths) == 1 and ends > _MANY * len(source.lists)


def padded(case: Case) -> Iterator[Finding]:
    """Lists that were filled up to one length with copies."""
    for source in case.sources[:1]:
        if _is_padded(source):
            utterance = source.lists[0]
            what = (
                f"every list has {len(utterance.hypotheses)} hypotheses, and most end in copies: the lists were padded"
            )
            advice = "remove the copies: they cost time, and shift what is measured for each hypothesis"
            yield Finding("warning", what, source.where(utterance, len(utterance.hypotheses)), advice)


def duplicates(case: Case) -> Iterator[Finding]:
    """Hypotheses with the words of an earlier one of the same list."""
    for source in case.sources[:1]:
        found = [(utterance, ranks) for utterance in source.lists if (ranks := _copies(utterance))]
        if found and not _is_padded(source):
            utterance, ranks = found[0]
            what = f"{len(found)} of {len(source.lists)} lists hold the same words more than once"
            advice = "keep the copy with the best score"
            yield Finding("warning", what, source.where(utterance, ranks[0]), advice)


def cut(case: Case) -> Iterator[Finding]:
    """Lists with a single hypothesis, which no rescoring can change."""
    for source in case.sources[:1]:
        single = [utterance for utterance in source.lists if len(utterance.hypotheses) == 1]
        if len(single) > _MANY * len(source.lists):
            every = len(single) == len(source.lists)
            what = f"{len(single)} of {len(source.lists)} lists have one hypothesis, so there is nothing to choose"
            advice = "write N-best lists, not best texts, from the recogniser"
            yield Finding("error" if every else "warning", what, source.where(single[0], 1), advice)


def empty(case: Case) -> Iterator[Finding]:
    """Lists of empty texts for speech that has words."""
    for source in case.sources[:1]:
        known = case.references or {}
        found = [
            utterance
            for utterance in source.lists
            if not any(hypothesis.text.split() for hypothesis in utterance.hypotheses)
            and known.get(utterance.seq_tag, "a word").split()
        ]
        if found:
            what = f"{len(found)} of {len(source.lists)} lists hold only empty texts"
            advice = "look into the recognition of these utterances; they count as deletions"
            yield Finding("warning", what, source.where(found[0], 1), advice)


def markup(case: Case) -> Iterator[Finding]:
    """Sentence marks, noises and the like in the hypotheses, where the references have none."""
    if any(_MARKUP.search(text) for text in (case.references or {}).values()):
        return
    for source in case.sources[:1]:
        for utterance, rank, hypothesis in source.hypotheses():
            if match := _MARKUP.search(hypothesis.text):
                what = f"the text holds {match.group()!r}, which counts as a word"
                advice = "remove such signs: they are errors against references without them"
                yield Finding("error", what, source.where(utterance, rank), advice)
                break
