"""Texts with one hypothesis per utterance and no score, from the files that references also come in.

    FORMATS["trn"].read("best.trn")         # what `dlm wer --transcripts best.trn` wrote

They can be measured (`dlm wer`), and scored by language models.
"""

from __future__ import annotations

from collections.abc import Iterator

from rescore.nbest.formats.base import Format
from rescore.nbest.transcripts import ReferenceFormat
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.files import PathLike


class OneBest(Format):
    """One hypothesis per utterance, in a format of references. It is written by `dlm wer --transcripts`."""

    many_scores = True

    def __init__(self, texts: ReferenceFormat, *, by_suffix: bool = True) -> None:
        """by_suffix: the suffix of a file is enough to take it for lists."""
        self._texts = texts
        # The entries of the registry differ only in these, so a class for each would repeat the rest.
        self.name, self.suffixes = texts.name, texts.suffixes if by_suffix else ()  # type: ignore[misc]

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        if name is not None:
            raise ValueError(f"{path}: the format {self.name} has no score; expected PATH instead of {name}=PATH")
        for tag, text in self._texts.read(path):
            yield NBestList(tag, (Hypothesis(text),))
