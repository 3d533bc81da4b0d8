"""Scoring with a network: exact sums, independence of everything that is not the text, resumption to the same bytes."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import random_model, utterances_of
from rescore.estimators import ESTIMATORS, build_estimator
from rescore.estimators.alignment import leader_of, slots_of
from rescore.lms.network import NetworkScorer
from rescore.nbest import Hypothesis, NBestList, read_nbest, write_nbest
from rescore.score_file import GROUP, score_file

OF_MASKS = [name for name, kind in ESTIMATORS.items() if kind.measures == "masks"]
TEXTS = [
    "the king said",
    "the king went",
    "the old king said",
    "a king",
    "",
    "the king said to the child",
    "the king said",
]


def scorer_of(folder, name="pairs", *, passes=9, replicates=2, **options):
    asked = None if ESTIMATORS[name].usual_passes is None else passes
    how = build_estimator(name, passes=asked, replicates=replicates)
    return NetworkScorer(str(folder), name="lm", estimator=how, **options)


def values(scores):
    return [score.log_prob for score in scores]


def enumerated_bound(model, text):
    """The bound by all masks, each run alone through the network."""
    family, framed = model.family, model.sentences([text])
    length = int(family.num_scored(framed.layout))
    total = 0.0
    for mask in itertools.product((False, True), repeat=length):
        k = sum(mask)
        if k:
            tail = [] if family.score_eos else [False]
            masked = torch.tensor([False, *mask, *tail])
            level = family.level_of_count(torch.tensor([k]), torch.tensor([length]))
            with torch.no_grad():
                log_probs = family.token_log_probs(model.network, framed, masked, level=level)
            total += float(log_probs.double().sum()) / (k * math.comb(length, k))
    return total


@pytest.mark.parametrize(
    "family",
    [
        {"name": "masked"},
        {"name": "masked", "time_conditioning": True},
        {"name": "masked", "score_eos": True, "shift": True},
    ],
    ids=str,
)
def test_exact_estimator_is_the_enumerated_bound(vocab, tmp_path, family):
    model = random_model(vocab, family)
    scorer = scorer_of(model.save(tmp_path / "model"), "exact")
    texts = ["the king", "a tree", "of"]
    for text, score in zip(texts, scorer.score_texts("utt", texts)):
        assert score.log_prob == pytest.approx(enumerated_bound(model, text), rel=1e-5)
        assert (score.standard_error, score.exact) == (0.0, False)
        assert score.num_tokens == len(vocab.encode(text)) + bool(family.get("score_eos"))


@pytest.mark.parametrize("name", ["sample-norm", "fixed-k", "systematic-k", "pairs", "control"])
def test_mean_over_seeds_is_the_bound(vocab, model_folder, name):
    """z-test of the whole path, shared keys and shared rows included."""
    text, others = "he went", ["he was", "the house"]
    expected = enumerated_bound(random_model(vocab), text)
    found = [
        scorer_of(model_folder, name, passes=3, replicates=1, seed=seed)
        .score_texts("utt", [*others, text])[-1]
        .log_prob
        for seed in range(150)
    ]
    assert abs(np.mean(found) - expected) < 3.7 * np.std(found, ddof=1) / math.sqrt(len(found)) + 1e-4


def test_autoregressive_scores_are_exact_in_one_pass(ar_folder, vocab):
    model = random_model(vocab, {"name": "autoregressive"})
    for text, score in zip(TEXTS, scorer_of(ar_folder).score_texts("utt", TEXTS)):
        expected, ids = 0.0, [vocab.bos_id, *vocab.encode(text), vocab.eos_id]
        for place in range(1, len(ids)):  # the prefix alone: nothing behind it can leak
            framed = model.frame([ids[1:place]])
            with torch.no_grad():
                logits = model.network(
                    framed.ids[:place], type(framed.layout)(torch.tensor([place])), None, torch.tensor([place - 1])
                )[0]
            logits[[vocab.mask_id, vocab.bos_id]] = -torch.inf
            expected += float(torch.log_softmax(logits, -1)[ids[place]])
        assert score.log_prob == pytest.approx(expected, rel=1e-5)
        assert (score.num_passes, score.num_tokens, score.exact) == (1, len(ids) - 1, True)


@pytest.mark.parametrize("name", OF_MASKS)
def test_scores_do_not_depend_on_order_batch_size_or_other_utterances(model_folder, name):
    short = [text for text in TEXTS if len(text) < 18]
    first = values(scorer_of(model_folder, name).score_texts("utt", short))
    order = [3, 0, 5, 1, 4, 2][: len(short)]
    shuffled = values(scorer_of(model_folder, name).score_texts("utt", [short[place] for place in order]))
    assert [first[place] for place in order] == pytest.approx(shuffled, abs=1e-4)
    small = values(scorer_of(model_folder, name, batch_tokens=7).score_texts("utt", short))
    assert small == pytest.approx(first, abs=1e-4)
    beside = scorer_of(model_folder, name).score_group(utterances_of({"other": ["a great old house"], "utt": short}))[1]
    assert values(beside) == pytest.approx(first, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in OF_MASKS if not getattr(ESTIMATORS[name], "shares_numbers", False)])
def test_scores_without_shared_numbers_do_not_depend_on_the_list(model_folder, name):
    alone = scorer_of(model_folder, name).score_texts("utt", TEXTS[2:4])
    assert values(alone) == pytest.approx(
        values(scorer_of(model_folder, name).score_texts("utt", TEXTS))[2:4], abs=1e-4
    )


def test_time_of_a_draw_reaches_the_network_as_in_training(vocab, tmp_path):
    """With a change of variables the network is conditioned on the uniform variate, not on sigma."""
    family = {"name": "masked", "time_conditioning": True, "change_of_variables": True}
    model = random_model(vocab, family)
    scorer = scorer_of(model.save(tmp_path / "model"), "plain")
    uniform = torch.tensor([0.25, 0.75])
    rho, _, level = model.family.times.at(uniform)
    row = np.array([vocab.mask_id, 3], dtype=np.int32)
    assert scorer.measurement._levels([row, row], rho.tolist()).tolist() == pytest.approx(level.tolist(), abs=1e-3)


@pytest.mark.parametrize("name", OF_MASKS)
def test_the_same_text_at_every_rank_has_the_same_score(model_folder, name):
    """Times tied to the row of the batch score rank 1 lightly and rank n heavily masked."""
    scores = values(scorer_of(model_folder, name).score_texts("utt", ["the old king"] * 16))
    assert len(set(scores)) == 1


def test_nothing_is_truncated(model_folder, vocab):
    long = " ".join(["the old king said"] * 60)
    for score, text in zip(
        scorer_of(model_folder, "strided", passes=4).score_texts("utt", [long, "the king"]), [long, "the king"]
    ):
        assert score.num_tokens == len(vocab.encode(text))


def test_empty_hypothesis_has_a_defined_score(model_folder, ar_folder):
    masked, ar = (scorer_of(folder).score_texts("utt", ["", "a"])[0] for folder in (model_folder, ar_folder))
    assert (masked.log_prob, masked.num_passes, masked.num_tokens) == (0.0, 0, 0)
    assert ar.log_prob < 0
    assert ar.num_tokens == 1, "the end of the sentence"


def test_shared_masks_shrink_the_error_of_a_difference(model_folder):
    """Two hypotheses that differ in one word: with keys of their own the difference is noisier."""
    pair = ["he went to the old house with the great king", "he went to the old house with a great king"]

    def spread(seq_tags):
        found = []
        for seed in range(40):
            scorer = scorer_of(model_folder, "systematic-k", passes=4, replicates=1, seed=seed)
            first, second = (scorer.score_texts(tag, pair)[place].log_prob for place, tag in enumerate(seq_tags))
            found.append(first - second)
        return np.std(found)

    assert spread(["utt", "utt"]) < 0.6 * spread(["utt", "another"])


def test_equal_inputs_are_run_once(model_folder):
    """Every row of the strided plan masks the word in which the two differ once: that row is shared."""
    scorer = scorer_of(model_folder, "strided", passes=3)
    scorer.score_texts("utt", ["the king said", "the king said"])
    once = scorer.passes_run
    scorer.score_texts("utt", ["the king said"] * 5)
    assert scorer.passes_run == 2 * once


def test_alignment_slots():
    leader = (1, 2, 3, 4)
    assert slots_of(leader, (1, 2, 3, 4)) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert slots_of(leader, (1, 9, 3, 4)) == [(0, 0), (1, 0), (2, 0), (3, 0)]
    assert slots_of(leader, (1, 3, 4)) == [(0, 0), (2, 0), (3, 0)]
    assert slots_of(leader, (8, 1, 2, 7, 6, 3, 4)) == [(-1, 1), (0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (3, 0)]
    assert slots_of((), (5,)) == [(-1, 1)]
    assert leader_of([(1, 2), (1, 2, 3), (1, 2, 3, 4)]) == leader_of([(1, 2, 3, 4), (1, 2, 3), (1, 2)]) == (1, 2, 3)


@pytest.fixture
def lists(tmp_path) -> Path:
    hyps = [f"{text} {extra}".strip() for text in TEXTS for extra in ("", "again and the tree")]
    made = [
        NBestList(
            f"utt-{number}",
            tuple(Hypothesis(text, {"am": -float(rank)}) for rank, text in enumerate(hyps[number % 3 :])),
        )
        for number in range(2 * GROUP + 3)
    ]
    write_nbest(tmp_path / "lists.jsonl", made)
    return tmp_path / "lists.jsonl"


def test_every_hypothesis_comes_back_with_a_score_added(lists, model_folder, tmp_path):
    run = score_file([str(lists)], scorer_of(model_folder), tmp_path / "out.jsonl")
    before, after = read_nbest(lists), read_nbest(tmp_path / "out.jsonl")
    assert after == run.lists
    for old, new in zip(before, after, strict=True):
        assert old.seq_tag == new.seq_tag
        assert [hyp.text for hyp in old.hypotheses] == [hyp.text for hyp in new.hypotheses]
        assert all(
            {**hyp.scores, "lm": new_hyp.scores["lm"]} == new_hyp.scores
            for hyp, new_hyp in zip(old.hypotheses, new.hypotheses)
        )
    detail = max(after[0].hypotheses, key=lambda hyp: len(hyp.text)).details["lm"]
    assert detail["num_passes"] > 1
    assert detail["standard_error"] > 0
    score_file([str(lists)], scorer_of(model_folder), tmp_path / "out.py.gz")
    assert [[hyp.scores["am"] for hyp in utt.hypotheses] for utt in read_nbest(tmp_path / "out.py.gz")] == [
        [hyp.scores["lm"] for hyp in utt.hypotheses] for utt in after
    ]


def test_a_finished_result_is_not_scored_again_and_never_mixed(lists, model_folder, tmp_path):
    out = tmp_path / "out.jsonl"
    score_file([str(lists)], scorer_of(model_folder), out)
    again = scorer_of(model_folder)
    run = score_file([str(lists)], again, out)
    assert again.passes_run == 0
    assert run.was_complete and "nothing to do" in run.note()
    with pytest.raises(ValueError, match="other settings"):
        score_file([str(lists)], scorer_of(model_folder, seed=2), out)
    with pytest.raises(ValueError, match="have a score 'lm'; expected another name"):
        score_file([str(out)], scorer_of(model_folder), tmp_path / "more.jsonl")


def test_any_cut_of_the_unfinished_file_resumes_to_the_same_bytes(lists, model_folder, tmp_path):
    whole = tmp_path / "whole.jsonl"
    score_file([str(lists)], scorer_of(model_folder), whole)
    head, _, body = whole.read_text().partition("\n")
    header = {key: value for key, value in json.loads(head).items() if key not in ("utterances", "sha256")}
    data = f"{json.dumps(header)}\n{body}".encode()  # unfinished, the header does not tell their number
    for number, cut in enumerate([0, 10, len(data) // 3, len(data) // 2, len(data) - 5]):
        out = tmp_path / f"cut{number}.jsonl"
        out.with_name(f".{out.name}.partial").write_bytes(data[:cut])
        score_file([str(lists)], scorer_of(model_folder), out)
        assert out.read_bytes() == whole.read_bytes()


def test_killed_at_random_points_the_same_command_ends_in_the_same_bytes(lists, model_folder, tmp_path):
    out = tmp_path / "killed.jsonl"
    command = [sys.executable, "-m", "rescore", "score", str(lists), "--model", f"lm={model_folder}", "--out", str(out)]
    command += ["--estimator", "pairs", "--passes", "9", "--replicates", "2"]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'recipe'}:{root}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = out.with_name(f".{out.name}.partial")
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 2000):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    score_file([str(lists)], scorer_of(model_folder), tmp_path / "undisturbed.jsonl")
    assert out.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()
    assert json.loads((tmp_path / "killed.jsonl.cost.json").read_text())["passes"] > 0


def test_texts_of_pieces_are_joined_when_asked_and_refused_otherwise(model_folder, vocab):
    text = "the old king"
    pieces = " ".join(vocab._processor.EncodeAsPieces(text))
    assert "▁" in pieces
    with pytest.raises(ValueError, match="--pieces"):
        scorer_of(model_folder).score_texts("utt", [pieces])
    joined = scorer_of(model_folder, pieces=True).score_texts("utt", [pieces])
    assert values(joined) == values(scorer_of(model_folder).score_texts("utt", [text]))
