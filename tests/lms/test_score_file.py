"""Score files: one process at a time, whole or refused, and the same bytes after any interruption. With a scorer that counts letters."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from rescore import score_file as module
from rescore.cost import Cost, read_cost, write_cost
from rescore.lms.base import LanguageModelScorer, texts_of
from rescore.nbest import read_metadata, read_nbest, write_nbest
from rescore.nbest.types import Hypothesis, NBestList
from rescore.score_file import GROUP, merge_parts, score_file
from rescore.scores import LOG_P, SequenceScore, UnknownCounts
from returnn_bridge.files import lock

SUFFIXES = (".jsonl", ".jsonl.gz", ".py", ".py.gz")


class LetterScorer(LanguageModelScorer):
    """log p of a text: minus its number of letters; words with an x are unknown to it, and "nan" has no score."""

    name = "lm"
    source = "letters.model"

    def __init__(self) -> None:
        self.calls, self._unknown = 0, UnknownCounts(0, 0, "words")

    def describe(self):
        return {"kind": "letters"}

    def unknown(self):
        return self._unknown

    def score_group(self, utterances):
        return [self.score_utterance(utterance.seq_tag, texts_of(utterance)) for utterance in utterances]

    def score_utterance(self, seq_tag, texts):
        self.calls += 1
        words = [word for text in texts for word in text.split()]
        self._unknown += UnknownCounts(sum("x" in word for word in words), len(words), "words")
        return [SequenceScore(float("nan") if "nan" in text else -float(len(text)), 0.0, 0, 1, LOG_P) for text in texts]


@pytest.fixture
def lists(tmp_path) -> str:
    made = [
        NBestList(f"u{n}", tuple(Hypothesis(f"{'ab ' * (n % 5)}{w}", {"am": -1.5 - n}) for w in ("one", "two x")))
        for n in range(2 * GROUP + 3)
    ]
    write_nbest(tmp_path / "lists.jsonl", made)
    return str(tmp_path / "lists.jsonl")


def partial_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


@pytest.fixture
def unpublished(lists, tmp_path, monkeypatch):
    """The result of every suffix, and beside it a second one as a process leaves it that is killed before it publishes."""

    def killed(*arguments):
        raise KeyboardInterrupt

    whole = {}
    for suffix in SUFFIXES:
        score_file([lists], LetterScorer(), tmp_path / f"whole{suffix}")
        whole[suffix] = (tmp_path / f"whole{suffix}").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(module, "_publish", killed)
            with pytest.raises(KeyboardInterrupt):
                score_file([lists], LetterScorer(), tmp_path / f"out{suffix}")
        assert not (tmp_path / f"out{suffix}").exists() and partial_of(tmp_path / f"out{suffix}").exists()
    return whole


# --- one process at a time


def test_a_second_process_is_refused_at_once_and_changes_nothing(lists, tmp_path):
    out = tmp_path / "out.jsonl"
    partial_of(out).write_bytes(b"lines of the first process")
    score_file([lists], LetterScorer(), tmp_path / "part.jsonl", shard=(0, 1))
    scorer = LetterScorer()
    with lock(out):
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        for second in (lambda: score_file([lists], scorer, out), lambda: merge_parts([tmp_path / "part.jsonl"], out)):
            with pytest.raises(ValueError, match=rf"out\.jsonl: process {os.getpid()} on .* is writing it"):
                second()
            assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert scorer.calls == 0


def test_lines_of_two_processes_in_one_hidden_file_do_not_stand_in_the_way(lists, tmp_path, unpublished):
    """What a version without a lock left: every line twice, or the second process's lines without a header. It failed for ever."""
    data = partial_of(tmp_path / "out.jsonl").read_bytes()
    head, *lines = data.splitlines(keepends=True)
    broken = {
        "twice": head + b"".join(line + line for line in lines),
        "two headers": data + data,
        "half a line inside": head + b"".join(lines[:10]) + lines[10][:20] + b"".join(lines[11:]),
        "behind the end": data + lines[0],
        "no header": b"".join(lines[GROUP:]),
        "other utterance": head + b"".join([lines[1], lines[0], *lines[2:]]),
    }
    for number, content in enumerate(broken.values()):
        out = tmp_path / f"healed{number}.jsonl"
        partial_of(out).write_bytes(content)
        score_file([lists], LetterScorer(), out)
        assert out.read_bytes() == unpublished[".jsonl"]
        assert not partial_of(out).exists()


def test_a_result_is_never_published_without_its_header(lists, tmp_path):
    """A process that lost its hidden file to another one ended with a file of the last group alone."""
    out = tmp_path / "out.jsonl"

    class Meddler(LetterScorer):
        def score_utterance(self, seq_tag, texts):
            if seq_tag == f"u{2 * GROUP}":
                partial_of(out).unlink()
            return super().score_utterance(seq_tag, texts)

    with pytest.raises(ValueError, match=r"partial: does not hold the utterances that were scored"):
        score_file([lists], Meddler(), out)
    assert not out.exists()
    score_file([lists], LetterScorer(), out)
    assert read_metadata(out)["scores"] == {"lm": {"kind": "letters"}}
    assert len(read_nbest(out)) == 2 * GROUP + 3


# --- killed at the very end


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("written", [False, True])
def test_killed_at_the_very_end_the_same_command_ends_in_the_same_bytes(lists, tmp_path, unpublished, suffix, written):
    out, scorer = tmp_path / f"out{suffix}", LetterScorer()
    if written:
        out.write_bytes(unpublished[suffix])
    run = score_file([lists], scorer, out)
    assert out.read_bytes() == unpublished[suffix]
    assert (scorer.calls, run.hypotheses, run.was_complete) == (0, 2 * (2 * GROUP + 3), written)
    assert not partial_of(out).exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_finished_result_is_complete_when_it_is_asked_for_again(lists, tmp_path, suffix):
    out, scorer = tmp_path / f"out{suffix}", LetterScorer()
    first = score_file([lists], scorer, out)
    calls, content = scorer.calls, out.read_bytes()
    again = score_file([lists], scorer, out)
    assert (scorer.calls, out.read_bytes(), again.was_complete, again.cost) == (calls, content, True, first.cost)
    assert again.hypotheses == first.hypotheses and "complete already" in again.note()
    other = LetterScorer()
    other.describe = lambda: {"kind": "other letters"}
    with pytest.raises(ValueError, match=r"out\..*: exists and was made with other settings or lists"):
        score_file([lists], other, out)
    assert out.read_bytes() == content


def test_a_py_result_that_was_changed_is_not_called_complete(lists, tmp_path):
    out = tmp_path / "out.py"
    score_file([lists], LetterScorer(), out)
    out.write_text(out.read_text().replace("-3.0", "-4.0"))
    with pytest.raises(ValueError, match=r"out\.py: was changed after it was written"):
        score_file([lists], LetterScorer(), out)
    (tmp_path / "out.py.cost.json").unlink()
    with pytest.raises(ValueError, match=r"out\.py: exists, and its format does not record"):
        score_file([lists], LetterScorer(), out)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("moment", ["write_cost", "_append", "_publish", "_write_final_cost"])
@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("after", [False, True])
def test_the_cost_counts_every_group_once_wherever_a_process_is_killed(
    lists, tmp_path, monkeypatch, suffix, moment, group, after
):
    class Counting(LetterScorer):
        @property
        def passes_run(self):
            return self.calls

    def recorded(name):
        tree = json.loads((tmp_path / f"{name}{suffix}.cost.json").read_text())
        return {key: value for key, value in tree.items() if key != "seconds"}

    score_file([lists], Counting(), tmp_path / f"whole{suffix}")
    unharmed, calls = getattr(module, moment), []

    def killed(*arguments, **options):
        calls.append(None)
        last = len(calls) > group or moment in ("_publish", "_write_final_cost")
        if after or not last:
            unharmed(*arguments, **options)
        if last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            score_file([lists], Counting(), tmp_path / f"out{suffix}")
    run = score_file([lists], Counting(), tmp_path / f"out{suffix}")
    assert recorded("out") == recorded("whole") and run.passes == 2 * GROUP + 3
    assert not partial_of(tmp_path / f"out{suffix}").exists()


@pytest.mark.parametrize("content", ["[]", '{"seconds": "1"}', '{"passes": 1, "unknown": [1]}', "{"])
def test_a_damaged_cost_file_is_one_line(lists, tmp_path, content):
    out = tmp_path / "out.jsonl"
    score_file([lists], LetterScorer(), out)
    (tmp_path / "out.jsonl.cost.json").write_text(content)
    with pytest.raises(ValueError, match=r"out\.jsonl\.cost\.json.*expected"):
        score_file([lists], LetterScorer(), out)


def test_a_file_that_is_not_the_result_is_not_replaced_by_it(lists, tmp_path, unpublished):
    out = tmp_path / "out.py"
    out.write_text("{'u0': [(-1.0, 'mine')]}\n")
    with pytest.raises(ValueError, match=r"out\.py: exists, and its format does not record"):
        score_file([lists], LetterScorer(), out)
    assert "mine" in out.read_text() and partial_of(out).exists()


def test_what_the_model_did_not_know_is_counted_across_interruptions(lists, tmp_path):
    class Killed(LetterScorer):
        def score_utterance(self, seq_tag, texts):
            if seq_tag == f"u{GROUP + 2}":
                raise KeyboardInterrupt
            return super().score_utterance(seq_tag, texts)

    whole = score_file([lists], LetterScorer(), tmp_path / "whole.jsonl").unknown
    with pytest.raises(KeyboardInterrupt):
        score_file([lists], Killed(), tmp_path / "out.jsonl")
    runs = [score_file([lists], LetterScorer(), tmp_path / "out.jsonl") for _ in range(2)]
    assert [run.unknown for run in runs] == [whole, whole]
    assert (whole.count, whole.unit) == (2 * GROUP + 3, "words")
    for part in range(2):
        score_file([lists], LetterScorer(), tmp_path / f"part{part}.jsonl", shard=(part, 2))
    assert merge_parts([tmp_path / f"part{part}.jsonl" for part in range(2)], tmp_path / "all.jsonl").unknown == whole


# --- lines that are lost or changed


@pytest.fixture
def parts(lists, tmp_path) -> list[Path]:
    """Four shards of three groups: one is empty."""
    found = [tmp_path / f"part{part}.jsonl" for part in range(4)]
    for part, path in enumerate(found):
        score_file([lists], LetterScorer(), path, shard=(part, 4))
    return found


def test_the_header_tells_the_number_and_digest_of_the_lines(lists, tmp_path, parts):
    import hashlib

    score_file([lists], LetterScorer(), tmp_path / "out.jsonl")
    for path, count in [(tmp_path / "out.jsonl", 19), *zip(parts, (0, 8, 0, 11))]:
        head, _, body = path.read_bytes().partition(b"\n")
        assert list(json.loads(head).items())[-2:] == [
            ("utterances", body.count(b"\n")),
            ("sha256", hashlib.sha256(body).hexdigest()),
        ]
        assert body.count(b"\n") == count or path in parts
    assert sum(json.loads(path.read_bytes().splitlines()[0])["utterances"] for path in parts) == 19


def cut(path: Path) -> None:
    """Lose the last line."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    data = b"".join(data.splitlines(keepends=True)[:-1])
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_result_that_lost_lines_is_not_complete(lists, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    score_file([lists], LetterScorer(), out)
    cut(out)
    for reader in (lambda: score_file([lists], LetterScorer(), out), lambda: read_nbest(out)):
        with pytest.raises(
            ValueError, match=r"out\.jsonl(\.gz)?: holds 18 utterances; expected 19, as its header says"
        ):
            reader()


def test_a_part_that_lost_lines_is_not_merged(tmp_path, parts):
    full = max(parts, key=lambda path: path.stat().st_size)
    cut(full)
    with pytest.raises(ValueError, match=rf"{full.name}: holds \d+ utterances; expected \d+"):
        merge_parts(parts, tmp_path / "all.jsonl")
    full.write_bytes(full.read_bytes().splitlines(keepends=True)[0])  # all of its lines: it looks like an empty shard
    with pytest.raises(ValueError, match=rf"{full.name}: holds 0 utterances; expected \d+"):
        merge_parts(parts, tmp_path / "all.jsonl")
    assert not (tmp_path / "all.jsonl").exists()


def test_changed_lines_are_refused_until_the_header_says_nothing_of_them(lists, tmp_path):
    out = tmp_path / "out.jsonl"
    score_file([lists], LetterScorer(), out)
    out.write_text(out.read_text().replace('"am": -1.5,', '"am": -2.5,'))
    with pytest.raises(
        ValueError, match=r"out\.jsonl: its lines have the sha256 .*remove .utterances. and .sha256. from"
    ) as caught:
        read_nbest(out)
    assert "\n" not in str(caught.value)
    head, _, body = out.read_text().partition("\n")
    header = {key: value for key, value in json.loads(head).items() if key not in ("utterances", "sha256")}
    out.write_text(json.dumps(header) + "\n" + body)
    assert read_nbest(out)[0].hypotheses[0].scores["am"] == -2.5
    assert read_metadata(out) == {key: value for key, value in header.items() if key not in ("format", "version")}


def test_older_files_without_count_are_read_and_compared_with_the_lists(lists, tmp_path, unpublished):
    out = tmp_path / "old.jsonl"
    data = partial_of(tmp_path / "out.jsonl").read_bytes()  # this is how results looked
    out.write_bytes(data)
    assert score_file([lists], LetterScorer(), out).was_complete
    out.write_bytes(b"".join(data.splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"old\.jsonl: holds 18 utterances, not those of the lists; expected all 19"):
        score_file([lists], LetterScorer(), out)


@pytest.mark.parametrize("value", ['"19"', "true", "1.0"])
def test_a_header_with_a_wrong_count_is_one_line(tmp_path, value):
    path = tmp_path / "h.jsonl"
    path.write_text(f'{{"format": "nbest-jsonl", "version": 1, "utterances": {value}}}\n')
    with pytest.raises(ValueError, match=r"h\.jsonl:1: got utterances .*; expected their number"):
        read_nbest(path)
    with pytest.raises(ValueError, match='metadata may not set "sha256"'):
        write_nbest(path, [NBestList("u", (Hypothesis("x", {"am": 1.0}),))], metadata={"sha256": "0"})


# --- merging


def test_merging_gives_the_bytes_of_one_run_in_every_form_and_again(lists, tmp_path, parts):
    for suffix in SUFFIXES:
        score_file([lists], LetterScorer(), tmp_path / f"whole{suffix}")
        for _ in range(2):
            run = merge_parts(parts[::-1], tmp_path / f"all{suffix}")
            assert (tmp_path / f"all{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
        assert run.was_complete


def test_merging_onto_a_part_or_onto_something_else_is_refused(lists, tmp_path, parts):
    os.link(parts[1], tmp_path / "link.jsonl")
    (tmp_path / "symlink.jsonl").symlink_to(parts[2])
    score_file([lists], LetterScorer(), tmp_path / "other.jsonl", new_only=True)
    write_nbest(tmp_path / "other.py", [NBestList("u", (Hypothesis("x", {"am": 1.0}),))])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name, message in (
        ("part1.jsonl", "is an input of this command;"),
        ("link.jsonl", r"is an input of this command, as .*part1\.jsonl;"),
        ("symlink.jsonl", r"is an input of this command, as .*part2\.jsonl;"),
        ("other.jsonl", "exists and holds something else"),
        ("other.py", "exists and holds something else"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: {message}"):
            merge_parts(parts, tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- scores that are none


def test_a_score_that_is_no_number_names_model_utterance_and_rank(tmp_path):
    texts = [["tom sells bread"], ["tom sells bread", "tom sells nan bread"]]
    lists = [NBestList(f"u{n}", tuple(Hypothesis(text, {"am": 1.0}) for text in own)) for n, own in enumerate(texts)]
    write_nbest(tmp_path / "lists.py", lists)
    scorer = LetterScorer()
    with pytest.raises(
        ValueError, match=r"^letters\.model: hypothesis 2 of 'u1', 'tom sells nan bread': a score is nan;"
    ):
        score_file([str(tmp_path / "lists.py")], scorer, tmp_path / "out.jsonl")


@pytest.mark.parametrize("shard", [[0.5, 2], [True, 2], [], [3, 2], [0, 2], "1 of 2"])
def test_a_part_whose_header_does_not_say_which_it_is_is_not_merged(tmp_path, parts, shard):
    head, *lines = parts[0].read_text().splitlines(keepends=True)
    odd = tmp_path / "odd.jsonl"
    odd.write_text(json.dumps({**json.loads(head), "shard": shard}) + "\n" + "".join(lines))
    with pytest.raises(ValueError, match=r"odd\.jsonl:1: shard is .*; expected \[number, number of parts\]"):
        merge_parts([odd, *parts[1:]], tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seconds", "1"),
        ("seconds", True),
        ("passes", -1),
        ("utterances", 1.5),
        ("unknown", [1, 2]),
        ("unknown", [1, 2, "x"]),
    ],
)
def test_a_cost_of_another_type_names_its_file_and_key(tmp_path, key, value):
    (tmp_path / "a.jsonl.cost.json").write_text(json.dumps({key: value}))
    with pytest.raises(ValueError, match=rf"a\.jsonl\.cost\.json: {key} is .*; expected the file that scoring wrote"):
        read_cost(tmp_path / "a.jsonl")


def test_a_cost_is_read_as_it_was_written_and_costs_of_parts_add_up(tmp_path):
    cost = Cost(1.5, 3, UnknownCounts(1, 9, "words"), 4)
    write_cost(tmp_path / "a.jsonl", cost, total=8)
    assert read_cost(tmp_path / "a.jsonl") == cost
    assert cost + cost == Cost(3.0, 6, UnknownCounts(2, 18, "words"), 8)
    assert (cost + Cost(1.0, 1, None, 2)).unknown is None, "one part was not counted"
