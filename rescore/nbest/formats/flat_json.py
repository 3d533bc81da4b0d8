"""Flat JSON: a list of hypotheses for each utterance, with one field per score. The field `NAME_score` is the score
NAME; other fields keep their names.

    {"dev/1": {"ref": "a b", "hyps": [{"text": "a b", "am_score": -3.4, "lm_score": -9.1}]}}

The complete file is read into memory. The format is not written, because json-lines holds the same and more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from rescore.nbest.formats.base import Format
from rescore.nbest.formats.hypotheses import UtteranceChecker, load_json_dict, refuse_fields, shorten
from rescore.nbest.types import NBestList
from returnn_bridge.files import PathLike, quoted

_STRING = r'"(?:[^"\\]|\\.)*"'
_FIRST_UTTERANCE = re.compile(
    rf'\s*\{{\s*{_STRING}\s*:\s*\{{\s*(?:{_STRING}\s*:\s*(?:{_STRING}|[-+.\w]+)\s*,\s*)*"hyps"\s*:', re.DOTALL
)


class FlatJson(Format):
    """`{utterance: {"ref": ..., "hyps": [{"text": ..., "NAME_score": ...}, ...]}}`."""

    name, suffixes = "flat-json", (".json",)
    many_scores = references = True

    def recognizes(self, head: str) -> bool:
        """Whether the first utterance has the field "hyps", preceded only by strings and numbers."""
        return _FIRST_UTTERANCE.match(head) is not None

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        where = os.fspath(path)
        checker = UtteranceChecker(name)
        for tag, value in load_json_dict(path).items():
            if not isinstance(value, dict):
                raise ValueError(
                    f"{where}: utterance {quoted(tag)} is {shorten(value)}; expected an object with hypotheses"
                )
            reference, entries = value.pop("ref", None), value.pop("hyps", None)
            refuse_fields(value, f"{where}: utterance {quoted(tag)}", "ref, hyps")
            yield checker.utterance(where, tag, entries, reference, _flat_scores)
        checker.finish(path)


def _flat_scores(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    scores = {key.removesuffix("_score"): value for key, value in entry.items()}
    if len(scores) != len(entry):
        raise ValueError("each score once")
    return scores, {}
