"""The command line: a command is a plain function, its signature is its options.

    run_commands("dlm", [vocab, train], "Language models.", argv)    # exit status: 0 done, 1 bad input, 130 interrupted, 141 no reader

What a user can mend (ValueError, OSError) becomes one line on stderr; anything else is our mistake and keeps its traceback.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TextIO

import typer

Command = Callable[..., Any]
EXIT_CODES = (
    "Exit status: 0 done; 1 bad input, said in one line; 2 wrong options; 75 stopped by --max-seconds, and 130 or 143 by a signal, "
    "where the same command goes on; 141 when nobody reads the output any more."
)


def with_given(command: Command, **values: Any) -> Command:
    """The command with some of its parameters given: they are no options of the command line."""
    # Annotations are looked up where the command is defined, not here.
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        return command(*args, **options, **values)

    kept = [parameter for name, parameter in signature.parameters.items() if name not in values]
    run.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in kept}
    return run


def application(name: str, commands: Sequence[Command], help_text: str) -> typer.Typer:
    """A typer application with one verb for each function."""
    app = typer.Typer(
        name=name,
        help=help_text,
        epilog=EXIT_CODES,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
        ] = False,
    ) -> None: ...

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
    output = _Output(sys.stdout)
    sys.stdout = output
    try:
        result = app(args=None if argv is None else list(argv), prog_name=name, standalone_mode=False)
        if result == 130:  # typer turns KeyboardInterrupt into this status
            raise KeyboardInterrupt
        output.flush()  # a reader that has gone is noticed here, not in the interpreter's last moments
        if output.reader_is_gone:
            return 141  # the status of SIGPIPE in a shell
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
    finally:
        sys.stdout = output.stream
    return result if isinstance(result, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"diffusion-lm-rescoring {version('diffusion-lm-rescoring')}")
        raise typer.Exit()


class _Output:
    """The standard output, whose reader may go away, as `head` does: what is written then is lost, and the work goes on."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.reader_is_gone = False

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self._lose_reader()
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            self._lose_reader()

    def _lose_reader(self) -> None:
        self.reader_is_gone = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
