"""The commands for consumer groups, coordinators, curators and the length of the log."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Literal

import click
from rich.console import Console
from rich.progress import Progress

import interlock
from interlock.cli.common import compact, imported, store_command
from interlock.cli.keys import entry_line
from interlock.cli.table import DataTable
from interlock.settings import refuse_reserved


@click.group()
def groups() -> None:
    """Look at consumer groups, and forget them."""


@store_command(reads=True)
def list_groups(space: interlock.Space, as_json: bool) -> None:
    """List the groups: how far each is, its consumers, and what is not acknowledged."""
    found = [space.group(name).info() for name in space.groups()]
    if as_json:
        for info in found:
            click.echo(compact(_told(info)))
    elif not found:
        click.echo("no groups")
    for info in () if as_json else found:
        pending = sum(consumer.pending for consumer in info.consumers)
        click.echo(
            f"{info.name}: keys under {info.prefix!r}, dealt up to {info.cursor} of {info.head}, "
            f"{len(info.consumers)} consumers, {pending} pending"
        )


@store_command(reads=True)
@click.argument("group")
def show(space: interlock.Space, as_json: bool, group: str) -> None:
    """Show GROUP: its consumers, and the entries that are not acknowledged."""
    info = space.group(group).info()
    if as_json:
        click.echo(compact(_told(info)))
        return
    click.echo(f"{info.name}: keys under {info.prefix!r}, dealt up to {info.cursor} of {info.head}")
    table = DataTable("consumer", "pending", "last sign of life", "alive")
    for consumer in info.consumers:
        when = f"{consumer.at.astimezone():%Y-%m-%d %H:%M:%S}"
        table.add_row(consumer.name, str(consumer.pending), when, "yes" if consumer.alive else "no")
    Console().print(table)
    for pending in info.pending:
        click.echo(
            f"{pending.position:>6}  {pending.key}  with {pending.consumer}, "
            f"delivered {pending.deliveries} times"
        )


@store_command(reads=True)
@click.argument("group")
def drop(space: interlock.Space, as_json: bool, group: str) -> None:
    """Forget GROUP; stop its consumers first, because one that reads makes it anew."""
    space.group(group).drop()
    click.echo(compact({"dropped": group}) if as_json else f"{group} is forgotten")


@store_command(reads=True)
@click.argument("group")
@click.option("--prefix", default="", help="Only keys that begin with this.")
@click.option("--start", default="beginning", show_default=True, help="Or now, or a position.")
@click.option("--ttl", default=30.0, show_default=True, help="Seconds until others take over.")
@click.option("--limit", type=click.IntRange(1), help="At most this many entries.")
def consume(
    space: interlock.Space,
    as_json: bool,
    group: str,
    prefix: str,
    start: str,
    ttl: float,
    limit: int | None,
) -> None:
    """Print the entries of GROUP that fall to --agent, acknowledging each, until Ctrl-C."""
    first = int(start) if start.isdigit() else start
    with space.group(group, prefix=prefix, start=first, ttl=ttl) as member:
        for delivery in islice(member, limit):
            sys.stdout.write(entry_line(delivery.entry, as_json) + "\n")
            sys.stdout.flush()
            member.ack(delivery)


@store_command(reads=True)
@click.option("--into", required=True, help="The key that contributions are merged into.")
@click.option("--from", "source", required=True, help="The prefix that they are written under.")
@click.option("--reducer", required=True, help="append, union, counter, ..., or module:function.")
@click.option("--validate", help="module:function that says why a contribution is rejected.")
@click.option(
    "--dedupe", type=click.Choice(["id", "content", "none"]), default="id", show_default=True
)
@click.option("--name", help="Coordinators of one name stand by for each other. [default: --into]")
@click.option("--ttl", default=30.0, show_default=True, help="Seconds until another takes over.")
@click.option(
    "--on-error",
    type=click.Choice(["reject", "stop"]),
    default="reject",
    show_default=True,
    help="What becomes of a contribution that the functions fail on.",
)
@click.option("--once", is_flag=True, help="Merge what is there and stop.")
def coordinate(
    space: interlock.Space,
    as_json: bool,
    into: str,
    source: str,
    reducer: str,
    validate: str | None,
    dedupe: str,
    name: str | None,
    ttl: float,
    on_error: Literal["reject", "stop"],
    once: bool,
) -> None:
    """Merge contributions into one key, each exactly once, until Ctrl-C."""
    refuse_reserved([into])
    coordinator = space.coordinator(
        into,
        source=source,
        merge=imported(reducer) if ":" in reducer else reducer,
        validate=imported(validate) if validate else None,
        dedupe=None if dedupe == "none" else dedupe,
        name=name,
        ttl=ttl,
        on_error=on_error,
    )
    _work(coordinator, f"merging {source!r} into {into!r}", as_json, once)


@store_command(reads=True)
@click.argument("function", metavar="MODULE:FUNCTION")
@click.option("--once", is_flag=True, help="Curate what is there and stop.")
def curator(space: interlock.Space, as_json: bool, function: str, once: bool) -> None:
    """Check, deduplicate and route memory events, each exactly once, until Ctrl-C.

    FUNCTION is given the open space and returns space.curator(...), with your functions.
    """
    made = imported(function)(space)
    if not isinstance(made, interlock.Curator):
        raise interlock.Invalid(f"{function} returned {made!r:.60}, not space.curator(...).")
    _work(made, f"curating as {made.name!r}", as_json, once)


def _work(worker: interlock.Coordinator, about: str, as_json: bool, once: bool) -> None:
    if once:
        _tell(worker.catch_up(), as_json)
        return
    click.echo(f"{about} whenever this one has the lease", err=True)
    for progress in worker:
        _tell(progress, as_json)


def _tell(progress: interlock.Progress, as_json: bool) -> None:
    if as_json:
        click.echo(compact(progress._asdict()))
    else:
        click.echo(
            f"at {progress.cursor} of {progress.head}: {progress.merged} merged, "
            f"{progress.rejected} rejected, {progress.duplicates} duplicates"
        )
    sys.stdout.flush()


def _told(info: interlock.GroupInfo) -> dict[str, object]:
    return {
        **info._asdict(),
        "consumers": [
            {"name": c.name, "pending": c.pending, "at": c.at.isoformat(), "alive": c.alive}
            for c in info.consumers
        ],
        "pending": [pending._asdict() for pending in info.pending],
    }


groups.add_command(list_groups, "list")
groups.add_command(show)
groups.add_command(drop)


_STEP = 20_000  # positions between two signs of progress


@store_command(reads=True)
@click.option("--keep", type=float, help="Days, for keys whose rule says none (else: forever).")
@click.option("--before", type=click.IntRange(0), help="Keep what begins at this position.")
def trim(space: interlock.Space, as_json: bool, keep: float | None, before: int | None) -> None:
    """Delete expired keys and cut off the oldest part of the log that nobody needs; say what is
    kept, and why."""
    end = space.position() + 1 if before is None else before
    cut = 0
    done = space.trim(keep=keep, before=0)  # where the log begins
    expired = done.expired
    hidden = as_json or not sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task("trimming", total=max(end - done.oldest, 0))
        while True:
            upto = min(end, done.oldest + _STEP)
            done = space.trim(keep=keep, before=upto)
            cut += done.cut
            expired += done.expired
            progress.update(task, advance=done.cut)
            if done.oldest < upto or upto == end:
                break
    if as_json:
        told = {"oldest": done.oldest, "cut": cut, "held": done.held, "expired": expired}
        click.echo(compact(told))
        return
    if expired:
        click.echo(f"Deleted {expired} expired key{'' if expired == 1 else 's'}.")
    why = f": {done.held}" if done.held else ""
    if cut:
        click.echo(f"Trimmed {cut} entries; the oldest is position {done.oldest} now{why}.")
    else:
        click.echo(f"Nothing trimmed{why}.")
