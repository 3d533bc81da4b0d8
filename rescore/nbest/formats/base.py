"""What an N-best file format is: a name, the suffixes it goes by, a reader, and a writer where the format is also
written.

    class Tsv(Format):                                       # a format of your own, in your own program
        name, suffixes = "tsv", (".tsv",)
        def read(self, path, *, name=None, allow_non_finite=False): ...      # yields NBestList

    FORMATS.add(Tsv.name, Tsv())                             # before the command line starts

Errors of a file are ValueErrors of one line: file, line, utterance and rank as far as they are known, what was found,
what was expected.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from rescore.nbest.types import NBestList
from returnn_bridge.files import JsonObject, PathLike


class Format(ABC):
    """A form of N-best file; the flags say what it can carry. Formats have no state: one object reads any number of
    files."""

    name: ClassVar[str]
    """As `--format` takes it."""
    suffixes: ClassVar[tuple[str, ...]]
    """Endings of file names, each also with .gz behind it. Formats may share one: then `recognizes` decides."""
    writes: ClassVar[bool] = False
    """Whether `write` is there; a format is read in any case."""
    many_scores: ClassVar[bool] = False
    """Holds all scores of a hypothesis by name, with their details; else a single one without a name."""
    references: ClassVar[bool] = False
    """Holds the reference of an utterance."""
    non_finite: ClassVar[bool] = False
    """Can hold scores that are nan or infinite."""
    metadata: ClassVar[bool] = False
    """Holds facts about the whole file."""

    def recognizes(self, head: str) -> bool:
        """Whether a file of one of the suffixes that begins with `head` (some 100,000 characters) is of this format."""
        return True

    @abstractmethod
    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        """The utterances in the order of the file, texts byte for byte, scores in nats, higher is better.

        `name` names the score where the file has a single one (default "am" where it has no name of its own).
        `allow_non_finite` lets nan and infinite scores through, which are refused otherwise; it is False for a format
        that can not hold them.
        """

    def write(self, path: PathLike, lists: Iterator[NBestList], *, score: str, metadata: JsonObject) -> None:
        """Write the lists, which have been checked, in order; the file appears whole or not at all.

        `score`: the one to be written, "" where the format holds them all. `metadata`: empty where it holds none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no writer; expected writes = False")

    def read_metadata(self, path: PathLike) -> JsonObject:
        """Facts about the whole file; {} where there are none."""
        return {}
