"""sha256 of files. Those of large files are remembered, so that each is read once and not at every start.

    digests = Digests("vocab/.tokens.hdf.verified")
    digests.of("train.txt.gz")                  # the digest of all its bytes

A digest is remembered for a file of `LARGE` bytes or more, and holds as long as its inode, its size and the times of its last change
(of content and of inode) are the same to the nanosecond. Smaller files are read every time, which takes half a second at most.
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
_SETTLED = (
    2_000_000_000  # ns: a file changed later than that before it was read may change again within one tick of its clock
)


def sha256_of(path: PathLike) -> str:
    """sha256 of all bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Digests:
    """Digests of files, with a file that remembers those of large ones."""

    def __init__(self, memory: PathLike) -> None:
        self.memory = Path(memory)

    def of(self, path: PathLike, compute: Callable[[PathLike], str] = sha256_of) -> str:
        """`compute(path)`, or what it gave before for the same large file. What it raises is not remembered."""
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
        """What is remembered; a memory that can not be read is none, and what it held is computed again."""
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
        with suppress(
            OSError
        ):  # in a folder of somebody else nothing is remembered, and the next start computes it again
            write_text(self.memory, json.dumps({**self._recall(), name: entry}, indent=1) + "\n")


def _state(path: PathLike) -> list[str]:
    """Inode, size, time of the last change of content, and of anything: as text, JSON's numbers need not be exact."""
    found = os.stat(path)
    return [str(number) for number in (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)]
