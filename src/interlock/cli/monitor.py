"""`interlock record` and `interlock monitor`: what happens while it happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import BinaryIO

import click
from rich.console import Console
from rich.live import Live

import interlock
from interlock.cli.common import compact, host_and_port, local, reported, terminated_as_interrupted
from interlock.cli.forensics import duration, source_options
from interlock.cli.table import DataTable
from interlock.forensics import (
    Alert,
    Keyspace,
    Thresholds,
    Watcher,
    history_sql,
    monitor_lines,
    open_feed,
    read_thresholds,
)
from interlock.forensics.history import as_datetime
from interlock.forensics.history_table import install
from interlock.forensics.metrics import serving_metrics
from interlock.forensics.monitor import KINDS, Hooks
from interlock.forensics.record import AGENT_FIELD, COST
from interlock.forensics.sources import POSTGRES, REDIS

_enable = click.option(
    "--enable-events", is_flag=True, help="Switch on keyspace events while this runs. " + COST
)
_for = click.option("--for", "for_", type=duration, help="Stop after this time, such as 60s.")


@click.command()
@click.argument("url")
@click.option("--table", help="The PostgreSQL table to record.")
@click.option("--key-column", "columns", multiple=True, default=("id",), show_default=True,
              help="The column of a table's key. Repeat it for several.")  # fmt: skip
@click.option("--sql", is_flag=True, help="Print the SQL of the trigger, and run nothing.")
@click.option("--remove", is_flag=True, help="Drop the trigger; what it has recorded stays.")
@click.option("--commands", is_flag=True,
              help="Record MONITOR, with reads and agents: it can halve the rate.")  # fmt: skip
@click.option("--match", default="*", show_default=True, help="Only keys like plan:*.")
@click.option("--agent-field", default=AGENT_FIELD, show_default=True,
              help="The field of values that names who wrote them.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False),
              help="Append to this file. [default: standard output]")  # fmt: skip
@_enable
@_for
@click.option("--json", "as_json", is_flag=True, help="Report errors as JSON.")
def record(
    url: str,
    table: str | None,
    columns: tuple[str, ...],
    sql: bool,
    remove: bool,
    commands: bool,
    match: str,
    agent_field: str,
    out: Path | None,
    enable_events: bool,
    for_: float | None,
    as_json: bool,
) -> None:
    """Record what happens to keys of a Redis, or to rows of a PostgreSQL table.

    Of a Redis, lines of JSON are printed until Ctrl-C: each change, with the value that the key has
    then. Of a PostgreSQL, a trigger is installed that records in a table beside --table.
    Read both with `interlock forensics`.
    """
    with reported(as_json), terminated_as_interrupted():
        if table is not None:
            text = history_sql(table, key=columns, remove=remove)
            if sql:
                click.echo(text, nl=False)
                return
            if not url.startswith(POSTGRES):
                raise click.UsageError("--table needs a postgresql:// URL.")
            install(url, text)
            done = "is no longer recorded" if remove else "is recorded from now on"
            click.echo(
                compact({"table": table, "recorded": not remove}) if as_json else f"{table} {done}"
            )
            return
        if not url.startswith(REDIS):
            raise click.UsageError("URL must be redis://..., or postgresql://... with --table.")
        ends = time.monotonic() + for_ if for_ is not None else float("inf")
        file: BinaryIO = sys.stdout.buffer if out is None else out.open("ab")
        try:
            if commands:
                _record_commands(url, file, ends)
            else:
                options = {"match": match, "enable": enable_events, "agent_field": agent_field}
                with closing(Keyspace(url, **options)) as events:  # type: ignore[arg-type]  # by name
                    _record_events(events, file, ends)
        finally:
            file.flush()
            if out is not None:
                file.close()


def _record_events(events: Keyspace, file: BinaryIO, ends: float) -> None:
    while time.monotonic() < ends:
        for event in events.poll(min(0.2, max(ends - time.monotonic(), 0))):
            file.write(compact(event.to_json()).encode() + b"\n")
        file.flush()


def _record_commands(url: str, file: BinaryIO, ends: float) -> None:
    with closing(monitor_lines(url)) as lines:
        for line in lines:
            if line:
                file.write(line + b"\n")
            else:
                file.flush()
            if time.monotonic() >= ends:
                return


@click.command()
@click.argument("source")
@source_options
@click.option("--keyspace", is_flag=True, help="Watch keyspace events of a Redis.")
@_enable
@click.option("--match", metavar="PATTERN", help="Only keyspace events of keys like plan:*.")
@click.option("--window", type=duration, default="100ms", show_default=True,
              help="Writes of different agents that are closer overlap.")  # fmt: skip
@click.option("--think", type=duration, default="60s", show_default=True,
              help="How long agents take from reading to writing, if unrecorded.")  # fmt: skip
@click.option("--thresholds", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A TOML file: from how many on an alert is raised.")  # fmt: skip
@click.option("--position-file", type=click.Path(path_type=Path, dir_okay=False),
              help="Go on here after a restart.")  # fmt: skip
@click.option("--exec", "command", help="Run this for each alert, its JSON on standard input.")
@click.option("--webhook", metavar="URL", help="POST each alert to this URL, as JSON.")
@click.option("--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus at /metrics.")
@_for
@click.option("--json", "as_json", is_flag=True, help="Print one object per alert.")
def monitor(
    source: str,
    space: str | None,
    table: str | None,
    log_prefix: str,
    keyspace: bool,
    enable_events: bool,
    match: str | None,
    window: float,
    think: float,
    thresholds: Path | None,
    position_file: Path | None,
    command: str | None,
    webhook: str | None,
    metrics: str | None,
    for_: float | None,
    as_json: bool,
) -> None:
    """Watch keys: overlapping writes and losses; in a space refusals, fences, leases, queues, too.

    SOURCE is the URL of a store, of a Redis with write logs (or, with --keyspace, any Redis), of a
    PostgreSQL with --table, or a file that `interlock record` writes. A server that is away is
    waited for.
    """
    with reported(as_json), terminated_as_interrupted():
        ends = time.monotonic() + for_ if for_ is not None else float("inf")
        address = None if metrics is None else host_and_port("--metrics", metrics)
        hooks = Hooks(command, webhook, lambda why: click.echo(f"Error: {why}", err=True))
        watcher = Watcher(
            lambda position: open_feed(
                source,
                space=space,
                table=table,
                keyspace=keyspace or enable_events,
                enable=enable_events,
                match=match,
                log_prefix=log_prefix,
                position=position,
            ),
            window=window,
            think=think,
            thresholds=Thresholds() if thresholds is None else read_thresholds(thresholds),
            position_file=position_file,
        )
        shown = interlock.redact_url(source) if "://" in source else source
        try:
            with suppress(KeyboardInterrupt), ExitStack() as stack:
                if address is not None:
                    port = stack.enter_context(serving_metrics(watcher, *address))
                    click.echo(f"metrics at http://{address[0]}:{port}/metrics", err=True)
                if sys.stdout.isatty() and not as_json:
                    _live(watcher, hooks, ends, shown)
                else:
                    click.echo(f"watching {shown}", err=True)
                    _watch(watcher, hooks, ends, lambda alert: _line(alert, as_json))
        finally:
            hooks.close()
            watcher.close()


def _watch(
    watcher: Watcher,
    hooks: Hooks,
    ends: float,
    show: Callable[[Alert], None],
    refresh: Callable[[], None] = lambda: None,
) -> None:
    away = None
    while time.monotonic() < ends:
        for alert in watcher.poll(0.1):
            show(alert)
            hooks.put(alert)
        watcher.save()
        if watcher.away != away:
            away = watcher.away
            click.echo(f"waiting: {away}" if away else "it is back", err=True)
        refresh()


def _line(alert: Alert, as_json: bool) -> None:
    if as_json:
        click.echo(compact(alert.to_json()))
    else:
        click.echo(f"{local(as_datetime(alert.time_us))} {alert.kind}: {alert.text}")
    sys.stdout.flush()


def _live(watcher: Watcher, hooks: Hooks, ends: float, title: str) -> None:
    """Show a table of the keys, and the last alerts below it."""
    console = Console(highlight=False, markup=False)
    with Live(console=console, refresh_per_second=4) as live:

        def refresh() -> None:
            table = DataTable("key", *(kind.replace("_", " ") for kind in KINDS), title=title)
            found = sorted(watcher.counts.items(), key=lambda pair: -sum(pair[1].values()))
            for key, counts in found[:20]:
                table.add_row(key, *(counts[kind] or "" for kind in KINDS))
            live.update(table)

        def show(alert: Alert) -> None:
            console.print(f"{local(as_datetime(alert.time_us))} {alert.kind}: {alert.text}")

        _watch(watcher, hooks, ends, show, refresh)
