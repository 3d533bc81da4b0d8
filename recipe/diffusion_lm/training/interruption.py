"""Stop a run early with its state saved: on SIGTERM, on SIGINT (Ctrl-C), or when its time limit is near.

    stop = StopRequest(max_seconds=4 * 3600)
    stop.listen()                           # in the process that trains, after Lightning has set its handlers
    if stop.reason: save(); raise stop.leave(step)

The process then ends with status 75 (time), 130 (SIGINT) or 143 (SIGTERM) and never 0, so its caller knows that the run
is not finished.
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
    """Tells whether the process should stop; `max_seconds` count from the construction of this object."""

    def __init__(self, max_seconds: float | None = None):
        if max_seconds is not None and max_seconds <= 0:
            raise ValueError(f"max seconds {max_seconds}: expected a positive number")
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self.received: signal.Signals | None = None

    def listen(self) -> None:
        """Record SIGTERM and SIGINT from now on, replacing any handlers. A second SIGINT raises KeyboardInterrupt.

        Without effect outside the main thread.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._remember)
            signal.signal(signal.SIGINT, self._remember)

    @property
    def reason(self) -> str:
        """The reason to stop; "" if there is none."""
        if self.received is not None:
            return self.received.name
        return "time is nearly up" if self.deadline is not None and time.monotonic() >= self.deadline else ""

    def leave(self, step: int, *, say: bool = True) -> SystemExit:
        """Return the SystemExit to raise, with its status, and print the reason if `say`.

        Without a reason in this process another rank has received a signal.
        """
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
    """Run a command and forward SIGTERM to it; SIGINT of a terminal reaches it anyway.

    For runs of several processes, which Lightning starts by repeating the command line. If the command stopped early
    (status 75, 130 or 143), SystemExit is raised with its status; any other failure is a CalledProcessError.
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
