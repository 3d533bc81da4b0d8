"""Build the command line from plain functions, whose parameters are the options.

    run_commands("dlm", [vocab, train], "Language models.", argv)    # returns the exit status, see EXIT_CODES

Errors that a user can fix (ValueError, OSError) are printed as one line on stderr; others are bugs and keep their
traceback.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TextIO, get_origin, get_type_hints

import typer

Command = Callable[..., Any]
EXIT_CODES = (
    "Exit status: 0 success; 1 bad input, with a one-line message; 2 wrong options; 75 stopped by --max-seconds, and "
    "130 or 143 by a signal, after which the same command continues; 141 if the reader of the output has closed it."
)


def with_given(command: Command, **values: Any) -> Command:
    """The command with these parameters fixed, so that they are no options of the command line."""
    # Annotations are evaluated in the module of the command.
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        return command(*args, **options, **values)

    return _with_parameters(run, [item for name, item in signature.parameters.items() if name not in values])


def with_options(command: Command) -> Command:
    """The command as typer takes it.

    A parameter whose type is a dataclass becomes one option for each field. The text in an annotation such as
    Annotated[int, "Number of ..."] becomes the help of the option.
    """
    groups: dict[str, tuple[Any, list[str]]] = {}
    parameters = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        kind = parameter.annotation
        options = {name: (kind, parameter.default)}
        if dataclasses.is_dataclass(kind):
            hints = get_type_hints(kind, include_extras=True)
            options = {item.name: (hints[item.name], item.default) for item in dataclasses.fields(kind)}
            groups[name] = (kind, list(options))
        parameters += [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=_option(key, hint))
            for key, (hint, default) in options.items()
        ]

    @functools.wraps(command)
    def run(**options: Any) -> Any:
        for name, (kind, keys) in groups.items():
            options[name] = kind(**{key: options.pop(key) for key in keys})
        return command(**options)

    return _with_parameters(run, parameters)


def _option(name: str, hint: Any) -> Any:
    """The annotation for typer; an option for a bool can only be set, not unset."""
    text = hint.__metadata__[0] if get_origin(hint) is Annotated else None
    if not isinstance(text, str):
        return hint
    names = [f"--{name.replace('_', '-')}"] if hint.__origin__ is bool else []
    return Annotated[hint.__origin__, typer.Option(*names, help=text)]


def _with_parameters(run: Command, parameters: list[inspect.Parameter]) -> Command:
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def application(name: str, commands: Sequence[Command], help_text: str) -> typer.Typer:
    """Build a typer application with one verb for each function."""
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
        has_required = any(
            parameter.default is parameter.empty for parameter in inspect.signature(command).parameters.values()
        )
        verb = command.__name__.rstrip("_").replace("_", "-")
        app.command(name=verb, no_args_is_help=has_required)(with_options(command))
    return app


def run_commands(name: str, commands: Sequence[Command], help_text: str, argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    # Waiting threads must not spin: on cores shared with other jobs, spinning made training 10 times as slow; on free
    # cores it gains 4 %.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch reads it when it is imported, which happens later
    app = application(name, commands, help_text)
    output = _Output(sys.stdout)
    sys.stdout = output
    try:
        result = app(args=None if argv is None else list(argv), prog_name=name, standalone_mode=False)
        if result == 130:  # typer turns KeyboardInterrupt into this status
            raise KeyboardInterrupt
        output.flush()  # a closed pipe must be noticed here, not at interpreter exit
        if output.reader_is_gone:
            return 141  # the status of SIGPIPE in a shell
    except (ValueError, OSError) as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except Exception as error:
        # For wrong options, typer's errors print themselves (typer has its own copy of click).
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
    """The standard output. Once its reader has closed it, as `head` does, what is written is discarded."""

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
