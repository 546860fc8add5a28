"""The commands for durable runs: start, list, show, send, settle, resume, cancel."""

from __future__ import annotations

import click
from rich.console import Console

import interlock
from interlock.cli.common import compact, parsed, run_json, store_command
from interlock.cli.replay import replay
from interlock.cli.table import DataTable

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
