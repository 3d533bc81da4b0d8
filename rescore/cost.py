"""What a scoring has cost, in `NAME.cost.json` beside the score file: it is no part of the result.

    cost = resumed_cost(target, done, Cost.nothing(scorer.unknown()))     # of the first `done` utterances
    write_cost(target, cost + spent, total=len(lists), before=cost)       # before their lines are appended
    write_cost(target, cost, total=len(lists), record=record)             # when the result is there
    read_cost(target)                                                     # None if there is no record

A process may be killed between writing the cost and the lines of a group. Therefore the file also holds the cost
before that group (`before`), so that no group is counted twice or not at all.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from rescore.scores import UNITS, UnknownCounts
from returnn_bridge.files import quoted, read_json_object, write_text

_LARGEST = 1e18


@dataclass(frozen=True)
class Cost:
    """The cost of scoring the first utterances of the lists. Costs can be added."""

    seconds: float
    """Time that the scoring took."""
    passes: float
    """Network passes run; equal inputs are run once."""
    unknown: UnknownCounts | None
    """How much of the texts the model did not know; None if that is not recorded."""
    utterances: int
    """Number of utterances, counted from the first."""

    @classmethod
    def nothing(cls, unknown: UnknownCounts | None) -> Cost:
        """The cost of no utterance. `unknown`: any counts in the unit of the model."""
        return cls(0.0, 0, None if unknown is None else unknown - unknown, 0)

    def __add__(self, other: Cost) -> Cost:
        known = self.unknown is not None and other.unknown is not None
        return Cost(
            self.seconds + other.seconds,
            self.passes + other.passes,
            self.unknown + other.unknown if known else None,  # type: ignore[operator]
            self.utterances + other.utterances,
        )

    def to_json(self) -> dict[str, Any]:
        """The cost as a dict for JSON."""
        found: dict[str, Any] = {"seconds": self.seconds, "passes": self.passes, "utterances": self.utterances}
        if self.unknown is not None:
            found["unknown"] = list(dataclasses.astuple(self.unknown))
        return found

    @classmethod
    def from_json(cls, tree: Any, where: Path) -> Cost:
        """The inverse of `to_json`. ValueError naming the file `where` for anything else."""
        if not isinstance(tree, dict):
            raise ValueError(f"{where}: got {quoted(tree)}; expected the file that scoring wrote")
        kinds = {"seconds": _is_amount, "passes": _is_amount, "utterances": _is_count, "unknown": _is_counts}
        for name, is_one in kinds.items():
            if name in tree and not is_one(tree[name]):
                raise ValueError(f"{where}: {name} is {quoted(tree[name])}; expected the file that scoring wrote")
        unknown = UnknownCounts(*tree["unknown"]) if "unknown" in tree else None
        return cls(tree.get("seconds", nan), tree.get("passes", nan), unknown, tree.get("utterances", 0))


def cost_file(target: Path) -> Path:
    """The file with the cost of the score file `target`."""
    return target.with_name(target.name + ".cost.json")


def read_cost(target: Path) -> Cost | None:
    """The recorded cost of a scoring, None without a record. ValueError for a file that is no such record."""
    tree = _read(target)
    return Cost.from_json(tree, cost_file(target)) if tree else None


def read_record(target: Path) -> Any:
    """The `record` that was written with the cost of a finished scoring, or None."""
    return _read(target).get("record")


def resumed_cost(target: Path, done: int, nothing: Cost) -> Cost:
    """The cost of the first `done` utterances, of which the scores are there.

    If neither state of the file is that of `done` utterances, as in files of earlier versions, the latest cost is
    taken, and the unknown words are not known.
    """
    if not done:
        return nothing
    tree, file = _read(target), cost_file(target)
    if not tree:
        return dataclasses.replace(nothing, unknown=None, utterances=done)
    latest = Cost.from_json(tree, file)
    states = [latest, Cost.from_json(tree["before"], file)] if "before" in tree else [latest]
    for state in states:
        if state.utterances == done:
            return state
    return dataclasses.replace(latest, unknown=None, utterances=done)


def write_cost(target: Path, cost: Cost, *, total: int, before: Cost | None = None, record: Any = None) -> None:
    """Write the cost of a scoring of `total` utterances. Without `before` it is finished.

    `before`: the cost without the last group. `record`: how the result was made, if its format can not hold that.
    """
    tree = {**cost.to_json(), "done": cost.utterances / total if total else 1.0}
    if before is not None:
        tree["before"] = before.to_json()
    if record is not None:
        tree["record"] = record
    write_text(cost_file(target), json.dumps(tree) + "\n")


def _read(target: Path) -> dict[str, Any]:
    file = cost_file(target)
    return read_json_object(file, "what a scoring cost") if file.is_file() else {}


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_amount(value)


def _is_counts(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3 or value[2] not in UNITS:
        return False
    return all(map(_is_count, value[:2]))
