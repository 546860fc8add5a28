"""The statements that make a table ready for guards: a version that every writer raises, a machine.

Both are triggers, so they bind every program that writes the table, guarded or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from interlock.core.machine import Machine
from interlock.errors import Invalid
from interlock.guards.places.table import quoted

DATABASES = ("postgresql", "sqlite")


def init_table(
    database: str,
    table: str,
    *,
    key: str | Iterable[str] = "id",
    version: str = "version",
    trigger: bool = False,
    machine: Machine | None = None,
    in_schema: str | None = None,
) -> str:
    """Return SQL that adds a version column to a table, for `guards.table(..., version=...)`.

    `database` is `postgresql` or `sqlite`.  `trigger`: every `UPDATE`, whoever sends it, raises the
    version.  `machine`: the database refuses a row whose state (the column of the machine's field)
    does not follow from the one before.  Its guards are Python functions and are not in there, and
    neither is who may write what.  Raises Invalid.
    """
    if database not in DATABASES:
        raise Invalid(f"database={database!r}: use {' or '.join(DATABASES)}.")
    keys = (key,) if isinstance(key, str) else tuple(key)
    if not keys:
        raise Invalid("key= names no column.")
    name = quoted(table) if in_schema is None else f"{quoted(in_schema)}.{quoted(table)}"
    parts = [f"ALTER TABLE {name} ADD COLUMN {quoted(version)} integer NOT NULL DEFAULT 1;"]
    if database == "postgresql":
        parts += [_postgres_version(name, table, version, in_schema)] * trigger
        parts += [] if machine is None else [_postgres_machine(name, table, machine, in_schema)]
    else:
        parts += [_sqlite_version(table, version, keys, in_schema)] * trigger
        parts += [] if machine is None else [_sqlite_machine(table, machine, keys, in_schema)]
    return "\n\n".join(parts) + "\n"


def _text(value: str) -> str:
    if "\0" in value:
        raise Invalid(f"{value!r:.60} can't be in SQL: it has the character NUL.")
    return "'" + value.replace("'", "''") + "'"


def _own(schema: str | None, name: str) -> str:
    return quoted(name) if schema is None else f"{quoted(schema)}.{quoted(name)}"


def _in(states: Sequence[str]) -> str:
    return f"({', '.join(map(_text, states))})" if states else "(NULL)"


def _moves(machine: Machine) -> str:
    """Whether a state may follow another one, as SQL: of OLD and NEW."""
    field = quoted(machine.field)
    cases = [
        f"WHEN {_text(state)} THEN NEW.{field} IN {_in(machine.targets(state))}"
        for state in machine.states
        if machine.targets(state)
    ]
    return f"CASE OLD.{field} {' '.join(cases)} ELSE false END"


def _postgres_version(name: str, table: str, version: str, schema: str | None) -> str:
    function, column = _own(schema, f"{table}_interlock_version"), quoted(version)
    return f"""CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $interlock$
BEGIN
    NEW.{column} := COALESCE(OLD.{column}, 0) + 1;
    RETURN NEW;
END
$interlock$;
CREATE TRIGGER interlock_version BEFORE UPDATE ON {name}
    FOR EACH ROW EXECUTE FUNCTION {function}();"""


def _postgres_machine(name: str, table: str, machine: Machine, schema: str | None) -> str:
    function, field = _own(schema, f"{table}_interlock_machine"), quoted(machine.field)
    if any("$interlock$" in each for each in (machine.name, machine.field, *machine.states)):
        raise Invalid("A name of the machine contains $interlock$.")
    said = f"USING ERRCODE = 'check_violation', MESSAGE = {_text(f'Machine {machine.name}: ')}"
    # After the row is written: triggers that run before it may still change the state.
    return f"""CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $interlock$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF (NEW.{field}::text IN {_in(machine.initial)}) IS NOT TRUE THEN
            RAISE EXCEPTION {said} || 'a row can''t start as '
                || COALESCE(NEW.{field}::text, 'NULL');
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        IF (OLD.{field}::text IN {_in(machine.final)}) IS NOT TRUE THEN
            RAISE EXCEPTION {said} || 'a row can''t be deleted as '
                || COALESCE(OLD.{field}::text, 'NULL');
        END IF;
    ELSIF NEW.{field} IS DISTINCT FROM OLD.{field} AND ({_cast(_moves(machine), field)})
        IS NOT TRUE THEN
        RAISE EXCEPTION {said} || 'a row can''t go from '
            || COALESCE(OLD.{field}::text, 'NULL') || ' to ' || COALESCE(NEW.{field}::text, 'NULL');
    END IF;
    RETURN NULL;
END
$interlock$;
CREATE TRIGGER interlock_machine AFTER INSERT OR UPDATE OR DELETE ON {name}
    FOR EACH ROW EXECUTE FUNCTION {function}();"""


def _cast(text: str, field: str) -> str:
    """A state may be of an enum type, which takes no other text."""
    for row in ("OLD", "NEW"):
        text = text.replace(f"{row}.{field} ", f"{row}.{field}::text ")
    return text


def _sqlite_version(table: str, version: str, keys: Sequence[str], schema: str | None) -> str:
    column = quoted(version)
    same = " AND ".join(f"{quoted(key)} IS NEW.{quoted(key)}" for key in keys)
    return f"""CREATE TRIGGER {_own(schema, f"{table}_interlock_version")}
AFTER UPDATE ON {quoted(table)} WHEN NEW.{column} IS NOT COALESCE(OLD.{column}, 0) + 1
BEGIN
    UPDATE {quoted(table)} SET {column} = COALESCE(OLD.{column}, 0) + 1 WHERE {same};
END;"""


def _sqlite_machine(table: str, machine: Machine, keys: Sequence[str], schema: str | None) -> str:
    name, field = quoted(table), quoted(machine.field)
    same = " AND ".join(f"OLD.{quoted(key)} IS NEW.{quoted(key)}" for key in keys)
    refuse = _text(f"Machine {machine.name}: a row can't ")[:-1]
    moves = f"(NEW.{field} IS OLD.{field} OR {_moves(machine)})"

    def trigger(kind: str, when: str, verb: str) -> str:
        own = _own(schema, f"{table}_interlock_machine_{kind.split()[0].lower()}")
        return (
            f"CREATE TRIGGER {own} BEFORE {kind} ON {name}\nWHEN ({when}) IS NOT TRUE\n"
            f"BEGIN SELECT RAISE(ABORT, {refuse}{verb}'); END;"
        )

    # REPLACE deletes what is there without its trigger: for a row that is there it is a move.
    there = f"EXISTS (SELECT 1 FROM {name} AS OLD WHERE {same})"
    moved = f"EXISTS (SELECT 1 FROM {name} AS OLD WHERE {same} AND {moves})"
    started = f"CASE WHEN {there} THEN {moved} ELSE NEW.{field} IN {_in(machine.initial)} END"
    return "\n".join(
        (
            trigger("INSERT", started, "start in this state"),
            trigger("UPDATE", moves, "make this move"),
            trigger("DELETE", f"OLD.{field} IN {_in(machine.final)}", "be deleted in this state"),
        )
    )
