"""Rows of PostgreSQL: one statement reads a row as JSON, or changes it and reads it back.

The server turns columns into JSON and JSON into columns, so every type of column keeps its type.
Numerics are shown as text, as JSON readers would round them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from interlock.guards.places.connection import MARK, Run
from interlock.guards.places.table import Column, Row, Setting, Table, quoted

_COLUMNS = f"""
SELECT a.attname, format_type(a.atttypid, -1), a.attgenerated <> ''
FROM pg_attribute a
WHERE a.attrelid = to_regclass({MARK}) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum"""
_UNIQUE = f"""
SELECT (SELECT json_agg(a.attname) FROM pg_attribute a
        WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]))
FROM pg_index i
WHERE i.indrelid = to_regclass({MARK}) AND i.indisunique AND i.indisvalid
      AND i.indpred IS NULL AND i.indexprs IS NULL"""


class PostgresRow:
    """How PostgreSQL is asked."""

    async def learn(self, run: Run, table: Table) -> None:
        """Read what columns there are."""
        columns = (await run(_COLUMNS, (table.name,))).rows
        unique = (await run(_UNIQUE, (table.name,))).rows
        table.learn(
            [Column(name, type_, computed) for name, type_, computed in columns],
            [json.loads(each) if isinstance(each, str) else each for (each,) in unique],
        )

    async def load(self, run: Run, table: Table, parts: Sequence[str]) -> Row | None:
        """Read a row."""
        text = f"SELECT {_read(table)} FROM {table.name} AS t WHERE {_key(table)}"
        return await _one(run, text, parts)

    async def hold(self, run: Run, table: Table, parts: Sequence[str]) -> Row | None:
        """Read a row, and keep others from changing it until the transaction ends."""
        text = f"SELECT {_read(table)} FROM {table.name} AS t WHERE {_key(table)} FOR SHARE"
        return await _one(run, text, parts)

    async def update(
        self, run: Run, table: Table, parts: Sequence[str], image: object, new: Setting
    ) -> Row | None:
        """Change a row that still has this image."""
        text = table.text(_updating, new)
        return await _one(run, text, (json.dumps(new.columns), *parts, image))

    async def insert(
        self, run: Run, table: Table, parts: Sequence[str], new: Setting
    ) -> Row | None:
        """Add a row."""
        columns = {quoted(name): f"n.{quoted(name)}" for name in new.columns}
        columns |= {quoted(name): _typed(table, name) for name in table.key}
        if new.counted and table.version:
            columns[quoted(table.version)] = "1"
        text = (
            f"INSERT INTO {table.name} AS t ({', '.join(columns)}) OVERRIDING SYSTEM VALUE "
            f"SELECT {', '.join(columns.values())} FROM {_populated(table)} AS n "
            f"ON CONFLICT DO NOTHING RETURNING {_read(table)}"
        )
        return await _one(run, text, (*parts, json.dumps(new.columns)))

    async def delete(self, run: Run, table: Table, parts: Sequence[str], image: object) -> bool:
        """Delete a row that still has this image."""
        text = (
            f"DELETE FROM {table.name} AS t "
            f"WHERE {_key(table)} AND {_image(table)} = CAST({MARK} AS text) RETURNING 1"
        )
        return bool((await run(text, (*parts, image))).rows)


async def _one(run: Run, text: str, values: Sequence[object]) -> Row | None:
    rows = (await run(text, values)).rows
    return Row(rows[0][0], json.loads(rows[0][1]), rows[0][1]) if rows else None


def _updating(table: Table, new: Setting) -> str:
    names = ", ".join(map(quoted, new.columns))
    fields = ", ".join(f"n.{quoted(name)}" for name in new.columns)
    sets = [f"({names}) = (SELECT {fields} FROM {_populated(table)} AS n)"]
    if new.counted and table.version:
        version = quoted(table.version)
        sets.append(f"{version} = COALESCE(t.{version}, 0) + 1")
    return (
        f"UPDATE {table.name} AS t SET {', '.join(sets)} "
        f"WHERE {_key(table)} AND {_image(table)} = CAST({MARK} AS text) "
        f"RETURNING {_read(table)}"
    )


def _key(table: Table) -> str:
    return " AND ".join(f"t.{quoted(name)} = {_typed(table, name)}" for name in table.key)


def _typed(table: Table, name: str) -> str:
    """A value, sent as text, as one of the column's type."""
    return f"CAST(CAST({MARK} AS text) AS {table.columns[name].type})"


def _image(table: Table) -> str:
    """What tells this content of a row from any other: the text of the columns compared."""
    return f"CAST(ROW({', '.join(f't.{quoted(name)}' for name in table.compared)}) AS text)"


def _read(table: Table) -> str:
    shown = ", ".join(
        f"{_shown(column)} AS {quoted(name)}" for name, column in table.columns.items()
    )
    return f"{_image(table)}, CAST((SELECT to_json(v) FROM (SELECT {shown}) AS v) AS text)"


def _shown(column: Column) -> str:
    name = f"t.{quoted(column.name)}"
    if column.type in ("numeric", "numeric[]"):
        return f"CAST({name} AS {column.type.replace('numeric', 'text')})"
    return name


def _populated(table: Table) -> str:
    return f"json_populate_record(CAST(NULL AS {table.name}), CAST({MARK} AS json))"
