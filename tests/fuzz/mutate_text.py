"""Damage text, by lines, words and characters, and bytes of which nothing is known.

data, how = change_text(random.Random(1), b"he hoped\n")
data, how = change_bytes(random.Random(1), weights)
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Sequence

Mutation = tuple[bytes, str]
"""The damaged bytes, and what was done in words."""

# fmt: off
CHARACTERS = (
    "\r", "\n", "\r\n", "\0", "\ufeff", "\u2028", "\x0c", "\x0b", "\x85", "\t", " ", "\xa0", "'", '"', "\\", "(", ")",
    "[", "]", "{", "}", ",", ":", "#", "-", "+", ".", "é", "\U0001f600", "\ud800", "\x1b", "\x7f", "\\x", "\\u12",
    "\\N{BULLET}", "'''", '"""', "<s>", "</s>", "<unk>",
)
# fmt: on
# fmt: off
NUMBERS = (
    "nan", "-inf", "inf", "1e999", "-1e999", "1e-400", "0", "-0", "99999999999999999999", "-1", "1_0", "0x1F", "1j",
    "٣", "1e", "1.5.2", "00", "4294967296", "18446744073709551616", "2147483648", "0.1", "+3", "- 3", "True", "None",
    "9" * 5000, "1e5",
)
# fmt: on
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"\w+")


def is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content[:64]


def change_text(rng: random.Random, content: bytes, prefix: str = "") -> Mutation:
    text = content.decode("utf-8")
    name, change = rng.choice(_TEXT)
    changed = change(rng, text)
    data = changed if isinstance(changed, bytes) else changed.encode("utf-8", "surrogatepass")
    return data, prefix + name


def _lines(change: Callable[[random.Random, list[str]], list[str]]) -> Callable[[random.Random, str], str]:
    return lambda rng, text: "".join(change(rng, text.splitlines(keepends=True) or ["\n"]))


def _drop_line(rng: random.Random, lines: list[str]) -> list[str]:
    place = rng.randrange(len(lines))
    return lines[:place] + lines[place + 1 :]


def _double_line(rng: random.Random, lines: list[str]) -> list[str]:
    place = rng.randrange(len(lines))
    return lines[: place + 1] + lines[place:]


def _swap_lines(rng: random.Random, lines: list[str]) -> list[str]:
    lines = list(lines)
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def _insert(rng: random.Random, text: str, new: str) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + new + text[place:]


def _cut_out(rng: random.Random, text: str) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + text[place + rng.choice((1, 1, 2, 5, 40)) :]


def _replace_match(pattern: re.Pattern[str], choices: Sequence[str]) -> Callable[[random.Random, str], str]:
    def change(rng: random.Random, text: str) -> str:
        found = list(pattern.finditer(text[:200_000]))
        if not found:
            return text + rng.choice(choices)
        match = rng.choice(found)
        return text[: match.start()] + rng.choice(choices) + text[match.end() :]

    return change


def _swap_words(rng: random.Random, text: str) -> str:
    found = list(_WORD.finditer(text[:200_000]))
    if len(found) < 2:
        return text * 2
    one, other = sorted(rng.sample(found, 2), key=lambda match: match.start())
    between = text[one.end() : other.start()]
    return text[: one.start()] + other.group() + between + one.group() + text[other.end() :]


_TEXT: tuple[tuple[str, Callable[[random.Random, str], str | bytes]], ...] = (
    ("cut off", lambda rng, text: text[: rng.randint(0, len(text))]),
    ("begun later", lambda rng, text: text[rng.randint(0, len(text)) :]),
    ("a part cut out", _cut_out),
    ("a character put in", lambda rng, text: _insert(rng, text, rng.choice(CHARACTERS))),
    ("a character put in", lambda rng, text: _insert(rng, text, rng.choice(CHARACTERS))),
    ("a number replaced", _replace_match(_NUMBER, NUMBERS)),
    ("a number replaced", _replace_match(_NUMBER, NUMBERS)),
    ("a word replaced", _replace_match(_WORD, (*NUMBERS, *CHARACTERS, "open", "f", "b", "r", "u", "None"))),
    ("words swapped", _swap_words),
    ("a line lost", _lines(_drop_line)),
    ("a line twice", _lines(_double_line)),
    ("lines swapped", _lines(_swap_lines)),
    ("no last line end", lambda rng, text: text.rstrip("\n")),
    ("CR LF", lambda rng, text: text.replace("\n", "\r\n")),
    ("CR", lambda rng, text: text.replace("\n", "\r")),
    (
        "a very long line",
        lambda rng, text: _insert(rng, text, rng.choice("a ( [\" '#0\\") * rng.choice((3_000, 20_000, 100_000))),
    ),
    ("many empty lines", lambda rng, text: _insert(rng, text, "\n" * rng.choice((1, 2, 5000)))),
    ("twice", lambda rng, text: text + text),
    ("something behind", lambda rng, text: text + rng.choice(("x", "\n\n", "{}", "\0", "import os\n", "\x1a", "[]"))),
    (
        "something before",
        lambda rng, text: rng.choice(("\ufeff", "\n", " ", "#!x\n", "\ufeff\ufeff", "\0", "%")) + text,
    ),
    ("Latin-1", lambda rng, text: (_insert(rng, text, "é")).encode("latin-1", "replace")),
    ("UTF-16", lambda rng, text: text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32")), "surrogatepass")),
    ("quotes swapped", lambda rng, text: text.translate(str.maketrans("'\"", "\"'"))),
    ("gzip under this name", lambda rng, text: gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)),
    ("a part moved", lambda rng, text: _insert(rng, text, text[(place := rng.randint(0, len(text))) : place + 30])),
)


def change_bytes(rng: random.Random, content: bytes) -> Mutation:
    data = bytearray(content or b"\0")
    place = rng.randrange(len(data))
    kind = rng.randrange(10)
    if kind == 0:
        return bytes(data[:place]), f"cut off at byte {place}"
    if kind == 1:
        return bytes(data[place:]), f"begun at byte {place}"
    if kind in (2, 3):
        for _ in range(rng.choice((1, 1, 4, 32))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data), "bits flipped"
    if kind == 4:
        size = rng.choice((16, 512, 4096))
        start = place // size * size
        data[start : start + size] = bytes(len(data[start : start + size]))
        return bytes(data), f"zeros from byte {start}"
    if kind in (5, 6):
        field = rng.choice(
            (b"\0" * 4, b"\xff" * 4, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80", (1 << 40).to_bytes(8, "little"))
        )
        start = place // 4 * 4 if rng.random() < 0.7 else place
        data[start : start + len(field)] = field
        return bytes(data), f"another field at byte {start}"
    if kind == 7:
        start = rng.randrange(min(len(data), 200))  # headers lie in front
        data[start] = rng.randrange(256)
        return bytes(data), f"another byte {start}"
    if kind == 8:
        size = rng.choice((1, 8, 64, 1000))
        return bytes(data[:place] + data[place : place + size] + data[place:]), f"bytes from {place} twice"
    return bytes(data + rng.choice((b"\0", b"\n", bytes(data[:100]), rng.randbytes(50)))), "something behind"
