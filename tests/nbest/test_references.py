"""References in and transcripts out: the same utterances, the same words, and a line that says where it is not so."""

from __future__ import annotations

import ast
import gzip
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescore.nbest import Hypothesis, NBestList, read_nbest, write_nbest
from rescore.nbest.references import attach_references, check_same_utterances, read_references, write_transcripts

DEMO = Path(__file__).parents[2] / "data" / "demo"
LIBRISPEECH = Path(__file__).parents[3] / "shared" / "data" / "librispeech_ctc"

# No whole word in parentheses, which .trn and .stm can not hold.
word = st.text(alphabet="abcäß▁'()\\\"", min_size=1, max_size=5).filter(lambda word: not re.fullmatch(r"\(.*\)", word))
words = st.lists(word, max_size=5)
tags = st.text(alphabet="abc/-_.#019", min_size=1)
transcripts = st.dictionaries(tags, words.map(" ".join), min_size=1, max_size=5)
many_files = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- round trips ---


@many_files
@given(content=transcripts, suffix=st.sampled_from([".trn", ".txt", ".py", ".trn.gz", ".txt.gz", ".py.gz"]))
def test_transcripts_come_back_in_order(tmp_path: Path, content: dict[str, str], suffix: str) -> None:
    path = tmp_path / f"best{suffix}"
    write_transcripts(path, content)
    assert list(read_references(path).items()) == list(content.items())


@many_files
@given(content=st.dictionaries(st.text(), st.text(), min_size=1))
def test_py_keeps_any_text_byte_for_byte(tmp_path: Path, content: dict[str, str]) -> None:
    path = tmp_path / "best.py"
    write_transcripts(path, content)
    assert read_references(path) == content == ast.literal_eval(path.read_text(encoding="utf-8"))


@many_files
@given(tag=tags, text=st.text(alphabet="ab \t\n\r\u2028\x0b\x85"))
def test_words_survive_any_blanks(tmp_path: Path, tag: str, text: str) -> None:
    for suffix in (".trn", ".txt"):
        write_transcripts(tmp_path / f"best{suffix}", {tag: text})
        assert read_references(tmp_path / f"best{suffix}") == {tag: " ".join(text.split())}


@many_files
@given(reference=transcripts, other=words)
def test_words_of_a_ctm_lie_in_order_inside_the_segments_of_any_stm(
    tmp_path: Path, reference: dict[str, str], other: list[str]
) -> None:
    hypothesis = dict.fromkeys(reversed(reference), " ".join(other))
    write_transcripts(tmp_path / "ref.stm", reference)
    write_transcripts(tmp_path / "hyp.ctm", hypothesis)
    segments = {}
    for line in (tmp_path / "ref.stm").read_text(encoding="utf-8").splitlines():
        name, channel, _, start, end, label, *line_words = line.split(" ")
        assert (channel, label, line_words) == ("1", "<o,F0>", reference[name].split())
        segments[name] = (float(start), float(end))
    spoken: dict[str, list[str]] = {name: [] for name in segments}
    last = dict.fromkeys(segments, 0.0)
    for line in (tmp_path / "hyp.ctm").read_text(encoding="utf-8").splitlines():
        name, channel, begin, duration, word, _ = line.split(" ")
        middle = float(begin) + float(duration) / 2
        assert channel == "1"
        assert max(segments[name][0], last[name]) < middle < segments[name][1]
        last[name] = middle
        spoken[name].append(word)
    assert spoken == dict.fromkeys(sorted(hypothesis), other)


def test_the_three_scoring_formats(tmp_path: Path) -> None:
    content = {"u-2": "he  hoped", "u-1": ""}
    for suffix in ("trn", "ctm", "stm", "txt", "py"):
        write_transcripts(tmp_path / f"o.{suffix}", content)
    assert (tmp_path / "o.trn").read_text() == "he hoped (u-2)\n(u-1)\n"
    assert (tmp_path / "o.ctm").read_text() == "u-2 1 0.000 500.000 he 1.0\nu-2 1 500.000 500.000 hoped 1.0\n"
    assert (tmp_path / "o.stm").read_text() == (
        "u-1 1 u-1 0.000 1000.000 <o,F0>\nu-2 1 u-2 0.000 1000.000 <o,F0> he hoped\n"
    )
    assert (tmp_path / "o.txt").read_text() == "u-2 he hoped\nu-1\n"
    assert (tmp_path / "o.py").read_text() == "{\n'u-2': 'he  hoped',\n'u-1': '',\n}\n"


odd_words = st.sampled_from(["a", ";;", "{", "}", "/", "@", "(x)", "m{e}", "(", "x)", "%"])


@many_files
@given(content=st.dictionaries(tags, st.lists(odd_words, max_size=4).map(" ".join), min_size=1))
def test_a_trn_that_is_written_comes_back_whole(tmp_path: Path, content: dict[str, str]) -> None:
    """Whatever the words: either the file holds every utterance, or it is not written."""
    path = tmp_path / "best.trn"
    path.unlink(missing_ok=True)
    try:
        write_transcripts(path, content)
    except ValueError:
        assert not path.exists()
        return
    assert read_references(path) == content


@many_files
@given(content=transcripts)
def test_scoring_files_come_back(tmp_path: Path, content: dict[str, str]) -> None:
    """`dlm wer --refs` reads what `dlm wer --transcripts` writes; a CTM can not tell of utterances without words."""
    write_transcripts(tmp_path / "ref.stm", content)
    assert read_references(tmp_path / "ref.stm") == content
    spoken = {tag: text for tag, text in content.items() if text}
    write_transcripts(tmp_path / "hyp.ctm", content)
    if spoken:
        assert read_references(tmp_path / "hyp.ctm") == spoken


# --- all forms of references ---


def test_every_form_gives_the_same_references(tmp_path: Path) -> None:
    content = {"dev/1-2": "he hoped", "dev/1-10": "", "dev/2": "there would"}
    forms = {
        "ref.py": repr(content),
        "ref.json": json.dumps(content),
        "mlm.json": json.dumps({t: {"hyp_1": {"score": 1, "text": "x"}, "ref": text} for t, text in content.items()}),
        "flat.json": json.dumps({t: {"hyps": [{"text": "x", "am_score": 1}], "ref": r} for t, r in content.items()}),
        "text": "".join(f"{tag} {text}\n" for tag, text in content.items()),
        "tabs.txt": "".join(f"{tag}\t{text}\r\n" for tag, text in content.items()),
        "1-2.trans.txt": "".join(f"{tag} {text}\n" for tag, text in content.items()),
        "ref.stm": ";; comment\n" + "".join(f"{tag}  A spk 0.5 1 <o,f0,male> {t}\n" for tag, t in content.items()),
        "bare.stm": "".join(f"{tag} 1 spk 0 10.25 {text}\n" for tag, text in content.items()),
        "ref.trn": ";; comment\n" + "".join(f"{text} ({tag})\n" for tag, text in content.items()),
    }
    for name, form in forms.items():
        (tmp_path / name).write_bytes(form.encode())
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(form.encode()))
        assert read_references(tmp_path / name) == read_references(tmp_path / f"{name}.gz") == content, name
    lists = [NBestList(tag, (Hypothesis("x", {"am": 1.0}),), text) for tag, text in content.items()]
    for name in ("lists.jsonl.gz", "lists.json"):
        write_nbest(tmp_path / name, lists)
        assert read_references(tmp_path / name) == content


def test_demo_references_belong_to_the_demo_lists() -> None:
    references = read_references(DEMO / "dev.ref.py.gz")
    assert sum(len(text.split()) for text in references.values()) == 2105
    lists = attach_references(read_nbest(DEMO / "dev.nbest.py.gz"), references)
    assert {utterance.seq_tag: utterance.reference for utterance in lists} == references


@pytest.mark.skipif(not LIBRISPEECH.exists(), reason="the large data are not here")
def test_real_references() -> None:
    references = read_references(LIBRISPEECH / "eval.json.gz")
    assert (len(references), sum(len(text.split()) for text in references.values())) == (130, 4265)


# --- sets of utterances ---


def test_attaching_changes_the_reference_alone() -> None:
    before = NBestList("a", (Hypothesis("x", {"am": 1.0}, {"am": {"exact": True}}),), "old")
    (after,) = attach_references([before], {"a": "new"})
    assert (after.seq_tag, after.hypotheses, after.reference) == ("a", before.hypotheses, "new")


def test_sets_that_differ_are_named_on_both_sides() -> None:
    lists = [NBestList(tag, (Hypothesis("x", {"am": 1.0}),)) for tag in "abcdefgh"]
    check_same_utterances(lists, dict.fromkeys("hgfedcba", ""))
    expected = (
        r"7 only in the N-best lists \('a', 'b', 'c', 'd', 'e', \.\.\.\) "
        r"and 1 only in the references \('x'\); expected the same"
    )
    with pytest.raises(ValueError, match=expected) as caught:
        attach_references(lists, {"x": "", "h": ""})
    assert "\n" not in str(caught.value)


# --- broken files ---

MALFORMED: dict[str, tuple[str, bytes, str]] = {
    "empty py": ("r.py", b"", r"r\.py:1: the file is empty"),
    "N-best as references": ("r.py", b"{'a': [(1.0, 'x')]}", r"r\.py:1: got .*; expected the text of 'a'"),
    "number": ("r.py", b"{'a': 'x',\n'b': 1}", r"r\.py:2: got '1.*; expected the text of 'b'"),
    "duplicate tag": ("r.py", b"{'a': 'x',\n'a': 'y'}", r"r\.py:2: sequence tag 'a' is given twice"),
    "cut": ("r.py", b"{'a': 'x',\n", r"r\.py:1: got the end of the file"),
    "code": ("r.py", b"{'a': open('ran', 'w')}", r"r\.py:1: got .*; expected the text of 'a'"),
    "truncated gzip": ("r.py.gz", gzip.compress(b"{'a': 'x'}")[:-5], r"r\.py\.gz:1: broken gzip data"),
    "empty text": ("text", b"", r"text:1: the file holds no reference"),
    "Kaldi id twice": ("text", b"a x\nb y\na z\n", r"text:3: utterance 'a' is given twice"),
    "Kaldi line without id": ("text", b"a x\n y\n", r"text:2: got ' y'; expected an utterance id"),
    "Kaldi empty line": ("text", b"a x\n\nb y\n", r"text:2: got ''; expected an utterance id"),
    "Kaldi Latin-1": ("text", b"a x\nb \xe4\n", r"text:2: byte 0xe4 is not UTF-8"),
    "TRN without parentheses": ("r.trn", b"x (a)\ny b\n", r"r\.trn:2: got 'y b'; expected the words and the utt"),
    "TRN half a parenthesis": ("r.trn", b"x (a\n", r"r\.trn:1: got 'x \(a'; expected"),
    "TRN without id": ("r.trn", b"x ()\n", r"r\.trn:1: got 'x \(\)'; expected"),
    "TRN words in parentheses": ("r.trn", b"x (he hoped)\n", r"r\.trn:1: got .*; expected"),
    "TRN id twice": ("r.trn", b"x (a)\ny (a)\n", r"r\.trn:2: utterance 'a' is given twice"),
    "TRN alternatives": ("r.trn", b"x { y / z } (a)\n", r"r\.trn:1: got .*alternatives"),
    "STM without times": ("r.stm", b"a 1 s he hoped\n", r"r\.stm:1: got 'a 1 s he hoped'; expected utterance, chan"),
    "STM of whole recordings": ("r.stm", b"a 1 s 0 1 x\na 1 s 1 2 y\n", r"r\.stm:2: utterance 'a' is given twice"),
    "STM alternatives": ("r.stm", b"a 1 s 0 1 <o> x { y / z }\n", r"r\.stm:1: got .*plain words, and '\{' is none"),
    "STM left out": ("r.stm", b"a 1 s 0 1 IGNORE_TIME_SEGMENT_IN_SCORING\n", r"r\.stm:1: .*segments that are scored"),
    "CTM alternatives": ("r.ctm", b"a 1 0 1 x\na 1 * * <ALT_BEGIN>\n", r"r\.ctm:2: got 'a 1 \* \*"),
    "CTM no word": ("r.ctm", b"a 1 0 1 @ 0.5\n", r"r\.ctm:1: got the word '@' of 'a'"),
    "CTM out of order": ("r.ctm", b"a 1 1 1 x\na 1 0 1 y\n", r"r\.ctm:2: 'y' of 'a' is not in order"),
    "CTM two channels": ("r.ctm", b"a A 0 1 x\na B 0 1 y\n", r"r\.ctm:2: 'y' of 'a' is not in order; expected one chan"),
    "CTM empty": ("r.ctm", b";; nothing\n", r"r\.ctm:1: the file holds no reference"),
    "unknown suffix": ("r.csv", b"a,x\n", r"r\.csv: unknown reference format; expected \.trn \(trn\), .*'text' \(kaldi\)"),
    "no suffix": ("refs", b"a x\n", r"refs: unknown reference format"),
    "JSON lines without ref": ("r.jsonl", b'{"id": "a", "hyps": [{"text": "x", "scores": {}}]}', r"'a' has no ref"),
    "JSON ref of wrong type": ("r.json", b'{"a": {"ref": 1}}', r"r\.json: utterance 'a' has no reference"),
    "JSON number": ("r.json", b'{"a": 1}', r"r\.json: utterance 'a' has no reference"),
    "JSON id twice": ("r.json", b'{"a": "x", "a": "y"}', r"r\.json:1: the key 'a' is given twice"),
    "JSON list": ("r.json", b'["x"]', r"r\.json:1: got \['x'\]; expected a JSON object"),
    "JSON nothing": ("r.json", b"{}", r"r\.json:1: the file holds no reference"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_broken_file_is_one_line_that_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, content, message = MALFORMED[case]
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_references(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(name)
    assert os.listdir() == [name], "reading ran or wrote something"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("o.trn", {"good": "x", "a b": "x"}, r"o\.trn: utterance 'a b' can not stand in a \.trn file"),
        ("o.trn", {"a(b": "x"}, r"utterance 'a\(b' can not stand in a \.trn file"),
        ("o.ctm", {"": "x"}, r"utterance '' can not stand in a \.ctm file"),
        ("o.stm", {"a\nb": "x"}, r"utterance 'a\\nb' can not stand in a \.stm file"),
        ("o.trn", {"a": "x m{me} y"}, r"utterance 'a': the word 'm\{me\}' can not stand in a \.trn file"),
        ("o.trn", {"good": "x", "a": ";; x y"}, r"utterance 'a': the word ';;' can not stand in a \.trn file"),
        ("o.trn", {"a": ";;x"}, r"utterance 'a': the word ';;x' can not stand"),
        ("o.trn", {"a": "one { two / three } four"}, r"utterance 'a': the word '\{' can not stand in a \.trn file"),
        ("o.trn", {"a": "x @"}, r"utterance 'a': the word '@' can not stand in a \.trn file"),
        ("o.trn", {"a": "(uh) x"}, r"utterance 'a': the word '\(uh\)' can not stand in a \.trn file"),
        ("o.stm", {"a": "x } y"}, r"utterance 'a': the word '\}' can not stand in a \.stm file"),
        ("o.stm", {";;a": "x"}, r"utterance ';;a' can not stand in a \.stm file"),
        ("o.ctm", {"a": "<ALT_BEGIN>"}, r"utterance 'a': the word '<ALT_BEGIN>' can not stand in a \.ctm file"),
        ("o.txt", {"good": "x", "a": "\ud800"}, r"utterance 'a' holds a lone surrogate"),
        ("o.txt", {}, r"no transcripts to write"),
        ("o.doc", {"a": "x"}, r"unknown transcript format; expected a name ending in \.trn"),
    ],
)
def test_what_can_not_be_written_leaves_the_old_file(
    tmp_path: Path, name: str, content: dict[str, str], message: str
) -> None:
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(ValueError, match=message) as caught:
        write_transcripts(path, content)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name]
    assert path.read_text() == "old"
