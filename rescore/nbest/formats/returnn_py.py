"""RETURNN's Python-literal files: `{seq_tag: [(score, text), ...]}` and `{seq_tag: text}`, parsed without
running any code.

    for seq_tag, entries in iterate_lists("output.py.gz"): ...       # entries: [(score, text), ...]
    for seq_tag, text in iterate_texts("ref.py"): ...
    for piece in format_list("dev/1", [(-1.5, "a b")]): write(piece)

The scanner reads the text in chunks, so it needs memory for one utterance only, and it accepts any layout of a Python
literal (one line, one tuple per line, pprint, comments, adjacent strings). It accepts strings, numbers, nan and inf;
anything else is an error. The usual entry, `(-12.5, 'text'),`, is matched by one regular expression, because that is
fast; a string with escapes is decoded by `ast.literal_eval`.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any

from rescore.nbest.formats.base import Format
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.files import PathLike, iterate_chunks, quoted, write_whole

_SKIP = re.compile(r"(?:[ \t\r\n\f]+|#[^\r\n\0]*[\r\n]|\\\r?\n)*")
_NUMBER_PATTERN = (
    r"(?!0[0-9_]*[1-9][0-9_]*(?![\w.]))"  # as in Python, a whole number does not begin with zeros
    r"(?:(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?|nan|inf)(?![\w.])"
)
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
# Number of characters to have in the window before a token is matched: enough for the longest fixed part ("'''", "1e+",
# "\r\n").
_MARGIN = 16
# A token that is incomplete after this many characters is taken as a missing quote.
_LONGEST_TOKEN = 1 << 24


class ReturnnPy(Format):
    """`{seq_tag: [(score, text), ...]}`, which RETURNN's search writes and i6_core's jobs read."""

    name, suffixes = "returnn-py", (".py",)
    writes = non_finite = minus_infinity = True

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
    """(seq_tag, [(score, text), ...]) of every utterance, in order. Scores are in nats, higher is better.

    ValueError (one line: file, line, utterance, rank) for any other content, for an empty or truncated file, for a tag
    given twice, an empty list, and, unless `allow_non_finite`, for a score that is nan or +inf (a nan wins `max()`).
    A score of -inf, which RETURNN writes for a hypothesis that must not be chosen, is kept.
    """
    scanner = _Scanner(path)
    for tag in _iterate_keys(scanner, "[(score, text), ...]"):
        yield tag, _read_entries(scanner, tag, allow_non_finite)


def iterate_texts(path: PathLike) -> Iterator[tuple[str, str]]:
    """(seq_tag, text) of a `{seq_tag: text}` file (references, single best); errors as in `iterate_lists`."""
    scanner = _Scanner(path)
    for tag in _iterate_keys(scanner, "text"):
        yield tag, scanner.string(f"the text of {quoted(tag)}")


def format_list(seq_tag: str, entries: Iterable[tuple[float, str]]) -> Iterator[str]:
    """One utterance as lines of the dict, one tuple per line, with scores as Python floats with all digits."""
    yield f"{seq_tag!r}: [\n"
    for score, text in entries:
        # float(), because TextDictDataset needs a float and the repr of a numpy number is not a literal.
        yield f"({float(score)!r}, {str(text)!r}),\n"
    yield "],\n"


def _iterate_keys(scanner: _Scanner, value: str) -> Iterator[str]:
    """The keys of the outer dict. The caller must read the value, which follows `key:`, before it takes the next
    key."""
    if not scanner.peek():
        raise scanner.error(f"the file is empty; expected a dict {{seq_tag: {value}}}")
    scanner.expect("{", f"a dict {{seq_tag: {value}}}")
    seen: set[str] = set()
    while scanner.peek() != "}":
        tag = scanner.string("a sequence tag" + (" or '}'" if seen else ""))
        if tag in seen:
            raise scanner.error(f"sequence tag {quoted(tag)} is given twice; expected each utterance once")
        seen.add(tag)
        scanner.expect(":", f"':' after the sequence tag {quoted(tag)}")
        yield tag
        if scanner.peek() != "}":
            scanner.expect(",", f"',' or '}}' after the value of {quoted(tag)}")
    if not seen:
        raise scanner.error("the dict is empty; expected at least one utterance")
    scanner.expect("}", "'}'")
    if scanner.peek():
        raise scanner.error(f"got {scanner.excerpt()} after the closing '}}'; expected the end of the file")


def _read_entries(scanner: _Scanner, tag: str, allow_non_finite: bool) -> list[tuple[float, str]]:
    utterance = quoted(tag)
    scanner.expect("[", f"a list of (score, text) for {utterance}")
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
            score, text = _read_entry(scanner, utterance, len(entries) + 1)
        if not allow_non_finite and not score < inf:
            where = f"hypothesis {len(entries) + 1} of {utterance}"
            raise scanner.error(f"{where} has score {score}; expected a finite number (nats), or -inf: never chosen")
        entries.append((score, text))
        if match:
            scanner.position = match.end()
        elif scanner.peek() != "]":
            scanner.expect(",", f"',' or ']' after hypothesis {len(entries)} of {utterance}")


def _read_entry(scanner: _Scanner, utterance: str, rank: int) -> tuple[float, str]:
    """Read one `(score, text)` in any layout, without the comma after it."""
    where = f"hypothesis {rank} of {utterance}"
    if scanner.peek() == "]":
        raise scanner.error(f"the list of {utterance} is empty; expected at least one (score, text)")
    scanner.expect("(", f"(score, text) for {where}")
    score = scanner.number(f"a number as the score of {where}")
    scanner.expect(",", f"',' after the score of {where}")
    text = scanner.string(f"the text of {where} as a string")
    if scanner.peek() == ",":
        scanner.position += 1
    scanner.expect(")", f"')' after the text of {where}: two fields, (score, text)")
    return score, text


class _Scanner:
    """A window of the text of a file, with a position. Blanks, comments and line ends before tokens are skipped."""

    def __init__(self, path: PathLike) -> None:
        self._path = os.fspath(path)
        self._chunks = iterate_chunks(path)
        self._ended = False
        self._line = 1
        self.text = ""
        self.position = 0

    def peek(self) -> str:
        """The next character of a token, "" at the end of the file. The window is extended beyond it."""
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
        # For the end of the file, report the last line that is not empty.
        position = min(self.position, len(self.text.rstrip()))
        line = self._line + self.text.count("\n", 0, position)
        return ValueError(f"{self._path}:{line}: {message}")

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """The token at the position; the window grows until it holds the complete token."""
        while True:
            match = pattern.match(self.text, self.position)
            if self._ended or (match is not None and match.end() + _MARGIN <= len(self.text)):
                return match
            if match is None and len(self.text) - self.position > _LONGEST_TOKEN:
                return None
            self._fill()

    def _fill(self) -> None:
        """Drop the text before the position and double the rest, so that a long token takes linear time."""
        self._line += self.text.count("\n", 0, self.position)
        parts = [self.text[self.position :]]
        self.position = 0
        wanted, gained = len(parts[0]), 0
        while gained <= wanted and not self._ended:
            chunk = next(self._chunks, None)
            if chunk is None:
                self._ended = True
                chunk = "\n"  # to end a comment in the last line
            parts.append(chunk)
            gained += len(chunk)
        self.text = "".join(parts)


def _decode(prefix: str, token: str) -> str:
    if "\\" not in token and not token.startswith(("'''", '"""')):
        return token[1:-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown escape such as '\d' is kept, as in Python
        value = ast.literal_eval(prefix + token)
    assert isinstance(value, str), "the expression admits string tokens only"
    return value
