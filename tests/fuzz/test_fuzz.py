"""Every reader takes a damaged file with all its data or refuses it in one line that names the file; a fixed set of inputs a kind.

`python -m tests.fuzz.run` looks further.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .readers import PRODUCT, READERS, product

ROOT = Path(__file__).parents[2]


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
        if finding["kind"] == kind
    ]
    assert not new, "\n".join(new)
