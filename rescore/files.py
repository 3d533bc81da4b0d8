"""Text files in and out: .gz by suffix, UTF-8 checked, the line known in every error, outputs written whole.

for number, line in iterate_lines("hyps.jsonl.gz"): ...
for chunk in iterate_chunks("hyps.py.gz"): ...            # decoded text in pieces, constant memory
with write_whole("out.py.gz") as write:                   # nothing is at the final name before the block ends well
    write("text")
"""

from __future__ import annotations

import codecs
import gzip
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO, cast

PathLike = str | os.PathLike[str]

_CHUNK_BYTES = 1 << 18
_BYTE_ORDER_MARK = codecs.BOM_UTF8


def has_suffix(path: PathLike, *suffixes: str) -> bool:
    """True if the file name ends in one of the suffixes, alone or followed by ".gz"."""
    name = os.fspath(path).lower().removesuffix(".gz")
    return name.endswith(suffixes)


def iterate_chunks(path: PathLike) -> Iterator[str]:
    """The text of a file in pieces of about 256 K characters, line ends as they are, a byte order mark left out.

    ValueError naming the line for broken or truncated gzip data and for bytes that are not UTF-8; OSError as from
    `open`.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    for data in _iterate_bytes(path):
        try:
            chunk = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _encoding_error(path, line + error.object[: error.start].count(b"\n"), error) from None
        line += chunk.count("\n")
        yield chunk


def iterate_lines(path: PathLike) -> Iterator[tuple[int, str]]:
    r"""(line number from 1, line without its "\n" or "\r\n") of every line; errors as in `iterate_chunks`.

    Only "\n" ends a line: form feeds, U+2028 and their like may stand inside a hypothesis.
    """
    line, rest = 0, b""
    for data in _iterate_bytes(path):
        pieces = data.split(b"\n")
        if data:
            pieces[0] = rest + pieces[0]
            rest = pieces.pop()
        else:
            pieces = [rest] if rest else []
        for piece in pieces:
            line += 1
            if line == 1:
                piece = piece.removeprefix(_BYTE_ORDER_MARK)
            try:
                yield line, piece.removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise _encoding_error(path, line, error) from None


@contextmanager
def write_whole(path: PathLike) -> Iterator[Callable[[str], object]]:
    """Open a text file for writing (UTF-8, gzip if named .gz); it gets its name only when the block ends well.

    Yields a function that takes text. The bytes depend on the text alone (no time stamp in the gzip header).
    """
    target = os.fspath(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    # Not tempfile: its files are for the owner only, ours get the rights that the umask gives.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as raw:
            with _packed(raw) if target.endswith(".gz") else nullcontext(raw) as stream:
                yield lambda text: stream.write(text.encode("utf-8"))
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _packed(raw: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)


def _iterate_bytes(path: PathLike) -> Iterator[bytes]:
    """The unpacked bytes in pieces; the last piece, and only it, is empty."""
    newlines = 0
    with open(path, "rb") as raw:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if os.fspath(path).endswith(".gz") else raw
        data = b"start"
        while data:
            try:
                data = stream.read(_CHUNK_BYTES)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                reason = str(error).rstrip(".") or type(error).__name__
                raise ValueError(
                    f"{os.fspath(path)}:{newlines + 1}: broken gzip data ({reason}); expected a complete gzip file"
                ) from None
            newlines += data.count(b"\n")
            yield data


def _encoding_error(path: PathLike, line: int, error: UnicodeDecodeError) -> ValueError:
    byte = error.object[error.start]
    hint = " (gzip data? then name it .gz)" if byte == 0x8B and line == 1 and error.start == 1 else ""
    return ValueError(f"{os.fspath(path)}:{line}: byte 0x{byte:02x} is not UTF-8{hint}; expected UTF-8 text")
