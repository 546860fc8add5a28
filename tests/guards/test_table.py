"""Guards of tables: rows that programs write which know nothing of a guard."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio as sqlalchemy_asyncio
import sqlalchemy.orm

import interlock
from interlock import guards
from tests.facades import Bridge
from tests.guards.tables import Bookings, bookings, sqlite_file

CLIENTS = {
    "sqlite": ["connection", "engine", "session"],
    "postgres": [
        *("connection", "transactional", "pool", "engine", "core", "session"),
        *("async-connection", "async-pool", "async-engine", "async-session"),
    ],
}


@pytest.fixture(params=["sqlite", "postgres"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bookings]:
    """A table of each database."""
    where = sqlite_file(tmp_path)
    if request.param == "postgres":
        where = request.getfixturevalue("postgres_url")
    with bookings(request.param, where) as made:
        yield made


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Bookings]:
    """A table of PostgreSQL."""
    with bookings("postgres", postgres_url) as made:
        yield made


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Bookings]:
    """A table of SQLite."""
    with bookings("sqlite", sqlite_file(tmp_path)) as made:
        yield made


def client(table: Bookings, kind: str, loop: asyncio.AbstractEventLoop, stack: ExitStack) -> Any:
    """Return what an application has."""
    mode, _, name = kind.rpartition("-")
    if name == "connection" and not mode:
        made: Any = table.connect()
        stack.callback(made.close)
        return made
    if name == "transactional":
        return stack.enter_context(psycopg.connect(table.where))
    if name == "pool" and not mode:
        return stack.enter_context(psycopg_pool.ConnectionPool(table.where, min_size=1))
    if not mode:
        engine = sqlalchemy.create_engine(table.url)
        stack.callback(engine.dispose)
        if name == "engine":
            return engine
        if name == "core":
            return stack.enter_context(engine.connect())
        return stack.enter_context(sqlalchemy.orm.Session(engine))
    run = loop.run_until_complete
    if name == "connection":
        made = run(psycopg.AsyncConnection.connect(table.where))
        stack.callback(lambda: run(made.close()))
        return made
    if name == "pool":
        made = psycopg_pool.AsyncConnectionPool(table.where, min_size=1, open=False)
        run(made.open())
        stack.callback(lambda: run(made.close()))
        return made
    made = sqlalchemy_asyncio.create_async_engine(table.url)
    stack.callback(lambda: run(made.dispose()))
    if name == "engine":
        return made
    session = sqlalchemy_asyncio.AsyncSession(made)
    stack.callback(lambda: run(session.close()))
    return session


@pytest.mark.parametrize(
    "place", [f"{db}:{each}" for db, kinds in CLIENTS.items() for each in kinds]
)
def test_verbs_through_whatever_connection_an_application_has(
    place: str,
    request: pytest.FixtureRequest,
    loop: asyncio.AbstractEventLoop,
) -> None:
    database, _, kind = place.partition(":")
    table: Bookings = request.getfixturevalue(database)
    with ExitStack() as stack:
        given = client(table, kind, loop, stack)
        guard = table.guard(given, machine=interlock.BOOKING)
        if isinstance(guard, guards.AsyncGuard):
            guard = Bridge(guard, loop)
        assert not guard.read("1").exists
        made = guard.create("1", {"status": "PENDING", "seat": "12a", "info": {"a": [1]}})
        assert (made.version, made.value["n"], made.value["twice"]) == (1, 0, 0)
        with pytest.raises(interlock.Conflict, match="already exists"):
            guard.create("1", {"status": "PENDING"})
        table.run("UPDATE %t SET seat = '12A'")
        with pytest.raises(interlock.Conflict, match="changed by a writer outside") as caught:
            guard.write(made, {**made.value, "n": 5})
        assert caught.value.record.value == {**made.value, "seat": "12A"}
        written = guard.write(caught.value.record, {**caught.value.record.value, "n": 5})
        assert written == guard.read("1")._replace(writer=written.writer, time_us=written.time_us)
        assert (written.version, written.value["twice"]) == (2, 10)
        guard.update("1", lambda row: {**row, "n": row["n"] + 1, "info": None})
        guard.patch("1", {"paid": True, "seat": None})
        with pytest.raises(interlock.IllegalTransition):
            guard.transition("1", "REFUNDED")
        gone = guard.transition("1", "CANCELLED", n=7)
        assert table.run("SELECT status, seat, n, info, version FROM %t") == [
            ("CANCELLED", None, 7, None, 5)
        ]
        table.run("UPDATE %t SET n = 8")
        with pytest.raises(interlock.Conflict) as caught:
            guard.delete(gone)
        assert not guard.delete(caught.value.record).exists
    assert table.run("SELECT * FROM %t") == []


def test_each_type_of_column_keeps_its_value_and_its_type(table: Bookings) -> None:
    table.add(status="PENDING", price=10, at="2026-01-02 03:04:05.678901+00:00", photo=b"\0\xff")
    table.run(
        'UPDATE %t SET info = \'{"big": 12345678901234567890, "b": [1, null]}\', paid = ?', True
    )
    guard = table.guard()
    record = guard.read("1")
    assert record.value["photo"] == "\\x00ff"
    assert (record.value["info"], record.value["paid"]) == (
        {"big": 12345678901234567890, "b": [1, None]},
        True,
    )
    query = "SELECT price, at, photo, info, paid FROM %t"
    before = table.run(query)
    guard.update_fields("1", {"n": 1})
    assert table.run(query) == before
    price = "12345678.90" if table.kind == "postgres" else 2.5
    written = guard.update_fields(
        "1", {"price": price, "photo": "\\xfe", "info": ["x"], "at": "2027-01-01T00:00:00+00:00"}
    )
    assert written.value["price"] == price
    assert table.run("SELECT photo, n FROM %t") == [(b"\xfe", 1)]
    assert guard.read("1")[:3] == written[:3]
    if table.kind == "postgres":
        assert table.run(
            "SELECT jsonb_typeof(info), extract(year FROM at), price::text FROM %t"
        ) == [("array", 2027, price)]


def test_a_row_without_a_version_is_compared_by_all_columns_read(table: Bookings) -> None:
    table.add(status="PENDING", seat="12a")
    guard = table.guard(version=None)
    record = guard.read("1")
    assert record.version == 0
    for change in ("seat = '12A'", "seat = NULL", "info = '[1]'", "n = 3"):
        table.run(f"UPDATE %t SET {change}")
        with pytest.raises(interlock.Conflict) as caught:
            guard.write(record, {**record.value, "status": "CANCELLED"})
        record = caught.value.record
    assert guard.write(record, {**record.value, "status": "CANCELLED"}).value["n"] == 3


def test_a_writer_that_leaves_the_version_as_it_was_is_noticed(table: Bookings) -> None:
    table.add(status="PENDING")
    record = table.guard().read("1")
    table.run("UPDATE %t SET n = 5")
    with pytest.raises(interlock.Conflict):
        table.guard().write(record, {**record.value, "seat": "12A"})
    assert table.run("SELECT n, seat FROM %t") == [(5, None)]


def test_comparing_the_version_alone_is_asked_for_and_sees_a_version_only(table: Bookings) -> None:
    table.add(status="PENDING")
    guard = table.guard(compare="version")
    record = guard.read("1")
    table.run("UPDATE %t SET n = 5")
    written = guard.write(record, {**record.value, "seat": "12A"})
    assert (written.value["n"], written.version) == (5, 2)
    table.run("UPDATE %t SET version = version + 1")
    with pytest.raises(interlock.Conflict):
        guard.write(written, {**written.value, "seat": "12B"})


def test_columns_that_are_not_read_are_neither_compared_nor_written(table: Bookings) -> None:
    table.add(status="PENDING", n=1)
    guard = table.guard(version=None, columns=["status"])
    record = guard.read("1")
    assert record.value == {"id": 1, "status": "PENDING"}
    table.run("UPDATE %t SET n = 2")
    guard.write(record, {"status": "CANCELLED"})
    assert table.run("SELECT status, n FROM %t") == [("CANCELLED", 2)]
    with pytest.raises(interlock.Invalid, match="no column 'n'"):
        guard.patch("1", {"n": 3})


def test_composite_keys_name_one_row(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    columns = "tenant text, no integer, n integer, PRIMARY KEY (tenant, no)"
    for kind in ("sqlite", "postgres"):
        where = sqlite_file(tmp_path)
        if kind == "postgres":
            where = request.getfixturevalue("postgres_url")
        with bookings(kind, where, columns) as table:
            guard = table.guard(key=("tenant", "no"), version=None)
            for tenant in ("a/b", "a"):
                guard.create(guards.row_key(tenant, 17), {"n": 1})
            guard.update("a%2Fb/17", lambda row: {**row, "n": 2})
            assert sorted(table.run("SELECT * FROM %t")) == [("a", 17, 1), ("a/b", 17, 2)]
            with pytest.raises(interlock.Invalid, match="has 1 parts"):
                guard.read("a")


def test_bad_input_is_refused_and_changes_nothing(table: Bookings) -> None:
    table.add(status="PENDING", n=1)
    guard = table.guard()
    before = table.run("SELECT * FROM %t")
    record = guard.read("1")
    calls: list[Callable[[], Any]] = [
        lambda: guard.write(record, [1]),
        lambda: guard.patch(record, {"seta": 1}),
        lambda: guard.patch(record, {"id": 2}),
        lambda: guard.patch(record, {"version": 9}),
        lambda: guard.patch(record, {"twice": 9}),
        lambda: guard.patch(record, {"n": None}),
        lambda: guard.write(record, {"status": "x"}),  # n would be NULL
        lambda: guard.create("2", {"id": 3}),
        lambda: guard.patch(record, {"photo": "\\x0"}),
        lambda: guard.patch(record, {"n": 1 << 70}),
        lambda: table.guard(key="status").read("1"),
        lambda: table.guard(key=()),
        lambda: table.guard(key="nothing").read("1"),
        lambda: table.guard(version="id"),
        lambda: table.guard(version=None, compare="version"),
        lambda: table.guard(compare="all"),
        lambda: guards.table(table.plain, "no such table").read("1"),
        lambda: guards.table(object(), "bookings"),  # type: ignore[call-overload]
        lambda: guards.table(table.plain, ""),
        lambda: guard.read("1\0"),
        lambda: guard.read("1/2") if table.kind == "postgres" else guard.create("x", {}),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid):
            call()
    assert table.run("SELECT * FROM %t") == before


def test_in_a_callers_transaction_a_write_is_committed_or_rolled_back_with_it(
    table: Bookings,
) -> None:
    table.add(status="PENDING")
    guard, other = table.guard(), table.connect()
    look = 'SELECT status FROM "' + table.table.replace('"', '""') + '"'
    for end, left in (("ROLLBACK", "PENDING"), ("COMMIT", "CANCELLED")):
        table.plain.execute("BEGIN")
        guard.update_fields("1", {"status": "CANCELLED"})
        assert other.execute(look).fetchall() == [("PENDING",)]
        table.plain.execute(end)
        assert other.execute(look).fetchall() == [(left,)]
    other.close()


def test_a_conflict_leaves_a_callers_transaction_usable(table: Bookings) -> None:
    table.add(status="PENDING")
    guard = table.guard()
    record = guard.read("1")
    table.run("UPDATE %t SET n = 1")
    table.plain.execute("BEGIN")
    with pytest.raises(interlock.Conflict) as caught:
        guard.write(record, {**record.value, "n": 7})
    with pytest.raises(interlock.Conflict):
        guard.create("1", {})
    fresh = caught.value.record
    guard.write(fresh, {**fresh.value, "n": fresh.value["n"] + 1})
    table.plain.execute("COMMIT")
    assert table.run("SELECT n FROM %t") == [(2,)]


def test_a_session_writes_its_changed_objects_first_and_commits_with_the_guard(
    sqlite: Bookings,
) -> None:
    class Base(sqlalchemy.orm.DeclarativeBase):
        pass

    class Booking(Base):
        __tablename__ = sqlite.table
        id: sqlalchemy.orm.Mapped[int] = sqlalchemy.orm.mapped_column(primary_key=True)
        n: sqlalchemy.orm.Mapped[int]

    engine = sqlalchemy.create_engine(sqlite.url)
    with sqlalchemy.orm.Session(engine) as session:
        session.add(Booking(id=1, n=1))
        guard = sqlite.guard(session)
        guard.update("1", lambda row: {**row, "n": row["n"] + 1})
        assert sqlite.run("SELECT n FROM %t") == []
        session.commit()
        assert session.get_one(Booking, 1).n == 2
    engine.dispose()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_stale_snapshot_of_a_callers_transaction_is_unavailable_and_writes_nothing(
    postgres: Bookings, level: str
) -> None:
    postgres.add(n=1)
    with psycopg.connect(postgres.where) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        guard = postgres.guard(connection)
        record = guard.read("1")
        postgres.run("UPDATE %t SET n = 2")
        with pytest.raises(interlock.Unavailable, match="READ COMMITTED"):
            guard.write(record, {**record.value, "n": 7})
        connection.rollback()
        assert guard.update("1", lambda row: {**row, "n": row["n"] + 1}).value["n"] == 3


def test_a_stale_read_of_a_callers_transaction_in_sqlite_is_unavailable(sqlite: Bookings) -> None:
    sqlite.add(n=1)
    other = sqlite.connect()
    other.execute("BEGIN")
    guard = sqlite.guard(other)
    record = guard.read("1")
    sqlite.run("UPDATE %t SET n = 2")
    with pytest.raises(interlock.Unavailable, match="BEGIN IMMEDIATE"):
        guard.write(record, {**record.value, "n": 7})
    other.execute("ROLLBACK")
    assert guard.update("1", lambda row: {**row, "n": row["n"] + 1}).value["n"] == 3
    other.close()


def test_transactions_of_a_guards_own_repeat_after_a_serialization_failure(
    postgres: Bookings,
) -> None:
    postgres.add(n=1)
    connection = postgres.connect()
    connection.execute("SET default_transaction_isolation = 'serializable'")
    guard, beaten = postgres.guard(connection), postgres.connect()
    name = postgres.quoted
    record = guard.read("1")
    beaten.execute("BEGIN")
    beaten.execute(f"UPDATE {name} SET n = 2")
    caught: list[BaseException] = []

    def write() -> None:
        try:
            guard.write(record, {**record.value, "n": 7})
        except interlock.Conflict as problem:
            caught.append(problem)

    thread = threading.Thread(target=write)
    thread.start()
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE pid = ? AND wait_event_type = 'Lock'"
    while not postgres.run(waiting, connection.info.backend_pid)[0][0]:
        pass
    beaten.execute("COMMIT")
    thread.join()
    assert isinstance(caught[0], interlock.Conflict)
    assert caught[0].record is not None
    assert caught[0].record.value["n"] == 2
    connection.close()
    beaten.close()


def test_another_unique_value_is_no_conflict_of_the_key(table: Bookings) -> None:
    table.run(
        "CREATE UNIQUE INDEX ON %t (seat)"
        if table.kind == "postgres"
        else f"CREATE UNIQUE INDEX one_seat ON {table.quoted} (seat)"
    )
    table.add(seat="12A")
    with pytest.raises(interlock.Invalid, match="unique value"):
        table.guard().create("2", {"seat": "12A"})


def test_a_lost_answer_of_a_write_that_may_be_applied_is_unknown(
    postgres: Bookings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from interlock.backends import drive

    monkeypatch.setattr(drive, "RESUBMIT_FOR", 0.2)
    postgres.add(n=1)
    with psycopg_pool.ConnectionPool(
        postgres.where, min_size=1, kwargs={"autocommit": True}
    ) as pool:
        guard = postgres.guard(pool)
        record = guard.read("1")
        # The commit is done, and the connection ends before the answer is sent.
        execute, lost = psycopg.Cursor.execute, list[bool]()

        def killed(self: Any, query: Any, *values: Any, **options: Any) -> Any:
            execute(self, query, *values, **options)
            if str(query).startswith("UPDATE") and not lost:
                lost.append(True)
                self.connection.close()
                raise psycopg.OperationalError("the connection is lost")
            return self

        with monkeypatch.context() as patched:
            patched.setattr(psycopg.Cursor, "execute", killed)
            with pytest.raises(interlock.Unknown):
                guard.write(record, {**record.value, "n": 2})
    assert postgres.run("SELECT n FROM %t") == [(2,)]


AGENTS, BLIND = 20, 10


def test_no_guarded_write_destroys_what_a_blind_writer_wrote(table: Bookings) -> None:
    """A blind append that a guarded write had not seen would be missing from `seat` in the end."""
    table.add(seat="", n=0)
    over = threading.Event()
    rounds = 1

    def legacy(number: int) -> int:
        connection, appended = table.connect(), 0
        while not over.is_set():
            table._replace(plain=connection).run("UPDATE %t SET seat = seat || ?", f"{number},")
            appended += 1
            over.wait(0.1)  # or nobody who reads and then writes would ever succeed
        connection.close()
        return appended

    def agent(_: int) -> int:
        connection = table.connect()
        guard = table.guard(connection)
        for _round in range(rounds):
            # The whole row is written back as it was read: what was not seen would be destroyed.
            guard.update(
                "1",
                lambda row: {**row, "n": row["n"] + 1, "seat": row["seat"] + "g,"},
                attempts=10_000,
            )
        connection.close()
        return rounds

    with ThreadPoolExecutor(AGENTS + BLIND) as threads:
        blind = [threads.submit(legacy, number) for number in range(BLIND)]
        try:
            written = sum(threads.map(agent, range(AGENTS)))
        finally:
            over.set()
        for each in blind:
            each.result()
    ((count, seat),) = table.run("SELECT n, seat FROM %t")
    kept = seat.split(",")
    assert (count, kept.count("g")) == (written, written) == (20, 20)


def test_a_hundred_agents_on_one_row_lose_none_and_fail_none(table: Bookings) -> None:
    table.add(n=0)
    start = threading.Barrier(100)
    pool: Any = None
    if table.kind == "postgres":
        pool = psycopg_pool.ConnectionPool(table.where, min_size=8, max_size=8, open=True)

    def agent(_: int) -> None:
        connection = pool or table.connect()
        guard = table.guard(connection)
        start.wait()
        guard.update("1", lambda row: {**row, "n": row["n"] + 1}, attempts=10_000)
        if not pool:
            connection.close()

    with ThreadPoolExecutor(100) as threads:
        list(threads.map(agent, range(100)))
    if pool:
        pool.close()
    assert table.run("SELECT n, version FROM %t") == [(100, 101)]


def test_a_select_and_an_update_lose_what_came_between_and_the_guard_does_not(
    table: Bookings,
) -> None:
    table.add(n=0)

    def snippet(between: Callable[[], object]) -> None:
        ((n,),) = table.run("SELECT n FROM %t WHERE id = 1")
        between()
        table.run("UPDATE %t SET n = ? WHERE id = 1", n + 1)

    snippet(lambda: snippet(lambda: None))
    assert table.run("SELECT n FROM %t") == [(1,)]  # two were counted
    guard, given = table.guard(), []

    def think(row: Any) -> Any:
        given.append(row["n"])
        if len(given) == 1:
            snippet(lambda: None)
        return {**row, "n": row["n"] + 1}

    assert guard.update("1", think).value["n"] == 3


@pytest.mark.parametrize("versioned", [False, True])
def test_sqlalchemy_loses_without_a_version_column_and_with_one_where_others_write_blindly(
    sqlite: Bookings, versioned: bool
) -> None:
    class Base(sqlalchemy.orm.DeclarativeBase):
        pass

    class Booking(Base):
        __table__ = sqlalchemy.Table(
            sqlite.table,
            Base.metadata,
            sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
            sqlalchemy.Column("n", sqlalchemy.Integer),
            sqlalchemy.Column("version", sqlalchemy.Integer),
        )
        __mapper_args__ = {"version_id_col": __table__.c.version} if versioned else {}

    sqlite.add(n=0)
    engine = sqlalchemy.create_engine(sqlite.url)
    with sqlalchemy.orm.Session(engine) as session:
        booking = session.get_one(Booking, 1)
        sqlite.run("UPDATE %t SET n = n + 1")  # a program that knows of no version
        booking.n = booking.n + 1  # type: ignore[attr-defined]
        session.commit()
    engine.dispose()
    assert sqlite.run("SELECT n FROM %t") == [(1,)]  # two were counted
