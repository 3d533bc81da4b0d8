"""One text per utterance as NIST and Kaldi write it: the interface of such formats, and TRN, CTM, STM and Kaldi's text.

    Stm().read("dev.stm")              # (utterance, text), ...
    Trn().entry("dev/1", "a b")        # "a b (dev/1)\n"

`reference_formats.REFERENCE_FORMATS` has these and those that hold N-best lists, too.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from returnn_bridge.files import PathLike, has_suffix, iterate_lines, quoted

Text = tuple[str, str]
"""(utterance, text)."""

# CTM and STM need times, but texts have none. All utterances get the same length, whatever their number of words, so
# that the words of a CTM always lie inside the segment that the STM of another text has for the utterance.
_DUMMY_SECONDS = 1000.0

_NO_PLAIN_WORD = re.compile(r".*[{}].*|@|\(.*\)", re.DOTALL)
_BLANKS = re.compile(r"\s")


class ReferenceFormat(ABC):
    """A format of references. Its objects have no state."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of file names, each also followed by .gz."""
    file_names: ClassVar[tuple[str, ...]] = ()
    """Complete file names, such as Kaldi's `text`."""

    @abstractmethod
    def read(self, path: PathLike) -> Iterator[Text]:
        """The utterances in the order of the file, each once. ValueError (file, line, utterance) for a malformed
        file."""

    def fits(self, path: PathLike) -> bool:
        """Whether a file of this name has this format."""
        return has_suffix(path, *self.suffixes) or Path(path).name.removesuffix(".gz") in self.file_names


class TranscriptFormat(ReferenceFormat):
    """A format that can also be written, one utterance at a time."""

    opening: ClassVar[str] = ""
    closing: ClassVar[str] = ""
    """Text before the first utterance (`opening`) and after the last one (`closing`)."""
    sorted_by_tag: ClassVar[bool] = False
    """Whether utterances are sorted by tag. sclite needs the same order in CTM and STM."""

    @abstractmethod
    def entry(self, tag: str, text: str) -> str:
        """One utterance as lines, with line ends."""

    def refuses_tag(self, tag: str) -> bool:
        """Whether the format can not represent this utterance name."""
        return not tag or _BLANKS.search(tag) is not None

    def refuses_word(self, word: str, position: int) -> bool:
        """Whether a word has a special meaning in the format, so that it would be scored wrongly. `position`: from
        0."""
        return False


class Trn(TranscriptFormat):
    """NIST's TRN: `words (utterance)`."""

    name, suffixes = "trn", (".trn",)

    def read(self, path: PathLike) -> Iterator[Text]:
        return _iterate_utterances(path, self._parse)

    def entry(self, tag: str, text: str) -> str:
        return " ".join([*text.split(), f"({tag})"]) + "\n"

    def refuses_tag(self, tag: str) -> bool:
        return not tag or re.search(r"[\s()]", tag) is not None

    def refuses_word(self, word: str, position: int) -> bool:
        comment = position == 0 and word.startswith(";;")
        return comment or _NO_PLAIN_WORD.fullmatch(word) is not None

    @staticmethod
    def _parse(line: str) -> Text | None:
        if line.startswith(";;"):
            return None
        text, bracket, tag = line.rstrip(" \t").removesuffix(")").rpartition("(")
        if not (bracket and line.rstrip(" \t").endswith(")") and tag) or re.search(r"[)\s]", tag):
            raise ValueError("the words and the utterance id in parentheses")
        if "{" in text.split():
            raise ValueError("plain words; alternatives { a / b } are not read")
        return tag, text.strip(" \t")


class Ctm(TranscriptFormat):
    """NIST's CTM: `utterance channel begin duration word [confidence]`, one word per line. It can not hold an empty
    utterance."""

    name, suffixes = "ctm", (".ctm",)
    sorted_by_tag = True

    def read(self, path: PathLike) -> Iterator[Text]:
        words: dict[str, list[str]] = {}
        last: dict[str, tuple[str, float]] = {}
        for number, line in iterate_lines(path):
            if line.startswith(";;") or not line.strip():
                continue
            where = f"{os.fspath(path)}:{number}"
            fields = line.split()
            if len(fields) not in (5, 6) or not (_is_time(fields[2]) and _is_time(fields[3])):
                raise ValueError(f"{where}: got {line[:40]!r}; expected utterance, channel, begin, duration, word")
            tag, channel, begin, word = fields[0], fields[1], float(fields[2]), fields[4]
            if self.refuses_word(word, 0):
                raise ValueError(
                    f"{where}: got the word {quoted(word)} of {quoted(tag)}; expected plain words, no alternatives"
                )
            last_channel, last_begin = last.get(tag, (channel, begin))
            if channel != last_channel or begin < last_begin:
                raise ValueError(
                    f"{where}: {quoted(word)} of {quoted(tag)} is not in order; expected one channel, by rising times"
                )
            last[tag] = (channel, begin)
            words.setdefault(tag, []).append(word)
        yield from ((tag, " ".join(found)) for tag, found in words.items())

    def entry(self, tag: str, text: str) -> str:
        words = text.split()
        step = _DUMMY_SECONDS / max(1, len(words))
        return "".join(f"{tag} 1 {index * step:.3f} {step:.3f} {word} 1.0\n" for index, word in enumerate(words))

    def refuses_tag(self, tag: str) -> bool:
        return super().refuses_tag(tag) or tag.startswith(";;")

    def refuses_word(self, word: str, position: int) -> bool:
        return re.fullmatch(r"@|<ALT(_BEGIN|_END)?>", word, re.IGNORECASE) is not None


class Stm(TranscriptFormat):
    """NIST's STM: `utterance channel speaker begin end [<label>] words`, with one segment per utterance."""

    name, suffixes = "stm", (".stm",)
    sorted_by_tag = True

    def read(self, path: PathLike) -> Iterator[Text]:
        return _iterate_utterances(path, self._parse)

    def entry(self, tag: str, text: str) -> str:
        return " ".join([f"{tag} 1 {tag} 0.000 {_DUMMY_SECONDS:.3f} <o,F0>", *text.split()]) + "\n"

    def refuses_tag(self, tag: str) -> bool:
        return super().refuses_tag(tag) or tag.startswith(";;")

    def refuses_word(self, word: str, position: int) -> bool:
        return _NO_PLAIN_WORD.fullmatch(word) is not None

    def _parse(self, line: str) -> Text | None:
        if line.startswith(";;"):
            return None
        fields = line.split()
        if len(fields) < 5 or not (_is_time(fields[3]) and _is_time(fields[4])):
            raise ValueError("utterance, channel, speaker, begin, end, the words")
        words = fields[5:]
        if words and re.fullmatch(r"<.*>", words[0]):
            words = words[1:]
        if "IGNORE_TIME_SEGMENT_IN_SCORING" in map(str.upper, words):
            raise ValueError("segments that are scored; take ignored ones out of references and lists")
        if odd := [word for word in words if self.refuses_word(word, 0)]:
            raise ValueError(f"plain words, and {quoted(odd[0])} is none to sclite")
        return fields[0], " ".join(words)


class KaldiText(TranscriptFormat):
    """Kaldi's `text`: the utterance, a blank, the words; also LibriSpeech's `*.trans.txt`."""

    name, suffixes, file_names = "kaldi", (".txt",), ("text",)

    def read(self, path: PathLike) -> Iterator[Text]:
        return _iterate_utterances(path, self._parse)

    def entry(self, tag: str, text: str) -> str:
        return " ".join([tag, *text.split()]) + "\n"

    @staticmethod
    def _parse(line: str) -> Text:
        tag, *rest = re.split("[ \t]+", line.rstrip(" \t"), maxsplit=1)
        if not tag:
            raise ValueError("an utterance id, a blank and the words")
        return tag, "".join(rest)


def _iterate_utterances(path: PathLike, parse: Callable[[str], Text | None]) -> Iterator[Text]:
    """The utterances of a file with one per line. `parse` splits a line; it returns None for a comment, and raises a
    ValueError with the expected syntax."""
    seen: set[str] = set()
    for number, line in iterate_lines(path):
        where = f"{os.fspath(path)}:{number}"
        try:
            parsed = parse(line)
        except ValueError as error:
            raise ValueError(f"{where}: got {line[:40]!r}; expected {error}") from None
        if parsed is None:
            continue
        tag, text = parsed
        if tag in seen:
            raise ValueError(f"{where}: utterance {quoted(tag)} is given twice; expected each utterance once")
        seen.add(tag)
        yield tag, text


def _is_time(text: str) -> bool:
    """Whether a field is a number of seconds."""
    return re.fullmatch(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", text) is not None
