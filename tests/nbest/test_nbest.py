"""N-best files: what is written comes back byte for byte, whatever the layout, and aligned files are merged."""

from __future__ import annotations

import ast
import gzip
import json
import math
import pprint
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescore.nbest import (
    Hypothesis,
    NBestList,
    iterate_nbest,
    read_metadata,
    read_nbest,
    read_sources,
    write_nbest,
)
from rescore.nbest.types import expected_detail

DEMO = Path(__file__).parents[2] / "data" / "demo"
LIBRISPEECH = Path(__file__).parents[3] / "shared" / "data" / "librispeech_ctc"

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text() | st.sampled_from(
    ["", "it's", "'\"", "\\", "a\nb", "▁a", "'''", '"""', "\\'", "# no comment", "{[('"]
)
one_source = st.dictionaries(st.text(), finite | st.integers() | st.booleans() | texts)
details = st.dictionaries(
    st.text(), one_source.filter(lambda entries: not any(expected_detail(*entry) for entry in entries.items()))
)
many_files = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def nbest_lists(draw: st.DrawFn, names: tuple[str, ...] = ("am",), with_details: bool = False) -> list[NBestList]:
    lists = []
    for tag in draw(st.lists(texts, unique=True, min_size=1, max_size=4)):
        hyps = tuple(
            Hypothesis(draw(texts), {name: draw(finite) for name in names}, draw(details) if with_details else {})
            for _ in range(draw(st.integers(1, 4)))
        )
        lists.append(NBestList(tag, hyps, draw(st.none() | texts) if with_details else None))
    return lists


def as_literal(lists: list[NBestList], score: str = "am") -> dict[str, list[tuple[float, str]]]:
    return {u.seq_tag: [(hyp.scores[score], hyp.text) for hyp in u.hypotheses] for u in lists}


# --- round trips ---


@many_files
@given(lists=nbest_lists(), suffix=st.sampled_from([".py", ".py.gz", ".jsonl", ".jsonl.gz", ".json", ".json.gz"]))
def test_what_is_written_is_read_byte_for_byte(tmp_path: Path, lists: list[NBestList], suffix: str) -> None:
    path = tmp_path / f"hyps{suffix}"
    write_nbest(path, lists)
    assert read_nbest(path) == lists


@many_files
@given(lists=nbest_lists(names=("am", "masked", "a b"), with_details=True))
def test_json_lines_keep_all_scores_details_and_references(tmp_path: Path, lists: list[NBestList]) -> None:
    path = tmp_path / "scores.jsonl"
    write_nbest(path, lists, metadata={"seed": 3, "config": {"x": [1, 2.5, None]}})
    assert read_nbest(path) == lists
    assert read_metadata(path) == {"seed": 3, "config": {"x": [1, 2.5, None]}}


@many_files
@given(lists=nbest_lists())
def test_py_is_what_literal_eval_reads_with_float_scores(tmp_path: Path, lists: list[NBestList]) -> None:
    path = tmp_path / "hyps.py"
    write_nbest(path, lists)
    content = path.read_text(encoding="utf-8")
    literal = ast.literal_eval(content)
    assert literal == as_literal(lists)
    assert all(type(score) is float for entries in literal.values() for score, _ in entries)
    assert content.count("\n(") == sum(len(u.hypotheses) for u in lists), "one tuple a line"


@many_files
@given(lists=nbest_lists(), layout=st.sampled_from(["repr", "pprint", "narrow", "blanks", "crlf"]))
def test_any_layout_of_the_literal_reads_the_same(tmp_path: Path, lists: list[NBestList], layout: str) -> None:
    literal = as_literal(lists)
    content = {
        "repr": lambda: repr(literal),
        "pprint": lambda: pprint.pformat(literal, sort_dicts=False),
        "narrow": lambda: pprint.pformat(literal, width=20, sort_dicts=False),
        "blanks": lambda: "# hyps\n{" + "".join(
            f"\n {tag!r} :\\\n["
            + " , ".join(f"( {score!r}\t,\n {text!r} , )  # {text!r}\n" for score, text in entries)
            + "] ,"
            for tag, entries in literal.items()
        ) + "} # end",
        "crlf": lambda: pprint.pformat(literal, width=40, sort_dicts=False).replace("\n", "\r\n"),
    }[layout]()  # fmt: skip
    assert ast.literal_eval(content) == literal
    path = tmp_path / "hyps.py"
    path.write_bytes(content.encode())
    assert as_literal(read_nbest(path)) == literal


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 64])
def test_pieces_of_the_file_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    content = """# comment, longer than the window
{'a': [(-1.25e-1, 'x' 'y'), (+2, "it's"), (- .5, '''3 ' quotes '' '''), (1_0.5, r'\\d'), (-3, 'ä\\'▁')],
     u'b': [(0, ''),], }  # end of it"""
    path = tmp_path / "hyps.py"
    path.write_text(content, encoding="utf-8")
    monkeypatch.setattr("returnn_bridge.files._CHUNK_BYTES", width)
    assert as_literal(read_nbest(path)) == ast.literal_eval(content)


@many_files
@given(position=st.integers(0, 10**6))
def test_no_file_cut_short_is_read(tmp_path: Path, position: int) -> None:
    content = "{'a': [(-1.5, 'x y'), (-2, \"it's\")], 'b': [(0.0, '')]}\n"
    path = tmp_path / "hyps.py"
    path.write_text(content[: position % (len(content) - 1)])
    with pytest.raises(ValueError, match=r"^[^\n]*hyps\.py:1: [^\n]*; expected [^\n]*$"):
        read_nbest(path)


@many_files
@given(content=st.text(alphabet="{}[]()'\",:#\\ \nab1.-enif_r", max_size=40))
def test_the_reader_takes_only_what_literal_eval_takes(tmp_path: Path, content: str) -> None:
    path = tmp_path / "hyps.py"
    path.write_text(content)
    try:
        lists = read_nbest(path)
    except ValueError:
        return
    assert as_literal(lists) == ast.literal_eval(content)


def test_demo_lists_are_those_of_literal_eval() -> None:
    path = DEMO / "dev.nbest.py.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        literal = ast.literal_eval(file.read())
    lists = read_nbest(path)
    assert list(as_literal(lists).items()) == list(literal.items())
    assert (len(lists), sum(len(u.hypotheses) for u in lists)) == (160, 9560)


def test_streaming_yields_before_it_has_seen_the_end(tmp_path: Path) -> None:
    broken = {
        "hyps.py": "{'a': [(1.0, 'x')],\n?",
        "hyps.jsonl": '{"id": "a", "hyps": [{"text": "x", "scores": {"am": 1}}]}\n?',
    }
    for name, content in broken.items():
        (tmp_path / name).write_text(content)
        utterances = iterate_nbest(tmp_path / name)
        assert next(utterances) == NBestList("a", (Hypothesis("x", {"am": 1.0}),))
        with pytest.raises(ValueError, match=rf"{name}:2: "):
            next(utterances)


def test_non_finite_scores_pass_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "hyps.py"
    path.write_text("{'a': [(nan, 'x'), (-inf, 'y'), (inf, 'z'), (1e999, '')]}")
    scores = [hyp.scores["am"] for hyp in read_nbest(path, allow_non_finite=True)[0].hypotheses]
    assert math.isnan(scores[0])
    assert scores[1:] == [-math.inf, math.inf, math.inf]
    with pytest.raises(ValueError, match="hypothesis 1 of 'a' has score nan"):
        read_nbest(path)


def test_minus_infinity_is_kept_where_a_format_can_hold_it(tmp_path: Path) -> None:
    """RETURNN writes it for a hypothesis that must not be chosen; in JSON it is null."""
    path, lines = tmp_path / "hyps.py", tmp_path / "hyps.jsonl"
    path.write_text("{'a': [(-1.5, 'x'), (-inf, 'y')]}")
    lists = read_nbest(path)
    assert [hyp.scores["am"] for hyp in lists[0].hypotheses] == [-1.5, -math.inf]
    write_nbest(lines, lists)
    assert '{"text": "y", "scores": {"am": null}}' in lines.read_text()
    assert read_sources([str(lines)]) == lists
    write_nbest(tmp_path / "again.py", read_nbest(lines))
    assert read_nbest(tmp_path / "again.py") == lists
    with pytest.raises(ValueError, match="hypothesis 2 of 'a' has am score -inf; expected a finite number"):
        write_nbest(tmp_path / "mlm.json", lists)


# --- other forms ---


def test_mlm_scoring_order_is_that_of_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "dev.am.json"
    hyps = {f"hyp_{number}": {"score": -number, "text": f" t{number}"} for number in (10, 2, 1)}
    path.write_text(json.dumps({"u": {"ref": "r", **hyps}}))
    expected = tuple(Hypothesis(f" t{number}", {"lm": -float(number)}) for number in (1, 2, 10))
    assert read_nbest(path, name="lm") == [NBestList("u", expected, "r")]


def test_flat_json_names_its_scores(tmp_path: Path) -> None:
    path = tmp_path / "tune.json"
    path.write_text('{"u": {"ref": "r", "hyps": [{"text": "t", "am_score": -1.5, "lm_score": 2, "words": 7}]}}')
    assert read_nbest(path) == [NBestList("u", (Hypothesis("t", {"am": -1.5, "lm": 2.0, "words": 7.0}),), "r")]


@pytest.mark.skipif(not LIBRISPEECH.exists(), reason="the large data are not here")
def test_real_lists_are_complete() -> None:
    lists = read_nbest(LIBRISPEECH / "tune.json.gz")
    assert len(lists) == 137
    assert sum(len((u.reference or "").split()) for u in lists) == 5024
    assert all(hyp.scores.keys() == {"am", "lm"} for u in lists for hyp in u.hypotheses)


def test_single_score_of_json_lines_can_be_renamed(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    write_nbest(path, [NBestList("u", (Hypothesis("t", {"lm": 1.0}, {"lm": {"num_passes": 3}}),))])
    assert read_nbest(path, name="ar")[0].hypotheses == (Hypothesis("t", {"ar": 1.0}, {"ar": {"num_passes": 3}}),)


# --- aligned score files ---


def test_sources_merge_scores_of_the_same_texts() -> None:
    lists = read_sources([str(DEMO / "dev.nbest.py.gz"), f"bigram={DEMO / 'dev.bigram.py.gz'}"])
    assert as_literal(lists, "am") == as_literal(read_nbest(DEMO / "dev.nbest.py.gz"))
    assert as_literal(lists, "bigram") == as_literal(read_nbest(DEMO / "dev.bigram.py.gz"))


def test_a_file_with_an_equals_sign_in_its_name_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x=1.py").write_text("{'a': [(1.0, 't')]}")
    assert read_sources(["x=1.py"]) == read_sources(["am=x=1.py"])


@pytest.mark.parametrize(
    "first, second, message",
    [
        ("{'a': [(1.0, 't')]}", "{'b': [(1.0, 't')]}", r"1 only in \S*one.py \('a'\) and 1 only in \S*two.py \('b'\)"),
        ("{'a': [(1.0, 's'), (1.0, 't')]}", "{'a': [(1.0, 's'), (1.0, 'u')]}", r"'a'.*hypothesis 2 is 't' and 'u'"),
        ("{'a': [(1.0, 's'), (1.0, 't')]}", "{'a': [(1.0, 't'), (1.0, 's')]}", r"'a'.*hypothesis 1 is 's' and 't'"),
        ("{'a': [(1.0, 't')]}", "{'a': [(1.0, 't'), (2.0, 't')]}", r"'a'.*1 and 2 hypotheses"),
    ],
)  # fmt: skip
def test_files_that_are_not_aligned_are_refused(tmp_path: Path, first: str, second: str, message: str) -> None:
    (tmp_path / "one.py").write_text(first)
    (tmp_path / "two.py").write_text(second)
    with pytest.raises(ValueError, match=message) as caught:
        read_sources([str(tmp_path / "one.py"), f"lm={tmp_path / 'two.py'}"])
    assert "\n" not in str(caught.value)


def test_at_most_five_utterances_are_named(tmp_path: Path) -> None:
    for name, tags in (("one.py", "abcdefgh"), ("two.py", "a")):
        (tmp_path / name).write_text(repr({tag: [(1.0, "t")] for tag in tags}))
    with pytest.raises(ValueError, match=r"7 only in \S*one.py \('b', 'c', 'd', 'e', 'f', \.\.\.\); expected"):
        read_sources([str(tmp_path / "one.py"), f"lm={tmp_path / 'two.py'}"])


def test_a_score_name_may_come_once(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text("{'a': [(1.0, 't')]}")
    with pytest.raises(
        ValueError, match=r"score 'am' comes from \S*one.py and from \S*one.py; expected each name once"
    ):
        read_sources([str(path), str(path)])


def test_the_bytes_depend_on_the_lists_alone(tmp_path: Path) -> None:
    lists = read_nbest(DEMO / "dev.bigram.py.gz", name="bigram")[:5]
    for name in ("a.py.gz", "b.py.gz"):
        write_nbest(tmp_path / name, lists)
    assert (tmp_path / "a.py.gz").read_bytes() == (tmp_path / "b.py.gz").read_bytes()


def test_a_list_without_hypotheses_can_not_be_made() -> None:
    with pytest.raises(ValueError, match="utterance 'u' has no hypotheses"):
        NBestList("u", ())
