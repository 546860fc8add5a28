"""What every command on a store shares: its options, opening the space, errors and exit codes."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

import interlock

if TYPE_CHECKING:
    from interlock.cipher import Cipher

_BIDIRECTIONAL = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_LINES = "\u2028\u2029"
_HARMFUL = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDIRECTIONAL}{_LINES}]")
_BUT_OURS = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f{_BIDIRECTIONAL}{_LINES}]")


def escaped(text: str) -> str:
    """Return `text` with harmful characters escaped; inside JSON it stays the same value."""
    return _HARMFUL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class _Escaping:
    """A text stream that escapes what is written to it."""

    def __init__(self, stream: TextIO, harmful: re.Pattern[str]) -> None:
        self._stream = stream
        self._harmful = harmful

    @property
    def rich_proxied_file(self) -> _Escaping:
        """Where rich writes instead: it steers the terminal itself, and its cells are escaped."""
        return _Escaping(self._stream, _BUT_OURS) if self._harmful is _HARMFUL else self

    def write(self, text: str) -> int:
        self._stream.write(self._harmful.sub(_escape, text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def escaping() -> Iterator[None]:
    """Escape what is printed meanwhile."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Escaping(stream, _HARMFUL) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


DONE, FAULT, USAGE, CONFLICT, NOT_FOUND, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
ANOMALIES, UNDECIDED = 6, 7  # of a check
PIPED_WIDTH = 80  # columns of a table that is not shown on a terminal


cipher_option = click.option(
    "--cipher",
    envvar="INTERLOCK_CIPHER",
    metavar="MODULE:NAME",
    help="What decrypts and encrypts the values.",
)


def cipher_of(reference: str | None) -> Cipher | None:
    """Return the cipher that `module:NAME` stands for, None without.  Raises Invalid."""
    found: Cipher | None = imported(reference) if reference else None
    if reference and found is None:
        raise interlock.Invalid(f"{reference} is None, not a cipher.")
    return found


def store_command(reads: bool) -> Callable[[Callable[..., None]], click.Command]:
    """Make a click command of a function whose first arguments are the open space and --json.

    `reads`: the command only reads, so a store that is not there is an error and is not made.
    """

    def decorate(fn: Callable[..., None]) -> click.Command:
        @click.option("--store", envvar="INTERLOCK_STORE", help="URL, such as sqlite:///team.db.")
        @click.option("--space", envvar="INTERLOCK_SPACE", default="default", show_default=True)
        @click.option(
            "--agent", envvar="INTERLOCK_AGENT", help="Name that writes are logged under."
        )
        @cipher_option
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        @functools.wraps(fn)
        def command(
            store: str | None,
            space: str,
            agent: str | None,
            cipher: str | None,
            as_json: bool,
            **arguments: object,
        ) -> None:
            with reported(as_json):
                if not store:
                    raise click.UsageError(
                        "Name the store: --store sqlite:///team.db, or set INTERLOCK_STORE."
                    )
                check_is_kept(store)
                with interlock.open(
                    store, space, agent, create=not reads, cipher=cipher_of(cipher)
                ) as opened:
                    fn(opened, as_json, **arguments)

        return click.command()(command)

    return decorate


class reported:  # a context manager, read as a phrase
    """Turns the library's errors into one sentence (or JSON object) on stderr and an exit code."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, problem: BaseException | None, traceback: object) -> None:
        if isinstance(problem, interlock.InterlockError):
            click.echo(_told(problem, self.as_json), err=True)
            raise SystemExit(exit_code(problem)) from problem
        if isinstance(problem, BrokenPipeError):
            # Whoever read the output has seen enough; keep Python from flushing into the pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(DONE) from problem
        if isinstance(problem, KeyboardInterrupt):
            raise SystemExit(INTERRUPTED) from problem
        if isinstance(problem, click.UsageError) and self.as_json:
            told = {"error": "Usage", "message": problem.format_message()}
            click.echo(
                compact(
                    told | {"retryable": False, "next_step": "Fix the call; retrying won't help."}
                ),
                err=True,
            )
            raise SystemExit(USAGE) from problem
        if isinstance(problem, OSError):
            why = problem.strerror or problem
            click.echo(f"Error: Can't write the output: {why}", err=True)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(FAULT) from problem


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on a terminal; yields what is to be called with how much is done."""
    from rich.console import Console
    from rich.progress import Progress

    hidden = not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end what was started and remove temporary files, as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(problem: interlock.InterlockError) -> int:
    """Return the exit code of an error."""
    if isinstance(problem, interlock.Invalid):
        return USAGE
    if isinstance(problem, interlock.Refused):
        return CONFLICT if problem.retryable else REFUSED
    return FAULT


def fail(message: str, code: int, as_json: bool, **details: object) -> NoReturn:
    """Print an error of the command itself and exit."""
    retryable = code == CONFLICT
    told = json.dumps(
        {
            "error": "Conflict" if retryable else "NotFound",
            "message": message,
            "retryable": retryable,
            "next_step": "Read it again." if retryable else "",
            **details,
        }
    )
    click.echo(told if as_json else f"Error: {message}", err=True)
    raise SystemExit(code)


def no_such_key(record: interlock.Record, as_json: bool) -> NoReturn:
    """Say that a key does not exist, and exit."""
    was = f" (deleted at version {record.version})" if record.version else ""
    message = f"{record.key!r} does not exist{was}"
    fail(message, NOT_FOUND, as_json, key=record.key, version=record.version)


def run_json(info: interlock.RunInfo) -> dict[str, object]:
    """Return a run as the object that --json prints."""
    return {**info._asdict(), "steps": [step._asdict() for step in info.steps]}


def compact(value: object) -> str:
    """Return a value as one line of JSON."""
    return json.dumps(value, ensure_ascii=False)


def local(when: datetime) -> str:
    """Return a time as people read it: in the local zone, with milliseconds."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def moment_of(option: str, text: str) -> datetime:
    """Return the time that was given for an option.  Raises click.UsageError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"{option} {text!r} is not a time. Example: 2026-11-21T09:30:00+00:00"
        ) from None
    return when.astimezone(UTC)


def parsed(value: str) -> interlock.Json:
    """Return what a VALUE of the command line holds.  Raises click.UsageError."""
    try:
        return json.loads(value)
    except RecursionError:
        raise click.UsageError("VALUE is nested too deeply.") from None
    except ValueError:
        raise click.UsageError(
            "VALUE is not JSON: quote it as '\"text\"', or add --text."
        ) from None


def imported(reference: str) -> Any:
    """Return what `module:NAME` stands for.  Raises Invalid."""
    module, _, name = reference.partition(":")
    if not module or not name:
        raise interlock.Invalid(
            f"{reference!r} is not module:NAME. Example: {module or 'shop'}:buy"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as problem:  # importing runs the module
        raise interlock.Invalid(
            f"Can't import {reference}: {problem or type(problem).__name__}"
        ) from problem


def _told(problem: interlock.InterlockError, as_json: bool) -> str:
    if not as_json:
        return f"Error: {problem}"
    told: dict[str, object] = {
        "error": type(problem).__name__,
        "message": str(problem),
        "retryable": False,
        "next_step": "",
    }
    if isinstance(problem, interlock.Refused):
        told |= {"retryable": problem.retryable, "next_step": problem.next_step}
    if isinstance(problem, interlock.Conflict):
        told |= {"expected": problem.expected, "record": problem.record.to_dict()}
    return compact(told)


def check_is_kept(store: str) -> None:
    """Raise click.UsageError where a store is in memory, and would end with the command."""
    if store.partition("?")[0] in ("sqlite://", "sqlite:///"):
        raise click.UsageError(
            "A store in memory ends with the command. Name a file: sqlite:///team.db"
        )


def host_and_port(option: str, text: str) -> tuple[str, int]:
    """Return an address to listen at.  Raises UsageError."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"{option} {text!r} is not HOST:PORT. Example: 127.0.0.1:8700")
    return host, int(port)
