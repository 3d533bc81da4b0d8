"""Every reader takes a damaged file with all its data or refuses it in one line that names the file; a fixed set of inputs a kind.

`python -m tests.fuzz.run` looks further. A finding here is mended in the product, or written down in `KNOWN` with the reason why it stays.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from .readers import PRODUCT, READERS, product

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Known:
    """Findings that are not mended yet; each of the first three is a pattern as of a shell."""

    kind: str
    sort: str
    where: str
    """File and function of the product; "" where it returned and the result is wrong."""
    why: str

    def fits(self, finding: dict[str, Any]) -> bool:
        return all(fnmatchcase(finding[name], getattr(self, name)) for name in ("kind", "sort", "where"))


NO_NAME, ODD_TYPE = "no file name", "exception"
KNOWN = (
    Known("scored", "accepted with other content", "", "seconds of a .cost.json that are no number"),
    Known("*", ODD_TYPE, "types.is_detail*", "a whole number of details that no float can hold"),
    Known("sc*", ODD_TYPE, "scales.Scales.__post_init__", "a scale that no float can hold"),
    Known("race", "*", "*", "json by itself: numbers that no float can hold, deep nesting, names with line ends"),
    Known("overview", "*", "overview.*", "numbers that no float can hold; rows that differ are told without the file"),
    Known("*", "*", "score_file._unknown_in", "`unknown` of a .cost.json that is no triple"),
    Known("*", "*", "scores.UnknownCounts.*", "`unknown` of a .cost.json with other types"),
    Known("score_*", ODD_TYPE, "score_file._score_rest", "`seconds` and `passes` of a .cost.json with other types"),
    Known("score_merge", "*", "score_file.merge_parts*", "the same, and a `shard` in the header that is no pair"),
    Known("wer", ODD_TYPE, "pipeline.seconds_of", "`seconds` of a .cost.json with another type"),
    Known("score_jsonl", NO_NAME, "score_file.digest", "a lone surrogate in a text"),
    Known("wer", NO_NAME, "table.ResultTable.to_json", "nan in the header or cost of a score file"),
    Known("wer*", NO_NAME, "references.check_same_utterances", "says `the references` where it could name the file"),
    Known("checkpoint", ODD_TYPE, "*", "parts of a resume checkpoint that have another type"),
    Known("torch_checkpoint", ODD_TYPE, "mdlm_weights.*", "a checkpoint whose parts have other types or shapes"),
    Known("published", ODD_TYPE, "mdlm_weights.network_weights", "an embedding that is no matrix"),
    Known("torch_checkpoint", NO_NAME, "mdlm_weights.*", "what is wrong is told without the file"),
    Known("published", NO_NAME, "mdlm_weights.*", "what is wrong is told without the file"),
    Known("model", NO_NAME, "*", "an option of the family is told without the file"),
    Known("config", NO_NAME, "*", "a setting is told by its key, without the file"),
    Known("foreign_config", NO_NAME, "*", "a setting is told by its key, without the file"),
    Known("*", "more than one line", "*", "text of the file in the message as it stands"),
    Known("*", "a very long line", "*", "text of the file in the message, whole"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a process of its own: it forks, and sets limits."""
    out = tmp_path_factory.mktemp("fuzz")
    path = os.pathsep.join([str(ROOT / "recipe"), str(ROOT), *sys.path])
    command = [sys.executable, "-m", "tests.fuzz.run", "--seed", "1", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode in (0, 1) and (out / "summary.json").is_file(), done.stderr[-2000:]
    return dict(json.loads((out / "summary.json").read_text()))


def test_every_name_of_the_product_is_where_the_table_says():
    for names in PRODUCT.values():
        for name in names.split():
            assert product(name.split("=")[0]) is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_read_whole_or_refused_in_one_line(report, kind):
    if not all(map(importlib.util.find_spec, READERS[kind].needs)):
        pytest.skip(f"needs {', '.join(READERS[kind].needs)}")
    assert report["kinds"][kind]["accepted"] and report["kinds"][kind]["refused"], "nothing was tried"
    new = [
        f"{finding['sort']} {finding['error']} in {finding['where'] or 'the result'}: {finding['message']}; "
        f"python -m tests.fuzz.run --kind {kind} --only {finding['index']}"
        for finding in report["findings"]
        if finding["kind"] == kind and not any(known.fits(finding) for known in KNOWN)
    ]
    assert not new, "\n".join(new)


@pytest.mark.slow
def test_what_is_known_is_still_found(report):
    if len(report["kinds"]) < len(READERS):
        pytest.skip("not every kind could be read")
    mended = [known for known in KNOWN if not any(map(known.fits, report["findings"]))]
    assert not mended, "take it out of KNOWN"
