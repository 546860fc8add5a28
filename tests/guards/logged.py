"""A guard with a log: in the same atomic step, or apart from it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import redis
import redis.asyncio
import sqlalchemy

import interlock
from interlock import guards
from tests.facades import Bridge
from tests.guards.shelf import Shelf
from tests.guards.tables import bookings, sqlite_file

TOGETHER = ("sqlite", "sqlite-engine", "postgres", "postgres-async", "redis", "redis-async", "hash")
APART = ("custom", "file-async", "redis-elsewhere", "table-elsewhere")


class Logged(NamedTuple):
    """A guard with a log: the space, the key, and what others see and do outside."""

    guard: Callable[..., Any]  # options of the guard -> it, as if it were synchronous
    space: Any
    key: str
    name: str
    look: Callable[[], Any]
    overwrite: Callable[[str], object]  # the seat, blindly
    connection: Any = None

    def start(self, seat: str = "1A") -> dict[str, Any]:
        """Return a value to begin with."""
        return {"status": "PENDING", "seat": seat}

    @property
    def entries(self) -> list[Any]:
        """The entries of the log."""
        return list(self.space.history(guards.log_key(self.name, self.key)))

    @property
    def events(self) -> list[str]:
        """What they are of."""
        return [entry.value["event"] for entry in self.entries]

    def done(self) -> list[str]:
        """The same, without what is said before a write."""
        return [event for event in self.events if event != "in doubt"]


def made(
    param: str,
    fixture: Callable[[str], Any],
    folder: Path,
    loop: asyncio.AbstractEventLoop,
    stack: ExitStack,
) -> Logged:
    """Return a place with a log."""
    kind, _, mode = param.partition("-")
    asynchronous, name = mode == "async", f"g{uuid.uuid4().hex[:8]}"

    def opened(url: str) -> Any:
        space: Any
        if not asynchronous:
            if kind == "sqlite":  # the file has the application's tables
                space = interlock.open(connection=table.plain, space=name, agent="planner")
            else:
                space = interlock.open(url, space=name, agent="planner")
            stack.callback(space.close)
            return space, space
        space = loop.run_until_complete(interlock.open_async(url, space=name, agent="planner"))
        stack.callback(lambda: loop.run_until_complete(space.close()))
        return space, Bridge(space, loop)

    def shown(guard: Any) -> Any:
        return Bridge(guard, loop) if asynchronous else guard

    def options(given: dict[str, Any], space: Any) -> dict[str, Any]:
        return {"log": space, "name": name, **given}

    if kind in ("sqlite", "postgres", "table"):
        where = fixture("postgres_url") if kind == "postgres" else sqlite_file(folder)
        database = "postgres" if kind == "postgres" else "sqlite"
        table = stack.enter_context(bookings(database, where))
        used, connection = opened("sqlite://" if kind == "table" else where), table.plain
        if mode == "engine":
            connection = sqlalchemy.create_engine(table.url)
            stack.callback(connection.dispose)
        elif asynchronous:
            connection = loop.run_until_complete(
                psycopg.AsyncConnection.connect(where, autocommit=True)
            )
            stack.callback(lambda: loop.run_until_complete(connection.close()))
        return Logged(
            lambda **given: shown(
                guards.table(
                    connection, table.table, columns=["status", "seat"], **options(given, used[0])
                )
            ),
            used[1],
            "1",
            name,
            lambda: next((seat for (seat,) in table.run("SELECT seat FROM %t")), None),
            lambda seat: table.run("UPDATE %t SET seat = ?", seat),
            connection,
        )
    key = f"booking:{name}"
    if kind in ("redis", "hash"):
        url = fixture("redis_url")
        plain = stack.enter_context(redis.Redis.from_url(url))
        used = opened("sqlite://" if mode == "elsewhere" else url)
        client: Any = redis.asyncio.Redis.from_url(url) if asynchronous else plain
        if asynchronous:
            stack.callback(lambda: loop.run_until_complete(client.aclose()))
        what = "hash" if kind == "hash" else "json"
        return Logged(
            lambda **given: shown(guards.redis(client, kind=what, **options(given, used[0]))),
            used[1],
            key,
            name,
            lambda: (
                (plain.hget(key, "seat") or b"").decode() or None
                if kind == "hash"
                else json.loads(plain.get(key) or "{}").get("seat")
            ),
            lambda seat: (
                plain.hset(key, "seat", seat)
                if kind == "hash"
                else plain.set(key, json.dumps({"status": "PENDING", "seat": seat}))
            ),
            plain,
        )
    used = opened("sqlite://")
    if kind == "file":
        path = folder / "booking.json"

        def put(seat: str) -> None:
            (folder / "new").write_text(json.dumps({"status": "PENDING", "seat": seat}))
            (folder / "new").rename(path)

        return Logged(
            lambda **given: shown(guards.file_async(folder, **options(given, used[0]))),
            used[1],
            path.name,
            name,
            lambda: json.loads(path.read_bytes())["seat"] if path.exists() else None,
            put,
        )
    shelf = Shelf()
    return Logged(
        lambda **given: guards.custom(
            given.pop("load", shelf.load),
            given.pop("replace", shelf.replace),
            **options(given, used[0]),
        ),
        used[1],
        key,
        name,
        lambda: shelf.there[key][1]["seat"] if key in shelf.there else None,
        lambda seat: shelf.put(key, {"status": "PENDING", "seat": seat}),
        shelf,
    )
