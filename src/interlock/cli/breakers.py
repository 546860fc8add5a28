"""The commands for circuit breakers: breakers list, breakers reset."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

import interlock
from interlock.cli.common import NOT_FOUND, compact, fail, store_command
from interlock.cli.table import DataTable


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
        fail(f"no breaker {breaker!r} has ever counted a failure", NOT_FOUND, as_json)
    info = space.breaker(breaker).reset()
    click.echo(compact(_told(info)) if as_json else f"{breaker} is {info.state}")


def _told(info: interlock.BreakerInfo) -> dict[str, Any]:
    return {**info._asdict(), "opened": info.opened.isoformat() if info.opened else None}


breakers.add_command(list_breakers, "list")
breakers.add_command(reset)
