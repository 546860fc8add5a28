"""`interlock conflicts`: which keys collide, between whom, how closely."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

import interlock
from interlock.cli.common import compact, store_command
from interlock.cli.table import DataTable


@store_command(reads=True)
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--each", is_flag=True, help="Print every refusal, newest first.")
def conflicts(space: interlock.Space, as_json: bool, limit: int, each: bool) -> None:
    """Show which keys collide, between whom, how often within 100 ms, and the retries spent."""
    report = space.conflicts(limit)
    if as_json:
        rows = [_note(n) for n in report.refusals] if each else [_key(k) for k in report.keys]
        click.echo(compact(rows))
    elif not report.refusals:
        click.echo("nothing was refused")
    elif each:
        for note in report.refusals:
            other = f" (against {note.other})" if note.other else ""
            click.echo(f"{note.at:%H:%M:%S.%f} {note.key} {note.agent}: {note.reason}{other}")
    else:
        _print(report)
    if report.dropped:
        click.echo(f"{report.dropped:,} more were not kept: too many at once", err=as_json)


def _print(report: interlock.ConflictReport) -> None:
    table = DataTable("key", "refusals", "reasons", "between", "within 100 ms", "retries")
    for key in report.keys:
        pairs = sorted(key.pairs.items(), key=lambda item: -item[1])
        between = ", ".join(f"{agent} / {other} {n}" for (agent, other), n in pairs[:3])
        more = f", {len(pairs) - 3} more" if len(pairs) > 3 else ""
        reasons = ", ".join(f"{name} {n}" for name, n in key.reasons.items())
        counts = (str(key.refusals), reasons, between + more, str(key.close), str(key.retries))
        table.add_row(key.key, *counts)
    Console().print(table)


def _key(key: interlock.KeyConflicts) -> dict[str, Any]:
    pairs = [{"agent": a, "other": b, "count": n} for (a, b), n in key.pairs.items()]
    return {**key._asdict(), "pairs": pairs}


def _note(note: interlock.RefusalNote) -> dict[str, Any]:
    return {**note._asdict(), "at": note.at.isoformat()}
