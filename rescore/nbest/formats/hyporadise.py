"""HyPoradise and Hypo2Trans: hypotheses and reference of each utterance, without names and without scores.

    [{"input": ["tom bends the lamp", "tom mends the lamp"], "output": "tom mends the lamp"}]

Utterances are named by their number, from 1. Every list has five hypotheses, filled up with copies of others, so copies
are left out; the first occurrence keeps its place. The score `rank` is 0 for the first hypothesis, -1 for the second,
and so on: it holds the order of the recogniser, which is all that is known. Source: Chen et al., arXiv 2309.15701.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from rescore.nbest.formats.base import Format
from rescore.nbest.formats.hypotheses import shorten
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.files import PathLike, read_json

EMPTY = "<UNK>"
"""What stands for an empty hypothesis."""


class HyPoradise(Format):
    """`[{"input": [hypothesis, ...], "output": reference}, ...]`."""

    name, suffixes = "hyporadise", (".json",)
    references = True

    def recognizes(self, head: str) -> bool:
        return re.match(r'\s*\[\s*\{\s*"(input|output)"\s*:', head) is not None

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        where, entries = os.fspath(path), read_json(path, "a list of objects with input and output")
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{where}: got {shorten(entries)}; expected a list of objects with input and output")
        for number, entry in enumerate(entries, 1):
            texts = entry.get("input") if isinstance(entry, dict) else None
            reference = entry.get("output") if isinstance(entry, dict) else None
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                raise ValueError(
                    f"{where}: utterance {number} has the input {shorten(texts)}; expected a list of texts"
                )
            if not isinstance(reference, str):
                raise ValueError(f"{where}: utterance {number} has the output {shorten(reference)}; expected a text")
            kept = dict.fromkeys("" if text == EMPTY else text for text in texts)
            yield NBestList(
                f"{number:06d}",
                tuple(Hypothesis(text, {name or "rank": 0.0 - rank}) for rank, text in enumerate(kept)),
                reference,
            )
