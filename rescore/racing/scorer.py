"""Race with a model: a scorer that measures only contenders in full, and the calibration of its predictions.

    scorer, stages = build_stages(open_scorer("masked/model", ...), "strided:2,strided:3", replicates=4)
    scales, folder = Scales.load("scales.json"), Path("raced.calibration")
    race = learn_race(["dev.jsonl"], scorer, stages, scales, confidence=0.95, folder=folder)
    run = score_file(["test.jsonl"], RacingScorer(scorer, stages, race), "raced.jsonl")

The mathematics is in race.py; this module applies it to models and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rescore.combination.scales import Scales
from rescore.estimators import build_estimator
from rescore.estimators.base import Estimator
from rescore.lms.base import EstimatingScorer, LanguageModelScorer, texts_of
from rescore.nbest import read_sources
from rescore.nbest.types import NBestList
from rescore.racing.race import Race, RaceRun, calibrate
from rescore.score_file import recorded, score_file
from rescore.scores import SequenceScore, UnknownCounts


class RacingScorer(LanguageModelScorer):
    """Scores lists only as far as needed to find their winners.

    `scorer` measures in full. `stages` are the same model with cheaper estimators, one fewer than the race has rungs.
    """

    def __init__(self, scorer: EstimatingScorer, stages: Sequence[EstimatingScorer], race: Race):
        if len(race.rungs) != len(stages) + 1:
            raise ValueError(f"a race of {len(race.rungs)} rungs with {len(stages)} stages; expected one rung more")
        self.scorer, self.stages, self.race, self.name = scorer, list(stages), race, race.name

    @property
    def passes_run(self) -> int:
        return sum(scorer.passes_run for scorer in (self.scorer, *self.stages))

    @property
    def source(self) -> str:
        return self.scorer.source

    def describe(self) -> dict[str, object]:
        estimators = [estimator_of(stage) for stage in self.stages]
        return {
            **self.scorer.describe(),
            "race": self.race.digest(),
            "ladder": [f"{estimator.name}:{estimator.passes}" for estimator in estimators],
            "confidence": self.race.confidence,
            "scales": self.race.scales.named(),
        }

    def unknown(self) -> UnknownCounts:
        return self.scorer.unknown()  # this scorer encodes every text once

    def score_texts(self, seq_tag: str, texts: Sequence[str]) -> list[SequenceScore]:
        """All scores in full, because a race needs the other scores of the texts."""
        return self.scorer.score_texts(seq_tag, texts)

    def score_group(self, utterances: Sequence[NBestList]) -> list[list[SequenceScore]]:
        """ValueError if a list lacks a score that the race was calibrated with."""
        for utterance in utterances:
            for source in self.race.given:
                if source not in utterance.hypotheses[0].scores:
                    raise ValueError(
                        f"{utterance.seq_tag!r} has no score {source!r}; "
                        "expected those that the race was calibrated with: " + ", ".join(self.race.given)
                    )
        runs = [RaceRun(self.race, utterance, self.scorer.encode(texts_of(utterance))) for utterance in utterances]
        for stage in self.stages:
            self._drop_and_measure(runs, stage, last=False)
        self._drop_and_measure(runs, self.scorer, last=True)
        return [run.results(estimator_of(self.scorer).target) for run in runs]

    def _drop_and_measure(self, runs: Sequence[RaceRun], scorer: EstimatingScorer, *, last: bool) -> None:
        for run in runs:
            if not run.settled:
                run.drop()
        unsettled = [run for run in runs if not run.settled]
        contenders = [[run.tokens[index] for index in run.alive.tolist()] for run in unsettled]
        if not unsettled:
            return
        found = scorer.score_encoded([run.utterance.seq_tag for run in unsettled], contenders)
        for run, scores in zip(unsettled, found, strict=True):
            if last:
                run.finish(scores)
            else:
                run.measured(scores)


class RaceCost(NamedTuple):
    """The cost and the expected errors of a race, summed over its lists."""

    passes: int
    """Network passes for all scores, with equal inputs counted each time."""
    dropped: int
    """Number of hypotheses whose score is predicted."""
    changed_winners: float
    """Upper limit of the expected number of utterances whose winner full scoring would change."""

    @classmethod
    def of(cls, lists: Sequence[NBestList], name: str) -> RaceCost:
        """The cost of lists that a RacingScorer has scored; `name` is the name of its score."""
        passes, probabilities = 0, []
        for utterance in lists:
            for hypothesis in utterance.hypotheses:
                details = hypothesis.details[name]
                # SequenceScore.details writes numbers here.
                passes += int(details["num_passes"])  # type: ignore[arg-type]
                if "win_probability" in details:
                    probabilities.append(float(details["win_probability"]))  # type: ignore[arg-type]
        return cls(passes, len(probabilities), sum(probabilities))


def estimator_of(scorer: EstimatingScorer) -> Estimator:
    """The estimator of a scorer in a race, which must have one."""
    assert scorer.estimator is not None, "build_stages refuses a model that has none"
    return scorer.estimator


def build_stages(
    scorer: LanguageModelScorer, ladder: str, *, replicates: int
) -> tuple[EstimatingScorer, list[EstimatingScorer]]:
    """(scorer that measures in full, scorers of the ladder ESTIMATOR:PASSES,...). ValueError for a model or estimators
    that do not fit a race."""
    if not isinstance(scorer, EstimatingScorer) or (full := scorer.estimator) is None:
        raise ValueError(f"{scorer.source}: scores a text in one pass; a race is for diffusion models")
    estimators = parse_ladder(ladder, replicates)
    for estimator in (full, *estimators):
        if estimator.measures != full.measures or not estimator.fits_race:
            expected = {
                "masks": "masks, such as strided",
                "noise": "draws, such as --estimator draws --ladder draws:2,draws:4",
            }[full.measures]
            raise ValueError(
                f"{scorer.source}: {estimator.name} is no step of a race for this model; "
                f"expected --estimator and --ladder of {expected}"
            )
    stages = [
        scorer.with_estimator(estimator, name=f"{scorer.name}-{number}")
        for number, estimator in enumerate(estimators, 1)
    ]
    return scorer, stages


def parse_ladder(text: str, replicates: int) -> list[Estimator]:
    """The estimators of ESTIMATOR:PASSES,ESTIMATOR:PASSES,...; [] for ""."""
    found = []
    for part in filter(None, text.split(",")):
        name, colon, passes = part.rpartition(":")
        if not colon or not passes.isdigit():
            raise ValueError(f"--ladder {part!r}; expected ESTIMATOR:PASSES, such as strided:2")
        found.append(build_estimator(name, passes=int(passes), replicates=replicates))
    return found


def learn_race(
    sources: Sequence[str],
    scorer: EstimatingScorer,
    stages: Sequence[EstimatingScorer],
    scales: Scales,
    *,
    confidence: float,
    folder: Path,
    format: str | None = None,
) -> Race:
    """Score lists in full and at every stage, and fit a race on them. The scores are kept in `folder`.

    format: format of the lists; None: chosen by their suffixes. ValueError for lists that already have a score of that
    name which was made with other settings.
    """
    lists = read_sources(sources, format=format)
    if scorer.name in lists[0].hypotheses[0].scores:
        made = recorded(sources, format=format).get(scorer.name)
        if made is None or made.facts != scorer.describe():
            raise ValueError(
                f"the calibration lists have a score {scorer.name!r} that was not made with these settings; "
                "expected one that was, or none"
            )
    else:
        lists = score_file(sources, scorer, folder / "full.jsonl", format=format).lists
    found = []
    for number, stage in enumerate(stages, 1):
        scored = score_file(sources, stage, folder / f"{number}.jsonl", new_only=True, format=format).lists
        found.append([[hypothesis.scores[stage.name] for hypothesis in utterance.hypotheses] for utterance in scored])
    tokens = [scorer.encode(texts_of(utterance)) for utterance in lists]
    return calibrate(lists, scorer.name, found, tokens, scales, confidence=confidence)
