"""Checks of hypotheses that all JSON formats share: each id once, the same score names, finite numbers.

    checker = UtteranceChecker(rename=None)
    checker.utterance("f.json", "dev/1", [{"text": "a b", "am": -3.4}], "a b", fields)        # an NBestList
    load_json_dict("references.json")                                                         # {utterance: ...}

The readers of the JSON formats use these functions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from math import inf, isfinite
from typing import Any, NoReturn

from rescore.nbest.types import Hypothesis, NBestList, expected_detail
from returnn_bridge.files import PathLike, is_finite, iterate_chunks, one_line, parse_json, quoted

Fields = Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]
"""Splits the fields of a hypothesis, without its text, into (scores, details). ValueError for unexpected fields."""


class UtteranceChecker:
    """Builds and checks the utterances of one file, which must all have the same score names.

    `rename`: a new name for the only score.
    """

    def __init__(self, rename: str | None) -> None:
        self._rename = rename
        self._names: frozenset[str] | None = None
        self._seen: set[str] = set()

    def utterance(self, where: str, tag: str, entries: object, reference: object, fields: Fields) -> NBestList:
        """The list from decoded JSON; `fields` splits the fields of an entry into scores and details.

        ValueError (`where`, utterance, rank) for malformed entries.
        """
        if tag in self._seen:
            raise ValueError(f"{where}: utterance {quoted(tag)} is given twice; expected each utterance once")
        self._seen.add(tag)
        if reference is not None and not isinstance(reference, str):
            raise ValueError(
                f"{where}: utterance {quoted(tag)} has the reference {shorten(reference)}; expected a string"
            )
        if not isinstance(entries, list) or not entries:
            raise ValueError(
                f"{where}: utterance {quoted(tag)} has the hypotheses {shorten(entries)}; "
                "expected a list of at least one"
            )
        hypotheses = []
        for rank, entry in enumerate(entries, 1):
            if type(entry) is not dict or type(text := entry.pop("text", None)) is not str:
                _bad(where, tag, rank, f"is {shorten(entry)}", 'an object with a string "text"')
            try:
                scores, details = fields(entry)
            except ValueError as error:
                _bad(where, tag, rank, "is malformed", str(error))
            for key, value in scores.items():
                if type(value) is not float or not (isfinite(value) or value == -inf):
                    scores[key] = _finite(value, where, tag, rank, key)
            if self._names is None:
                self._names = frozenset(scores)
                if self._rename is not None and len(scores) != 1:
                    names = ", ".join(scores) or "none"
                    _bad(where, tag, rank, f"has the scores {names}", f"exactly one to be named {self._rename!r}")
            if scores.keys() != self._names:
                _bad(where, tag, rank, f"has the scores {sorted(scores)}", f"{sorted(self._names)} as in the first")
            if details:
                _check_details(details, where, tag, rank)
            if self._rename is not None:
                (old,) = self._names
                scores = {self._rename: scores[old]}
                details = {self._rename if source == old else source: detail for source, detail in details.items()}
            hypotheses.append(Hypothesis(text, scores, details))
        return NBestList(tag, tuple(hypotheses), reference)

    def finish(self, path: PathLike) -> None:
        """ValueError if there was no utterance."""
        if not self._seen:
            raise ValueError(f"{os.fspath(path)}:1: the file holds no utterance; expected at least one")


def load_json_dict(path: PathLike) -> dict[str, Any]:
    """The object at the top of a JSON file; ValueError if it is not JSON, not an object, or has a duplicate key."""
    text = "".join(iterate_chunks(path))
    if not text.strip():
        raise ValueError(f"{os.fspath(path)}:1: the file is empty; expected a JSON object by utterance")
    data = parse_json(text, path, 1)
    if not isinstance(data, dict):
        raise ValueError(f"{os.fspath(path)}:1: got {shorten(data)}; expected a JSON object by utterance")
    return data


def refuse_fields(rest: dict[str, Any], where: str, known: str) -> None:
    """ValueError if there are unknown fields."""
    if rest:
        raise ValueError(f"{where} has the unknown field {quoted(next(iter(rest)))}; expected {known}")


def shorten(value: object) -> str:
    """A value as text of at most 40 characters, for an error message."""
    if value is None:
        return "nothing"
    return quoted(value, 40)


def encode(data: object) -> str:
    """One line of JSON with its line end; floats keep all digits. ValueError for nan and infinite numbers."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n"


def _check_details(details: dict[str, Any], where: str, tag: str, rank: int) -> None:
    for source, detail in details.items():
        if not isinstance(detail, dict):
            _bad(where, tag, rank, f"has the details {shorten(detail)} for {quoted(source)}", "an object")
        for key, value in detail.items():
            if expected := expected_detail(key, value):
                _bad(where, tag, rank, f"has {key} = {shorten(value)} for {quoted(source)}", expected)


def _finite(value: object, where: str, tag: str, rank: int, name: str) -> float:
    if isinstance(value, int) and not isinstance(value, bool) and is_finite(value):
        return float(value)
    _bad(where, tag, rank, f"has {name} score {shorten(value)}", "a finite number (nats)")


def _bad(where: str, tag: str, rank: int, got: str, expected: str) -> NoReturn:
    raise ValueError(f"{where}: hypothesis {rank} of {quoted(tag)} {one_line(got)}; expected {one_line(expected)}")
