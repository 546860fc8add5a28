"""Rows of SQLite: JSON and BOOLEAN columns are shown as such, bytes as text in hexadecimal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress

from interlock.core.struct import Json
from interlock.errors import Invalid
from interlock.guards.places.connection import MARK, Run
from interlock.guards.places.table import Column, Row, Setting, Table, quoted

_COLUMNS = (
    f"SELECT name, type, hidden, pk FROM pragma_table_xinfo({MARK}, {MARK}) WHERE hidden <> 1"
)
_UNIQUE = f"""
SELECT json_group_array(c.name)
FROM pragma_index_list({MARK}, {MARK}) AS i, pragma_index_info(i.name, {MARK}) AS c
WHERE i."unique" AND NOT i.partial GROUP BY i.name HAVING count(*) = count(c.name)"""


_NOTHING = Setting({}, False)


class SqliteRow:
    """How SQLite is asked."""

    async def learn(self, run: Run, table: Table) -> None:
        """Read what columns there are."""
        schema = table.schema or "main"
        columns = (await run(_COLUMNS, (table.plain, schema))).rows
        unique = (await run(_UNIQUE, (table.plain, schema, schema))).rows
        primary = [name for name, _, _, place in columns if place]
        table.learn(
            [Column(name, kind.upper(), hidden > 1) for name, kind, hidden, _ in columns],
            [json.loads(each) for (each,) in unique] + [primary] * bool(primary),
        )
        for name in table.key:
            if table.columns[name].type in ("", "ANY", "BLOB"):
                raise Invalid(f"{name} of {table.name} has no type that a key can be compared as.")

    async def load(self, run: Run, table: Table, parts: Sequence[str]) -> Row | None:
        """Read a row."""
        rows = (await run(table.text(_loading, _NOTHING), parts)).rows
        if not rows:
            return None
        row = dict(zip(table.columns, rows[0], strict=True))
        value = {name: _shown(each, table.columns[name]) for name, each in row.items()}
        return Row(tuple(row[name] for name in table.compared), value)

    async def hold(self, run: Run, table: Table, parts: Sequence[str]) -> Row | None:
        """Read a row: who writes has the file to himself, once it has the lock."""
        await run(f"UPDATE {table.name} SET {quoted(table.key[0])} = NULL WHERE 0", ())
        return await self.load(run, table, parts)

    async def update(
        self, run: Run, table: Table, parts: Sequence[str], image: object, new: Setting
    ) -> Row | None:
        """Change a row that still has this image."""
        text = table.text(_updating, new)
        count = (await run(text, (*_stored(table, new), *parts, *_values(image)))).changed
        return await self.load(run, table, parts) if count else None

    async def insert(
        self, run: Run, table: Table, parts: Sequence[str], new: Setting
    ) -> Row | None:
        """Add a row."""
        columns = {**dict(zip(new.columns, _stored(table, new), strict=True))}
        columns |= dict(zip(table.key, parts, strict=True))
        if new.counted and table.version:
            columns[table.version] = 1
        text = (
            f"INSERT INTO {table.name} ({', '.join(map(quoted, columns))}) "
            f"VALUES ({', '.join(MARK for _ in columns)}) ON CONFLICT DO NOTHING"
        )
        count = (await run(text, (*columns.values(),))).changed
        return await self.load(run, table, parts) if count else None

    async def delete(self, run: Run, table: Table, parts: Sequence[str], image: object) -> bool:
        """Delete a row that still has this image."""
        text = f"DELETE FROM {table.name} WHERE {_key(table)} AND {_same(table)}"
        return bool((await run(text, (*parts, *_values(image)))).changed)


def _loading(table: Table, _: Setting) -> str:
    # An expression: a converter that the application has for the type of a column is not ours.
    names = ", ".join(f"+{quoted(name)}" for name in table.columns)
    return f"SELECT {names} FROM {table.name} WHERE {_key(table)}"


def _updating(table: Table, new: Setting) -> str:
    sets = [f"{quoted(name)} = {MARK}" for name in new.columns]
    if new.counted and table.version:
        version = quoted(table.version)
        sets.append(f"{version} = COALESCE({version}, 0) + 1")
    return f"UPDATE {table.name} SET {', '.join(sets)} WHERE {_key(table)} AND {_same(table)}"


def _key(table: Table) -> str:
    return " AND ".join(f"{quoted(name)} = {MARK}" for name in table.key)


def _same(table: Table) -> str:
    # Whatever the column's collation: one that ignores case would take a change for none.
    return " AND ".join(f"{quoted(name)} COLLATE BINARY IS {MARK}" for name in table.compared)


def _values(image: object) -> tuple[object, ...]:
    assert isinstance(image, tuple)
    return image


def _shown(value: object, column: Column) -> Json:
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if column.type.startswith("JSON") and isinstance(value, str):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    if column.type.startswith("BOOL") and value in (0, 1):
        return bool(value)
    return value


def _stored(table: Table, new: Setting) -> list[object]:
    return [_column(value, table.columns[name]) for name, value in new.columns.items()]


def _column(value: Json, column: Column) -> object:
    if value is None:
        return None
    if column.type.startswith("JSON"):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict | list):
        raise Invalid(
            f"{column.name} is of type {column.type or 'none'}: it holds no {type(value).__name__}."
        )
    if column.type == "BLOB" and isinstance(value, str) and value.startswith("\\x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError as problem:
            raise Invalid(f"{column.name}: {value!r:.60} is no \\x and hex digits.") from problem
    return int(value) if isinstance(value, bool) else value
