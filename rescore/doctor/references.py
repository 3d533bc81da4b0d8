"""Checks of lists against their references: other utterances, and texts that are written in another way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from rescore.doctor.case import Case, Finding
from rescore.nbest import describe_difference
from rescore.nbest.types import NBestList
from rescore.wer import count_errors

_PUNCTUATION = re.compile(r"[^\w\s'<>\[\]]|(?<!\w)'|'(?!\w)")
_LESS = 0.9  # errors that remain if another way of writing is to explain what is gone
_HIGH = 80.0
_MOST = 2000  # utterances that are looked at

Rewriting = Callable[[str], str]


def other_utterances(case: Case) -> Iterator[Finding]:
    """Utterances that only the lists or only the references have."""
    if case.references is None or not case.sources:
        return
    source = case.sources[0]
    tags = [utterance.seq_tag for utterance in source.lists]
    if difference := describe_difference(source.path, tags, case.references_path, case.references):
        if set(tags) & set(case.references):
            advice = "give both for the same utterances; one that was not recognised needs a list with an empty text"
        else:
            advice = "no name is common: compare how the two name utterances, such as a prefix"
        yield Finding("error", f"the utterances differ: {difference}", case.references_path, advice)


def _gain(case: Case, before: Rewriting, after: Rewriting) -> tuple[int, int, NBestList | None]:
    """Errors of the first hypotheses with both texts rewritten in the one and the other way, and the utterance that
    gains most."""
    sums, most, best = [0, 0], 0, None
    for utterance in case.judged[:_MOST] if not case.is_pieces else ():
        reference, text = utterance.reference or "", utterance.hypotheses[0].text
        errors = [count_errors(rewrite(reference), rewrite(text)).errors for rewrite in (before, after)]
        sums = [total + own for total, own in zip(sums, errors)]
        if errors[0] - errors[1] > most:
            most, best = errors[0] - errors[1], utterance
    return sums[0], sums[1], best


def without_punctuation(text: str) -> str:
    """The text in lower case, without signs that are part of no word."""
    return _PUNCTUATION.sub(" ", text.casefold())


def other_case(case: Case) -> Iterator[Finding]:
    """Lists and references in different case."""
    before, after, utterance = _gain(case, str, str.casefold)
    if utterance is not None and after < _LESS * before:
        yield _rewritten(case, utterance, "case of the letters", before, after, "the same case")


def other_punctuation(case: Case) -> Iterator[Finding]:
    """Punctuation in the lists or in the references alone."""
    before, after, utterance = _gain(case, str.casefold, without_punctuation)
    if utterance is not None and after < _LESS * before:
        yield _rewritten(case, utterance, "punctuation", before, after, "or leave out punctuation in the same way")


def _rewritten(case: Case, utterance: NBestList, kind: str, before: int, after: int, wanted: str) -> Finding:
    text, reference = utterance.hypotheses[0].text[:40], (utterance.reference or "")[:40]
    what = (
        f"lists and references differ in the {kind}: {before} errors of the first hypotheses, {after} without it "
        f"({text!r}... and {reference!r}...)"
    )
    return Finding("error", what, case.where_reference(utterance), f"write both in {wanted}")


def other_digits(case: Case) -> Iterator[Finding]:
    """Numbers in digits on one side and spelled out on the other."""
    if not case.judged:
        return
    heads = [("lists", utterance, utterance.hypotheses[0].text) for utterance in case.judged]
    texts = {"lists": heads, "references": [("references", utt, utt.reference or "") for utt in case.judged]}
    found = {side: [entry for entry in own if re.search(r"\d", entry[2])] for side, own in texts.items()}
    for side, other in (("lists", "references"), ("references", "lists")):
        if len(found[side]) > max(1, 0.01 * len(case.judged)) and not found[other]:
            _, utterance, text = found[side][0]
            what = f"the {side} have digits in {len(found[side])} utterances ({text[:40]!r}...), the {other} have none"
            advice = "write numbers in the same way in both"
            yield Finding("warning", what, case.where_reference(utterance), advice)


def pieces(case: Case) -> Iterator[Finding]:
    """Hypotheses of subword pieces beside references of words."""
    if case.is_pieces:
        source = case.sources[0]
        what = (
            f"the hypotheses are subword pieces ({source.lists[0].hypotheses[0].text[:40]!r}...), the references words"
        )
        yield Finding("error", what, source.where(source.lists[0], 1), "join the pieces to words")


def first_pass(case: Case) -> Iterator[Finding]:
    """A WER of the first hypotheses that is 0, very high, or as low as that of the oracle."""
    if case.table is None:
        return
    source, table = case.sources[0], case.table
    first = table.errors_of(np.zeros(len(case.judged), np.int64))
    errors, words, best = int(first.sum()), int(table.reference_words.sum()), table.oracle().errors
    rate = 100.0 * errors / words
    worst = case.judged[int(first.argmax())]
    if errors == 0:
        what = "the references are the first hypotheses: WER 0"
        yield Finding("error", what, case.references_path, "give what was said, not what was recognised")
    elif rate > _HIGH:
        what = f"the WER of the first hypotheses is {rate:.1f} %"
        advice = "check that the references belong to these utterances, and that both are written in the same way"
        yield Finding("error", what, case.where_reference(worst), advice)
    elif best == errors and any(len(utterance.hypotheses) > 1 for utterance in case.judged):
        what = f"the oracle is the first pass: WER {rate:.2f} % for both, so no choice from these lists can help"
        advice = "give deeper lists, or lists that were not ordered by the references"
        yield Finding("error", what, source.where(worst), advice)


def tuned_on_test(case: Case) -> Iterator[Finding]:
    """Utterances to tune on that are in the test set, by name and first text."""
    known = {(utt.seq_tag, utt.hypotheses[0].text) for source in case.sources for utt in source.lists}
    for source in case.tests:
        both = [utterance for utterance in source.lists if (utterance.seq_tag, utterance.hypotheses[0].text) in known]
        if both:
            what = f"{len(both)} of {len(source.lists)} utterances of the test set are in the lists to tune on"
            advice = "tune on other speech, or the WER is too low"
            yield Finding("error", what, source.where(both[0]), advice)
