"""The commands that read and write keys.

A write says what it was computed from, or --force.  Keys of adapters are not written here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain, islice
from typing import TextIO
from uuid import uuid4

import click

import interlock
from interlock.cli.common import (
    CONFLICT,
    compact,
    fail,
    local,
    moment_of,
    no_such_key,
    parsed,
    store_command,
)
from interlock.settings import refuse_reserved

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
@click.option("--by", help="Only what this agent committed.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice(["put", "append", "delete"]),
    multiple=True,
    help="Only entries of this kind; may be given several times.",
)
@_limit
@click.option("--newest-first", is_flag=True, help="Begin at the end of the log.")
def log(
    space: interlock.Space,
    as_json: bool,
    after: int | None,
    prefix: str,
    by: str | None,
    kinds: tuple[str, ...],
    limit: int | None,
    newest_first: bool,
) -> None:
    """Print the log: every commit, in order."""
    entries = space.log(
        after, prefix, agent=by, kinds=kinds or None, limit=limit, newest_first=newest_first
    )
    _print_entries(entries, as_json)


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
        raise click.UsageError("Pass either --position or --time.")
    if key is not None and prefix:
        raise click.UsageError("Pass either KEY or --prefix.")
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
        click.echo(compact(record.to_dict()))
    elif record.exists:
        click.echo(compact(record.value))
    if not record.exists:
        no_such_key(record, as_json)


def _print_records(records: dict[str, interlock.Record], as_json: bool) -> None:
    width = max((len(key) for key in records), default=0)
    for record in records.values():
        if as_json:
            click.echo(compact(record.to_dict()))
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
        return compact(entry.to_dict())
    gone = "(expired)" if entry.expired else "(deleted)" if entry.kind == "delete" else ""
    value = "(erased)" if entry.erased else gone or compact(entry.value)
    return (
        f"{entry.position:>6}  {local(entry.at)}  {entry.agent}  "
        f"{entry.key}  v{entry.version}  {value}"
    )


_version = click.option("--version", type=click.IntRange(0), help="Only if KEY is at this version.")
_op_id = click.option("--op-id", help="Makes running the same command again harmless.")


@store_command(reads=False)
@click.argument("key")
@click.argument("value")
@_version
@click.option("--create", is_flag=True, help="Only if KEY does not exist.")
@click.option("--force", is_flag=True, help="Over whatever KEY holds now.")
@click.option("--text", is_flag=True, help="VALUE is text, not JSON.")
@click.option("--expires", type=float, help="Seconds after which KEY does not exist any more.")
@_op_id
def put(
    space: interlock.Space,
    as_json: bool,
    key: str,
    value: str,
    version: int | None,
    create: bool,
    force: bool,
    text: bool,
    expires: float | None,
    op_id: str | None,
) -> None:
    """Write VALUE (JSON; `-` reads it from standard input) to KEY.

    Say what you know of KEY: --version N, --create or --force.  With none of them a key that does
    not exist is made and one that exists is left alone.
    """
    refuse_reserved([key])
    if (version is not None) + create + force > 1:
        raise click.UsageError("Pass only one of --version, --create and --force.")
    if value == "-":
        value = sys.stdin.read()
    document = value if text else parsed(value)
    if version is not None:
        was = _at_version(space, key, version)
        record = space.write(was, document, op_id=op_id, expires=expires)
    elif force:
        record = _forced(space, key, document, op_id, expires)
    else:
        try:
            record = space.create(key, document, op_id=op_id, expires=expires)
        except interlock.Conflict as conflict:
            if create:
                raise
            message = (
                f"{key!r} exists (version {conflict.actual}, by {conflict.writer!r}). "
                f"Pass --version {conflict.actual}, or --force to overwrite it."
            )
            fail(message, CONFLICT, as_json, record=conflict.record.to_dict())
    _told(record, as_json)


@store_command(reads=True)
@click.argument("key")
@click.option("--version", type=click.IntRange(1), required=True, help="The version it must be at.")
@_op_id
def delete(
    space: interlock.Space, as_json: bool, key: str, version: int, op_id: str | None
) -> None:
    """Delete KEY if it is at --version."""
    refuse_reserved([key])
    record = space.read(key)
    if record.version != version:  # somebody else was faster: the store says who
        record = record._replace(version=version, exists=True)
    _told(space.delete(record, op_id=op_id), as_json)


_at = click.option(
    "--version",
    type=click.IntRange(1),
    help="Only if these fields are as they were at this version.",
)


@store_command(reads=True)
@click.argument("key")
@click.argument("changes")
@_at
@_op_id
def patch(
    space: interlock.Space,
    as_json: bool,
    key: str,
    changes: str,
    version: int | None,
    op_id: str | None,
) -> None:
    """Change parts of the object at KEY: CHANGES is a JSON Merge Patch (`-`: standard input).

    `interlock patch booking/1 '{"seat": "12A", "hold": null}'` sets one field and removes another.
    """
    refuse_reserved([key])
    target = key if version is None else _at_version(space, key, version)
    document = parsed(sys.stdin.read() if changes == "-" else changes)
    _told(space.patch(target, document, op_id=op_id), as_json)


@store_command(reads=True)
@click.argument("key")
@click.option("--set", "fields", multiple=True, metavar="FIELD=JSON", help="Set a field.")
@click.option("--remove", multiple=True, metavar="FIELD", help="Remove a field.")
@_at
@_op_id
def update_fields(
    space: interlock.Space,
    as_json: bool,
    key: str,
    fields: tuple[str, ...],
    remove: tuple[str, ...],
    version: int | None,
    op_id: str | None,
) -> None:
    """Set and remove whole fields of the object at KEY; the others stay, whoever changes them."""
    refuse_reserved([key])
    target = key if version is None else _at_version(space, key, version)
    _told(space.update_fields(target, fields_of(fields), remove=remove, op_id=op_id), as_json)


@store_command(reads=False)
@click.argument("key")
@click.argument("item")
@click.option("--id", "id_", help="The same id twice is one contribution.")
@click.option("--dedupe", is_flag=True, help="The same ITEM twice is one contribution.")
@click.option("--text", is_flag=True, help="ITEM is text, not JSON.")
def append(
    space: interlock.Space,
    as_json: bool,
    key: str,
    item: str,
    id_: str | None,
    dedupe: bool,
    text: bool,
) -> None:
    """Add ITEM (JSON; `-` reads it from standard input) to the merged key KEY."""
    refuse_reserved([key])
    if item == "-":
        item = sys.stdin.read()
    document = item if text else parsed(item)
    entry = space.append(key, document, id=id_, dedupe=dedupe)
    if as_json:
        click.echo(compact(entry.to_dict()))
    else:
        click.echo(f"{key} has {entry.version} contributions (position {entry.position})")


@store_command(reads=True)
@click.argument("key")
@click.argument("state")
@click.option("--set", "changes", multiple=True, metavar="FIELD=JSON", help="Change a field, too.")
def transition(
    space: interlock.Space, as_json: bool, key: str, state: str, changes: tuple[str, ...]
) -> None:
    """Move the state machine of KEY to STATE."""
    refuse_reserved([key])
    _told(space.transition(key, state, **fields_of(changes)), as_json)


def fields_of(changes: Iterable[str]) -> dict[str, interlock.Json]:
    """Return the fields that `--set` options name."""
    fields = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise click.UsageError(f"--set {change!r} is not FIELD=JSON.")
        if name in fields:
            raise click.UsageError(f"--set names {name!r} twice.")
        fields[name] = parsed(value)
    return fields


@store_command(reads=True)
@click.argument("key")
def reclaim(space: interlock.Space, as_json: bool, key: str) -> None:
    """Take the lease of KEY away, and fence whoever read KEY before."""
    record = space.read(key)
    if not record.version and not record.epoch:  # neither written nor leased: a slip of the pen
        no_such_key(record, as_json)
    record = space.reclaim(key)
    if as_json:
        click.echo(compact(record.to_dict()))
    else:
        click.echo(f"{key} is at epoch {record.epoch}; earlier readers are fenced")


def _forced(
    space: interlock.Space,
    key: str,
    document: object,
    op_id: str | None,
    expires: float | None,
) -> interlock.Record:
    """Write over whatever is there."""
    if document is not None:
        record = space.update(key, lambda _: document, op_id=op_id, expires=expires)
    else:  # an update takes None for a forgotten return
        name = op_id or f"put-{uuid4().hex}"
        space.transact(lambda tx: tx.write(tx.read(key), None, expires=expires), op_id=name)
        done = space.outcome(name)
        assert done is not None  # it was committed just now, or before
        record = space.at(position=done.position).read(key)
    if record.value != document:
        raise interlock.Invalid(f"op_id {op_id!r} already belongs to another value. Use a new one.")
    return record


def _at_version(space: interlock.Space, key: str, version: int) -> interlock.Record:
    """The record as the caller read it, which rules and merges go by."""
    record = space.read(key)
    if record.version == version and not record.expired:  # else the store says that it has
        return record
    with suppress(interlock.Pruned):
        for entry in space.history(key):
            if entry.version == version:
                return space.at(position=entry.position).read(key)
    return record._replace(version=version, exists=False, value=None, body=None)


def _told(record: interlock.Record, as_json: bool) -> None:
    if as_json:
        click.echo(compact(record.to_dict()))
    else:
        click.echo(f"{record.key} is at version {record.version} (position {record.position})")
