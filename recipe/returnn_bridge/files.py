r"""Reading and writing files: gzip, encodings, atomic writes, temporary names and locks are handled here only.

    for number, line in iterate_lines("hyps.jsonl.gz"): ...
    for chunk in iterate_chunks("hyps.py.gz"): ...                  # decoded text in pieces, constant memory
    tree = read_json("config.json", expected="a model folder")      # also read_yaml; both refuse duplicate keys
    with write_whole("out.py.gz") as write:                         # the file gets its name when the block succeeds
        write("text")
    with whole_file("train.zip") as temporary: ...                  # the same for a program that needs a path
    with whole_folder("model", replaces=is_model) as temporary: ...
    with lock("scores.jsonl"): ...                                  # one process at a time; the error names the other
    check_outputs(["out.jsonl"], ["in.jsonl"])                      # refuses to overwrite an input, before any work
    with named("run.yaml"): ...                                     # a ValueError in the block names the file

Every error names the file and, where possible, the line. Temporary names contain the host and process that write them,
so that the next writer of the same file can remove those of killed processes. This module imports nothing heavy and
nothing of this project.
"""

from __future__ import annotations

import codecs
import fcntl
import glob
import gzip
import json
import math
import os
import shutil
import socket
import sys
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

PathLike = str | os.PathLike[str]
JsonObject = dict[str, Any]
"""An object of a JSON file; its values are checked where they are read."""

MOST_YAML_NODES = 100_000
"""Limit on the values of a YAML file with aliases expanded, because nested aliases can expand to billions."""

MOST_YAML_BYTES = 1 << 20
"""Limit on the size of a YAML file, because PyYAML takes seconds for each megabyte."""

_CHUNK_BYTES = 1 << 18
_BYTE_ORDER_MARK = codecs.BOM_UTF8


def has_suffix(path: PathLike, *suffixes: str) -> bool:
    """Whether the file name ends in one of the suffixes, alone or followed by ".gz"."""
    name = os.fspath(path).lower().removesuffix(".gz")
    return name.endswith(suffixes)


# ---------------------------------------------------------------------------------------------------------- reading


def iterate_chunks(path: PathLike) -> Iterator[str]:
    """The text of a file in pieces of about 256 K characters, with line ends unchanged and a byte order mark removed.

    ValueError naming the line for broken or truncated gzip data and for bytes that are not UTF-8; OSError as from
    `open`.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line = 1
    for data in iterate_bytes(path):
        try:
            chunk = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _encoding_error(path, line + error.object[: error.start].count(b"\n"), error) from None
        line += chunk.count("\n")
        yield chunk


def iterate_lines(path: PathLike) -> Iterator[tuple[int, str]]:
    r"""(line number from 1, line without its "\n" or "\r\n") of every line; errors as in `iterate_chunks`.

    Only "\n" ends a line: form feeds, U+2028 and carriage returns in the middle may be part of a text.
    """
    line = 0
    for pieces, _ in _iterate_pieces(path):
        for piece in pieces:
            line += 1
            if line == 1:
                piece = piece.removeprefix(_BYTE_ORDER_MARK)
            try:
                yield line, piece.removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise _encoding_error(path, line, error) from None


def iterate_raw_lines(path: PathLike) -> Iterator[tuple[int, bytes]]:
    r"""(line number from 1, bytes including the final "\n") of every line, for callers that check line ends.

    The last line has no "\n" if the file has none there. ValueError for broken gzip data, as in `iterate_chunks`.
    """
    line = 0
    for pieces, end in _iterate_pieces(path):
        for piece in pieces:
            line += 1
            yield line, piece + end


def iterate_bytes(path: PathLike) -> Iterator[bytes]:
    """The decompressed bytes in pieces, of which only the last is empty. ValueError for broken gzip data."""
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


def parse_json(text: str, path: PathLike, line: int = 1) -> Any:
    """The value of a JSON text that begins at line `line` of a file.

    ValueError with file and line for invalid JSON, for duplicate keys and for lone surrogates, which no text file can
    hold. Numbers may be nan or infinite, see `refuse_non_finite`.
    """
    where = f"{os.fspath(path)}:{line}"
    try:
        value = _DECODER.decode(text)
        if "\\ud" in text or "\\uD" in text:  # an escape that may be half of a pair
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        where = f"{os.fspath(path)}:{line + error.lineno - 1}"
        raise ValueError(f"{where}: invalid JSON ({error.msg}, column {error.colno}); expected valid JSON") from None
    except RecursionError:
        raise ValueError(f"{where}: JSON nested too deeply to be read") from None
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"{where}: a text holds the lone surrogate {half}; expected Unicode text") from None
    except ValueError as error:  # a duplicate key, or an integer of thousands of digits
        raise ValueError(f"{where}: {error}; expected valid JSON with each key once") from None


def read_json(path: PathLike, expected: str = "a JSON file", *, finite: bool = True) -> Any:
    """The value of a JSON file, .gz or plain.

    FileNotFoundError that says what was `expected`, ValueError for invalid JSON and, with `finite`, for numbers that
    are nan, infinite or larger than any float.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{os.fspath(path)}: no such file; expected {expected}")
    value = parse_json("".join(iterate_chunks(path)), path)
    if finite:
        refuse_non_finite(value, os.fspath(path))
    return value


def read_json_object(path: PathLike, expected: str = "a JSON file", *, finite: bool = True) -> dict[str, Any]:
    """The object in a JSON file. Errors are those of `read_json`, and ValueError for any other type."""
    tree = read_json(path, expected, finite=finite)
    if not isinstance(tree, dict):
        raise ValueError(f"{os.fspath(path)}: got {type(tree).__name__}; expected a JSON object ({expected})")
    return tree


def refuse_non_finite(tree: Any, where: str, key: str = "") -> None:
    """ValueError naming the first number of a JSON value that is nan, infinite or larger than any float."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            refuse_non_finite(value, where, f"{key}.{name}" if key else name)
    elif isinstance(tree, list):
        for value in tree:
            refuse_non_finite(value, where, key)
    elif isinstance(tree, float | int) and not is_finite(tree):
        raise ValueError(f"{where}: got {quoted(tree)} in {quoted(key)}; expected a finite number")


def is_finite(value: object) -> bool:
    """Whether a value is a number, or a boolean, that a float can hold: neither nan nor infinite."""
    try:
        return isinstance(value, float | int) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def quoted(value: object, most: int = 200) -> str:
    """A value of a file for an error message: as Python writes it, on one line, cut to `most` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; a whole number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else text[: most - 3] + "..."


def one_line(text: object, most: int = 300) -> str:
    """A text for an error message, such as that of a library: on one line, cut to `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


@contextmanager
def named(path: PathLike) -> Iterator[None]:
    """Put the path of a file in front of the message of a ValueError that does not name it."""
    try:
        yield
    except ValueError as error:
        if os.fspath(path) in str(error):
            raise
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def read_yaml(path: PathLike) -> dict[str, Any]:
    """The mapping in a YAML file of plain data.

    ValueError with file and line for invalid YAML and duplicate keys, and with the file for more than
    `MOST_YAML_BYTES`, and for aliases that refer to themselves or expand to more than `MOST_YAML_NODES` values.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """A safe loader that refuses duplicate keys, of which PyYAML would silently keep the last."""

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.flat: set[int] = set()  # nodes without "<<"
            self.merged = 0  # pairs of key and value

        def flatten_mapping(self, node: Any) -> None:
            """Replace "<<" by the pairs of the mappings it names, of several pairs with one key by the last, which
            counts: PyYAML keeps all, so that merges of merges would grow without end."""
            if id(node) in self.flat:
                return
            self.flat.add(id(node))
            seen: set[str] = set()
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                        if isinstance(part, yaml.MappingNode):
                            self.flatten_mapping(part)
                            self.merged += len(part.value)
                        if self.merged > MOST_YAML_NODES:
                            raise ValueError(f"{name}: merges of over {MOST_YAML_NODES} keys; expected a configuration")
                elif isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        problem = f"the key {quoted(key.value)} comes twice; expected every key once"
                        raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                    seen.add(key.value)
            super().flatten_mapping(node)
            last = {
                (key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)): (key, value)
                for key, value in node.value
            }
            node.value = list(last.values())

    name = os.fspath(path)
    try:
        chunks, size = [], 0
        for chunk in iterate_chunks(path):
            chunks.append(chunk)
            size += len(chunk)
            if size > MOST_YAML_BYTES:
                raise ValueError(f"{name}: over {MOST_YAML_BYTES} characters; expected a configuration")
        tree = yaml.load("".join(chunks), Loader)  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise ValueError(f"{name}{line}: not valid YAML ({one_line(error.problem)})") from None
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(f"{name}: not valid YAML ({one_line(error)})") from None
    except ValueError as error:  # a whole number of thousands of digits, a date that does not exist
        raise ValueError(str(error) if name in str(error) else f"{name}: {one_line(error)}") from None
    except RecursionError:
        raise ValueError(f"{name}: not YAML that can be read (nested too deeply)") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{name}: got {type(tree).__name__}; expected a mapping of sections")
    if _expanded_size(tree) > MOST_YAML_NODES:
        raise ValueError(f"{name}: aliases expand to over {MOST_YAML_NODES} values; expected a configuration")
    return tree


def _expanded_size(tree: Any) -> float:
    """The number of values after all aliases are expanded; infinite for a value that contains itself."""
    sizes: dict[int, float] = {}

    def size(value: Any) -> float:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = float("inf")  # used if the value is reached again below, so contains itself
            parts = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(map(size, parts))
        return sizes[id(value)]

    return size(tree)


# ---------------------------------------------------------------------------------------------------------- writing


@contextmanager
def write_whole(path: PathLike) -> Iterator[Callable[[str | bytes], object]]:
    """Open a file for atomic writing (text in UTF-8, gzip if named .gz); it gets its name when the block succeeds.

    Yields a function that writes text or bytes. Parent folders are created. The gzip header has no time stamp, so equal
    content gives equal bytes. The bytes are flushed to disk before the file is renamed.
    """
    with whole_file(path) as temporary, open(temporary, "wb") as raw:
        zipped = os.fspath(path).endswith(".gz")
        with _packed(raw) if zipped else nullcontext(raw) as stream:
            yield lambda data: stream.write(data.encode("utf-8") if isinstance(data, str) else data)


def write_text(path: PathLike, text: str | bytes) -> None:
    """Write a file atomically: on failure an earlier file of that name is unchanged."""
    with write_whole(path) as write:
        write(text)


@contextmanager
def whole_file(path: PathLike) -> Iterator[Path]:
    """A temporary path beside `path` that is renamed to it when the block succeeds, and removed otherwise.

    This is for programs that need a path to write to; see `write_whole` for text.
    """
    target = Path(path)
    if target.exists() and not target.is_file():  # a folder, or a device such as /dev/null, which root could replace
        raise ValueError(f"{target}: is no regular file; expected the name of a file to write")
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    temporary = temporary_path(target)
    # Not tempfile, because its files are readable by the owner only; this mode follows the umask.
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        with naming(target):
            yield temporary
            _flush_to_disk(temporary)
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: PathLike, *, replaces: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A temporary folder beside `path` that is renamed to it when the block succeeds, and removed otherwise.

    replaces: returns whether an existing folder is an earlier result of the same kind, which may be replaced. Any other
    folder that is not empty raises ValueError before the block runs and stays unchanged. If `path` is a symbolic link,
    the folder that it points to is written, and the link stays.
    """
    check_replaceable(Path(path), replaces)
    target = Path(path).resolve() if os.path.islink(path) else Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    check_replaceable(target, replaces)
    temporary = temporary_path(target)
    temporary.mkdir()
    try:
        with naming(target):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush_to_disk(file)
        check_replaceable(target, replaces)
        if target.exists():
            old = temporary_path(target).with_suffix(".old")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def scratch_folder(path: PathLike) -> Iterator[Path]:
    """A new temporary folder beside `path`, removed after the block.

    That of a killed process is removed when `path` is written again.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    folder = temporary_path(target)
    folder.mkdir()
    try:
        with naming(target):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def naming(target: PathLike) -> Iterator[None]:
    """Name `target` in an OSError without a file: a full disk is an error of `write`, which knows none."""
    try:
        yield
    except OSError as error:
        if error.strerror and error.filename is None:
            error.filename = os.fspath(target)
        raise


def check_replaceable(target: Path, replaces: Callable[[Path], bool] | None) -> None:
    """ValueError if `target` is a file, or a folder that is neither empty nor accepted by `replaces`."""
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir():
        raise ValueError(f"{target}: is a file; expected the name of a folder")
    held = sorted(entry.name for entry in target.iterdir())
    if held and not (replaces is not None and replaces(target)):
        shown = ", ".join(held[:4]) + (" ..." if len(held) > 4 else "")
        raise ValueError(
            f"{target}: exists and holds something else ({shown}); expected a new name, or an empty folder"
        )


def check_outputs(outputs: Iterable[PathLike], inputs: Iterable[PathLike]) -> None:
    """ValueError for an output that is the same file as an input, even under another name."""
    existing = [path for path in inputs if os.path.exists(path)]
    for output in outputs:
        for source in existing:
            if os.path.exists(output) and os.path.samefile(output, source):
                same = "" if os.fspath(output) == os.fspath(source) else f", as {os.fspath(source)}"
                raise ValueError(
                    f"{os.fspath(output)}: is an input of this command{same}; expected another name for the output"
                )


def temporary_path(target: Path) -> Path:
    """A new hidden name beside `target` that contains the host and the process that write it."""
    return target.with_name(f".{target.name}.{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")


def sweep(target: Path) -> None:
    """Remove temporary files and folders of `target` that ended processes of this host have left.

    A process killed between the two renames of `whole_folder` leaves the earlier folder with the suffix .old, which is
    renamed back.
    """
    prefix = f".{target.name}.{_host()}-"
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        process = left.name[len(prefix) :].split("-")[0]
        if left.suffix not in (".tmp", ".old") or not process.isdigit() or _runs(int(process)):
            continue
        if left.suffix == ".old" and not target.exists():
            os.replace(left, target)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------- locking


@contextmanager
def lock(path: PathLike) -> Iterator[None]:
    """Hold an exclusive lock for writing `path`. ValueError with the process that holds it already.

    The kernel releases the lock when its process ends, however it ends; the file `.NAME.lock` beside `path` only names
    the holder. On a file system without locks a warning is printed to the standard error and the block runs unlocked.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_name(f".{target.name}.lock")
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 1000, 0).decode("utf-8", "replace").strip() or "another process"
            os.close(handle)
            raise ValueError(f"{target}: {holder} is writing it; expected one writer at a time") from None
        except OSError as error:
            print(f"warning: {target}: no lock on this file system ({error.strerror})", file=sys.stderr)
        try:
            current = os.stat(file)
        except FileNotFoundError:
            current = None
        opened = os.fstat(handle)
        if current is not None and (current.st_dev, current.st_ino) == (opened.st_dev, opened.st_ino):
            break
        os.close(handle)  # the previous holder removed the file after it was opened here, so try again
    try:
        with naming(target):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {_host()}\n".encode(), 0)
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


# ---------------------------------------------------------------------------------------------------------- helpers


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of the pairs. ValueError for duplicate keys, of which json would silently keep the last."""
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {quoted(twice)} is given twice")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)


def _host() -> str:
    return socket.gethostname().replace("/", "_") or "localhost"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _packed(raw: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0)


def _iterate_pieces(path: PathLike) -> Iterator[tuple[list[bytes], bytes]]:
    r"""(lines without their ends, the end that each of them had): b"\n", or b"" for a last line without one."""
    begun: list[bytes] = []  # parts of an incomplete line, joined once so that a very long line takes linear time
    for data in iterate_bytes(path):
        first, *others = data.split(b"\n")
        begun.append(first)
        if others:
            yield [b"".join(begun), *others[:-1]], b"\n"
            begun = others[-1:]
    if last := b"".join(begun):
        yield [last], b""


def _encoding_error(path: PathLike, line: int, error: UnicodeDecodeError) -> ValueError:
    byte = error.object[error.start]
    hint = " (gzip data? then name it .gz)" if byte == 0x8B and line == 1 and error.start == 1 else ""
    return ValueError(f"{os.fspath(path)}:{line}: byte 0x{byte:02x} is not UTF-8{hint}; expected UTF-8 text")
