"""`interlock simulate`: runs the patterns, shows a table, says what happened, draws a picture."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from interlock.verify.simulate import PATTERNS, Result, Settings, run
from interlock.verify.simulate.picture import draw

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m)")


class Duration(click.ParamType):
    """A duration such as `50ms`, or a range such as `20ms-60ms`; in seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        """Return the shortest and the longest duration."""
        if isinstance(value, tuple):
            return value
        found = [_DURATION.fullmatch(part.strip()) for part in str(value).split("-")]
        if not all(found) or len(found) > 2:
            self.fail(f"{value!r} is not a duration such as 50ms, or a range such as 20ms-60ms")
        times = [float(match[1]) * _UNITS[match[2]] for match in found if match]
        if times[0] > times[-1]:
            self.fail(f"{value!r} begins with the longer duration")
        return times[0], times[-1]


class Rate(click.ParamType):
    """A multiple such as `2x`."""

    name = "rate"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Return the multiple."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", str(value))
        if match is None or float(match[1]) <= 0:
            self.fail(f"{value!r} is not a multiple such as 2x")
        return float(match[1])


@click.command()
@click.option("--agents", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--think", type=Duration(), default="20ms-60ms", show_default=True)
@click.option("--keys", type=click.IntRange(1), default=1, show_default=True, help="Shared keys.")
@click.option("--writes", type=click.IntRange(1), default=1, show_default=True, help="Per agent.")
@click.option("--arrivals", type=Rate(), help="Agents arrive at this multiple of one key's rate.")
@click.option("-p", "--pattern", "patterns", type=click.Choice(list(PATTERNS)), multiple=True)
@click.option("--seed", type=int, help="Think times follow from it (default: drawn, and printed).")
@click.option("--threads", is_flag=True, help="Threads instead of processes, for a quick look.")
@click.option("--store", help="Keep Interlock's store at this URL (default: a temporary file).")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw timelines to a .svg or .png.")
@click.option("--json", "as_json", is_flag=True, help="Print one object per pattern, in a list.")
def simulate(
    agents: int,
    think: tuple[float, float],
    keys: int,
    writes: int,
    arrivals: float | None,
    patterns: tuple[str, ...],
    seed: int | None,
    threads: bool,
    store: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Watch agents share state the usual ways, and Interlock's.

    Every agent is a real process (or thread) that reads, thinks and writes on one real SQLite
    file.  Nothing is faked: the losing patterns really run.
    """
    seed = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    settings = Settings(agents, think, keys, writes, seed, arrivals, threads)
    if plot is not None and plot.suffix not in (".svg", ".png"):
        raise click.UsageError(f"--plot {plot}: the picture is a .svg or a .png file")
    chosen = patterns or tuple(PATTERNS)
    results = []
    with _progress(agents, len(chosen)) as watch:
        for name in chosen:
            own = store if name.startswith("interlock") else None
            results.append(run(name, settings, own, watch(name)))
    if plot is not None:
        draw(results, plot)
    if as_json:
        click.echo(json.dumps([result.as_json() for result in results], indent=2))
    else:
        _show(results, settings, plot)


@contextmanager
def _progress(agents: int, patterns: int) -> Iterator[Any]:
    """Yield what makes a pattern's progress callback; shown on a terminal only."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("agents"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:

        def watch(name: str) -> Any:
            task = bars.add_task(name, total=agents)
            return lambda done: bars.update(task, completed=done)

        yield watch


def _show(results: list[Result], settings: Settings, plot: Path | None) -> None:
    width = None if sys.stdout.isatty() else 100
    console = Console(width=width, highlight=False)
    kind = "threads" if settings.threads else "processes"
    low, high = (f"{1000 * seconds:g}" for seconds in settings.think)
    console.print(
        f"{settings.agents} agents ({kind}) on {settings.keys} key{'s' * (settings.keys > 1)} of "
        f"one SQLite file, {low}-{high} ms of thinking, seed {settings.seed}\n"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("pattern")
    for title in ("acknowledged", "kept", "lost", "failed", "thoughts", "wall time"):
        table.add_column(title, justify="right")
    for result in results:
        table.add_row(
            result.pattern,
            str(result.acknowledged),
            str(result.kept),
            f"[red bold]{result.lost}[/]" if result.lost else "[green]0[/]",
            f"[red bold]{result.failed}[/]" if result.failed else "[green]0[/]",
            f"{result.thoughts:.2f}",
            f"{result.seconds:.1f} s ({result.seconds / result.lower_bound:.2f}x)",
        )
    console.print(table)
    console.print(
        "\nthoughts: per agent.  wall time: beside the time of one agent after the other.\n"
    )
    for result in results:
        console.print(f"[bold]{result.pattern}[/]: {result.sentence()}")
        for error, count in result.errors.items():
            if "gave up" not in error:
                console.print(f"  {count} x {error}", style="red")
    if plot is not None:
        console.print(f"\nThe timelines are in {plot}.")
