"""One thing that both trees do, and the files that are compared then.

Item("sample.ar", (Run(("sample", model, "--out", "samples.txt")),), ("samples.txt",), needs=("train.ar",))
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """A command line of `dlm`, run in the item's folder."""

    arguments: tuple[str, ...]
    out: str = ""  # a name for what it prints, where that is compared
    status: int = 0  # that it ends with


@dataclass(frozen=True)
class Copy:
    """A file or folder that the old tree left, put into the item's folder."""

    source: Path
    target: str


@dataclass(frozen=True)
class Cut:
    """The first lines of a file that the old tree left and half of the next one, as an interruption leaves them."""

    source: Path
    target: str
    lines: int


Step = Run | Copy | Cut


@dataclass(frozen=True)
class Item:
    """Steps and the files (globs) that have to be equal afterwards."""

    name: str
    steps: tuple[Step, ...]
    files: tuple[str, ...] = ()  # none: the old tree alone runs it, for others that need it
    needs: tuple[str, ...] = ()  # items whose results of the old tree are used
    against: str = ""  # an item of the old tree whose files these have to equal; then the new tree alone runs this one
    quick: bool = False

    @property
    def by_old(self) -> bool:
        return not self.against

    @property
    def by_new(self) -> bool:
        return bool(self.files)


@dataclass(frozen=True)
class Places:
    """Where the data and what the old tree left lie."""

    data: Path
    old: Path

    def text(self, name: str) -> str:
        return str(self.data / name)

    def model(self, training: str) -> str:
        return str(self.old / f"train.{training}" / "run" / "model")

    @property
    def vocab(self) -> str:
        return str(self.old / "vocab" / "vocab")


def digests(items: Mapping[str, Item], start: str) -> dict[str, str]:
    """By item what its results depend on: `start` (tree and data), its steps, and what it needs (before it)."""
    found: dict[str, str] = {}
    for name, item in items.items():
        parts = [start, repr(item.steps), *(found[need] for need in item.needs)]
        found[name] = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return found
