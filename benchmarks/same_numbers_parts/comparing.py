"""Finds the first difference between two files that should hold the same numbers.

    first_difference(Path("old/scores.tsv"), Path("new/scores.tsv"))        # "line 3, val_dev/nll: 5.28 and 5.29"

Everything in the old file has to be in the new one, to the last digit; the new file may have more. Headers of score
files, times, versions and command lines are ignored. The result is "" if there is no difference.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
from itertools import zip_longest
from pathlib import Path
from typing import Any

NOT_COMPARED = {"seconds", "metadata", "torch", "python", "command", "versions"}
FORMATS = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i"}


def first_difference(old: Path, new: Path) -> str:
    """The first difference of two existing files, or ""; the suffix determines the format."""
    if old.suffix == ".safetensors":
        return of_weights(old.read_bytes(), new.read_bytes())
    contents = old.read_bytes(), new.read_bytes()
    if old.suffix == ".gz":
        contents = gzip.decompress(contents[0]), gzip.decompress(contents[1])
    suffix = old.with_suffix("").suffix if old.suffix == ".gz" else old.suffix
    if suffix == ".model":
        return "" if contents[0] == contents[1] else f"{len(contents[0])} and {len(contents[1])} bytes that differ"
    texts = contents[0].decode(), contents[1].decode()
    if suffix == ".json":
        return of_values(json.loads(texts[0]), json.loads(texts[1]))
    lines = texts[0].splitlines(), texts[1].splitlines()
    if suffix == ".jsonl":
        return of_values(*([json.loads(line) for line in part if '"hyps"' in line] for part in lines))
    if suffix == ".tsv":
        return of_values(*(_table(part) for part in lines))
    if suffix == ".config":
        return of_more_lines(*lines)
    for number, (first, second) in enumerate(zip_longest(*lines), 1):
        if first != second:
            return f"line {number}: {first!r} and {second!r}"
    return ""


def of_values(old: Any, new: Any, where: str = "") -> str:
    """The first difference of plain data, or "". A new mapping may have more keys; nan equals nan."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key, value in old.items():
            inside = f"{where}, {key}".removeprefix(", ")
            if key in NOT_COMPARED:
                continue
            found = of_values(value, new[key], inside) if key in new else f"{inside}: {_short(value)} and nothing"
            if found:
                return found
        return ""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        found = (of_values(*pair, f"{where} [{place}]".strip()) for place, pair in enumerate(zip(old, new)))
        return next(filter(None, found), "")
    if old == new or (isinstance(old, float) and isinstance(new, float) and math.isnan(old) and math.isnan(new)):
        return ""
    return f"{where or 'value'}: {_short(old)} and {_short(new)}"


def of_more_lines(old: list[str], new: list[str]) -> str:
    """The first line of the old text that is missing in the new one, in order, or ""."""
    rest = iter(new)
    for number, line in enumerate(old, 1):
        if line not in rest:
            place = min(number, len(new)) - 1
            return f"line {number}: {line!r} and {new[place] if new else ''!r}"
    return ""


def of_weights(old: bytes, new: bytes) -> str:
    """The first difference of two safetensors files in names, types, shapes or bits, or ""."""
    first, second = _tensors(old), _tensors(new)
    if sorted(first) != sorted(second):
        return f"tensors {sorted(set(first) ^ set(second))[:3]} are in one of the files only"
    differing = [name for name in sorted(first) if first[name] != second[name]]
    if not differing:
        return ""
    name = differing[0]
    (kind, shape, values), (*other, others) = first[name], second[name]
    count = f"{len(differing)} of {len(first)} tensors differ"
    if [kind, shape] != other or kind not in FORMATS:
        return f"{name}: {kind} {shape} and {other[0]} {other[1]}; {count}"
    code = f"<{len(values) // struct.calcsize(FORMATS[kind])}{FORMATS[kind]}"
    pairs = zip(struct.unpack(code, values), struct.unpack(code, others))
    unequal = ((place, pair) for place, pair in enumerate(pairs) if repr(pair[0]) != repr(pair[1]))
    place, pair = next(unequal, (0, (math.nan, math.nan)))  # equal values, so nans with different bits
    return f"{name} value {place} of {shape}: {pair[0]!r} and {pair[1]!r}; {count}"


def _tensors(data: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """{name: (type, shape, bytes)} of a safetensors file."""
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, facts in header.items():
        begin, end = facts["data_offsets"]
        found[name] = (facts["dtype"], facts["shape"], data[start + begin : start + end])
    return found


def _table(lines: list[str]) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in lines)
    return [dict(zip(header, row)) for row in rows]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
