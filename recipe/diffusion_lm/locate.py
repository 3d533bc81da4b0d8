"""Which folder holds the model of a path that a user gives. Does not import torch, for commands that need none.

    locate("runs/masked/model")     # runs/masked/model
    locate("runs/masked")           # runs/masked/model: a run folder stands for the model of its last step

A path without a model is returned as it is, and its reader says what is wrong with it.
"""

from __future__ import annotations

import os
from pathlib import Path

from returnn_bridge.files import read_json


def locate(path: str | os.PathLike[str]) -> Path:
    """The path itself, or `model` in it if it is the folder of a training run. ValueError for a run without a model."""
    folder = Path(path)
    if (folder / "model.safetensors").exists() or not (folder / "config.json").is_file():
        return folder
    settings = read_json(folder / "config.json", "that of a model folder or of a training run")
    if not isinstance(settings, dict) or not {"family", "trainer"} <= settings.keys():
        return folder
    if not (folder / "model").is_dir():
        more = f", or {folder / 'best'}" if (folder / "best").is_dir() else ""
        raise ValueError(f"{folder}: a training run that has no model/ yet; expected a finished run{more}")
    return folder / "model"
