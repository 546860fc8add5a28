"""The schema of a store in PostgreSQL: an older one is migrated."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import interlock
from tests.servers.clients import run
from tests.servers.postgres import Postgres

_numbers = itertools.count()
# The files of Interlock 0.1, as they were: never to be edited.
OF_VERSION_1 = ("schema", "functions", "turns", "fences", "judge", "commit", "groups", "trim")
OURS = "'interlock'::regnamespace"
# The whole schema as the catalog has it, but for the order of a table's columns.
CATALOG = {
    "columns": f"""
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
            a.attidentity, pg_get_expr(d.adbin, d.adrelid), l.collname, a.attstorage
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
        WHERE c.relnamespace = {OURS} AND c.relkind IN ('r', 'c') AND a.attnum > 0
            AND NOT a.attisdropped""",
    "relations": f"""
        SELECT relname, relkind, relpersistence, reloptions, relowner::regrole::text, relacl::text
        FROM pg_class WHERE relnamespace = {OURS}""",
    "indexes": f"SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class AS c"
    f" ON c.oid = indrelid WHERE c.relnamespace = {OURS}",
    "constraints": f"SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
    f" FROM pg_constraint WHERE connamespace = {OURS} AND contype <> 'n'",
    "functions": f"SELECT pg_get_functiondef(oid), proacl::text FROM pg_proc"
    f" WHERE pronamespace = {OURS}",
}


@pytest.fixture
def database(postgres_server: Postgres) -> str:
    """The address of a database of the test's own, new."""
    name = f"schema{next(_numbers)}"
    run(postgres_server.url(), f"CREATE DATABASE {name}")
    return postgres_server.url(name)


def made_by_version_1(url: str) -> None:
    """Make a store with a few commits, a trimmed log, a lease and a merged key, as 0.1 did."""
    run(url, "CREATE SCHEMA interlock")
    for name in OF_VERSION_1:
        text = (Path(__file__).parent / "postgres_1" / f"{name}.sql").read_text()
        run(url, f"SET search_path = interlock;\n{text}")
    run(url, "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA interlock FROM PUBLIC")
    run(url, "SELECT interlock.open_space('s')")
    for n, (key, kind, body) in enumerate(
        [("k", "put", "1"), ("k", "put", "2"), ("gone", "put", "1"), ("list", "append", '"a"')]
    ):
        run(
            url,
            f"SELECT interlock.commit_single(1, 'op{n}', 'old', 0, 0, false, NULL, '{key}', NULL,"
            f" NULL, '{kind}', '{body}', 0, '', true)",
        )
    run(
        url,
        """SELECT interlock.commit(1, '[{"n": 0, "op": "del", "agent": "old", "incarnation": 0,
        "rules": 0, "ticket": 0, "yields": false, "expects": [], "versions": [], "epochs": [],
        "kinds": ["delete"], "writes": ["gone"], "bodies": [null], "leased": []}]', 0, '', true)""",
    )
    for n in (1, 2):
        run(
            url,
            f"SELECT interlock.take_lease(1, 'fenced', 'q', 'n{n}', 'old', 0, 1, 0, 0, false)",
        )
    run(url, "SELECT interlock.enter(1, 'old', true, 'once')")
    run(url, "SELECT interlock.trim(1, 2, '{}', '{}')")


def catalog(url: str) -> dict[str, list[tuple[object, ...]]]:
    """Return the schema as the catalog has it."""
    return {name: sorted(run(url, query), key=repr) for name, query in CATALOG.items()}


def test_store_of_version_1_is_migrated_to_the_schema_of_a_new_one(
    database: str, postgres_server: Postgres
) -> None:
    made_by_version_1(database)
    run(postgres_server.url(), "CREATE DATABASE schema_new")
    interlock.open(postgres_server.url("schema_new")).close()
    with interlock.open(database, "s") as space:
        assert {key: record.value for key, record in space.scan("k").items()} == {"k": 2}
        assert space.read("k").version == 2
        assert space.read("gone").version == 2
        assert space.read("fenced").epoch == 2
        assert [entry.position for entry in space.log(after=2)] == [3, 4, 5]
        assert space.update("k", lambda n: n + 1).version == 3
        with pytest.raises(interlock.Conflict):
            space.create("k", 1)
    found, fresh = catalog(database), catalog(postgres_server.url("schema_new"))
    for name, rows in fresh.items():
        assert found[name] == rows, name


def test_migration_keeps_who_may_call_the_functions(
    database: str, postgres_server: Postgres
) -> None:
    made_by_version_1(database)
    run(database, "CREATE ROLE caller_of_1 LOGIN")
    run(database, "GRANT USAGE ON SCHEMA interlock TO caller_of_1")
    run(database, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA interlock TO caller_of_1")
    interlock.open(database, "s").close()
    with interlock.open(database.replace("postgres@", "caller_of_1@"), "s") as space:
        assert space.update("k", lambda n: n + 1).version == 3
