"""Rules, which give a verdict on a key of a foreign configuration tree, and functions that build simple rules.

    rule = to("optim.lr", float)
    verdict, text = rule(reading, "optim.lr", 3e-4)         # reading.settings["optim.lr"] is 3e-4 now

A rule gets the reading so far, the key and its value. It sets our settings and returns a verdict (honoured, without
effect) with one line of text, or it raises ValueError to refuse the value. Names of classes (`_target_`) are compared
with a list, never imported. A row (rows.py) says in which modes a rule acts; the table of all rows is in table.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from returnn_bridge.files import is_finite, quoted

HONOURED, COMPARED, NO_EFFECT = "honoured", "compared", "without effect"


class Note(NamedTuple):
    """The verdict on one key."""

    key: str
    """Dotted key of the tree."""
    value: Any
    """Value of the key in the tree."""
    verdict: str
    """HONOURED, COMPARED (it must agree with the loaded model) or NO_EFFECT; a refused key is a ValueError instead."""
    text: str
    """Our setting, or the reason why the key has no effect."""


@dataclass
class Reading:
    """The state while a tree is read."""

    leaves: dict[str, Any]
    """Values of the tree by dotted key."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Our settings by dotted name."""
    origin: dict[str, str] = field(default_factory=dict)
    """Our setting -> key of the tree that set it."""
    notes: list[Note] = field(default_factory=list)
    """The verdicts, in the order of the tree."""

    @property
    def mode(self) -> str:
        """The value of key `mode`."""
        return str(self.leaves.get("mode"))

    def put(self, target: str, value: Any, key: str) -> None:
        """Set our setting `target` because of a key of the tree."""
        self.settings[target] = value
        self.origin[target] = key


Rule = Callable[[Reading, str, Any], tuple[str, str]]


def refuse(key: str, value: Any, expected: str) -> NoReturn:
    """Raise the ValueError that refuses a value."""
    raise ValueError(f"{key}: got {quoted(value)}; {expected}")


def typed(key: str, value: Any, kind: type) -> Any:
    """Return `value` as int, float, bool or str if that is lossless, else ValueError.

    YAML 1.1 reads 3e-4 as a string, which is accepted as a number.
    """
    if kind is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and type(value) is int and is_finite(value):
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if type(value) is not kind:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        refuse(key, value, f"expected {names[kind]}")
    return value


def to(target: str, kind: type, text: str = "") -> Rule:
    """A rule that honours the key: the value becomes our setting `target`."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        reading.put(target, typed(key, value, kind), key)
        return HONOURED, text or target

    return rule


def nothing(reason: str, kind: type | None = None) -> Rule:
    """A rule for a key without effect; `kind` is the required type of its value."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        if kind is not None:
            typed(key, value, kind)
        return NO_EFFECT, reason

    return rule


def only(
    accepted: Mapping[Any, Any], refused: Mapping[Any, str] | None = None, target: str = "", text: str = ""
) -> Rule:
    """A rule that accepts a few values only.

    With a target, `accepted` maps them to our value; without one, the key has no effect and `accepted` maps them to the
    reason. `refused` maps known other values to the reason.
    """

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
    """A rule that refuses every value."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        refuse(key, value, reason)

    return rule


def target_class(names: Mapping[str, str], target: str = "") -> Rule:
    """A rule for a `_target_`, which must be one of `names`; names are compared, never imported."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        if not isinstance(value, str) or value not in names:
            refuse(key, value, f"expected {' or '.join(names)}; no other name is looked up or run")
        if target:
            reading.put(target, names[value], key)
        return HONOURED, names[value]

    return rule
