"""`interlock simulate`: runs the patterns, shows a table, says what happened, draws a picture.

How agents run and how a run is scored lives in `interlock.verify.simulate`.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import interlock
from interlock.cli.common import PIPED_WIDTH, reported, terminated_as_interrupted
from interlock.verify.simulate import PATTERNS, Pattern, Result, Settings, run
from interlock.verify.simulate.results import CannotDraw, check_drawable, draw
from interlock.verify.simulate.scenarios import SCENARIOS
from interlock.verify.simulate.settings import parse_multiple, parse_think
from interlock.verify.simulate.user_function import UserFunction

_COMPARED = (PATTERNS["lock"], PATTERNS["interlock-update"])  # on five keys, too

T = TypeVar("T")


def _parsed(
    parse: Callable[[str], T],
) -> Callable[[click.Context, click.Parameter, str | None], T | None]:
    """Return the callback of an option that `parse` reads, raising ValueError on bad text."""

    def callback(ctx: click.Context, param: click.Parameter, text: str | None) -> T | None:
        try:
            return None if text is None else parse(text)
        except ValueError as problem:
            raise click.BadParameter(str(problem), ctx, param) from problem

    return callback


_PATTERN_LIST = "\b\nPatterns:\n" + "\n".join(
    f"  {name}\n      {pattern.about}" for name, pattern in PATTERNS.items()
)
_PATTERN_LIST += "\n\n\b\nScenarios:\n" + "\n".join(
    f"  {name}\n      {scenario.about}" for name, scenario in SCENARIOS.items()
)


@click.command(epilog=_PATTERN_LIST)
@click.argument("function", required=False, metavar="[MODULE:FUNCTION]")
@click.option(
    "--agents", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many."
)
@click.option(
    "--think",
    callback=_parsed(parse_think),
    metavar="DURATION",
    default="20ms-60ms",
    show_default=True,
    help="How long each agent thinks: 50ms, 0.2s, or a range.",
)
@click.option(
    "--keys",
    type=click.IntRange(1, 1000),
    help="How many keys the agents share, evenly.  Default: one; the table has some of the "
    "patterns on five keys, too.",
)
@click.option(
    "--writes",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Contributions of each agent.",
)
@click.option(
    "--arrivals",
    callback=_parsed(parse_multiple),
    metavar="MULTIPLE",
    help="Agents arrive steadily, at this multiple of the rate that their keys can serve, such "
    "as 2x.  Without it, all at once.",
)
@click.option(
    "-p",
    "--pattern",
    "patterns",
    type=click.Choice(list(PATTERNS)),
    multiple=True,
    metavar="PATTERN",
    help="Run only this pattern; may be repeated.",
)
@click.option(
    "--scenario",
    type=click.Choice(list(SCENARIOS)),
    help="Run a story instead, the losing way beside Interlock's: booking, zombie, memory.",
)
@click.option(
    "--seed", type=int, help="Think times and arrivals follow from it.  Drawn and printed without."
)
@click.option("--threads", is_flag=True, help="Threads instead of processes, for a quick look.")
@click.option(
    "--store", help="Keep Interlock's store at this URL, such as sqlite:///team.db; else temporary."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    help="Draw each agent's timeline to a .svg or .png.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object per pattern, in a list.")
def simulate(
    function: str | None,
    agents: int,
    think: tuple[float, float],
    keys: int | None,
    writes: int,
    arrivals: float | None,
    patterns: tuple[str, ...],
    scenario: str | None,
    seed: int | None,
    threads: bool,
    store: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Watch agents share state the usual ways, and Interlock's.

    Every agent is a real process (or thread) that reads, thinks and writes on one real SQLite
    file.  Nothing is faked: the losing patterns really run.

    MODULE:FUNCTION is a function of your own to run instead, as `book(space, key, item, think)`: it
    writes `item` somewhere into the space, and may call `think(items)`, which takes its time.
    """
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
        if as_json:
            click.echo(f"seed {seed}", err=True)
    settings = Settings(agents, think, keys or 1, writes, seed, arrivals, threads)
    with reported(as_json), terminated_as_interrupted():
        settings, chosen = _chosen(settings, patterns, scenario, function)
        _check(chosen, store, plot)
        several = _COMPARED if chosen == (*PATTERNS.values(),) and not (keys or as_json) else ()
        with _progress(settings.agents) as bar:

            def ran(patterns: tuple[Pattern, ...], settings: Settings) -> list[Result]:
                return [
                    run(each, settings, store if each.takes_store else None, bar(each.name))
                    for each in patterns
                ]

            results = ran(chosen, settings)
            compared = ran(several, settings._replace(keys=min(5, agents)))
        if plot is not None:
            draw(results, plot)
        if as_json:
            click.echo(json.dumps([result.as_json() for result in results], indent=2))
            return
        _show(results, settings, store)
        if compared:
            _show(compared, settings._replace(keys=min(5, agents)), store)
        _say_where(chosen, store, plot)


def _chosen(
    settings: Settings, patterns: tuple[str, ...], scenario: str | None, function: str | None
) -> tuple[Settings, tuple[Pattern, ...]]:
    """Return the patterns to run, and the settings for them."""
    if function is not None:
        if scenario is not None:
            raise click.UsageError("Name a function of your own, or a --scenario, not both.")
        others = (PATTERNS[name] for name in dict.fromkeys(patterns))
        return settings, (UserFunction(function), *others)
    if scenario is None:
        return settings, tuple(PATTERNS[name] for name in dict.fromkeys(patterns or PATTERNS))
    if patterns:
        raise click.UsageError("--scenario has its own patterns: leave out --pattern.")
    story = SCENARIOS[scenario]
    if story.processes and settings.threads:
        raise click.UsageError(f"--scenario {scenario} stops processes: leave out --threads.")
    return story.settings(settings), story.patterns


def _check(chosen: tuple[Pattern, ...], store: str | None, plot: Path | None) -> None:
    """Refuse now what would otherwise fail after the agents have run."""
    if plot is not None:
        try:
            check_drawable(plot)
        except CannotDraw as problem:
            raise click.UsageError(f"--plot {plot}: {problem}") from problem
    if store is None:
        return
    takers = [pattern.name for pattern in chosen if pattern.takes_store]
    if not takers:
        names = ", ".join(pattern.name for pattern in chosen)
        raise click.UsageError(
            f"--store: none of the chosen patterns ({names}) uses it. Add "
            "--pattern interlock-update, or leave out --store."
        )
    if store.partition("?")[0] in ("sqlite://", "sqlite:///", "sqlite:///:memory:"):
        raise click.UsageError(
            "--store: agents can't share a store in memory. Name a file: sqlite:///team.db"
        )
    interlock.open(store, space=takers[0]).close()


@contextmanager
def _progress(agents: int) -> Iterator[Callable[[str], Callable[[int], None]]]:
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

        def bar(name: str) -> Callable[[int], None]:
            task = bars.add_task(name, total=agents)
            return lambda done: bars.update(task, completed=done)

        yield bar


def _show(results: list[Result], settings: Settings, store: str | None) -> None:
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    console.print(_heading(settings, store) + "\n")
    console.print(_table(results))
    console.print(
        "\nWall time: in brackets, beside the serial time: the thinking for the busiest key, one "
        "contribution after the other.\n"
    )
    for result in results:
        console.print(f"[bold]{result.pattern}[/]: {result.sentence()}")
        for error, count in sorted(result.errors.items(), key=lambda item: -item[1]):
            console.print(f"  {count} failed: {error}", style="dim", markup=False)
    console.print()


def _say_where(chosen: tuple[Pattern, ...], store: str | None, plot: Path | None) -> None:
    if store is not None:
        click.echo("The store is kept:")
        for pattern in chosen:
            if pattern.takes_store:
                url = interlock.redact_url(store)
                click.echo(f"  interlock log --store '{url}' --space {pattern.name}")
    if plot is not None:
        click.echo(f"The timelines are in {plot}.")


def _heading(settings: Settings, store: str | None) -> str:
    kind = "threads" if settings.threads else "processes"
    low, high = (_duration(seconds) for seconds in settings.think)
    think = low if low == high else f"{low} to {high}"
    writes = f", {settings.writes} writes each" if settings.writes > 1 else ""
    start = "all at once" if settings.arrivals is None else f"arriving at {settings.arrivals:g}x"
    place = "one SQLite file" if store is None else store.partition("://")[0] + " store"
    return (
        f"{settings.agents} agents ({kind}) on {settings.keys} key{'s' * (settings.keys > 1)} of "
        f"{place}, {start}, {think} of thinking{writes}, seed {settings.seed}"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{1000 * seconds:g} ms"


def _table(results: list[Result]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("pattern", no_wrap=True, vertical="bottom")
    for title in (
        "acknowledged\nwrites",
        "kept",
        "lost",
        "failed\nagents",
        "thoughts\nper agent",
        "wall time",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.pattern,
            str(result.acknowledged),
            str(result.kept),
            _bad(result.lost),
            _bad(result.failed),
            f"{result.thoughts:.2f}",
            result.wall_time(),
        )
    return table


def _bad(count: int) -> str:
    return f"[red bold]{count}[/]" if count else "[green]0[/]"


if __name__ == "__main__":
    simulate()
