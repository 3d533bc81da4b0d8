"""Runs `dlm` once in a folder, optionally sends it a signal, and waits for it.

    runner = Runner(Path(".venv/bin/dlm"), Path("out"))
    done = runner.run(command, folder)
    done = runner.run(command, folder, kill=Kill(signal.SIGKILL, seconds=0.8))     # at a time
    done = runner.run(command, folder, kill=Kill(signal.SIGKILL, change=7))        # before the change 7 of a file

The result has the exit status, the standard error and the seconds: `done.status`, `done.stderr`, `done.seconds`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interruptions_parts.commands import Command

DROP_RIGHTS = ["setpriv", "--bounding-set", "-dac_override"]
"""Root may write anywhere; programs started with this prefix obey the file modes."""
_LINGER = 10.0  # seconds that worker processes may take to see that their parent is gone
_HOOK = Path(__file__).parent / "kill_point"


@dataclass(frozen=True)
class Kill:
    """A signal and its moment: a time or a change of a file. SIGINT goes to the process group, as from a terminal."""

    signal: signal.Signals
    seconds: float | None = None
    change: int | None = None

    def __str__(self) -> str:
        when = f"after {self.seconds:.3f} s" if self.change is None else f"before change {self.change}"
        return f"{self.signal.name} {when}"


@dataclass(frozen=True)
class Done:
    """How a process ended. A status below 0 is the signal that ended it."""

    status: int
    seconds: float
    stdout: str
    stderr: str
    changes: tuple[str, ...] = ()
    hung: bool = False
    orphans: bool = False

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.stderr or "Exception ignored" in self.stderr

    @property
    def complaint(self) -> list[str]:
        """The standard error without warnings."""
        return [line for line in self.stderr.splitlines() if line.strip() and not line.startswith("warning: ")]


@dataclass
class Started:
    """A running process."""

    process: subprocess.Popen[bytes]
    files: tuple[Path, Path, Path]
    limit: float
    kill: Kill | None = None
    start: float = field(default_factory=time.monotonic)

    def wait(self) -> Done:
        hung = orphans = False
        if self.kill is not None and self.kill.seconds is not None:
            try:
                self.process.wait(timeout=max(0.0, self.start + self.kill.seconds - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._send(self.kill.signal)
        try:
            self.process.wait(timeout=self.limit)
        except subprocess.TimeoutExpired:
            hung = True
        seconds = time.monotonic() - self.start
        if hung:
            self._end_group()
            self.process.wait()
        else:
            orphans = not self._group_ends()
        out, error, log = (path.read_text(errors="replace") if path.exists() else "" for path in self.files)
        changes = tuple(log.splitlines())
        return Done(self.process.returncode, seconds, out, error, changes, hung=hung, orphans=orphans)

    def _send(self, number: signal.Signals) -> None:
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def _group_ends(self) -> bool:
        """Whether all processes of the group end without a further signal."""
        until = time.monotonic() + _LINGER
        while time.monotonic() < until:
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return True
            except PermissionError:  # of another user by now, so none of ours
                return True
            time.sleep(0.02)
        self._end_group()
        return False

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Runner:
    """Starts commands and keeps their output in a folder."""

    def __init__(self, dlm: Path, scratch: Path, limit: float = 180.0):
        self.dlm, self.scratch, self.limit = dlm.absolute(), scratch, limit
        self.temporary = scratch / "tmp"  # TMPDIR: what goes through the system's folder is seen too
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._count = 0

    def left_in_temporary(self) -> list[Path]:
        """Files in the temporary folder; libraries leave empty folders there."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]

    def start(
        self,
        command: Command,
        folder: Path,
        *,
        kill: Kill | None = None,
        watch: bool = False,
        environment: Mapping[str, str] | None = None,
        closed_pipe: bool = False,
        without_rights: bool = False,
    ) -> Started:
        self._count += 1
        files = tuple(self.scratch / f"{command.name}.{self._count}.{kind}" for kind in ("stdout", "stderr", "changes"))
        for path in files:
            path.unlink(missing_ok=True)
        own = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "TMPDIR": str(self.temporary),
            **(environment or {}),
        }
        if watch or (kill is not None and kill.change is not None):
            point: dict[str, Any] = {"log": str(files[2])}
            if kill is not None and kill.change is not None:
                point |= {"at": kill.change, "signal": int(kill.signal)}
            own |= {"KILL_POINT": json.dumps(point), "PYTHONPATH": str(_HOOK)}
        prefix = DROP_RIGHTS if without_rights else []
        with open(files[0], "wb") as out, open(files[1], "wb") as error:
            target = out.fileno()
            if closed_pipe:
                read_end, target = os.pipe()
                os.close(read_end)
            process = subprocess.Popen(
                [*prefix, str(self.dlm), *command.arguments],
                cwd=folder,
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=error,
                start_new_session=True,
            )
            if closed_pipe:
                os.close(target)
        return Started(process, (files[0], files[1], files[2]), self.limit, kill)

    def run(self, command: Command, folder: Path, **how: Any) -> Done:
        return self.start(command, folder, **how).wait()
