"""The PostgreSQL backend: requests in, answers out, through the store that its spaces share."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from interlock.backends.contract import being_imported, no_space, not_empty, other_source
from interlock.backends.joined import JoinedBackend
from interlock.backends.postgres import calls, wire
from interlock.backends.postgres.calls import Call, Rows
from interlock.backends.postgres.connect import Target, prepare, server_settings
from interlock.backends.postgres.erase import REMAINS, UNVACUUMED, vacuum
from interlock.backends.postgres.faults import fault_of, must_repeat, psycopg, psycopg_pool
from interlock.backends.postgres.joined import PostgresJoined
from interlock.backends.postgres.lender import AsyncPoolLender, Lender, PoolLender
from interlock.backends.postgres.news import News
from interlock.backends.refusal_log import KEPT
from interlock.backends.registry import Registry
from interlock.backends.remote import Known, RemoteBackend, ServerOptions, Slots, check_options
from interlock.core.conflict_report import RefusalNote
from interlock.core.plan import Plan
from interlock.core.requests import Request, Scrub, Scrubbed, T
from interlock.core.transfer import Importing
from interlock.errors import AnswerLost, Fault, Invalid

if TYPE_CHECKING:
    Pool = psycopg_pool.ConnectionPool[psycopg.Connection]
    AsyncPool = psycopg_pool.AsyncConnectionPool[psycopg.AsyncConnection]


_CONNECTIONS = 8  # of one process, at most, and of each of its event loops
_IDLE = 60.0  # seconds after which a connection that nobody uses is closed
_ASKED_EVERY = 0.25  # seconds, for a connection
_REPEATS = 20


@dataclass
class _OfLoop:
    """The pool of an event loop, and how many spaces use it there."""

    opening: asyncio.Future[Any]  # of an AsyncPool, or of a lender
    slots: Slots
    users: int = 0


class Store:
    """Carries calls to a store and back."""

    def __init__(self, target: Target, busy_timeout: float, lender: Lender | None = None) -> None:
        self.target = target
        self._lender = lender
        self.process = os.getpid()
        self._busy_timeout = busy_timeout
        # What a pooler makes settings of the session is sent with each statement.
        self._pooled = None if target.direct else server_settings(busy_timeout)["lock_timeout"]
        self._making = threading.Lock()
        self._pool: Pool | PoolLender | None = lender if isinstance(lender, PoolLender) else None
        self._most = _CONNECTIONS if lender is None else lender.most
        # Who waits for a connection waits here: asking the pool anew costs the place in its queue.
        self._free = threading.Semaphore(self._most)
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _OfLoop] = (
            weakref.WeakKeyDictionary()
        )
        self.news = News(target, self._log_end)

    def anew(self) -> Store:
        """Return the same store without any connection, for a forked child."""
        return Store(self.target, self._busy_timeout, self._lender)

    def close(self) -> None:
        """Close the connections of threads, and the listener's."""
        self.news.close()
        if self._pool is not None and not isinstance(self._pool, PoolLender):
            self._pool.close()

    # Calls

    def send(self, call: Call[T]) -> T:
        """Carry a call to the server and return its answer.  Raises AnswerLost and the faults."""
        rows = self._rows(call)
        if later := call.rest_of(rows):  # too much for one answer: the rest, after the commit
            rows = self._rows(later)
            _check_rest(rows)
        return call.parse(rows)

    async def send_async(self, call: Call[T]) -> T:
        """The same without blocking the event loop."""
        rows = await self._rows_async(call)
        if later := call.rest_of(rows):
            rows = await self._rows_async(later)
            _check_rest(rows)
        return call.parse(rows)

    def _rows(self, call: Call[object]) -> Rows:
        if isinstance(self._lender, AsyncPoolLender):
            return self._lender.bridge(self._busy_timeout).run(self._rows_from_thread(call))
        if not self._free.acquire(timeout=self._busy_timeout):
            raise self._all_in_use()
        try:
            return self._rows_at_once(call)
        finally:
            self._free.release()

    def _rows_at_once(self, call: Call[object]) -> Rows:
        for attempt in itertools.count(1):
            connection = self._connection()
            assert self._pool is not None
            try:
                results = connection.wait(wire.begin(connection, call, self._pooled))
                return wire.rows(connection, results)
            except psycopg.Error as problem:
                if not must_repeat(problem) or attempt == _REPEATS:
                    raise fault_of(problem, self.target.place, sent=True) from problem
            finally:
                self._pool.putconn(connection)
            time.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))
        return []

    async def _rows_from_thread(self, call: Call[object]) -> Rows:
        loop = asyncio.get_running_loop()
        self.join(loop)
        try:
            return await self._rows_async(call)
        finally:
            await self.leave(loop)

    async def _rows_async(self, call: Call[object]) -> Rows:
        slots = self._pools[asyncio.get_running_loop()].slots
        try:
            async with slots.one(self._busy_timeout):
                return await self._rows_at_once_async(call)
        except TimeoutError:
            raise self._all_in_use() from None

    async def _rows_at_once_async(self, call: Call[object]) -> Rows:
        for attempt in itertools.count(1):
            pool = await asyncio.shield(self._pools[asyncio.get_running_loop()].opening)
            connection = await self._connection_async(pool)
            try:
                steps = wire.begin(connection, call, self._pooled)
                return wire.rows(connection, await connection.wait(steps))
            except psycopg.Error as problem:
                if not must_repeat(problem) or attempt == _REPEATS:
                    raise fault_of(problem, self.target.place, sent=True) from problem
            finally:
                await pool.putconn(connection)
            await asyncio.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))
        return []

    def _log_end(self, space: int) -> int:
        """Where the log of a space ends now, or 0 where the server does not say."""
        with suppress(Fault):
            return int(self.send(Call("log_end", (space,), lambda rows: rows[0][0], False)))
        return 0

    # Connections

    def _connection(self) -> psycopg.Connection:
        """Take a connection from the pool, which begins to open one whenever it is asked and has
        none.  It is asked often: left alone after a failure, it would wait as long as the server
        was away, again."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            left = deadline - time.monotonic()
            try:
                return self._threads_pool().getconn(max(min(left, _ASKED_EVERY), 0.001))
            except (psycopg.Error, psycopg_pool.PoolClosed) as problem:
                self._check_patience(problem, left)

    async def _connection_async(self, pool: AsyncPool) -> psycopg.AsyncConnection:
        deadline = time.monotonic() + self._busy_timeout
        while True:
            left = deadline - time.monotonic()
            try:
                return await pool.getconn(max(min(left, _ASKED_EVERY), 0.001))
            except (psycopg.Error, psycopg_pool.PoolClosed) as problem:
                self._check_patience(problem, left)

    def _check_patience(self, problem: Exception, left: float) -> None:
        """Raise the fault of a pool that gave no connection, unless there is time to ask again."""
        if not isinstance(problem, psycopg_pool.PoolTimeout) or left <= _ASKED_EVERY:
            raise fault_of(problem, self.target.place, sent=False) from problem

    def _all_in_use(self) -> Exception:
        problem = psycopg_pool.PoolTimeout("all of them are in use")
        return fault_of(problem, self.target.place, sent=False)

    def _threads_pool(self) -> Pool | PoolLender:
        with self._making:
            if self._pool is None:
                self._pool = psycopg_pool.ConnectionPool(
                    self.target.conninfo, open=True, **self._pool_arguments()
                )
            return self._pool

    def join(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have a space use the pool of an event loop, until it leaves."""
        if isinstance(self._lender, AsyncPoolLender) and self._lender.loop is not loop:
            raise Invalid(
                "The connections belong to another event loop. Open the space in this one."
            )
        if loop not in self._pools:
            opening = asyncio.ensure_future(self._opened())
            self._pools[loop] = _OfLoop(opening, Slots(self._most))
        self._pools[loop].users += 1

    async def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the pool of an event loop where this was the last space that used it."""
        mine = self._pools[loop]
        mine.users -= 1
        if not mine.users:
            del self._pools[loop]
            pool = await mine.opening
            if self._lender is None:
                await pool.close()

    async def _opened(self) -> Any:
        if self._lender is not None:
            return self._lender
        pool: AsyncPool = psycopg_pool.AsyncConnectionPool(
            self.target.conninfo, open=False, **self._pool_arguments()
        )
        await pool.open()
        return pool

    def _pool_arguments(self) -> dict[str, Any]:
        return {
            "kwargs": self.target.arguments(self._busy_timeout),
            "min_size": 0,
            "max_size": _CONNECTIONS,
            "reconnect_timeout": 0.0,
            "max_idle": _IDLE,
            "num_workers": 1,
            "name": "interlock",
        }


def _check_rest(rows: Rows) -> None:
    if not rows:
        raise AnswerLost("the server forgot its answer before it was fetched")


_STORES: Registry[Store] = Registry()


class PostgresBackend(RemoteBackend[Call[object]]):
    """One space in one PostgreSQL database."""

    def __init__(
        self,
        url: str | Lender,
        name: str,
        options: ServerOptions | None = None,
        create: bool = True,
        importing: Importing | None = None,
    ) -> None:
        options = options or ServerOptions()
        check_options(options)
        self._durable = options.durability == "full"
        patience = options.busy_timeout
        self._key = (url if isinstance(url, str) else url.given, patience)
        self._store = _STORES.borrow(self._key, lambda: _store(url, patience, create))
        super().__init__(name, self._store.target.place, options)
        try:
            self._space, self.uid = self._find(create, importing)
        except BaseException:
            self.close()
            raise

    def perform(self, request: Request[object]) -> Any:
        """Answer one request."""
        answer = super().perform(request)
        return self._scrubbed(request) if isinstance(request, Scrub) else answer

    async def perform_async(self, request: Request[object]) -> Any:
        """Answer one request without blocking the event loop."""
        answer = await super().perform_async(request)
        if isinstance(request, Scrub):
            return await asyncio.to_thread(self._scrubbed, request)
        return answer

    def _scrubbed(self, request: Scrub) -> Scrubbed:
        if request.vacuum:
            vacuum(self._store.target, self._options.busy_timeout)
            return Scrubbed(0, ("the tables were rewritten (VACUUM FULL)",), REMAINS)
        return Scrubbed(0, (), (UNVACUUMED, *REMAINS))

    def _find(self, create: bool, importing: Importing | None) -> tuple[int, str]:
        if importing is not None:
            space, uid, why = self._first(calls.begin_import(self.name, importing))
            if why is not None:
                refuse = not_empty if why == "full" else other_source
                raise refuse(self.place, self.name)
            return space, uid
        found = self._first(Call("open_space", (self.name, create), lambda rows: rows))
        if not found:
            raise no_space(self.place, self.name)
        space, uid, unfinished = found[0]
        if unfinished:
            raise being_imported(self.place, self.name)
        return space, uid

    def join(self, connection: object) -> JoinedBackend:
        """Return the space inside a transaction of the caller's."""
        self._check_open()
        return PostgresJoined(self, connection, self.place, self._space)

    def _connect(self) -> None:
        if self._store.process != os.getpid():  # a forked child
            self._store = _STORES.borrow(self._key, self._store.anew)
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._over = threading.Event()

    def _call(self, request: Request[object]) -> Call[object]:
        return calls.call_of(request, self._space, self.uid, self._known, self._durable)

    def _commit_call(self, plans: Sequence[Plan], known: Known) -> Call[object]:
        return calls.commit(plans, self._space, self.uid, known, self._durable)

    def _notes_call(self, notes: Sequence[RefusalNote]) -> Call[object]:
        return calls.add_refusals(notes, self._space, KEPT)

    def _send(self, call: Call[T]) -> T:
        return self._store.send(call)

    async def _send_async(self, call: Call[T]) -> T:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops.add(loop)
            self._store.join(loop)
        return await self._store.send_async(call)

    def _await_news(self, position: int, seconds: float) -> None:
        self._store.news.wait(self._space, position, seconds, self._over)

    async def _await_news_async(self, position: int, seconds: float) -> None:
        await self._store.news.wait_async(self._space, position, seconds, self._over)

    def _connections(self) -> object:
        return self._store

    def _disconnect(self) -> None:
        self._over.set()
        if hasattr(self, "_space"):
            self._store.news.wake(self._space)
        if _STORES.give_back(self._key, self._store):
            self._store.close()

    async def _disconnect_async(self) -> None:
        loop = asyncio.get_running_loop()
        if loop in self._loops:
            self._loops.discard(loop)
            await self._store.leave(loop)


def _store(source: str | Lender, busy_timeout: float, create: bool) -> Store:
    """Return a store at a URL, or one over connections of the application's."""
    if isinstance(source, str):
        return Store(prepare(source, busy_timeout, create), busy_timeout)
    return Store(source.prepare(busy_timeout, create), busy_timeout, source)
