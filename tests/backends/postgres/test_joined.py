"""What a transaction of PostgreSQL must be to be joined, and what a refusal leaves of it."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import psycopg_pool
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio
from psycopg.rows import dict_row

import interlock
from tests.backends.applications import Application, engine_url, until, waits_for_lock
from tests.facades import elsewhere


def test_a_refusal_leaves_lock_and_durability_as_they_were(on_postgres: Application) -> None:
    space, connection = on_postgres.open(), on_postgres.connect()
    record = space.create("key", 1)
    space.write(record, 2)
    with space.joined(connection) as joined:
        with pytest.raises(interlock.Conflict):
            joined.write(record, "stale")
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
        assert elsewhere(space.append, "events", 1).position == 4  # nobody waits for the block
    connection.commit()


@pytest.mark.parametrize("durability", ["full", "off"])
def test_the_commit_is_never_less_durable(on_postgres: Application, durability: str) -> None:
    space, connection = on_postgres.open(durability=durability), on_postgres.connect()
    with space.joined(connection) as joined:
        joined.append("events", 1)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_an_update_thinks_once_and_raises_the_conflict(on_postgres: Application) -> None:
    space, connection, thoughts = on_postgres.open(), on_postgres.connect(), []
    space.create("key", 1)

    def think(value: int) -> int:
        thoughts.append(value)
        elsewhere(space.update, "key", lambda value: value + 10)
        return value + 1

    with space.joined(connection) as joined, pytest.raises(interlock.Conflict) as refused:
        joined.update("key", think)
    assert (thoughts, refused.value.record.value) == ([1], 11)


def test_what_is_too_much_for_one_answer_comes_whole(on_postgres: Application) -> None:
    space, connection = on_postgres.open(), on_postgres.connect()
    with space.joined(connection) as joined:
        old = joined.create("key", "x" * 100_000)
        joined.write(old, "y" * 100_000)
        with pytest.raises(interlock.Conflict) as refused:
            joined.write(old, "z")
        assert refused.value.record.value == "y" * 100_000


def test_outcome_in_the_block_waits_for_whoever_may_be_committing(on_postgres: Application) -> None:
    space, first = on_postgres.open(), on_postgres.connect()

    def asked() -> Any:
        with psycopg.connect(on_postgres.url) as connection, space.joined(connection) as joined:
            return joined.outcome("op-1")

    with ThreadPoolExecutor(1) as threads:
        with space.joined(first) as joined:
            joined.create("key", 1, op_id="op-1")
            answer = threads.submit(asked)
            until(lambda: waits_for_lock(first))
            assert not answer.done()
        first.commit()
        assert answer.result(20).writes[0].key == "key"


def test_rows_of_any_shape_and_settings_of_the_connection(on_postgres: Application) -> None:
    space = on_postgres.open()
    connection = on_postgres.connect(row_factory=dict_row, cursor_factory=psycopg.ClientCursor)
    connection.adapters.register_loader("int8", psycopg.types.string.TextLoader)
    with space.joined(connection) as joined:
        joined.create("key", 1)
        assert len(joined.scan()) == 1
        for number in range(30):
            joined.create(f"many/{number}", number)
        assert len(list(joined.log())) == 32
    connection.commit()
    assert connection.execute("SELECT 1 AS one").fetchone() == {"one": 1}
    assert space.read("key").version == 1


def test_bad_transactions_of_postgresql(on_postgres: Application) -> None:
    space, connect = on_postgres.open(), on_postgres.connect
    failed = connect()
    with pytest.raises(psycopg.Error):
        failed.execute("SELECT 1 / 0")
    serializable = connect()
    serializable.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    closed = connect()
    closed.close()
    latin = connect()
    latin.execute("SET client_encoding = latin1")
    pipelined = connect()
    wrong = {
        "no open transaction": connect(autocommit=True),
        "has failed": failed,
        "SERIALIZABLE": serializable,
        "closed": closed,
        "UTF8": latin,
        "can't be joined here": sqlite3.connect(":memory:"),
    }
    for why, connection in wrong.items():
        with pytest.raises(interlock.Invalid, match=why):
            space.joined(connection).__enter__()
    with pipelined.pipeline(), pytest.raises(interlock.Invalid, match="pipeline"):
        space.joined(pipelined).__enter__()
    pool: Any = psycopg_pool.ConnectionPool(on_postgres.url, open=False)
    with pytest.raises(interlock.Invalid, match="no transaction of its own"):
        space.joined(pool).__enter__()
    autocommit = connect(autocommit=True)
    with autocommit.transaction(), space.joined(autocommit) as joined:
        joined.append("events", 1)
    assert space.read("events").value == [1]


def test_a_connection_to_another_database_is_refused(on_postgres: Application) -> None:
    space = on_postgres.open()
    with psycopg.connect(on_postgres.url, autocommit=True) as connection:
        name = f"other_{on_postgres.table}"
        connection.execute(f"CREATE DATABASE {name}")
    dsn = psycopg.conninfo.make_conninfo(on_postgres.url, dbname=name)
    for _ in range(2):
        with psycopg.connect(dsn) as connection:
            with pytest.raises(interlock.Invalid, match="another database"):
                space.joined(connection).__enter__()
            assert connection.execute("SELECT 1").fetchone() == (1,)
        # And one where there is a store, and such a space.
        interlock.open(_with_database(on_postgres.url, name), on_postgres.space).close()


def _with_database(url: str, name: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, f"/{name}", parts.query, ""))


def test_a_role_without_rights_is_told_and_its_transaction_goes_on(
    on_postgres: Application,
) -> None:
    space, role = on_postgres.open(), f"role_{on_postgres.table}"
    with psycopg.connect(on_postgres.url, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA interlock TO {role}")
    with psycopg.connect(on_postgres.url) as connection:
        connection.execute(f"SET ROLE {role}")
        with pytest.raises(interlock.Unavailable, match="role of your connection"):
            space.joined(connection).__enter__()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_lost_connection_is_said_to_have_rolled_back(on_postgres: Application) -> None:
    space, connection = on_postgres.open(), on_postgres.connect()
    with space.joined(connection) as joined:
        joined.append("events", 1)
        with psycopg.connect(on_postgres.url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        with pytest.raises(interlock.Unavailable, match="rolled back"):
            joined.append("events", 2)
    assert space.append("events", 3).position == 2


def test_a_deadlock_with_the_applications_own_rows_is_said(on_postgres: Application) -> None:
    space, first, second = on_postgres.open(), on_postgres.connect(), on_postgres.connect()
    on_postgres.insert(first, "1")
    first.commit()
    lock = f"SELECT * FROM {on_postgres.table} FOR UPDATE"
    second.execute("SET LOCAL deadlock_timeout = '60s'")
    with space.joined(first) as joined:
        first.execute("SET LOCAL deadlock_timeout = '10ms'")
        first.execute(lock)
        with ThreadPoolExecutor(1) as threads:

            def other() -> None:
                with space.joined(second) as theirs:
                    theirs.append("events", "theirs")
                    second.execute(lock)
                second.commit()

            answer = threads.submit(other)
            until(lambda: waits_for_lock(first))
            with pytest.raises(interlock.Unavailable, match="waited for each other"):
                joined.append("events", "mine")
            first.rollback()
            answer.result(20)
    assert space.read("events").value == ["theirs"]


def test_autocommit_of_sqlalchemy_is_no_transaction(on_postgres: Application) -> None:
    engine = sqlalchemy.create_engine(engine_url(on_postgres), isolation_level="AUTOCOMMIT")
    refused = pytest.raises(interlock.Invalid, match="no open transaction")
    with engine.connect() as connection, refused:
        on_postgres.open().joined(connection).__enter__()
    engine.dispose()
