"""The data that guards are tortured on: keys of Redis, rows of a table, or files, made for one run.

Each value says which operation wrote it (`by`), and what that operation took to be there before
(`over`).  Those who write blindly find out what they have destroyed in the same atomic step, so the
ledger knows the order of all writes.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from interlock import Json, guards
from interlock.errors import Invalid
from interlock.extras import needs
from interlock.files import disk

NOTHING = None  # in place of an operation id: the key is absent
_CONNECTIONS = 6


class Overwritten(NamedTuple):
    """What a blind writer has destroyed.  `wrote` is False where it found nothing to write over."""

    wrote: bool
    over: str | None


class GuardPlace(Protocol):
    """A place that is tortured."""

    alone: bool
    """Whether it serves one agent at a time."""
    remembers: bool
    """Whether it knows what it has applied, so that nothing is applied twice."""
    tentative: bool
    """Whether what is refused in the end may be seen for a moment."""

    def prepare(self) -> None:
        """Make what is needed, empty."""
        ...

    def guard(self, agent: str) -> guards.Guard:
        """Guard it."""
        ...

    def key(self, key: str) -> str:
        """Return a key of the plan as the place has it."""
        ...

    def overwrite(self, key: str, by: str) -> Overwritten:
        """Write blindly, and find out what was there."""
        ...

    def kept(self) -> set[str]:
        """Return the operations whose values were displaced and are kept beside."""
        ...


def fields(by: str, over: str | None) -> dict[str, Json]:
    """Return what is written."""
    return {"by": by, "over": over}


def by(value: Json) -> str | None:
    """Return which operation has written a value; None for nothing."""
    return None if value is None else str(value["by"])


class RedisPlace:
    """Strings that hold JSON."""

    alone = tentative = False
    remembers = True

    def __init__(self, url: str, name: str) -> None:
        with needs("redis-py", "redis"):
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        self._client = redis.Redis.from_url(url)
        # What is sent a second time would find itself.
        self._blind = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0))
        self._faults = (redis.RedisError, OSError)
        self._name = name

    def prepare(self) -> None:
        """Nothing: there are no keys of this name."""

    def guard(self, agent: str) -> guards.Guard:
        """Guard the keys."""
        return guards.redis(self._client, agent=agent)

    def key(self, key: str) -> str:
        """Return the key in Redis."""
        return f"{self._name}:{key}"

    def overwrite(self, key: str, by: str) -> Overwritten:
        """SET it; the same command says what was there."""
        try:
            before: Any = self._blind.set(self.key(key), json.dumps(fields(by, "?")), get=True)
        except self._faults as problem:
            raise Lost(str(problem)) from problem
        return Overwritten(True, None if before is None else str(json.loads(before)["by"]))

    def kept(self) -> set[str]:
        """Nothing is displaced."""
        return set()


class Lost(Exception):
    """Nobody knows whether a blind write has happened."""


class TablePlace:
    """Rows of one table, whose version only the guards raise."""

    tentative = remembers = False
    _COLUMNS = (
        '"key" TEXT PRIMARY KEY, "by" TEXT, "over" TEXT, "version" INTEGER NOT NULL DEFAULT 1'
    )

    def __init__(self, url: str, name: str) -> None:
        self._table = f'"{name}"'
        self._name = name
        self.alone = url.startswith("sqlite")
        self._mark = "?"
        self._faults: tuple[type[Exception], ...] = (sqlite3.Error,)
        if self.alone:
            path = url.partition(":///")[2]
            self._given: Any = sqlite3.connect(
                path, isolation_level=None, timeout=30, check_same_thread=False
            )
            self._given.execute("PRAGMA journal_mode=WAL")
            return
        with needs("psycopg with its pool", "postgres"):
            import psycopg
            import psycopg_pool
        self._mark = "%s"
        self._faults = (psycopg.Error,)
        self._given = psycopg_pool.ConnectionPool(
            url,
            min_size=1,
            max_size=_CONNECTIONS,
            timeout=10,
            open=True,
            kwargs={"autocommit": True},
        )

    def prepare(self) -> None:
        """Make the table."""
        self._run(f"CREATE TABLE {self._table} ({self._COLUMNS})")

    def guard(self, agent: str) -> guards.Guard:
        """Guard the rows."""
        made: guards.Guard = guards.table(
            self._given, self._name, key="key", version="version", agent=agent
        )
        return made

    def key(self, key: str) -> str:
        """Return the key of the row."""
        return key

    def overwrite(self, key: str, by: str) -> Overwritten:
        """UPDATE it; the same statement notes what was there."""
        text = f'UPDATE {self._table} SET "over" = "by", "by" = ? WHERE "key" = ? RETURNING "over"'
        try:
            rows = self._run(text, by, key)
        except self._faults as problem:
            raise Lost(str(problem)) from problem
        return Overwritten(bool(rows), rows[0][0] if rows else None)

    def kept(self) -> set[str]:
        """Nothing is displaced."""
        return set()

    def _run(self, text: str, *values: str) -> list[Any]:
        text = text.replace("?", self._mark)
        if self.alone:
            found: list[Any] = self._given.execute(text, values).fetchall()
            return found
        with self._given.connection() as connection:
            cursor = connection.execute(text, values)
            return cursor.fetchall() if cursor.description else []


class FilePlace:
    """Files that hold JSON.  A blind writer lets its own change places with what is there."""

    alone, remembers, tentative = False, True, True  # nothing is sent again

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder."""
        self._folder.mkdir(parents=True)

    def guard(self, agent: str) -> guards.Guard:
        """Guard the files."""
        return guards.file(self._folder, agent=agent)

    def key(self, key: str) -> str:
        """Return the name of the file."""
        return f"{key.replace('/', '-')}.json"

    def overwrite(self, key: str, by: str) -> Overwritten:
        """Exchange it."""
        mine, name = self._folder / f"{by}.new", self.key(key)
        mine.write_text(json.dumps(fields(by, "?")))
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(FileExistsError):
                disk.place(str(mine), folder, name)
                return Overwritten(True, NOTHING)
            try:
                disk.exchange(str(mine), folder, name)
            except FileNotFoundError:
                return Overwritten(False, NOTHING)
            return Overwritten(True, str(json.loads(mine.read_text())["by"]))
        finally:
            os.close(folder)
            mine.unlink(missing_ok=True)

    def kept(self) -> set[str]:
        """Return whose values the guard keeps beside the files, which were written over."""
        names: Iterable[Path] = self._folder.glob(".*.interlock-*")
        data = [each.read_bytes() for each in names if not each.name.endswith("-lock")]
        return {str(json.loads(each)["by"]) for each in data if each}


def place_at(url: str, name: str) -> RedisPlace | TablePlace | FilePlace:
    """Return the place that a URL names, or a folder.  Raises Invalid, NotInstalled."""
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in ("redis", "rediss", "unix"):
        return RedisPlace(url, name)
    if scheme in ("postgresql", "postgres", "sqlite"):
        return TablePlace(url, name)
    if scheme in ("", "file"):
        return FilePlace(Path(url.removeprefix("file://")) / name)
    raise Invalid(
        f"--guard {scheme}:// is no place: use redis://, postgresql://, sqlite:/// or a folder."
    )
