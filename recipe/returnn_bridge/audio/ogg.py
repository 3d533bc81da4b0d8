"""Audio as Ogg Vorbis: complete Ogg files are copied, other audio and parts of files are encoded.

    data, duration = as_ogg("a.flac")                            # bytes of an Ogg file; seconds
    data, duration = as_ogg("a.flac", start=0.5, end=2.0)

A file is not believed: the header is checked before anything is read, audio is decoded and encoded in blocks, and what
was decoded must be as long as the header says. The encoder ends the process for a sampling rate or a number of channels
that it does not have.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

MOST_HERTZ, MOST_CHANNELS = 200_000, 255  # of libvorbis
_BLOCK = 1 << 20  # frames encoded at once: libvorbis puts them on the stack, where 2^21 have no place
_SLACK = 0.1  # seconds by which a segment may end after its audio, because corpus times are rounded
_MIRRORED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_LAST = 4  # flag of the last page of a stream


def as_ogg(path: str | os.PathLike[str], *, start: float = 0.0, end: float | None = None) -> tuple[bytes, float]:
    """Ogg Vorbis bytes of a file from `start` to `end` (None: its end), and their duration, all in seconds.

    ValueError for audio that cannot be read, is empty, ends before `end`, has fewer frames than its header says, or has
    a sampling rate or number of channels that Vorbis does not have, and for an Ogg file with a damaged or missing page.
    """
    import soundfile

    name = os.fspath(path)
    try:
        with soundfile.SoundFile(name) as audio:
            rate = audio.samplerate
            if not (1 <= rate <= MOST_HERTZ and 1 <= audio.channels <= MOST_CHANNELS):
                raise ValueError(
                    f"{name}: {rate} Hz and {audio.channels} channels; expected 1 to {MOST_HERTZ} Hz and 1 to"
                    f" {MOST_CHANNELS} channels"
                )
            first = min(round(start * rate), audio.frames)
            last = audio.frames if end is None else min(round(end * rate), audio.frames)
            if last <= first or (end is not None and end * rate > last + _SLACK * rate):
                raise ValueError(f"{name}: audio of length " + (f"{last / rate:.2f} s" if last else "0"))
            if audio.format == "OGG" and audio.subtype == "VORBIS" and last - first == audio.frames:
                data = Path(name).read_bytes()
                _check_pages(data, name)
            else:
                if first:
                    audio.seek(first)
                data = _with_serial(_encoded(audio, last - first, name))
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name}: not readable as audio ({error.error_string})") from None
    return data, (last - first) / rate


def _encoded(audio: Any, frames: int, name: str) -> bytes:
    """The next frames as an Ogg file. Audio of up to `_BLOCK` frames is encoded as in one piece."""
    import soundfile

    buffer, left = io.BytesIO(), frames
    form = {"samplerate": audio.samplerate, "channels": audio.channels, "format": "OGG", "subtype": "VORBIS"}
    with soundfile.SoundFile(buffer, "w", **form) as out:
        while left:
            samples = audio.read(min(left, max(1, min(_BLOCK, 4 * _BLOCK // audio.channels))), dtype="float32")
            if not len(samples):
                raise ValueError(f"{name}: ends {left} frames before its header says; expected complete audio")
            out.write(samples)
            left -= len(samples)
    return buffer.getvalue()


def _pages(ogg: bytes) -> list[bytes]:
    """The pages, RFC 3533 section 6. ValueError if the bytes are no sequence of whole pages."""
    pages, start = [], 0
    while start < len(ogg):
        header = start + 27
        if ogg[start : start + 4] != b"OggS" or header > len(ogg):
            raise ValueError(f"no Ogg page at byte {start}")
        end = header + ogg[header - 1] + sum(ogg[header : header + ogg[header - 1]])
        if end > len(ogg):
            raise ValueError(f"an incomplete Ogg page at byte {start}")
        pages.append(ogg[start:end])
        start = end
    return pages


def _check_pages(ogg: bytes, name: str) -> None:
    """ValueError if a page is damaged, one is missing, or the last one is not the end of the stream."""
    numbers: dict[bytes, int] = {}
    flags = 0
    try:
        for page in _pages(ogg):
            if page != _with_checksum(bytearray(page)):
                raise ValueError("a page with another checksum")
            serial, number, flags = page[14:18], int.from_bytes(page[18:22], "little"), page[5]
            if number != numbers.get(serial, -1) + 1:
                raise ValueError(f"page {number} after page {numbers.get(serial, -1)}")
            numbers[serial] = number
        if not flags & _LAST:
            raise ValueError("no last page")
    except ValueError as error:
        raise ValueError(f"{name}: {error}; expected a complete Ogg file") from None


def _with_serial(ogg: bytes) -> bytes:
    """The stream with serial number 1. The encoder takes one from the clock, so no two runs would be equal."""
    pages = []
    for page in map(bytearray, _pages(ogg)):
        page[14:18] = (1).to_bytes(4, "little")
        pages.append(_with_checksum(page))
    return b"".join(pages)


def _with_checksum(page: bytearray) -> bytes:
    """A page with its checksum: zlib's CRC-32 polynomial, but initial value 0, no inversion, and the high bit of each
    byte first."""
    page[22:26] = bytes(4)
    crc = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    page[22:26] = int(f"{crc:032b}"[::-1], 2).to_bytes(4, "little")
    return bytes(page)
