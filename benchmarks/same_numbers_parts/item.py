"""An item: commands that both trees run, and the files that are compared afterwards.

    Item("sample.ar", (Run(("sample", model, "--out", "samples.txt")),), ("samples.txt",), needs=("train.ar",))

The item above samples from a model that the item `train.ar` has trained.
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
    out: str = ""
    """File for the standard output, if that is compared."""
    status: int = 0
    """Expected exit status."""


@dataclass(frozen=True)
class Copy:
    """Copies a file or folder of the old tree's results into the item's folder."""

    source: Path
    target: str


@dataclass(frozen=True)
class Cut:
    """Copies the first lines of an old result and half of the next one, as after an interruption."""

    source: Path
    target: str
    lines: int


Step = Run | Copy | Cut


@dataclass(frozen=True)
class Item:
    """Steps, and the files (globs) that have to be equal afterwards."""

    name: str
    steps: tuple[Step, ...]
    files: tuple[str, ...] = ()
    """Files to compare; without any only the old tree runs the item, for items that need it."""
    needs: tuple[str, ...] = ()
    """Items whose results of the old tree are used."""
    against: str = ""
    """Old item whose files have to be equal to these; then only the new tree runs this item."""
    quick: bool = False

    @property
    def by_old(self) -> bool:
        return not self.against

    @property
    def by_new(self) -> bool:
        return bool(self.files)


@dataclass(frozen=True)
class Places:
    """The folders of the data and of the old tree's results."""

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
