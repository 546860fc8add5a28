"""`interlock check-store`: checks a space against itself, and against an earlier report of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

import interlock
from interlock.cli.common import ANOMALIES, UNDECIDED, compact, store_command
from interlock.verify import StoreReport
from interlock.verify import check_store as check


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
        report = check(
            space, earlier, lambda done, all: progress.update(task, completed=done, total=all)
        )
    if as_json:
        click.echo(compact(report.to_json()))
    else:
        _show(report)
    if not report.ok:
        raise SystemExit(ANOMALIES if report.found else UNDECIDED)


def _read(file: str) -> Any:
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as problem:
        raise interlock.Invalid(f"{file} cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise interlock.Invalid(f"{file} is not JSON: {problem}") from problem


def _show(report: StoreReport) -> None:
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
