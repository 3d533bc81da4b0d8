"""Try first, in a process of its own, what a damaged file may make a C library never return from.

    how = trial(read)               # "", or for example "dies of it (SIGSEGV)"

The process is forked, so `function` may be any closure, and its processor time is limited.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress

_SECONDS = 5  # of processor time, for reading headers


def trial(function: Callable[[], object]) -> str:
    """Call a function in a forked process, which takes a few milliseconds: "", or how this process ended.

    A Python exception counts as a normal end, because the function raises it again when it is called here.
    """
    process = os.fork()
    if process == 0:
        try:
            most = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, most))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            with suppress(Exception):
                function()
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status == -signal.SIGXCPU:
        return "does not end with it"
    return f"dies of it ({signal.Signals(-status).name})" if status < 0 else ""
