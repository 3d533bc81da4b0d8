"""What the scoring of a file cost, and how much of its texts the model did not know: `OUT.cost.json` beside a result.

    cost = Cost.read("scores.jsonl")        # of scores.jsonl.cost.json; nan and None where nothing is recorded
    cost.write("scores.jsonl")
    cost + other                            # of two parts of one run

It is not part of the result, which is the same however long it took.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

from rescore.scores import UNITS, UnknownCounts
from returnn_bridge.files import quoted, read_json_object, write_text

_LARGEST = 1e18


@dataclass(frozen=True)
class Cost:
    """The cost of scoring some utterances."""

    seconds: float = nan
    """Time it took; nan if not recorded."""
    passes: float = nan
    """Network passes; nan if not recorded."""
    unknown: UnknownCounts | None = None
    """How much of the texts the model did not know; None if not recorded for all of them."""
    done: float | None = None
    """Share of the utterances that are scored, in [0, 1]; None if not recorded."""

    def __add__(self, other: Cost) -> Cost:
        both = self.unknown is not None and other.unknown is not None
        unknown = self.unknown + other.unknown if both else None  # type: ignore[operator]
        return Cost(self.seconds + other.seconds, self.passes + other.passes, unknown)

    @classmethod
    def read(cls, target: Path, *, missing: float = nan) -> Cost:
        """The record of the result `target`. ValueError naming the file and the key for a value of another type.

        missing: seconds and passes where nothing is recorded.
        """
        file = cost_file(target)
        values = read_json_object(file, "what a scoring cost") if file.is_file() else {}
        kinds = {"seconds": _is_amount, "passes": _is_amount, "done": _is_share, "unknown": _is_counts}
        for name, is_one in kinds.items():
            if name in values and not is_one(values[name]):
                raise ValueError(f"{file}: {name} is {quoted(values[name])}; expected the file that scoring wrote")
        unknown = UnknownCounts(*values["unknown"]) if "unknown" in values else None
        return cls(values.get("seconds", missing), values.get("passes", missing), unknown, values.get("done"))

    def write(self, target: Path) -> None:
        """Write the record of the result `target`, atomically."""
        values: dict[str, Any] = {"seconds": self.seconds, "passes": self.passes}
        values = {name: value for name, value in values.items() if not isnan(value)}
        if self.done is not None:
            values["done"] = self.done
        if self.unknown is not None:
            values["unknown"] = list(dataclasses.astuple(self.unknown))
        write_text(cost_file(target), json.dumps(values) + "\n")


def cost_file(target: Path) -> Path:
    """The file with the cost of the result `target`."""
    return target.with_name(target.name + ".cost.json")


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _is_share(value: Any) -> bool:
    return _is_amount(value) and value <= 1


def _is_counts(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3 or value[2] not in UNITS:
        return False
    return all(isinstance(count, int) and _is_amount(count) for count in value[:2])
