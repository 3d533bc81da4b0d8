"""Check a resume checkpoint before the trainer loads it, so that a damaged file is a one-line error.

    check_checkpoint("run/checkpoints/last.ckpt", module.state_dict())      # ValueError naming the file

The file is a zip archive with a checksum for every part, which loading does not compare.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "progress")


def check_checkpoint(path: Path, state: Mapping[str, Tensor]) -> None:
    """ValueError if the file is damaged or its weights differ from `state` in name or shape. Loads no weights."""
    if reason := _problem(path, state):
        raise ValueError(
            f"{path}: not a whole checkpoint of this run ({reason}); "
            "expected the file that training wrote, or a new folder for the run"
        )


def _problem(path: Path, state: Mapping[str, Tensor]) -> str:
    if not path.stat().st_size:
        return "an empty file"
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                return f"its part {damaged} is damaged"
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the type depends on the damage
        lines = str(error).strip().splitlines()
        return lines[0] if lines else type(error).__name__
    if not isinstance(tree, dict):
        return f"a {type(tree).__name__}"
    if missing := [name for name in PARTS if not isinstance(tree.get(name), dict | list)]:
        return f"without {', '.join(missing)}"
    stored = tree["state_dict"]
    for name in {**state, **stored}:
        own, its = (_shape(part.get(name)) for part in (state, stored))
        if own != its:
            return f"weight {name} {its}; {own} in this run"
    return ""


def _shape(value: object) -> str:
    return f"of shape {list(value.shape)}" if isinstance(value, Tensor) else "missing"
