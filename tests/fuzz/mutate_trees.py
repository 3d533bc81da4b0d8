"""Damage trees of JSON and YAML: keys lost, given twice and renamed, odd values, other types, deep nesting, text that is none.

data, how = change_json(random.Random(1), b'{"scores": {"am": -1.5}}')
tree, how = change_tree(random.Random(1), {"a": [1, 2]}, RAW); dump_json(tree)
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

from .mutate_text import CHARACTERS, Mutation

DEEP = 100_000
# fmt: off
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, 1e18, float("nan"), float("inf"), float("-inf"), 2**31,
    2**32, 2**63, 2**64, -(2**63), 10**30, 10**400, 2**1030, 999_999_999, 40_000_000, "", " ", "a", "0", "1", "nan",
    "1e999", "true", "null", "../..", "\ud800", "\0", "\u2028", "\r\n", "a\nb", "é", "a (b) c", "words", "tokens:am",
    "am", "x" * 5000, [], {}, [[]], [None], {"": None}, [1, "a"], {"a": 1}, [float("nan")],
)
# Written as they stand, where no value of Python would give them.
RAW = (
    "1e999", "-", "01", "NaN", "-Infinity", "9" * 5000, "0x10", "1_000", "'a'", "{", "]", "", "nul", "1 2", "+1",
    ".5", "1.", "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, '"\\ud800"', '"\\u0000"', '"\\x41"',
    '"\t"', "\ufeff1", "//x",
)
RAW_YAML = (
    "!!python/object/apply:os.system ['true']", "!!binary QUJD", "!!set {a, b}", "2020-01-01", "1:30", "0o17", "0b1",
    "~", "? a", "&a [*a]", "*missing", "&x {<<: {a: 1}}", "<<: 1", "!!float .nan", ".inf", "[a, ", "'", "\t- a",
    "!!timestamp 2001-12-14", "{? [a]: b}", "[" * 5000 + "]" * 5000, "&b [" + ",".join(["1"] * 50) + "]", "%YAML 9.9",
    "--- a\n--- b", "!!omap [a: 1]", "=", "1e3", "12e03", "!!null ''",
)
# fmt: on


class Pairs(list[tuple[Any, Any]]):
    """An object whose keys may come twice."""


class Raw(str):
    """Text that is written as it stands."""


def change_json(rng: random.Random, content: bytes) -> Mutation:
    tree = json.loads(content)
    tree, how = change_tree(rng, tree, RAW)
    return dump_json(tree).encode("utf-8", "surrogatepass"), how


def change_json_lines(rng: random.Random, content: bytes) -> Mutation:
    lines = content.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    line, how = change_json(rng, lines[place])
    return b"".join([*lines[:place], line + b"\n", *lines[place + 1 :]]), f"line {place + 1} {how}"


def change_yaml(rng: random.Random, content: bytes) -> Mutation:
    import yaml

    tree, how = change_tree(rng, yaml.safe_load(content), RAW_YAML)
    raws: list[str] = []

    def plain(value: Any) -> Any:
        """Without what YAML's writer does not know; texts as they stand get a mark that is replaced below."""
        if isinstance(value, Raw):
            raws.append(str(value))
            return f"@@{len(raws) - 1}@@"
        if isinstance(value, Pairs):
            return {f"@@twice{place}@@{key}" if place else key: plain(item) for place, (key, item) in enumerate(value)}
        if isinstance(value, dict):
            return {key if isinstance(key, str | int | float) else str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    text = yaml.safe_dump(plain(tree), sort_keys=False, allow_unicode=rng.random() < 0.5)
    for place, raw in enumerate(raws):
        text = text.replace(f"'@@{place}@@'", raw)
    text = re.sub(r"'@@twice\d+@@([^']*)'", r"\1", text)
    return text.encode("utf-8", "surrogatepass"), how


def change_tree(rng: random.Random, tree: Any, raw: Sequence[str]) -> tuple[Any, str]:
    """A tree with one change somewhere, and what it was."""
    path = rng.choice(list(places(tree)))
    value = at(tree, path)
    new, how = changed_value(rng, value, raw)
    return replaced(tree, path, new), f"at {'.'.join(map(str, path))[:60] or 'the top'} {how}"


def changed_value(rng: random.Random, value: Any, raw: Sequence[str]) -> tuple[Any, str]:
    roll = rng.random()
    if isinstance(value, dict) and value and roll < 0.7:
        return _changed_object(rng, value, raw)
    if isinstance(value, list) and value and roll < 0.7:
        return _changed_list(rng, value)
    if isinstance(value, int | float) and not isinstance(value, bool) and roll < 0.35:
        changes = (
            value + 1,
            -value,
            value * 2,
            value * 1e9,
            value // 2,
            float(value),
            int(value),
            str(value),
            value + 1e-7,
        )
        new = rng.choice(changes)
        return new, f"{value!r} became {new!r}"
    if isinstance(value, str) and roll < 0.35:
        place = rng.randint(0, len(value))
        new = rng.choice(
            (value[:place], value + value, value.upper(), value[:place] + rng.choice(CHARACTERS) + value[place:])
        )
        return new, f"text became {new[:30]!r}"
    if rng.random() < 0.2:
        text = rng.choice(raw)
        return Raw(text), f"became {text[:20]} as it stands"
    if rng.random() < 0.05:
        deep: Any = 1
        for _ in range(rng.choice((50, 300, 900))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep, "nested"
    odd = rng.choice(ODD)
    return odd, f"became {repr(odd)[:30]}"


def _changed_object(rng: random.Random, value: dict[Any, Any], raw: Sequence[str]) -> tuple[Any, str]:
    keys = list(value)
    key = rng.choice(keys)
    kind = rng.randrange(9)
    if kind == 0:
        return {other: item for other, item in value.items() if other != key}, f"lost {str(key)[:30]!r}"
    if kind == 1:
        return Pairs([*value.items(), (key, value[key])]), f"has {str(key)[:30]!r} twice"
    if kind == 2:
        return Pairs([(key, rng.choice(ODD)), *value.items()]), f"has {str(key)[:30]!r} twice, differently"
    if kind == 3:
        text = str(key)
        new: Any = rng.choice(
            (text + "x", text[:-1], text.upper(), f" {text}", text + "\u200b", "", "\ud800", text + "\n", 5)
        )
        return {
            new if other == key else other: item for other, item in value.items()
        }, f"key {text[:20]!r} became {new!r}"
    if kind == 4:
        other = rng.choice(keys)
        return {**value, key: value[other], other: value[key]}, f"swapped {str(key)[:20]!r} and {str(other)[:20]!r}"
    if kind == 5:
        new = rng.choice(
            ("extra", "__class__", "format", "version", "scores", "id", "name", "class", "Ünï", "a b", "a.b", "")
        )
        return {**value, new: rng.choice(ODD)}, f"gained {new!r}"
    if kind == 6:
        return {other: value[other] for other in reversed(keys)}, "keys in reverse"
    if kind == 7:
        return {
            **value,
            **{f"{key}{number}": value[key] for number in range(rng.choice((2, 300)))},
        }, "many copies of a key"
    new, how = changed_value(rng, value[key], raw)
    return {**value, key: new}, f"{str(key)[:20]!r} {how}"


def _changed_list(rng: random.Random, value: list[Any]) -> tuple[Any, str]:
    place = rng.randrange(len(value))
    changes: tuple[tuple[list[Any], str], ...] = (
        (value[:place] + value[place + 1 :], f"lost item {place}"),
        (value[: place + 1] + value[place:], f"item {place} twice"),
        (value[::-1], "reversed"),
        ([*value[:place], rng.choice(ODD), *value[place + 1 :]], f"odd item {place}"),
        ([*value[:place], rng.choice(ODD), *value[place:]], f"odd item before {place}"),
        (value * (500 if len(repr(value)) < 2000 else 3), "repeated"),
        ([], "emptied"),
        ([value], "in a list of its own"),
    )
    return rng.choice(changes)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if isinstance(tree, Pairs):
        return
    for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(item, (*path, key))


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def replaced(tree: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = replaced(tree[path[0]], path[1:], new)
    return copy


def dump_json(value: Any) -> str:
    """JSON of a tree that may hold `Pairs` and `Raw`."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict | Pairs):
        items = value.items() if isinstance(value, dict) else value
        return "{" + ", ".join(f"{json.dumps(str(key))}: {dump_json(item)}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump_json, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value)[2:] if value.bit_length() > 14_000 else str(value)
    return json.dumps(value, ensure_ascii=False)
