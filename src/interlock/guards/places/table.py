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

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import quote, unquote

from interlock.core.struct import Json
from interlock.errors import Invalid
from interlock.guards.places.connection import Run

COMPARED = ("row", "version")
_MOST_TEXTS = 256


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
    shown: str | None = None  # the value as JSON text, where the database has told it


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
        self._texts: dict[tuple[object, ...], str] = {}

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
        self._texts.clear()
        self.columns = {
            name: column for name, column in there.items() if self._only is None or name in named
        }

    def text(self, make: Callable[[Table, Setting], str], new: Setting) -> str:
        """Return the statement that `make` makes for these columns, made once."""
        key = (make, *new.columns, new.counted)
        found = self._texts.get(key)
        if found is None:
            if len(self._texts) >= _MOST_TEXTS:
                self._texts.clear()
            found = self._texts[key] = make(self, new)
        return found

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

    async def hold(self, run: Run, table: Table, parts: Sequence[str]) -> Row | None:
        """Read a row, and keep others from changing it until the transaction ends."""
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
