"""`interlock worker`: takes up the runs of some programs until it is told to stop."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

import interlock
from interlock.cli.common import INTERRUPTED, compact, imported, store_command

_STOPPING = b"stopping: runs are left before their next step; again to leave at once\n"


@store_command(reads=False)
@click.argument("programs", nargs=-1, required=True)
@click.option("--slots", default=4, show_default=True, help="Runs at a time.")
@click.option("--ttl", default=30.0, show_default=True, help="Seconds until others take over.")
@click.option("--poll", default=1.0, show_default=True, help="Seconds between looks for runs.")
@click.option("--attempts", default=5, show_default=True, help="Failures until a run is parked.")
@click.option("--once", is_flag=True, help="Work on what is due and stop.")
def worker(
    space: interlock.Space,
    as_json: bool,
    programs: tuple[str, ...],
    once: bool,
    **options: Any,
) -> None:
    """Take up the runs of PROGRAMS (each module:function), until SIGTERM or Ctrl-C.

    Stopping, it takes up no more runs, and leaves each one that it has before its next step.
    """
    functions = {name: imported(name) for name in programs}
    coroutines = [inspect.iscoroutinefunction(fn) for fn in functions.values()]
    if any(coroutines) and not all(coroutines):
        raise click.UsageError("start one worker for the coroutine functions, one for the others")
    options["told"] = _tell_json if as_json else _tell
    if all(coroutines):
        interrupted = asyncio.run(_work(functions, options, once))
    else:
        made = space.worker(functions, **options)
        with _stopped_by_signals(made.stop) as came:
            _say(functions, options)
            made.work(once)
        interrupted = signal.SIGINT in came
    if interrupted:
        raise SystemExit(INTERRUPTED)


async def _work(functions: dict[str, Any], options: dict[str, Any], once: bool) -> bool:
    given = click.get_current_context().params
    async with await interlock.open_async(
        given["store"], space=given["space"], agent=given["agent"]
    ) as space:
        made = space.worker(functions, **options)
        with _stopped_by_signals(made.stop) as came:
            _say(functions, options)
            await made.work(once)
    return signal.SIGINT in came


@contextmanager
def _stopped_by_signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Have SIGTERM and Ctrl-C call `stop`, and the second of them end the process."""
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        stop()
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        os.write(2, _STOPPING)

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    for each in before:
        signal.signal(each, handle)
    try:
        yield came
    finally:
        for each, was in before.items():
            signal.signal(each, was)


def _say(functions: dict[str, Any], options: dict[str, Any]) -> None:
    said = f"working on {', '.join(functions)}, {options['slots']} runs at a time"
    click.echo(said, err=True)


def _tell(worked: interlock.Worked) -> None:
    why = f": {worked.error}" if worked.error else ""
    _print(f"{worked.id} ({worked.program}) {worked.how}{why}")


def _tell_json(worked: interlock.Worked) -> None:
    _print(compact(worked._asdict()))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
