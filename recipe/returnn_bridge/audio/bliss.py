"""Reads Bliss corpora (the XML of RASR and i6 setups) and writes their texts as lines, references or an OggZip.

    for segment in read_bliss("dev-other.xml.gz"):
        segment.seq_tag, segment.text, segment.audio       # "dev-other/116-288045-0000/116-288045-0000"
    write_bliss_text("train.xml.gz", "train.txt.gz")        # a sentence a line, for LmDataset and SentencePiece
    write_bliss_text("dev.xml.gz", "dev.ref.py.gz")         # {seq_tag: text}, references by segment
    build_bliss_ogg_zip("dev.xml.gz", "dev.zip")            # for OggZipDataset

A tag is the segment's name in RETURNN and RASR: the names of corpus, recording and segment, joined by slashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import cast
from xml.etree import ElementTree

from returnn_bridge.audio.oggzip import Entry, build_ogg_zip
from returnn_bridge.files import iterate_bytes, write_whole

_NAMED = ("corpus", "subcorpus", "recording", "segment")
_PARENTS = {
    "corpus": ("",),
    "subcorpus": ("corpus", "subcorpus"),
    "recording": ("corpus", "subcorpus"),
    "segment": ("recording",),
    "orth": ("segment",),
}
"""What each element may stand in; "" is the file. Elsewhere a text would be lost or belong to two segments."""


@dataclass(frozen=True)
class Segment:
    """A part of a recording with its transcript."""

    seq_tag: str
    text: str
    """Words separated by single blanks."""
    audio: str
    """Audio file, relative paths resolved against the folder of the corpus file; "" where the corpus names none."""
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; None is the end of the recording."""


def read_bliss(path: str | os.PathLike[str]) -> Iterator[Segment]:
    """The segments of a corpus file (plain or .gz), in order.

    ValueError with file and segment for incomplete XML, an element in a wrong place, an unnamed one, a repeated tag,
    times other than 0 <= start < end, and a corpus without segments. `<include>` is refused: pass the included files
    one by one.
    """
    name = os.fspath(path)
    names: list[str] = []
    kinds = [""]  # of the elements that are open
    audio, number = "", 0
    seen: set[str] = set()
    try:
        for event, element in _events(name):
            kind = element.tag
            if event == "start":
                if kind in _PARENTS and kinds[-1] not in _PARENTS[kind]:
                    expected = " or ".join(f"<{parent}>" for parent in _PARENTS[kind] if parent) or "no other element"
                    where = f"in <{kinds[-1][:80]}> of {'/'.join(names)[:200]!r}" if kinds[-1] else "on its own"
                    raise ValueError(f"{name}: <{kind}> {where}; expected it in {expected}")
                kinds.append(kind)
                if kind == "recording":
                    audio, number = _located(name, element.get("audio", "")), 0
                number += kind == "segment"
                if kind in _NAMED:
                    element_name = element.get("name") or (str(number) if kind == "segment" else "")
                    if not element_name:
                        raise ValueError(f"{name}: <{kind}> without a name; expected the attribute 'name'")
                    names.append(element_name)
                elif kind == "include":
                    raise ValueError(
                        f"{name}: <include {element.get('file')!r}>;"
                        " expected a corpus in one file, or the included files"
                    )
                continue
            kinds.pop()
            if kind == "segment":
                segment = _segment(name, "/".join(names), element, audio)
                if segment.seq_tag in seen:
                    raise ValueError(f"{name}: two segments are named {segment.seq_tag!r}; expected different names")
                seen.add(segment.seq_tag)
                yield segment
            if kind in _NAMED:
                names.pop()
                element.clear()  # keeps memory constant: a training corpus has hundreds of thousands of segments
    except ElementTree.ParseError as error:
        raise ValueError(
            f"{name}:{error.position[0]}: {str(error).split(':')[0]}; expected a Bliss corpus, complete XML"
        ) from None
    if not seen:
        raise ValueError(f"{name}: no segments; expected a Bliss corpus with at least one")


def _events(path: str) -> Iterator[tuple[str, ElementTree.Element]]:
    """(event, element) for each start and end of an element. The encoding is taken from the XML declaration."""
    parser: ElementTree.XMLPullParser[ElementTree.Element] = ElementTree.XMLPullParser(("start", "end"))
    for data in iterate_bytes(path):
        try:
            if data:
                parser.feed(data)
            else:
                parser.close()
        except LookupError as error:
            raise ValueError(f"{path}:1: {' '.join(str(error).split())}; expected a known encoding") from None
        yield from cast(Iterator[tuple[str, ElementTree.Element]], parser.read_events())


def build_bliss_ogg_zip(
    path: str | os.PathLike[str], out_zip: str | os.PathLike[str], *, with_audio: bool = True, lower: bool = False
) -> int:
    """Write an OggZip of all segments of a corpus and return their number.

    with_audio: cut each segment out of its recording; otherwise only text and duration are stored.
    ValueError for a segment without audio if `with_audio`, and as in `read_bliss` and `build_ogg_zip`.
    """
    entries = []
    for segment in read_bliss(path):
        if with_audio and not segment.audio:
            raise ValueError(
                f"{os.fspath(path)}: segment {segment.seq_tag!r} has no audio; expected some, or text only"
            )
        text = segment.text.lower() if lower else segment.text
        audio = segment.audio if with_audio else None
        entries.append(Entry(segment.seq_tag, text, audio, start=segment.start, end=segment.end))
    return build_ogg_zip(out_zip, entries)


def write_bliss_text(path: str | os.PathLike[str], out: str | os.PathLike[str], *, lower: bool = False) -> int:
    """Write the texts of a corpus atomically and return their number.

    `out` named .py or .py.gz gets `{seq_tag: text}`, any other name one text per line. ValueError for an empty text
    among lines (it would be lost there; a .py keeps it) and for an `out` that is the corpus itself.
    """
    target = Path(out)
    if target.exists() and target.samefile(path):
        raise ValueError(f"{target}: is the corpus itself; expected another name for its text")
    tagged = target.name.removesuffix(".gz").endswith(".py")
    count = 0
    with write_whole(target) as write:
        write("{\n" if tagged else "")
        for segment in read_bliss(path):
            text = segment.text.lower() if lower else segment.text
            if not tagged and not text:
                raise ValueError(f"{os.fspath(path)}: segment {segment.seq_tag!r} has no text; expected a transcript")
            write(f"{segment.seq_tag!r}: {text!r},\n" if tagged else f"{text}\n")
            count += 1
        write("}\n" if tagged else "")
    return count


def _segment(path: str, tag: str, element: ElementTree.Element, audio: str) -> Segment:
    times = {}
    for key, usual in (("start", "0"), ("end", "inf")):
        try:
            times[key] = float(element.get(key, usual))
        except ValueError:
            times[key] = float("nan")
    if not 0 <= times["start"] < times["end"] or not isfinite(times["start"]):
        got = " and ".join(f"{key} {element.get(key, 'none')[:80]!r}" for key in times)
        raise ValueError(f"{path}: segment {tag[:200]!r} has {got}; expected 0 <= start < end in seconds")
    end = times["end"] if isfinite(times["end"]) else None
    text = " ".join("".join(orth.itertext()) for orth in element.findall("orth"))
    return Segment(tag, " ".join(text.split()), audio, times["start"], end)


def _located(corpus: str, audio: str) -> str:
    return os.path.join(os.path.dirname(corpus), audio) if audio else ""
