"""`python -m tests.mutants`: take each guard out of the sources; its test must fail."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter

import click

from tests.mutants import page
from tests.mutants.runner import BROKEN, FOUND, HANGS, SURVIVES, Runner, Verdict
from tests.mutants.table import Mutant, Table, Wrong, problems, read
from tests.repository import ROOT

ADVICE = {
    SURVIVES: "write the test that fails without the guard; where nothing can, take the guard out",
    HANGS: "name a test that fails instead of waiting, or give --timeout more seconds",
    BROKEN: "change what the table puts in the guard's place, so that the test fails by its checks",
}


@click.command()
@click.argument("names", nargs=-1)
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, show_default=True)
@click.option("--timeout", type=float, default=90.0, show_default=True, help="Seconds a mutant.")
@click.option("--json", "as_json", is_flag=True, help="One object; progress goes to stderr.")
@click.option("--list", "only_list", is_flag=True, help="Name the mutants; run nothing.")
@click.option("--write", is_flag=True, help="Rewrite the table of guarantees.md; run nothing.")
def main(
    names: tuple[str, ...], jobs: int, timeout: float, as_json: bool, only_list: bool, write: bool
) -> None:
    """Take guards out of the sources, one at a time; the test named for each must fail.

    NAMES are parts of the mutants' names, such as `epoch` or `redis/`: these mutants only.
    """
    try:
        table = read()
        chosen = _chosen(table, names)
    except Wrong as problem:
        raise click.ClickException(str(problem)) from None
    if only_list:
        click.echo("\n".join(f"{mutant.name}  {mutant.test}" for mutant in chosen))
        return
    if wrong := problems(table, ROOT):
        raise click.ClickException("the table is out of date:\n" + "\n".join(wrong))
    if write:
        page.write(table, ROOT)
        return
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell has its background jobs ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    try:
        verdicts = _run(chosen, jobs, timeout, as_json)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing is left behind", err=True)
        sys.exit(130)
    seconds = time.monotonic() - began
    if as_json:
        click.echo(json.dumps(_told(verdicts, seconds)))
    survivors = [each for each in verdicts if each.what != FOUND]
    click.echo(f"{seconds:.0f} s, {jobs} at once", err=as_json)
    if survivors:
        sys.exit(complaint(survivors, len(verdicts)))
    click.echo(f"{len(verdicts)} mutants, each found by its test", err=as_json)


def _chosen(table: Table, names: tuple[str, ...]) -> list[Mutant]:
    for name in names:
        if not any(name in mutant.name for mutant in table.mutants):
            raise Wrong(f"no mutant is named like {name!r}; --list names them")
    return [m for m in table.mutants if not names or any(name in m.name for name in names)]


def _run(chosen: list[Mutant], jobs: int, timeout: float, as_json: bool) -> list[Verdict]:
    """Judge mutants, telling each as it comes; the tests must pass without any of them first."""
    count = 0

    def say(verdict: Verdict) -> None:
        nonlocal count
        count += 1
        assert verdict.mutant is not None
        name, test = verdict.mutant.name, verdict.mutant.test.rpartition("::")[2]
        line = f"{count:4}/{len(chosen)} {name}: {verdict.what}"
        line += f" by {test}" if verdict.what == FOUND else f": {verdict.why}"
        click.echo(f"{line}, {verdict.seconds:.1f} s", err=as_json)

    with Runner(ROOT, jobs, timeout) as runner:
        tests = dict.fromkeys(mutant.test for mutant in chosen)
        click.echo(f"{len(tests)} tests as the sources are ...", err=True)
        failing = runner.without_mutants([*tests])
        if failing:
            raise click.ClickException("\n".join(each.why for each in failing))
        # Those that start a server first: no worker is left over at the end.
        ordered = sorted(chosen, key=lambda mutant: mutant.layer in ("core", "sqlite"))
        return runner.each(ordered, say)


def _told(verdicts: list[Verdict], seconds: float) -> dict[str, object]:
    counts = Counter(each.what for each in verdicts)
    rows = [
        {
            "mutant": each.mutant.name,
            "guard": each.mutant.guard,
            "file": each.mutant.file,
            "test": each.mutant.test,
            "verdict": each.what.lower(),
            "why": each.why,
            "seconds": round(each.seconds, 1),
        }
        for each in sorted(verdicts, key=lambda each: each.mutant.name if each.mutant else "")
        if each.mutant is not None
    ]
    ok = counts[FOUND] == len(verdicts)
    return {"ok": ok, "seconds": round(seconds, 1), "mutants": rows}


def complaint(survivors: list[Verdict], count: int) -> str:
    """Return which mutants are not found, and what to do about each kind."""
    lines = []
    for what, advice in ADVICE.items():
        named = [each for each in survivors if each.what == what and each.mutant is not None]
        if named:
            lines.append(f"{what}: {advice}:")
            lines += [f"  {each.mutant.name}  {each.mutant.test}" for each in named if each.mutant]
    return "\n".join([*lines, f"{len(survivors)} of {count} mutants are not found by their tests"])


if __name__ == "__main__":
    main()
