"""The doctor finds each planted fault, says where, and finds nothing in clean lists."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import DEMO
from rescore.cli import main
from rescore.combination.scales import Scales
from rescore.doctor import CHECKS, Case, Finding, examine, read_case
from rescore.lms.ngram import NgramScorer, train_ngram
from rescore.nbest import read_sources, write_nbest
from rescore.nbest.references import attach_references, read_references, write_transcripts
from rescore.nbest.types import Hypothesis, NBestList

Lists = list[NBestList]
Texts = dict[str, str]


@pytest.fixture(scope="module")
def lists() -> Lists:
    """The first 60 utterances of the demo with 8 hypotheses and two scores."""
    found = read_sources([f"{DEMO}/dev.nbest.py.gz", f"bigram={DEMO}/dev.bigram.py.gz"])
    return [replace(utterance, hypotheses=utterance.hypotheses[:8]) for utterance in found[:60]]


@pytest.fixture(scope="module")
def references(lists: Lists) -> Texts:
    found = read_references(DEMO / "dev.ref.py.gz")
    return {utterance.seq_tag: found[utterance.seq_tag] for utterance in lists}


@pytest.fixture(scope="module")
def ngram(lists: Lists, references: Texts, tmp_path_factory: pytest.TempPathFactory) -> NgramScorer:
    """Trained on these very texts, so that most of their words are known."""
    folder = tmp_path_factory.mktemp("ngram")
    texts = [*references.values(), *(hypothesis.text for utt in lists for hypothesis in utt.hypotheses[:3])]
    (folder / "text").write_text("".join(text + "\n" for text in texts))
    return NgramScorer(train_ngram([folder / "text"], order=2, out=folder / "2gram.arpa"), name="2gram")


def with_texts(lists: Lists, change: Callable[[str], str]) -> Lists:
    return [
        replace(utt, hypotheses=tuple(replace(hyp, text=change(hyp.text)) for hyp in utt.hypotheses)) for utt in lists
    ]


def with_scores(lists: Lists, change: Callable[[int, dict[str, float]], dict[str, float]]) -> Lists:
    return [
        replace(
            utt,
            hypotheses=tuple(
                replace(hyp, scores=change(rank, dict(hyp.scores))) for rank, hyp in enumerate(utt.hypotheses)
            ),
        )
        for utt in lists
    ]


def with_hypotheses(lists: Lists, change: Callable[[tuple[Hypothesis, ...]], tuple[Hypothesis, ...]]) -> Lists:
    return [replace(utterance, hypotheses=change(utterance.hypotheses)) for utterance in lists]


def checked(folder: Path, lists: Lists, references: Texts, **options: object) -> list[Finding]:
    """The findings for lists and references that went through files."""
    write_nbest(folder / "lists.jsonl", lists)
    write_transcripts(folder / "refs.py", references)
    return examine(read_case([str(folder / "lists.jsonl")], references=str(folder / "refs.py"), **options))  # type: ignore[arg-type]


SCORE_FAULTS: dict[str, tuple[str, Callable[[int, dict[str, float]], dict[str, float]]]] = {
    "costs": ("sign", lambda rank, scores: {"am": -scores["am"]}),
    "rising": ("sign", lambda rank, scores: {"am": -scores["am"] - 1000.0}),
    "probabilities": ("sign", lambda rank, scores: {"am": 0.9 / (1 + rank)}),
    "positive": ("sign", lambda rank, scores: {"am": scores["am"] + 1000.0}),
    "other base": ("proportional", lambda rank, scores: {**scores, "log10": scores["bigram"] / math.log(10.0)}),
    "other sign": ("proportional, sign", lambda rank, scores: {**scores, "cost": -scores["bigram"]}),
    "constant": ("constant", lambda rank, scores: {**scores, "lm": -1.5}),
    "num_frames": ("counter", lambda rank, scores: {**scores, "num_frames": 100.0 + rank % 3}),
    "rank": ("counter", lambda rank, scores: {**scores, "place": float(rank + 1)}),
}


@pytest.mark.parametrize("fault", SCORE_FAULTS)
def test_faults_of_scores(fault: str, lists: Lists, references: Texts, tmp_path: Path) -> None:
    check, change = SCORE_FAULTS[fault]
    found = checked(tmp_path, with_scores(lists, change), references)
    assert ", ".join(finding.check for finding in found) == check
    assert found[0].where.startswith(f"{tmp_path}/lists.jsonl: utterance 'web-dev/")


LIST_FAULTS: dict[str, tuple[str, Callable[[Lists], Lists]]] = {
    "case": ("case", lambda lists: with_texts(lists, str.upper)),
    "punctuation": ("punctuation", lambda lists: with_texts(lists, lambda text: text.replace(" ", ", ") + ".")),
    "digits": ("digits", lambda lists: with_texts(lists, lambda text: re.sub(r"\bthe\b", "1", text))),
    "pieces": ("pieces", lambda lists: with_texts(lists, lambda text: "\u2581" + text.replace(" ", " \u2581"))),
    "markup": ("markup", lambda lists: with_texts(lists, lambda text: text + " </s>")),
    "duplicates": (
        "duplicates",
        lambda lists: [*with_hypotheses(lists[:9], lambda hyps: (*hyps, hyps[0])), *lists[9:]],
    ),
    "padded": ("padded", lambda lists: with_hypotheses(lists, lambda hyps: (*hyps[:6], hyps[5], hyps[5]))),
    "one best": ("cut", lambda lists: with_hypotheses(lists, lambda hyps: hyps[:1])),
    "empty": (
        "empty",
        lambda lists: [*with_hypotheses(lists[:1], lambda hyps: (replace(hyps[0], text=""),)), *lists[1:]],
    ),
    "missing": ("utterances", lambda lists: lists[1:]),
}


@pytest.mark.parametrize("fault", LIST_FAULTS)
def test_faults_of_lists(fault: str, lists: Lists, references: Texts, tmp_path: Path) -> None:
    check, change = LIST_FAULTS[fault]
    found = [finding.check for finding in checked(tmp_path, change(lists), references)]
    # Texts with signs are nearly all wrong, which is another finding.
    assert [name for name in found if name != "first pass"] == [check]
    assert "first pass" not in found or fault in ("case", "punctuation")


def test_faults_of_references(lists: Lists, references: Texts, tmp_path: Path) -> None:
    """References that are the first texts, those of other utterances, and lists ordered by the references."""
    first = {utterance.seq_tag: utterance.hypotheses[0].text for utterance in lists}
    turned = dict(zip(references, [*list(references.values())[1:], "x"]))
    (same,), (other,) = (checked(tmp_path, lists, texts) for texts in (first, turned))
    assert (same.check, other.check) == ("first pass", "first pass")
    assert "WER 0" in same.what and "the WER of the first hypotheses is 114.5 %" in other.what
    best = [replace(utt, hypotheses=tuple(replace(hyp, text="x y") for hyp in utt.hypotheses[:1])) for utt in lists[:3]]
    (oracle,) = (found for found in checked(tmp_path, [*best, *_ordered(lists[3:], references)], references))
    assert oracle.check == "first pass" and oracle.what.startswith("the oracle is the first pass")


def _ordered(lists: Lists, references: Texts) -> Lists:
    from rescore.wer import count_errors

    return [
        replace(
            utt,
            hypotheses=tuple(
                replace(hyp, scores=scores.scores)
                for hyp, scores in zip(
                    sorted(utt.hypotheses, key=lambda hyp: count_errors(references[utt.seq_tag], hyp.text).errors),
                    utt.hypotheses,
                )
            ),
        )
        for utt in lists
    ]


def test_files_that_can_not_be_read_or_do_not_fit(lists: Lists, references: Texts, tmp_path: Path) -> None:
    def checks(*nbest: str, refs: str = "") -> list[str]:
        return [
            finding.check for finding in examine(read_case([str(tmp_path / name) for name in nbest], references=refs))
        ]

    am = with_scores(lists, lambda rank, scores: {"am": scores["am"]})
    write_nbest(tmp_path / "am.py", am)
    write_nbest(tmp_path / "lm.jsonl", with_scores(lists, lambda rank, scores: {"lm": scores["bigram"]})[:-1])
    nan = with_scores(lists[:1], lambda rank, scores: {"am": math.nan if rank == 1 else scores["am"]})
    write_nbest(tmp_path / "nan.py", [*nan, *am[1:]], allow_non_finite=True)
    never = with_scores(lists[:1], lambda rank, scores: {"am": -math.inf})
    write_nbest(tmp_path / "never.py", [*never, *am[1:]])
    some = with_scores(lists, lambda rank, scores: {"am": -math.inf if rank == 2 else scores["am"]})
    write_nbest(tmp_path / "some.py", some)
    (tmp_path / "half.jsonl").write_text('{"id": "a", "hyps": [')
    (tmp_path / "corpus.txt").write_text("".join(text + "\n" for text in references.values()))
    (tmp_path / "lists.txt").write_text((tmp_path / "am.py").read_text())
    assert checks("am.py") == []
    assert checks("am.py", "lm.jsonl") == ["files differ"]
    assert checks("nan.py") == checks("never.py") == ["not finite"]
    assert checks("some.py") == []
    assert checks("half.jsonl") == ["unreadable"]
    assert checks("am.py", refs=str(tmp_path / "am.py")) == ["unreadable"]
    for name in ("corpus.txt", "lists.txt"):
        assert "corpus" in checks("am.py", refs=str(tmp_path / name))
    (found,) = examine(read_case([str(tmp_path / "nan.py")]))
    assert found.where == f"{tmp_path}/nan.py: utterance {lists[0].seq_tag!r}, hypothesis 2"


def test_unknown_words_and_the_base_of_an_ngram(
    lists: Lists, references: Texts, ngram: NgramScorer, tmp_path: Path
) -> None:
    assert checked(tmp_path, lists, references, model=ngram) == []
    upper = {tag: text.upper() for tag, text in references.items()}
    (case,) = checked(tmp_path, with_texts(lists, str.upper), upper, model=ngram)
    assert case.check == "unknown words" and "far more of them in lower case" in case.what
    (foreign,) = checked(
        tmp_path,
        with_texts(lists, lambda text: text.replace("e", "ö")),
        {tag: text.replace("e", "ö") for tag, text in references.items()},
        model=ngram,
    )
    assert foreign.check == "unknown words" and "case" not in foreign.what
    scored = [
        replace(
            utt,
            hypotheses=tuple(
                replace(hyp, scores={"am": hyp.scores["am"], "lm": score.log_prob / math.log(10.0)})
                for hyp, score in zip(utt.hypotheses, ngram.score_group([utt])[0])
            ),
        )
        for utt in lists
    ]
    (base,) = checked(tmp_path, scored, references, model=ngram)
    assert base.check == "proportional" and "log10, where '2gram (--model)' is in nats" in base.what


def test_scales_and_the_test_set(lists: Lists, references: Texts, tmp_path: Path) -> None:
    scales = {
        "good": Scales({"am": 1.0, "bigram": 0.7}, words=1.0),
        "edge": Scales({"am": 1.0, "bigram": 3.0}),
        "unknown": Scales({"am": 1.0, "lm": 0.5}),
        "flat": Scales({"am": 1e6, "bigram": 1.0}),
    }
    found = checked(tmp_path, lists, references, scales=scales)
    assert [(finding.check, finding.severity) for finding in found] == [
        ("scales", "error"),
        *[("scales", "warning")] * 2,
    ]
    assert "'unknown' has a scale for 'lm'" in found[0].what
    assert "at an end" in found[1].what and "'edge'" in found[1].what
    assert "makes no difference" in found[2].what and "'flat'" in found[2].what
    write_nbest(tmp_path / "test.jsonl", lists[40:])
    (same,) = checked(tmp_path, lists[:50], dict(list(references.items())[:50]), tests=[str(tmp_path / "test.jsonl")])
    assert same.check == "test set" and same.what.startswith("10 of 20 utterances")


@pytest.mark.parametrize("name", ["dev", "test"])
def test_clean_lists_have_no_findings(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"dev": "test", "test": "dev"}[name]
    command = [f"{DEMO}/{name}.nbest.py.gz", f"bigram={DEMO}/{name}.bigram.py.gz", "--refs", f"{DEMO}/{name}.ref.py.gz"]
    options = ["--test", f"{DEMO}/{other}.nbest.py.gz", "--scales", "x=am:1,bigram:0.7,words:1"]
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", *command, *options, "--model", f"{DEMO}/masked-long"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, "no findings\n")


def test_the_exit_status_is_that_of_the_errors(
    lists: Lists, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lists.jsonl"
    for change, status in ((SCORE_FAULTS["costs"][1], 1), (SCORE_FAULTS["positive"][1], 0)):
        write_nbest(path, with_scores(lists, change))
        for options in ([], ["--json", "--format", "json-lines"]):
            with pytest.raises(SystemExit) as stopped:
                main(["doctor", str(path), *options])
            out = capsys.readouterr().out
            assert stopped.value.code == status
            assert (json.loads(out)[0]["check"] if options else out.split(": ")[1]) == "sign"


def test_a_check_can_be_added(lists: Lists, references: Texts, tmp_path: Path) -> None:
    def long_lists(case: Case) -> Iterator[Finding]:
        yield Finding("warning", "long", case.sources[0].path, "cut them")

    CHECKS.add("long", long_lists)
    try:
        (found,) = checked(tmp_path, attach_references(lists, references), references)
    finally:
        CHECKS.remove("long")
    assert str(found) == f"warning: long: {tmp_path}/lists.jsonl: long; cut them"
