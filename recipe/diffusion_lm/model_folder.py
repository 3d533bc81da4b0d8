"""The files of a model folder: reading and checking them, and finding out what made the model.

    with whole_folder("mean", replaces=made_by("averaged")) as temporary: ...       # replaces only an earlier average
    config = read_config(folder)
    check_header(folder / WEIGHTS, expected)            # names and shapes, before memory is allocated
    weights = read_weights(folder, config)

`model.safetensors` holds the weights, `config.json` family, size and facts, and `spm.model` or `tokenizer.json` the
vocabulary. config.json records size and sha256 of the other two files; folders of earlier versions lack these records
and are read without that check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from returnn_bridge.files import one_line, quoted, read_json
from returnn_bridge.vocab import MODEL_FILE, TOKENIZER_FILE, Vocabulary

WEIGHTS, CONFIG, FORMAT = "model.safetensors", "config.json", "diffusion-lm"
FILES = {WEIGHTS, CONFIG, MODEL_FILE, TOKENIZER_FILE}
_FLOATS = ("F64", "F32", "F16", "BF16")  # accepted types of stored weights, by their names in safetensors


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a model folder. ValueError if it is not of this format and version."""
    file = folder / CONFIG
    config = read_json(file, "a model folder that training wrote")
    if not isinstance(config, dict) or config.get("format") != FORMAT or config.get("version") != 1:
        raise ValueError(f"{file}: not a {FORMAT} version 1 model; expected one")
    return config


def origin(facts: Mapping[str, Any]) -> str:
    """What made a model, by its facts: "averaged", "imported" or "trained"; "" if the facts do not tell."""
    if "averaged" in facts:  # checked first, because an average also has the facts of its first model
        return "averaged"
    if "imported" in facts or "imported_from" in facts:  # "imported_from" in folders of earlier versions
        return "imported"
    return "trained" if "steps" in facts else ""


def made_by(kind: str) -> Callable[[Path], bool]:
    """A test whether a folder holds a model of this `origin` and nothing else."""

    def is_one(folder: Path) -> bool:
        try:
            facts = read_config(folder).get("facts")
            only_files = {entry.name for entry in folder.iterdir()} <= FILES
        except (ValueError, OSError):
            return False
        return only_files and isinstance(facts, dict) and origin(facts) == kind

    return is_one


def described(content: bytes) -> dict[str, Any]:
    """Size and sha256 of a file's content, as config.json records them."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def check_vocab(folder: Path, config: Mapping[str, Any], vocab: Vocabulary) -> None:
    """ValueError if the vocabulary in a model folder is not the one that the model was saved with."""
    _check_content(folder / vocab.file_name, described(vocab.content), config, "vocabulary", folder)
    found, expected = vocab.num_pieces, config.get("num_pieces")
    if found != expected:
        raise ValueError(
            f"{folder}: the vocabulary has {found} pieces, the model was trained with {quoted(expected)}; "
            "expected the vocabulary it was trained with"
        )


def check_header(file: Path, expected: Mapping[str, Tensor]) -> None:
    """ValueError if names and shapes in a file of weights are not the expected ones. Reads the file's header only."""
    found = _header(file)
    problems = [f"no {name}" for name in expected if name not in found]
    problems += [f"{name} is in no such network" for name in found if name not in expected]
    for name, (shape, kind) in found.items():
        if name not in expected:
            continue
        if shape != list(expected[name].shape):
            problems.append(f"{name} has the shape {shape}, expected {list(expected[name].shape)}")
        elif kind not in _FLOATS:
            problems.append(f"{name} is of type {kind}, expected one of {', '.join(_FLOATS)}")
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ValueError(f"{file}: weights do not fit {CONFIG} ({problems[0]}{more})")


def count_weights(file: Path) -> int:
    """Number of tensors in a file of weights, by its header."""
    return len(_header(file))


def read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in float32. ValueError for a file that was changed after saving, and for nan or inf in a weight."""
    file = folder / WEIGHTS
    if "weights" in config:
        with open(file, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        _check_content(file, {"bytes": file.stat().st_size, "sha256": digest}, config, "weights", folder)
    try:
        stored = load_file(file)
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from None
    check_finite(stored, file)
    return {name: value.float() for name, value in stored.items()}


def check_finite(weights: Mapping[str, Tensor], file: Path) -> None:
    """ValueError naming the first tensor that has nan or inf."""
    for name, value in weights.items():
        if value.is_floating_point() and not (finite := torch.isfinite(value)).all():
            wrong = value.numel() - int(finite.sum())
            raise ValueError(f"{file}: {name} has {wrong} values that are nan or inf; expected finite weights")


def _header(file: Path) -> dict[str, tuple[list[int], str]]:
    """Shape and type of each tensor in a safetensors file, by name."""
    try:
        with safe_open(file, framework="pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118  # not a mapping
            return {name: (list(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file}: not readable ({one_line(error)}); expected the file that training wrote")


def _check_content(file: Path, found: dict[str, Any], config: Mapping[str, Any], section: str, folder: Path) -> None:
    recorded = config.get(section)
    if recorded is None:
        return
    if not isinstance(recorded, dict):
        raise ValueError(
            f"{folder / CONFIG}: section {section!r} is {quoted(recorded)}; expected bytes and sha256 of the file"
        )
    what = "expected the file that the model was saved with"
    if recorded.get("bytes") != found["bytes"]:
        raise ValueError(
            f"{file}: {found['bytes']} bytes, {CONFIG} beside it says {quoted(recorded.get('bytes'))}; {what}"
        )
    if recorded.get("sha256") != found["sha256"]:
        actual, expected = found["sha256"], quoted(recorded.get("sha256")).strip("'")
        raise ValueError(
            f"{file}: other content than {CONFIG} beside it says (sha256 {actual[:12]}..., not {expected[:12]}...); "
            f"{what}"
        )
