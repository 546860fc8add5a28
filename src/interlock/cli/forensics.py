"""`interlock forensics` and `interlock restore`: what happened to keys, and bringing it back."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

import interlock
from interlock.cli.checks import detect
from interlock.cli.common import ANOMALIES, DONE, PIPED_WIDTH, compact, local, moment_of, reported
from interlock.cli.table import DataTable
from interlock.forensics import (
    Event,
    Findings,
    Key,
    Proposal,
    Source,
    find_losses,
    open_source,
    open_target,
    propose,
    value_at,
)
from interlock.forensics.history import as_datetime
from interlock.forensics.lanes import check_drawable, draw


def source_options(fn: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which history a SOURCE is."""
    for option in reversed(
        (
            click.option("--space", help="The space of a store. [default: default]"),
            click.option("--table", help="The PostgreSQL table whose history is recorded."),
            click.option(
                "--log-prefix",
                default="write_log:",
                show_default=True,
                help="What the names of write logs in Redis begin with.",
            ),
        )
    ):
        fn = option(fn)
    return fn


def duration(text: str) -> float:
    """Return a duration, such as 100ms or 2s, in seconds.  Raises click.BadParameter."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text)
    if number is None:
        raise click.BadParameter(f"{text!r} is not a duration such as 100ms or 2s.")
    return float(number[1]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[number[2]]


@click.command()
@click.argument("source")
@source_options
@click.option("--match", metavar="PATTERN", help="Only keys like plan:*.")
@click.option("--key", help="Show the sequence of this key: who wrote what, when, from what.")
@click.option("--window", type=duration, default="100ms", show_default=True,
              help="Writes of different agents that are closer overlap.")  # fmt: skip
@click.option("--think", type=duration, default="60s", show_default=True,
              help="How long agents take from reading to writing, if unrecorded.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True,
              help="Without --json, show at most so many losses and rows.")  # fmt: skip
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False, writable=True),
              help="Draw a lane for each agent to a .svg or .png.")  # fmt: skip
@click.option("--reapply", is_flag=True, help="Merge what was lost into what is there now.")
@click.option("--possible", is_flag=True, help="Reapply losses that are only possible, too.")
@click.option("--into", metavar="URL", help="The live store to write to. [default: SOURCE]")
@click.option("--key-column", "columns", multiple=True, default=("id",), show_default=True,
              help="The column of a table's key. Repeat it for several.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Write what --reapply proposes.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def forensics(
    source: str,
    space: str | None,
    table: str | None,
    log_prefix: str,
    match: str | None,
    key: str | None,
    window: float,
    think: float,
    limit: int,
    plot: Path | None,
    reapply: bool,
    possible: bool,
    into: str | None,
    columns: tuple[str, ...],
    yes: bool,
    as_json: bool,
) -> None:
    """Reconstruct what happened to keys: overlapping writes, and what they lost.

    SOURCE is a file (JSONL, a MONITOR capture, an append-only file of Redis, a trace of agents),
    the folder of an append-only file, - for standard input, or a URL: of a store, of a Redis with
    write logs, or of a PostgreSQL (with --table).

    \b
    Exit codes: 0 nothing was lost, or --yes wrote it back; 6 something was lost;
    3 somebody was faster than --yes.
    """
    with reported(as_json):
        found = open_source(
            source, space=space, table=table, log_prefix=log_prefix, match=key or match
        )
        if found.kind == "trace":
            click.get_current_context().invoke(detect, file=source, limit=limit, as_json=as_json)
            return
        if plot is not None:
            check_drawable(plot)
        with _progress() as progress:
            findings = find_losses(
                found.read(),
                window=window if window >= found.resolution else -1.0,
                think=think,
                from_start=found.from_start,
                shows_reads=found.kind == "monitor",
                progress=progress,
            )
        if plot is not None:
            draw(findings, found.read(), plot)
        if reapply:
            code = _reapply(findings, into or source, space, table, columns, possible, yes, as_json)
            raise SystemExit(code)
        if as_json:
            click.echo(compact(_json(found, findings, key)))
        else:
            _print(found, findings, key, limit)
        if findings.losses:
            raise SystemExit(ANOMALIES)


@click.command()
@click.argument("key")
@source_options
@click.option("--position", type=click.IntRange(0), help="As it was after this position.")
@click.option("--time", help="As it was at this time (ISO 8601).")
@click.option("--source", help="The history to restore from. [default: --store]")
@click.option("--store", envvar="INTERLOCK_STORE", help="URL of the store to write to.")
@click.option("--key-column", "columns", multiple=True, default=("id",), show_default=True,
              help="The column of a table's key. Repeat it for several.")  # fmt: skip
@click.option("--agent", envvar="INTERLOCK_AGENT", help="Name that writes are logged under.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def restore(
    key: str,
    space: str | None,
    table: str | None,
    log_prefix: str,
    position: int | None,
    time: str | None,
    source: str | None,
    store: str | None,
    columns: tuple[str, ...],
    agent: str | None,
    as_json: bool,
) -> None:
    """Bring KEY back as it was at --position or --time, in a new guarded write."""
    with reported(as_json):
        if (position is None) == (time is None):
            raise click.UsageError("Pass either --position or --time.")
        into = store or source
        if into is None or "://" not in into:
            raise click.UsageError("Name the store: --store sqlite:///team.db.")
        history = open_source(
            source or into, space=space, table=table, log_prefix=log_prefix, match=None
        )
        when = None if time is None else moment_of("--time", time)
        time_us = None if when is None else round(when.timestamp() * 1e6)
        value = value_at(history.read(), key, position=position, time_us=time_us)
        options: dict[str, Any] = {} if agent is None else {"agent": agent}
        with open_target(into, space=space, table=table, key=columns, **options) as target:
            record = target.write(target.read(key), value)
        if as_json:
            click.echo(compact(record.to_dict()))
        else:
            click.echo(f"{key} is as it was at {time or f'position {position}'}")


def _reapply(
    findings: Findings,
    into: str,
    space: str | None,
    table: str | None,
    columns: tuple[str, ...],
    possible: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Show what would bring lost parts back, and write it; return the exit code."""
    with open_target(into, space=space, table=table, key=columns) as target:
        proposals = list(propose(findings.losses, target, possible=possible))
        for proposal in proposals:
            written = proposal.changed and yes
            if not as_json:
                _print_proposal(proposal)
            if written:
                target.write(proposal.record, proposal.value)
            if as_json:
                click.echo(compact(_proposal_json(proposal, written)))
            elif written:
                click.echo(f"{proposal.record.key} is written.")
    waiting = any(proposal.changed for proposal in proposals)
    if not as_json and not yes and waiting:
        click.echo("Nothing is written. Add --yes to write it.")
    clashes = any(proposal.clashes for proposal in proposals)
    return ANOMALIES if clashes or (waiting and not yes) else DONE


def _print_proposal(proposal: Proposal) -> None:
    before = _lines(proposal.record.value) if proposal.record.exists else []
    name = proposal.record.key
    shown = difflib.unified_diff(before, _lines(proposal.value), name, f"{name} (merged)", n=1)
    click.echo("\n".join(line.rstrip("\n") for line in shown) or f"{name}: nothing is missing")
    for clash in proposal.clashes:
        click.echo(f"{name}: {clash}: somebody has written another value there since")


def _lines(value: interlock.Json) -> list[str]:
    return json.dumps(value, ensure_ascii=False, indent=2).splitlines(keepends=True)


def _proposal_json(proposal: Proposal, written: bool) -> dict[str, object]:
    return {
        "key": proposal.record.key,
        "value": proposal.record.value,
        "proposed": proposal.value,
        "restored": [loss.to_json() for loss in proposal.restored],
        "clashes": [fact.to_json() for fact in proposal.clashes],
        "written": written,
    }


@contextmanager
def _progress() -> Iterator[Callable[[int], object] | None]:
    """Show how many events were read, where somebody looks."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = SpinnerColumn(), TextColumn("{task.completed:,.0f} events")
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda count: progress.update(task, completed=count)


def _print(source: Source, findings: Findings, key: str | None, limit: int) -> None:
    console = Console(
        highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED_WIDTH * 2
    )
    if key is not None:
        _print_sequence(console, source, key, limit)
    lost = [name for name in findings.keys if findings.keys[name].lost]
    quiet = len(findings.keys) - len(lost)
    if lost or findings.overlapping:
        table = DataTable("key", "writes", "agents", "overlaps", "certain", "likely", "possible")
        for name, each in _busiest(findings)[:limit]:
            found = each.lost or {}
            counts = (found.get(kind, 0) or "" for kind in ("certain", "likely", "possible"))
            table.add_row(name, each.writes, _agents(each), each.overlaps or "", *counts)
        console.print(table)
    for loss in findings.losses[:limit]:
        console.print(f"{loss.certainty}: {loss}", soft_wrap=True)
        console.print(f"    {loss.why}", soft_wrap=True)
    if len(findings.losses) > limit:
        console.print(f"... and {sum(findings.lost.values()) - limit} more (--limit)")
    for name in lost[:limit]:
        _print_last(console, findings.keys[name])
    told = ", ".join(f"{count} {kind}" for kind, count in findings.lost.items()) or "none"
    console.print(
        f"{findings.events:,} events, {len(findings.keys):,} keys ({quiet:,} lost nothing), "
        f"{findings.overlapping} overlapping writes; lost updates: {told}",
        soft_wrap=True,
    )


def _busiest(findings: Findings) -> list[tuple[str, Key]]:
    """The keys with losses or overlaps, most losses first."""
    found = [(name, key) for name, key in findings.keys.items() if key.lost or key.overlaps]
    return sorted(found, key=lambda pair: -sum((pair[1].lost or {}).values()))


def _print_last(console: Console, key: Key) -> None:
    if key.before_position:
        value = compact(key.before_loss)
        shown = value if len(value) <= 200 else f"{value[:197]}..."
        text = f"{key.name}: the last value before the first loss (position {key.before_position})"
        console.print(f"{text}: {shown}", soft_wrap=True)


def _agents(key: Key) -> str:
    names = sorted(filter(None, key.agents))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _print_sequence(console: Console, source: Source, key: str, limit: int) -> None:
    table = DataTable("position", "time", "agent", "kind", "size", "from", title=key)
    rows = 0
    for event in source.read():
        if event.key == key:
            rows += 1
            if rows <= limit:
                table.add_row(*_row(event).values())
    if rows:
        console.print(table)
    if rows > limit:
        console.print(f"... and {rows - limit} more (--limit)")


def _row(event: Event) -> dict[str, object]:
    size = event.size
    if size is None and event.kind not in ("read", "delete"):
        size = len(compact(event.value).encode())
    base = "" if event.base is None else f"version {event.base}"
    if event.read_us is not None:
        base = f"read at {local(as_datetime(event.read_us))}"
    return {
        "position": event.position,
        "time": local(as_datetime(event.time_us)) if event.time_us else "",
        "agent": event.agent,
        "kind": event.kind,
        "size": "" if size is None else size,
        "from": base,
    }


def _json(source: Source, findings: Findings, key: str | None) -> dict[str, object]:
    shown = {
        "source": source.name,
        "kind": source.kind,
        "events": findings.events,
        "lost": dict(findings.lost),
        "overlapping": findings.overlapping,
        "keys": [
            {
                "key": name,
                "writes": each.writes,
                "agents": sorted(filter(None, each.agents)),
                "overlaps": each.overlaps,
                "lost": each.lost or {},
                **(
                    {"before_loss": each.before_loss, "before_position": each.before_position}
                    if each.before_position
                    else {}
                ),
            }
            for name, each in findings.keys.items()
        ],
        "losses": [loss.to_json() for loss in findings.losses],
        "overlaps": [overlap.to_json() for overlap in findings.overlaps],
    }
    if key is not None:
        events = (event for event in source.read() if event.key == key)
        shown["sequence"] = [event.to_json() | {"position": event.position} for event in events]
    return shown
