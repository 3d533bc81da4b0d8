"""JSON lines, the interchange format of this package: all scores with details and references, one utterance per line.

    {"format": "nbest-jsonl", "version": 1, "utterances": 1, "sha256": "..."}
    {"id": "dev/1", "ref": "a b", "hyps": [{"text": "a b", "scores": {"am": -3.4, "mdlm": -41.2}}]}

    for utterance in iterate_json_lines("scores.jsonl.gz"): ...
    write_json_lines("scores.jsonl", lists, {"seed": 1})

A hypothesis may have "details" beside its "scores": {"mdlm": {"num_passes": 8, "standard_error": 0.3}}. A score of null
means -inf: the hypothesis never wins. The first line is an optional header. In a finished file it ends with
"utterances", their number, and "sha256", the digest of all lines below it with their line ends, so that readers refuse
a file that lost lines. A header without these two keys (older files, other tools) is not compared.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from rescore.nbest.formats.base import Format
from rescore.nbest.formats.hypotheses import UtteranceChecker, encode, refuse_fields, shorten
from rescore.nbest.types import NBestList
from returnn_bridge.files import PathLike, iterate_lines, parse_json, quoted, refuse_non_finite, write_whole

FORMAT, VERSION = "nbest-jsonl", 1
COUNT, DIGEST = "utterances", "sha256"
_RESERVED = ("format", "version", COUNT, DIGEST)
_BYTES_IN_MEMORY = 1 << 26


class JsonLines(Format):
    """One utterance per line, `{"id": ..., "ref": ..., "hyps": [{"text": ..., "scores": {...}, "details": {...}}]}`."""

    name, suffixes = "json-lines", (".jsonl",)
    writes = many_scores = details = references = metadata = minus_infinity = True

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        return iterate_json_lines(path, name=name)

    def write(self, path: PathLike, lists: Iterator[NBestList], *, score: str, metadata: Mapping[str, Any]) -> None:
        write_json_lines(path, lists, metadata)

    def read_metadata(self, path: PathLike) -> dict[str, Any]:
        """The metadata in the header, without format, version, count and digest; {} for a file without header."""
        number, line = next(iterate_lines(path), (1, "{}"))
        data = parse_json(line, path, number)
        if not isinstance(data, dict) or "format" not in data:
            return {}
        _check_header(data, f"{os.fspath(path)}:{number}")
        return {key: value for key, value in data.items() if key not in _RESERVED}


def iterate_json_lines(path: PathLike, *, name: str | None = None, may_be_empty: bool = False) -> Iterator[NBestList]:
    """The utterances of a JSON-lines file in order, reading one line at a time.

    Every hypothesis must have the same score names; `name` renames the score of a file with a single one. ValueError
    (one line: file, line, utterance, rank) for malformed lines, a score that is not finite, an id given twice, an
    unknown field, lines that do not match the header, and, unless `may_be_empty`, a file without utterances.
    """
    check = UtteranceChecker(name)
    seal = _Seal({}, "")
    for number, line in iterate_lines(path):
        where = f"{os.fspath(path)}:{number}"
        data = parse_json(line, path, number)
        if not isinstance(data, dict):
            raise ValueError(f'{where}: got {shorten(data)}; expected an object {{"id", "hyps"}}')
        if number == 1 and "format" in data:
            _check_header(data, where)
            seal = _Seal(data, where)
            continue
        seal.add(line)
        tag, reference, entries = data.pop("id", None), data.pop("ref", None), data.pop("hyps", None)
        if not isinstance(tag, str):
            raise ValueError(f"{where}: got the id {shorten(tag)}; expected a string")
        refuse_fields(data, f"{where}: utterance {quoted(tag)}", "id, ref, hyps")
        yield check.utterance(where, tag, entries, reference, _named_scores)
    seal.check(path)
    if not may_be_empty:
        check.finish(path)


def format_json_lines(lists: Iterable[NBestList], metadata: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Header and utterances as lines; floats keep all digits. ValueError for metadata that JSON can not represent.

    The header has no number of utterances and no digest, because they are not known before the end; see
    `write_json_lines`.
    """
    yield _format_header(metadata or {}, {})
    for utterance in lists:
        hyps = []
        for hypothesis in utterance.hypotheses:
            scores = {name: None if score == -inf else score for name, score in hypothesis.scores.items()}
            entry: dict[str, Any] = {"text": hypothesis.text, "scores": scores}
            if hypothesis.details:
                entry["details"] = {source: dict(detail) for source, detail in hypothesis.details.items()}
            hyps.append(entry)
        reference = {} if utterance.reference is None else {"ref": utterance.reference}
        yield encode({"id": utterance.seq_tag, **reference, "hyps": hyps})


def write_json_lines(path: PathLike, lists: Iterable[NBestList], metadata: Mapping[str, Any] | None = None) -> None:
    """Write header and utterances atomically; the header holds their number and digest. Errors as in
    `format_json_lines`.

    Lines are kept in memory, or if they are many in an unnamed file next to `path`, until their digest is known.
    """
    state, count = hashlib.sha256(), 0
    pieces = format_json_lines(lists, metadata)
    next(pieces)
    with (
        write_whole(path) as write,
        tempfile.SpooledTemporaryFile(_BYTES_IN_MEMORY, dir=str(Path(path).parent)) as body,
    ):
        for piece in pieces:
            line = piece.encode()
            state.update(line)
            count += 1
            body.write(line)
        write(_format_header(metadata or {}, {COUNT: count, DIGEST: state.hexdigest()}))
        body.seek(0)
        while data := body.read(1 << 20):
            write(data)


def _named_scores(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    scores, details = entry.pop("scores", None), entry.pop("details", None)
    if type(scores) is not dict or not (details is None or isinstance(details, dict)) or entry:
        raise ValueError('the fields "text", "scores" (object) and, if wanted, "details" (object)')
    return {name: -inf if score is None else score for name, score in scores.items()}, details or {}


class _Seal:
    """Compares the number and digest in a header with the lines below it."""

    def __init__(self, header: Mapping[str, Any], where: str) -> None:
        self._count, self._digest = header.get(COUNT), header.get(DIGEST)
        if self._count is not None and type(self._count) is not int:
            raise ValueError(f"{where}: got {COUNT} {shorten(self._count)}; expected their number")
        if self._digest is not None and type(self._digest) is not str:
            raise ValueError(f"{where}: got {DIGEST} {shorten(self._digest)}; expected hexadecimal digits")
        self._state, self._lines = hashlib.sha256(), 0

    def add(self, line: str) -> None:
        self._lines += 1
        if self._digest is not None:
            self._state.update(line.encode() + b"\n")

    def check(self, path: PathLike) -> None:
        where, accept = os.fspath(path), f'remove "{COUNT}" and "{DIGEST}" from its first line to use it as it is'
        if self._count is not None and self._count != self._lines:
            raise ValueError(
                f"{where}: holds {self._lines} utterances; expected {self._count}, as its header says ({accept})"
            )
        if self._digest is not None and self._digest != self._state.hexdigest():
            got = self._state.hexdigest()
            raise ValueError(
                f"{where}: its lines have the sha256 {got[:12]}...; expected {quoted(self._digest, 16)}, as its "
                f"header says: they were changed after they were written ({accept})"
            )


def _format_header(metadata: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if taken := [key for key in _RESERVED if key in metadata]:
        raise ValueError(f'metadata may not set "{taken[0]}"; expected other keys')
    try:
        return encode({"format": FORMAT, "version": VERSION, **metadata, **facts})
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"metadata can not be written as JSON ({error}); expected finite numbers, strings, lists, dicts"
        ) from None


def _check_header(data: dict[str, Any], where: str) -> None:
    got = (data["format"], data.get("version"))
    if got != (FORMAT, VERSION):
        raise ValueError(
            f"{where}: got format {quoted(got[0])}, version {quoted(got[1])}; expected {FORMAT!r}, version {VERSION}"
        )
    refuse_non_finite(data, where)
