"""`interlock runs replay`: a run commit by commit, printed or to be walked through."""

from __future__ import annotations

import sys
from typing import Any

import click

import interlock
from interlock.cli.common import compact, entry_json, local, moment_of, run_json, store_command


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
        raise click.UsageError("--at shows one moment; leave out --from and --back")
    if first is not None and first > len(moments):
        raise interlock.Invalid(f"run {id!r} has {len(moments)} moments, so no --from {first}")
    chosen = list(range(len(moments)))
    if moment is not None:
        chosen = [n for n in chosen if _is_reached(moments[n], moment)][-1:]
        if not chosen:
            raise interlock.Invalid(f"nothing of run {id!r} was in the log yet at {moment}")
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


def _json(moment: interlock.RunMoment) -> dict[str, Any]:
    return {
        "position": moment.position,
        "at": moment.at.isoformat(),
        "agent": moment.agent,
        "entries": [entry_json(entry) for entry in moment.entries],
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
