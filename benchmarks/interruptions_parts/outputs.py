"""Compares the files that a command left in a folder with those of an undisturbed run.

    expected = Snapshot.of(folder)
    differences(expected, Snapshot.of(other), command)      # one line per difference
    half_written(folder, expected, command)                 # for an interrupted run

`SET_ASIDE` lists everything that may differ, with reasons.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from interruptions_parts.commands import Command

HIDDEN = re.compile(r"(^|/)\.|\.(tmp|lock|partial|writing|old)(/|$)")
"""Pattern of names of temporary files and folders that a command removes."""


def _without_seconds(data: bytes) -> bytes:
    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key != "seconds"}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return json.dumps(strip(json.loads(data)), sort_keys=True).encode()


def _without_times(data: bytes) -> bytes:
    """Times like "0.6 s", and the blanks and lines that fill a table up to their width."""
    return re.sub(rb"[ -]+", b" ", re.sub(rb"\d+(\.\d+)? s\b", b"TIME", data))


def _without_last_column(data: bytes) -> bytes:
    return b"\n".join(line.rpartition(b",")[0] for line in data.splitlines())


def _values(data: bytes) -> bytes:
    """All tensors and other values of a torch.save file, in a canonical order."""
    import torch  # by this alone

    def flat(value: Any) -> Iterator[bytes]:
        if isinstance(value, torch.Tensor):
            yield f"{value.dtype} {tuple(value.shape)}".encode()
            yield value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else repr(value.item()).encode()
        elif isinstance(value, dict):
            for key in sorted(value, key=repr):
                yield repr(key).encode()
                yield from flat(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                yield from flat(item)
        else:
            yield repr(value).encode()

    return b"\n".join(flat(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)))


def _nothing(data: bytes) -> bytes:
    return b""


SET_ASIDE: list[tuple[str, str, Callable[[bytes], bytes], str]] = [
    ("*", "*.cost.json", _without_seconds, "seconds that were measured"),
    (
        "train",
        "out/checkpoints/last.ckpt",
        _values,
        "pickle writes equal objects once or twice, by where they came from",
    ),
    ("train", "out/tensorboard/*", _nothing, "events carry times, their files are named by time, host and process"),
    ("rescore", "out/wer.json", _without_seconds, "seconds that were measured"),
    ("rescore", "out/wer.csv", _without_last_column, "seconds that were measured"),
    ("rescore", "out/wer.*", _without_times, "seconds that were measured"),
    ("rescore", "out/report.html", _without_times, "seconds that were measured"),
]
"""(command, pattern of the file, what is done with its bytes before they are compared, why)"""


@dataclass(frozen=True)
class Snapshot:
    """Digests of all files below a folder, by their path in it."""

    files: dict[str, str]
    sizes: dict[str, int]

    @classmethod
    def of(cls, folder: Path, command: Command) -> Snapshot:
        files, sizes = {}, {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not fnmatch(name, "out/tensorboard/events*"):
                data = path.read_bytes()
                sizes[name] = len(data)
                files[name] = hashlib.sha256(_compared(name, data, command)).hexdigest()
            elif path.is_dir() and HIDDEN.search(name):
                files[name + "/"] = ""
        return cls(files, sizes)

    @property
    def hidden(self) -> list[str]:
        return [name for name in self.files if HIDDEN.search(name)]

    @property
    def pages(self) -> int:
        """The number of blocks of 4,096 bytes that the files fill."""
        return sum(-(-size // 4096) for size in self.sizes.values())


def _compared(name: str, data: bytes, command: Command) -> bytes:
    for who, pattern, change, _ in SET_ASIDE:
        if fnmatch(command.name, who) and fnmatch(name, pattern):
            try:
                return change(data)
            except (ValueError, RuntimeError):  # no whole file
                return data
    return data


def differences(expected: Snapshot, found: Snapshot) -> tuple[list[str], list[str]]:
    """(files that differ or are missing, files that are left over)."""
    left = [name for name in found.files if name not in expected.files]
    wrong = [f"{name} is missing" for name in expected.files if name not in found.files]
    both = [name for name in expected.files if name in found.files]
    wrong += [f"{name} differs" for name in both if expected.files[name] != found.files[name]]
    return wrong, left


def half_written(folder: Path, expected: Snapshot, command: Command) -> list[str]:
    """Files at final names that, after an interruption, are neither complete nor an earlier state."""
    found, bad = Snapshot.of(folder, command), []
    for name, digest in found.files.items():
        if HIDDEN.search(name) or expected.files.get(name) == digest or name.startswith("out/tensorboard/"):
            continue
        if not command.grows(name):
            bad.append(f"{name} ({found.sizes.get(name)} bytes)")
        elif reason := _broken(folder / name):
            bad.append(f"{name} ({reason})")
    return bad


def _broken(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".json":
        try:
            json.loads(data)
        except ValueError:
            return "no whole JSON"
    if path.suffix == ".safetensors":
        header = int.from_bytes(data[:8], "little") if len(data) >= 8 else 0
        try:
            tensors = json.loads(data[8 : 8 + header])
            end = max(entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__")
        except ValueError:
            return "no whole header"
        if len(data) != 8 + header + end:
            return f"{len(data)} of {8 + header + end} bytes"
    if path.suffix == ".ckpt" and not zipfile.is_zipfile(path):
        return "no whole checkpoint"
    if path.suffix == ".tsv" and not data.endswith(b"\n"):
        return "half a line"
    return "" if data else "empty"
