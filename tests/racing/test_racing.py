"""Racing: the winner of full scoring, as often as promised, and a result file that agrees with it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rescore.cli import main
from rescore.combination.scales import Scales, winners
from rescore.estimators.plans import MaskPlan
from rescore.lms.base import EstimatingScorer, texts_of
from rescore.nbest import read_nbest, write_nbest
from rescore.nbest.types import Hypothesis, NBestList
from rescore.racing.race import Race, calibrate
from rescore.racing.scorer import RaceCost, RacingScorer
from rescore.score_file import with_score
from rescore.scores import SequenceScore, Target, UnknownCounts

SCALES = Scales({"am": 1.0, "lm": 0.8}, words=1.5)
VOCAB = 30


def value_of(token: int, draw: str) -> float:
    return float(np.random.default_rng([token, sum(map(ord, draw))]).normal()) * (3.0 if draw == "final" else 1.0)


class Sum(MaskPlan):
    """Nothing is asked of a network: see SumScorer."""

    name, target, unbiased = "sum", Target("sum"), True

    def _plan(self, length, numbers):
        raise AssertionError("the scorer does not ask for a plan")


class SumScorer(EstimatingScorer):
    """A language model whose scores are sums over tokens; a stage is the final score and noise that its tokens carry."""

    name = "lm"
    passes_run = 0

    def __init__(self, noise: float | None = None):
        self.noise, self.texts = noise, 0
        self.estimator = Sum(passes=6 if noise is None else 2)

    def describe(self):
        return {"noise": self.noise}

    def unknown(self):
        return UnknownCounts(0, self.texts, "words")

    def with_estimator(self, estimator, *, name=None):
        raise AssertionError("a race has its stages")

    def encode(self, texts):
        self.texts += len(texts)
        return [tuple(map(int, text.split())) for text in texts]

    def score_group(self, utterances):
        return self.score_encoded([u.seq_tag for u in utterances], [self.encode(texts_of(u)) for u in utterances])

    def score_encoded(self, seq_tags, encoded):
        self.passes_run += sum(map(len, encoded)) * self.estimator.passes
        return [[self._score(tokens) for tokens in own] for own in encoded]

    def _score(self, tokens):
        total = sum(value_of(token, "final") + (self.noise or 0) * value_of(token, "noise") for token in tokens)
        return SequenceScore(total, 0.0, self.estimator.passes, len(tokens), "sum")


def random_lists(seed: int, utterances: int) -> list[NBestList]:
    generator = np.random.default_rng(seed)
    lists = []
    for index in range(utterances):
        base = generator.integers(VOCAB, size=generator.integers(3, 12)).tolist()
        texts = {" ".join(map(str, base)): None}
        for _ in range(int(generator.integers(0, 25))):
            changed = list(base)
            for _ in range(int(generator.integers(1, 4))):
                changed[int(generator.integers(len(changed)))] = int(generator.integers(VOCAB))
            texts[" ".join(map(str, changed[: generator.integers(len(base) - 1, len(base) + 1)]))] = None
        hypotheses = [Hypothesis(text, {"am": float(generator.normal() * 4)}) for text in texts]
        lists.append(NBestList(f"utt-{index}", tuple(hypotheses)))
    return lists


def in_full(lists):
    return [with_score(utterance, "lm", scores) for utterance, scores in zip(lists, full_scores(lists))]


def full_scores(lists, noise=None):
    return SumScorer(noise).score_group(lists)


def race_of(confidence=0.95, noise=(0.5, 0.2), seed=1):
    lists = in_full(random_lists(seed, 60))
    stages = [[[score.log_prob for score in row] for row in full_scores(lists, level)] for level in noise]
    tokens = [SumScorer().encode([h.text for h in utterance.hypotheses]) for utterance in lists]
    return calibrate(lists, "lm", stages, tokens, SCALES, confidence=confidence)


def raced(lists, confidence=0.95, noise=(0.5, 0.2)):
    racer = RacingScorer(SumScorer(), [SumScorer(level) for level in noise], race_of(confidence, noise))
    return racer, [with_score(u, "lm", scores) for u, scores in zip(lists, racer.score_group(lists))]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_a_race_finds_the_winner_of_full_scoring_as_often_as_it_says(confidence):
    lists = random_lists(7, 150)
    racer, found = raced(lists, confidence)
    best = winners(in_full(lists), SCALES)
    changed = int((winners(found, SCALES) != best).sum())
    doubt = RaceCost.of(found, "lm").changed_winners
    assert doubt <= (1 - confidence) * len(lists), "the promise"
    assert changed <= doubt + 4 * np.sqrt(doubt) + 1
    everything = sum(len(utterance.hypotheses) for utterance in lists) * 6
    assert racer.unknown().total == sum(len(utterance.hypotheses) for utterance in lists), "each text is counted once"
    assert racer.passes_run < everything * (0.9 if confidence > 0.99 else 0.75)


def test_what_is_written_has_the_settled_winner_and_full_scores_of_contenders():
    lists = random_lists(8, 60)
    _, found = raced(lists)
    full = in_full(lists)
    for utterance, complete, best in zip(found, full, winners(found, SCALES)):
        measured = [h.details["lm"]["target"] == "sum" for h in utterance.hypotheses]
        details = utterance.hypotheses[best].details["lm"]
        assert "win_probability" not in details or details["win_probability"] == 0, "no dropped one wins"
        for hypothesis, other, is_full in zip(utterance.hypotheses, complete.hypotheses, measured):
            assert not is_full or hypothesis.scores["lm"] == other.scores["lm"]
            assert is_full == (hypothesis.details["lm"]["num_passes"] == 2 + 2 + 6) or not is_full
        assert len(utterance.hypotheses) > 1 or utterance.hypotheses[0].details["lm"]["num_passes"] == 0


def test_utterances_do_not_influence_each_other():
    lists = random_lists(9, 12)
    _, together = raced(lists)
    assert [raced([utterance])[1][0] for utterance in lists[::-1]] == together[::-1]


def test_a_saved_race_is_the_same_race(tmp_path):
    race = race_of()
    race.save(tmp_path / "race.json")
    assert Race.load(tmp_path / "race.json") == race
    assert (
        Race.load(tmp_path / "race.json").digest()
        == race.digest()
        != dataclasses.replace(race, confidence=0.9).digest()
    )
    (tmp_path / "race.json").write_text("{}")
    with pytest.raises(ValueError, match="expected the file that `dlm race` wrote"):
        Race.load(tmp_path / "race.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"confidence": 1.0}, "less than 1"),
        ({"scales": Scales({"am": 1.0, "lm": 0.0})}, "not positive"),
        ({"scales": Scales({"am": 1.0, "lm": 1.0, "bigram": 0.3})}, "'bigram'"),
        ({"scales": Scales({"lm": 1.0}, tokens={"lm": 1.0})}, "token term"),
    ],
)
def test_races_that_mean_nothing_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(race_of(), **change)


def test_few_lists_do_not_calibrate():
    lists = in_full(random_lists(1, 1))
    with pytest.raises(ValueError, match="to calibrate a race; expected at least"):
        calibrate(lists, "lm", [], [[(1, 2)] * len(lists[0].hypotheses)], SCALES, confidence=0.9)


def test_the_verb_races_resumes_and_keeps_what_it_learned(tmp_path, model_folder, capsys):
    generator = np.random.default_rng(3)
    words = "the king said went to a child of tree stone".split()

    def lists(count):
        found = []
        for index in range(count):
            base = generator.choice(words, size=6).tolist()
            texts = dict.fromkeys(
                " ".join([*base[:cut], str(generator.choice(words)), *base[cut + 1 :]]) for cut in range(6)
            )
            found.append(
                NBestList(f"u{index}", tuple(Hypothesis(t, {"am": float(generator.normal() * 3)}) for t in texts))
            )
        return found

    write_nbest(tmp_path / "dev.jsonl", lists(12))
    write_nbest(tmp_path / "test.jsonl", lists(9))
    Scales({"am": 1.0, "lm": 0.7}).save(tmp_path / "scales.json")

    def race(out, *arguments):
        with pytest.raises(SystemExit) as stopped:
            main(
                [
                    "race",
                    str(tmp_path / "test.jsonl"),
                    "--model",
                    f"lm={model_folder}",
                    "--out",
                    str(tmp_path / out),
                    *map(str, arguments),
                ]
            )
        return int(stopped.value.code or 0), capsys.readouterr()

    learn = ("--calibrate", tmp_path / "dev.jsonl", "--scales", tmp_path / "scales.json", "--estimator", "strided")
    status, printed = race("one.jsonl", *learn)
    assert status == 0 and "passes a hypothesis" in printed.out
    written = (tmp_path / "one.jsonl").read_bytes()
    assert [u.seq_tag for u in read_nbest(tmp_path / "one.jsonl")] == [f"u{index}" for index in range(9)]
    kept = tmp_path / "one.jsonl.race.json"
    assert json.loads(kept.read_text())["name"] == "lm"
    assert race("two.jsonl", "--calibration", kept, "--estimator", "strided")[0] == 0
    assert (tmp_path / "two.jsonl").read_bytes() == written
    assert race("three.jsonl", "--calibration", kept, "--confidence", "0.5")[0] == 1
    learned = kept.read_bytes()
    status, printed = race("one.jsonl", *learn, "--confidence", "0.5")
    assert status == 1 and "other settings" in printed.err
    assert kept.read_bytes() == learned, "it belongs to the result that stays"
    assert race("three.jsonl")[0] == 1
    assert race("three.py", *learn)[0] == 1
    assert race("three.jsonl", *learn, "--ladder", "strided")[0] == 1
    assert not (tmp_path / "three.jsonl").exists()
