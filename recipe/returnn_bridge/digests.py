"""sha256 digests of files, cached for large files so that these are not read again at every start.

    digests = Digests("vocab/.tokens.hdf.verified")
    digests.of("train.txt.gz")                  # the digest of all its bytes

The digest of a file of `LARGE` bytes or more is cached, and is valid as long as inode, size, mtime and ctime are equal
to the nanosecond. Smaller files are read every time, which takes half a second at most.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from returnn_bridge.files import PathLike, read_json_object, write_text

LARGE = 256 << 20
_SETTLED = 2_000_000_000
"""Nanoseconds since the last change before a digest is cached: a file may change again within one tick of its clock."""


def sha256_of(path: PathLike) -> str:
    """The sha256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """Digests of files, with a cache file (`memory`) for those of large files."""

    def __init__(self, memory: PathLike) -> None:
        self.memory = Path(memory)

    def of(self, path: PathLike, compute: Callable[[PathLike], str] = sha256_of) -> str:
        """`compute(path)`, or its cached result if the file is large and unchanged. Exceptions are not cached."""
        state = _state(path)
        if int(state[1]) < LARGE:
            return compute(path)
        name = os.path.abspath(path)
        known = self._recall().get(name)
        if known and known[:-1] == state:
            return known[-1]
        began = time.time_ns()
        digest = compute(path)
        if _state(path) == state and all(int(changed) < began - _SETTLED for changed in state[2:]):
            self._remember(name, [*state, digest])
        return digest

    def _recall(self) -> dict[str, list[str]]:
        """The cached entries. An unreadable cache counts as empty, so its digests are computed again."""
        try:
            tree = read_json_object(self.memory)
        except (OSError, ValueError):
            return {}
        return {
            name: entry
            for name, entry in tree.items()
            if isinstance(entry, list) and len(entry) == 5 and all(isinstance(item, str) for item in entry)
        }

    def _remember(self, name: str, entry: list[str]) -> None:
        # In a folder without write permission nothing is cached, and the next start computes the digest again.
        with suppress(OSError):
            write_text(self.memory, json.dumps({**self._recall(), name: entry}, indent=1) + "\n")


def _state(path: PathLike) -> list[str]:
    """Inode, size, mtime and ctime, as text because JSON numbers need not be exact."""
    status = os.stat(path)
    return [str(number) for number in (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)]
