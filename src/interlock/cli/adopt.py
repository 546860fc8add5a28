"""`interlock adopt PLACE`: moves keys from where they are into a space, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import interlock
from interlock import guards
from interlock.cli.common import (
    CONFLICT,
    check_is_kept,
    compact,
    progress_bar,
    reported,
    terminated_as_interrupted,
)
from interlock.extras import needs

_SQLITE, _POSTGRES, _REDIS = ("sqlite:///",), ("postgresql://", "postgres://"), ("redis", "unix")


@click.command()
@click.argument("place")
@click.option("--keys", "pattern", default="*", show_default=True, help="Such as booking:*.")
@click.option("--kind", default="json", show_default=True, help="json, hash or list, of Redis.")
@click.option("--table", help="The table, where PLACE is a database.")
@click.option("--key", "columns", multiple=True, default=("id",), show_default=True,
              help="A column of its key. Repeat it for several.")  # fmt: skip
@click.option("--to", "store", required=True, help="URL of the store, such as sqlite:///team.db.")
@click.option("--space", envvar="INTERLOCK_SPACE", default="default", show_default=True)
@click.option("--prefix", help="Before each key in the space.  Default: none, or TABLE/.")
@click.option("--agent", envvar="INTERLOCK_AGENT", help="Name that writes are logged under.")
@click.option("--cut-over", is_flag=True, help="The space is what is read from now on.")
@click.option("--back", is_flag=True, help="Copy back to PLACE, which is read again from then on.")
@click.option("--dry-run", is_flag=True, help="Only say what would be copied.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def adopt(
    place: str,
    pattern: str,
    kind: str,
    table: str | None,
    columns: tuple[str, ...],
    store: str,
    space: str,
    prefix: str | None,
    agent: str | None,
    cut_over: bool,
    back: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy keys of PLACE into a space, and again what has changed there since.

    PLACE is redis://host:port/db, or sqlite:///app.db or postgresql://... with --table. A key that
    both sides have changed is left as it is and named, and the exit code is 3.
    """
    with reported(as_json):
        if cut_over and back:
            raise click.UsageError("Pass only one of --cut-over and --back.")
        if not dry_run:
            check_is_kept(store)
        prefix = prefix if prefix is not None else f"{table}/" if table else ""
        with (
            _guard(place, kind, table, columns, agent) as guard,
            interlock.open(store, space=space, agent=agent, create=not dry_run) as opened,
            progress_bar("copying") as advance,
            terminated_as_interrupted(),
        ):
            adoption = guards.adopt(guard, opened, prefix=prefix)
            keys = adoption.keys(pattern)
            if back:
                done = adoption.back(keys, dry_run=dry_run, progress=advance)
            else:
                done = adoption.copy(keys, cut_over=cut_over, dry_run=dry_run, progress=advance)
        _print(done, dry_run, as_json)
        if done.differs:
            raise SystemExit(CONFLICT)


def _print(done: guards.Adopted, dry_run: bool, as_json: bool) -> None:
    if as_json:
        click.echo(compact(done.to_dict()))
        return
    copied = "would be copied" if dry_run else "copied"
    click.echo(f"{len(done.copied)} {copied}, {len(done.same)} the same")
    for key in done.differs:
        click.echo(f"{key} was changed on both sides, or outside after the cut-over: left as it is")


@contextmanager
def _guard(
    place: str, kind: str, table: str | None, columns: tuple[str, ...], agent: str | None
) -> Iterator[guards.Guard]:
    """The guard of a place, over a connection of its own.  Raises Invalid, NotInstalled."""
    shown, connection = interlock.redact_url(place), None
    if not place.startswith((*_SQLITE, *_POSTGRES, *_REDIS)):
        raise interlock.Invalid(f"{shown!r} must be redis://..., sqlite:///... or postgresql://...")
    if place.startswith(_REDIS) == bool(table):
        raise interlock.Invalid(f"{shown!r} {'has no tables' if table else 'needs --table'}.")
    try:
        connection = _connected(place)
        yield (
            guards.table(connection, table, key=columns, agent=agent)
            if table
            else guards.redis(connection, kind=kind, agent=agent)
        )
    finally:
        if connection is not None:
            connection.close()


def _connected(place: str) -> Any:
    shown = interlock.redact_url(place)
    if place.startswith(_SQLITE):
        import sqlite3

        path = Path(place.removeprefix(_SQLITE[0]))
        if not path.is_file():
            raise interlock.Unavailable(f"There is no file {str(path)!r}.")
        return sqlite3.connect(path, isolation_level=None, timeout=10)
    if place.startswith(_POSTGRES):
        with needs("psycopg", "postgres"):
            import psycopg
        try:
            return psycopg.connect(place, autocommit=True)
        except psycopg.Error as problem:
            raise interlock.Unavailable(f"Can't reach {shown}: {problem}") from problem
    with needs("redis-py", "redis"):
        import redis
    try:
        return redis.Redis.from_url(place)
    except ValueError as problem:
        raise interlock.Invalid(f"{shown!r}: {problem}") from problem
