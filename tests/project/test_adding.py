"""The recipes of docs/adding.md are one program, and it runs: nothing of the product has to be edited to add a class of one's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/adding.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_recipes_run_as_one_program(tmp_path: Path) -> None:
    (tmp_path / "my_dlm.py").write_text("\n".join(BLOCKS), encoding="utf-8")
    path = os.pathsep.join([str(ROOT / "recipe"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "my_dlm.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_seam_has_its_recipe() -> None:
    for registry in ("FAMILIES", "NETWORKS", "SAMPLERS", "ESTIMATORS", "FORMATS", "SECTIONS"):
        assert re.search(rf"{registry}(\[\S+\])?\.add\(", PAGE), registry
