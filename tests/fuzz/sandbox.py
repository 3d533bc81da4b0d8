"""Read inputs in processes of their own, with limits of time and memory, and say what came of each.

    for outcome in read_all(kind, seeds, Path("world"), indices=range(200), seed=1):
        outcome.sort                 # "accepted", "refused", or what is wrong: "exception", "no file name", "crash" ...

The contract of a reader: the file is accepted with all its data, or refused by one ValueError or OSError whose message is one line that
names the file. One process reads many inputs; when it dies, another goes on behind the input that killed it.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .generate import seeds_of
from .mutate import Files, mutate
from .readers import PRODUCT_FOLDERS, READERS, Differs, import_for, same
from .world import Seed, World

CASE = Path("damaged")  # the folder of an input; all paths are relative to the working directory
_COMPLAINTS = Path("complaints")
ROOT = Path(__file__).parents[2]
MOST_SECONDS = 10.0  # of one input, on a processor of its own
MOST_WAITING = 90.0  # of one input when others take the processor
MOST_MEMORY = 2 << 30  # beyond what the process has before it reads anything
MOST_DISK = 256 << 20  # of one file that a reader writes
LONGEST_MESSAGE = 10_000


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    kind: str
    index: int
    sort: str
    """accepted, refused, or a finding."""
    how: str = ""
    """What was done to the file."""
    error: str = ""
    """Type of the exception."""
    where: str = ""
    """Product function that it came out of: file.function, the innermost one."""
    message: str = ""
    size: int = 0
    """Bytes of the damaged file."""

    @property
    def is_finding(self) -> bool:
        return self.sort not in ("accepted", "refused")

    @property
    def key(self) -> tuple[str, str, str]:
        """Outcomes with one key are one finding."""
        return self.kind, f"{self.sort}: {self.error}" if self.error else self.sort, self.where


def prepare(kind: str, world: World) -> list[Seed]:
    """Import what the readers of a kind need and make its seeds; in the process that later starts the others."""
    import_for(kind)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    seeds = seeds_of(kind, world)
    gc.collect()
    gc.freeze()
    return seeds


def make_input(kind: str, seeds: Sequence[Seed], seed: int, index: int) -> tuple[Files, str, str, str]:
    """(files, path to read, what is damaged, how) of an input; the first ones are the seeds as they are."""
    if index < len(seeds):
        return dict(seeds[index].files), seeds[index].main, "", "whole"
    rng = random.Random(f"{seed}/{kind}/{index}")
    chosen = rng.choice(seeds)
    files, changed, how = mutate(rng, chosen.files, [other.files for other in seeds])
    return files, chosen.main, changed, how


def write_input(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)


def read_all(
    kind: str,
    seeds: Sequence[Seed],
    world: Path,
    *,
    indices: Iterable[int],
    seed: int,
    seconds: float | None = None,
) -> Iterator[Outcome]:
    """Outcomes of these inputs, in order; none are begun once the seconds are over."""
    end = None if seconds is None else time.monotonic() + seconds
    todo = iter(indices)
    group = READERS[kind].group
    while batch := [index for _, index in zip(range(group), todo)]:
        while batch:
            done = 0
            for outcome in _one_process(kind, seeds, world, batch, seed):
                yield outcome
                done += 1
            batch = batch[done:]
            if end is not None and time.monotonic() > end:
                return


def _one_process(kind: str, seeds: Sequence[Seed], world: Path, batch: Sequence[int], seed: int) -> Iterator[Outcome]:
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        try:
            _work(kind, seeds, world, batch, seed, writing)
        finally:
            os._exit(0)
    os.close(writing)
    buffer, done = b"", 0
    began, used = time.monotonic(), 0.0
    stopped = False
    while True:
        ready, _, _ = select.select([reading], [], [], 0.2)
        if ready:
            data = os.read(reading, 1 << 16)
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                yield Outcome(**json.loads(line))
                done += 1
            began, used = time.monotonic(), _seconds_used(process)
        elif not stopped:
            waited = time.monotonic() - began
            if _seconds_used(process) - used > MOST_SECONDS or waited > MOST_WAITING:
                stopped = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGUSR1)  # faulthandler says where it is
                    time.sleep(0.3)
                    os.kill(process, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(process, 0)
    if done < len(batch):
        index = batch[done]
        files, _, changed, how = make_input(kind, seeds, seed, index)
        said = _COMPLAINTS.read_text("utf-8", "replace")[-20_000:] if _COMPLAINTS.is_file() else ""
        sort = "hang" if stopped else "crash"
        error = "" if stopped else (signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "exit")
        if re.search("memory allocation of|bad_alloc|MemoryError|out of memory", said):
            sort = "memory"
        elif re.search("file too large|File too large", said):
            sort = "disk"
        message = "" if stopped else " ".join(said.split("Fatal Python error")[0].split())[-300:]
        yield Outcome(kind, index, sort, how, error, _where_of_dump(said), message, _size(files, changed))


def _work(
    kind: str,
    seeds: Sequence[Seed],
    world: Path,
    batch: Sequence[int],
    seed: int,
    writing: int,
) -> None:
    """In a process of its own: read one input after the other and send the outcomes."""
    silent = os.open(os.devnull, os.O_RDWR)
    said = os.open(_COMPLAINTS, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.dup2(silent, 0)
    os.dup2(silent, 1)
    os.dup2(said, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGUSR1, sys.stderr)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = _address_space() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_DISK, MOST_DISK))
    for index in batch:
        os.ftruncate(said, 0)
        files, main, changed, how = make_input(kind, seeds, seed, index)
        write_input(CASE, files)
        outcome = _outcome(kind, index, main, changed, how, world, _size(files, changed))
        os.write(writing, json.dumps(asdict(outcome)).encode() + b"\n")
        shutil.rmtree(CASE, ignore_errors=True)


def _outcome(kind: str, index: int, main: str, changed: str, how: str, world: Path, size: int) -> Outcome:
    path = CASE / main if main else CASE

    def found(sort: str, error: BaseException | None = None, message: str = "") -> Outcome:
        name = type(error).__name__ if error is not None else ""
        where = _where(error) if error is not None else ""
        return Outcome(kind, index, sort, how, name, where, (message or str(error))[:600], size)

    reader = READERS[kind]
    try:
        value = reader.read(path, world)
    except (ValueError, OSError) as error:
        if index < 0 or how == "whole":
            return found("a whole file is refused", error)
        wrong = _wrong_message(error, changed)
        return found(wrong, error) if wrong else found("refused", error)
    except MemoryError as error:
        return found("memory", error)
    except Differs as error:
        return Outcome(kind, index, "accepted with other content", how, message=str(error), size=size)
    except BaseException as error:
        memory = re.search("allocate|alloc_cpu|out of memory|bad_alloc", str(error)) and "DataLoader" not in str(error)
        return found("memory" if memory else "exception", error)
    if reader.reference is None:
        return Outcome(kind, index, "accepted", how, size=size)
    try:
        expected = reader.reference(path, world)
    except Exception as error:
        if not reader.strict or isinstance(error, MemoryError | RecursionError):
            return Outcome(kind, index, "accepted", how, size=size)
        message = f"the reference reader: {type(error).__name__}: {error}"
        return Outcome(kind, index, "accepted, and is none", how, message=message[:600], size=size)
    if not same(value, expected):
        return Outcome(kind, index, "accepted with other content", how, message=_difference(value, expected), size=size)
    return Outcome(kind, index, "accepted", how, size=size)


def _wrong_message(error: ValueError | OSError, changed: str) -> str:
    """What is wrong with the line that a user would see; "" if nothing."""
    message = str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "memory"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "disk"
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        message = f"{error.filename}: {error.strerror}"
    if "\n" in message or "\r" in message:
        return "more than one line"
    if len(message) > LONGEST_MESSAGE:
        return "a very long line"
    if isinstance(error, FileNotFoundError):
        return ""  # it names what is not there, which an input may refer to
    # The name of any file of the input, or of the folder that they all lie in.
    if str(CASE) not in message and (not changed or Path(changed).name not in message):
        return "no file name"
    return ""


def _where(error: BaseException) -> str:
    """file.function of the innermost frame in the product."""
    found = ""
    folders = tuple(str(ROOT / name) + os.sep for name in PRODUCT_FOLDERS)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(folders):
            found = f"{_module(frame.f_code.co_filename)}.{frame.f_code.co_qualname.replace('.<locals>', '')}"
    return found


def _where_of_dump(text: str) -> str:
    """The same from faulthandler's lines, which know no classes."""
    folders = "|".join(re.escape(str(ROOT / name)) for name in PRODUCT_FOLDERS)
    match = re.search(rf'File "(?:{folders})/([^"]+)", line \d+ in (\S+)', text)
    return f"{_module(match[1])}.{match[2]}" if match else ""


def _module(file: str) -> str:
    """Its name without the packages that it lies in, which change more often."""
    path = Path(file)
    return path.parent.name if path.stem == "__init__" else path.stem


def _difference(value: Any, expected: Any) -> str:
    if isinstance(value, list) and isinstance(expected, list) and len(value) == len(expected):
        for place, (left, right) in enumerate(zip(value, expected)):
            if not same(left, right):
                return f"[{place}] {_difference(left, right)}"
    return f"got {str(value)[:200]}; expected {str(expected)[:200]}"


def _size(files: Files, changed: str) -> int:
    return len(files.get(changed) or b"")


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _seconds_used(process: int) -> float:
    """On the processor, by a process that is not waited for yet."""
    try:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
