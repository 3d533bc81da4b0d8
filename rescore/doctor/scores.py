"""Checks of the scores: their sign and base, values that are no numbers, and fields that are no scores."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import inf, log

import numpy as np

from rescore.doctor.case import Case, Finding, Source
from rescore.nbest.types import NBestList
from rescore.wer import FloatArray

FIELDS = frozenset(
    (
        "rank id index idx channel start end begin offset time duration length frames num_frames num_words num_tokens"
    ).split()
)
"""Names of fields that toolkits write beside the scores."""

_RISES = 0.5  # mean correlation of a score with the rank from which its sign is suspected
_LOG_10 = log(10.0)
_RATIOS = {
    1.0: ("is {other} under another name", "leave one of the two out"),
    -1.0: ("is {other} with the other sign", "give both as log-probabilities, where higher is better"),
    _LOG_10: ("is {other} in another base: nats, where {other} is in log10", "multiply {other} by 2.302585"),
    1 / _LOG_10: ("is {other} in another base: log10, where {other} is in nats", "multiply {score} by 2.302585"),
    -_LOG_10: ("is {other} in another base and with the other sign", "give both as natural log-probabilities"),
    -1 / _LOG_10: ("is {other} in another base and with the other sign", "give both as natural log-probabilities"),
}


def wrong_sign(case: Case) -> Iterator[Finding]:
    """Scores that grow down the lists, that are all positive, or that are probabilities instead of their logarithms."""
    for number, source in enumerate(case.sources):
        for index, name in enumerate(source.score_names):
            values = np.array([hypothesis.scores[name] for _, _, hypothesis in source.hypotheses()])
            values = values[values != -inf]  # hypotheses that never win
            if is_counter(source, name) or not np.isfinite(values).all():
                continue
            positive = bool((values >= 0.0).all() and values.any())
            rises, worst = _correlation(source, name)
            where = source.where(worst)
            if rises > _RISES and (positive or number == index == 0):
                kind = "all positive, so they look like costs" if positive else "so the sign looks wrong"
                what = f"the {name} scores grow down the lists (mean correlation with the rank {rises:.2f}), {kind}"
                yield Finding("error", what, where, "negate them: higher must be better")
            elif positive and (values <= 1.0).all():
                what = f"all {name} scores are between 0 and 1, so they look like probabilities"
                yield Finding("error", what, where, "give their natural logarithms")
            elif positive:
                what = f"all {name} scores are positive, which no log-probability is"
                yield Finding(
                    "warning", what, where, "check that higher is better, and that they are natural logarithms"
                )


def _correlation(source: Source, name: str) -> tuple[float, NBestList | None]:
    """The mean over lists of the correlation between score and rank, and the list where it is largest."""
    found = []
    for utterance in source.lists:
        values = np.array([hypothesis.scores[name] for hypothesis in utterance.hypotheses])
        values = values[values != -inf]
        if len(values) > 2 and values.std() > 0.0:
            found.append((float(np.corrcoef(values, np.arange(len(values)))[0, 1]), utterance))
    if not found:
        return 0.0, source.lists[0]
    return sum(value for value, _ in found) / len(found), max(found, key=lambda pair: pair[0])[1]


def proportional(case: Case) -> Iterator[Finding]:
    """Two scores with a constant ratio: the same one twice, of the other sign, or in another base of the logarithm."""
    columns: dict[str, FloatArray] = {}
    lists = case.merged
    for name in lists[0].hypotheses[0].scores if lists else ():
        columns[name] = np.array([utterance.hypotheses[0].scores[name] for utterance in lists])
    if lists and case.model is not None and not case.model.device:  # a network would take long
        heads = [NBestList(utterance.seq_tag, utterance.hypotheses[:1]) for utterance in lists]
        columns[f"{case.model.name} (--model)"] = np.array([row[0].log_prob for row in case.model.score_group(heads)])
    for (first, one), (second, other) in combinations(columns.items(), 2):
        if len(set(one)) < 3 or not other.all() or not np.isfinite([one, other]).all():
            continue
        ratios = one / other
        for ratio, (what, advice) in _RATIOS.items():
            if np.allclose(ratios, ratio, rtol=1e-3, atol=0.0):
                names = {"score": repr(first), "other": repr(second)}
                where = case.sources[0].where(lists[0], 1)
                yield Finding("error", f"the score {first!r} " + what.format(**names), where, advice.format(**names))


def not_finite(case: Case) -> Iterator[Finding]:
    """Scores that are nan or +inf, the first of each file, and lists without a hypothesis whose scores are finite. A
    score of -inf alone only means that the hypothesis never wins."""
    advice = "drop the hypothesis, or give -inf for one that must never win"
    for source in case.sources:
        bad = [
            (utterance, rank, name, score)
            for utterance, rank, hypothesis in source.hypotheses()
            for name, score in hypothesis.scores.items()
            if not score < inf
        ]
        if bad:
            utterance, rank, name, score = bad[0]
            what = f"the {name} score is {score} (and {len(bad) - 1} more are nan or inf)"
            yield Finding("error", what, source.where(utterance, rank), advice)
        for utterance in source.lists:
            if all(-inf in hypothesis.scores.values() for hypothesis in utterance.hypotheses):
                what = "every hypothesis has a score of -inf, so none can win"
                yield Finding("error", what, source.where(utterance), "give a finite score to one of them")
                break


def constant(case: Case) -> Iterator[Finding]:
    """Scores that are equal for all hypotheses of every list, so that they rank nothing."""
    for source in case.sources:
        several = [utterance for utterance in source.lists if len(utterance.hypotheses) > 1]
        for name in source.score_names if several else ():
            if all(len({hypothesis.scores[name] for hypothesis in utterance.hypotheses}) == 1 for utterance in several):
                what = f"the {name} score is the same for all hypotheses of each list, so it can not rank them"
                yield Finding("error", what, source.where(several[0]), "give the score of each hypothesis")


def counters(case: Case) -> Iterator[Finding]:
    """Fields of a list that were read as scores, by their names, or because they count the ranks."""
    for source in case.sources:
        for name in source.score_names:
            if is_counter(source, name):
                what = f"the field {name!r} was read as a score, and would be tuned"
                yield Finding("error", what, source.where(source.lists[0], 1), "remove it from the lists")


def is_counter(source: Source, name: str) -> bool:
    """Whether a score is a field of another kind: one named so, or the rank, counted up or down."""
    if name.lower() in FIELDS:
        return True
    several = [utterance for utterance in source.lists if len(utterance.hypotheses) > 2]
    if not several:
        return False
    steps = {
        float(later.scores[name]) - float(earlier.scores[name])
        for utterance in several
        for earlier, later in zip(utterance.hypotheses, utterance.hypotheses[1:])
    }
    return steps in ({1.0}, {-1.0})
