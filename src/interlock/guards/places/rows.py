"""The place of `interlock.guards.table`: rows of one table, each written in one statement."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from interlock.backends.joined import Elsewhere
from interlock.core.struct import Json
from interlock.errors import AnswerLost, Invalid, Unavailable
from interlock.guards.place import (
    ABSENT,
    Answers,
    Change,
    Changed,
    Found,
    Repeated,
    Stopped,
    Together,
)
from interlock.guards.places.connection import Connection, Repeat, Run, Use
from interlock.guards.places.table import (
    COMPARED,
    Dialect,
    Row,
    Seen,
    Setting,
    Table,
    quoted,
    row_key,
)

if TYPE_CHECKING:
    from interlock.guards.log import Inside
    from interlock.session import AsyncSession, Session

_REPEATS = 20


class Refuted(Exception):
    """A row has changed: what was written of others is rolled back."""

    def __init__(self, changed: Changed) -> None:
        super().__init__()
        self.changed = changed


class Rows:
    """The place: rows of one table."""

    several = True

    def __init__(self, given: Any, table: Table, name: str) -> None:
        self.name = name
        self._connection = Connection(given)
        self.asynchronous, self.texts = self._connection.asynchronous, False
        self._table = table
        self._dialect = dialect_of(self._connection.dialect)

    def check_key(self, key: str) -> str | None:
        """Return why `key` names no row."""
        if "\0" in key:
            return "A key can't hold the character NUL."
        try:
            self._table.parts(key)
        except Invalid as problem:
            return str(problem)
        return None

    def has_receipts(self, key: str) -> bool:
        """Never: a row says nothing of who wrote it."""
        return False

    async def load(self, key: str) -> Found:
        """Read the row."""
        for _ in range(_REPEATS):
            try:
                async with self._connection.transaction(self.name, reads=True) as run:
                    return self._found(await self._load(run, self._table.parts(key)))
            except Repeat:
                continue
        raise self._contended()

    async def replace(self, change: Change) -> object | Changed:
        """Write the row, in one conditional statement."""
        for _ in range(_REPEATS):
            try:
                async with self._connection.transaction(self.name) as run:
                    answer = await self._replace(run, change)
            except Repeat:
                continue
            if isinstance(answer, Changed) and change.again:
                raise AnswerLost("what is there has changed since, by this write or by another")
            return answer
        raise self._contended()

    async def replace_all(
        self, changes: Sequence[Change], beside: Inside | None
    ) -> Answers | Changed:
        """Write several rows, and what is logged of it, in one transaction."""
        for _ in range(_REPEATS):
            use = Use(whole=True)
            try:
                async with self._connection.transaction(self.name, use=use) as run:
                    if not use.joined:
                        return await self._all(run, use, changes, beside)
                    await run("SAVEPOINT interlock_guard", ())
                    try:
                        answers = await self._all(run, use, changes, beside)
                    except (Refuted, Repeated, Stopped, Invalid):
                        await run("ROLLBACK TO SAVEPOINT interlock_guard", ())
                        raise
                    await run("RELEASE SAVEPOINT interlock_guard", ())
                    return answers
            except Refuted as refuted:
                return refuted.changed
            except Repeated as repeated:
                return repeated.answers
            except Repeat:
                continue
        raise self._contended()

    async def _all(
        self, run: Run, use: Use, changes: Sequence[Change], beside: Inside | None
    ) -> Answers | Changed:
        """Write them in the order of their keys, so that two who do so never wait for each other.

        Raises Refuted, where all of it is to be rolled back.
        """
        before: dict[str, Found] = {}
        answers: dict[str, object] = {}
        for change in sorted(changes, key=lambda each: each.key):
            if beside is not None:
                before[change.key] = await self._there(run, change.key)
            answer = await (self._compare if change.compared_only else self._replace)(run, change)
            if isinstance(answer, Changed):
                changed = answer._replace(key=change.key)
                found: Answers | Changed = changed
                if beside is not None:
                    found = await beside.logged(use.connection, (), changed)
                elif change.again:
                    raise AnswerLost("a row has changed since, by this write or by another")
                if isinstance(found, Changed):
                    raise Refuted(found._replace(found=changed.found, key=changed.key))
                return found
            answers[change.key] = answer
        made = [answers[change.key] for change in changes]
        if beside is None:
            return made
        return await beside.logged(use.connection, [before[change.key] for change in changes], made)

    async def _there(self, run: Run, key: str) -> Found:
        return self._found(await self._load(run, self._table.parts(key)))

    async def _compare(self, run: Run, change: Change) -> object | Changed:
        """Compare a row, and keep it from being changed until the transaction ends."""
        parts = self._table.parts(change.key)
        row = await self._dialect.hold(run, self._table, parts)
        found = self._found(row)
        image = None if change.tag is ABSENT else change.tag.image
        same = row is None if image is None else row is not None and row.image == image
        return found.tag if same else Changed(found)

    async def keys(self, pattern: str) -> list[str]:
        """Read the keys of all rows."""
        columns = ", ".join(f"CAST({quoted(name)} AS text)" for name in self._table.key)
        async with self._connection.transaction(self.name, reads=True) as run:
            rows = (await run(f"SELECT {columns} FROM {self._table.name}", ())).rows
        return sorted(key for row in rows if fnmatchcase(key := row_key(*row), pattern))

    async def is_one_with(self, session: Session | AsyncSession) -> Together:
        """Whether the space is in the database of the table."""
        use = Use(whole=True)
        async with self._connection.transaction(self.name, use=use):
            try:
                answer: Any = session.joined(use.connection, nested=True)
                joined = await answer if isawaitable(answer) else answer
            except Elsewhere:
                return Together.NOT
            closed = joined.close()
            if isawaitable(closed):
                await closed
        return Together.INSIDE

    def in_callers_transaction(self) -> bool:
        """Whether one is open on the connection."""
        return self._connection.is_open()

    @asynccontextmanager
    async def within(self) -> AsyncIterator[object]:
        """The caller's transaction."""
        use = Use(whole=True)
        async with self._connection.transaction(self.name, use=use):
            yield use.connection

    async def _load(self, run: Run, parts: Sequence[str]) -> Row | None:
        if not self._table.columns:
            await self._dialect.learn(run, self._table)
        return await self._dialect.load(run, self._table, parts)

    async def _replace(self, run: Run, change: Change) -> object | Changed:
        table, parts = self._table, self._table.parts(change.key)
        if not table.columns:
            await self._dialect.learn(run, table)
        if change.tag is ABSENT:
            self._check_key_in(change, parts)
            columns = self._given(change, None)
            row = await self._dialect.insert(run, table, parts, columns)
            if row is not None:
                return self._found(row)
            there = await self._dialect.load(run, table, parts)
            if there is None:
                raise Invalid(
                    f"Another row of {self.name} has a unique value of {change.key!r}, or it was "
                    "deleted meanwhile."
                )
            return Changed(self._found(there))
        seen: Seen = change.tag
        if change.body is None:
            gone = await self._dialect.delete(run, table, parts, seen.image)
            return ABSENT if gone else Changed()
        new = self._given(change, json.loads(seen.shown))
        if not new.columns:  # such as a NULL that was left out: the row is what it is to be
            there = await self._dialect.load(run, table, parts)
            found = self._found(there)
            return found if there and there.image == seen.image else Changed(found)
        row = await self._dialect.update(run, table, parts, seen.image, new)
        return Changed() if row is None else self._found(row)

    def _check_key_in(self, change: Change, parts: Sequence[str]) -> None:
        value = json.loads(change.body or "null")
        given = value if isinstance(value, dict) else {}
        for name, part in zip(self._table.key, parts, strict=True):
            if str(given.get(name, part)) != part:
                raise Invalid(f"{change.key!r}: {name} is {given[name]!r} in the value.")

    def _given(self, change: Change, before: dict[str, Json] | None) -> Setting:
        """Return the columns that a change sets.  Raises Invalid."""
        table, value = self._table, json.loads(change.body or "null")
        if not isinstance(value, dict):
            raise Invalid(f"{change.key!r} needs an object: a row has columns.")
        if unknown := [name for name in value if name not in table.columns]:
            raise Invalid(
                f"{self.name} has no column {unknown[0]!r}. Columns: {', '.join(table.columns)}."
            )
        kept = {*table.key, table.version}
        if before is None:
            columns = {name: each for name, each in value.items() if name not in kept}
        else:
            whole = dict.fromkeys(table.columns) | {n: before[n] for n in kept if n is not None}
            whole |= {n: c for n, c in before.items() if table.columns[n].computed} | value
            columns = {n: each for n, each in whole.items() if _differ(each, before[n])}
        for name in columns:
            if name in kept or table.columns[name].computed:
                why = "is part of the key" if name in table.key else "is set by the database"
                why = "is raised by the guard" if name == table.version else why
                raise Invalid(f"{change.key!r}: {name} can't be changed, it {why}.")
        return Setting(columns, table.version is not None)

    def _found(self, row: Row | None) -> Found:
        if row is None:
            return Found(ABSENT, ABSENT)
        version = row.value[self._table.version] if self._table.version else 0
        counted = version if isinstance(version, int) and version > 0 else 0
        shown = row.shown or json.dumps(row.value, ensure_ascii=False)
        return Found(Seen(row.image, shown), row.value, counted)

    def _contended(self) -> Unavailable:
        return Unavailable(
            f"{self.name} rolled the statement back {_REPEATS} times because of other "
            "transactions. Nothing was written."
        )


def _differ(one: Json, other: Json) -> bool:
    """Whether two values are not the same JSON: True is not 1."""
    if type(one) is type(other) and not isinstance(one, dict | list | float):
        return bool(one != other)
    return json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


def dialect_of(name: str) -> Dialect:
    """Return how a database is asked."""
    if name == "postgresql":
        from interlock.guards.places.postgres_row import PostgresRow

        return PostgresRow()
    from interlock.guards.places.sqlite_row import SqliteRow

    return SqliteRow()


def guarded_table(
    given: Any,
    table: str,
    key: str | Iterable[str],
    version: str | None,
    columns: Iterable[str] | None,
    compare: str,
    schema: str | None,
    name: str | None,
) -> Rows:
    """Return the place that `interlock.guards.table` describes.  Raises Invalid."""
    keys = (key,) if isinstance(key, str) else tuple(key)
    if not keys:
        raise Invalid("key= names no column.")
    only = None if columns is None else tuple(columns)
    for each in (*keys, *(only or ()), *([] if version is None else [version])):
        quoted(each)
    if compare not in COMPARED or (compare == "version" and version is None):
        raise Invalid(f"compare={compare!r}: use 'row', or 'version' with version=.")
    if version in keys:
        raise Invalid(f"{version!r} can't be the version and part of the key.")
    return Rows(given, Table(table, schema, keys, version, only, compare), name or table)
