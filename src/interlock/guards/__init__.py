"""Guards: Interlock's verbs over data that stays where it is and that other programs use, too.

    guard = interlock.guards.redis(client)
    record = guard.read("booking:17")
    guard.write(record, {**record.value, "seat": "12A"})  # Conflict if anybody has changed it
    guard.update("booking:17", choose_seat)

A write through a guard never destroys a change that it was not computed from, whoever made it.  A
program that writes around the guard may still overwrite blindly; the next guarded write that was
computed from what it destroyed conflicts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Unpack, overload

from interlock._async.guard import AsyncGuard
from interlock._sync.guard import Guard
from interlock.errors import Invalid
from interlock.guards.adopt import Adopted, Adoption, adopt
from interlock.guards.log import log_key
from interlock.guards.made import AsyncOptions, Options, made
from interlock.guards.place import ABSENT, Changed
from interlock.guards.table_sql import init_table

if TYPE_CHECKING:
    import os
    import sqlite3

    import psycopg
    import psycopg_pool
    import redis as redis_py
    import redis.asyncio as redis_asyncio
    import sqlalchemy
    import sqlalchemy.ext.asyncio as sqlalchemy_asyncio
    import sqlalchemy.orm as sqlalchemy_orm

__all__ = [
    "ABSENT",
    "CONFLICT",
    "Adopted",
    "Adoption",
    "AsyncGuard",
    "Guard",
    "adopt",
    "collection",
    "custom",
    "file",
    "file_async",
    "init_table",
    "log_key",
    "redis",
    "row_key",
    "table",
]

CONFLICT = Changed()
"""What the `replace` of `custom` returns if the tag is not the one that is there."""


@overload
def custom(
    load: Callable[[str], Awaitable[tuple[Any, Any] | None]],
    replace: Callable[[str, Any, Any], Awaitable[Any]],
    *,
    name: str = ...,
    **options: Unpack[AsyncOptions],
) -> AsyncGuard: ...
@overload
def custom(
    load: Callable[[str], tuple[Any, Any] | None],
    replace: Callable[[str, Any, Any], Any],
    *,
    name: str = ...,
    **options: Unpack[Options],
) -> Guard: ...
def custom(
    load: Callable[[str], Any],
    replace: Callable[[str, Any, Any], Any],
    *,
    name: str = "custom",
    **options: Any,
) -> Guard | AsyncGuard:
    """Return a guard of whatever two functions can load and conditionally replace.

    `load(key)` returns `(tag, value)`: the value as JSON has it, and what tells it from any other,
    such as an ETag.  For nothing it returns None, or `(tag, guards.ABSENT)`.  `replace(key, tag,
    value)` writes if the tag still is that one, in one atomic step, and returns the new tag, else
    `guards.CONFLICT`; the value `guards.ABSENT` deletes.  What they raise is the caller's: after an
    exception of `replace` nobody knows whether it has written.  Coroutine functions make an
    AsyncGuard.

    Every guard takes these options.  `metadata`: whether the value keeps `_version`,
    `_last_writer` and `_updated_at` (None: where it carries `_version` already).  `machine`,
    `schema` and `on_conflict` are those of `interlock.guarded`.  `agent`: the name that writes are
    made under (default: that of the space, else host and process id).  `turns`: a space through
    which `update` takes turns at a key.  `log`: a space in which every write is an entry, done or
    refused, and every change by others that was found, under the key `guards.log_key(name, key)`.
    `lease`: a space whose leases of that key fence the writes, and through which turns are taken.
    The three are the same space.  `max_value_bytes`: limit of a value's JSON (1 MiB).  `name` says
    in messages what the guard is of; those who use one space give guards of the same data the same
    name, and different ones different names.  Raises Invalid.
    """
    from interlock.guards.places.custom import Custom

    return made(Custom(load, replace, name), **options)


@overload
def redis(
    client: redis_asyncio.Redis | redis_asyncio.RedisCluster,
    *,
    name: str = ...,
    kind: str = ...,
    receipts: bool = ...,
    **options: Unpack[AsyncOptions],
) -> AsyncGuard: ...
@overload
def redis(
    client: redis_py.Redis | redis_py.RedisCluster,
    *,
    name: str = ...,
    kind: str = ...,
    receipts: bool = ...,
    **options: Unpack[Options],
) -> Guard: ...
def redis(
    client: Any,
    *,
    name: str = "redis",
    kind: str = "json",
    receipts: bool = True,
    **options: Any,
) -> Guard | AsyncGuard:
    """Return a guard of the keys that a client of redis-py reaches.

    `kind`: `json`, strings that hold JSON; `hash`, whose fields are str and of which only those are
    written that change; or `list`, to whose items, each JSON, `append` adds.  All that is stored is
    compared, in one atomic step with replacing it; the key keeps its time to live.  A client of
    `redis.asyncio` makes an AsyncGuard.  `receipts`: whether a write whose answer was lost is known
    when it is sent again, by a key beside each one that is written; without them it may be applied
    and refused as a conflict, and a server that has `SET ... IFEQ` is sent that instead of a
    script.  The other options are those of `custom`.  Raises Invalid.
    """
    from interlock.guards.places.redis import KINDS

    if kind not in KINDS:
        raise Invalid(f"kind={kind!r:.40} must be 'json', 'hash' or 'list'.")
    return made(KINDS[kind](client, name, receipts), appended=kind == "list", **options)


def file(
    path: str | os.PathLike[str],
    *,
    name: str = "file",
    kind: str | None = None,
    merge: bool = False,
    **options: Unpack[Options],
) -> Guard:
    """Return a guard of the files in a folder, whose keys are their paths there, or of one file,
    whose only key is its name.

    `kind`: `json`, `toml` (writing needs the extra `toml`, and loses comments), `text`, whose
    values are str, or `bytes`, whose values are `{"base64": ...}`; None goes by the name of each
    file.  `merge`: a text that others have changed in other lines is merged; JSON and TOML are with
    `on_conflict="rebase"`.  A file is replaced as a whole, by a step that everybody sees at once,
    holding a lock that ends with its process.  The other options are those of `custom`.  Raises
    Invalid.
    """
    from interlock.guards.places.file import Files

    found = made(Files(path, name, kind, merge, asynchronous=False), **options)
    assert isinstance(found, Guard)
    return found


def file_async(
    path: str | os.PathLike[str],
    *,
    name: str = "file",
    kind: str | None = None,
    merge: bool = False,
    **options: Unpack[AsyncOptions],
) -> AsyncGuard:
    """Return the guard of `file` for asyncio: the disk is used in threads."""
    from interlock.guards.places.file import Files

    found = made(Files(path, name, kind, merge, asynchronous=True), **options)
    assert isinstance(found, AsyncGuard)
    return found


@overload
def table(
    connection: psycopg.AsyncConnection[Any]
    | psycopg_pool.AsyncConnectionPool[Any]
    | sqlalchemy_asyncio.AsyncEngine
    | sqlalchemy_asyncio.AsyncConnection
    | sqlalchemy_asyncio.AsyncSession,
    table: str,
    *,
    key: str | Iterable[str] = ...,
    version: str | None = ...,
    columns: Iterable[str] | None = ...,
    compare: str = ...,
    in_schema: str | None = ...,
    name: str | None = ...,
    **options: Unpack[AsyncOptions],
) -> AsyncGuard: ...
@overload
def table(
    connection: sqlite3.Connection
    | psycopg.Connection[Any]
    | psycopg_pool.ConnectionPool[Any]
    | sqlalchemy.Engine
    | sqlalchemy.Connection
    | sqlalchemy_orm.Session,
    table: str,
    *,
    key: str | Iterable[str] = ...,
    version: str | None = ...,
    columns: Iterable[str] | None = ...,
    compare: str = ...,
    in_schema: str | None = ...,
    name: str | None = ...,
    **options: Unpack[Options],
) -> Guard: ...
def table(
    connection: Any,
    table: str,
    *,
    key: str | Iterable[str] = "id",
    version: str | None = None,
    columns: Iterable[str] | None = None,
    compare: str = "row",
    in_schema: str | None = None,
    name: str | None = None,
    **options: Any,
) -> Guard | AsyncGuard:
    """Return a guard of the rows of a table in PostgreSQL or SQLite.

    `connection`: one of sqlite3, of psycopg or a pool of it, or SQLAlchemy's engine, connection or
    session; one of asyncio makes an AsyncGuard.  In a transaction that is open there, the guard
    takes part and the caller commits; otherwise each call is a transaction of its own.  READ
    COMMITTED is enough.  Threads share a pool or an engine, never a connection.

    A record's value is an object of the columns: JSON columns as JSON, times in ISO 8601, numerics
    as text.  A write sets what it changes; a column that it leaves out becomes NULL, but the key,
    `version` and computed columns stay.  A key is text, such as `"17"`; `row_key` makes one of
    several columns.

    `key`: the column, or columns, of the primary key or of a unique index.  `version`: an integer
    column that each write raises by one.  `columns`: those that are read (None: all).  `compare`:
    `row` compares all of these, so that what is written around the guard is seen in any case;
    `version` compares that column alone, which is safe only where every writer raises it (see
    `interlock guard PLACE init-table`).  `in_schema`: the schema of the table.  `name`: that of
    `custom` (default: that of the table).  The other options are those of `custom`; `machine=`
    needs the column of its field.  Raises Invalid.
    """
    from interlock.guards.places.rows import guarded_table

    place = guarded_table(connection, table, key, version, columns, compare, in_schema, name)
    return made(place, metadata=False, **options)


def row_key(*parts: object) -> str:
    """Return the key of a row, of the values of its key columns, such as `row_key("acme", 17)`."""
    from interlock.guards.places.table import row_key

    return row_key(*parts)


def collection(
    collection: Any,
    *,
    key: str = "_id",
    version: str | None = None,
    make_id: Callable[[str], Any] = str,
    name: str | None = None,
    **options: Any,
) -> Any:
    """Return a guard of the documents of a collection of pymongo, synchronous or asyncio.

    A write sets and unsets the fields that it changes, if all fields that were read are what they
    were.  `key`: the field, `_id` or one with a unique index, that names a document; `make_id`
    makes its value of the text that a key is, such as `int` or `bson.ObjectId`.  `version`: a field
    that each write raises by one.  Times are shown in ISO 8601, an ObjectId and a Decimal128 as
    text.  A collection of asyncio makes an AsyncGuard.  The other options are those of `custom`.
    Raises Invalid.
    """
    from interlock.guards.places.collection import Documents

    named = name or str(getattr(collection, "name", "collection"))
    return made(Documents(collection, key, version, make_id, named), metadata=False, **options)
