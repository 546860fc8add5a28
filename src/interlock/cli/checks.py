"""The commands that check a recorded history, a store or a trace, and show which keys collide.

The checks are in `interlock.verify` and `interlock.forensics`, the formats in docs/.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

import interlock
from interlock.cli.common import ANOMALIES, UNDECIDED, compact, reported, store_command
from interlock.cli.table import DataTable
from interlock.forensics import Report, SessionReport, find_anomalies, read_trace
from interlock.forensics import export_trace as operations_of
from interlock.verify import (
    StoreReport,
    Verdict,
    check_linearizable,
    check_serializable,
    read_history,
)
from interlock.verify import check_store as problems_of

MODELS = ("linearizable", "serializable", "strict")


@click.command()
@click.argument("file")
@click.option(
    "--model",
    type=click.Choice(MODELS),
    help="What to check; strict is serializable in real time.  Without it: serializable if there "
    "is a transaction in FILE, else linearizable.",
)
@click.option(
    "--budget",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Steps for each key; a key that takes more is undecided.",
)
@click.option(
    "--limit", type=click.IntRange(1), default=10, show_default=True, help="Anomalies to print."
)
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def check(file: str, model: str | None, budget: int, limit: int, as_json: bool) -> None:
    """Check the history in FILE: lines of JSON, one operation each, of any system.

    \b
    Exit codes: 0 it keeps the model; 6 it does not; 7 undecided;
    2 FILE is not a history.
    """
    with reported(as_json):
        history = read_history(file)
        if model is None:
            has_transaction = any(operation.kind == "txn" for operation in history)
            model = "serializable" if has_transaction else "linearizable"
        if model == "linearizable":
            verdict = check_linearizable(history, budget=budget, limit=limit)
        else:
            verdict = check_serializable(history, strict=model == "strict", limit=limit)
        if not history:  # most likely the recording failed: that must not pass
            verdict = verdict._replace(undecided=("the file holds no operations",))
        if as_json:
            click.echo(compact(verdict.to_json()))
        else:
            _show_verdict(verdict)
    if not verdict.ok:
        raise SystemExit(ANOMALIES if verdict.anomalies else UNDECIDED)


def _show_verdict(verdict: Verdict) -> None:
    click.echo(verdict.headline())
    if verdict.anomalies:
        table = DataTable("anomaly", "keys", "operations", box=None, pad_edge=False)
        for anomaly in verdict.anomalies:
            names = [operation.id or f"line {operation.line}" for operation in anomaly.operations]
            table.add_row(anomaly.name, ", ".join(anomaly.keys), ", ".join(names))
        Console(highlight=False, markup=False).print(table)
    for anomaly in verdict.anomalies:
        click.echo(f"\n{anomaly}")
    if verdict.found > len(verdict.anomalies):
        click.echo(f"\n{verdict.found - len(verdict.anomalies)} more are not shown (--limit)")
    for reason in verdict.undecided:
        click.echo(f"undecided: {reason}")


@store_command(reads=True)
@click.option(
    "--against", metavar="FILE", help="An earlier report (--json): its entries must be unchanged."
)
def check_store(space: interlock.Space, as_json: bool, against: str | None) -> None:
    """Check that the log, the keys and the operations of a space agree.

    Keep what --json prints, and give it as --against later: an edit that keeps everything
    consistent, such as another text in a value, shows only so.

    \b
    Exit codes: 0 all agrees; 6 it does not; 7 something could not be checked.
    """
    earlier = None if against is None else _read(against)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking")
        report = problems_of(
            space, earlier, lambda done, all: progress.update(task, completed=done, total=all)
        )
    if as_json:
        click.echo(compact(report.to_json()))
    else:
        _show_report(report)
    if not report.ok:
        raise SystemExit(ANOMALIES if report.found else UNDECIDED)


def _read(file: str) -> interlock.Json:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as problem:
        raise interlock.Invalid(f"Can't read {file}: {problem.strerror}") from problem
    except ValueError as problem:
        raise interlock.Invalid(f"{file} is not JSON: {problem}") from problem


def _show_report(report: StoreReport) -> None:
    for problem in report.problems:
        where = "" if problem.position is None else f"position {problem.position}: "
        click.echo(f"{where}{problem.message}")
    if report.found > len(report.problems):
        click.echo(f"{report.found - len(report.problems)} more problems are not shown")
    for reason in report.undecided:
        click.echo(f"undecided: {reason}")
    kept = f"entries {report.first} to {report.position}, {report.keys} keys"
    click.echo(f"{kept}: {'all agree' if report.ok else f'{report.found} problems'}")
    click.echo(f"digest of these entries: {report.digest}")


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
def _progress(file: str) -> Iterator[Callable[[int], object] | None]:
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


def _json(report: Report) -> dict[str, object]:
    return {
        "operations": report.operations,
        "sessions": [_session(each) for each in report.sessions],
        "anomalies": [each.to_json() for each in report.anomalies],
    }


def _session(session: SessionReport) -> dict[str, object]:
    return {**session._asdict(), "level": f"L{session.level}"}


@store_command(reads=True)
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--each", is_flag=True, help="Print every refusal, newest first.")
def conflicts(space: interlock.Space, as_json: bool, limit: int, each: bool) -> None:
    """Show which keys collide, between whom, how often within 100 ms, and the retries spent."""
    report = space.conflicts(limit)
    if as_json:
        rows = (
            [_note_json(n) for n in report.refusals]
            if each
            else [_key_json(k) for k in report.keys]
        )
        click.echo(compact(rows))
    elif not report.refusals:
        click.echo("nothing was refused")
    elif each:
        for note in report.refusals:
            other = f" (against {note.other})" if note.other else ""
            click.echo(f"{note.at:%H:%M:%S.%f} {note.key} {note.agent}: {note.reason}{other}")
    else:
        _print_conflicts(report)
    if report.dropped:
        click.echo(f"{report.dropped:,} more were not kept: too many at once", err=as_json)


def _print_conflicts(report: interlock.ConflictReport) -> None:
    table = DataTable("key", "refusals", "reasons", "between", "within 100 ms", "retries")
    for key in report.keys:
        pairs = sorted(key.pairs.items(), key=lambda item: -item[1])
        between = ", ".join(f"{agent} / {other} {n}" for (agent, other), n in pairs[:3])
        more = f", {len(pairs) - 3} more" if len(pairs) > 3 else ""
        reasons = ", ".join(f"{name} {n}" for name, n in key.reasons.items())
        counts = (str(key.refusals), reasons, between + more, str(key.close), str(key.retries))
        table.add_row(key.key, *counts)
    Console().print(table)


def _key_json(key: interlock.KeyConflicts) -> dict[str, object]:
    pairs = [{"agent": a, "other": b, "count": n} for (a, b), n in key.pairs.items()]
    return {**key._asdict(), "pairs": pairs}


def _note_json(note: interlock.RefusalNote) -> dict[str, object]:
    return {**note._asdict(), "at": note.at.isoformat()}
