"""Laws of the matched-pair test: sums over segments, their borders, symmetry, and the normal distribution."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from conftest import DEMO
from rescore.cli import main
from rescore.matched_pairs import MatchedPairs, matched_pairs, segment_errors
from rescore.nbest import read_nbest
from rescore.speakers import speakers_of
from rescore.wer import count_errors

WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@given(WORDS, WORDS, WORDS)
def test_segments_share_out_all_errors(reference: list[str], first: list[str], second: list[str]) -> None:
    pairs = list(segment_errors(reference, first, second))
    for system, words in enumerate((first, second)):
        assert sum(pair[system] for pair in pairs) == count_errors(" ".join(reference), " ".join(words)).errors
    assert all(map(sum, pairs))
    assert [(after, before) for before, after in pairs] == list(segment_errors(reference, second, first))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("x b c d", "a b c x", [(1, 0), (0, 1)]),  # two right words between the errors
        ("x b c d", "a b x d", [(1, 1)]),  # one
        ("a x b c d", "a b c d", [(1, 0)]),  # an insertion
        ("x a b c d", "a b y c d", [(1, 0), (0, 1)]),
        ("x a b c d", "a y b c d", [(1, 1)]),
        ("a b c d", "a b c d", []),
    ],
)
def test_two_right_words_part_segments(first: str, second: str, expected: list[tuple[int, int]]) -> None:
    assert list(segment_errors("a b c d".split(), first.split(), second.split())) == expected


def test_the_test_is_that_of_the_mean_of_normal_differences() -> None:
    """With one segment an utterance, the formula of the paper written out; the systems swapped turn the sign."""
    generator = np.random.default_rng(1)
    errors = generator.integers(0, 4, (2, 60))
    texts = [[" ".join(["x"] * int(count) + ["a"] * (4 - int(count))) for count in row] for row in errors]
    references = ["a a a a"] * 60
    used = errors[:, errors.any(axis=0)]
    difference = used[1] - used[0]
    z = difference.mean() / np.sqrt(difference.var(ddof=1) / len(difference))
    found, swapped = matched_pairs(references, *texts), matched_pairs(references, *reversed(texts))
    assert found.segments == len(difference)
    assert found.z == pytest.approx(z) and swapped.z == pytest.approx(-z)
    assert found.p == pytest.approx(2 * norm.sf(abs(z))) == swapped.p


def test_without_spread_there_is_no_test() -> None:
    assert matched_pairs(["a b"], ["a b"], ["a b"]) == MatchedPairs(0, 0.0, 1.0)
    assert matched_pairs(["a", "b"], ["x", "y"], ["a", "b"]) == MatchedPairs(2, None, None)


@pytest.mark.parametrize(
    ("tags", "pattern", "message"),
    [
        (["a-1", "b-1"], "(", "--speakers (: not a regular expression"),
        (["a-1", "b-1"], "a", "--speakers a: no group"),
        (["a-1", "b-1"], "^(a)-", "--speakers ^(a)-: utterance 'b-1' does not match"),
        (["a-1", "a-2"], "^(.)-", "--speakers ^(.)-: all 2 utterances are of the speaker 'a'"),
    ],
)
def test_patterns_without_speakers_are_refused(tags: list[str], pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        speakers_of(tags, pattern)


def test_speakers_reach_the_bootstrap_of_the_table(tmp_path, capsys) -> None:
    """The WER stays; with a speaker for each utterance the intervals too; with blocks they are others, and it is said."""
    tags = [utterance.seq_tag for utterance in read_nbest(DEMO / "test.nbest.py.gz")]
    found = {}
    for name, pattern in (("plain", ""), ("each", "(.*)"), ("book", r"/([a-z]+)")):
        out = tmp_path / f"{name}.json"
        command = ["wer", str(DEMO / "test.nbest.py.gz"), "--refs", str(DEMO / "test.ref.py.gz"), "--out", str(out)]
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--scales", "am=am:1", *(["--speakers", pattern] if pattern else [])])
        assert stopped.value.code == 0, capsys.readouterr()
        found[name] = json.loads(out.read_text())
    assert speakers_of([*tags, "x/other-1"], r"/([a-z]+)")[-1] == "other"
    plain, each, book = (found[name]["rows"] for name in ("plain", "each", "book"))
    assert plain == each
    assert [row["wer_percent"] for row in plain] == [row["wer_percent"] for row in book]
    assert plain[1]["wer_standard_error"] != book[1]["wer_standard_error"]
    assert 0 <= book[-1]["change_probability_of_improvement"] <= 1 and plain[-1]["matched_pairs_p"] < 1e-6
    assert any("the choice of the 2 speakers" in note for note in found["book"]["footnotes"])
    assert "With 2 speakers, ± and the intervals are too small." in found["book"]["footnotes"]
    assert not any("speakers" in note for note in found["plain"]["footnotes"])


def test_speakers_reach_the_resamples_of_tuning_and_of_the_pipeline(tmp_path, capsys) -> None:
    """With a speaker for each utterance the scales are those of utterances drawn singly; with blocks they are others."""
    sources = [f"{DEMO}/dev.nbest.py.gz", f"bigram={DEMO}/dev.bigram.py.gz"]
    references = f"{DEMO}/dev.ref.py.gz"

    def run(*command: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            main([*command, "--resamples", "3"])
        assert stopped.value.code == 0, capsys.readouterr()

    found = {}
    for name, options in (("plain", []), ("each", ["--speakers", "(.*)"]), ("book", ["--speakers", "/([a-z]+)"])):
        out = tmp_path / f"{name}.json"
        run("tune", *sources, "--refs", references, "--out", str(out), "--row", "am:1,bigram", *options)
        found[name] = out.read_text()
    assert found["plain"] == found["each"] != found["book"]
    sets = [word for part in ("--tune", "--test") for source in sources for word in (part, source)]
    sets += ["--tune-refs", references, "--test-refs", references]
    run("rescore", *sets, "--out", str(tmp_path), "--row", "x=am:1,bigram", "--speakers", "/([a-z]+)")
    assert (tmp_path / "scales" / "x.json").read_text() == found["book"]
