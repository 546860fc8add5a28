"""The PostgreSQL backend: requests in, answers out, on the connections of psycopg's pools."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from interlock.backends.noting import KEPT
from interlock.backends.postgres import calls, wire
from interlock.backends.postgres.calls import Call
from interlock.backends.postgres.connect import arguments, prepare
from interlock.backends.postgres.faults import fault_of, must_repeat, psycopg, psycopg_pool
from interlock.backends.postgres.news import News
from interlock.backends.remote import Known, RemoteBackend, ServerOptions, check_options
from interlock.core.conflicts import RefusalNote
from interlock.core.plan import Plan
from interlock.errors import Fault

_CONNECTIONS = 8  # of one process, at most
_IDLE = 60.0  # seconds after which a connection that nobody uses is closed
_ASKED_EVERY = 0.25  # seconds, for a connection
_REPEATS = 20


class PostgresBackend(RemoteBackend):
    """One space in one PostgreSQL database."""

    def __init__(self, url: str, name: str, options: ServerOptions | None = None) -> None:
        options = options or ServerOptions()
        check_options(options)
        self._durable = options.durability == "full"
        self._target = prepare(url)
        super().__init__(name, self._target.place, options)
        try:
            call = Call("open_space", (name,), lambda rows: rows[0])
            self._space, self.uid = self._first(call)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        self._pool: Any = None
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Future[Any]] = (
            weakref.WeakKeyDictionary()
        )
        self._news: News | None = None

    def _call(self, request: Any) -> Call:
        return calls.call_of(request, self._space, self.uid, self._known, self._durable)

    def _commit_call(self, plans: Sequence[Plan], known: Known) -> Call:
        return calls.commit(plans, self._space, self.uid, known, self._durable)

    def _notes_call(self, notes: Sequence[RefusalNote]) -> Call:
        return calls.add_refusals(notes, self._space, KEPT)

    # Calls

    def _send(self, call: Call) -> Any:
        for attempt in itertools.count(1):
            connection = self._connection()
            try:
                results = connection.wait(wire.begin(connection, call, self._target.direct))
                rows = wire.rows(connection, results)
            except psycopg.Error as problem:
                if not must_repeat(problem) or attempt == _REPEATS:
                    raise fault_of(problem, self.place, sent=True) from problem
            else:
                return call.parse(rows)
            finally:
                self._pool.putconn(connection)
            time.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))
        return None

    async def _send_async(self, call: Call) -> Any:
        for attempt in itertools.count(1):
            pool = await self._loops_pool()
            connection = await self._connection_async(pool)
            try:
                steps = wire.begin(connection, call, self._target.direct)
                rows = wire.rows(connection, await connection.wait(steps))
            except psycopg.Error as problem:
                if not must_repeat(problem) or attempt == _REPEATS:
                    raise fault_of(problem, self.place, sent=True) from problem
            else:
                return call.parse(rows)
            finally:
                await pool.putconn(connection)
            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))
        return None

    def _connection(self) -> Any:
        """Take a connection from the pool, which begins to open one whenever it is asked and has
        none.  It is asked often: left alone after a failure, it would wait as long as the server
        was away, again."""
        deadline = time.monotonic() + self._options.busy_timeout
        while True:
            left = deadline - time.monotonic()
            try:
                return self._threads_pool().getconn(max(min(left, _ASKED_EVERY), 0.001))
            except (psycopg.Error, psycopg_pool.PoolClosed) as problem:
                self._check_patience(problem, left)

    async def _connection_async(self, pool: Any) -> Any:
        deadline = time.monotonic() + self._options.busy_timeout
        while True:
            left = deadline - time.monotonic()
            try:
                return await pool.getconn(max(min(left, _ASKED_EVERY), 0.001))
            except (psycopg.Error, psycopg_pool.PoolClosed) as problem:
                self._check_patience(problem, left)

    def _check_patience(self, problem: Exception, left: float) -> None:
        """Raise the fault of a pool that gave no connection, unless there is time to ask again."""
        if not isinstance(problem, psycopg_pool.PoolTimeout) or left <= _ASKED_EVERY:
            raise fault_of(problem, self.place, sent=False) from problem

    def _threads_pool(self) -> Any:
        if self._pool is None:
            self._pool = psycopg_pool.ConnectionPool(
                self._target.conninfo, open=True, **self._pool_arguments()
            )
        return self._pool

    async def _loops_pool(self) -> Any:
        loop = asyncio.get_running_loop()
        opening = self._pools.get(loop)
        if opening is None:
            opening = self._pools[loop] = asyncio.ensure_future(self._opened())
        return await asyncio.shield(opening)

    async def _opened(self) -> Any:
        pool: Any = psycopg_pool.AsyncConnectionPool(
            self._target.conninfo, open=False, **self._pool_arguments()
        )
        await pool.open()
        return pool

    def _pool_arguments(self) -> dict[str, Any]:
        return {
            "kwargs": arguments(self._target.conninfo, self._target.direct),
            "min_size": 0,
            "max_size": _CONNECTIONS,
            "reconnect_timeout": 0.0,
            "max_idle": _IDLE,
            "num_workers": 1,
            "name": f"interlock-{self.name}",
        }

    def _connections(self) -> Any:
        return self._pool, self._pools, self._news

    def _disconnect(self) -> None:
        if self._news is not None:
            self._news.close()
        if self._pool is not None:
            self._pool.close()

    async def _disconnect_async(self) -> None:
        opening = self._pools.pop(asyncio.get_running_loop(), None)
        if opening is not None:
            await (await opening).close()

    # News

    def _await_news(self, position: int, seconds: float) -> None:
        self._listener().wait(position, seconds)

    async def _await_news_async(self, position: int, seconds: float) -> None:
        await self._listener().wait_async(position, seconds)

    def _listener(self) -> News:
        if self._news is None:
            self._news = News(self._target, self._space, self._log_end)
        return self._news

    def _log_end(self) -> int:
        """Where the log ends now, or 0 where the server does not say."""
        with suppress(Fault):
            return int(self._send(Call("log_end", (self._space,), lambda rows: rows[0][0], False)))
        return 0
