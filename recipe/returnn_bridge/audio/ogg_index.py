r"""The index of an OggZip, a Python list of dicts, checked before RETURNN reads it.

    check_index(b"[{'text': 'it\\'s', 'duration': 1.5, 'seq_name': 'u1'}]", "dev.zip: dev.txt")

RETURNN's reader is written in C++. A number that it cannot hold ends the process, and it takes text that is no Python.
What passes here means the same to Python and to that reader: a list of dicts of strings, decimal numbers and None.
"""

from __future__ import annotations

import ast
import re

from returnn_bridge.files import one_line

_BLANK = r"[ \t\r\n\f]*"
# The escapes that the C++ reader knows; code points are those that UTF-8 has.
_ESCAPE = r"\\(?:[rtn\\'\"]|x[0-9a-f]{2}|u(?!d[89a-f])[0-9a-f]{4}|U(?!0000d[89a-f])(?:0010|000[0-9a-f])[0-9a-f]{4})"
_STRING = rf"(?:'[^'\\\r\n\0]*(?:{_ESCAPE}[^'\\\r\n\0]*)*'|\"[^\"\\\r\n\0]*(?:{_ESCAPE}[^\"\\\r\n\0]*)*\")"
_NUMBER = r"-?(?:[0-9]{1,15}\.[0-9]{0,40}|(?:0|[1-9][0-9]{0,8})(?![0-9.]))"
_VALUE = rf"(?:{_STRING}|{_NUMBER}|None)"
_PAIR = re.compile(rf"({_STRING}){_BLANK}:{_BLANK}({_VALUE})")
_BARE_PAIR = rf"{_STRING}{_BLANK}:{_BLANK}{_VALUE}"
_ENTRY = re.compile(
    rf"{_BLANK}\{{{_BLANK}{_BARE_PAIR}{_BLANK}(?:,{_BLANK}{_BARE_PAIR}{_BLANK})*(?:,{_BLANK})?\}}{_BLANK}"
)
_BEGIN, _END = re.compile(rf"{_BLANK}\["), re.compile(rf"{_BLANK}\]{_BLANK}")
_EXPECTED = "expected [{'text': ..., 'duration': seconds, 'seq_name': ...}, ...] of strings, decimal numbers and None"


def check_index(content: bytes, where: str) -> None:
    """ValueError with `where` and line, unless the index is one that RETURNN reads as Python does.

    Every entry must have a text, a duration with a decimal point, and a tag (seq_name, or else file) of its own.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{where}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; expected UTF-8 text"
        ) from None
    begin = _BEGIN.match(text)
    position = begin.end() if begin else 0
    tags: set[str] = set()
    while begin:
        entry = _ENTRY.match(text, position)
        if entry is None:
            break
        try:
            tag = _tag_of(_PAIR.findall(text, position, entry.end()))
            if tag in tags:
                raise ValueError(f"utterance {tag[:80]!r} comes a second time; expected every tag once")
        except ValueError as error:
            raise ValueError(f"{where}:{_line(text, entry.end())}: {error}") from None
        tags.add(tag)
        position = entry.end()
        if text[position : position + 1] != ",":
            break
        position += 1
    end = _END.match(text, position)
    if not tags or end is None or end.end() < len(text):
        stripped = position + len(text[position:]) - len(text[position:].lstrip())
        got = repr(text[stripped : stripped + 24]) if stripped < len(text) else "the end"
        raise ValueError(f"{where}:{_line(text, stripped)}: got {got}; {_EXPECTED}")


def _tag_of(pairs: list[tuple[str, str]]) -> str:
    """The tag of an entry. ValueError for an entry that is not complete."""
    entry = {_decoded(key): value for key, value in pairs}
    if len(entry) < len(pairs):
        raise ValueError("an entry with the same key twice; expected every key once")
    text, duration, tag = (entry.get(key, "") for key in ("text", "duration", "seq_name"))
    tag = tag or entry.get("file", "")
    if not (_is_string(text) and _is_string(tag)) or _is_string(duration) or "." not in duration:
        raise ValueError(f"an entry with the keys {one_line(', '.join(entry), 80)}; {_EXPECTED}")
    return _decoded(tag)


def _is_string(token: str) -> bool:
    return token[:1] in ("'", '"')


def _decoded(token: str) -> str:
    return str(ast.literal_eval(token)) if "\\" in token else token[1:-1]


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
