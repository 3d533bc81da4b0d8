"""Registries: the named things that a configuration or a command line can ask for.

    NETWORKS: Registry[type[Network]] = Registry("network", {"dit": DiT})    # the built-in entries, written where they are defined
    NETWORKS["dit"]                                                         # ValueError with the known names for an unknown one
    NETWORKS.add("mine", MyNetwork)                                         # from a program of your own, before the command line starts

A registry is filled where it is defined; importing a module never adds to one. This module imports nothing heavy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """Names and what they stand for, in the order they were given. `kind` names the entries in errors."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]):
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        """The entry of that name. ValueError naming the nearest and all known names, for an unknown one."""
        if name not in self._entries:
            near = difflib.get_close_matches(str(name), self._entries, 1)
            hint = f" (perhaps {near[0]!r}?)" if near else ""
            raise ValueError(f"{self.kind} {name!r} is unknown{hint}; expected one of {', '.join(self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry of your own. ValueError for a name that is taken: a run must mean the same for everybody who reads it."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is there already; expected a new name")
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Take an entry out again, for tests that add one."""
        del self._entries[name]
