"""`python -m tests.peers`: run the suites that others wrote against our adapters."""

from __future__ import annotations

import json
import sys
from functools import partial

import click
from rich.console import Console
from rich.table import Table

from tests.peers.runner import OWN, Outcome, run
from tests.peers.sources import NotFetched
from tests.peers.suites import STORES, SUITES, Suite

NAMES = [suite.name for suite in SUITES]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[SUITE]...")
@click.option("--store", "stores", type=click.Choice(STORES), multiple=True, help="Only these.")
@click.option("--own", is_flag=True, help="What the framework brings, without our plugin.")
@click.option("--python", help="A Python with the packages, instead of the suite's environment.")
@click.option("-k", "matching", default="", help="Only tests that match, as pytest's own -k.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object; progress goes to stderr.")
def main(
    names: tuple[str, ...],
    stores: tuple[str, ...],
    own: bool,
    python: str | None,
    matching: str,
    jobs: int,
    as_json: bool,
) -> None:
    """Run suites of other packages, all of them or those named, and say what passed."""
    outcomes = []
    for suite, on in _asked(names, stores, own):
        label = f"{suite.name} {suite.version} on {on}"
        if not python and not suite.python.exists():
            raise click.ClickException(f"{suite.environment} is not there: run `make peers`")
        click.echo(f"{label} ...", err=True)
        say = partial(_progress, label)
        try:
            outcome = run(suite, on, say=say, python=python, matching=matching, jobs=jobs)
        except NotFetched as problem:
            raise click.ClickException(str(problem)) from None
        for line in outcome.wrong:
            click.echo(line, err=True)
        outcomes.append(outcome)
    if as_json:
        told = [each.as_json() for each in outcomes]
        click.echo(json.dumps({"ok": all(each.ok for each in outcomes), "suites": told}))
    else:
        _show(outcomes)
    sys.exit(int(not all(each.ok for each in outcomes)))


def _asked(names: tuple[str, ...], stores: tuple[str, ...], own: bool) -> list[tuple[Suite, str]]:
    """Return the suites to run, each with a store; what a framework brings has its own."""
    chosen = [suite for suite in SUITES if not names or suite.name in names]
    if own:
        return [(suite, OWN) for suite in chosen]
    return [(suite, on) for suite in chosen for on in suite.stores if not stores or on in stores]


def _progress(label: str, what: str) -> None:
    click.echo(f"{label}: {what}", err=True)


def _show(outcomes: list[Outcome]) -> None:
    table = Table("suite", "version", "store")
    for name in ("passed", "failed", "expected failures", "skipped", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("")
    for each in outcomes:
        counts = (each.passed, each.failed, each.expected, each.skipped)
        numbers = [f"{number:,}" for number in (*counts, round(each.seconds))]
        verdict = "ok" if each.ok else "WRONG"
        table.add_row(each.suite.name, each.suite.version, each.store, *numbers, verdict)
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
