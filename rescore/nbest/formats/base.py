"""The interface of N-best file formats: a name, file suffixes, a reader, and optionally a writer.

    class Tsv(Format):                                       # a new format, in your program
        name, suffixes = "tsv", (".tsv",)
        def read(self, path, *, name=None, allow_non_finite=False): ...      # yields NBestList

    FORMATS.add(Tsv.name, Tsv())                             # before the command line starts

Malformed files raise ValueErrors of one line: file, line, utterance and rank as far as known, what was found, and what
was expected.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from rescore.nbest.types import NBestList
from returnn_bridge.files import JsonObject, PathLike


class Format(ABC):
    """An N-best file format; the flags describe what it can hold. Objects have no state and can read several files."""

    name: ClassVar[str]
    """Name of the format, as for `--format`."""
    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of file names, each also followed by .gz. If formats share a suffix, `recognizes` decides."""
    writes: ClassVar[bool] = False
    """Whether `write` is implemented; every format can be read."""
    many_scores: ClassVar[bool] = False
    """Whether it holds all named scores of a hypothesis, or else a single unnamed one."""
    details: ClassVar[bool] = False
    """Whether it holds the details of scores, such as their standard errors."""
    references: ClassVar[bool] = False
    """Whether it holds references."""
    non_finite: ClassVar[bool] = False
    """Whether it can hold scores that are nan or infinite."""
    minus_infinity: ClassVar[bool] = False
    """Whether it can hold scores of -inf, which mark hypotheses that never win."""
    metadata: ClassVar[bool] = False
    """Whether it holds metadata of the file."""

    def recognizes(self, head: str) -> bool:
        """Whether a file with this suffix and this beginning (about 100,000 characters) has this format."""
        return True

    def recognizes_folder(self, folder: Path) -> bool:
        """Whether a folder holds lists in this format, for formats of several files."""
        return False

    @abstractmethod
    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        """The utterances in the order of the file, with unchanged texts and scores in nats, higher is better.

        `name` is the name of the score if the file has a single one (default: its name in the file, or "am").
        `allow_non_finite` accepts nan and infinite scores; it is False for a format that can not hold them.
        """

    def write(self, path: PathLike, lists: Iterator[NBestList], *, score: str, metadata: JsonObject) -> None:
        """Write the lists, which have been checked, in order and atomically.

        `score`: name of the score to write; "" if the format holds all. `metadata`: {} if the format holds none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no writer; expected writes = False")

    def read_metadata(self, path: PathLike) -> JsonObject:
        """The metadata of the file; {} if there is none."""
        return {}
