"""The commands that read: get, keys, log, history, at, watch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import chain, islice
from typing import TextIO

import click

import interlock
from interlock.cli.common import (
    compact,
    entry_json,
    local,
    moment_of,
    no_such_key,
    record_json,
    store_command,
)

_after = click.option("--after", type=click.IntRange(0), help="Begin after this position.")
_prefix = click.option("--prefix", default="", help="Only keys that begin with this.")
_limit = click.option("--limit", type=click.IntRange(1), help="At most this many entries.")


@store_command(reads=True)
@click.argument("key")
def get(space: interlock.Space, as_json: bool, key: str) -> None:
    """Print the value of KEY (with --json: its record)."""
    _print_record(space.read(key), as_json)


@store_command(reads=True)
@click.argument("prefix", default="")
def keys(space: interlock.Space, as_json: bool, prefix: str) -> None:
    """List the keys that begin with PREFIX, with version, writer and time."""
    _print_records(space.scan(prefix), as_json)


@store_command(reads=True)
@_after
@_prefix
@_limit
def log(
    space: interlock.Space, as_json: bool, after: int | None, prefix: str, limit: int | None
) -> None:
    """Print the log: every commit, in order."""
    _print_entries(islice(space.log(after, prefix), limit), as_json)


@store_command(reads=True)
@click.argument("key")
def history(space: interlock.Space, as_json: bool, key: str) -> None:
    """Print every version of KEY, oldest first."""
    entries = space.history(key)
    first = next(entries, None)
    if first is not None:
        _print_entries(chain([first], entries), as_json)
    elif not (record := space.read(key)).exists:
        no_such_key(record, as_json)


@store_command(reads=True)
@click.argument("key", required=False)
@click.option("--position", type=click.IntRange(0), help="The moment after this log position.")
@click.option("--time", "when", help="The moment, such as 2026-11-21T09:30:00 (local if no zone).")
@_prefix
def at(
    space: interlock.Space,
    as_json: bool,
    key: str | None,
    position: int | None,
    when: str | None,
    prefix: str,
) -> None:
    """Print KEY, or the keys under --prefix, as they were at a moment."""
    if (position is None) == (when is None):
        raise click.UsageError("name the moment with --position or --time, and exactly one of them")
    if key is not None and prefix:
        raise click.UsageError("KEY and --prefix exclude each other")
    moment = space.at(position=position, time=None if when is None else moment_of("--time", when))
    if key is not None:
        _print_record(moment.read(key), as_json)
    else:
        _print_records(moment.scan(prefix), as_json)


@store_command(reads=True)
@_after
@_prefix
@_limit
def watch(
    space: interlock.Space, as_json: bool, after: int | None, prefix: str, limit: int | None
) -> None:
    """Print commits as they happen, from now or --after a position, until Ctrl-C."""
    _print_entries(islice(space.watch(prefix, after), limit), as_json)


def _print_record(record: interlock.Record, as_json: bool) -> None:
    if as_json:
        click.echo(compact(record_json(record)))
    elif record.exists:
        click.echo(compact(record.value))
    if not record.exists:
        no_such_key(record, as_json)


def _print_records(records: dict[str, interlock.Record], as_json: bool) -> None:
    width = max((len(key) for key in records), default=0)
    for record in records.values():
        if as_json:
            click.echo(compact(record_json(record)))
        else:
            when = local(record.at) if record.at else ""
            click.echo(f"{record.key:<{width}}  v{record.version:<4} {record.writer}  {when}")


def _print_entries(entries: Iterable[interlock.Entry], as_json: bool) -> None:
    out: TextIO = sys.stdout
    for entry in entries:
        out.write(entry_line(entry, as_json) + "\n")
        out.flush()


def entry_line(entry: interlock.Entry, as_json: bool) -> str:
    """Return a log entry as a line for people, or of JSON."""
    if as_json:
        return compact(entry_json(entry))
    value = "(deleted)" if entry.kind == "delete" else compact(entry.value)
    return (
        f"{entry.position:>6}  {local(entry.at)}  {entry.agent}  "
        f"{entry.key}  v{entry.version}  {value}"
    )
