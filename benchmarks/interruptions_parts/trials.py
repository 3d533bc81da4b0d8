"""The trials of one command and the checks after each of them.

    trials = Trials(command, runner, folder, seed)
    trials.undisturbed()                        # the reference for all other trials
    trials.killed(rounds=3)                     # also disk_full, read_only, missing_parent, closed_pipe, two_at_once
    trials.report                               # counts and findings

Each trial adds its findings to the report.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from interruptions_parts.commands import Command
from interruptions_parts.inputs import seeded
from interruptions_parts.outputs import Snapshot, differences, half_written
from interruptions_parts.process import DROP_RIGHTS, Done, Kill, Runner

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
DOCUMENTED = (0, 1, 2, 75, 130, 143)
"""Done; bad input or a failure, in one line; wrong options; time is up; Ctrl-C; SIGTERM in good order."""
BROKEN_PIPE = (128 + signal.SIGPIPE, -signal.SIGPIPE)


@dataclass(frozen=True)
class Finding:
    """A violated requirement."""

    command: str
    trial: str
    kind: str
    """differs, left over, traceback, half-written, status, hangs, orphans or unclear"""
    what: str
    plan: str = ""
    stderr: str = ""


@dataclass
class Report:
    """Counts and findings of the trials of one command."""

    command: Command
    rounds: int = 0
    kills: int = 0
    hits: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, *kinds: str) -> int:
        return sum(finding.kind in kinds for finding in self.findings)

    def line(self) -> str:
        other = len(self.findings) - self.count("differs", "left over", "traceback", "half-written")
        return (
            f"{self.command.name:15s} {self.seconds:5.1f} s  rounds {self.rounds}"
            f"  kills {self.hits} of {self.kills} hit  "
            f"differences {self.count('differs', 'half-written')}  left-overs {self.count('left over')}  "
            f"tracebacks {self.count('traceback')}  other {other}"
        )


class Trials:
    """All trials of one command."""

    def __init__(self, command: Command, runner: Runner, folder: Path, seed: int):
        self.command, self.runner, self.folder, self.seed = command, runner, folder, seed
        self.report = Report(command)
        self.changes = 0
        self.expected = Snapshot({}, {})
        self.printed = ""

    # ------------------------------------------------------------------------------------------------ the trials

    def undisturbed(self) -> bool:
        """Run it, then once more over its results. False if it fails, and then no other trial is possible."""
        with self._fresh("undisturbed") as work:
            done = self.runner.run(self.command, work, watch=True)
            self.report.seconds, self.changes, self.printed = done.seconds, len(done.changes), done.stdout
            self.expected = Snapshot.of(work, self.command)
            if done.status or done.traceback:
                self._find("undisturbed", "status", f"status {done.status}", done)
                return False
            for name in self.expected.hidden:
                self._find("undisturbed", "left over", name, done)
            for path in self.runner.left_in_temporary():
                self._find("undisturbed", "left over", f"{path.name} in the system's temporary folder", done)
            self._check("again", self.runner.run(self.command, work), work)
        return True

    def killed(self, rounds: int) -> None:
        """Send one to three signals per round, by time or at a change of a file; then repeat until it ends."""
        start = seeded(self.seed, self.command.name).randrange(len(SIGNALS))
        for number in range(rounds):
            random = seeded(self.seed, self.command.name, "killed", number)
            by_clock = number % 2 == 1 or not self.changes
            trial = f"killed, round {number}"
            with self._fresh(f"killed{number}") as work:
                plan: list[str] = []
                for place in range(random.randint(1, 3)):
                    # The first of each round in turn: three rounds try every signal.
                    number_of_signal = random.choice(SIGNALS) if place else SIGNALS[(start + number) % len(SIGNALS)]
                    when = random.random()
                    kill = Kill(number_of_signal, seconds=when * self.report.seconds)
                    if not by_clock:
                        kill = Kill(number_of_signal, change=int(when * self.changes))
                    done = self.runner.run(self.command, work, kill=kill)
                    reached = kill.change is not None and len(done.changes) == kill.change + 1
                    last = f" ({done.changes[-1]})" if reached else ""
                    plan.append(f"{kill}{last}: status {done.status}")
                    self.report.kills += 1
                    if not self._check_killed(trial, done, kill, work, plan):
                        break  # it went through, or would not go on
                self._check(trial, self.runner.run(self.command, work), work, plan)
            self.report.rounds += 1

    def disk_full(self, times: int) -> None:
        """Run on a small disk that is too full for the outputs; then again with room."""
        for number in range(times):
            if "disk full" not in self.report.skipped:
                random = seeded(self.seed, self.command.name, "disk full", number)
                self._disk_full(random.randrange(max(1, self.expected.pages)) if number == 0 else 0)

    def _disk_full(self, room: int) -> None:
        if self.command.prints:
            self.report.skipped["disk full"] = "writes no file"
            return
        with self._fresh("full") as mount:
            size = 4 * self.expected.pages * 4096 + (8 << 20)
            options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(mount)]
            mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
            if mounted.returncode:
                self.report.skipped["disk full"] = f"no mount of a small disk: {mounted.stderr.strip().splitlines()[0]}"
                return
            try:
                self._fill_and_run(mount, size - room * 4096, room)
            finally:
                subprocess.run(["umount", str(mount)], check=True)

    def _fill_and_run(self, mount: Path, size: int, room: int) -> None:
        filler = mount / ".filler"
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        plan = [f"{room} of {self.expected.pages} blocks free"]
        done = self.runner.run(self.command, mount)
        self._check_refusal("disk full", done, plan)
        if not done.traceback and not any("out" in line.replace("without", "") for line in done.complaint):
            self._find("disk full", "unclear", f"names no output: {_first(done)}", done, plan)
        for name in half_written(mount, self.expected, self.command):
            if name.split(" ")[0] != ".filler":
                self._find("disk full", "half-written", name, done, plan)
        filler.unlink()
        self._check("disk full, then room", self.runner.run(self.command, mount), mount, plan)

    def read_only(self) -> None:
        """Run in a folder without write permission."""
        if self.command.prints:
            self.report.skipped["read-only"] = "writes no file"
            return
        root = os.geteuid() == 0
        if root and shutil.which(DROP_RIGHTS[0]) is None:
            self.report.skipped["read-only"] = (
                f"run by root, and no {DROP_RIGHTS[0]} to drop the right to write anywhere"
            )
            return
        with self._fresh("read_only") as work:
            work.chmod(0o555)
            try:
                done = self.runner.run(self.command, work, without_rights=root)
            finally:
                work.chmod(0o755)
            if "ermission denied" not in done.stderr and "ead-only" not in done.stderr:
                self._find("read-only", "unclear", "the message names no missing right", done)
            self._check_refusal("read-only", done, [])
            for name in Snapshot.of(work, self.command).files:
                self._find("read-only", "left over", name, done)

    def missing_parent(self) -> None:
        """Write to a folder whose parents do not exist; it has to be created, or refused in one line."""
        if self.command.prints:
            return
        deep = tuple(
            f"a/b/{part}" if part == "out" or part.startswith("out/") else part for part in self.command.arguments
        )
        command = Command(self.command.name, deep, self.command.growing)
        with self._fresh("parent") as work:
            done = self.runner.run(command, work)
            if done.status:
                self._check_refusal("missing parent", done, [])
                self.report.notes.append("a missing parent is refused")
                return
            inner = work / "a" / "b"
            wrong, left = differences(self.expected, Snapshot.of(inner, self.command))
            for name in wrong:
                if self.command.name != "rescore" or not name.startswith(("out/wer", "out/report")):  # hold the command
                    self._find("missing parent", "differs", name, done)
            for name in left:
                self._find("missing parent", "left over", name, done)

    def closed_pipe(self, *, buffered: bool = True) -> None:
        """Write to a pipe without reader, as with `| head -0`; with Python's buffer it is noticed only at the end."""
        for kind in [{"PYTHONUNBUFFERED": "1"}, {"PYTHONUNBUFFERED": ""}][: 1 + buffered]:
            trial = "closed pipe" if kind["PYTHONUNBUFFERED"] else "closed pipe, buffered"
            with self._fresh("pipe") as work:
                done = self.runner.run(self.command, work, environment=kind, closed_pipe=True)
                self._check_health(trial, done)
                if len(done.complaint) > 1 and not done.traceback:
                    self._find(trial, "unclear", f"{len(done.complaint)} lines on stderr, at most one is of use", done)
                self._compare(trial, done, work, [])

    def two_at_once(self, times: int) -> None:
        """Run the command twice at once: one has to give the right bytes, the other too or a one-line error."""
        for number in range(times):
            random = seeded(self.seed, self.command.name, "two", number)
            delay = random.random() * self.report.seconds if number else 0.0
            trial, plan = "two at once", [f"the second after {delay:.3f} s"]
            with self._fresh(f"two{number}") as work:
                first = self.runner.start(self.command, work)
                time.sleep(delay)
                both = [process.wait() for process in (first, self.runner.start(self.command, work))]
                for done in both:
                    self._check_health(trial, done, plan)
                    if done.status:
                        self._check_refusal(trial, done, plan)
                if all(done.status for done in both):
                    self._find(trial, "status", f"both fail: {_first(both[0])}; {_first(both[1])}", both[1], plan)
                before = len(self.report.findings)
                self._compare(trial, both[0], work, plan)
                if len(self.report.findings) > before:
                    self._check("two at once, then once more", self.runner.run(self.command, work), work, plan)

    # ---------------------------------------------------------------------------------------------- what is demanded

    def _check_killed(self, trial: str, done: Done, kill: Kill, work: Path, plan: list[str]) -> bool:
        """Whether the signal ended the command, so that it can be continued."""
        self._check_health(trial, done, plan)
        ended = (-kill.signal, 128 + kill.signal, 75)
        if done.status not in (0, *ended):
            self._find(trial, "status", f"status {done.status} after {kill.signal.name}: {_first(done)}", done, plan)
        for name in half_written(work, self.expected, self.command):
            self._find(trial, "half-written", name, done, plan)
        if not done.status:  # it says that it is complete, so it has to be
            wrong, _ = differences(self.expected, Snapshot.of(work, self.command))
            if wrong:
                self._find(trial, "differs", f"status 0 after {kill.signal.name}, but {_few(wrong)}", done, plan)
        self.report.hits += done.status != 0
        return done.status in ended

    def _check(self, trial: str, done: Done, work: Path, plan: list[str] | None = None) -> None:
        """Run a command that has to succeed."""
        self._check_health(trial, done, plan)
        if done.status:
            self._find(trial, "status", f"does not go on, status {done.status}: {_first(done)}", done, plan)
        self._compare(trial, done, work, plan)

    def _check_refusal(self, trial: str, done: Done, plan: list[str]) -> None:
        """Run a command that has to fail with status 1 and a one-line error."""
        self._check_health(trial, done, plan)
        if done.status != 1:
            self._find(trial, "status", f"status {done.status}; expected 1", done, plan)
        if not done.traceback and len(done.complaint) != 1:
            self._find(trial, "unclear", f"{len(done.complaint)} lines on stderr instead of one", done, plan)

    def _check_health(self, trial: str, done: Done, plan: list[str] | None = None) -> None:
        if done.traceback:
            self._find(trial, "traceback", done.complaint[-1] if done.complaint else "", done, plan)
        if done.hung:
            self._find(trial, "hangs", f"not at an end after {done.seconds:.0f} s", done, plan)
        if done.orphans:
            self._find(trial, "orphans", "processes of its group outlive it", done, plan)
        if done.status >= 0 and done.status not in (*DOCUMENTED, *BROKEN_PIPE):
            self._find(trial, "status", f"status {done.status} is not documented", done, plan)

    def _compare(self, trial: str, done: Done, work: Path, plan: list[str] | None) -> None:
        wrong, left = differences(self.expected, Snapshot.of(work, self.command))
        if wrong:
            self._find(trial, "differs", _few(wrong), done, plan)
        if left:
            self._find(trial, "left over", _few(left), done, plan)
        if self.command.prints and not trial.startswith("closed") and done.status == 0 and done.stdout != self.printed:
            self._find(trial, "differs", "what it prints", done, plan)

    # ------------------------------------------------------------------------------------------------------- helpers

    def _find(self, trial: str, kind: str, what: str, done: Done, plan: list[str] | None = None) -> None:
        self.report.findings.append(
            Finding(self.command.name, trial, kind, what, "; ".join(plan or []), done.stderr[-3000:])
        )

    @contextmanager
    def _fresh(self, name: str) -> Iterator[Path]:
        """A new folder, removed after the block unless there were findings."""
        work = self.folder / f"{self.command.name}.{name}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        before = len(self.report.findings)
        yield work
        if len(self.report.findings) == before:
            shutil.rmtree(work)


def _few(names: list[str], most: int = 4) -> str:
    return "; ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _first(done: Done) -> str:
    return done.complaint[-1][:300] if done.complaint else "no word on stderr"
