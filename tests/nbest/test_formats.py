"""Formats: the suffix picks one, a look into the file decides where several share it, a name overrides both, and
anybody can add one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rescore.nbest import Hypothesis, NBestList, iterate_nbest, read_metadata, read_nbest, write_nbest
from rescore.nbest.formats import FORMATS, format_of_file, format_to_write
from rescore.nbest.formats.base import Format

LISTS = [
    NBestList("dev/1", (Hypothesis("a b", {"am": -1.5}), Hypothesis("", {"am": -2.0})), "a b"),
    NBestList("hyps", (Hypothesis('"hyps": {', {"am": 0.25}),), 'a "ref" \\ b'),
]
FLAT = {
    u.seq_tag: {"ref": u.reference, "hyps": [{"text": h.text, "am_score": h.scores["am"]} for h in u.hypotheses]}
    for u in LISTS
}


class TabSeparated(Format):
    """`tag TAB score TAB text`, one hypothesis a line, one utterance a file: as small as a format can be."""

    name, suffixes = "tabs", (".tabs",)

    def read(self, path, *, name=None, allow_non_finite=False) -> Iterator[NBestList]:
        rows = [line.split("\t") for line in Path(path).read_text().splitlines()]
        yield NBestList(rows[0][0], tuple(Hypothesis(text, {name or "am": float(score)}) for _, score, text in rows))


@pytest.fixture
def tsv() -> Iterator[None]:
    FORMATS.add(TabSeparated.name, TabSeparated())
    yield
    FORMATS.remove(TabSeparated.name)


TOOLKITS = ("hyporadise", "nemo", "kaldi-nbest", "espnet", "srilm", "trn", "ctm", "stm", "kaldi")  # test_toolkits.py
OURS = [name for name in FORMATS if name not in TOOLKITS]


@pytest.mark.parametrize("name", OURS)
def test_a_named_format_needs_no_suffix(name: str, tmp_path: Path) -> None:
    form, path = FORMATS[name], tmp_path / "lists"
    if form.writes:
        write_nbest(path, LISTS, format=name)
    else:
        path.write_text(json.dumps(FLAT))
    expected = LISTS if form.references else [NBestList(u.seq_tag, u.hypotheses) for u in LISTS]
    assert read_nbest(path, format=name) == expected


@pytest.mark.parametrize("name", OURS)
def test_a_file_is_recognized_by_its_suffix_and_beginning(name: str, tmp_path: Path) -> None:
    form = FORMATS[name]
    for suffix in form.suffixes:
        for ending in (suffix, f"{suffix}.gz"):
            if form.writes:
                write_nbest(tmp_path / f"lists{ending}", LISTS, format=name)
            else:
                (tmp_path / f"lists{suffix}").write_text(json.dumps(FLAT, indent=1))
                ending = suffix
            assert format_of_file(tmp_path / f"lists{ending}") is form


@pytest.mark.parametrize(
    "first, name",
    [
        ('{"u": {"hyps": [', "flat-json"),
        ('\ufeff {\n"u\\"" : {"ref": "a \\" b", "n": -1.5e3, "x": null, "hyps":[', "flat-json"),
        ('{"hyps": {"hyp_1": {"text": "x", "score": 1}}}', "mlm-scoring"),
        ('{"u": {"ref": "\\"hyps\\": ", "hyp_1": {"text": "\\"hyps\\": ["', "mlm-scoring"),
        ("[1]", "mlm-scoring"),
        ("", "mlm-scoring"),
    ],
)
def test_two_forms_of_json(first: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "lists.json").write_text(first, encoding="utf-8")
    assert format_of_file(tmp_path / "lists.json").name == name


def test_an_unknown_suffix_is_told_the_formats(tmp_path: Path, tsv: None) -> None:
    for choose in (format_of_file, format_to_write):
        with pytest.raises(
            ValueError, match=r"a\.nbest: unknown N-best format; expected a name ending in \.py \("
        ) as caught:
            choose(tmp_path / "a.nbest")
        for form in [form for form in FORMATS.values() if form.suffixes]:
            said = f"{form.suffixes[0]} ({form.name})" in str(caught.value)
            assert said == (form.writes or choose is format_of_file)
    with pytest.raises(ValueError, match="N-best format 'json-line' is unknown .perhaps 'json-lines'"):
        format_of_file(tmp_path / "a.py", "json-line")
    with pytest.raises(ValueError, match="the format flat-json is read, not written; expected one of returnn-py, "):
        write_nbest(tmp_path / "a.json", LISTS, format="flat-json")


def test_a_format_of_ones_own_is_used_like_ours(tmp_path: Path, tsv: None) -> None:
    (tmp_path / "a.tabs").write_text("u\t-1.5\ta b\nu\t-2\tc\n")
    hypotheses = (Hypothesis("a b", {"lm": -1.5}), Hypothesis("c", {"lm": -2.0}))
    assert list(iterate_nbest(tmp_path / "a.tabs", name="lm")) == [NBestList("u", hypotheses)]
    assert read_metadata(tmp_path / "a.tabs") == {}


def test_one_that_shares_a_suffix_is_asked_first(tmp_path: Path) -> None:
    class Mine(TabSeparated):
        name, suffixes = "mine", (".json",)

        def recognizes(self, head: str) -> bool:
            return head.startswith("[")

    FORMATS.add(Mine.name, Mine())
    try:
        for text, name in (("[{}]", "mine"), (json.dumps(FLAT), "flat-json"), ("{}", "mlm-scoring")):
            (tmp_path / "a.json").write_text(text)
            assert format_of_file(tmp_path / "a.json").name == name
        assert format_to_write(tmp_path / "a.json").name == "mlm-scoring"
    finally:
        FORMATS.remove(Mine.name)
