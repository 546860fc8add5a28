"""The schema of a store in PostgreSQL: an older one is migrated, a foreign one is not touched."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import psycopg
import pytest

import interlock
from interlock.backends.postgres.connect import INLINED
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
        text = (Path(__file__).parent / "schema_1" / f"{name}.sql").read_text()
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


# Schemas that somebody else made

BECOMES_SUPERUSER = """
    CREATE FUNCTION interlock.version() RETURNS integer LANGUAGE plpgsql
    AS $$ BEGIN ALTER ROLE {role} SUPERUSER; RETURN 2; END $$
"""


@pytest.fixture
def squatter(database: str) -> str:
    """A role that may create in the database, and its name is that of the database."""
    role = f"squatter_{database.rpartition('/')[2]}"
    run(database, f"CREATE ROLE {role} LOGIN")
    run(database, f"GRANT CREATE ON DATABASE {database.rpartition('/')[2]} TO {role}")
    return role


def as_role(url: str, role: str) -> str:
    """Return the address of a store for a role."""
    return url.replace("postgres@", f"{role}@")


@pytest.mark.parametrize("empty", [False, True])
def test_schema_of_a_squatter_is_refused_and_nothing_of_it_runs(
    database: str, squatter: str, empty: bool
) -> None:
    theirs = as_role(database, squatter)
    run(theirs, "CREATE SCHEMA interlock")
    if not empty:
        run(theirs, BECOMES_SUPERUSER.format(role=squatter))
    with pytest.raises(interlock.IncompatibleStore, match=f"belongs to '{squatter}'"):
        interlock.open(database, "s")
    assert run(database, f"SELECT rolsuper FROM pg_roles WHERE rolname = '{squatter}'") == [
        (False,)
    ]


def test_function_that_another_role_adds_is_refused(database: str, squatter: str) -> None:
    interlock.open(database, "s").close()
    run(database, f"GRANT USAGE, CREATE ON SCHEMA interlock TO {squatter}")
    theirs = BECOMES_SUPERUSER.format(role=squatter).replace("version()", "version(n integer)")
    run(as_role(database, squatter), theirs)
    with pytest.raises(interlock.IncompatibleStore, match=f"belongs to '{squatter}'"):
        interlock.open(database, "s")


def test_function_that_was_changed_is_refused(database: str) -> None:
    interlock.open(database, "s").close()
    run(database, "ALTER FUNCTION interlock.log_end(integer) SECURITY INVOKER")
    with pytest.raises(interlock.IncompatibleStore, match="somebody has changed them"):
        interlock.open(database, "s")


def test_only_the_owner_of_the_schema_migrates_it(database: str, squatter: str) -> None:
    name = database.rpartition("/")[2]
    run(database, f"ALTER DATABASE {name} OWNER TO {squatter}")
    made_by_version_1(as_role(database, squatter))
    with pytest.raises(interlock.IncompatibleStore, match=f"only '{squatter}', who owns"):
        interlock.open(database, "s")
    interlock.open(as_role(database, squatter), "s").close()
    with interlock.open(database, "s") as space:
        assert space.read("k").value == 2
    owners = run(
        database,
        f"SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = {OURS}",
    )
    assert owners == [(squatter,)]


def test_no_function_looks_names_up_where_its_caller_says(database: str) -> None:
    interlock.open(database, "s").close()
    rows = run(
        database,
        f"SELECT proname, COALESCE(array_to_string(proconfig, ';'), ''), prosrc FROM pg_proc"
        f" WHERE pronamespace = {OURS}",
    )
    assert len(rows) > 50
    for name, settings, body in rows:
        if name in INLINED:
            named = re.findall(r"\b(?:FROM|JOIN|LATERAL)\s+([a-z_.]+)", str(body))
            assert all(each.startswith(("interlock.", "clock_timestamp")) for each in named), name
        else:
            assert "search_path=interlock, pg_temp" in str(settings), name


def test_the_script_for_a_database_administrator_makes_the_same_store(database: str) -> None:
    run(database, interlock.schema_sql(database))
    found = run(database, "SELECT prosrc FROM pg_proc WHERE proname = 'version'")
    with interlock.open(database, space="s", agent="a") as space:  # the functions are ours
        space.create("k", 1)
    assert run(database, "SELECT prosrc FROM pg_proc WHERE proname = 'version'") == found


def test_the_doctor_finds_an_old_transaction_and_the_connected(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        interlock.open(database, space="s", agent="a") as space,
        interlock.Store(database) as store,
    ):
        space.create("k", 1)
        found = {each.check: each for each in store.doctor()}
        assert found["durability"].level == found["clock"].level == "ok"
        assert "postgres" in found["connected"].found
        assert "transactions" not in found
        with psycopg.connect(database) as idle:
            idle.execute("SELECT 1")
            monkeypatch.setattr("interlock.backends.postgres.spaces._LONG", 0)
            found = {each.check: each for each in store.doctor()}
            assert f"process {idle.info.backend_pid} " in found["transactions"].found
            assert "pg_terminate_backend" in found["transactions"].advice
