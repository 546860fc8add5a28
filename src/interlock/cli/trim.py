"""The command that trims the log."""

from __future__ import annotations

import sys

import click
from rich.console import Console
from rich.progress import Progress

import interlock
from interlock.cli.common import compact, store_command

_STEP = 20_000  # positions between two signs of progress


@store_command(reads=True)
@click.option("--keep", type=float, help="Days, for keys whose rule says none (else: for ever).")
@click.option("--before", type=click.IntRange(0), help="Keep what begins at this position.")
def trim(space: interlock.Space, as_json: bool, keep: float | None, before: int | None) -> None:
    """Cut off the oldest part of the log that nobody needs; say what is kept, and why."""
    end = space.position() + 1 if before is None else before
    cut = 0
    done = space.trim(keep=keep, before=0)  # where the log begins
    hidden = as_json or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task("trimming", total=max(end - done.oldest, 0))
        while True:
            upto = min(end, done.oldest + _STEP)
            done = space.trim(keep=keep, before=upto)
            cut += done.cut
            progress.update(task, advance=done.cut)
            if done.oldest < upto or upto == end:
                break
    if as_json:
        click.echo(compact({"oldest": done.oldest, "cut": cut, "held": done.held}))
        return
    why = f": {done.held}" if done.held else ""
    click.echo(f"{cut} entries were cut; the log is kept from position {done.oldest} on{why}")
