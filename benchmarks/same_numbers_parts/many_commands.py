"""Runs command lines of one tree's `dlm`, each in a process of its own that starts with the slow libraries imported.

    TREE/.venv/bin/python many_commands.py TREE/.venv/bin/dlm

A line of stdin is {"arguments": [...], "folder": where to run, "out": file for stdout, "err": file for stderr}; the
answer is its exit status. Importing Lightning takes five seconds and taking a process with it down another two, a
training of six steps half of one. Nothing of the tree itself is imported here, so a process sees the same as one that
was started by the command line.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback

SLOW = ("torch", "torch._dynamo", "lightning.pytorch", "scipy.stats", "scipy.optimize", "sentencepiece", "h5py")
MOST_SECONDS = 300  # for one command


def main() -> None:
    command = os.path.abspath(sys.argv[1])
    sys.path[0] = os.path.dirname(command)  # as it is for the command itself
    for name in SLOW:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is here is not looked at, and so not copied, by the collector of each process
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if not child:
            status = 1
            try:
                status = run(command, **job)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)  # without taking every module down
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(command: str, *, arguments: list[str], folder: str, out: str, err: str) -> int:
    """The exit status that the command line would have."""
    signal.alarm(MOST_SECONDS)
    os.chdir(folder)
    for number, path in enumerate((os.devnull, out, err)):
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY, 0o644)
        os.dup2(file, number)
        os.close(file)
    sys.argv = [command, *arguments]
    status: object = 0
    try:
        runpy.run_path(command, run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    return status if isinstance(status, int) else int(status is not None)


if __name__ == "__main__":
    main()
