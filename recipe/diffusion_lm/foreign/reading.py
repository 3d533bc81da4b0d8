"""Read a foreign configuration tree by the table of keys.

    reading = read(tree)
    reading.settings["optim.lr"], reading.notes[0].verdict

The table itself is in table.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from diffusion_lm.foreign.algo import is_exact
from diffusion_lm.foreign.bd3lm import check_algo, has_algo
from diffusion_lm.foreign.rows import MODES
from diffusion_lm.foreign.rules import HONOURED, NO_EFFECT, Note, Reading, refuse
from diffusion_lm.foreign.table import KEYS, OPAQUE, SECTIONS


def read(tree: Mapping[str, Any]) -> Reading:
    """Apply the table to a tree. ValueError that names the key for an unknown key or a refused value."""
    reading = Reading(dict(_leaves(tree, "")))
    if reading.leaves.get("mode") not in MODES:
        refuse("mode", reading.leaves.get("mode"), f"expected one of {', '.join(MODES)}")
    if has_algo(reading):
        check_algo(reading)
    for key, value in reading.leaves.items():
        if isinstance(value, str) and "${" in value:
            refuse(key, value, "expected a resolved tree, as the run printed it")
        verdict, text = KEYS[key].read(reading, key, value)
        if key not in OPAQUE or not value:
            reading.notes.append(Note(key, value, verdict, text))
            continue
        for inner, item in _leaves(value, f"{key}.", known=False):
            reading.notes.append(Note(inner, item, *_of_dataset(reading, key, inner, verdict, text)))
    if "ar" in (reading.leaves.get("parameterization"), reading.leaves.get("algo.name")):
        _without_noise(reading, ["family.name"], "an autoregressive model has no noise")
    elif is_exact(reading):
        _without_noise(
            reading, ["family.name", "family.block_size"], "with block_size 1 every token is masked, nothing is drawn"
        )
    return reading


def _of_dataset(reading: Reading, key: str, inner: str, verdict: str, text: str) -> tuple[str, str]:
    """Verdict and text for an option of a dataset dict under `key`, whose own ones are given."""
    if verdict == HONOURED and inner.rpartition(".")[2] in ("seq_end_symbol", "unknown_symbol"):
        return NO_EFFECT, "RETURNN ignores it beside orth_vocab"
    name = inner.removeprefix(f"{key}.").partition(".")[0]
    if verdict == HONOURED and name not in reading.settings["data.valid" if "valid" in key else "data.train"]:
        return NO_EFFECT, f"mode {reading.mode} reads the first set only"
    return verdict, text


def _leaves(tree: Mapping[str, Any], prefix: str, *, known: bool = True) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) for each leaf of a tree. known: raise ValueError for keys that are not in the table."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and (key in SECTIONS or not known):
            yield from _leaves(value, f"{key}.", known=known)
        elif not known or key in KEYS:
            yield key, value
        elif key in SECTIONS and value is not None:
            refuse(key, value, "expected a section of keys")
        elif key not in SECTIONS:  # an empty section counts as absent
            if str(name) == "_target_":
                refuse(key, value, "nothing is built here; a _target_ is compared with a list, never imported")
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown key {key!r}; the nearest known one is {near!r}")


def _without_noise(reading: Reading, kept: Sequence[str], reason: str) -> None:
    """Drop the noise settings of a model without noise, except those in `kept`, and note that their keys have no
    effect.
    """
    dropped = {target for target in reading.settings if target.startswith("family.") and target not in kept}
    dropped |= {"sampling.predictor", "sampling.steps", "sampling.noise_removal"} & reading.settings.keys()
    keys = {reading.origin[target] for target in dropped} - {reading.origin[target] for target in kept}
    for target in dropped:
        del reading.settings[target]
    reading.notes = [
        note._replace(verdict=NO_EFFECT, text=reason) if note.key in keys else note for note in reading.notes
    ]
