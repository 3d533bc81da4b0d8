"""Ending a run early in good order: on SIGTERM, on SIGINT (Ctrl-C), or when its time is nearly up.

    stop = StopRequest(max_seconds=4 * 3600)
    stop.listen()                           # in the process that trains, once Lightning has set its own handlers
    if stop.reason: save(); raise stop.leave(step)

The process then ends with status 75 (time), 130 (SIGINT) or 143 (SIGTERM), never 0: whoever started it sees that there is more to do.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from types import FrameType

TIME_IS_UP, TERMINATED, INTERRUPTED = 75, 128 + signal.SIGTERM, 128 + signal.SIGINT


class StopRequest:
    """Whether somebody wants the process to end; the clock starts when this is made."""

    def __init__(self, max_seconds: float | None = None):
        if max_seconds is not None and max_seconds <= 0:
            raise ValueError(f"max seconds {max_seconds}: expected a positive number")
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.received: signal.Signals | None = None

    def listen(self) -> None:
        """Remember SIGTERM and SIGINT from now on, in place of any handlers there are. A second SIGINT ends the process at once.

        Only the main thread may set handlers; elsewhere nothing changes.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._remember)
            signal.signal(signal.SIGINT, self._remember)

    @property
    def reason(self) -> str:
        """Why to end, "" as long as there is none."""
        if self.received is not None:
            return self.received.name
        return "time is nearly up" if self.deadline is not None and time.monotonic() >= self.deadline else ""

    def leave(self, step: int, *, say: bool = True) -> SystemExit:
        """What is to be raised, after saying so: no Exception, because nothing failed. Without a reason here, another rank has one."""
        reason = self.reason or "a signal to another process of the run"
        if say:
            print(f"stopped at step {step} ({reason}); the same command goes on from there", flush=True)
        if self.received is not None:
            return SystemExit(128 + self.received)
        return SystemExit(TIME_IS_UP if self.reason else TERMINATED)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_command(command: Sequence[str], environment: dict[str, str]) -> None:
    """Run a command of several processes, which Lightning starts by repeating the command line; its status decides ours.

    SIGTERM goes on to it; SIGINT of a terminal reaches it anyway. Raises SystemExit with the command's status if it stopped itself, else
    CalledProcessError.
    """
    process = subprocess.Popen(list(command), env=environment)
    before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    ctrl_c = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ctrl_c)
    if status in (TIME_IS_UP, TERMINATED, INTERRUPTED):
        raise SystemExit(status)
    if status:
        raise subprocess.CalledProcessError(status, list(command))
