"""Check a resume checkpoint before the trainer loads it, so that a damaged file is a one-line error.

    check_checkpoint("run/checkpoints/last.ckpt", module.state_dict())      # ValueError naming the file

The file is a zip archive with a checksum for every part, which loading does not compare.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from returnn_bridge.files import is_finite, one_line

PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "progress")


def check_checkpoint(path: Path, state: Mapping[str, Tensor]) -> None:
    """ValueError if the file is damaged, lacks a part or if its weights differ from `state` in name or shape.

    Loads no weights.
    """
    if reason := _problem(path, state):
        raise ValueError(not_restored(path, reason))


def not_restored(path: Path, reason: str) -> str:
    """The error message for a checkpoint that a run can not continue from."""
    return (
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
        return one_line(error) or type(error).__name__
    if not isinstance(tree, dict):
        return f"a {type(tree).__name__}"
    if missing := [name for name in PARTS if not isinstance(tree.get(name), dict | list)]:
        return f"without {', '.join(missing)}"
    stored = tree["state_dict"]
    for name in {**state, **stored}:
        own, its = (_shape(part.get(name)) for part in (state, stored))
        if own != its:
            return f"weight {one_line(name)} {its}; {own} in this run"
    if not _only_counts(tree["loops"]):
        return "a text among the counts of its loops"
    if not isinstance(tree["optimizer_states"], list):
        return "without a list of optimizer_states"
    shapes = {value.shape for value in state.values()}
    return next(filter(None, (_problem_of_optimizer(part, shapes) for part in tree["optimizer_states"])), "")


def _only_counts(tree: object) -> bool:
    """Whether no value in a tree is a text: Lightning adds up the counts of its loops without a check."""
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return not isinstance(tree, str) and all(map(_only_counts, parts))


def _problem_of_optimizer(part: Any, shapes: set[torch.Size]) -> str:
    """What is wrong with the state of AdamW; "" if nothing. shapes: of the weights."""
    if not isinstance(part, dict) or not isinstance(part.get("state"), dict):
        return "an optimizer without state"
    groups = part.get("param_groups")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return "an optimizer without param_groups"
    for group in groups:
        numbers = [group.get(name) for name in ("lr", "eps", "weight_decay")]
        if not all(map(is_finite, numbers)):
            return "an optimizer whose lr, eps and weight_decay are no numbers"
    for number, moments in part["state"].items():
        values = moments if isinstance(moments, dict) else {}
        found: list[Any] = [values.get(name) for name in ("step", "exp_avg", "exp_avg_sq")]
        if not all(isinstance(value, Tensor) and value.is_floating_point() for value in found):
            return f"an optimizer without the moments of parameter {one_line(number)}"
        if found[0].numel() != 1 or found[1].shape != found[2].shape or found[1].shape not in shapes:
            return f"an optimizer with moments of parameter {one_line(number)} of another shape"
    return ""


def _shape(value: object) -> str:
    return f"of shape {list(value.shape)}" if isinstance(value, Tensor) else "missing"
