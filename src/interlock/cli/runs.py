"""The commands for durable runs, the workers that take them up, and circuit breakers."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import NotRequired, TypedDict, Unpack

import click
from rich.console import Console

import interlock
from interlock.cli.common import (
    INTERRUPTED,
    NOT_FOUND,
    cipher_of,
    compact,
    fail,
    imported,
    local,
    moment_of,
    parsed,
    run_json,
    store_command,
)
from interlock.cli.table import DataTable


@store_command(reads=True)
@click.argument("id")
@click.option("--at", "moment", help="Only the state at a log position, or at a time.")
@click.option("--from", "first", type=click.IntRange(1), help="Begin with this moment of the run.")
@click.option("--back", is_flag=True, help="The latest first.")
def replay(
    space: interlock.Space,
    as_json: bool,
    id: str,
    moment: str | None,
    first: int | None,
    back: bool,
) -> None:
    """Show each commit of the run ID and the state after it.

    On a terminal one at a time, forwards and back.
    """
    moments = space.runs.replay(id)
    if moment is not None and (first is not None or back):
        raise click.UsageError("--at shows one moment: leave out --from and --back.")
    if first is not None and first > len(moments):
        raise interlock.Invalid(f"Run {id!r} has only {len(moments)} moments: no --from {first}.")
    chosen = list(range(len(moments)))
    if moment is not None:
        chosen = [n for n in chosen if _is_reached(moments[n], moment)][-1:]
        if not chosen:
            raise interlock.Invalid(f"Run {id!r} had not started at {moment}.")
    elif back:
        chosen = chosen[:first][::-1]
    elif first is not None:
        chosen = chosen[first - 1 :]
    if not as_json and len(chosen) > 1 and sys.stdin.isatty() and sys.stdout.isatty():
        _walk(moments, chosen)
        return
    for n in chosen:
        click.echo(compact(_json(moments[n])) if as_json else _text(moments, n))


def _walk(moments: list[interlock.RunMoment], chosen: list[int]) -> None:
    place = 0
    while True:
        click.echo(_text(moments, chosen[place]))
        click.echo("[Enter next, p previous, q quit] ", nl=False)
        said = sys.stdin.readline()
        if not said or said.strip() == "q":
            return
        place += -1 if said.strip() == "p" else 1
        place = min(max(place, 0), len(chosen) - 1)


def _is_reached(moment: interlock.RunMoment, given: str) -> bool:
    if given.isdigit():
        return moment.position <= int(given)
    return moment.at <= moment_of("--at", given)


def _json(moment: interlock.RunMoment) -> dict[str, object]:
    return {
        "position": moment.position,
        "at": moment.at.isoformat(),
        "agent": moment.agent,
        "entries": [entry.to_dict() for entry in moment.entries],
        "run": run_json(moment.run),
    }


def _text(moments: list[interlock.RunMoment], n: int) -> str:
    moment = moments[n]
    head = f"{n + 1} of {len(moments)}: position {moment.position}, {local(moment.at)}"
    lines = [f"{head}, {moment.agent}"]
    for entry in moment.entries:
        value = "(deleted)" if entry.kind == "delete" else compact(entry.value)
        lines.append(f"    {entry.key} v{entry.version} {value}")
    info = moment.run
    told = [f"{info.state}{' (parked)' if info.parked else ''}"]
    told += [f"{step.path} {step.name} {step.state}" for step in info.steps]
    if info.waits:
        told.append(f"waits for {', '.join(info.waits)}")
    if info.error is not None:
        told.append(f"error: {info.error}")
    return "\n".join([*lines, f"  then {'; '.join(told)}", ""])


_STATES = [*interlock.AGENT_LIFECYCLE.states, "parked"]


@click.group()
def runs() -> None:
    """Begin, watch, answer and repair durable runs."""


@store_command(reads=False)
@click.argument("id")
@click.argument("program")
@click.option("--input", "given", default="null", metavar="JSON", help="What the run begins with.")
def start(space: interlock.Space, as_json: bool, id: str, program: str, given: str) -> None:
    """Make the run ID, for a worker of PROGRAM (module:function) to take up."""
    space.runs.start(id, program, parsed(given))
    _tell(space, id, as_json, f"{id} is there for a worker of {program}")


@store_command(reads=True)
@click.option("--open", "open_only", is_flag=True, help="Only those that have not ended.")
@click.option("--state", type=click.Choice(_STATES, False), help="Only those that stand so.")
def list_runs(space: interlock.Space, as_json: bool, open_only: bool, state: str | None) -> None:
    """List the runs: where each stands, and what it waits for."""
    found = [
        info
        for info in space.runs.list(open=open_only)
        if state is None or (info.parked if state == "parked" else info.state == state)
    ]
    if as_json:
        for info in found:
            told = run_json(info)
            del told["steps"], told["sent"], told["in_doubt"]  # nothing is known of them here
            click.echo(compact(told))
        return
    if not found:
        click.echo("no runs")
        return
    table = DataTable("run", "state", "program", "agent", "failures", "waits for", "error")
    for info in found:
        stands, failures = _stands(info), str(info.failures or "")
        waits, program = ", ".join(info.waits), info.program or ""
        cells = (info.id, stands, program, info.agent, failures, waits, info.error or "")
        table.add_row(*cells)
    Console().print(table)


@store_command(reads=True)
@click.argument("id")
def show(space: interlock.Space, as_json: bool, id: str) -> None:
    """Show the run ID with its steps."""
    info = space.runs.show(id)
    if as_json:
        click.echo(compact(run_json(info)))
        return
    program = f", program {info.program}" if info.program else ""
    click.echo(f"{id}: {_stands(info)}{program}, agent {info.agent}")
    told = {"input": info.input, "result": info.result, "sent": info.sent or None}
    for name, value in told.items():
        if value is not None:
            click.echo(f"{name}: {compact(value)}")
    if info.waits:
        click.echo(f"waits for: {', '.join(info.waits)}")
    if info.error is not None:
        click.echo(f"error (failed {info.failures} times): {info.error}")
    for step in info.steps:
        if step.kind == "effect" and step.state == "started":
            click.echo(
                f"in doubt: {step.name}; once you know whether it happened: "
                f"interlock runs settle {id} {step.path} --happened (or --not-happened)"
            )
    if info.steps:
        table = DataTable("step", "kind", "name", "state", "result")
        for step in info.steps:
            cells = (step.path, step.kind, step.name, step.state, compact(step.result))
            table.add_row(*cells)
        Console().print(table)


@store_command(reads=True)
@click.argument("id")
@click.argument("name")
@click.argument("value", default="null")
@click.option("--text", is_flag=True, help="VALUE is text, not JSON.")
def send(space: interlock.Space, as_json: bool, id: str, name: str, value: str, text: bool) -> None:
    """Give the run ID what it waits for, or will wait for, as NAME: VALUE (JSON)."""
    space.runs.send(id, name, value if text else parsed(value))
    _tell(space, id, as_json, f"{name} was sent to {id}")


@store_command(reads=True)
@click.argument("id")
@click.argument("path")
@click.option("--happened/--not-happened", required=True, help="What the outside says of it.")
@click.option("--result", default="null", metavar="JSON", help="What the call would have returned.")
def settle(
    space: interlock.Space, as_json: bool, id: str, path: str, happened: bool, result: str
) -> None:
    """Say whether the effect at step PATH of the run ID, which is in doubt, has happened."""
    space.runs.settle(id, path, happened, parsed(result))
    said = "happened" if happened else "not happened"
    _tell(space, id, as_json, f"step {path} of {id} is known to have {said}")


@store_command(reads=True)
@click.argument("id")
def resume(space: interlock.Space, as_json: bool, id: str) -> None:
    """Have the run ID, which is parked or pauses after a failure, taken up at once."""
    space.runs.resume(id)
    _tell(space, id, as_json, f"{id} is to be taken up again")


@store_command(reads=True)
@click.argument("id")
@click.option("--reason", default="cancelled", show_default=True)
def cancel(space: interlock.Space, as_json: bool, id: str, reason: str) -> None:
    """Have the run ID fail, whoever works on it; what it did is undone."""
    done = space.runs.cancel(id, reason)
    later = f"{id} fails as soon as a worker has undone what it did"
    _tell(space, id, as_json, f"{id} has failed" if done else later)


def _stands(info: interlock.RunInfo) -> str:
    return f"{info.state} (parked)" if info.parked else info.state


def _tell(space: interlock.Space, id: str, as_json: bool, said: str) -> None:
    click.echo(compact(run_json(space.runs.show(id))) if as_json else said)


runs.add_command(list_runs, "list")
for _command in (start, show, send, settle, resume, cancel, replay):
    runs.add_command(_command)


_STOPPING = b"stopping: runs are left before their next step; again to leave at once\n"


class _Options(TypedDict):
    """Those of a worker."""

    slots: int
    ttl: float
    poll: float
    attempts: int
    on_worked: NotRequired[Callable[[interlock.Worked], object]]


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
    **options: Unpack[_Options],
) -> None:
    """Take up the runs of PROGRAMS (each module:function), until SIGTERM or Ctrl-C.

    Stopping, it takes up no more runs, and leaves each one that it has before its next step.
    """
    functions = {name: imported(name) for name in programs}
    coroutines = [inspect.iscoroutinefunction(fn) for fn in functions.values()]
    if any(coroutines) and not all(coroutines):
        raise click.UsageError("Use one worker for coroutine functions and one for the others.")
    options["on_worked"] = _tell_json if as_json else _tell_worked
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


async def _work(
    functions: Mapping[str, Callable[..., Awaitable[object]]], options: _Options, once: bool
) -> bool:
    given = click.get_current_context().params
    async with await interlock.open_async(
        given["store"], given["space"], given["agent"], cipher=cipher_of(given["cipher"])
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


def _say(functions: Iterable[str], options: _Options) -> None:
    said = f"working on {', '.join(functions)}, {options['slots']} runs at a time"
    click.echo(said, err=True)


def _tell_worked(worked: interlock.Worked) -> None:
    why = f": {worked.error}" if worked.error else ""
    _print(f"{worked.id} ({worked.program}) {worked.how}{why}")


def _tell_json(worked: interlock.Worked) -> None:
    _print(compact(worked._asdict()))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@click.group()
def breakers() -> None:
    """Look at circuit breakers, and close them."""


@store_command(reads=True)
def list_breakers(space: interlock.Space, as_json: bool) -> None:
    """List the breakers that ever counted a failure: their state, and what opened them last."""
    found = space.breakers()
    if as_json:
        for info in found:
            click.echo(compact(_told(info)))
    elif not found:
        click.echo("no breakers")
    else:
        table = DataTable(
            "breaker", "state", "failures", "next probe", "opened", "by", "because of"
        )
        for info in found:
            opened = f"{info.opened.astimezone():%Y-%m-%d %H:%M:%S}" if info.opened else ""
            probe = "" if info.state == "closed" else f"in {info.seconds:.1f} s"
            table.add_row(
                info.name, info.state, str(info.failures), probe, opened, info.agent, info.reason
            )
        Console().print(table)


@store_command(reads=True)
@click.argument("breaker")
def reset(space: interlock.Space, as_json: bool, breaker: str) -> None:
    """Close BREAKER: calls go through again, on every host within a second."""
    if breaker not in {info.name for info in space.breakers()}:
        fail(f"No breaker {breaker!r} has ever counted a failure.", NOT_FOUND, as_json)
    info = space.breaker(breaker).reset()
    click.echo(compact(_told(info)) if as_json else f"{breaker} is {info.state}")


def _told(info: interlock.BreakerInfo) -> dict[str, object]:
    return {**info._asdict(), "opened": info.opened.isoformat() if info.opened else None}


breakers.add_command(list_breakers, "list")
breakers.add_command(reset)
