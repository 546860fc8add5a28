"""The commands about whole spaces and whole stores: making, dropping, moving, and their health."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click
from rich.console import Console

import interlock
from interlock.cli.common import (
    ANOMALIES,
    INTERRUPTED,
    check_is_kept,
    compact,
    local,
    progress_bar,
    reported,
    terminated_as_interrupted,
)
from interlock.cli.table import DataTable

_space = click.option("--space", envvar="INTERLOCK_SPACE", default="default", show_default=True)
_heads_only = click.option("--heads-only", is_flag=True, help="What each key holds, no history.")


class Spaces(click.Group):
    """Lists the spaces where no other command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `spaces URL` as `spaces list URL`."""
        if not args or args[0] not in (*self.commands, "--help"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def whole_store(fn: Callable[..., None]) -> click.Command:
    """Make a click command of a function whose first arguments are the store's URL and --json."""

    @click.argument("url", required=False)
    @click.option("--store", envvar="INTERLOCK_STORE", help="The same as URL.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(fn)
    def command(url: str | None, store: str | None, as_json: bool, **arguments: Any) -> None:
        with reported(as_json):
            fn(store_url(url or store), as_json, **arguments)

    return click.command()(command)


def store_url(url: str | None, option: str = "Pass its URL, --store URL") -> str:
    """Return the URL of a store.  Raises click.UsageError."""
    if not url:
        raise click.UsageError(f"Name the store. {option}, or set INTERLOCK_STORE.")
    check_is_kept(url)
    return url


@click.group(cls=Spaces)
def spaces() -> None:
    """List the spaces of a store (`interlock spaces URL`), make, drop and rename them."""


@whole_store
def list_spaces(url: str, as_json: bool) -> None:
    """List the spaces of the store at URL: keys, entries, size and last commit."""
    with interlock.Store(url) as store:
        found = store.spaces()
    if as_json:
        for each in found:
            told = each._asdict()
            del told["time_us"]
            click.echo(compact({**told, "at": each.at.isoformat() if each.at else None}))
        return
    if not found:
        click.echo("no spaces")
        return
    table = DataTable("space", "keys", "entries", "size", "last commit", "")
    for each in found:
        state = "being imported" if each.importing else ""
        when = local(each.at) if each.at else ""
        table.add_row(each.name, each.keys, each.entries, _size(each.size), when, state)
    Console().print(table)


def _named(help_text: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command on one space, which is named first: `interlock spaces drop NAME`."""

    def decorate(fn: Callable[..., None]) -> click.Command:
        @click.argument("name")
        @click.option("--store", envvar="INTERLOCK_STORE", help="URL, such as sqlite:///team.db.")
        @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
        @functools.wraps(fn)
        def command(store: str | None, as_json: bool, **arguments: Any) -> None:
            with reported(as_json):
                fn(store_url(store, "Pass --store URL"), as_json, **arguments)

        return click.command(help=help_text)(command)

    return decorate


@_named("Make the space NAME, and the store where there is none.")
def create_space(url: str, as_json: bool, name: str) -> None:
    """Make a space."""
    with interlock.Store(url, create=True) as store:
        store.create(name)
    click.echo(compact({"created": name}) if as_json else f"space {name!r} is there")


@_named(
    "Drop the space NAME with all that it holds, for good. It asks first. Whoever has it open gets "
    "an error from then on."
)
@click.option("--yes", is_flag=True, help="Don't ask.")
def drop_space(url: str, as_json: bool, name: str, yes: bool) -> None:
    """Drop a space."""
    with interlock.Store(url) as store:
        if not yes:
            found = next((each for each in store.spaces() if each.name == name), None)
            if found is not None:
                held = f"{found.keys} keys and {found.entries} entries"
                click.confirm(f"Drop space {name!r} with {held}, for good?", abort=True, err=True)
        store.drop(name)
    click.echo(compact({"dropped": name}) if as_json else f"space {name!r} is gone")


@_named("Give the space NAME the name TO.")
@click.argument("to")
def rename_space(url: str, as_json: bool, name: str, to: str) -> None:
    """Rename a space."""
    with interlock.Store(url) as store:
        store.rename(name, to)
    click.echo(compact({"renamed": name, "to": to}) if as_json else f"{name!r} is {to!r} now")


spaces.add_command(list_spaces, "list")
spaces.add_command(create_space, "create")
spaces.add_command(drop_space, "drop")
spaces.add_command(rename_space, "rename")


@whole_store
@_space
@_heads_only
def export(url: str, as_json: bool, space: str, heads_only: bool) -> None:
    """Print a space of the store at URL as JSON lines, of one moment: redirect it to a file.

    Others may go on writing. The last line holds a digest, the same for the same space in whatever
    store. --json changes nothing: the lines are JSON.
    """
    with interlock.Store(url) as store, progress_bar("exporting") as advance:
        lines = store.export(space, heads_only=heads_only)
        header = next(lines)
        sys.stdout.write(header + "\n")
        told = json.loads(header)
        total, done = told["position"] - told["floor"], 0
        for line in lines:
            sys.stdout.write(line + "\n")
            if line.startswith('{"entry"'):
                done += 1
                if done % 1000 == 0:
                    advance(done, total)
        sys.stdout.flush()


@whole_store
@click.option("--space", help="Its name, if not that of the export.")
@click.option("--file", type=click.File(encoding="utf-8"), default="-", help="Default: stdin.")
def import_(url: str, as_json: bool, space: str | None, file: Iterable[str]) -> None:
    """Bring an export, from standard input or --file, into a new or empty space of a store.

    Interrupted, run it again with the same export: it goes on where it was.
    """
    with (
        interlock.Store(url, create=True) as store,
        progress_bar("importing") as advance,
        terminated_as_interrupted(),
    ):
        _print_copied(store.load(file, space, progress=advance), as_json)


@click.command()
@click.option("--from", "source", envvar="INTERLOCK_STORE", help="URL of the store to copy from.")
@click.option("--to", "target", required=True, help="URL of the store to copy to.")
@_space
@click.option("--to-space", help="Name of the space there, if not the same.")
@_heads_only
@click.option("--follow", is_flag=True, help="Go on with what is committed, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def copy(
    source: str | None,
    target: str,
    space: str,
    to_space: str | None,
    heads_only: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Copy a space into another store, with its history.

    Nobody can open the copy until it is finished. With --follow it never is: it goes on copying
    until Ctrl-C. To cut over, stop the writers, then run the same command without --follow: it
    copies the rest and opens the copy. Interrupted, run it again: it goes on where it was.
    """
    with reported(as_json):
        url = store_url(source, "Pass --from URL")
        check_is_kept(target)
        with (
            interlock.Store(url) as store,
            progress_bar("copying") as advance,
            terminated_as_interrupted(),
        ):
            try:
                done = store.copy(
                    space,
                    target,
                    to=to_space,
                    heads_only=heads_only,
                    follow=(lambda: True) if follow else None,
                    progress=advance,
                )
            except KeyboardInterrupt:
                click.echo(
                    "The copy is not finished, and nobody can open it. Run the same command "
                    "without --follow to finish it.",
                    err=True,
                )
                raise SystemExit(INTERRUPTED) from None
        _print_copied(done, as_json)


@whole_store
@_space
@click.option("--agent", envvar="INTERLOCK_AGENT", help="Name that the space is opened under.")
@click.option("--sql", is_flag=True, help="Print the SQL that makes the store, and make nothing.")
def init(url: str, as_json: bool, space: str, agent: str | None, sql: bool) -> None:
    """Make the store at URL and a space where they do not exist yet.

    Commands that only read make neither.
    """
    if sql:
        click.echo(interlock.schema_sql(url), nl=False)
        return
    with interlock.open(url, space=space, agent=agent) as opened:
        made = {"space": space, "position": opened.position()}
    click.echo(compact(made) if as_json else f"space {space!r} is there")


@whole_store
def doctor(url: str, as_json: bool) -> None:
    """Say how the store at URL is, and what to do about what is wrong.

    Exit code 6 where something is wrong.
    """
    with interlock.Store(url) as store:
        found = store.doctor()
    wrong = any(each.level == "wrong" for each in found)
    if as_json:
        for each in found:
            click.echo(compact(each._asdict()))
    else:
        table = DataTable("", "check", "found", "what to do")
        marks = {"ok": "ok", "note": "note", "wrong": "WRONG"}
        for each in found:
            table.add_row(marks[each.level], each.check, each.found, each.advice)
        Console().print(table)
    if wrong:
        raise SystemExit(ANOMALIES)


def _print_copied(done: interlock.Copied, as_json: bool) -> None:
    if as_json:
        click.echo(compact(done._asdict()))
    else:
        click.echo(f"space {done.space!r} is there, up to position {done.position}")


def _size(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 10_000:
            return f"{size} {unit}"
        size //= 1000
    return f"{size} TB"
