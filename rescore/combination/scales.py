"""Log-linear combination: the winner of each list has the largest weighted sum of the scores of several sources.

    scales = Scales({"am": 1.0, "masked": 0.6, "prior": -0.3}, words=1.5)
    best = winners(lists, scales)                       # [utterances]: index in the list, 0 = first
    texts = best_texts(lists, scales)                   # {seq_tag: text}
    scales.save("scales.json"); Scales.load("scales.json")

    total = sum_s scale_s * score_s  +  words * (number of words)  +  sum_s tokens_s * (number of tokens that source s
    counted)

Scores and totals are in nats, higher is better. A scale may be negative, for example to divide out a prior. Of equal
totals the earlier hypothesis wins, so with a scale of 0 for every LM the order of the first pass is kept. With
`posterior`, the hypothesis with the fewest expected errors is chosen instead (rescore/combination/expected_errors.py).
A hypothesis with a score of -inf in one of the sources never wins, whatever the scale.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rescore.combination.expected_errors import least_risk
from rescore.nbest.types import Hypothesis, NBestList
from rescore.wer import FloatArray, IntArray, first_maxima, list_offsets
from returnn_bridge.files import PathLike, is_finite, quoted, read_json, write_whole

WORDS = "words"
TOKENS = "tokens:"
LARGEST_TOTAL = 1e300
"""Larger totals are refused, because their differences may overflow. Usual substitutes for log 0 are far smaller."""


@dataclass(frozen=True, slots=True)
class Scales:
    """The weight of every source; a source that is not named here is not used."""

    scores: Mapping[str, float]
    """Scale of each source, by its name."""
    words: float = 0.0
    """Nats added for each word of the text; positive values reward long texts."""
    tokens: Mapping[str, float] = field(default_factory=dict)
    """Nats added for each token that a source counted (`num_tokens` of its details), by name of the source."""
    posterior: float | None = None
    """Scale of the totals in the posterior under which expected errors are counted; None: the best total is chosen."""

    def __post_init__(self) -> None:
        for name, value in self.named().items():
            if isinstance(value, bool) or not is_finite(value):
                raise ValueError(f"the scale of {quoted(name)} is {quoted(value)}; expected a finite number")
        scale = self.posterior
        if scale is not None and (isinstance(scale, bool) or not is_finite(scale) or scale <= 0):
            raise ValueError(f"the scale of the posterior is {quoted(scale)}; expected a finite number above 0")
        for name in self.scores:
            if name == WORDS or name.startswith(TOKENS):
                raise ValueError(f"a score is named {quoted(name)}; expected another name: this one means a count")

    def named(self) -> dict[str, float]:
        """The scales of the total in one dict, with the keys SOURCE, "words" (unless it is 0) and "tokens:SOURCE"."""
        counts = {TOKENS + name: value for name, value in self.tokens.items()}
        return {**self.scores, **({WORDS: self.words} if self.words else {}), **counts}

    @classmethod
    def from_named(cls, named: Mapping[str, float]) -> Scales:
        """The inverse of `named`, without posterior."""
        return cls(
            {name: value for name, value in named.items() if name != WORDS and not name.startswith(TOKENS)},
            named.get(WORDS, 0.0),
            {name.removeprefix(TOKENS): value for name, value in named.items() if name.startswith(TOKENS)},
        )

    def to_json(self) -> dict[str, Any]:
        """The scales as plain dicts and numbers for `json`."""
        value = {"scores": dict(self.scores), "words": self.words, "tokens": dict(self.tokens)}
        return value if self.posterior is None else {**value, "posterior": self.posterior}

    @classmethod
    def from_json(cls, value: Any, *, where: str = "scales") -> Scales:
        """The inverse of `to_json`; all but "scores" may be left out. ValueError naming `where` for anything
        else."""
        if not isinstance(value, dict):
            raise ValueError(f"{where}: got {type(value).__name__}; expected an object with the key 'scores'")
        known = ["scores", "words", "tokens", "posterior"]
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f", perhaps {near[0]!r}" if near else ""
                raise ValueError(f"{where}: unknown key {quoted(key)}; expected {', '.join(known)}{hint}")
        for key in ("scores", "tokens"):
            if not isinstance(value.get(key, {}), dict) or (key == "scores" and not value.get(key)):
                raise ValueError(f"{where}: {key!r} is {quoted(value.get(key))}; expected an object {{source: scale}}")
        try:
            return cls(value["scores"], value.get("words", 0.0), value.get("tokens", {}), value.get("posterior"))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def save(self, path: PathLike) -> None:
        """Write the scales as JSON, atomically."""
        with write_whole(path) as write:
            write(json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, path: PathLike) -> Scales:
        """Read a file that `save` wrote. ValueError with the path for anything else."""
        where = os.fspath(path)
        value = read_json(path, "a JSON object with scales, as `dlm tune` writes")
        return cls.from_json(value, where=where)


def winners(lists: Sequence[NBestList], scales: Scales) -> IntArray:
    """[utterances]: the index of the hypothesis with the highest total, 0 = first; of equal totals the first wins.

    With a posterior, that of the hypothesis with the fewest expected errors.
    """
    totals = combined_scores(lists, scales)
    if scales.posterior is not None:
        return least_risk(lists, totals, [scales.posterior])[0]
    return first_maxima(totals, list_offsets(lists))


def best_texts(lists: Sequence[NBestList], scales: Scales) -> dict[str, str]:
    """{seq_tag: text of the winner}, with unchanged texts."""
    best = winners(lists, scales)
    return {utterance.seq_tag: utterance.hypotheses[index].text for utterance, index in zip(lists, best.tolist())}


def combined_scores(lists: Sequence[NBestList], scales: Scales) -> FloatArray:
    """[hypotheses of all lists]: the totals, nats, in the order of the lists; -inf for those that never win."""
    named = scales.named()
    matrix, never = feature_matrix(lists, list(named))
    check_summable(lists, matrix, list(named), list(named.values()))
    total = weighted_sum(matrix, list(named.values()))
    total[never] = -np.inf
    return total


def with_combined_score(lists: Sequence[NBestList], scales: Scales, name: str) -> list[NBestList]:
    """The lists with the totals, nats, as one more score. ValueError if they have a score of that name."""
    totals = iter(combined_scores(lists, scales).tolist())
    found = []
    for utterance in lists:
        if any(name in hypothesis.scores for hypothesis in utterance.hypotheses):
            raise ValueError(f"{utterance.seq_tag!r} has a score {name!r}; expected another name for the combined one")
        members = [
            replace(hypothesis, scores={**hypothesis.scores, name: next(totals)}) for hypothesis in utterance.hypotheses
        ]
        found.append(replace(utterance, hypotheses=tuple(members)))
    return found


def check_summable(
    lists: Sequence[NBestList], features: FloatArray, names: Sequence[str], weights: Sequence[float]
) -> None:
    """ValueError naming utterance and rank for a score so large that its weighted sum with the others would
    overflow."""
    with np.errstate(over="ignore"):
        sizes = np.abs(features) * np.abs(weights)
        bad = np.flatnonzero(~(sizes.sum(axis=1) < LARGEST_TOTAL))
    if bad.size:
        index = int(bad[0])
        column = int(sizes[index].argmax())
        raise ValueError(
            f"{_hypothesis_at(lists, index)} has {names[column]} score {features[index, column]:g}, with the scale "
            f"{weights[column]:g}; expected less than {LARGEST_TOTAL:g} for the sum of all scores times their scales"
        )


def weighted_sum(features: FloatArray, weights: Sequence[float] | FloatArray) -> FloatArray:
    """[hypotheses]: weighted sum over the columns, added one by one.

    A matrix product is not used because it rounds differently from row to row, so that equal hypotheses would not tie.
    """
    total = np.zeros(len(features))
    for column, weight in zip(features.T, weights, strict=True):
        total += weight * column
    return total


def feature_matrix(lists: Sequence[NBestList], names: Sequence[str]) -> tuple[FloatArray, NDArray[np.bool_]]:
    """([hypotheses of all lists, names], [hypotheses]): scores by source name, "words" and "tokens:SOURCE" as counts;
    and which hypotheses never win, because one of the scores is -inf. Their rows are 0.

    ValueError naming utterance and rank for a score that is missing, nan or +inf, and for a list without winner.
    """
    hypotheses = [hypothesis for utterance in lists for hypothesis in utterance.hypotheses]
    columns = []
    for name in names:
        values = _getter(name)
        try:
            column = np.array([values(hypothesis) for hypothesis in hypotheses], np.float64)
            bad = np.flatnonzero(~(column < np.inf))
            index = int(bad[0]) if bad.size else None
        except KeyError:
            index = next(index for index, hypothesis in enumerate(hypotheses) if _lacks(hypothesis, name))
        if index is not None:
            raise ValueError(_describe_bad(lists, index, name))
        columns.append(column)
    matrix = np.stack(columns, axis=1) if columns else np.zeros((len(hypotheses), 0))
    never = (matrix == -np.inf).any(axis=1)
    if never.any():
        lost = np.flatnonzero(np.logical_and.reduceat(never, list_offsets(lists)[:-1]))
        if lost.size:
            tag = lists[int(lost[0])].seq_tag
            raise ValueError(f"all hypotheses of {tag!r} have a score of -inf; expected one that can be chosen")
        matrix[never] = 0.0
    return matrix, never


def _getter(name: str) -> Callable[[Hypothesis], float]:
    if name == WORDS:
        return lambda hypothesis: len(hypothesis.text.split())
    if name.startswith(TOKENS):
        source = name.removeprefix(TOKENS)
        return lambda hypothesis: _token_count(hypothesis, source)
    return lambda hypothesis: hypothesis.scores[name]


def _token_count(hypothesis: Hypothesis, source: str) -> int:
    count = hypothesis.details[source]["num_tokens"]
    if not isinstance(count, int):
        raise KeyError(source)
    return count


def _lacks(hypothesis: Hypothesis, name: str) -> bool:
    try:
        _getter(name)(hypothesis)
    except KeyError:
        return True
    return False


def _hypothesis_at(lists: Sequence[NBestList], index: int) -> str:
    """Rank and utterance, for an error message, of the hypothesis with this index among those of all lists."""
    offsets = list_offsets(lists)
    number = int(np.searchsorted(offsets, index, side="right")) - 1
    return f"hypothesis {index - int(offsets[number]) + 1} of {quoted(lists[number].seq_tag)}"


def _describe_bad(lists: Sequence[NBestList], index: int, name: str) -> str:
    hypothesis = [hypothesis for utterance in lists for hypothesis in utterance.hypotheses][index]
    where = _hypothesis_at(lists, index)
    if not _lacks(hypothesis, name):
        return f"{where} has {name} score {_getter(name)(hypothesis)}; expected a finite number (nats)"
    if name.startswith(TOKENS):
        return f"{where} has no token count from {name.removeprefix(TOKENS)!r}; expected 'num_tokens' in its details"
    has = ", ".join(sorted(hypothesis.scores)) or "none"
    near = difflib.get_close_matches(name, hypothesis.scores, 1)
    hint = f" (perhaps {near[0]!r}?)" if near else ""
    return f"{where} has no score {name!r}{hint}; expected one of its scores: {has}"
