"""Lists of other toolkits: each hazard of their forms is either read rightly or refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rescore.nbest import Hypothesis, NBestList, iterate_nbest, read_nbest, write_nbest
from rescore.nbest.formats import FORMATS, format_of_file

LISTS = [
    NBestList("a-1", (Hypothesis("x y", {"am": -1.5, "lm": -20.25}), Hypothesis("", {"am": -2.0, "lm": -0.5}))),
    NBestList("a", (Hypothesis("nan", {"am": 0.1, "lm": -3.0}),)),
]


def put(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def refused(path: Path, message: str, format: str | None = None) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_nbest(path, format=format)
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)


# --- Kaldi

KALDI = {
    "words_text": "a-1-2 x\na-1-1 x y\na-1-10 \na-2-1 z\n",
    "acwt": "a-1-1 10.5\na-1-2 11\na-1-10 12\na-2-1 3\n",
    "lmwt.nolm": "a-1-1 1\na-1-2 2\na-1-10 3\na-2-1 4\n",
}


def test_costs_of_kaldi_are_negated_and_ranks_are_numbers(tmp_path):
    folder = put(tmp_path / "lists", KALDI)
    assert format_of_file(folder).name == "kaldi-nbest"
    first, second = read_nbest(folder)
    assert [hyp.text for hyp in first.hypotheses] == ["x y", "x", ""]
    assert first.hypotheses[0].scores == {"am": -10.5, "nolm": -1.0}
    assert (first.seq_tag, second.seq_tag) == ("a-1", "a-2")


def test_kaldi_round_trip(tmp_path):
    write_nbest(tmp_path / "lists", LISTS, format="kaldi-nbest")
    assert read_nbest(tmp_path / "lists") == LISTS
    write_nbest(tmp_path / "lists", LISTS[:1], format="kaldi-nbest")  # an earlier result is replaced
    assert read_nbest(tmp_path / "lists") == LISTS[:1]
    (tmp_path / "lists" / "notes").write_text("mine")
    with pytest.raises(ValueError, match="expected"):
        write_nbest(tmp_path / "lists", LISTS, format="kaldi-nbest")


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"words_text": "a-1 x y\nb z\n"}, r"words_text:2: got 'b z'; expected utterance-N"),
        ({"words_text": "a-1-1 x\na-1-1 y\n"}, r"words_text:2: 'a-1-1' is given twice"),
        ({"acwt": "a-1-1 1\n"}, r"words_text:1: 'a-1-2' has no am cost"),
        ({"acwt": KALDI["acwt"] + "q-1 1\n"}, r"'q-1' has a am cost and no words|'q-1' has an? am cost and no words"),
        ({"acwt": KALDI["acwt"].replace("10.5", "inf")}, r"acwt:1: got 'a-1-1 inf'; expected .* finite cost"),
    ],
)
def test_archives_that_do_not_fit_are_refused(tmp_path, changed, message):
    if "words_text" in changed:
        changed = {**changed, "acwt": "", "lmwt.nolm": ""} if "got" in message else changed
    folder = put(tmp_path / "lists", {**KALDI, **changed})
    if "given twice" in message:
        (folder / "lmwt.nolm").unlink()
        (folder / "acwt").write_text("a-1-1 1\n")
    if "expected utterance-N" in message:
        (folder / "lmwt.nolm").unlink()
        (folder / "acwt").write_text("a-1 1\nb 1\n")
    refused(folder, message)


# --- ESPnet

ESPNET = {
    "logdir/output.2/1best_recog/text": "u2 A B\n",
    "logdir/output.2/1best_recog/score": "u2 tensor(-5.1234, device='cuda:0')\n",
    "logdir/output.10/1best_recog/text": "u10 C\n",
    "logdir/output.10/1best_recog/score": "u10 -1e-3\n",
    "logdir/output.1/1best_recog/text": "u1 A B\nu3 \n",
    "logdir/output.1/1best_recog/score": "u1 tensor(-5.5)\nu3 -1\n",
    "logdir/output.1/2best_recog/text": "u1 A\n",
    "logdir/output.1/2best_recog/score": "u1 tensor(-6)\n",
}


def test_espnet_folders(tmp_path):
    folder = put(tmp_path / "decode", ESPNET)
    for place in (folder, folder / "logdir"):
        lists = list(iterate_nbest(place, name="espnet"))
        assert [u.seq_tag for u in lists] == ["u1", "u3", "u2", "u10"]
        assert lists[0].hypotheses == (Hypothesis("A B", {"espnet": -5.5}), Hypothesis("A", {"espnet": -6.0}))
        assert lists[2].hypotheses[0].scores == {"espnet": -5.1234}
    assert [u.seq_tag for u in read_nbest(folder / "logdir/output.2")] == ["u2"]
    (folder / "logdir/output.1/2best_recog/score").write_text("u1 nan\n")
    refused(folder, r"2best_recog/score: 'u1' has 'nan'; expected a finite number")
    put(folder, {"logdir/output.1/2best_recog/score": "u9 -1\n", "logdir/output.1/2best_recog/text": "u9 A\n"})
    refused(folder, r"2best_recog/text: 'u9' has rank 2 and 0 better hypotheses")


# --- NeMo


def test_nemo_beams_keep_quotes_and_words_that_mean_nothing_elsewhere(tmp_path):
    manifest = "".join(json.dumps({"audio_filepath": f"/a/{tag}.wav", "text": "r"}) + "\n" for tag in ("u1", "u2"))
    put(tmp_path, {"b.tsv": 'null\t-1\n"a" b\t-2\n\t-3.5\nnan\t-4\n', "b.manifest.json": manifest})
    assert read_nbest(tmp_path / "b.tsv") == [
        NBestList("u1", (Hypothesis("null", {"am": -1.0}), Hypothesis('"a" b', {"am": -2.0})), "r"),
        NBestList("u2", (Hypothesis("", {"am": -3.5}), Hypothesis("nan", {"am": -4.0})), "r"),
    ]
    (tmp_path / "b.tsv").write_text("a\t-1\n" * 3)
    refused(tmp_path / "b.tsv", "3 lines for the 2 utterances of .*; expected the same number of lines for each")
    (tmp_path / "b.tsv").write_text("a\t-1\nb\tx\n")
    refused(tmp_path / "b.tsv", r"b\.tsv:2: got 'b\\tx'; expected a text, a tab and a finite score")
    (tmp_path / "b.manifest.json").unlink()
    refused(tmp_path / "b.tsv", r"no b\.manifest\.json or manifest\.json beside it")


# --- HyPoradise


def test_copies_of_hyporadise_are_left_out(tmp_path):
    entries = [{"input": ["a b", "c", "a b", "<UNK>", "c"], "output": "c"}]
    (tmp_path / "h.json").write_text(json.dumps(entries))
    hypotheses = (Hypothesis("a b", {"rank": 0.0}), Hypothesis("c", {"rank": -1.0}), Hypothesis("", {"rank": -2.0}))
    assert read_nbest(tmp_path / "h.json") == [NBestList("000001", hypotheses, "c")]
    (tmp_path / "h.json").write_text(json.dumps([{"input": [], "output": "c"}]))
    refused(tmp_path / "h.json", "utterance 1 has the input")


# --- SRILM


def test_srilm_is_in_logarithms_to_base_10(tmp_path):
    put(tmp_path / "lists", {"u1": "-1 -2 2 a b\n-3 -0.5 0\n"})
    (found,) = read_nbest(tmp_path / "lists", format="srilm")
    assert found.hypotheses[0].text == "a b" and found.hypotheses[1].text == ""
    assert found.hypotheses[0].scores == pytest.approx({"am": -math.log(10), "lm": -2 * math.log(10)})
    write_nbest(tmp_path / "again", [found], format="srilm")
    (again,) = read_nbest(tmp_path / "again", format="srilm")
    for hyp, new in zip(found.hypotheses, again.hypotheses, strict=True):
        assert new.text == hyp.text and new.scores == pytest.approx(hyp.scores, rel=1e-15)
    put(tmp_path / "lists", {"u1": "-1 -2 3 a b\n"})
    refused(tmp_path / "lists", r"u1:1: got '-1 -2 3 a b'; expected .* as many words", "srilm")


# --- tables and texts


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_tables_round_trip(tmp_path, suffix):
    lists = [NBestList(u.seq_tag, u.hypotheses, 'r "q", s') for u in LISTS]
    for name in (f"t{suffix}", f"t{suffix}.gz"):
        write_nbest(tmp_path / name, lists)
        assert read_nbest(tmp_path / name) == lists
    lines = (tmp_path / f"t{suffix}").read_text().splitlines()
    assert lines[0].split(lines[0][2]) == ["id", "text", "ref", "am", "lm"]
    (tmp_path / f"t{suffix}").write_text("\n".join([*lines, lines[1]]) + "\n")
    refused(tmp_path / f"t{suffix}", "utterance 'a-1' is given twice")
    (tmp_path / f"t{suffix}").write_text(lines[0] + "\nu" + lines[0][2])
    refused(tmp_path / f"t{suffix}", r":2: 2 fields; expected 5 as in line 1")


@pytest.mark.parametrize("name, text", [("b.trn", "a b (u)\n"), ("text", "u a b\n"), ("b.stm", "u 1 s 0 1 a b\n")])
def test_texts_are_lists_of_one_hypothesis_without_scores(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_nbest(tmp_path / name, format="kaldi" if name == "text" else None) == [
        NBestList("u", (Hypothesis("a b"),))
    ]


def test_a_folder_of_no_format(tmp_path):
    refused(tmp_path, "a folder of no known format; expected archives of Kaldi")
    assert not [name for name, form in FORMATS.items() if form.recognizes_folder(tmp_path)]
