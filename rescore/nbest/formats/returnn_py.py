"""RETURNN's Python-literal files: `{seq_tag: [(score, text), ...]}` and `{seq_tag: text}`, without running any of it.

    for seq_tag, entries in iterate_lists("output.py.gz"): ...       # entries: [(score, text), ...]
    for seq_tag, text in iterate_texts("ref.py"): ...
    for piece in format_list("dev/1", [(-1.5, "a b")]): write(piece)

The scanner walks over the text in pieces, so the layout may be any that a Python literal may have (one line, a tuple
a line, pprint, comments, adjacent strings) and the memory is that of one utterance. It knows strings, numbers, nan
and inf; all else is an error. The usual entry, `(-12.5, 'text'),`, is one match of one expression; a string token
with escapes goes through `ast.literal_eval`.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any

from rescore.nbest.formats.base import Format
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.files import PathLike, iterate_chunks, write_whole

_SKIP = re.compile(r"(?:[ \t\r\n\f]+|#[^\n]*\n|\\\r?\n)*")
_NUMBER_PATTERN = r"(?:(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?|nan|inf)(?![\w.])"
_NUMBER = re.compile(_NUMBER_PATTERN)
_STRING = re.compile(
    r"""([rRuU]?)(
        '''[^'\\\0]*(?:(?:\\.|'(?!''))[^'\\\0]*)*'''
      | \"""[^"\\\0]*(?:(?:\\.|"(?!""))[^"\\\0]*)*\"""
      | '(?!'')[^'\\\r\n\0]*(?:\\(?:\r\n|[^\0])[^'\\\r\n\0]*)*'
      | "(?!"")[^"\\\r\n\0]*(?:\\(?:\r\n|[^\0])[^"\\\r\n\0]*)*"
    )""",
    re.VERBOSE | re.DOTALL,
)
_STRING_START = re.compile(r"""[rRuU]?['"]""")
_ENTRY = re.compile(
    rf"""\([ ]*([+-]?{_NUMBER_PATTERN})[ ]*,[ \t\r\n]*(?:'([^'\\\r\n\0]*)'|"([^"\\\r\n\0]*)")[ \t]*\)[ ]*(?:,|(?=\]))"""
)
# Characters that must lie ahead before a token is judged: enough for the longest fixed part ("'''", "1e+", "\r\n").
_MARGIN = 16
# A token that is still not complete after so many characters is a missing quote, not a hypothesis.
_LONGEST_TOKEN = 1 << 24


class ReturnnPy(Format):
    """`{seq_tag: [(score, text), ...]}` as RETURNN's search writes it and i6_core's jobs read it."""

    name, suffixes = "returnn-py", (".py",)
    writes = non_finite = True

    def read(self, path: PathLike, *, name: str | None = None, allow_non_finite: bool = False) -> Iterator[NBestList]:
        score = name or "am"
        for tag, entries in iterate_lists(path, allow_non_finite=allow_non_finite):
            yield NBestList(tag, tuple([Hypothesis(text, {score: value}) for value, text in entries]))

    def write(self, path: PathLike, lists: Iterator[NBestList], *, score: str, metadata: Mapping[str, Any]) -> None:
        with write_whole(path) as write:
            write("{\n")
            for utterance in lists:
                entries = [(hypothesis.scores[score], hypothesis.text) for hypothesis in utterance.hypotheses]
                for line in format_list(utterance.seq_tag, entries):
                    write(line)
            write("}\n")


def iterate_lists(path: PathLike, *, allow_non_finite: bool = False) -> Iterator[tuple[str, list[tuple[float, str]]]]:
    """(seq_tag, [(score, text), ...]) of every utterance, in order. Scores as read: natural log, higher is better.

    ValueError (one line: file, line, utterance, rank) for anything else than such a dict, for an empty or cut-off
    file, for a tag given twice, an empty list, and, unless `allow_non_finite`, for a score that is nan or infinite (a
    nan wins `max()`).
    """
    scanner = _Scanner(path)
    for tag in _iterate_keys(scanner, "[(score, text), ...]"):
        yield tag, _read_entries(scanner, tag, allow_non_finite)


def iterate_texts(path: PathLike) -> Iterator[tuple[str, str]]:
    """(seq_tag, text) of a `{seq_tag: text}` file (references, single best); errors as in `iterate_lists`."""
    scanner = _Scanner(path)
    for tag in _iterate_keys(scanner, "text"):
        yield tag, scanner.string(f"the text of {tag!r}")


def format_list(seq_tag: str, entries: Iterable[tuple[float, str]]) -> Iterator[str]:
    """One utterance as lines of the dict, a tuple a line, scores as Python floats with all their digits."""
    yield f"{seq_tag!r}: [\n"
    for score, text in entries:
        # float(): TextDictDataset wants a float, and numpy's repr is no literal.
        yield f"({float(score)!r}, {str(text)!r}),\n"
    yield "],\n"


def _iterate_keys(scanner: _Scanner, value: str) -> Iterator[str]:
    """Walk over the outer dict, stop after each `key:`; the caller reads the value before it asks for the next."""
    if not scanner.peek():
        raise scanner.error(f"the file is empty; expected a dict {{seq_tag: {value}}}")
    scanner.expect("{", f"a dict {{seq_tag: {value}}}")
    seen: set[str] = set()
    while scanner.peek() != "}":
        tag = scanner.string("a sequence tag" + (" or '}'" if seen else ""))
        if tag in seen:
            raise scanner.error(f"sequence tag {tag!r} is given twice; expected each utterance once")
        seen.add(tag)
        scanner.expect(":", f"':' after the sequence tag {tag!r}")
        yield tag
        if scanner.peek() != "}":
            scanner.expect(",", f"',' or '}}' after the value of {tag!r}")
    if not seen:
        raise scanner.error("the dict is empty; expected at least one utterance")
    scanner.expect("}", "'}'")
    if scanner.peek():
        raise scanner.error(f"got {scanner.excerpt()} after the closing '}}'; expected the end of the file")


def _read_entries(scanner: _Scanner, tag: str, allow_non_finite: bool) -> list[tuple[float, str]]:
    scanner.expect("[", f"a list of (score, text) for {tag!r}")
    entries: list[tuple[float, str]] = []
    while True:
        scanner.peek()
        match = _ENTRY.match(scanner.text, scanner.position)
        if match:
            number, single, double = match.groups()
            score, text = float(number), (double if single is None else single)
        elif scanner.peek() == "]" and entries:
            scanner.position += 1
            return entries
        else:
            score, text = _read_entry(scanner, tag, len(entries) + 1)
        if not allow_non_finite and not isfinite(score):
            where = f"hypothesis {len(entries) + 1} of {tag!r}"
            raise scanner.error(f"{where} has score {score}; expected a finite number (nats)")
        entries.append((score, text))
        if match:
            scanner.position = match.end()
        elif scanner.peek() != "]":
            scanner.expect(",", f"',' or ']' after hypothesis {len(entries)} of {tag!r}")


def _read_entry(scanner: _Scanner, tag: str, rank: int) -> tuple[float, str]:
    """One `(score, text)` in any layout, without the comma that follows it."""
    where = f"hypothesis {rank} of {tag!r}"
    if scanner.peek() == "]":
        raise scanner.error(f"the list of {tag!r} is empty; expected at least one (score, text)")
    scanner.expect("(", f"(score, text) for {where}")
    score = scanner.number(f"a number as the score of {where}")
    scanner.expect(",", f"',' after the score of {where}")
    text = scanner.string(f"the text of {where} as a string")
    if scanner.peek() == ",":
        scanner.position += 1
    scanner.expect(")", f"')' after the text of {where}: two fields, (score, text)")
    return score, text


class _Scanner:
    """A window on the text of a file and the position in it; tokens may follow blanks, comments and line ends."""

    def __init__(self, path: PathLike) -> None:
        self._path = os.fspath(path)
        self._chunks = iterate_chunks(path)
        self._ended = False
        self._line = 1
        self.text = ""
        self.position = 0

    def peek(self) -> str:
        """The next character that matters, "" at the end of the file; the window then reaches beyond it."""
        while True:
            skipped = _SKIP.match(self.text, self.position)
            assert skipped is not None, "the expression matches the empty string"
            self.position = skipped.end()
            ahead = self.text[self.position : self.position + 1]
            if self._ended or (len(self.text) - self.position >= _MARGIN and ahead != "#"):
                return ahead
            self._fill()

    def expect(self, character: str, what: str) -> None:
        if self.peek() != character:
            raise self.error(f"got {self.excerpt()}; expected {what}")
        self.position += 1

    def number(self, what: str) -> float:
        sign = self.peek()
        if sign and sign in "+-":
            self.position += 1
            self.peek()
        match = self._match(_NUMBER)
        try:
            if match is None:
                raise ValueError
            value = float(match.group())
        except ValueError:
            raise self.error(f"got {self.excerpt()}; expected {what}") from None
        self.position = match.end()
        return -value if sign == "-" else value

    def string(self, what: str) -> str:
        parts: list[str] = []
        self.peek()
        while not parts or _STRING_START.match(self.text, self.position):
            if not _STRING_START.match(self.text, self.position):
                raise self.error(f"got {self.excerpt()}; expected {what}")
            match = self._match(_STRING)
            if match is None:
                raise self.error(f"got {self.excerpt()}, a string without its closing quote; expected {what}")
            try:
                parts.append(_decode(*match.groups()))
            except (SyntaxError, ValueError):
                raise self.error(f"got {self.excerpt()}, a string with a broken escape; expected {what}") from None
            self.position = match.end()
            self.peek()
        return parts[0] if len(parts) == 1 else "".join(parts)

    def excerpt(self) -> str:
        piece = self.text[self.position : self.position + 24].rstrip()
        return repr(piece) if piece else "the end of the file"

    def error(self, message: str) -> ValueError:
        # The end of the file is the end of the last line that holds something.
        position = min(self.position, len(self.text.rstrip()))
        line = self._line + self.text.count("\n", 0, position)
        return ValueError(f"{self._path}:{line}: {message}")

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The token at the position; the window grows until it holds the token whole."""
        while True:
            match = pattern.match(self.text, self.position)
            if self._ended or (match is not None and match.end() + _MARGIN <= len(self.text)):
                return match
            if match is None and len(self.text) - self.position > _LONGEST_TOKEN:
                return None
            self._fill()

    def _fill(self) -> None:
        """Drop what is read and take in as much again as is kept, so that a long token costs linear time."""
        self._line += self.text.count("\n", 0, self.position)
        parts = [self.text[self.position :]]
        self.position = 0
        wanted, gained = len(parts[0]), 0
        while gained <= wanted and not self._ended:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
                chunk = "\n"  # ends a comment in the last line
            parts.append(chunk)
            gained += len(chunk)
        self.text = "".join(parts)


def _decode(prefix: str, token: str) -> str:
    if "\\" not in token and not token.startswith(("'''", '"""')):
        return token[1:-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown escape such as '\d' stands for itself, as in Python
        value = ast.literal_eval(prefix + token)
    assert isinstance(value, str), "the expression admits string tokens only"
    return value
