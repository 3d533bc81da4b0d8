"""Build frozen dataclasses from plain data: an unknown key or a value of a wrong type is a ValueError naming the key.

    config = build(TrainConfig, tree)                                   # sections within sections
    family = build(MaskedFamily, {"T": 1000}, "family.", special=special)

Types come from the annotations of the fields; only lossless conversions are made (int to float, one string to a list).
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from returnn_bridge.files import quoted

Section = TypeVar("Section")


def build(kind: type[Section], tree: Any, prefix: str = "", **given: Any) -> Section:
    """The dataclass `kind` with the fields of `tree`.

    prefix: put before keys in error messages. given: further fields, which `tree` must not set.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"{prefix or 'configuration'}: got {quoted(tree)}; expected a section of keys")
    hints = typing.get_type_hints(kind)
    known = {item.name for item in dataclasses.fields(kind) if item.name not in given}  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            raise ValueError(unknown_key(f"{prefix}{key}", str(key)[:100], known))
    return kind(**given, **{key: convert(hints[key], value, f"{prefix}{key}") for key, value in tree.items()})


def unknown_key(path: str, key: str, known: typing.Iterable[str]) -> str:
    """The error message for an unknown key: the nearest known key, or all known keys."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names) or 'nothing'}"
    return f"unknown key {quoted(path)}; {hint}"


def convert(hint: Any, value: Any, path: str) -> Any:
    """`value` converted to the type `hint` without loss. ValueError naming `path` if that is impossible."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, f"{path}.")
    if isinstance(hint, types.UnionType):
        options: tuple[Any, ...] = typing.get_args(hint)
        if isinstance(value, options) and not isinstance(value, bool):
            return value
    origin = typing.get_origin(hint)
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if isinstance(items, (list, tuple)) and all(isinstance(item, str) for item in items):
            return tuple(items)
    elif origin is dict:
        if isinstance(value, Mapping):
            return plain(dict(value))
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:  # false for nan
            return float(value)
    elif hint is int:
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and abs(value) < 1e18
            and value == int(value)
        ):
            return int(value)
    elif hint is bool or hint is str:
        if hint is str and isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, hint):
            return value
    expected = getattr(hint, "__name__", str(hint))
    raise ValueError(f"{path}: got {quoted(value)}; expected {expected}")


def plain(value: Any) -> Any:
    """The data with all mappings as dicts and all tuples as lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
