"""Rows of a table of PostgreSQL or SQLite that other programs use.

The value of a row is an object of its columns.  A write sets the columns that it changes, in one
conditional `UPDATE`, and raises the version column, if there is one.

**Never over what was not seen.**  A program that knows nothing of the guard writes a row and leaves
its version what it was.  So what is compared is all columns that were read; the version alone only
where the caller says that every writer raises it (`compare="version"`).

READ COMMITTED is enough: the conditional statement finds the newest row, waits for whoever is
writing it, and then compares again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote

from interlock.core.struct import Json
from interlock.errors import Invalid, Unavailable, Unknown
from interlock.guards.place import ABSENT, Change, Changed, Found
from interlock.guards.places.connection import Connection, Repeat, Run

COMPARED = ("row", "version")
_REPEATS = 20


class Column(NamedTuple):
    """A column: its type as the database names it, and whether the database computes it."""

    name: str
    type: str
    computed: bool


class Seen(NamedTuple):
    """The tag of a row: what is compared, and the columns as they were shown."""

    image: object
    shown: str


class Row(NamedTuple):
    """A row as it was read."""

    image: object
    value: dict[str, Json]


class Setting(NamedTuple):
    """What a statement is to store: the columns, as JSON has them, and the new version."""

    columns: Mapping[str, Json]
    counted: bool  # whether the version is raised


class Table:
    """A table with what the guard knows of it."""

    def __init__(
        self,
        name: str,
        schema: str | None,
        key: tuple[str, ...],
        version: str | None,
        only: tuple[str, ...] | None,
        compare: str,
    ) -> None:
        self.name = quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}"
        self.plain, self.schema = name, schema
        self.key, self.version = key, version
        self.columns: dict[str, Column] = {}
        self._only = only
        self._compare = compare

    def learn(self, columns: Iterable[Column], unique: Iterable[Iterable[str]]) -> None:
        """Take note of the columns, and of which of them are unique.  Raises Invalid."""
        there = {column.name: column for column in columns}
        if not there:
            raise Invalid(f"There is no table {self.name}.")
        version = () if self.version is None else (self.version,)
        named = (*self.key, *version, *(self._only or ()))
        if unknown := [name for name in named if name not in there]:
            raise Invalid(f"{self.name} has no column {unknown[0]!r}. Columns: {', '.join(there)}.")
        if not any({*each} <= {*self.key} for each in unique):
            raise Invalid(
                f"{', '.join(self.key)} of {self.name} is not unique, so it names no row. Name "
                "the columns of its primary key, or of a unique index."
            )
        self.columns = {
            name: column for name, column in there.items() if self._only is None or name in named
        }

    @property
    def compared(self) -> list[str]:
        """The columns that are compared."""
        return [self.version] if self._compare == "version" and self.version else [*self.columns]

    def parts(self, key: str) -> list[str]:
        """Return the values of the key columns that a key names."""
        parts = [key] if len(self.key) == 1 else [unquote(part) for part in key.split("/")]
        if len(parts) != len(self.key):
            raise Invalid(
                f"{key!r} has {len(parts)} parts; the key of {self.name} is "
                f"{', '.join(self.key)}. guards.row_key() makes one."
            )
        return parts


class Dialect(Protocol):
    """How a database is asked for it."""

    async def learn(self, run: Run, table: Table) -> None:
        """Read what columns there are."""
        ...

    async def load(self, run: Run, table: Table, parts: Sequence[str]) -> Row | None:
        """Read a row."""
        ...

    async def update(
        self, run: Run, table: Table, parts: Sequence[str], image: object, new: Setting
    ) -> Row | None:
        """Change a row that still has this image; None if there is none."""
        ...

    async def insert(
        self, run: Run, table: Table, parts: Sequence[str], new: Setting
    ) -> Row | None:
        """Add a row; None if one of its unique values is there."""
        ...

    async def delete(self, run: Run, table: Table, parts: Sequence[str], image: object) -> bool:
        """Delete a row that still has this image."""
        ...


class Rows:
    """The place: rows of one table."""

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
                raise Unknown(
                    f"The answer to a write of {change.key!r} was lost, and the row has changed "
                    "since: by this write, or by another. Re-read it.",
                    change.op_id,
                )
            return answer
        raise self._contended()

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
        shown = json.dumps(row.value, ensure_ascii=False)
        return Found(Seen(row.image, shown), row.value, counted)

    def _contended(self) -> Unavailable:
        return Unavailable(
            f"{self.name} rolled the statement back {_REPEATS} times because of other "
            "transactions. Nothing was written."
        )


def _differ(one: Json, other: Json) -> bool:
    """Whether two values are not the same JSON: True is not 1."""
    return json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


def dialect_of(name: str) -> Dialect:
    """Return how a database is asked."""
    if name == "postgresql":
        from interlock.guards.places.postgres_row import PostgresRow

        return PostgresRow()
    from interlock.guards.places.sqlite_row import SqliteRow

    return SqliteRow()


def quoted(name: str) -> str:
    """Return an identifier as SQL has it.  Raises Invalid."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise Invalid(f"{name!r:.60} is not the name of a table or a column.")
    return '"' + name.replace('"', '""') + '"'


def row_key(*parts: object) -> str:
    """Return the key of a row whose key has these columns, such as `row_key("acme", 17)`."""
    if len(parts) == 1:
        return str(parts[0])
    return "/".join(quote(str(part), safe="") for part in parts)


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
