"""Runs items with the command line of one tree; results of the old tree are kept for later runs.

    tree = Tree(Path("/path/to/checkout"))
    fill(tree, items, digests, Path("out/old"))           # runs missing items only
    complaint = run_item(tree, item, Path("out/new"))     # "" if every command ended as expected

`fill` and `run_item` start one command at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from same_numbers_parts.item import Copy, Cut, Item, Run

SERVER = Path(__file__).with_name("many_commands.py")
LEFT_OUT = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
SETTINGS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}


class Tree:
    """A checkout with a .venv; its interpreter starts with the first command."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        self.command = self.path / ".venv" / "bin" / "dlm"
        if not self.command.is_file():
            raise ValueError(f"{self.command}: no such file; expected a checkout with the `dlm` command in its .venv")

    @property
    def state(self) -> str:
        """The commit, or the path where git knows none."""
        found = subprocess.run(
            ["git", "-C", str(self.path), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        return found.stdout.strip() or str(self.path)

    @cached_property
    def _server(self) -> subprocess.Popen[str]:
        inherited = {key: value for key, value in os.environ.items() if key not in LEFT_OUT}
        return subprocess.Popen(
            [str(self.path / ".venv" / "bin" / "python"), str(SERVER), str(self.command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**inherited, **SETTINGS},
        )

    def end(self) -> float:
        """End the interpreter and return the CPU seconds of its commands."""
        assert self._server.stdin is not None, "a pipe"
        self._server.stdin.close()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._server.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def run(self, arguments: Iterable[str], folder: Path, out: Path, error: Path) -> int:
        """The exit status of one command line."""
        job = {"arguments": list(arguments), "folder": str(folder), "out": str(out), "err": str(error)}
        assert self._server.stdin is not None and self._server.stdout is not None, "both are pipes"
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise ValueError(f"{self.path}: its Python ended; expected {SERVER.name} to run with it")
        return int(answer)


def fill(tree: Tree, items: Mapping[str, Item], digests: Mapping[str, str], folder: Path) -> int:
    """Run the items whose results are missing or outdated; return their number. ValueError if a command fails."""
    count = 0
    with locked(folder):
        for name, item in items.items():
            marker = folder / name / "finished"
            if not item.by_old or (marker.is_file() and marker.read_text() == digests[name]):
                continue
            if complaint := run_item(tree, item, folder):
                raise ValueError(f"{name} with {tree.path}: {complaint}")
            marker.write_text(digests[name])
            count += 1
    return count


def run_item(tree: Tree, item: Item, folder: Path) -> str:
    """Run all steps in a new folder/NAME, with outputs in NUMBER.out and .err; return the first error, or ""."""
    own = folder / item.name
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    complaint = ""
    for number, step in enumerate(item.steps):
        if isinstance(step, Run):
            error = own / f"{number}.err"
            status = tree.run(step.arguments, own, own / (step.out or f"{number}.out"), error)
            if status != step.status and not complaint:
                said = error.read_text(errors="replace").strip().splitlines()
                shown = shlex.join(["dlm", *step.arguments])
                complaint = f"status {status}, expected {step.status}: {said[-1] if said else 'nothing said'} ({shown})"
        else:
            _put(step, own / step.target)
    return complaint


def _put(step: Copy | Cut, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(step, Copy):
        copy = shutil.copytree if step.source.is_dir() else shutil.copy2
        copy(step.source, target)
        return
    lines = step.source.read_bytes().splitlines(keepends=True)
    rest = lines[step.lines] if len(lines) > step.lines else b""
    target.write_bytes(b"".join(lines[: step.lines]) + rest[: len(rest) // 2])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process uses the folder, and lock it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
