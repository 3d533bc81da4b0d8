"""Plain data made into frozen dataclasses, strictly: an unknown key, a wrong type or a missing option is a ValueError that names the key.

    config = build(TrainConfig, tree)                                   # sections within sections
    family = build(MaskedFamily, {"T": 1000}, "family.", special=special)

Types are those of the fields' annotations; only lossless changes are made (an int for a float, one string for a list of one).
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Section = TypeVar("Section")


def build(kind: type[Section], tree: Any, prefix: str = "", **given: Any) -> Section:
    """The dataclass `kind` with the fields of `tree`. prefix: put before a key in errors; given: fields that no tree may set."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{prefix or 'configuration'}: got {tree!r}; expected a section of keys")
    hints = typing.get_type_hints(kind)
    known = {item.name for item in dataclasses.fields(kind) if item.name not in given}  # type: ignore[arg-type]
    for key in tree:
        if key not in known:
            raise ValueError(unknown_key(f"{prefix}{key}", str(key), known))
    return kind(**given, **{key: convert(hints[key], value, f"{prefix}{key}") for key, value in tree.items()})


def unknown_key(path: str, key: str, known: typing.Iterable[str]) -> str:
    """What to say of a key that is not among the known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names) or 'nothing'}"
    return f"unknown key {path!r}; {hint}"


def convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the field's type, or a ValueError. Only lossless changes: int -> float, one string -> a list of one."""
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
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:  # nor nan
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
    raise ValueError(f"{path}: got {value!r}; expected {expected}")


def plain(value: Any) -> Any:
    """Dicts, lists, numbers and strings of data that may hold tuples."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
