"""`python -m benchmarks`: run the cases, print the table; `--write` rewrites RESULTS.md."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import tempfile
from pathlib import Path

import click

from benchmarks import cases, histories, projections, queue, runs, servers
from benchmarks.cases import Row

RESULTS = Path(__file__).with_name("RESULTS.md")


@click.command()
@click.argument("names", nargs=-1)
@click.option("--quick", is_flag=True, help="A tenth of the work.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--write", is_flag=True, help="Rewrite benchmarks/RESULTS.md.")
def main(names: tuple[str, ...], quick: bool, as_json: bool, write: bool) -> None:
    """Measure Interlock beside raw SQLite, PostgreSQL and Redis, both sides in one run."""
    rows: list[Row] = []
    kinds = (cases, histories, servers, projections, runs, queue)
    for case in (case for kind in kinds for case in kind.CASES):
        if names and case.__name__ not in names:
            continue
        click.echo(f"{case.__name__} ...", err=True)
        # Not in /tmp, which may be memory: durability is part of what is measured.
        with tempfile.TemporaryDirectory(prefix=".bench-", dir=".") as folder:
            rows += case(Path(folder), 10 if quick else 100)
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    text = _table(rows)
    click.echo(text)
    if write:
        RESULTS.write_text(text, encoding="utf-8")


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
