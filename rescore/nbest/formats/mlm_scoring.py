"""The JSON format of mlm-scoring: one unnamed score, and the reference. Hypotheses are ordered by their numbers.

    {"dev/1": {"hyp_1": {"score": -1.2, "text": "a b"}, "hyp_2": {"score": -2.5, "text": "a"}, "ref": "a b"}}

Source: github.com/awslabs/mlm-scoring. The complete file is read into memory; it is written with one utterance per
line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rescore.nbest.formats.base import Format
from rescore.nbest.formats.hypotheses import Fields, UtteranceChecker, encode, load_json_dict, shorten
from rescore.nbest.types import NBestList
from returnn_bridge.files import PathLike, quoted, write_whole

_HYP_KEY = re.compile(r"hyp_([0-9]{1,9})")


class MlmScoring(Format):
    """`{utterance: {"hyp_1": {"score": ..., "text": ...}, ..., "ref": ...}}`."""

    name, suffixes = "mlm-scoring", (".json",)
    writes = references = True

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        where = os.fspath(path)
        checker, fields = UtteranceChecker(None), _single_score(name or "am")
        for tag, value in load_json_dict(path).items():
            if not isinstance(value, dict):
                raise ValueError(
                    f"{where}: utterance {quoted(tag)} is {shorten(value)}; expected an object with hypotheses"
                )
            reference = value.pop("ref", None)
            entries = _ordered_hyps(value, f"{where}: utterance {quoted(tag)}")
            yield checker.utterance(where, tag, entries, reference, fields)
        checker.finish(path)

    def write(self, path: PathLike, lists: Iterator[NBestList], *, score: str, metadata: Mapping[str, Any]) -> None:
        with write_whole(path) as write:
            separator = "{\n"
            for utterance in lists:
                hyps: dict[str, Any] = {
                    f"hyp_{rank}": {"score": hypothesis.scores[score], "text": hypothesis.text}
                    for rank, hypothesis in enumerate(utterance.hypotheses, 1)
                }
                if utterance.reference is not None:
                    hyps["ref"] = utterance.reference
                write(f"{separator}{encode(utterance.seq_tag)[:-1]}: {encode(hyps)[:-1]}")
                separator = ",\n"
            write("\n}\n")


def _single_score(name: str) -> Fields:
    def fields(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        if entry.keys() != {"score"}:
            raise ValueError('the fields "score" and "text"')
        return {name: entry["score"]}, {}

    return fields


def _ordered_hyps(value: dict[str, Any], where: str) -> list[Any]:
    """The entries hyp_1, hyp_2, ... of an utterance, ordered by number."""
    numbered: dict[int, Any] = {}
    for key, entry in value.items():
        match = _HYP_KEY.fullmatch(key)
        if match is None or int(match.group(1)) in numbered:
            raise ValueError(f"{where} has the field {quoted(key)}; expected hyp_1, hyp_2, ... (each once) and ref")
        numbered[int(match.group(1))] = entry
    return [numbered[number] for number in sorted(numbered)]
