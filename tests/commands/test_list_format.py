"""`--format` names the format of lists whose suffixes do not tell; the result is that of the same lists under their
usual names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rescore.cli import main
from rescore.nbest import write_nbest
from rescore.nbest.references import write_transcripts
from rescore.nbest.types import Hypothesis, NBestList


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def files(tmp_path, monkeypatch, capsys) -> Path:
    """The same lists as lists.py and as lists.1best, a 2-gram, references."""
    monkeypatch.chdir(tmp_path)
    texts = {"u1": ["a b e", "a b"], "u2": ["f a", "f a b"]}
    lists = [
        NBestList(tag, tuple(Hypothesis(text, {"am": -float(rank)}) for rank, text in enumerate(own)))
        for tag, own in texts.items()
    ]
    write_nbest("lists.py", lists)
    shutil.copy("lists.py", "lists.nbest")
    write_transcripts("refs.stm", {"u1": "a b", "u2": "f a"})
    Path("text.txt").write_text("a b c a b d\n" * 3 + "a b e\nf a\nf a b\nd a\n")
    assert run("ngram", "text.txt", "--order", "2", "--out", "lm.arpa") == 0
    capsys.readouterr()
    return tmp_path


@pytest.mark.parametrize(
    "command, outputs",
    [
        ("score {lists} --model lm.arpa --out {out}.jsonl", [".jsonl"]),
        ("tune {lists} --refs refs.stm --out {out}.json --row am:1,words", [".json"]),
        ("wer {lists} --refs refs.stm --out {out}.csv --transcripts {out}.ctm", [".csv", ".ctm"]),
        (
            "rescore --tune {lists} --tune-refs refs.stm --test {lists} --test-refs refs.stm --lm lm=lm.arpa --out {out}",
            ["/scales/lm.json", "/test.lm.jsonl"],
        ),
        ("convert {lists} {out}.json", [".json"]),
    ],
)
def test_every_verb_that_reads_lists_takes_their_format(files, capsys, command, outputs):
    assert run(*command.format(lists="lists.py", out="by_suffix").split()) == 0
    assert run(*command.format(lists="lists.nbest", out="by_name").split(), "--format", "returnn-py") == 0
    for output in outputs:
        assert Path(f"by_name{output}").read_bytes() == Path(f"by_suffix{output}").read_bytes()
    capsys.readouterr()
    assert run(*command.format(lists="lists.nbest", out="refused").split()) == 1
    error = capsys.readouterr().err
    assert "lists.nbest: unknown N-best format; expected a name ending in .py (returnn-py), " in error
    assert run(*command.format(lists="lists.nbest", out="refused").split(), "--format", "jsonl") == 1
    assert "N-best format 'jsonl' is unknown" in capsys.readouterr().err


def test_convert_names_the_format_of_each_side(files):
    assert run("convert", "lists.nbest", "lists.out", "--format", "returnn-py", "--to-format", "json-lines") == 0
    assert run("convert", "lists.out", "back.py", "--format", "json-lines") == 0
    assert Path("back.py").read_bytes() == Path("lists.py").read_bytes()
