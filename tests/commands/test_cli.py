"""The command line: bad input is one line and a non-zero exit, nothing is left behind; every verb does its job."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import random_model
from rescore.cli import all_commands, main
from rescore.estimators import ESTIMATORS
from rescore.nbest import read_nbest, write_nbest
from rescore.nbest.formats.returnn_py import iterate_lists
from rescore.nbest.types import Hypothesis, NBestList

GOOD = "{\n'a': [\n(-1.0, 'the king said'),\n(-2.0, 'the king went'),\n],\n'b': [\n(-1.5, 'a tree'),\n(-1.0, 'the tree'),\n],\n}\n"
ROOT = Path(__file__).parents[2]
REFS = "{'a': 'the king went', 'b': 'a tree'}\n"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "refs.py").write_text(REFS)
    return tmp_path


def broken_gzip(folder: Path) -> None:
    (folder / "bad.py.gz").write_bytes(gzip.compress(GOOD.encode() * 50)[:60])


MALFORMED = {
    "broken gzip": ("bad.py.gz", None),
    "missing bracket": ("bad.py", GOOD[:-3]),
    "code": ("bad.py", "{'a': [(__import__('os').system('touch hacked'), 'x')]}"),
    "duplicate tag": ("bad.py", GOOD[:-2] + "'a': [(-1.0, 'x')],\n}\n"),
    "nan": ("bad.py", GOOD.replace("-2.0", "nan")),
    "infinite": ("bad.py", GOOD.replace("-2.0", "inf")),
    "score is text": ("bad.py", GOOD.replace("-2.0", "'-2.0'")),
    "three columns": ("bad.py", GOOD.replace("(-2.0,", "(-2.0, 1.0,")),
    "one column": ("bad.py", GOOD.replace("(-2.0, 'the king went')", "(-2.0,)")),
    "empty list": ("bad.py", "{'a': []}"),
    "empty file": ("bad.py", ""),
    "a list": ("bad.py", "[1, 2]"),
    "behind the end": ("bad.py", GOOD + "more"),
    "not UTF-8": ("bad.py", b"{'a': [(-1.0, '\xff')]}"),
    "broken JSON line": ("bad.jsonl", '{"id": "a", "hyps": [{"text": "x", "scores": {"am": -1.0}}]}\n{"id": "b"'),
    "JSON of another shape": ("bad.json", '{"a": {"nbest": []}}'),
    "unknown suffix": ("bad.xml", GOOD),
    "no such file": ("missing.py", None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_lists_are_one_line_and_nothing_is_written(files, model_folder, capsys, monkeypatch, name):
    file, content = MALFORMED[name]
    if content is not None:
        (files / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    elif file.startswith("bad"):
        broken_gzip(files)
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    for command in (
        ("score", file, "--model", f"lm={model_folder}", "--out", "out.jsonl"),
        ("tune", file, "--refs", "refs.py", "--out", "scales.json"),
        ("wer", file, "--refs", "refs.py", "--out", "wer.csv"),
        ("convert", file, "out.jsonl"),
    ):
        assert run(*command) == 1
        captured = capsys.readouterr()
        assert captured.err.count("\n") == 1, captured.err
        assert file in captured.err
        assert "Traceback" not in captured.err
        assert sorted(files.iterdir()) == before


def test_references_of_other_utterances_are_refused(files, capsys):
    (files / "refs.py").write_text("{'a': 'x', 'c': 'y'}")
    assert run("tune", files / "good.py", "--refs", files / "refs.py", "--out", files / "scales.json") == 1
    message = capsys.readouterr().err
    assert "'b'" in message
    assert "'c'" in message


def test_aligned_files_with_other_texts_are_refused(files, model_folder, capsys):
    (files / "other.py").write_text(GOOD.replace("a tree", "a stone"))
    out = files / "out.jsonl"
    assert run("score", files / "good.py", f"bigram={files / 'other.py'}", "--model", model_folder, "--out", out) == 1
    assert "'b'" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere"),
        (["--estimator", "elbo"], "expected one of plain"),
        (["--passes", "0"], "expected at least 1"),
        (["--precision", "fp8"], "'32' or 'bf16'"),
        (["--out", "scores.csv"], "scores.csv"),
        (["--device", "abacus"], "'abacus' can not be used here"),
        (["--estimator", "pll", "--passes", "4"], "expected no number"),
    ],
)
def test_wrong_score_options_are_one_line(files, model_folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    options = {"--model": f"lm={model_folder}", "--out": "out.jsonl"} | dict(zip(arguments[::2], arguments[1::2]))
    assert run("score", "good.py", *[part for option in options.items() for part in option]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not (files / "out.jsonl").exists()


def spoiled(model_folder: Path, folder: Path, name: str, change) -> Path:
    """A copy of a model folder with one file changed."""
    shutil.copytree(model_folder, folder)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    return folder


SPOILED = {
    "truncated weights": ("model.safetensors", lambda data: data[: len(data) // 2], "model.safetensors: not readable"),
    "config is no JSON": ("config.json", lambda data: data[:20], "config.json:2: invalid JSON"),
    "config is a list": ("config.json", lambda _: b"[1]", "config.json: got list; expected a JSON object"),
    "no family": ("config.json", lambda data: data.replace(b'"family"', b'"clan"'), "config.json: no section 'family'"),
    "wrong vocabulary": ("config.json", lambda data: data.replace(b'"num_pieces": ', b'"num_pieces": 1'), "pieces"),
    "broken vocabulary": ("spm.model", lambda data: data[:50], "spm.model"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_broken_model_folders_are_one_line_and_nothing_is_written(files, model_folder, capsys, name):
    file, change, message = SPOILED[name]
    model = spoiled(model_folder, files / "model", file, change)
    assert run("score", files / "good.py", "--model", model, "--out", files / "out.jsonl") == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(path.name for path in files.iterdir()) == ["good.py", "model", "refs.py"]


def test_a_failed_scoring_does_not_stand_in_the_way_of_the_next(files, model_folder, capsys):
    (files / "pieces.py").write_text("{'a': [(-1.0, '▁the ▁king')]}\n")
    options = ["score", files / "pieces.py", "--model", f"lm={model_folder}", "--out", files / "out.jsonl"]
    assert run(*options) == 1
    assert "--pieces" in capsys.readouterr().err
    assert run(*options, "--pieces") == 0


ROWS = ["--tune", "good.py", "--tune-refs", "refs.py", "--test", "good.py", "--test-refs", "refs.py", "--out", "out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--row", "x=am:1", "--row", "x=am:1,lm"], "row 'x' is given twice"),
        (["--row", "x=am:1", "--row", "+ x=am:1,lm"], "one scales file"),
        (["--row", "x=am:1,lmm"], "no score is named 'lmm'; expected one of am, lm, words"),
        (["--row", "x=am:1", "--baseline", "y"], "the baseline 'y' is not a row"),
    ],
)
def test_wrong_rows_are_known_before_anything_is_scored(files, model_folder, capsys, monkeypatch, options, message):
    monkeypatch.chdir(files)
    assert run("rescore", *ROWS, "--lm", f"lm={model_folder}", *options) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not list(files.glob("out/*.jsonl"))


def test_an_lm_can_not_be_named_like_the_word_count(files, model_folder, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert run("rescore", *ROWS, "--lm", f"words={model_folder}") == 1
    assert "LM name 'words'" in capsys.readouterr().err


def test_token_counts_have_a_scale(files, model_folder, monkeypatch, capsys):
    monkeypatch.chdir(files)
    assert run("rescore", *ROWS, "--lm", f"lm={model_folder}", "--row", "x=am:1,lm,tokens:lm:-1:2") == 0
    assert -1 <= json.loads(Path("out/scales/x.json").read_text()).get("tokens:lm", 0) <= 2


def test_tuning_takes_fixed_scales_at_their_word(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    tune = ["tune", "good.py", "--refs", "refs.py", "--out", "scales.json"]
    assert run(*tune, "--fixed", "words:0.5") == 0
    assert json.loads(Path("scales.json").read_text())["words"] == 0.5
    for wrong in (["--fixed", "am"], ["--free", "am:1"]):
        assert run(*tune, *wrong) == 1
        assert wrong[0] in capsys.readouterr().err


def test_options_without_effect_are_refused(files, ar_folder, capsys):
    for options, message in ((["--passes", "4"], "diffusion models"), (["--estimator", "pll"], "diffusion models")):
        assert run("score", files / "good.py", "--model", ar_folder, "--out", files / "out.jsonl", *options) == 1
        assert message in capsys.readouterr().err
    (files / "text.txt").write_text("a b c a b d\n" * 3 + "a b e\nf a\nf a b\nd a\n")
    assert run("ngram", files / "text.txt", "--order", "2", "--out", files / "lm.arpa") == 0
    assert run("score", files / "good.py", "--model", files / "lm.arpa", "--out", files / "out.jsonl", "--pieces") == 1
    assert "SentencePiece" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "nothing"], "expected one of demo_ar"),
        (["--preset", "demo_ar:huge"], "suffix 'huge'"),
        ([], "exactly one of"),
        (["--preset", "demo_ar", "optim.rate=1"], "unknown key 'optim.rate'"),
        (["--preset", "demo_ar"], "--out is missing"),
    ],
)
def test_wrong_train_options_are_one_line(capsys, arguments, message):
    assert run("train", *(arguments or ["optim.lr=1"])) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_half_written_ngram_leaves_nothing(files, capsys):
    (files / "empty.txt").write_text("\n")
    assert run("ngram", files / "empty.txt", "--out", files / "lm.arpa") == 1
    assert "no words" in capsys.readouterr().err
    assert sorted(path.name for path in files.iterdir()) == ["empty.txt", "good.py", "refs.py"]


def test_convert_keeps_scores_that_are_no_numbers_in_python_lists_only(files, capsys):
    (files / "odd.py").write_text("{'a': [(nan, 'x'), (-inf, 'y'), (inf, 'z'), (0.1, 'w')]}")
    assert run("convert", files / "odd.py", files / "new.py.gz") == 0
    assert gzip.decompress((files / "new.py.gz").read_bytes()).decode().count("inf") == 2
    assert run("convert", files / "new.py.gz", files / "again.py") == 0
    assert "(nan, 'x'),\n(-inf, 'y'),\n(inf, 'z'),\n(0.1, 'w')" in (files / "again.py").read_text()
    assert run("convert", files / "odd.py", files / "new.jsonl") == 1
    assert "has score nan; expected a finite number" in capsys.readouterr().err


def test_unknown_option_is_usage(capsys):
    assert run("score", "x.py", "--modle", "y") == 2
    assert "--modle" in capsys.readouterr().err


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.__name__)
def test_every_verb_explains_itself(command, capsys):
    assert run(command.__name__, "--help") == 0
    assert command.__doc__.split(".")[0].split(":")[0][:30] in " ".join(capsys.readouterr().out.split())


def test_score_tune_wer_through_files(files, model_folder, ar_folder, capsys):
    """Two models one after the other; the chain of files ends in a table with a row for the tuned scales."""
    for source, model, out in (
        ("good.py", f"masked={model_folder}", "one.jsonl"),
        ("one.jsonl", f"ar={ar_folder}", "two.jsonl.gz"),
    ):
        assert run("score", files / source, "--model", model, "--replicates", "2", "--out", files / out) == 0
    lists = read_nbest(files / "two.jsonl.gz")
    assert list(lists[0].hypotheses[0].scores) == ["am", "masked", "ar"]
    assert run("tune", files / "two.jsonl.gz", "--refs", files / "refs.py", "--out", files / "scales.json") == 0
    assert set(json.loads((files / "scales.json").read_text())["scores"]) == {"am", "masked", "ar"}
    wer = ("wer", files / "two.jsonl.gz", "--refs", files / "refs.py", "--scales", files / "scales.json")
    assert run(*wer, "--out", files / "wer.json", "--transcripts", files / "best.trn") == 0
    assert "| scales " in capsys.readouterr().out
    assert (files / "best.trn").read_text().count("(") == 2


@pytest.fixture
def two_lists(tmp_path):
    """Two scores that disagree, and references that are in the lists."""
    lists = [
        NBestList("u1", tuple(Hypothesis(t, {"am": a, "lm": b}) for t, a, b in (("a b", 0, -2), ("a c", -1, 0)))),
        NBestList("u2", tuple(Hypothesis(t, {"am": a, "lm": b}) for t, a, b in (("d", 0, -1), ("e", -2, 0)))),
    ]
    write_nbest(tmp_path / "two.jsonl", lists)
    (tmp_path / "refs.txt").write_text("u1 a c\nu2 d\n")
    return tmp_path


def test_scales_averaged_over_resamples_and_a_posterior(two_lists, capsys):
    """Means lie within the ranges, seeds count, and files with a posterior choose by it in `dlm wer`."""
    tune = ("tune", two_lists / "two.jsonl", "--refs", two_lists / "refs.txt", "--row", "am:1,lm")
    found = []
    for number, more in enumerate([("--resamples", "0"), (), ("--seed", "2"), ("--resamples", "0", "--mbr")]):
        assert run(*tune, *more, "--out", two_lists / f"{number}.json") == 0
        found.append(json.loads((two_lists / f"{number}.json").read_text()))
    assert len({scales["scores"]["lm"] for scales in found[:3]}) == 3
    assert found[3]["scores"] == found[0]["scores"]
    assert 0.001 <= found[3]["posterior"] <= 10
    assert "posterior" in capsys.readouterr().out
    wer = ("wer", two_lists / "two.jsonl", "--refs", two_lists / "refs.txt")
    assert run(*wer, "--scales", two_lists / "3.json", "--mbr", "0.5", "--out", two_lists / "wer.json") == 0
    rows = json.loads((two_lists / "wer.json").read_text())["rows"]
    assert [row["scales"] and row["scales"].get("posterior") for row in rows] == [None, 0.5, None]
    assert run(*tune, "--resamples", "-1", "--out", two_lists / "x.json") == 1
    assert "-1 resamples; expected 0 or more" in capsys.readouterr().err
    assert run(*wer, "--mbr", "0.5") == 1
    assert "--mbr 0.5 without --scales" in capsys.readouterr().err


def test_rescore_averages_over_resamples(two_lists):
    lists, refs = two_lists / "two.jsonl", two_lists / "refs.txt"
    options = ("--tune", lists, "--tune-refs", refs, "--test", lists, "--test-refs", refs, "--row", "first=am:1")
    assert run("rescore", *options, "--row", "lm=am:1,lm", "--resamples", "4", "--mbr", "--out", two_lists / "out") == 0
    table = json.loads((two_lists / "out" / "wer.json").read_text())
    assert "means over 4 bootstrap resamples" in table["scales_from"]
    scales = {row["system"]: row["scales"] or {} for row in table["rows"]}
    assert [name for name, found in scales.items() if "posterior" in found] == ["lm"]
    assert 'class="drawn"' in (two_lists / "out" / "report.html").read_text()


def test_print_config_is_a_config(tmp_path, capsys):
    assert run("train", "--preset", "librispeech_masked:ar", "optim.lr=1e-3", "--print-config") == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    assert run("train", "--config", tmp_path / "config.yaml", "--print-config") == 0
    assert capsys.readouterr().out == (tmp_path / "config.yaml").read_text()


def test_estimators_are_listed_without_any_argument(capsys):
    assert run("estimators") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(ESTIMATORS)
    assert all(" target " in line and "biased" in line for line in lines)


def test_samples_their_entropy_and_perplexity_under_any_judge(vocab, tmp_path, ar_folder, text_file, capsys):
    hybrid = random_model(vocab, {"name": "hybrid"}).save(tmp_path / "hybrid")
    command = ["sample", str(hybrid), "--count", "3", "--length", "5", "--steps", "4", "--self-correct", "3"]
    assert run(*command, "--judge", str(ar_folder), "--out", str(tmp_path / "out.txt")) == 0
    shown = capsys.readouterr().out
    assert "self-correction changed" in shown and "entropy" in shown
    assert f"generative perplexity under {ar_folder}" in shown
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 3
    assert run(*command, "--out", str(tmp_path / "out.py.gz")) == 0  # as i6's GenerativePerplexityJob reads it
    found = dict(iterate_lists(tmp_path / "out.py.gz"))
    assert [[text for _, text in entries] for entries in found.values()] == [
        [line] for line in (tmp_path / "out.txt").read_text().splitlines()
    ]
    mean = sum(entropy for ((entropy, _),) in found.values()) / 3
    assert f"entropy {mean:.3f} nats a sentence" in capsys.readouterr().out
    arpa = tmp_path / "lm.arpa"
    assert run("ngram", str(text_file), "--order", "2", "--out", str(arpa)) == 0
    assert run(*command, "--judge", str(arpa)) == 0
    assert f"under {arpa}" in capsys.readouterr().out
    assert run(*command, "--judge", str(hybrid)) != 0
    assert "no log-probability" in capsys.readouterr().err


def test_combine_writes_all_hypotheses_with_their_weighted_sum(files, capsys):
    (files / "lm.py").write_text(GOOD.replace("-2.0", "-0.25"))
    sources = (f"am={files / 'good.py'}", f"lm={files / 'lm.py'}")
    for out in ("sum.py", "sum.jsonl"):
        assert run("combine", *sources, "--scales", "am:1,lm:2,words:0.5", "--out", files / out) == 0
    for out, name in (("sum.py", "am"), ("sum.jsonl", "combined")):
        lists = read_nbest(files / out)
        assert [h.text for u in lists for h in u.hypotheses] == [
            h.text for u in read_nbest(files / "good.py") for h in u.hypotheses
        ]
        assert [h.scores[name] for h in lists[0].hypotheses] == [-1 - 2 + 1.5, -2 - 0.5 + 1.5]
    assert set(lists[0].hypotheses[0].scores) == {"am", "lm", "combined"}
    assert run("combine", *sources, "--scales", "am:1", "--name", "am", "--out", files / "again.jsonl") == 1
    assert "has a score 'am'; expected another name" in capsys.readouterr().err
    assert not (files / "again.jsonl").exists()


def test_an_interruption_during_the_first_imports_is_one_line(monkeypatch, capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rescore.cli.all_commands", interrupted)  # it imports the verbs
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 130 and capsys.readouterr().err == "dlm: interrupted before it began\n"


def test_the_program_begins_without_imports_that_an_interruption_could_reach():
    code = f"import sys; sys.path.append({str(ROOT)!r}); old = set(sys.modules); import rescore.cli; "
    code += "print(*sorted(set(sys.modules) - old))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "__future__ rescore rescore.cli\n"
