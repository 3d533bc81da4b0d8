"""The command line: a command is a plain function, its signature is its options.

    run_commands("dlm", [vocab, train], "Language models.", argv)    # exit status: 0 done, 1 bad input, 130 interrupted, 141 no reader

What a user can mend (ValueError, OSError) becomes one line on stderr; anything else is our mistake and keeps its traceback.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

Command = Callable[..., Any]


def application(name: str, commands: Sequence[Command], help_text: str) -> typer.Typer:
    """A typer application with one verb for each function."""
    app = typer.Typer(
        name=name, help=help_text, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
    )
    for command in commands:
        needs = any(
            parameter.default is parameter.empty for parameter in inspect.signature(command).parameters.values()
        )
        app.command(name=command.__name__.rstrip("_").replace("_", "-"), no_args_is_help=needs)(command)
    return app


def run_commands(name: str, commands: Sequence[Command], help_text: str, argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    # Threads that wait must not spin: on cores shared with others that made training 10 times as slow, alone it gains 4 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which no command has done yet
    app = application(name, commands, help_text)
    try:
        result = app(args=None if argv is None else list(argv), prog_name=name, standalone_mode=False)
        sys.stdout.flush()  # a reader that has gone is noticed here, not in the interpreter's last moments
    except BrokenPipeError:
        return _without_reader()
    except (ValueError, OSError) as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except Exception as error:
        # Wrong options: typer's own errors show themselves (typer carries its own copy of click).
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            return int(error.exit_code)
        raise
    return result if isinstance(result, int) else 0


def _without_reader() -> int:
    """The reader of the output, such as `head`, has what it wanted: no fault, nothing to say. The status is that of SIGPIPE in a shell."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
