"""`interlock torture`: many processes, one store, faults; then everything is checked.

How it works lives in `interlock.verify.torture`.
"""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

import interlock
from interlock.cli.common import (
    ANOMALIES,
    PIPED_WIDTH,
    UNDECIDED,
    compact,
    reported,
    terminated_as_interrupted,
)
from interlock.verify.torture import FAULTS, Report, Settings, new_space, run
from interlock.verify.torture.plan import told

_FAULT_LIST = "\b\nFaults:\n" + "\n".join(f"  {name:<8} {what}" for name, what in FAULTS.items())


def _faults(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Read the value of --faults."""
    names = tuple(FAULTS) if text is None else tuple(filter(None, text.split(",")))
    for name in names:
        if name not in FAULTS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(FAULTS)}", ctx, param)
    return names


@click.command(epilog=_FAULT_LIST)
@click.option(
    "--store", metavar="URL", help="The store to torture; without it a temporary SQLite file."
)
@click.option(
    "--guard",
    metavar="PLACE",
    help="Torture guards of data outside: redis://, postgresql://, sqlite:///FILE or a folder.",
)
@click.option(
    "--legacy",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="With --guard: how many write blindly, all the time.",
)
@click.option(
    "--operations",
    type=click.IntRange(100, 100_000_000),
    default=20_000,
    show_default=True,
    help="How many, by all workers.",
)
@click.option("--seed", type=int, help="The plan follows from it.  Drawn and printed without.")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=8, show_default=True, help="Processes."
)
@click.option(
    "--tasks",
    type=click.IntRange(1, 256),
    default=12,
    show_default=True,
    help="Agents in each process.",
)
@click.option(
    "--faults", callback=_faults, metavar="KIND,...", help="Only these faults; without it all."
)
@click.option("--no-faults", is_flag=True, help="Only the operations.")
@click.option(
    "--restart", metavar="COMMAND", help="Restarts the server, such as 'docker restart redis'."
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the recorded histories in this folder, for `interlock check`.",
)
@click.option("--plan", is_flag=True, help="Only print the plan: JSON, one object per line.")
@click.option("--yes", is_flag=True, help="Do not ask before writing to --store.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def torture(
    store: str | None,
    guard: str | None,
    legacy: int,
    operations: int,
    seed: int | None,
    workers: int,
    tasks: int,
    faults: tuple[str, ...],
    no_faults: bool,
    restart: str | None,
    keep: Path | None,
    plan: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Torture a store: mixed operations of many processes while faults strike.

    Workers are killed, stopped and given wrong clocks, connections are cut, replies lost, the
    server restarted.  What each was told is recorded, compared with the log, and checked for
    anomalies.  It all happens in a space of its own, which stays in the store.

    With --guard they work through guards, on keys, rows or files of their own, while others write
    blindly: a guarded write must not destroy what it has not seen.

    \b
    Exit codes: 0 no anomaly; 6 anomalies; 7 undecided; 1 the store stayed away.
    """
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    if guard is not None:
        if store is not None:
            raise click.UsageError("Pass only one of --store and --guard.")
        store = guard if "://" in guard else f"file://{Path(guard).resolve()}"
    settings = Settings(
        guarded=guard is not None,
        legacy=legacy,
        url=store or "sqlite://",
        space=new_space(seed),
        operations=operations,
        seed=seed,
        workers=workers,
        tasks=tasks,
        faults=() if no_faults else faults,
    )
    if plan:
        for line in told(settings):
            click.echo(compact(line))
        return
    with reported(as_json), terminated_as_interrupted(), _place(settings, store, yes) as placed:
        with _progress() as progress:
            report = run(placed, restart=_restarting(restart), kept=keep, progress=progress)
        if as_json:
            click.echo(json.dumps(report.as_json(), indent=2))
        else:
            _show(report, store, keep)
    if report.verdict != "ok":
        raise SystemExit(ANOMALIES if report.anomalies else UNDECIDED)


@contextmanager
def _place(settings: Settings, store: str | None, yes: bool) -> Iterator[Settings]:
    """Yield the settings with the store: the one that is named, or a temporary file."""
    if store is None:
        with tempfile.TemporaryDirectory(prefix="interlock-torture-") as folder:
            yield settings._replace(url=f"sqlite:///{folder}/torture.db")
        return
    scheme, _, path = store.partition("?")[0].partition(":///")
    if settings.guarded and scheme == "file" and not Path(f"/{path}").is_dir():
        raise click.UsageError(f"--guard: {f'/{path}'!r} is no folder.")
    if scheme in ("sqlite", "sqlite://") and path in ("", ":memory:"):
        raise click.UsageError(
            "--store: processes can't share a store in memory. Name a file: sqlite:///torture.db"
        )
    new = scheme == "sqlite" and not Path(path).exists()
    if not new and not yes:
        where = f"the space {settings.space} of that store"
        if settings.guarded:
            where = f"keys, a table or a folder named {settings.space} in that place"
        warning = (
            f"This writes about {settings.operations:,} operations into {where}, as fast as it "
            "can; what it writes stays there."
        )
        if not sys.stdin.isatty():
            raise click.UsageError(f"{warning}  Add --yes if that is meant.")
        click.confirm(f"{warning}  Go on?", abort=True, err=True)
    yield settings


def _restarting(command: str | None) -> Callable[[], None] | None:
    """Return what runs the command of --restart."""
    if command is None:
        return None
    words = shlex.split(command)

    def restart() -> None:
        try:
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as problem:
            raise interlock.Invalid(f"--restart {command}: {problem}") from problem

    return restart


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield what is told of the progress; shown on a terminal only."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        stages: dict[str, TaskID] = {}

        def progress(stage: str, done: int, of: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=of)
            bars.update(stages[stage], completed=done)

        yield progress


def _show(report: Report, store: str | None, keep: Path | None) -> None:
    console = Console(
        width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False, markup=False
    )
    place = "one SQLite file" if store is None else f"{report.store} store"
    console.print(
        f"{report.workers} processes on {place}, seed {report.seed}, "
        f"{report.seconds:.1f} s, {report.rate:,.0f} operations/s\n"
    )
    table = Table("operation", box=None, header_style="bold", pad_edge=False)
    table.add_column("number", justify="right")
    table.add_column("  outcome")
    table.add_column("number", justify="right")
    table.add_column("  fault")
    table.add_column("number", justify="right")
    columns = (report.kinds, _outcomes(report), report.faults | dict.fromkeys(report.missing, "-"))
    rows = [[(name, f"{n:,}" if n != "-" else n) for name, n in c.items()] for c in columns]
    for row in range(max(map(len, rows))):
        cells = [column[row] if row < len(column) else ("", "") for column in rows]
        first, second, third = cells
        table.add_row(*first, f"  {second[0]}", second[1], f"  {third[0]}", third[1])
    console.print(table)
    where = "ledger" if report.guarded else "log"
    console.print(
        f"\n{report.entries:,} entries in the {where}; {report.commits:,} commits acknowledged; "
        f"{report.doubtful:,} without an answer, of which {report.doubtful_applied:,} were applied."
    )
    console.print(
        f"Longest time without an acknowledgement: {report.away:.2f} s; "
        f"{report.away_in_all:.1f} s in all (of half a second or more)."
    )
    for fault, why in report.missing.items():
        console.print(f"Not injected: {fault}, because {why}.")
    if report.guarded:
        console.print(
            f"{report.blind:,} blind writes, which destroyed {report.blindly_destroyed:,} guarded "
            f"ones that were acknowledged. What is named {report.space} stays in the place."
        )
    elif store is not None:
        console.print(f"The space {report.space} stays in the store.")
    if keep is not None:
        what = "ledger is" if report.guarded else "histories are"
        console.print(f"The {what} in {keep}.")
    for name, count in report.anomalies.items():
        console.print(f"\n{name}: {count:,}", style="red bold")
        for example in report.examples[name]:
            console.print(f"  {example}")
    for reason in report.undecided[:10]:
        console.print(f"undecided: {reason}")
    console.print(f"\n{report.headline()}", style="bold", soft_wrap=True)


def _outcomes(report: Report) -> dict[str, int]:
    """Return the outcomes, the refusals and faults by their names."""
    acknowledged = {"acknowledged": report.outcomes.get("ok", 0)}
    return acknowledged | report.reasons


if __name__ == "__main__":
    torture()
