"""What the verbs write: never over what they were given, never over lists, and before anything is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rescore.cli import main
from rescore.nbest import read_metadata, write_nbest
from rescore.nbest.formats.returnn_py import iterate_texts
from rescore.nbest.references import write_transcripts
from rescore.nbest.types import Hypothesis, NBestList

ROOT = Path(__file__).parents[2]
TEXT = "a b c a b d\n" * 3 + "a b e\nf a\nf a b\nd a\n"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def files(tmp_path, monkeypatch, capsys) -> Path:
    """One of every kind of file that a verb takes, in the present folder."""
    monkeypatch.chdir(tmp_path)
    texts = {"u1": ["A B E", "A B"], "u2": ["F A", "F A B"]}
    lists = [
        NBestList(tag, tuple(Hypothesis(text, {"am": -float(rank)}) for rank, text in enumerate(own)))
        for tag, own in texts.items()
    ]
    for name in ("lists.py", "lists.jsonl", "lists.json"):
        write_nbest(name, lists)
    write_nbest(
        "lm.jsonl", [NBestList(u.seq_tag, tuple(Hypothesis(h.text, {"lm": -1.0}) for h in u.hypotheses)) for u in lists]
    )
    write_transcripts("refs.py", {"u1": "A B", "u2": "F A"})
    Path("refs.json").write_text('{"u1": "A B", "u2": "F A"}')
    Path("text.txt").write_text(TEXT)
    assert run("ngram", "text.txt", "--order", "2", "--out", "lm.arpa") == 0
    assert run("tune", "lists.py", "lm.jsonl", "--refs", "refs.py", "--out", "scales.json") == 0
    assert run("wer", "lists.py", "--refs", "refs.py", "--out", "table.json") == 0
    Path("folder").mkdir()
    for name, link in (
        ("lists.py", "folder/wer.md"),
        ("refs.py", "folder/report.html"),
        ("lm.arpa", "folder/wer.json"),
    ):
        os.link(name, link)
    capsys.readouterr()
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WER = ["wer", "lists.py", "lm.jsonl", "--refs", "refs.json"]
TUNE = ["tune", "lists.py", "lm.jsonl", "--refs", "refs.json"]
RESCORE = ["rescore", "--out", "folder", "--lm", "ng=lm.arpa"]
OVER_AN_INPUT = {
    "convert": ["convert", "lists.py", "lists.py"],
    "convert to itself by another name": ["convert", "am=lists.py", "./lists.py"],
    "score": ["score", "lists.jsonl", "--model", "lm.arpa", "--out", "lists.jsonl"],
    "wer on the references": [*WER, "--out", "refs.json"],
    "wer on the lists": ["wer", "lists.json", "--refs", "refs.py", "--out", "lists.json"],
    "wer on the scales": [*WER, "--scales", "tuned=scales.json", "--out", "scales.json"],
    "transcripts on the lists": [*WER, "--transcripts", "lists.py"],
    "transcripts on the references": ["wer", "lists.py", "--refs", "refs.py", "--transcripts", "refs.py"],
    "tune on the lists": [*TUNE, "--out", "lm.jsonl"],
    "tune on the references": [*TUNE, "--out", "refs.json"],
    "overview": ["overview", "dev=table.json", "--out", "table.json"],
    "ngram": ["ngram", "text.txt", "--out", "text.txt"],
    "perplexity on the text": ["perplexity", "lm.arpa", "text.txt", "--out", "text.txt"],
    "perplexity on the model": ["perplexity", "lm.arpa", "text.txt", "--out", "lm.arpa"],
    "rescore on its lists": [*RESCORE, "--tune", "lists.py", "--tune-refs", "refs.json", "--test", "lists.json", "--test-refs", "refs.json"],
    "rescore on its references": [*RESCORE, "--tune", "lists.json", "--tune-refs", "refs.json", "--test", "lists.json", "--test-refs", "refs.py"],
    "rescore on its model": [*RESCORE, "--tune", "lists.json", "--tune-refs", "refs.json", "--test", "lists.json", "--test-refs", "refs.json"],
    "race": ["race", "lists.jsonl", "--model", "lm.arpa", "--calibration", "scales.json", "--out", "lists.jsonl"],
}  # fmt: skip


@pytest.mark.parametrize("case", OVER_AN_INPUT)
def test_no_verb_writes_over_its_own_input(files, capsys, case):
    before = contents(files)
    assert run(*OVER_AN_INPUT[case]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert ": is an input of this command" in captured.err
    assert captured.out == ""
    assert contents(files) == before


def test_models_give_no_samples_over_themselves(files, ar_folder, model_folder, capsys):
    before = contents(files)
    for options in (
        ["--like", "text.txt", "--out", "text.txt"],
        ["--length", "3", "--judge", "lm.arpa", "--out", "lm.arpa"],
    ):
        assert run("sample", ar_folder, *options) == 1
        assert "is an input of this command" in capsys.readouterr().err
    assert run("perplexity", ar_folder, "text.txt", "--out", "text.txt") == 1
    assert contents(files) == before


OVER_LISTS = {
    "wer": ["wer", "lists.py", "--refs", "refs.py", "--out", "lists.json"],
    "transcripts": ["wer", "lists.json", "--refs", "refs.py", "--transcripts", "lists.py"],
    "tune": ["tune", "lists.py", "lm.jsonl", "--refs", "refs.py", "--out", "lists.jsonl"],
    "tune over lists of one score": ["tune", "lists.jsonl", "lm.jsonl", "--refs", "refs.py", "--out", "lists.py"],
    "tune, scores under another name": ["tune", "lists.py", "lm.jsonl", "--refs", "refs.py", "--out", "scores"],
    "overview": ["overview", "dev=table.json", "--out", "lists.json"],
}  # fmt: skip


@pytest.mark.parametrize("case", OVER_LISTS)
def test_tables_and_scales_never_replace_lists(files, capsys, case):
    Path("scores").write_bytes(Path("lists.jsonl").read_bytes())
    before = contents(files)
    assert run(*OVER_LISTS[case]) == 1
    assert "holds N-best lists; expected another name for the output" in capsys.readouterr().err
    assert contents(files) == before


def test_an_earlier_result_of_the_same_kind_is_replaced(files):
    for _ in range(2):
        assert run(*TUNE, "--out", "scales.json") == 0
        assert (
            run(*WER, "--out", "table.json", "--out", "t.md", "--transcripts", "best.py", "--transcripts", "b.trn") == 0
        )
        assert run("overview", "dev=table.json", "--out", "o.json", "--out", "t.md") == 0


@pytest.mark.parametrize(
    "command",
    [[*WER, "--out", "t.pdf"], [*WER, "--transcripts", "t.doc"], ["overview", "dev=missing.json", "--out", "t.pdf"]],
)
def test_suffixes_are_known_before_the_work(files, capsys, command):
    Path("refs.json").write_text("no JSON")
    assert run(*command) == 1
    assert "expected a name ending in" in capsys.readouterr().err


# --- the screen


class Closed:
    """A standard output whose reader has gone."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        raise BrokenPipeError(32, "Broken pipe")

    def isatty(self):
        return False

    def fileno(self):
        return os.open(os.devnull, os.O_WRONLY)


SETS = ["--tune", "lists.py", "--tune-refs", "refs.py", "--test", "lists.py", "--test-refs", "refs.py"]
SHOWN = {
    "wer": ([*WER, "--out", "new.csv", "--transcripts", "new.txt"], ["new.csv", "new.txt"]),
    "overview": (["overview", "dev=table.json", "--out", "new.md"], ["new.md"]),
    "tune": ([*TUNE, "--out", "new.json"], ["new.json"]),
    "perplexity": (["perplexity", "lm.arpa", "text.txt", "--out", "new.json"], ["new.json"]),
    "convert": (["convert", "lists.py", "new.jsonl"], ["new.jsonl"]),
    "score": (["score", "lists.py", "--model", "ng=lm.arpa", "--out", "new.jsonl"], ["new.jsonl"]),
    "merge": (["merge", "part.jsonl", "--out", "new.jsonl", "--out", "new.py"], ["new.jsonl", "new.py"]),
    "rescore": (
        ["rescore", *SETS, "--lm", "ng=lm.arpa", "--out", "new"],
        ["new/wer.md", "new/wer.json", "new/report.html", "new/scales/ng.json"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("verb", SHOWN)
def test_files_are_written_whatever_becomes_of_the_screen(files, monkeypatch, capsys, verb):
    command, written = SHOWN[verb]
    assert run("score", "lists.py", "--model", "ng=lm.arpa", "--out", "part.jsonl", "--shard", "1/1") == 0
    if verb == "rescore":  # what is there already is said, too
        assert run("score", "lists.py", "--model", "ng=lm.arpa", "--out", "new/tune.ng.jsonl") == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        status = run(*command)
    assert status != 0
    assert capsys.readouterr().err == ""
    assert all(Path(name).stat().st_size for name in written)


def test_samples_and_perplexity_of_networks_are_written_first(files, ar_folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        assert run("sample", ar_folder, "--count", "2", "--length", "3", "--out", "s.txt") != 0
        patch.setattr(sys, "stdout", Closed())
        assert run("perplexity", ar_folder, "text.txt", "--out", "p.json") != 0
    assert len(Path("s.txt").read_text().splitlines()) == 2
    assert json.loads(Path("p.json").read_text())["exact"] is True


def test_a_training_goes_on_when_nobody_reads_its_lines(tmp_path, vocab_folder, text_file, monkeypatch):
    settings = [f"data.vocab={vocab_folder}", f"data.text=[{text_file}]", "data.num_workers=0", "data.batch_size=300"]
    settings += ["trainer.max_steps=2", "trainer.log_every=1", "trainer.logger=none"]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        assert run("train", "--preset", "demo_ar:tiny", "--out", tmp_path / "run", *settings) == 141
    assert (tmp_path / "run" / "model" / "config.json").is_file()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_is_closed_ends_quietly(files, unbuffered):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'recipe'}:{ROOT}", "PYTHONUNBUFFERED": unbuffered}
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rescore", *WER, "--out", "new.csv", "--transcripts", "new.txt"]
    done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode != 0, done.stderr) == (True, "")
    assert Path("new.csv").is_file() and Path("new.txt").is_file()


# --- what is said


def test_rescore_says_what_the_models_did_not_know(files, capsys):
    """Lists in upper case and a model of lower-case words: the score counts words, and every form of the table says so."""
    command = ["rescore", *SETS, "--lm", "ng=lm.arpa", "--out", "new"]
    for _ in range(2):  # the second time nothing is scored
        assert run(*command) == 0
        shown = capsys.readouterr().out
        files_of = [Path(f"new/{name}").read_text() for name in ("wer.md", "wer.json", "report.html", "wer.tex")]
        for text in (shown, *files_of):
            assert "ng, 10 of 10 words" in text
            assert "row “+ ng”: ng does not know most words of these lists" in text
    assert "complete already, nothing to do" in shown
    table = json.loads(Path("new/wer.json").read_text())
    assert table["unknown"] == {"ng": {"count": 10, "total": 10, "unit": "words"}}
    assert run("wer", "new/test.ng.jsonl", "--refs", "refs.py", "--scales", "x=am:1,ng:1") == 0
    assert "row “x”: ng does not know most words" in capsys.readouterr().out
    assert run("wer", "new/test.ng.jsonl", "--refs", "refs.py", "--scales", "x=am:1,ng:0") == 0
    assert "does not know most" not in capsys.readouterr().out


def test_the_recognisers_order_is_the_baseline_and_what_misleads_is_said(files, capsys):
    """A gain over the first score alone can be a loss against the recogniser, which has used the other scores too."""
    assert run("rescore", *SETS, "--lm", "ng=lm.arpa", "--row", "x=am:1", "--out", "new") == 0
    shown = capsys.readouterr().out
    table = json.loads(Path("new/wer.json").read_text())
    assert (table["baseline"], [row["system"] for row in table["rows"]]) == (
        "first in list",
        ["first in list", "x", "oracle"],
    )
    assert "note: no row uses the score 'ng'" in shown
    for text in (shown, Path("new/wer.md").read_text(), Path("new/report.html").read_text()):
        assert "2 of the 2 utterances of this table are also in the tuning set" in text


def test_references_without_words_name_their_file(files, capsys):
    Path("empty.py").write_text("{'u1': '', 'u2': ' '}")
    for command in (
        ["wer", "lists.py", "--refs", "empty.py"],
        ["tune", "lists.py", "lm.jsonl", "--refs", "empty.py", "--out", "s.json"],
        ["rescore", *SETS[:-1], "empty.py", "--lm", "ng=lm.arpa", "--out", "new"],
    ):
        assert run(*command) == 1
        assert capsys.readouterr().err.startswith("dlm: empty.py: the references have no words; expected some")
    assert not list(files.glob("new/*.jsonl"))


@pytest.mark.parametrize("name", ["oracle", "first in list"])
def test_rows_may_not_have_the_names_that_every_table_has(files, capsys, name):
    assert run(*WER, "--scales", f"{name}=am:1", "--out", "t.json") == 1
    assert f"{name!r}" in capsys.readouterr().err
    Path("oracle.json").write_bytes(Path("scales.json").read_bytes())
    assert run(*WER, "--scales", "oracle.json") == 1
    assert "a row is named 'oracle'; expected another name (NAME=...)" in capsys.readouterr().err
    assert run("rescore", *SETS, "--row", "oracle=am:1", "--out", "new") == 1
    assert "a row is named 'oracle'" in capsys.readouterr().err


def test_nothing_is_written_where_a_transcript_can_not_hold_a_word(files, capsys):
    Path("odd.py").write_text("{'u1': [(-1.0, 'm{me} says')], 'u2': [(-1.0, 'x')]}")
    before = contents(files)
    assert (
        run("wer", "odd.py", "--refs", "refs.py", "--out", "t.csv", "--transcripts", "b.txt", "--transcripts", "b.trn")
        == 1
    )
    assert "b.trn: utterance 'u1': the word 'm{me}' can not stand in a .trn file" in capsys.readouterr().err
    assert contents(files) == before


def test_converted_lists_tell_their_digest(files):
    assert run("convert", "lists.py", "new.jsonl.gz") == 0
    assert read_metadata("new.jsonl.gz") == {}
    assert run("convert", "new.jsonl.gz", "new.jsonl") == 0
    assert set(json.loads(Path("new.jsonl").read_text().splitlines()[0])) == {
        "format",
        "version",
        "utterances",
        "sha256",
    }
    lines = Path("new.jsonl").read_text().splitlines(keepends=True)
    Path("new.jsonl").write_text("".join(lines[:-1]))
    assert run("convert", "new.jsonl", "new.py") == 1
    assert not Path("new.py").exists()


def test_scores_of_minus_infinity_are_counted_in_file_and_report(tmp_path, monkeypatch, capsys):
    """The best text of u1 has one, so no verb chooses it."""
    monkeypatch.chdir(tmp_path)
    Path("lists.py").write_text("{'u1': [(-inf, 'A B'), (-2.0, 'A')], 'u2': [(-1.0, 'F A'), (-inf, 'F')]}")
    write_transcripts("refs.py", {"u1": "A B", "u2": "F A"})
    Path("text.txt").write_text(TEXT.upper())
    assert run("ngram", "text.txt", "--order", "2", "--out", "lm.arpa") == 0
    assert run("score", "lists.py", "--model", "ng=lm.arpa", "--out", "scored.jsonl") == 0
    assert run("tune", "scored.jsonl", "--refs", "refs.py", "--out", "scales.json") == 0
    assert "2 hypotheses have am score -inf and are never chosen" in capsys.readouterr().out
    wer = ["wer", "scored.jsonl", "--refs", "refs.py", "--scales", "tuned=scales.json", "--out", "wer.json"]
    assert run(*wer, "--transcripts", "best.py") == 0
    assert json.loads(Path("wer.json").read_text())["never_chosen"] == {"am": 2}
    assert dict(iterate_texts("best.py")) == {"u1": "A", "u2": "F A"}
    rescored = ["rescore", "--tune", "lists.py", "--tune-refs", "refs.py", "--test", "lists.py"]
    assert run(*rescored, "--test-refs", "refs.py", "--lm", "ng=lm.arpa", "--out", "out") == 0
    for file in ("wer.md", "report.html"):
        assert "Scores of -inf: 2 of am." in Path("out", file).read_text()


def test_formats_are_listed_and_a_conversion_says_what_it_loses(files, capsys):
    assert run("formats") == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in f"\n{shown}" for name in ("returnn-py", "kaldi-nbest", "espnet", "trn", "jsonl"))
    assert run("score", "lists.py", "--model", "ng=lm.arpa", "--out", "ng.jsonl") == 0
    assert run("convert", "ng.jsonl", "folder.kaldi", "--to-format", "kaldi-nbest") == 0
    assert "without details of the scores, which kaldi-nbest does not hold" in capsys.readouterr().out
    assert run("wer", "folder.kaldi", "--refs", "refs.py", "--transcripts", "best.trn") == 0
    for _ in range(2):  # transcripts may be written again, and are lists with one hypothesis
        assert run("wer", "folder.kaldi", "--refs", "refs.py", "--transcripts", "best.trn") == 0
        first = capsys.readouterr().out.splitlines()[2].split("|")[1:6]
    assert run("wer", "best.trn", "--refs", "refs.py") == 0
    assert capsys.readouterr().out.splitlines()[2].split("|")[1:6] == first
