"""Registries: the objects that a configuration or a command line can select by name.

    NETWORKS: Registry[type[Network]] = Registry("network", {"dit": DiT})    # with all built-in entries
    NETWORKS["dit"]                                                         # ValueError with the known names if unknown
    NETWORKS.add("mine", MyNetwork)                                         # from your program, before the CLI starts

A registry gets its built-in entries where it is defined; importing another module never adds to it. This module imports
nothing heavy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TypeVar

from returnn_bridge.files import quoted

Entry = TypeVar("Entry")


class Registry(Mapping[str, Entry]):
    """A mapping from names to entries, in the order given. `kind` names the entries in error messages."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]):
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> Entry:
        """The entry of a name. ValueError with the nearest and all known names for an unknown one."""
        if not isinstance(name, str) or name not in self._entries:
            near = difflib.get_close_matches(str(name)[:100], self._entries, 1)
            hint = f" (perhaps {near[0]!r}?)" if near else ""
            raise ValueError(f"{self.kind} {quoted(name)} is unknown{hint}; expected one of {', '.join(self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, entry: Entry) -> None:
        """Add an entry. ValueError for a name that is taken, because a configuration must have one meaning only."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already; expected another name")
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Remove an entry, for tests that add one."""
        del self._entries[name]
