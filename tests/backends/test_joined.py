"""A space inside a transaction of the application's: both stand or both fall."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio
from sqlalchemy import orm

import interlock
from tests.backends.applications import Application, engine_url, until, waits_for_lock
from tests.facades import elsewhere
from tests.repository import ROOT


def test_both_stand_after_the_commit(app: Application) -> None:
    space, connection = app.open(), app.connect()
    with space.joined(connection) as joined:
        app.insert(connection, "1")
        entry = joined.append("events", {"order": 1})
        created = joined.create("order/1", {"state": "new"})
        changed = joined.update("order/1", lambda value: {**value, "state": "paid"})
        changed = joined.patch("order/1", {"by": "card"})
        joined.delete(changed)
        with joined.transaction() as tx:
            tx.write(tx.read("count"), 1)
        assert joined.read("events").value == [{"order": 1}]
        assert [each.key for each in joined.log()][-1] == "count"
        assert not elsewhere(lambda: space.read("events").exists)
    connection.commit()
    assert app.orders() == ["1"]
    assert space.read("events").value == [{"order": 1}]
    log = list(space.log())
    assert [each.position for each in log] == list(range(1, len(log) + 1))
    assert (entry.position, created.version, space.read("order/1").version) == (2, 1, 4)
    assert space.read("count").value == 1


def test_both_fall_and_nothing_is_remembered(app: Application) -> None:
    space, connection = app.open(), app.connect()
    with pytest.raises(ZeroDivisionError), space.joined(connection) as joined:  # noqa: PT012
        app.insert(connection, "1")
        joined.append("events", 1, id="one")
        joined.create("order/1", 1, op_id="op-1")
        raise ZeroDivisionError
    connection.rollback()
    assert app.orders() == []
    assert (space.position(), space.read("events").value) == (1, None)
    assert space.outcome("op-1") is None
    with space.joined(connection) as joined:
        app.insert(connection, "1")
        joined.append("events", 1, id="one")
        assert joined.create("order/1", 1, op_id="op-1").version == 1
    connection.commit()
    assert (app.orders(), space.read("events").value) == (["1"], [1])
    with space.joined(connection) as joined:  # sent again: applied once
        joined.append("events", 1, id="one")
        assert joined.create("order/1", 1, op_id="op-1").position == 3
    connection.commit()
    assert space.position() == 3


def test_the_savepoint_of_the_application_undoes_its_part(app: Application) -> None:
    space, connection = app.open(), app.connect()
    with space.joined(connection) as joined:
        joined.append("events", "kept")
        connection.execute("SAVEPOINT mine")
        app.insert(connection, "1")
        joined.append("events", "undone")
        connection.execute("ROLLBACK TO SAVEPOINT mine")
        joined.append("events", "after")
    connection.commit()
    assert app.orders() == []
    assert space.read("events").value == ["kept", "after"]
    assert space.position() == 3


KILLED = """
import sys
from tests.backends.applications import Application
app = Application(sys.argv[1], sys.argv[2], sys.argv[3])
space, connection = app.open("killed"), app.connect()
with space.joined(connection) as joined:
    app.insert(connection, "1")
    joined.append("events", 1)
    print("between", flush=True)
    sys.stdin.read()
connection.commit()
"""


def test_both_fall_where_the_process_is_killed_in_between(app: Application) -> None:
    space = app.open()
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, app.url, app.table, app.space],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "between\n"
        os.kill(process.pid, signal.SIGKILL)
    assert space.append("events", "next").position == 2
    assert (app.orders(), space.read("events").value) == ([], ["next"])


def test_of_two_joined_writers_one_wins_and_the_other_gets_a_conflict(app: Application) -> None:
    space, first, began = app.open(), app.connect(), threading.Event()
    record = space.create("seat", "free")

    def second() -> str:
        with app.open("second") as theirs, closing(_threads_own(app)) as connection:
            began.set()
            with theirs.joined(connection) as joined:
                with pytest.raises(interlock.Conflict) as refused:
                    joined.write(record, "second")
                app.insert(connection, "second")  # the transaction goes on
                joined.append("events", "beaten")
            connection.commit()
        return str(refused.value.record.value)

    with ThreadPoolExecutor(1) as threads:
        with space.joined(first) as joined:
            app.insert(first, "first")
            joined.write(record, "first")
            answer = threads.submit(second)
            assert began.wait(20)
        first.commit()
        assert answer.result(20) == "first"
    assert app.orders() == ["first", "second"]
    assert (space.read("seat").value, space.read("events").value) == ("first", ["beaten"])


def _threads_own(app: Application) -> Any:
    return sqlite3.connect(app.path) if app.is_sqlite else psycopg.connect(app.url)


def test_a_plain_writer_waits_for_a_joined_one_and_conflicts(app: Application) -> None:
    space, plain, connection = app.open(), app.open("plain"), app.connect()
    record = space.create("seat", "free")
    with ThreadPoolExecutor(1) as threads:
        with space.joined(connection) as joined:
            joined.write(record, "joined")
            answer = threads.submit(plain.write, record, "plain")
            if not app.is_sqlite:
                until(lambda: waits_for_lock(connection))
            assert not answer.done()
        connection.commit()
        with pytest.raises(interlock.Conflict):
            answer.result(20)
    stale = space.read("seat")
    plain.write(stale, "again")
    with space.joined(connection) as joined:
        with pytest.raises(interlock.Conflict):
            joined.write(stale, "stale")
        assert joined.read("seat").value == "again"
    connection.commit()


def test_the_space_itself_is_not_written_inside_the_block(app: Application) -> None:
    space, connection = app.open(), app.connect()
    with space.joined(connection) as joined:
        joined.append("events", 1)
        with pytest.raises(interlock.Invalid, match="use the space that joined"):
            space.append("events", 2)
        with pytest.raises(interlock.Invalid, match="use the space that joined"):
            space.joined(connection).__enter__()
    connection.commit()
    assert space.append("events", 2).position == 3


def test_what_waits_or_leaves_the_store_is_refused(app: Application, tmp_path: Path) -> None:
    space, connection = app.open(), app.connect()
    with space.joined(connection) as joined:
        joined.create("key", 1)
        for refused in (
            lambda: joined.lease("key").acquire(),
            lambda: next(iter(joined.group("g"))),
            lambda: next(joined.watch()),
            lambda: joined.files(tmp_path),
            lambda: joined.update("key", lambda v: v + 1, turns="always"),
            lambda: joined.trim(),
        ):
            with pytest.raises(interlock.Invalid, match="part of your transaction"):
                refused()
        assert joined.update("key", lambda value: value + 1).value == 2
    with pytest.raises(interlock.Invalid, match="has ended"):
        joined.read("key")
    connection.commit()
    with space.joined(connection) as joined:
        joined.append("events", 1)
        connection.commit()
        with pytest.raises(interlock.Invalid, match="Your transaction has ended"):
            joined.append("events", 2)
    assert (space.read("key").value, space.read("events").value) == (2, [1])


def test_rules_that_are_rolled_back_are_not_gone_by(app: Application) -> None:
    space, connection = app.open(), app.connect()
    with space.joined(connection) as joined:
        joined.apply_rules({"events": interlock.merged("append"), "n": interlock.merged("counter")})
        joined.append("n", 1)
    connection.rollback()
    app.open("other").apply_rules({"n": interlock.merged("append")})  # of the same version
    with pytest.raises(interlock.Forbidden):
        space.append("events", 1)
    space.append("n", 1)
    assert space.read("n").value == [1]


def test_refusals_are_counted(app: Application) -> None:
    space, connection = app.open(), app.connect()
    with space.joined(connection) as joined:
        joined.create("key", 1)
        with pytest.raises(interlock.Conflict):
            joined.create("key", 2)
    connection.commit()
    until(lambda: [each.key for each in space.conflicts().refusals] == ["key"])


def test_hooks_are_not_told_of_a_commit_that_may_be_rolled_back(app: Application) -> None:
    space, connection, told = app.open(), app.connect(), list[Any]()
    for event in ("commit", "conflict"):
        space.on(event, told.append)
    with space.joined(connection) as joined:
        joined.create("key", "rolled back")
        with pytest.raises(interlock.Conflict):
            joined.create("key", "refused")
    connection.rollback()
    space.create("key", "stands")
    until(lambda: len(told) == 2)
    assert [(each.event, each.agent) for each in told] == [("conflict", "app"), ("commit", "app")]
    assert space.metrics().commits == {"app": 1}


def test_an_object_that_is_no_connection_is_refused(app: Application) -> None:
    space = app.open()
    for wrong in (None, app.url, object(), space):
        with pytest.raises(interlock.Invalid, match="can't be joined here"):
            space.joined(wrong).__enter__()


@pytest.mark.parametrize("begun", [False, True])
def test_a_connection_of_sqlalchemy(app: Application, begun: bool) -> None:
    space, engine = app.open(), sqlalchemy.create_engine(engine_url(app))
    insert = sqlalchemy.text(f"INSERT INTO {app.table} VALUES (:id)")
    for order, ends in (("1", "commit"), ("2", "rollback")):
        with engine.connect() as connection:
            if begun:
                connection.execute(insert, {"id": order})
            with space.joined(connection) as joined:
                joined.append("events", order)
            if not begun:
                connection.execute(insert, {"id": order})
            getattr(connection, ends)()
    with engine.connect() as connection, space.joined(connection) as joined:
        joined.append("events", "left without a commit")
    assert (app.orders(), space.read("events").value) == (["1"], ["1"])
    engine.dispose()


def test_a_session_of_sqlalchemy(app: Application) -> None:
    space, engine = app.open(), sqlalchemy.create_engine(engine_url(app))
    insert = sqlalchemy.text(f"INSERT INTO {app.table} VALUES ('1')")
    with orm.Session(engine) as session, session.begin(), space.joined(session) as joined:
        joined.append("events", "1")
        session.execute(insert)
    with pytest.raises(interlock.Invalid, match="no transaction of its own"):
        space.joined(engine).__enter__()
    assert (app.orders(), space.read("events").value) == (["1"], ["1"])
    engine.dispose()


def test_redis_says_why_it_has_none(redis_url: str) -> None:
    refused = pytest.raises(interlock.Invalid, match="MULTI only queues")
    with interlock.open(redis_url, "joined-none") as space, refused:
        space.joined(object()).__enter__()
