"""Initial weights from other models: all of one model, or parts of several by RETURNN's rules.

    start_from(model, "ar/model")                                       # weights with the same name and shape
    preload(model, {"body": {"filename": "ar/model", "prefix": "blocks.", "ignore_missing": True}})

`preload` implements RETURNN's `preload_from_files` with its keys: `filename` (a model folder or a .safetensors file),
`prefix` (selects the model's parameters to load; names in the file lack it), `ignore_missing` (parameters that are not
in the file keep their initial values), `ignore_params_prefixes` (parameters of the model that are not loaded) and
`var_name_mapping` ({name in the model: name in the file}).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from diffusion_lm.model import LanguageModel
from diffusion_lm.model_folder import CONFIG, WEIGHTS, check_finite, read_weights
from returnn_bridge.files import one_line, quoted, read_json_object

_KEYS = ("filename", "prefix", "ignore_missing", "ignore_params_prefixes", "var_name_mapping", "init_for_train")


def start_from(model: LanguageModel, folder: str) -> str:
    """Load the weights of another model that have the same names and shapes; return a line that summarises them.

    ValueError if the vocabularies differ or no weight fits.
    """
    source = LanguageModel.load(folder)
    if source.vocab != model.vocab:
        raise ValueError(f"init_from {folder}: its vocabulary is another one; expected the vocabulary of data.vocab")
    own, other = model.network.state_dict(), source.network.state_dict()
    shared = {name: value for name, value in other.items() if name in own and own[name].shape == value.shape}
    if not shared:
        raise ValueError(
            f"init_from {folder}: no weight has the name and shape of one here; expected a network of the same size"
        )
    fresh = sorted(set(own) - set(shared))
    model.network.load_state_dict(shared, strict=False)
    model.network.after_preload(shared)
    return (
        f"started from {folder}: {len(shared)} weights taken, {len(fresh)} fresh {fresh[:3] if fresh else ''}".rstrip()
    )


def preload(model: LanguageModel, entries: Mapping[str, Any]) -> list[str]:
    """Load weights entry by entry, in order; return a summary line for each.

    ValueError names the entry and the parameter that does not fit.
    """
    own = model.network.state_dict()
    taken: dict[str, torch.Tensor] = {}
    lines = []
    for key, entry in entries.items():
        found = _of_entry(f"preload_from_files.{key}", entry, own)
        lines.append(f"preload_from_files.{key}: {len(found)} weights of {entry['filename']}")
        taken |= found
    model.network.load_state_dict(taken, strict=False)
    model.network.after_preload(taken)
    return lines


def _read(where: str, path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The file of weights of a model folder, or the file itself, and what it holds.

    ValueError for a file that is not readable, and for a folder whose config.json records another digest.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if path.is_dir() and (path / CONFIG).is_file():
        return file, read_weights(path, read_json_object(path / CONFIG, "that of a model", finite=False))
    try:
        return file, load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{where} {file}: not readable ({one_line(error)}); expected a model folder or a .safetensors file"
        ) from None


def _of_entry(where: str, entry: Any, own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("filename"), str):
        raise ValueError(f"{where}: got {quoted(entry)}; expected a section with a filename")
    unknown = sorted(set(entry) - set(_KEYS))
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known here: {', '.join(_KEYS)}")
    if entry.get("init_for_train", True) is not True:
        raise ValueError(
            f"{where}.init_for_train {entry['init_for_train']!r}; expected true, a continued run has its own weights"
        )
    file, stored = _read(f"{where}.filename", Path(entry["filename"]))
    prefix, mapping = entry.get("prefix", ""), entry.get("var_name_mapping", {})
    ignored = entry.get("ignore_params_prefixes", [])
    are_names = isinstance(ignored, list) and all(isinstance(name, str) for name in ignored)
    if not isinstance(prefix, str) or not isinstance(mapping, Mapping) or not are_names:
        raise ValueError(
            f"{where}: prefix {quoted(prefix)}, var_name_mapping {quoted(mapping)}, ignore_params_prefixes "
            f"{quoted(ignored)}; expected a string, a section and a list of strings"
        )
    ignored = tuple(ignored)
    found = {}
    for name, value in own.items():
        if not name.startswith(prefix) or name.startswith(ignored):
            continue
        source = mapping.get(name, name.removeprefix(prefix))
        if source not in stored:
            if not entry.get("ignore_missing", False):
                raise ValueError(
                    f"{where}: no {source!r} in {file} for {name!r}, but {', '.join(sorted(stored)[:4])} ...; "
                    "expected it, or ignore_missing: true"
                )
            continue
        if stored[source].shape != value.shape:
            raise ValueError(
                f"{where}: {source!r} in {file} has the shape {list(stored[source].shape)}; "
                f"expected {list(value.shape)} for {name!r}, or ignore_params_prefixes: [{name}]"
            )
        check_finite({source: stored[source]}, file)
        found[name] = stored[source].float()
    if not found:
        raise ValueError(
            f"{where}: no weight taken; expected parameters with the prefix {prefix!r}, "
            f"here are {', '.join(sorted(own)[:4])} ..."
        )
    return found
