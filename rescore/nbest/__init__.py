"""Read and write N-best lists with named scores; the order and the bytes of the texts are kept.

    lists = read_nbest("output.py.gz")                                   # scores {"am": ...}
    lists = read_sources(["output.py.gz", "bigram=bigram.py.gz"])        # scores {"am": ..., "bigram": ...}
    for utterance in iterate_nbest("scores.jsonl.gz"): ...               # holds one utterance in memory
    write_nbest("scores.jsonl", lists, metadata={"seed": 1})
    write_nbest("bigram.py.gz", lists, score="bigram")                   # for i6's SearchCombineScoresJob

The format is chosen by the suffix, with or without .gz, or by its name; see rescore.nbest.formats.
Scores are in nats, higher is better.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

from rescore.nbest.formats import format_of_file, format_to_write
from rescore.nbest.formats.json_lines import FORMAT
from rescore.nbest.types import Hypothesis, NBestList, expected_detail
from returnn_bridge.files import PathLike, is_finite, iterate_lines, parse_json, quoted

__all__ = [
    "Hypothesis",
    "NBestList",
    "check_no_lists",
    "describe_difference",
    "iterate_nbest",
    "read_metadata",
    "read_nbest",
    "read_sources",
    "split_source",
    "write_nbest",
]

_NAMED_SOURCE = re.compile(r"([A-Za-z0-9_][\w.+-]*)=(.+)", re.DOTALL)


def read_nbest(
    path: PathLike, *, name: str | None = None, allow_non_finite: bool = False, format: str | None = None
) -> list[NBestList]:
    """All utterances of a file; arguments and errors as in `iterate_nbest`."""
    return list(iterate_nbest(path, name=name, allow_non_finite=allow_non_finite, format=format))


def iterate_nbest(
    path: PathLike, *, name: str | None = None, allow_non_finite: bool = False, format: str | None = None
) -> Iterator[NBestList]:
    """The utterances of an N-best file in order. Constant memory for .py and .jsonl; .json is read whole.

    `name` is the name of the score in formats with a single unnamed score (default "am"); in a file with a single named
    score it renames that score. `allow_non_finite` accepts nan and infinite scores if the format can hold them.
    `format`: the name of the format; None: chosen by the suffix. ValueError, one line with file, line, utterance and
    rank as far as known, for a file that is incomplete or malformed; the utterances before the error have been yielded
    by then.
    """
    form = format_of_file(path, format)
    yield from form.read(path, name=name, allow_non_finite=allow_non_finite and form.non_finite)


def read_metadata(path: PathLike, *, format: str | None = None) -> dict[str, Any]:
    """The metadata of a file; {} if there is none. ValueError as in `iterate_nbest`."""
    return format_of_file(path, format).read_metadata(path)


def read_sources(sources: Sequence[str], *, format: str | None = None) -> list[NBestList]:
    """One set of lists with the scores and details of several aligned score files, each "PATH" or "NAME=PATH".

    The files must hold the same utterances, in any order, and for each the same texts in the same order. The result has
    the order of the first file; references may come from any file. `format`: the format of all files; None: chosen by
    their suffixes. ValueError naming utterance and rank if the files differ, and for a score name given twice.
    """
    if not sources:
        raise ValueError("no N-best file given; expected at least one PATH or NAME=PATH")
    merged: dict[str, NBestList] = {}
    origin: dict[str, str] = {}
    first = ""
    for source in sources:
        name, path = split_source(source)
        lists = {utterance.seq_tag: utterance for utterance in iterate_nbest(path, name=name, format=format)}
        for score in next(iter(lists.values())).hypotheses[0].scores:
            if score in origin:
                raise ValueError(
                    f"score {quoted(score)} comes from {origin[score]} and from {path}; "
                    "expected each name once, as NAME=PATH"
                )
            origin[score] = path
        if not merged:
            merged, first = lists, path
            continue
        difference = describe_difference(first, merged, path, lists)
        if difference:
            raise ValueError(f"{first} and {path} hold different utterances: {difference}; expected the same")
        merged = {tag: _merge(utterance, lists[tag], first, path) for tag, utterance in merged.items()}
    return list(merged.values())


def write_nbest(
    path: PathLike,
    lists: Iterable[NBestList],
    *,
    score: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    allow_non_finite: bool = False,
    format: str | None = None,
) -> None:
    """Write the lists, in order, atomically, in the given format or that of the suffix.

    .jsonl holds all scores, details and references, and `metadata` in its header. .py and .json hold one score, named
    by `score`, which may be left out if there is only one; .json (mlm-scoring) also holds the references. Floats keep
    all digits. `allow_non_finite` permits nan and infinite scores in formats that can hold them. ValueError for a score
    that is missing or not finite (-inf is written where the format can hold it), an utterance given twice, no
    utterances, or an unknown suffix.
    """
    where, form = os.fspath(path), format_to_write(path, format)
    if form.many_scores and score is not None:
        raise ValueError(f"{where}: the format {form.name} holds all scores; expected no choice of the score {score!r}")
    if metadata and not form.metadata:
        raise ValueError(f"{where}: the format {form.name} holds no metadata; expected none")
    checked = _checked(lists, where, allow_non_finite and form.non_finite, form.minus_infinity)
    try:
        head = next(checked)
        chosen = "" if form.many_scores else _choose_score(head, score, where)
        form.write(path, itertools.chain([head], checked), score=chosen, metadata=dict(metadata or {}))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: {error.object[:40]!r}... holds a lone surrogate ({error.reason}); expected text"
        ) from None


def check_no_lists(outputs: Iterable[PathLike]) -> None:
    """ValueError if an output would overwrite N-best lists or scores, which are expensive to compute again.

    Formats are recognised by their suffixes.
    """
    for path in outputs:
        if _holds_lists(path):
            raise ValueError(
                f"{os.fspath(path)}: holds N-best lists; expected another name for the output (or remove it)"
            )


def _holds_lists(path: PathLike) -> bool:
    """Whether a file begins with the header of a score file, or its first utterance can be read."""
    if not os.path.isfile(path):
        return False
    try:
        first = next(iterate_lines(path), (1, ""))[1]
        if first.startswith("{") and FORMAT in first[:100]:
            header = parse_json(first, path)
            return isinstance(header, dict) and header.get("format") == FORMAT
        first_list = next(iterate_nbest(path, allow_non_finite=True), None)
        return first_list is not None and bool(first_list.hypotheses[0].scores)  # transcripts are no lists to lose
    except ValueError:
        return False


def describe_difference(name: str, tags: Iterable[str], other_name: str, other_tags: Iterable[str]) -> str:
    """A text that names up to five utterances that only one of two sets has; "" if the sets are equal."""
    left, right = set(tags), set(other_tags)
    parts = []
    for where, only in ((name, sorted(left - right)), (other_name, sorted(right - left))):
        if only:
            more = ", ..." if len(only) > 5 else ""
            parts.append(f"{len(only)} only in {where} ({', '.join(map(quoted, only[:5]))}{more})")
    return " and ".join(parts)


def split_source(source: str) -> tuple[str | None, str]:
    """(name, path) of "NAME=PATH" or "PATH". If a file named `source` exists, it is taken as a path."""
    match = None if os.path.exists(source) else _NAMED_SOURCE.fullmatch(source)
    return (match.group(1), match.group(2)) if match else (None, source)


def _merge(utterance: NBestList, other: NBestList, path: str, other_path: str) -> NBestList:
    where = f"utterance {quoted(utterance.seq_tag)} differs between {path} and {other_path}"
    if len(utterance.hypotheses) != len(other.hypotheses):
        counts = f"{len(utterance.hypotheses)} and {len(other.hypotheses)}"
        raise ValueError(f"{where}: {counts} hypotheses; expected the same texts in the same order")
    hypotheses = []
    for rank, (left, right) in enumerate(zip(utterance.hypotheses, other.hypotheses), 1):
        if left.text != right.text:
            texts = f"{left.text[:60]!r} and {right.text[:60]!r}"
            raise ValueError(f"{where}: hypothesis {rank} is {texts}; expected the same texts in the same order")
        hypotheses.append(Hypothesis(left.text, {**left.scores, **right.scores}, {**left.details, **right.details}))
    references = {utterance.reference, other.reference} - {None}
    if len(references) > 1:
        raise ValueError(f"{where}: the references are not equal; expected the same reference")
    return NBestList(utterance.seq_tag, tuple(hypotheses), next(iter(references), None))


def _checked(
    lists: Iterable[NBestList], where: str, allow_non_finite: bool, minus_infinity: bool
) -> Iterator[NBestList]:
    """The lists, after a check for everything that a reader would refuse."""
    seen: set[str] = set()
    names: set[str] = set()
    for utterance in lists:
        tag = utterance.seq_tag
        if tag in seen:
            raise ValueError(f"{where}: utterance {tag!r} is given twice; expected each utterance once")
        for rank, hypothesis in enumerate(utterance.hypotheses, 1):
            hyp = f"{where}: hypothesis {rank} of {tag!r}"
            if not seen and rank == 1:
                names = set(hypothesis.scores)
            if hypothesis.scores.keys() != names:
                raise ValueError(
                    f"{hyp} has the scores {sorted(hypothesis.scores)}; expected {sorted(names)} as in the first"
                )
            for name, value in hypothesis.scores.items():
                never_wins = minus_infinity and value == -inf
                if not (is_finite(value) or never_wins or (allow_non_finite and isinstance(value, float | int))):
                    raise ValueError(f"{hyp} has {name} score {value!r}; expected a finite number (nats)")
            for source, detail in hypothesis.details.items():
                for key, entry in detail.items():
                    if expected := expected_detail(key, entry):
                        raise ValueError(f"{hyp} has {key} = {entry!r} for {source!r}; expected {expected}")
        seen.add(tag)
        yield utterance
    if not seen:
        raise ValueError(f"{where}: no utterances to write; expected at least one")


def _choose_score(utterance: NBestList, score: str | None, where: str) -> str:
    names = sorted(utterance.hypotheses[0].scores)
    if score is None and len(names) == 1:
        return names[0]
    if score not in names:
        got = "no score is chosen" if score is None else f"there is no score {score!r}"
        raise ValueError(f"{where}: {got}, and the format holds one; expected one of {', '.join(names) or 'none'}")
    return score
