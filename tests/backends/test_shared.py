"""A space over what the application has: its pool, its engine, its connection, its Redis client."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
import redis
import redis.asyncio
import sqlalchemy
import sqlalchemy.ext.asyncio
from psycopg.rows import dict_row

import interlock
from tests.backends.applications import Application, engine_url, until
from tests.facades import elsewhere

SHARED = ("sqlite3", "sqlite engine", "pool", "connection", "engine", "redis", "redis decodes")


class Sharing:
    """Something to share, and whether all of it came back."""

    def __init__(self, given: Any, is_whole: Any, name: str = "shared") -> None:
        self.given = given
        self.is_whole = is_whole
        self.name = name

    def open(self, agent: str = "app", **options: Any) -> interlock.Space:
        """Open the space over it."""
        return interlock.open(connection=self.given, space=self.name, agent=agent, **options)


@pytest.fixture(params=SHARED)
def sharing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sharing]:
    """Each thing that `open` takes."""
    kind: str = request.param
    path = tmp_path / "app.db"
    if kind.startswith("sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE orders (id TEXT)")
            if kind == "sqlite3":
                connection.row_factory, connection.text_factory = sqlite3.Row, bytes
                yield Sharing(connection, lambda: connection.execute("SELECT 1").fetchone()[0] == 1)
            else:
                engine = sqlalchemy.create_engine(f"sqlite:///{path}")
                yield Sharing(engine, lambda: True)
                engine.dispose()
    elif kind.startswith("redis"):
        decodes = kind == "redis decodes"
        url = request.getfixturevalue("redis_url")
        client = redis.Redis.from_url(url, decode_responses=decodes, protocol=2 + decodes)
        yield Sharing(
            client, partial(_is_whole, client), f"shared-{path.parent.name}-{os.getpid()}"
        )
        client.close()
    else:
        yield from _sharing_postgres(kind, request.getfixturevalue("postgres_url"))


def _is_whole(client: Any) -> bool:
    pool = client.connection_pool
    return bool(client.ping()) and not getattr(pool, "_in_use_connections", None)


def _sharing_postgres(kind: str, url: str) -> Iterator[Sharing]:
    app = Application(url)
    if kind == "pool":
        settings = {"row_factory": dict_row}
        with psycopg_pool.ConnectionPool(
            url, kwargs=settings, min_size=1, max_size=3, open=True
        ) as pool:
            yield Sharing(
                pool,
                lambda: (stats := pool.get_stats())["pool_available"] == stats["pool_size"],
                app.space,
            )
    elif kind == "connection":
        with psycopg.connect(url, autocommit=True) as connection:
            yield Sharing(
                connection, lambda: connection.execute("SELECT 1").fetchone() == (1,), app.space
            )
    else:
        engine = sqlalchemy.create_engine(engine_url(app))
        yield Sharing(engine, lambda: engine.pool.checkedout() == 0, app.space)  # type: ignore[attr-defined]  # of QueuePool
        engine.dispose()


def test_eight_threads_share_it_and_nothing_is_kept_or_closed(sharing: Sharing) -> None:
    with sharing.open(rules={"log": interlock.merged("append")}) as space:
        record = space.create("count", 0)

        def work(number: int) -> None:
            for _ in range(3):
                space.update("count", lambda value: value + 1)
                space.append("log", number)
                with suppress(interlock.Conflict):
                    space.write(record, "stale")

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        with sharing.open("other") as other, other.lease("report") as lease:
            lease.write("draft")
        assert space.read("count").value == 24
        assert len(space.read("log").value) == 24
        assert [each.key for each in space.log()][-1] == "report"
        until(lambda: space.conflicts().refusals)
    until(sharing.is_whole)


def test_watchers_hear_of_commits(sharing: Sharing) -> None:
    with sharing.open() as space, sharing.open("other") as other, ThreadPoolExecutor(1) as thread:
        watched: Any = space.watch()
        answer = thread.submit(next, watched)
        other.create("key", 1)
        assert answer.result(20).key == "key"
        watched.close()


def test_a_url_beside_it_is_refused(sharing: Sharing) -> None:
    with pytest.raises(interlock.Invalid, match="not both"):
        interlock.open("sqlite://", connection=sharing.given)


def test_what_is_of_asyncio_or_not_known_is_refused(postgres_url: str, redis_url: str) -> None:
    wrong = {
        r"for interlock\.open_async": redis.asyncio.Redis.from_url(redis_url),
        "A pipeline": redis.Redis.from_url(redis_url).pipeline(),
        "encoding is latin-1": redis.Redis.from_url(redis_url, encoding="latin-1"),
        "can't be shared": object(),
        "SQLAlchemy engine of PostgreSQL": postgres_url,
    }
    for why, given in wrong.items():
        with pytest.raises(interlock.Invalid, match=why):
            interlock.open(connection=given)
    with pytest.raises(interlock.Invalid, match="not a store URL"):
        interlock.open()


# PostgreSQL


def test_a_single_connection_is_used_between_transactions_only(on_postgres: Application) -> None:
    with pytest.raises(interlock.Invalid, match="autocommit=True"):
        interlock.open(connection=on_postgres.connect())
    connection = on_postgres.connect(autocommit=True)
    with connection.transaction(), pytest.raises(interlock.Invalid, match="transaction of yours"):
        interlock.open(connection=connection)
    with interlock.open(connection=connection, space=on_postgres.space) as space:
        with connection.transaction():
            on_postgres.insert(connection, "1")
            with pytest.raises(interlock.Invalid, match="transaction of yours"):
                elsewhere(space.create, "key", 1)
            with space.joined(connection) as joined:
                joined.create("key", 2)
        assert space.read("key").value == 2
        connection.close()
        with pytest.raises(interlock.Unavailable, match="closed"):
            space.read("key")
    assert on_postgres.orders() == ["1"]


def test_connections_that_read_an_older_moment_are_refused(on_postgres: Application) -> None:
    strict = {"options": "-c default_transaction_isolation=serializable", "autocommit": True}
    with pytest.raises(interlock.Invalid, match="default_transaction_isolation"):
        interlock.open(connection=on_postgres.connect(**strict))
    latin = on_postgres.connect(client_encoding="latin1", autocommit=True)
    with pytest.raises(interlock.Invalid, match="UTF8"):
        interlock.open(connection=latin)


def test_settings_of_a_shared_connection_stay_as_they_were(on_postgres: Application) -> None:
    connection = on_postgres.connect(autocommit=True)
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    with interlock.open(connection=connection, space=on_postgres.space) as space:
        space.update("key", lambda _: 1)
        asked = "SELECT count(*), current_setting('lock_timeout') FROM pg_prepared_statements"
        assert connection.execute(asked).fetchone() == (0, "0")
    assert connection.autocommit
    assert connection.isolation_level == psycopg.IsolationLevel.SERIALIZABLE


def test_a_schema_is_made_over_a_pool_in_a_new_database(on_postgres: Application) -> None:
    name = f"new_{on_postgres.table}"
    with psycopg.connect(on_postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    dsn = psycopg.conninfo.make_conninfo(on_postgres.url, dbname=name)
    with psycopg_pool.ConnectionPool(dsn, min_size=1, open=True) as pool:
        with pytest.raises(interlock.Unavailable, match="No Interlock store"):
            interlock.open(connection=pool, create=False)
        with interlock.open(connection=pool) as space:
            assert space.create("key", 1).version == 1


def test_a_pool_whose_connections_are_all_out_or_that_is_closed(on_postgres: Application) -> None:
    pool: Any = psycopg_pool.ConnectionPool(on_postgres.url, min_size=1, max_size=1, open=True)
    name = on_postgres.space
    with pool, interlock.open(connection=pool, space=name, busy_timeout=0.3) as space:
        with pool.connection(), pytest.raises(interlock.Unavailable, match="all are in use"):
            space.read("key")
        space.create("key", 1)
        pool.close()
        with pytest.raises(interlock.Unavailable):
            space.read("key")


def test_a_broken_connection_is_not_lent_again(on_postgres: Application) -> None:
    engine = sqlalchemy.create_engine(engine_url(on_postgres), pool_size=1, max_overflow=0)
    with interlock.open(connection=engine, space=on_postgres.space) as space:
        space.create("key", 1)
        with psycopg.connect(on_postgres.url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND query LIKE '%interlock.%'"
            )
        assert space.update("key", lambda value: value + 1).value == 2
    engine.dispose()


def test_a_forked_child_does_not_use_the_parents_connections(on_postgres: Application) -> None:
    pool: Any = psycopg_pool.ConnectionPool(on_postgres.url, min_size=1, open=True)
    with pool, interlock.open(connection=pool, space=on_postgres.space) as space:
        space.create("key", 1)
        child = os.fork()
        if not child:
            try:
                space.read("key")
            except interlock.Unavailable as problem:
                os._exit(0 if "was forked" in str(problem) else 2)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert space.read("key").value == 1


# SQLite


def test_a_store_is_made_beside_the_applications_tables(on_sqlite: Application) -> None:
    path = Path(on_sqlite.path).with_name("older.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders (id TEXT)")
        connection.commit()
        with pytest.raises(interlock.IncompatibleStore, match="another program's"):
            interlock.open(f"sqlite:///{path}")
        with pytest.raises(interlock.Unavailable, match="No Interlock store"):
            interlock.open(connection=connection, create=False)
        space = interlock.open(connection=connection)
        with space, connection, space.joined(connection) as joined:
            connection.execute("INSERT INTO orders VALUES ('1')")
            joined.create("key", 1)
    with interlock.open(f"sqlite:///{path}") as space:
        assert space.read("key").value == 1


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("CREATE TABLE log (id)", "table or index 'log'"),
        ("PRAGMA user_version = 7", "user_version"),
        ("PRAGMA application_id = 7", "application_id"),
    ],
)
def test_a_file_with_no_room_for_a_store_is_left_alone(
    tmp_path: Path, statement: str, why: str
) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("CREATE TABLE orders (id TEXT)")
        connection.execute(statement)
        connection.commit()
        with pytest.raises(interlock.Invalid, match=why):
            interlock.open(connection=connection)
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        assert "spaces" not in names
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_bad_connections_of_sqlite(on_sqlite: Application) -> None:
    busy, closed = on_sqlite.connect(), on_sqlite.connect()
    on_sqlite.insert(busy, "1")
    closed.close()
    wrong = {
        "in memory": sqlite3.connect(":memory:"),
        "memory": sqlalchemy.create_engine("sqlite://"),
        "file: URI": sqlalchemy.create_engine("sqlite:///file:app.db?uri=true"),
        "in a transaction": busy,
        "can't be used here": closed,
        "created in a thread": elsewhere(sqlite3.connect, on_sqlite.path),
    }
    for why, given in wrong.items():
        with pytest.raises(interlock.Invalid, match=why):
            interlock.open(connection=given)


# asyncio


@asynccontextmanager
async def _sharing_async(kind: str, request: Any, tmp_path: Path) -> AsyncIterator[Any]:
    if kind == "sqlite3":
        with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
            yield connection
        return
    if kind.startswith("redis"):
        url = request.getfixturevalue("redis_url")
        decodes = kind == "redis decodes"
        async with redis.asyncio.Redis.from_url(url, decode_responses=decodes) as client:
            yield client
            assert await client.ping()
        return
    url = request.getfixturevalue("postgres_url")
    if kind == "pool":
        pool: Any = psycopg_pool.AsyncConnectionPool(url, min_size=1, max_size=3, open=False)
        async with pool:
            yield pool
            stats = pool.get_stats()
            assert stats["pool_available"] == stats["pool_size"]
    elif kind == "connection":
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            yield connection
            await connection.execute("SELECT 1")
    else:
        engine = sqlalchemy.ext.asyncio.create_async_engine(engine_url(Application(url)))
        yield engine
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of QueuePool
        await engine.dispose()


@pytest.mark.parametrize(
    "kind", ["sqlite3", "pool", "connection", "engine", "redis", "redis decodes"]
)
async def test_tasks_share_it(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    sharing: AbstractAsyncContextManager[Any] = _sharing_async(kind, request, tmp_path)
    async with sharing as given:
        opening = interlock.open_async(
            connection=given, space=f"shared-{tmp_path.name}-{kind.replace(' ', '-')}"
        )
        async with opening as space:

            async def work() -> None:
                for _ in range(3):
                    await space.update("count", lambda value: value + 1, default=0)

            await asyncio.gather(*(work() for _ in range(8)))
            async with space.lease("report") as lease:
                await lease.write("draft")
            with pytest.raises(interlock.Conflict):
                await space.create("report", "stale")
            watching = asyncio.ensure_future(anext(space.watch(after=await space.position())))
            await space.create("key", 1)
            assert (await watching).key == "key"
            assert (await space.read("count")).value == 24
            while not (await space.conflicts()).refusals:
                await asyncio.sleep(0)


async def test_what_blocks_is_refused_by_open_async(postgres_url: str, redis_url: str) -> None:
    pool: Any = psycopg_pool.ConnectionPool(postgres_url, open=False)
    for given in (pool, redis.Redis.from_url(redis_url)):
        with pytest.raises(interlock.Invalid, match=r"for interlock\.open\."):
            await interlock.open_async(connection=given)
