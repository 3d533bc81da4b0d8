"""Broken N-best files and lists: each is one line that names the place; nothing of a file is run, nothing is written."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import Any

import pytest

from rescore.nbest import Hypothesis, NBestList, read_nbest, write_nbest

GOOD = b"{'u1': [(-1.5, 'x'), (-2.5, 'y')],\n 'u2': [(-1.0, 'z')]}\n"
LINE = b'{"id": "u1", "hyps": [{"text": "x", "scores": {"am": -1.5}}]}\n'
MALFORMED: dict[str, tuple[str, bytes, str]] = {
    # py
    "empty file": ("h.py", b"", r"h\.py:1: the file is empty"),
    "blanks only": ("h.py", b" \n# comment\n", r"the file is empty"),
    "no utterance": ("h.py", b"{}", r"the dict is empty"),
    "no gzip": ("h.py.gz", GOOD, r"h\.py\.gz:1: broken gzip data"),
    "truncated gzip": ("h.py.gz", gzip.compress(GOOD)[:-12], r"h\.py\.gz:\d+: broken gzip data"),
    "damaged gzip": ("h.py.gz", gzip.compress(GOOD)[:20] + b"\xff\x00\xff" + gzip.compress(GOOD)[23:], r"broken gzip data"),
    "empty gzip": ("h.py.gz", gzip.compress(b""), r"the file is empty"),
    "gzip without its name": ("h.py", gzip.compress(GOOD), r"h\.py:1: byte 0x8b is not UTF-8 \(gzip data"),
    "missing brace": ("h.py", GOOD[:-2], r"h\.py:\d: got the end of the file; expected ',' or '}' after the value of 'u2'"),
    "missing bracket": ("h.py", GOOD.replace(b"],", b","), r"h\.py:2: got \"'u2'.*expected \(score, text\) for hypothesis 3 of 'u1'"),
    "missing quote": ("h.py", GOOD.replace(b"'y'", b"'y"), r"h\.py:1: got .* without its closing quote; expected .* hypothesis 2 of 'u1'"),
    "code": ("h.py", b"__import__('os').system('touch ran')", r"h\.py:1: got \"__import__.*; expected a dict"),
    "code as score": ("h.py", b"{'u1': [(__import__('os').system('touch ran'), 'x')]}", r"h\.py:1: .*score of hypothesis 1 of 'u1'"),
    "code as text": ("h.py", b"{'u1': [(1.0, open('ran', 'w'))]}", r"expected the text of hypothesis 1 of 'u1' as a string"),
    "code after the dict": ("h.py", GOOD + b"import os\n", r"h\.py:3: got 'import os' after the closing '}'"),
    "joined strings as code": ("h.py", b"{'u1': [(1.0, 'a' + 'b')]}", r"expected '\)' after the text of hypothesis 1 of 'u1'"),
    "format string": ("h.py", b"{'u1': [(1.0, f'{open}')]}", r"expected the text of hypothesis 1 of 'u1' as a string"),
    "duplicate tag": ("h.py", GOOD.replace(b"u2", b"u1"), r"h\.py:2: sequence tag 'u1' is given twice"),
    "nan": ("h.py", GOOD.replace(b"-1.0", b"nan"), r"h\.py:2: hypothesis 1 of 'u2' has score nan; expected a finite number"),
    "not a number": ("h.py", GOOD.replace(b"-2.5", b"nan"), r"h\.py:1: hypothesis 2 of 'u1' has score nan"),
    "overflow": ("h.py", GOOD.replace(b"-2.5", b"1e999"), r"h\.py:1: hypothesis 2 of 'u1' has score inf"),
    "string score": ("h.py", GOOD.replace(b"-2.5", b"'-2.5'"), r"expected a number as the score of hypothesis 2 of 'u1'"),
    "boolean score": ("h.py", GOOD.replace(b"-2.5", b"True"), r"expected a number as the score of hypothesis 2 of 'u1'"),
    "numpy score": ("h.py", GOOD.replace(b"-2.5", b"np.float64(2)"), r"expected a number as the score of hypothesis 2 of 'u1'"),
    "complex score": ("h.py", GOOD.replace(b"-2.5", b"-2.5j"), r"expected a number as the score of hypothesis 2 of 'u1'"),
    "missing text": ("h.py", GOOD.replace(b"-2.5, 'y'", b"-2.5,"), r"expected the text of hypothesis 2 of 'u1'"),
    "no tuple": ("h.py", GOOD.replace(b"(-2.5, 'y')", b"-2.5"), r"expected \(score, text\) for hypothesis 2 of 'u1'"),
    "three fields": ("h.py", GOOD.replace(b"'y'", b"'y', 3"), r"expected '\)' after the text of hypothesis 2 of 'u1': two fields"),
    "bytes text": ("h.py", GOOD.replace(b"'y'", b"b'y'"), r"expected the text of hypothesis 2 of 'u1' as a string"),
    "None text": ("h.py", GOOD.replace(b"'y'", b"None"), r"expected the text of hypothesis 2 of 'u1' as a string"),
    "broken escape": ("h.py", GOOD.replace(b"'y'", b"'\\x1'"), r"a string with a broken escape; .* hypothesis 2 of 'u1'"),
    "empty list": ("h.py", b"{'u1': []}", r"h\.py:1: the list of 'u1' is empty"),
    "no list": ("h.py", b"{'u1': 'x'}", r"expected a list of \(score, text\) for 'u1'"),
    "number as tag": ("h.py", b"{1: [(1.0, 'x')]}", r"h\.py:1: got .* expected a sequence tag"),
    "list at the top": ("h.py", b"[(1.0, 'x')]", r"h\.py:1: .* expected a dict"),
    "whole number with zeros in front": ("h.py", GOOD.replace(b"-1.0, 'z'", b"-01, 'z'"), r"h\.py:2: "),
    "Latin-1": ("h.py", GOOD.replace(b"'z'", b"'\xe4z'"), r"h\.py:2: byte 0xe4 is not UTF-8"),
    "deep nesting": ("h.py", b"{'u1': " + b"[" * 10**5, r"expected \(score, text\) for hypothesis 1 of 'u1'"),
    # JSON lines
    "empty lines file": ("h.jsonl", b"", r"h\.jsonl:1: the file holds no utterance"),
    "header only": ("h.jsonl", b'{"format": "nbest-jsonl", "version": 1}\n', r"the file holds no utterance"),
    "future version": ("h.jsonl", b'{"format": "nbest-jsonl", "version": 2}\n', r"h\.jsonl:1: got format 'nbest-jsonl', version 2"),
    "cut line": ("h.jsonl", LINE + LINE[:30], r"h\.jsonl:2: invalid JSON"),
    "no object": ("h.jsonl", LINE + b"[]\n", r"h\.jsonl:2: got \[\]; expected an object"),
    "empty line": ("h.jsonl", LINE + b"\n", r"h\.jsonl:2: invalid JSON"),
    "duplicate id": ("h.jsonl", LINE + LINE, r"h\.jsonl:2: utterance 'u1' is given twice"),
    "duplicate key": ("h.jsonl", LINE.replace(b'{"am": -1.5', b'{"am": 1, "am": 2'), r"h\.jsonl:1: the key 'am' is given twice"),
    "no id": ("h.jsonl", LINE.replace(b'"u1"', b"7"), r"h\.jsonl:1: got the id 7; expected a string"),
    "unknown field": ("h.jsonl", LINE.replace(b'"id"', b'"hyp": 1, "id"'), r"'u1' has the unknown field 'hyp'"),
    "no hypotheses": ("h.jsonl", b'{"id": "u1", "hyps": []}\n', r"h\.jsonl:1: utterance 'u1' has the hypotheses \[\]"),
    "JSON NaN": ("h.jsonl", LINE.replace(b"-1.5", b"NaN"), r"h\.jsonl:1: hypothesis 1 of 'u1' has am score nan"),
    "JSON string score": ("h.jsonl", LINE.replace(b"-1.5", b'"-1.5"'), r"hypothesis 1 of 'u1' has am score '-1.5'"),
    "JSON boolean score": ("h.jsonl", LINE.replace(b"-1.5", b"true"), r"hypothesis 1 of 'u1' has am score True"),
    "JSON huge score": ("h.jsonl", LINE.replace(b"-1.5", b"9" * 5000), r"h\.jsonl:1: "),
    "JSON missing text": ("h.jsonl", LINE.replace(b'"text": "x", ', b""), r"hypothesis 1 of 'u1' is .*; expected an object with"),
    "JSON null text": ("h.jsonl", LINE.replace(b'"x"', b"null"), r"hypothesis 1 of 'u1' is .*; expected an object with"),
    "other scores": ("h.jsonl", LINE + LINE.replace(b"am", b"lm").replace(b"u1", b"u2"), r"h\.jsonl:2: hypothesis 1 of 'u2' has the scores \['lm'\]"),
    "wrong details": ("h.jsonl", LINE.replace(b"-1.5}", b'-1.5}, "details": {"am": [1]}'), r"hypothesis 1 of 'u1' has the details"),
    "details NaN": ("h.jsonl", LINE.replace(b"-1.5}", b'-1.5}, "details": {"am": {"se": NaN}}'), r"hypothesis 1 of 'u1' has se = nan"),
    "JSON deep nesting": ("h.jsonl", b"[" * 10**5, r"h\.jsonl:1: "),
    "JSON Latin-1": ("h.jsonl", LINE + LINE.replace(b'"x"', b'"\xe4"'), r"h\.jsonl:2: byte 0xe4 is not UTF-8"),
    "truncated lines gzip": ("h.jsonl.gz", gzip.compress(LINE)[:-9], r"h\.jsonl\.gz:\d: broken gzip data"),
    # JSON
    "invalid JSON": ("h.json", b'{"u1":\n{"hyp_1": }}', r"h\.json:2: invalid JSON"),
    "empty JSON": ("h.json", b"", r"h\.json:1: the file is empty"),
    "JSON list": ("h.json", b"[]", r"h\.json:1: got \[\]; expected a JSON object"),
    "no utterances in JSON": ("h.json", b"{}", r"h\.json:1: the file holds no utterance"),
    "JSON utterance twice": ("h.json", b'{"u1": {"hyp_1": {}}, "u1": {}}', r"the key 'u1' is given twice"),
    "JSON wrong shape": ("h.json", b'{"u1": [1]}', r"utterance 'u1' is \[1\]; expected an object"),
    "JSON other fields": ("h.json", b'{"u1": {"best": {"score": 1, "text": "x"}}}', r"utterance 'u1' has the field 'best'"),
    "JSON same number": ("h.json", b'{"u1": {"hyp_1": {}, "hyp_01": {}}}', r"utterance 'u1' has the field 'hyp_01'"),
    "JSON no score": ("h.json", b'{"u1": {"hyp_1": {"text": "x"}}}', r'hypothesis 1 of \'u1\' is malformed; expected the fields "score"'),
    "JSON no hyps": ("h.json", b'{"u1": {"ref": "x"}}', r"utterance 'u1' has the hypotheses \[\]"),
    "flat text score": ("h.json", b'{"u1": {"hyps": [{"text": "x", "am_score": "y"}]}}', r"hypothesis 1 of 'u1' has am score 'y'"),
    "flat same score": ("h.json", b'{"u1": {"hyps": [{"text": "x", "am_score": 1, "am": 2}]}}', r"hypothesis 1 of 'u1'.*each score once"),
    "unknown suffix": ("h.txt", GOOD, r"h\.txt: unknown N-best format"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_a_broken_file_is_one_line_that_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, content, message = MALFORMED[case]
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_nbest(name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(name)
    assert len(str(caught.value)) < 300
    assert os.listdir() == [name], "reading ran or wrote something"


# --- writing: whole or not at all ---


@pytest.mark.parametrize(
    "name, hypotheses, options, message",
    [
        ("o.py", [Hypothesis("x", {"am": math.nan})], {}, r"o\.py: hypothesis 1 of 'u' has am score nan"),
        ("o.jsonl", [Hypothesis("x", {"am": math.inf})], {}, r"hypothesis 1 of 'u' has am score inf"),
        ("o.jsonl", [Hypothesis("x", {"am": 1.0}, {"am": {"se": math.nan}})], {}, r"hypothesis 1 of 'u' has se = nan"),
        ("o.jsonl", [Hypothesis("x", {"a": 1.0}), Hypothesis("y", {"b": 1.0})], {}, r"hypothesis 2 of 'u' has the scores \['b'\]"),
        ("o.py.gz", [Hypothesis("x", {"a": 1.0, "b": 1.0})], {}, r"no score is chosen.*expected one of a, b"),
        ("o.json", [Hypothesis("x", {"a": 1.0})], {"score": "c"}, r"there is no score 'c'.*expected one of a"),
        ("o.jsonl", [Hypothesis("x", {"a": 1.0})], {"score": "a"}, r"expected no choice of the score"),
        ("o.jsonl", [Hypothesis("x", {"a": 1.0})], {"metadata": {"x": math.nan}}, r"metadata can not be written"),
        ("o.py", [Hypothesis("x", {"a": 1.0})], {"metadata": {"x": 1}}, r"the format returnn-py holds no metadata"),
        ("o.jsonl", [Hypothesis("\ud800", {"a": 1.0})], {}, r"holds a lone surrogate"),
        ("o.txt", [Hypothesis("x", {"a": 1.0})], {}, r"unknown N-best format"),
    ],
)  # fmt: skip
def test_what_can_not_be_written_leaves_the_old_file(
    tmp_path: Path, name: str, hypotheses: list[Hypothesis], options: dict[str, Any], message: str
) -> None:
    path = tmp_path / name
    path.write_text("old")
    good = NBestList("good", (Hypothesis("x", hypotheses[0].scores if "o.py.gz" in name else {"am": 1.0}),))
    for lists in ([NBestList("u", tuple(hypotheses))], [NBestList("u", tuple(hypotheses)), good]):
        with pytest.raises(ValueError, match=message) as caught:
            write_nbest(path, lists, **options)
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == [name]
    assert path.read_text() == "old"


def test_nothing_and_utterances_given_twice_are_not_written(tmp_path: Path) -> None:
    utterance = NBestList("u", (Hypothesis("x", {"am": 1.0}),))
    for name in ("o.py", "o.jsonl", "o.json"):
        with pytest.raises(ValueError, match="no utterances to write"):
            write_nbest(tmp_path / name, [])
        with pytest.raises(ValueError, match="utterance 'u' is given twice"):
            write_nbest(tmp_path / name, [utterance, utterance])
    assert os.listdir(tmp_path) == []
