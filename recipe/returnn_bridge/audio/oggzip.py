"""Build the zip files of RETURNN's OggZipDataset, with transcripts and optional audio.

    transcripts = read_transcripts("train.trans.txt.gz")                        # lines `utterance-id TEXT`
    entries = [Entry(tag, text, f"flac/{tag}.flac") for tag, text in transcripts.items()]
    build_ogg_zip("dev.zip", entries)
    build_folder_ogg_zip("flac", "train.trans.txt.gz", "dev.zip")               # the same for all audio of a folder
    opts = ogg_zip_dataset_dict(["dev.zip"], "vocab")

Layout of a zip named NAME.zip: `NAME.txt` holds the repr of a list of dicts (text, duration in seconds, file,
seq_name), and the audio is in the folder `NAME/`. RETURNN derives NAME from the name of the zip file, so do not rename
it. The comment of the zip holds the number of utterances and the sha256 of the index.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from returnn_bridge.audio.ogg import as_ogg
from returnn_bridge.audio.ogg_index import check_index
from returnn_bridge.files import iterate_bytes, iterate_lines, quoted, whole_file

AUDIO = (".flac", ".wav", ".ogg")
_TIME = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp, so that equal entries give equal bytes
_SECONDS_PER_WORD = 0.4  # estimates the duration of an utterance without audio, by which RETURNN sorts

_HEAD = b"[\n{'text': "  # first bytes of an index that this module writes
_COMMENT = b"OggZip: "

# What the zip module raises for damaged files: an error for each way of packing, and RuntimeError for encrypted ones.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


@dataclass(frozen=True)
class Entry:
    """One utterance."""

    seq_tag: str
    text: str
    audio: str | os.PathLike[str] | None = None
    """Audio file that soundfile can read (.flac, .wav, .ogg); None for text only."""
    start: float = 0.0
    """Where the utterance begins in the audio, in seconds."""
    end: float | None = None
    """Where the utterance ends in the audio, in seconds; None is the end of the audio."""


def build_ogg_zip(out_zip: str | os.PathLike[str], entries: Iterable[Entry]) -> int:
    """Write `out_zip` atomically and return the number of utterances.

    Complete Ogg Vorbis files are copied; other audio and parts of files are encoded to Ogg Vorbis at the original
    sampling rate. The duration in seconds is that of the audio, or without audio end - start, or else 0.4 s per word.

    FileNotFoundError for missing audio. ValueError for audio that cannot be read, is empty or ends before the
    utterance, a repeated tag, an empty text, no entries, a name that does not end in .zip, and an existing file that is
    not an OggZip.
    """
    target = Path(out_zip)
    if target.suffix != ".zip":
        raise ValueError(f"{target}: expected a name that ends in .zip, RETURNN goes by it")
    utterances = list(entries)
    _check_replaceable(target)
    _check(target, utterances)
    with whole_file(target) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            index = ",\n".join(repr(_add(archive, target.stem, entry)) for entry in utterances)
            content = f"[\n{index}\n]\n".encode("utf-8", "surrogatepass")
            check_index(content, os.fspath(target))
            _write(archive, f"{target.stem}.txt", content, zipfile.ZIP_DEFLATED)
            archive.comment = _COMMENT + b"%d utterances, index %s" % (len(utterances), _digest(content))
        _check_replaceable(target)
    return len(utterances)


def build_folder_ogg_zip(
    audio: str | os.PathLike[str],
    transcripts: str | os.PathLike[str],
    out_zip: str | os.PathLike[str],
    *,
    lower: bool = False,
) -> tuple[int, int]:
    """Write an OggZip of all .flac, .wav and .ogg files (suffix in any case) in and below a folder, named by utterance.

    Returns the number of utterances and the number of transcripts without audio, which are skipped. ValueError for two
    files of one utterance, a file without transcript and a folder without audio; else as in `build_ogg_zip`.
    """
    files: dict[str, Path] = {}
    for path in sorted(Path(audio).rglob("*")):
        if path.suffix.lower() in AUDIO and path.is_file():
            if path.stem in files:
                raise ValueError(
                    f"{path}: utterance {path.stem!r} is {files[path.stem]} too; expected one file for each"
                )
            files[path.stem] = path
    if not files:
        raise ValueError(f"{os.fspath(audio)}: no .flac, .wav or .ogg file; expected a folder of audio")
    texts = read_transcripts(transcripts)
    for tag, path in files.items():
        if tag not in texts:
            raise ValueError(
                f"{os.fspath(transcripts)}: no transcript of {tag!r} ({path}); expected one for each audio file"
            )
    entries = [Entry(tag, texts[tag].lower() if lower else texts[tag], path) for tag, path in files.items()]
    count = build_ogg_zip(out_zip, entries)
    return count, len(texts) - count


def is_ogg_zip(path: Path) -> bool:
    """Whether the path is a zip as `build_ogg_zip` writes it, with or without the comment."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{path.stem}.txt") as index:
            return index.read(len(_HEAD)) == _HEAD
    except (KeyError, *_UNREADABLE):
        return False


def check_ogg_zips(
    paths: Sequence[str], content_name: str | Sequence[str] | None = None, *, resolve_symlinks: bool = False
) -> None:
    """Check what an OggZipDataset with these options would read; the parameters are those of RETURNN.

    An index may be a file of its own, NAME.txt.gz among the paths. ValueError for paths that are neither, and as in
    `check_ogg_zip`.
    """
    names = [content_name] * len(paths) if isinstance(content_name, str) else list(content_name or paths)
    if len(names) != len(paths):
        raise ValueError(f"{len(names)} content names for {len(paths)} files; expected one for each")
    zips, separate = {}, {}
    for path, name in zip(paths, names):
        real = os.path.realpath(path) if resolve_symlinks else path
        kind = next((suffix for suffix in (".zip", ".txt.gz") if real.endswith(suffix)), None)
        if kind is None:
            raise ValueError(f"{path}: expected an OggZip NAME.zip, or its index NAME.txt.gz")
        index = name if content_name else os.path.basename(real).removesuffix(kind)
        if kind == ".zip":
            zips[path] = index
        else:
            separate[index] = path
    if not zips:
        raise ValueError(f"{', '.join(paths)}: an index only; expected its zip as well")
    for path in separate.values():
        check_index(b"".join(iterate_bytes(path)), path)
    for path, name in zips.items():
        check_ogg_zip(path, None if name in separate else name)


def check_ogg_zip(path: str | os.PathLike[str], name: str | None = "") -> None:
    """ValueError for a zip that is damaged, lacks its index, or whose index RETURNN cannot read or is not that of the
    comment.

    name: of the index without .txt; by default that of the zip, and None if the index is not in the zip.
    """
    file = Path(path)
    name = file.stem if name == "" else name
    content = b""
    try:
        with zipfile.ZipFile(file) as archive:
            comment = archive.comment
            if name is not None:
                content = archive.read(f"{name}.txt")
    except KeyError:
        raise ValueError(
            f"{file}: no index {name}.txt in it; expected an OggZip under the name it was built with"
        ) from None
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.filename is not None:  # the file could not be opened
            raise
        raise ValueError(f"{file}: not a zip that can be read ({error}); expected a whole OggZip") from None
    if name is None:
        return
    if comment.startswith(_COMMENT) and not comment.endswith(_digest(content)):
        raise ValueError(f"{file}: another index than it was built with; expected the zip as `dlm oggzip` wrote it")
    check_index(content, f"{file}: {name}.txt")


def read_transcripts(path: str | os.PathLike[str]) -> dict[str, str]:
    """{utterance id: text} of a file (plain or .gz) with lines `utterance-id TEXT` (Kaldi, LibriSpeech), in file order.

    Empty lines are skipped. ValueError with file:line for an id without text, a repeated id, text that is not UTF-8 and
    a broken .gz, and with the file if it has no transcript.
    """
    name = os.fspath(path)
    transcripts: dict[str, str] = {}
    number = 0
    for number, line in iterate_lines(name):
        tag, *rest = line.split(maxsplit=1) or [""]
        if not tag:
            continue
        if not rest:
            raise ValueError(f"{name}:{number}: utterance {quoted(tag)} has no text; expected `utterance-id TEXT`")
        if tag in transcripts:
            raise ValueError(f"{name}:{number}: utterance {quoted(tag)} comes a second time; expected every id once")
        transcripts[tag] = rest[0].strip()
    if not transcripts:
        raise ValueError(f"{name}: no transcripts in {number} lines; expected lines `utterance-id TEXT`")
    return transcripts


def _check_replaceable(target: Path) -> None:
    if (target.exists() or target.is_symlink()) and not is_ogg_zip(target):
        raise ValueError(
            f"{target}: exists and is no OggZip of that name; expected a new name, or an OggZip to replace"
        )


def _check(target: Path, entries: list[Entry]) -> None:
    """Check all entries before anything is encoded, so that an error in the last one does not cost an hour."""
    if not entries:
        raise ValueError(f"{target}: no utterances to write; expected at least one")
    tags: set[str] = set()
    for entry in entries:
        if not entry.seq_tag.strip():
            raise ValueError(f"{target}: an utterance with the text {entry.text[:40]!r} has no id; expected one")
        if entry.seq_tag in tags:
            raise ValueError(f"{target}: utterance {entry.seq_tag!r} comes a second time; expected every id once")
        tags.add(entry.seq_tag)
        if not entry.text.strip():
            raise ValueError(f"{target}: utterance {entry.seq_tag!r} has no text; expected a transcript")
        if entry.audio is not None and not os.path.isfile(entry.audio):
            raise FileNotFoundError(f"{os.fspath(entry.audio)}: no such audio file (utterance {entry.seq_tag!r})")


def _add(archive: zipfile.ZipFile, name: str, entry: Entry) -> dict[str, Any]:
    """Add the audio of an entry to the zip and return its entry of the index."""
    described: dict[str, Any] = {"text": entry.text, "seq_name": entry.seq_tag}
    if entry.audio is None:
        # RETURNN needs a float here, and treats an entry without "file" as text only.
        given = None if entry.end is None else entry.end - entry.start
        duration = round(_SECONDS_PER_WORD * len(entry.text.split()), 3) if given is None else given
        return {**described, "duration": duration}
    try:
        data, duration = as_ogg(entry.audio, start=entry.start, end=entry.end)
    except ValueError as error:
        raise ValueError(f"{error}; utterance {entry.seq_tag!r}") from None
    file = f"{entry.seq_tag}.ogg"
    _write(archive, f"{name}/{file}", data, zipfile.ZIP_STORED)
    return {**described, "file": file, "duration": duration}


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _write(archive: zipfile.ZipFile, name: str, data: bytes, compression: int) -> None:
    info = zipfile.ZipInfo(name, date_time=_TIME)
    info.compress_type = compression
    info.external_attr = 0o644 << 16
    archive.writestr(info, data)
