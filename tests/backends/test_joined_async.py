"""A space inside a transaction of an asyncio application's."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import psycopg
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio

import interlock
from tests.backends.applications import Application, engine_url, until, waits_for_lock


async def test_both_stand_or_fall_with_asyncio(app: Application) -> None:
    space = await interlock.open_async(app.url, app.space, "app")
    for order, ends in (("1", "commit"), ("2", "rollback")):
        connection: Any = (
            app.connect() if app.is_sqlite else await psycopg.AsyncConnection.connect(app.url)
        )
        async with space.joined(connection) as joined:
            inserted = connection.execute(f"INSERT INTO {app.table} VALUES ('{order}')")
            if not app.is_sqlite:
                await inserted
            await joined.append("events", order)
            await joined.update("last", str, default=order)
            record = await joined.read("last")
            await joined.write(record, order * 2)
            with pytest.raises(interlock.Conflict):
                await joined.write(record, "stale")
            with pytest.raises(interlock.Invalid, match="use the space that joined"):
                await space.append("events", "outside")
        with pytest.raises(interlock.Invalid, match="has ended"):
            await joined.read("events")
        ended = getattr(connection, ends)()
        if not app.is_sqlite:
            await ended
            await connection.close()
    assert (await space.read("events")).value == ["1"]
    assert (await space.read("last")).value == "11"
    assert app.orders() == ["1"]
    await space.close()


async def test_tasks_that_share_a_block(app: Application) -> None:
    """They stand in line for the connection."""
    space = await interlock.open_async(app.url, app.space, "app")
    connection: Any = (
        app.connect() if app.is_sqlite else await psycopg.AsyncConnection.connect(app.url)
    )
    async with space.joined(connection) as joined:
        appends = [joined.append("events", n) for n in range(5)]
        creates = [joined.create(f"k{n}", n) for n in range(3)]
        await asyncio.gather(*appends, *creates)
    for ends in (connection.commit, connection.close):
        if (ended := ends()) is not None:
            await ended
    assert sorted((await space.read("events")).value) == [*range(5)]
    assert len(await space.scan("k")) == 3
    await space.close()


async def test_tasks_that_join_one_after_the_other(app: Application) -> None:
    """In one event loop, which goes on while one of them waits for the other's commit."""
    space = await interlock.open_async(app.url, app.space, "app")
    record = await space.create("seat", "free")

    async def sell(to: str) -> str:
        connection: Any = (
            app.connect() if app.is_sqlite else await psycopg.AsyncConnection.connect(app.url)
        )
        try:
            async with space.joined(connection) as joined:
                await joined.write(record, to)
                await asyncio.sleep(0)
        except interlock.Conflict as refused:
            return str(refused.record.value)
        finally:
            for ends in (connection.commit, connection.close):
                if (ended := ends()) is not None:
                    await ended
        return to

    assert len({*await asyncio.gather(*map(sell, "abcd"))}) == 1
    await space.close()


async def test_a_session_of_sqlalchemys_asyncio(on_postgres: Application) -> None:
    app = on_postgres
    space = await interlock.open_async(app.url, app.space, "app")
    engine = sqlalchemy.ext.asyncio.create_async_engine(engine_url(app))
    insert = sqlalchemy.text(f"INSERT INTO {app.table} VALUES (:id)")
    async with sqlalchemy.ext.asyncio.AsyncSession(engine) as session, session.begin():
        async with space.joined(session) as joined:
            await joined.append("events", "1")
        await session.execute(insert, {"id": "1"})
    async with engine.connect() as connection:
        async with space.joined(connection) as joined:
            await joined.append("events", "2")
        await connection.commit()
    assert (await space.read("events")).value == ["1", "2"]
    await engine.dispose()
    await space.close()


async def test_connections_of_the_other_api_are_refused(on_postgres: Application) -> None:
    asynchronous = await psycopg.AsyncConnection.connect(on_postgres.url)
    with pytest.raises(interlock.Invalid, match=r"for interlock\.open_async"):
        on_postgres.open().joined(asynchronous).__enter__()
    space = await interlock.open_async(on_postgres.url, on_postgres.space)
    with pytest.raises(interlock.Invalid, match=r"for interlock\.open\."):
        await space.joined(on_postgres.connect()).__aenter__()
    await asynchronous.close()
    await space.close()


async def test_a_task_that_is_cancelled_while_it_waits(on_postgres: Application) -> None:
    """It is out of the queue for the lock at once, and its connection goes on."""
    space = await interlock.open_async(on_postgres.url, on_postgres.space)
    first, second = on_postgres.connect(), await psycopg.AsyncConnection.connect(on_postgres.url)
    plain = on_postgres.open()
    with plain.joined(first) as joined:
        joined.append("events", "first")

        async def waiting() -> None:
            async with space.joined(second) as theirs:
                await theirs.append("events", "second")

        task = asyncio.create_task(waiting(), context=contextvars.Context())
        await asyncio.to_thread(until, lambda: waits_for_lock(first))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await second.execute("SELECT 1")
        await second.commit()
    first.commit()
    assert plain.read("events").value == ["first"]
    await second.close()
    await space.close()
