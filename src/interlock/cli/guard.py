"""The commands on data that stays where it is: `interlock guard PLACE get|put|...`."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

import interlock
from interlock import guards
from interlock.cli.common import (
    CONFLICT,
    check_is_kept,
    compact,
    fail,
    no_such_key,
    parsed,
    reported,
)
from interlock.cli.guard_table import init_table
from interlock.cli.keys import fields_of
from interlock.cli.rules import named_machine
from interlock.extras import needs

_REDIS = ("redis://", "rediss://", "unix://")


class _Asked(NamedTuple):
    place: str
    kind: str | None
    machine: str | None
    agent: str | None
    metadata: bool | None
    name: str | None
    log: str | None
    lease: str | None
    space: str


@click.group()
@click.argument("place")
@click.option("--kind", help="json or hash of Redis; json, toml, text or bytes of files.")
@click.option("--machine", metavar="NAME", help="Named as for `interlock machine draw`.")
@click.option("--agent", envvar="INTERLOCK_AGENT", help="Name that writes are made under.")
@click.option("--metadata/--no-metadata", default=None, help="Keep _version in the value, or not.")
@click.option("--name", help="Name of the guard in the log (default: redis or file).")
@click.option("--log", metavar="URL", help="Store of the space where every write is an entry.")
@click.option("--lease", metavar="URL", help="Store of the space whose leases fence the writes.")
@click.option("--space", envvar="INTERLOCK_SPACE", default="default", show_default=True,
              help="That space.")  # fmt: skip
@click.pass_context
def guard(
    context: click.Context,
    place: str,
    kind: str | None,
    machine: str | None,
    agent: str | None,
    metadata: bool | None,
    name: str | None,
    log: str | None,
    lease: str | None,
    space: str,
) -> None:
    """Read and write data that stays where it is, and never over what was not seen.

    PLACE is redis://host:port/db, a folder, or a file, whose key is its name.  The options of the
    guard come before it.
    """
    context.obj = _Asked(place, kind, machine, agent, metadata, name, log, lease, space)


def _command(fn: Callable[..., None]) -> click.Command:
    """Make a command on PLACE of a function whose first arguments are the guard and --json.

    `get` makes no store.
    """
    name = fn.__name__.replace("_", "-")

    @guard.command(name)
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(fn)
    def command(as_json: bool, **arguments: object) -> None:
        asked: _Asked = click.get_current_context().obj
        with reported(as_json), _space(asked, create=name != "get") as space:
            fn(_guard(asked, space), as_json, **arguments)

    return command


@_command
@click.argument("key")
def get(guard: guards.Guard, as_json: bool, key: str) -> None:
    """Print the value of KEY (with --json: its record, and its tag)."""
    record = guard.read(key)
    if not record.exists:
        no_such_key(record, as_json)
    click.echo(compact(_told(record) if as_json else record.value))


@_command
@click.argument("key")
@click.argument("value")
@click.option("--tag", help="Only if KEY still has the tag that `get --json` showed.")
@click.option("--force", is_flag=True, help="Over whatever KEY holds now.")
@click.option("--text", is_flag=True, help="VALUE is text, not JSON.")
def put(
    guard: guards.Guard,
    as_json: bool,
    key: str,
    value: str,
    tag: str | None,
    force: bool,
    text: bool,
) -> None:
    """Write VALUE (JSON; `-` reads it from standard input) to KEY.

    With neither --tag nor --force KEY must not exist.
    """
    if tag is not None and force:
        raise click.UsageError("Pass only one of --tag and --force.")
    given = sys.stdin.read() if value == "-" else value
    document = given if text else parsed(given)
    if force:
        _done(guard.update(key, lambda _: document), as_json)
        return
    if tag is None:
        _done(guard.create(key, document), as_json)
        return
    record = guard.read(key)
    if _tag(record) != tag:
        message = f"{key!r} has the tag {_tag(record)} now. Re-read, recompute and write again."
        fail(message, CONFLICT, as_json, record=_told(record))
    _done(guard.write(record, document), as_json)


@_command
@click.argument("key")
@click.option("--set", "fields", multiple=True, metavar="FIELD=JSON", help="Set a field.")
@click.option("--remove", multiple=True, metavar="FIELD", help="Remove a field.")
def update_fields(
    guard: guards.Guard, as_json: bool, key: str, fields: tuple[str, ...], remove: tuple[str, ...]
) -> None:
    """Set and remove whole fields of the object at KEY; the others stay, whoever changes them."""
    _done(guard.update_fields(key, fields_of(fields), remove=remove), as_json)


@_command
@click.argument("key")
@click.argument("state")
@click.option("--set", "changes", multiple=True, metavar="FIELD=JSON", help="Change a field, too.")
def transition(
    guard: guards.Guard, as_json: bool, key: str, state: str, changes: tuple[str, ...]
) -> None:
    """Move the value of KEY to STATE, along the --machine of the guard."""
    _done(guard.transition(key, state, **fields_of(changes)), as_json)


@contextmanager
def _space(asked: _Asked, create: bool) -> Iterator[interlock.Space | None]:
    """The space of the log and of the leases, if there are any.  Raises UsageError."""
    url = asked.log or asked.lease
    if url is None:
        yield None
        return
    if asked.lease not in (None, url):
        raise click.UsageError("--log and --lease are one space: give both the same URL.")
    check_is_kept(url)
    with interlock.open(url, asked.space, asked.agent, create=create) as space:
        yield space


def _guard(asked: _Asked, space: interlock.Space | None) -> guards.Guard:
    """Return the guard of a place.  Raises Invalid, NotInstalled."""
    machine = None if asked.machine is None else named_machine(asked.machine, None, "default")
    options: dict[str, Any] = {"machine": machine, "agent": asked.agent, "metadata": asked.metadata}
    options |= {} if asked.name is None else {"name": asked.name}
    options |= {"log": asked.log and space, "lease": asked.lease and space}
    if not asked.place.startswith(_REDIS):
        if "://" in asked.place:
            shown = interlock.redact_url(asked.place)
            raise interlock.Invalid(f"{shown!r} must be redis://..., a folder or a file.")
        return guards.file(Path(asked.place), kind=asked.kind, **options)
    with needs("redis-py", "redis"):
        import redis
    try:
        client = redis.Redis.from_url(asked.place)
    except ValueError as problem:
        raise interlock.Invalid(f"{interlock.redact_url(asked.place)!r}: {problem}") from problem
    return guards.redis(client, kind=asked.kind or "json", **options)


def _tag(record: interlock.Record) -> str:
    """Return a short text that stands for what is stored."""
    stored = record.tag if isinstance(record.tag, bytes) else repr(record.tag).encode()
    return hashlib.sha256(stored).hexdigest()[:24]


def _told(record: interlock.Record) -> dict[str, object]:
    return {**record.to_dict(), "tag": _tag(record)}


def _done(record: interlock.Record, as_json: bool) -> None:
    version = f" (version {record.version})" if record.version else ""
    click.echo(compact(_told(record)) if as_json else f"{record.key} is written{version}")


guard.add_command(init_table)
