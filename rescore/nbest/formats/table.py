"""A table with one hypothesis per line: the columns id, text, optionally ref, and one column for each score.

    id,text,am,lm
    dev/1,he hoped there would be stew,-3.4,-9.1

In `.csv` the fields are separated by commas and may be quoted, in `.tsv` they are separated by tabs and never quoted.
The hypotheses of an utterance stand on consecutive lines. Nothing stands for a missing value, so a hypothesis may be
`nan` or `null`.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Iterator
from typing import Any

from rescore.nbest.formats.base import Format
from rescore.nbest.formats.hypotheses import UtteranceChecker
from rescore.nbest.types import NBestList
from returnn_bridge.files import JsonObject, PathLike, iterate_lines, write_whole


class Table(Format):
    """Comma-separated values with a header."""

    name, suffixes = "csv", (".csv",)
    writes = many_scores = references = True
    separator = ","

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        rows = self._rows(path)
        _, header = next(rows, (1, []))
        if header[:2] != ["id", "text"] or len(set(header)) < len(header) or "" in header:
            raise ValueError(
                f"{os.fspath(path)}:1: the columns are {', '.join(header)[:80]}; expected id, text, and the scores"
            )
        checker = UtteranceChecker(name)
        for tag, group in itertools.groupby(rows, key=lambda row: row[1][0]):
            entries, reference, first = [], None, 0
            for number, fields in group:
                entry, first = dict(zip(header[1:], fields[1:])), first or number
                reference = entry.pop("ref", None)
                entries.append({key: value if key == "text" else _number(value) for key, value in entry.items()})
            yield checker.utterance(f"{os.fspath(path)}:{first}", tag, entries, reference, lambda scores: (scores, {}))
        checker.finish(path)

    def write(self, path: PathLike, lists: Iterator[NBestList], *, score: str, metadata: JsonObject) -> None:
        with write_whole(path) as write:
            header: list[str] = []
            for utterance in lists:
                for rank, hypothesis in enumerate(utterance.hypotheses, 1):
                    names = [*hypothesis.scores]
                    has_reference = utterance.reference is not None
                    if not header:
                        header = ["id", "text", *(["ref"] if has_reference else []), *names]
                        write(self._line(header, "the names of the scores"))
                    where = f"{os.fspath(path)}: hypothesis {rank} of {utterance.seq_tag!r}"
                    if ("ref" in header) != has_reference:
                        raise ValueError(f"{where}: some utterances have a reference; expected all or none in a table")
                    known = {"id": utterance.seq_tag, "text": hypothesis.text, "ref": utterance.reference or ""}
                    numbers = {key: repr(value) for key, value in hypothesis.scores.items()}
                    write(self._line([{**known, **numbers}[key] for key in header], where))

    def _rows(self, path: PathLike) -> Iterator[tuple[int, list[str]]]:
        """(line, fields) of each line, all with the same number of fields."""
        width = 0
        for number, line in iterate_lines(path):
            fields = self._fields(line, f"{os.fspath(path)}:{number}")
            width = width or len(fields)
            if len(fields) != width:
                raise ValueError(f"{os.fspath(path)}:{number}: {len(fields)} fields; expected {width} as in line 1")
            yield number, fields

    def _fields(self, line: str, where: str) -> list[str]:
        try:
            return next(csv.reader([line], strict=True), [""])
        except csv.Error as error:
            raise ValueError(f"{where}: not comma-separated values ({error})") from None

    def _line(self, fields: list[str], where: str) -> str:
        if any("\n" in field or "\r" in field for field in fields):
            raise ValueError(f"{where} has a line break; expected texts of one line in a table")
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(fields)
        return line.getvalue()


class TabTable(Table):
    """Tab-separated values with a header, without quotes."""

    name, suffixes = "tsv", (".tsv",)

    def recognizes(self, head: str) -> bool:
        return head.startswith("id\ttext\t")

    def _fields(self, line: str, where: str) -> list[str]:
        return line.split("\t")

    def _line(self, fields: list[str], where: str) -> str:
        if any(set(field) & set("\t\n\r") for field in fields):
            raise ValueError(f"{where} has a tab or a line break; expected neither in a table")
        return "\t".join(fields) + "\n"


def _number(text: str) -> Any:
    """The number, or the text itself, which the check of scores then refuses."""
    try:
        return float(text)
    except ValueError:
        return text
