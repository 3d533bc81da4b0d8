"""Find the winner of each utterance without scoring every hypothesis in full.

    race = calibrate(dev_lists, "masked", stage_scores, tokens, scales, confidence=0.95)    # from lists scored in full
    run = RaceRun(race, utterance, tokens_of_utterance)
    run.drop(); run.measured(scores_of_first_stage); run.drop(); run.finish(scores_in_full); run.results(ELBO)

A ladder of cheap measurements precedes the expensive one. At each rung (the first one is before any measurement) the
final score is predicted from the known values: its difference to the best hypothesis is linear in the differences of
all known scores, of words and of tokens, with an error that grows with the square root of the edit distance d,

    final(h) - final(b) = beta . (known(h) - known(b)) + sqrt(d(h, b)) e,    e distributed as on dev,

because tokens that two hypotheses share contribute little. beta is fitted by least squares. Hypotheses are dropped in
the order of their probability to beat the best one in the combined total (with tuned scales), as long as these
probabilities sum to at most the rung's share of 1 - confidence. The remaining hypotheses are measured in full. The
result is a function of the lists and the seed, so a race can be repeated exactly.

A dropped hypothesis gets its predicted score (target "predicted ..."), limited so that it stays behind the winner.
Lists for tuning, or for a combination with other scales, should be scored in full.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rescore.combination.scales import Scales
from rescore.estimators.alignment import Tokens, distances
from rescore.estimators.plans import FloatArray
from rescore.nbest.types import NBestList, never_chosen
from rescore.scores import SequenceScore, Target
from returnn_bridge.files import PathLike, named, quoted, read_json_object, write_whole

FORMAT = "diffusion-lm-race"
QUANTILES = 401  # stored quantiles of the observed distribution of e
TAIL = 0.05  # share of the largest errors, which are modelled as exponential with their mean excess


@dataclass(frozen=True)
class Rung:
    """The prediction of the final score from the values known after a number of measurements."""

    beta: tuple[float, ...]
    """Coefficients of the given scores, of the ladder's scores so far, of words and of tokens."""
    errors: tuple[float, ...]
    """Evenly spaced quantiles of e; nats."""
    excess: float
    """Mean excess of the errors above the quantile 1 - TAIL; nats."""

    @classmethod
    def of(cls, beta: FloatArray, errors: FloatArray) -> Rung:
        """The rung with these coefficients and these observed errors e, both arrays of one dimension."""
        start = float(np.quantile(errors, 1 - TAIL))
        above = errors[errors > start]
        excess = float((above - start).mean()) if len(above) else 0.0
        quantiles = np.quantile(errors, np.linspace(0, 1, QUANTILES))
        return cls(tuple(beta.tolist()), tuple(quantiles.tolist()), max(excess, 1e-9))

    def chance(self, standardised: FloatArray) -> FloatArray:
        """P(e >= value). It is never 0, because errors larger than those on dev may occur."""
        below = np.interp(standardised, self.errors, np.linspace(0, 1, len(self.errors)))
        start = float(np.interp(1 - TAIL, np.linspace(0, 1, len(self.errors)), self.errors))
        tail = TAIL * np.exp(-np.maximum(standardised - start, 0) / self.excess)
        return np.where(standardised > start, tail, 1 - below)

    @property
    def spread(self) -> float:
        """Standard deviation of e."""
        return float(np.std(self.errors))


@dataclass(frozen=True)
class Race:
    """All parameters that decide which hypotheses are dropped."""

    name: str
    """Name of the score that the race predicts or measures in full."""
    given: tuple[str, ...]
    """Names of the scores that the lists already have, in the order of beta."""
    scales: Scales
    """Scales of the row whose winners are found."""
    confidence: float
    """Probability that the winner of an utterance is the same as with full scoring."""
    rungs: tuple[Rung, ...]
    """One rung before any measurement, one after the first measurement, and so on."""

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence {self.confidence}: expected more than 0 and less than 1")
        if self.scales.scores.get(self.name, 0.0) <= 0:
            raise ValueError(f"the scale of {quoted(self.name)} is not positive: there is nothing to race for")
        if missing := sorted(set(self.scales.scores) - {self.name, *self.given}):
            raise ValueError(
                f"the scales name {quoted(missing[0])}; expected one of {quoted([self.name, *self.given])}"
            )
        if self.scales.tokens:
            raise ValueError("scales with a token term can not be raced with; expected a word term")
        if self.scales.posterior is not None:
            raise ValueError("scales with a posterior can not be raced with; expected scales for the highest total")

    def save(self, path: PathLike) -> None:
        """Write the race as JSON, atomically."""
        values = {
            "format": FORMAT,
            "version": 1,
            "name": self.name,
            "given": self.given,
            "scales": self.scales.to_json(),
        }
        values |= {"confidence": self.confidence, "rungs": [dataclasses.asdict(rung) for rung in self.rungs]}
        with write_whole(path) as write:
            write(json.dumps(values) + "\n")

    @classmethod
    def load(cls, path: PathLike) -> Race:
        """Read a file that `save` wrote. ValueError for anything else."""
        expected = "the file that `dlm race` wrote"
        values = read_json_object(path, expected)
        if (values.get("format"), values.get("version")) != (FORMAT, 1):
            raise ValueError(f"{path}: format {quoted(values.get('format'))}; expected {expected}")
        name, given, confidence, rungs = (values.get(key, 0) for key in ("name", "given", "confidence", "rungs"))
        if not isinstance(name, str) or not _is_list(given, str):
            raise ValueError(f"{path}: name {quoted(name)}, given {quoted(given)}; expected names of scores")
        if not isinstance(confidence, float) or not _is_list(rungs, dict) or not rungs:
            raise ValueError(f"{path}: confidence {quoted(confidence)}, rungs {quoted(rungs)}; expected {expected}")
        found = [_rung(rung, len(given) + number + 2) for number, rung in enumerate(rungs)]
        if None in found:
            number = found.index(None)
            raise ValueError(f"{path}: rung {number + 1} is {quoted(rungs[number])}; expected {expected}")
        with named(path):
            return cls(
                name, tuple(given), Scales.from_json(values.get("scales")), confidence, tuple(filter(None, found))
            )

    def digest(self) -> str:
        """16 hex digits that change with any parameter of the race."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def _rung(values: dict[str, Any], width: int) -> Rung | None:
    """The rung with these values; None if they are not those of one with `width` coefficients."""
    beta, errors, excess = (values.get(key, 0) for key in ("beta", "errors", "excess"))
    if not _is_list(beta, float) or not _is_list(errors, float) or not isinstance(excess, float) or excess <= 0:
        return None
    if len(beta) != width or not errors or errors != sorted(errors):
        return None
    return Rung(tuple(beta), tuple(errors), excess)


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def calibrate(
    lists: Sequence[NBestList],
    name: str,
    stage_scores: Sequence[Sequence[Sequence[float]]],
    tokens: Sequence[Sequence[Tokens]],
    scales: Scales,
    *,
    confidence: float,
) -> Race:
    """Fit every rung on lists that have the final score `name`.

    stage_scores: [stage][utterance][hypothesis]; tokens: [utterance][hypothesis].
    """
    given = tuple(source for source in lists[0].hypotheses[0].scores if source != name)
    race = Race(name, given, scales, confidence, ())
    rungs = []
    for count in range(len(stage_scores) + 1):
        rows, targets = [], []
        for index, utterance in enumerate(lists):
            known = _known(utterance, given, [stage[index] for stage in stage_scores[:count]], tokens[index])
            final = np.array([hypothesis.scores[name] for hypothesis in utterance.hypotheses])
            best = int((_rest(race, utterance) + scales.scores[name] * final).argmax())
            apart = distances(tokens[index])[best]
            other = apart > 0
            root = np.sqrt(apart[other])
            rows.append((known[other] - known[best]) / root[:, None])
            targets.append((final[other] - final[best]) / root)
        x, y = np.concatenate(rows), np.concatenate(targets)
        if len(y) < x.shape[1] + 10:
            raise ValueError(f"{len(y)} pairs of hypotheses to calibrate a race; expected at least {x.shape[1] + 10}")
        beta = np.linalg.lstsq(x, y, rcond=None)[0]
        rungs.append(Rung.of(beta, y - x @ beta))
    return Race(name, given, scales, confidence, tuple(rungs))


class RaceRun:
    """The race of one utterance. `alive` [contenders] are the indices of the hypotheses that are not dropped."""

    def __init__(self, race: Race, utterance: NBestList, tokens: Sequence[Tokens]):
        self.race, self.utterance, self.tokens = race, utterance, tokens
        size = len(tokens)
        self.alive = np.arange(size)
        self.rest = _rest(race, utterance)
        self.apart = distances(tokens)
        self.stages: list[FloatArray] = []
        self.passes = np.zeros(size, dtype=np.int64)
        self.predicted = np.zeros(size)
        self.error = np.zeros(size)
        self.chance = np.zeros(size)  # of each dropped hypothesis: its probability to be the winner
        self.final: dict[int, SequenceScore] = {}

    def drop(self) -> None:
        """Drop the hypotheses that are unlikely to win according to the current rung."""
        race, rung = self.race, self.race.rungs[len(self.stages)]
        alive = self.alive
        scale = race.scales.scores[race.name]
        known = _known(self.utterance, race.given, self.stages, self.tokens)[alive]
        self.predicted[alive] = known @ np.array(rung.beta)
        totals = self.rest[alive] + scale * self.predicted[alive]
        best = int(alive[totals.argmax()])
        root = np.sqrt(np.maximum(self.apart[best, alive], 1))
        self.error[alive] = rung.spread * root
        chance = rung.chance((totals.max() - totals) / (scale * root))
        order = np.argsort(chance, kind="stable")
        order = order[alive[order] != best]
        count = int((np.cumsum(chance[order]) <= (1 - race.confidence) / len(race.rungs)).sum())
        gone = order[:count]
        self.chance[alive[gone]] = chance[gone]
        self.alive = np.delete(alive, gone)

    @property
    def settled(self) -> bool:
        """Whether one hypothesis is left."""
        return len(self.alive) == 1

    def measured(self, scores: Sequence[SequenceScore]) -> None:
        """Record the scores of the contenders at the next stage of the ladder."""
        values = np.zeros(len(self.tokens))
        values[self.alive] = [score.log_prob for score in scores]
        self.passes[self.alive] += [score.num_passes for score in scores]
        self.stages.append(values)

    def finish(self, scores: Sequence[SequenceScore]) -> None:
        """Record the full scores of the contenders."""
        self.final = dict(zip(self.alive.tolist(), scores, strict=True))

    def results(self, target: Target) -> list[SequenceScore]:
        """One score for every hypothesis, measured in full or predicted."""
        scale = self.race.scales.scores[self.race.name]
        values = self.predicted.copy()
        for index, score in self.final.items():
            values[index] = score.log_prob
        totals = self.rest + scale * values
        winner = int(self.alive[totals[self.alive].argmax()])
        gone = np.setdiff1d(np.arange(len(values)), self.alive)
        values[gone] += values[winner] - self.predicted[winner]  # because only differences to the winner are predicted
        values[gone] = np.minimum(values[gone], (totals[winner] - self.rest[gone]) / scale - 1e-6)
        results = []
        for index, tokens in enumerate(self.tokens):
            passes = int(self.passes[index])
            if index in self.final:
                full = self.final[index]
                passes += full.num_passes
                results.append(dataclasses.replace(full, num_passes=passes))
                continue
            results.append(
                SequenceScore(
                    float(values[index]),
                    float(self.error[index]),
                    passes,
                    len(tokens),
                    target.predicted(),
                    win_probability=float(self.chance[index]),
                )
            )
        return results


def _known(
    utterance: NBestList, given: Sequence[str], stages: Sequence[Sequence[float] | FloatArray], tokens: Sequence[Tokens]
) -> FloatArray:
    """[hypotheses, features]: the known values of each hypothesis, in the order of beta.

    ValueError for a score of -inf, whose differences to others say nothing.
    """
    if odd := never_chosen([utterance]):
        raise ValueError(f"{utterance.seq_tag!r} has a {next(iter(odd))} score of -inf; a race needs finite ones")
    columns: list[Sequence[float] | FloatArray] = [
        [hypothesis.scores[source] for hypothesis in utterance.hypotheses] for source in given
    ]
    columns += stages
    columns += [[len(hypothesis.text.split()) for hypothesis in utterance.hypotheses], [len(row) for row in tokens]]
    return np.array(columns, dtype=np.float64).T


def _rest(race: Race, utterance: NBestList) -> FloatArray:
    """[hypotheses]: the combined total without the score that is predicted."""
    return np.array(
        [
            sum(scale * hyp.scores[source] for source, scale in race.scales.scores.items() if source != race.name)
            + race.scales.words * len(hyp.text.split())
            for hyp in utterance.hypotheses
        ]
    )
