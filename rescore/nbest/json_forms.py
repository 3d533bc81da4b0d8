"""N-best lists as JSON: our own JSON lines, the JSON of mlm-scoring, and flat dicts with one field a score.

    for utterance in iterate_json_lines("scores.jsonl.gz"): ...
    lists = read_json("dev-other.am.json", name="am")
    write_json_lines("scores.jsonl", lists, {"seed": 1})

JSON lines, one utterance a line after an optional header (`{"format": "nbest-jsonl", "version": 1, ...}`):
    {"id": "dev/1", "ref": "a b", "hyps": [{"text": "a b", "scores": {"am": -3.4, "mdlm": -41.2}}]}
with, if wanted, "details" beside the "scores": {"mdlm": {"num_passes": 8, "standard_error": 0.3}}.
The header of a finished file ends in "utterances", their number, and "sha256", that of all lines below it, each with its line end: a
file that lost lines is refused by every reader. Without these two keys (older files, other tools) nothing is compared.
mlm-scoring, the order is that of the numbers:
    {"dev/1": {"hyp_1": {"score": -1.2, "text": "a b"}, "hyp_2": {"score": -2.5, "text": "a"}, "ref": "a b"}}
Flat, `NAME_score` becomes the score NAME and any other number keeps its name:
    {"dev/1": {"ref": "a b", "hyps": [{"text": "a b", "am_score": -3.4, "lm_score": -9.1}]}}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

from rescore.nbest.types import Hypothesis, NBestList, is_detail
from returnn_bridge.files import PathLike, iterate_chunks, iterate_lines, parse_json, write_whole

FORMAT, VERSION = "nbest-jsonl", 1
COUNT, DIGEST = "utterances", "sha256"
_RESERVED = ("format", "version", COUNT, DIGEST)
_BYTES_IN_MEMORY = 1 << 26
_HYP_KEY = re.compile(r"hyp_([0-9]{1,9})")


def iterate_json_lines(path: PathLike, *, name: str | None = None, may_be_empty: bool = False) -> Iterator[NBestList]:
    """The utterances of a JSON-lines file in order, one line in memory at a time.

    Every hypothesis must have the same score names; `name` renames the score of a file that has just one. ValueError
    (one line: file, line, utterance, rank) for anything that is not of the form above, a score that is no finite
    number, an id given twice, an unknown field, lines that are not those that the header tells of, and, unless it
    `may_be_empty`, a file without utterances.
    """
    check = _Checker(name)
    seal = _Seal({}, "")
    for number, line in iterate_lines(path):
        where = f"{os.fspath(path)}:{number}"
        data = parse_json(line, path, number)
        if not isinstance(data, dict):
            raise ValueError(f'{where}: got {_short(data)}; expected an object {{"id", "hyps"}}')
        if number == 1 and "format" in data:
            _check_header(data, where)
            seal = _Seal(data, where)
            continue
        seal.add(line)
        tag, reference, entries = data.pop("id", None), data.pop("ref", None), data.pop("hyps", None)
        if not isinstance(tag, str):
            raise ValueError(f"{where}: got the id {_short(tag)}; expected a string")
        _refuse_fields(data, f"{where}: utterance {tag!r}", "id, ref, hyps")
        yield check.utterance(where, tag, entries, reference, _named_scores)
    seal.check(path)
    if not may_be_empty:
        check.finish(path)


def read_metadata(path: PathLike) -> dict[str, Any]:
    """The metadata in the header of a JSON-lines file, without format, version, count and digest; {} if it has none."""
    for number, line in iterate_lines(path):
        data = parse_json(line, path, number)
        if isinstance(data, dict) and "format" in data:
            _check_header(data, f"{os.fspath(path)}:{number}")
            return {key: value for key, value in data.items() if key not in _RESERVED}
        break
    return {}


def read_json(path: PathLike, *, name: str | None = None) -> list[NBestList]:
    """All utterances of a JSON file, mlm-scoring's form or the flat one; `name` names mlm-scoring's "score" ("am").

    ValueError (one line: file, utterance, rank) as in `iterate_json_lines`.
    """
    data = load_json_dict(path)
    flat = all(isinstance(value, dict) and "hyps" in value for value in data.values())
    check = _Checker(name if flat else None)
    lists = []
    for tag, value in data.items():
        where = os.fspath(path)
        if not isinstance(value, dict):
            raise ValueError(f"{where}: utterance {tag!r} is {_short(value)}; expected an object with hypotheses")
        reference = value.pop("ref", None)
        if flat:
            entries = value.pop("hyps")
            _refuse_fields(value, f"{where}: utterance {tag!r}", "ref, hyps")
            lists.append(check.utterance(where, tag, entries, reference, _flat_scores))
        else:
            entries = _ordered_hyps(value, f"{where}: utterance {tag!r}")
            lists.append(check.utterance(where, tag, entries, reference, _single_score(name or "am")))
    check.finish(path)
    return lists


def load_json_dict(path: PathLike) -> dict[str, Any]:
    """The object at the top of a JSON file; ValueError if it is no object, not JSON, or has a key twice."""
    text = "".join(iterate_chunks(path))
    if not text.strip():
        raise ValueError(f"{os.fspath(path)}:1: the file is empty; expected a JSON object by utterance")
    data = parse_json(text, path, 1)
    if not isinstance(data, dict):
        raise ValueError(f"{os.fspath(path)}:1: got {_short(data)}; expected a JSON object by utterance")
    return data


def format_json_lines(lists: Iterable[NBestList], metadata: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Header and utterances as lines; floats with all their digits. ValueError for metadata that JSON does not know.

    This header tells neither their number nor their digest, which are not known before the end; see `write_json_lines`.
    """
    yield _format_header(metadata or {}, {})
    for utterance in lists:
        hyps = []
        for hypothesis in utterance.hypotheses:
            entry: dict[str, Any] = {"text": hypothesis.text, "scores": dict(hypothesis.scores)}
            if hypothesis.details:
                entry["details"] = {source: dict(detail) for source, detail in hypothesis.details.items()}
            hyps.append(entry)
        reference = {} if utterance.reference is None else {"ref": utterance.reference}
        yield _encode({"id": utterance.seq_tag, **reference, "hyps": hyps})


def write_json_lines(path: PathLike, lists: Iterable[NBestList], metadata: Mapping[str, Any] | None = None) -> None:
    """Write header and utterances, whole or not at all; the header tells their number and digest. Errors as of `format_json_lines`.

    The lines wait in memory, or in a nameless file beside `path` where they are many, until their digest is known.
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


def format_mlm_scoring(lists: Iterable[NBestList], score: str) -> Iterator[str]:
    """mlm-scoring's JSON with one of the scores, an utterance a line."""
    separator = "{\n"
    for utterance in lists:
        hyps: dict[str, Any] = {
            f"hyp_{rank}": {"score": hypothesis.scores[score], "text": hypothesis.text}
            for rank, hypothesis in enumerate(utterance.hypotheses, 1)
        }
        if utterance.reference is not None:
            hyps["ref"] = utterance.reference
        yield f"{separator}{_encode(utterance.seq_tag)[:-1]}: {_encode(hyps)[:-1]}"
        separator = ",\n"
    yield "\n}\n"


_Fields = Callable[[dict[str, Any]], tuple[dict[str, Any], dict[str, Any]]]


class _Checker:
    """What holds whatever the form of the file: each id once, the same score names, finite numbers, texts."""

    def __init__(self, rename: str | None) -> None:
        self._rename = rename
        self._names: frozenset[str] | None = None
        self._seen: set[str] = set()

    def utterance(self, where: str, tag: str, entries: object, reference: object, fields: _Fields) -> NBestList:
        """`fields` splits what an entry has beside its text into scores and details."""
        if tag in self._seen:
            raise ValueError(f"{where}: utterance {tag!r} is given twice; expected each utterance once")
        self._seen.add(tag)
        if reference is not None and not isinstance(reference, str):
            raise ValueError(f"{where}: utterance {tag!r} has the reference {_short(reference)}; expected a string")
        if not isinstance(entries, list) or not entries:
            raise ValueError(
                f"{where}: utterance {tag!r} has the hypotheses {_short(entries)}; expected a list of at least one"
            )
        hypotheses = []
        for rank, entry in enumerate(entries, 1):
            if type(entry) is not dict or type(text := entry.pop("text", None)) is not str:
                _bad(where, tag, rank, f"is {_short(entry)}", 'an object with a string "text"')
            try:
                scores, details = fields(entry)
            except ValueError as error:
                _bad(where, tag, rank, "is malformed", str(error))
            for key, value in scores.items():
                if type(value) is not float or not isfinite(value):
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
        if not self._seen:
            raise ValueError(f"{os.fspath(path)}:1: the file holds no utterance; expected at least one")


def _named_scores(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    scores, details = entry.pop("scores", None), entry.pop("details", None)
    if type(scores) is not dict or not (details is None or isinstance(details, dict)) or entry:
        raise ValueError('the fields "text", "scores" (object) and, if wanted, "details" (object)')
    return scores, details or {}


def _flat_scores(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    scores = {key.removesuffix("_score"): value for key, value in entry.items()}
    if len(scores) != len(entry):
        raise ValueError("each score once")
    return scores, {}


def _single_score(name: str) -> _Fields:
    def fields(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        if entry.keys() != {"score"}:
            raise ValueError('the fields "score" and "text"')
        return {name: entry["score"]}, {}

    return fields


def _ordered_hyps(value: dict[str, Any], where: str) -> list[Any]:
    """mlm-scoring's hyp_1, hyp_2, ... by number."""
    numbered: dict[int, Any] = {}
    for key, entry in value.items():
        match = _HYP_KEY.fullmatch(key)
        if match is None or int(match.group(1)) in numbered:
            raise ValueError(f"{where} has the field {key!r}; expected hyp_1, hyp_2, ... (each once) and ref")
        numbered[int(match.group(1))] = entry
    return [numbered[number] for number in sorted(numbered)]


class _Seal:
    """What a header says of the lines below it, compared with what they are."""

    def __init__(self, header: Mapping[str, Any], where: str) -> None:
        self._count, self._digest = header.get(COUNT), header.get(DIGEST)
        if self._count is not None and type(self._count) is not int:
            raise ValueError(f"{where}: got {COUNT} {_short(self._count)}; expected their number")
        if self._digest is not None and type(self._digest) is not str:
            raise ValueError(f"{where}: got {DIGEST} {_short(self._digest)}; expected hexadecimal digits")
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
                f"{where}: its lines have the sha256 {got[:12]}...; expected {self._digest[:12]}..., as its header says: they were "
                f"changed after they were written ({accept})"
            )


def _format_header(metadata: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if taken := [key for key in _RESERVED if key in metadata]:
        raise ValueError(f'metadata may not set "{taken[0]}"; expected other keys')
    try:
        return _encode({"format": FORMAT, "version": VERSION, **metadata, **facts})
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"metadata can not be written as JSON ({error}); expected finite numbers, strings, lists, dicts"
        ) from None


def _check_header(data: dict[str, Any], where: str) -> None:
    got = (data["format"], data.get("version"))
    if got != (FORMAT, VERSION):
        raise ValueError(f"{where}: got format {got[0]!r}, version {got[1]!r}; expected {FORMAT!r}, version {VERSION}")


def _check_details(details: dict[str, Any], where: str, tag: str, rank: int) -> None:
    for source, detail in details.items():
        if not isinstance(detail, dict):
            _bad(where, tag, rank, f"has the details {_short(detail)} for {source!r}", "an object")
        for key, value in detail.items():
            if not is_detail(value):
                _bad(
                    where,
                    tag,
                    rank,
                    f"has {key} = {_short(value)} for {source!r}",
                    "a finite number, a list of such, a boolean or a string",
                )


def _finite(value: object, where: str, tag: str, rank: int, name: str) -> float:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 1000:
        return float(value)
    _bad(where, tag, rank, f"has {name} score {_short(value)}", "a finite number (nats)")


def _refuse_fields(rest: dict[str, Any], where: str, known: str) -> None:
    if rest:
        raise ValueError(f"{where} has the unknown field {next(iter(rest))!r}; expected {known}")


def _bad(where: str, tag: str, rank: int, got: str, expected: str) -> NoReturn:
    raise ValueError(f"{where}: hypothesis {rank} of {tag!r} {got}; expected {expected}")


def _short(value: object) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _encode(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n"
