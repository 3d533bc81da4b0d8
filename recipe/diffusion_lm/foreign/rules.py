"""The kinds of verdict on a key of an MDLM / ASR-fork tree, and the rules that need more than a line. compat_keys.py is the table of them.

    rule = to("optim.lr", float)
    verdict, text = rule(reading, "optim.lr", 3e-4)         # reading.settings["optim.lr"] is 3e-4 now

A rule gets the reading so far, the key and its value; it puts our settings and returns a verdict (honoured, without effect) with one line
of text, or raises the ValueError that refuses the value. Names of classes (`_target_`) are compared with a list, never imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

HONOURED, NO_EFFECT = "honoured", "without effect"


class Note(NamedTuple):
    """The verdict on one key."""

    key: str
    value: Any
    verdict: str  # HONOURED or NO_EFFECT; a refused key is an error instead
    text: str  # our setting, or the reason


@dataclass
class Reading:
    """A tree while it is read: its leaves, our settings by dotted name, where each came from, and the verdicts."""

    leaves: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @property
    def mode(self) -> str:
        return str(self.leaves.get("mode"))

    def put(self, target: str, value: Any, key: str) -> None:
        self.settings[target] = value
        self.origin[target] = key


Rule = Callable[[Reading, str, Any], tuple[str, str]]


def refuse(key: str, value: Any, expected: str) -> NoReturn:
    raise ValueError(f"{key}: got {value!r}; {expected}")


def typed(key: str, value: Any, kind: type) -> Any:
    """`value` as int, float, bool or str; only lossless changes. YAML 1.1 reads 3e-4 as a string: that is a number here."""
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not kind:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        refuse(key, value, f"expected {names[kind]}")
    return value


def to(target: str, kind: type, text: str = "") -> Rule:
    """Honoured: the value is our setting `target`."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        reading.put(target, typed(key, value, kind), key)
        return HONOURED, text or target

    return rule


def nothing(reason: str, kind: type | None = None) -> Rule:
    """Without effect, whatever the value."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        if kind is not None:
            typed(key, value, kind)
        return NO_EFFECT, reason

    return rule


def only(
    accepted: Mapping[Any, Any], refused: Mapping[Any, str] | None = None, target: str = "", text: str = ""
) -> Rule:
    """One of a few values. With a target: honoured, and `accepted` maps to our value; else without effect for the reason it maps to."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        known = [item for item in accepted if type(item) is type(value) and item == value]
        if not known:
            why = [item for name, item in (refused or {}).items() if type(name) is type(value) and name == value]
            possible = " or ".join(repr(item).lower() if isinstance(item, bool) else repr(item) for item in accepted)
            refuse(key, value, f"{why[0]}; possible: {possible}" if why else f"expected {possible}")
        if not target:
            return NO_EFFECT, accepted[known[0]]
        reading.put(target, accepted[known[0]], key)
        return HONOURED, f"{target} {accepted[known[0]]}"

    return rule


def refused(reason: str) -> Rule:
    """No value is possible."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        refuse(key, value, reason)

    return rule


def in_mode(mode: str, rule: Rule) -> Rule:
    """A rule for one mode; in the others the value (checked all the same) has no effect."""

    def wrapped(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        verdict = rule(reading, key, value)
        return verdict if reading.mode == mode else (NO_EFFECT, f"read in mode {mode} only")

    return wrapped


def target_class(names: Mapping[str, str], target: str = "") -> Rule:
    """A `_target_`: one of a list of names that are compared, never imported."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        if not isinstance(value, str) or value not in names:
            refuse(key, value, f"expected {' or '.join(names)}; no other name is looked up or run")
        if target:
            reading.put(target, names[value], key)
        return HONOURED, names[value]

    return rule
