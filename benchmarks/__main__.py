"""`python -m benchmarks`: run the cases, print the table; `--write` rewrites RESULTS.md."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks import (
    cases,
    contention,
    events,
    guards,
    histories,
    langgraph_saver,
    langgraph_store,
    projections,
    queue,
    runs,
    servers,
    service,
)
from benchmarks.cases import Row

RESULTS = Path(__file__).with_name("RESULTS.md")
KINDS: tuple[Any, ...] = (
    cases,
    histories,
    langgraph_store,
    langgraph_saver,
    servers,
    projections,
    events,
    guards,
    runs,
    queue,
    contention,
    service,
)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--quick", is_flag=True, help="A tenth of the work.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--write", is_flag=True, help="Rewrite benchmarks/RESULTS.md.")
def main(names: tuple[str, ...], quick: bool, as_json: bool, write: bool) -> None:
    """Measure Interlock beside raw SQLite, PostgreSQL and Redis, both sides in one run.

    Each case prints its lines when it is done.  One that fails says why; the others go on.
    """
    every = {case.__name__: case for kind in KINDS for case in kind.CASES}
    if unknown := sorted(set(names) - set(every)):
        raise click.UsageError(f"no case {', '.join(unknown)}; there are {', '.join(every)}")
    rows: list[Row] = []
    failed = []
    for name in names or every:
        # Not in /tmp, which may be memory: durability is part of what is measured.
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=".") as folder:
            try:
                found = every[name](Path(folder), 10 if quick else 100)
            except Exception as problem:
                failed.append(name)
                click.echo(f"{name}: failed: {type(problem).__name__}: {problem}", err=True)
                continue
        rows += found
        for row in found:
            click.echo(f"{name}: {row.what}: {row.figure} ({row.how})", err=True)
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        click.echo(_table(rows))
    if write and not failed:
        RESULTS.write_text(_table(rows), encoding="utf-8")
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


def _table(rows: list[Row]) -> str:
    machine = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {platform.system()}"
    )
    lines = [
        "# Results",
        "",
        f"Measured by `make bench` on {machine}. Both sides of a ratio run alternately in one run,",
        "on one machine, with the same durability (write-ahead log, every commit synchronous); the",
        "figure is the median of the rounds, with their range. Numbers of another machine differ;",
        "run it on yours.",
        "",
        "| what | measured | target | how |",
        "|---|---|---|---|",
        *(f"| {row.what} | {row.figure} | {row.target or '-'} | {row.how} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
