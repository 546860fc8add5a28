"""`interlock detect` and `interlock export-trace`: anomalies in traces of agents."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import interlock
from interlock.cli.common import ANOMALIES, compact, reported, store_command
from interlock.forensics import Report, SessionReport, find_anomalies, read_trace
from interlock.forensics import export_trace as operations_of

_PROGRESS_FROM = 4 << 20  # bytes: smaller files are read before a bar could be looked at


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Without --json, tell at most this many.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all of them, in one object.")
def detect(file: str, limit: int, as_json: bool) -> None:
    """Find stale generations, phantom tools, causal cascades and reordered effects in FILE.

    FILE holds one operation per line, in JSON; `-` reads standard input.  Prints the anomalies and
    the level of each session, L0 to L4.  The exit code is 6 where there is an anomaly.
    """
    with reported(as_json):
        with _progress(file) as told:
            source = sys.stdin.buffer if file == "-" else file
            name = "standard input" if file == "-" else file
            report = find_anomalies(read_trace(source, name=name, progress=told), name)
        if as_json:
            click.echo(compact(_json(report)))
        else:
            _print(report, limit)
        if report.anomalies:
            raise SystemExit(ANOMALIES)


@store_command(reads=True)
@click.option("--after", type=click.IntRange(0), help="Begin after this position.")
def export_trace(space: interlock.Space, as_json: bool, after: int | None) -> None:
    """Print the commits of the log as a trace for `interlock detect`: JSON, one per line.

    What was written up to --after is told by its versions only.
    """
    name = click.get_current_context().params["space"]
    for operation in operations_of(space.log(after), name):
        click.echo(compact(operation.to_json()))


@contextmanager
def _progress(file: str) -> Iterator[Any]:
    """Show how far a long file was read, where somebody looks."""
    size = os.path.getsize(file) if file != "-" else None
    console = Console(stderr=True)
    if not console.is_terminal or (size is not None and size < _PROGRESS_FROM):
        yield None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=size)
        yield lambda read: progress.advance(task, read)


def _print(report: Report, limit: int) -> None:
    for anomaly in report.anomalies[:limit]:
        click.echo(f"{anomaly.session}: {anomaly.kind}: {anomaly.sentence}")
    if len(report.anomalies) > limit:
        click.echo(f"... and {len(report.anomalies) - limit} more (--limit)")
    for session in report.sessions:
        found = ", ".join(f"{count} {kind}" for kind, count in session.found.items())
        blind = f"; nothing recorded that could show {', '.join(session.unseen)}"
        click.echo(
            f"session {session.session}: L{session.level}, {session.operations} operations, "
            f"{found or 'no anomaly'}{blind if session.unseen else ''}"
        )
    if not report.sessions:
        click.echo("the trace is empty")


def _json(report: Report) -> dict[str, Any]:
    return {
        "operations": report.operations,
        "sessions": [_session(each) for each in report.sessions],
        "anomalies": [each.to_json() for each in report.anomalies],
    }


def _session(session: SessionReport) -> dict[str, Any]:
    return {**session._asdict(), "level": f"L{session.level}"}
