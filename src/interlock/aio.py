"""The asyncio façade: `interlock.open_async`.  The same names as `interlock.space`, awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from interlock import reentry
from interlock.backends.drive import new_op_id
from interlock.backends.drive_async import AsyncDriver
from interlock.backends.urls import open_backend
from interlock.core import decide, protocol
from interlock.core.keys import check_prefix
from interlock.core.outcome import Committed, Refusal
from interlock.core.records import Entry, Record, Snapshot
from interlock.core.requests import LogPage
from interlock.core.transaction import Transaction
from interlock.core.turns import Limits
from interlock.errors import raise_refusal
from interlock.settings import (
    DEFAULT_ATTEMPTS,
    PAGE,
    WATCH_PAUSE,
    as_time_us,
    checked_op_id,
    distinct,
    make_writer,
)


def open_async(
    url: str,
    space: str = "default",
    agent: str | None = None,
    *,
    durability: str | None = None,
    busy_timeout: float | None = None,
    max_value_bytes: int | None = None,
) -> Opening:
    """Open a space for asyncio: `await open_async(...)`, or `async with open_async(...) as space`.

    The arguments and what is raised are those of `interlock.open`.
    """
    make_writer("", space, agent, max_value_bytes)

    def opened() -> AsyncSpace:
        backend = open_backend(url, space, durability=durability, busy_timeout=busy_timeout)
        writer = make_writer(backend.uid, space, agent, max_value_bytes)
        return AsyncSpace(AsyncDriver(backend), writer)

    return Opening(opened)


class Opening:
    """An AsyncSpace that is being opened: await it, or enter it."""

    def __init__(self, opened: Callable[[], AsyncSpace]) -> None:
        self._opened = opened
        self._space: AsyncSpace | None = None

    def __await__(self) -> Generator[Any, None, AsyncSpace]:
        return asyncio.to_thread(self._opened).__await__()

    async def __aenter__(self) -> AsyncSpace:
        self._space = await self
        return self._space

    async def __aexit__(self, *_: object) -> None:
        if self._space is not None:
            await self._space.close()


class AsyncSpace:
    """Shared state of a group of agents, in one event loop; open with `interlock.open_async`."""

    def __init__(self, driver: AsyncDriver, writer: decide.Writer) -> None:
        self._driver = driver
        self._writer = writer

    @property
    def agent(self) -> str:
        """The name that this space's commits are logged under."""
        return self._writer.agent

    async def read(self, key: str) -> Record:
        """Return the record of `key`; one that was never written has version 0.  Raises Invalid."""
        return (await self.read_many([key]))[key]

    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys` as of one moment.  Raises Invalid."""
        names = distinct(keys)
        reentry.check(self._writer.space, names)
        return dict((await self._run(protocol.load(names))).records)

    async def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records whose keys begin with `prefix`, by key, as of one moment."""
        snapshot: Snapshot = await self._run(protocol.load((), (prefix,)))
        return {record.key: record for record in snapshot.scans[prefix]}

    async def write(self, record: Record, value: Any, *, op_id: str | None = None) -> Record:
        """Write `value` over `record` and return the new record, as `Space.write` does."""
        plan = decide.put(self._writer, record, value, self._op_id(op_id))
        return await self._commit(record.key if isinstance(record, Record) else "", plan)

    async def create(self, key: str, value: Any, *, op_id: str | None = None) -> Record:
        """Write `value` to a key that must not exist, and return its record.

        Raises Conflict if it does.
        """
        return await self._commit(key, decide.create(self._writer, key, value, self._op_id(op_id)))

    async def delete(self, record: Record, *, op_id: str | None = None) -> Record:
        """Delete the key of `record`.

        Its version goes on counting.  Raises Conflict if it has moved.
        """
        plan = decide.delete(self._writer, record, self._op_id(op_id))
        return await self._commit(record.key if isinstance(record, Record) else "", plan)

    async def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        default: Any = None,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
    ) -> Record:
        """Read `key`, let `fn(value)` think, commit what it returns, as `Space.update` does.

        `fn` is a coroutine function, or a plain one, which then runs in a worker thread.
        """
        reentry.check(self._writer.space, (key,))
        limits = Limits(attempts, patience, turns)
        mark = reentry.marked_async if inspect.iscoroutinefunction(fn) else reentry.marked
        think = mark(self._writer.space, key, fn)
        steps = protocol.update(
            self._writer, key, think, default, limits, self._op_id(op_id), op_id is not None
        )
        record: Record = await self._run(steps)
        return record

    def transaction(self, *, op_id: str | None = None) -> AsyncTx:
        """Begin a transaction over several keys, committed when its `with` block ends.

        Raises Conflict, at a read or at the end, where anything that it read has moved.
        """
        return AsyncTx(self._driver, Transaction(self._writer), self._op_id(op_id))

    async def transact(
        self,
        fn: Callable[[AsyncTx], Any],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
    ) -> Any:
        """Run the coroutine function `fn(tx)` in a transaction, as `Space.transact` does."""
        name = self._op_id(op_id)
        steps = protocol.transact(
            self._writer,
            lambda state: AsyncTx(self._driver, state, name),
            fn,
            Limits(attempts, patience, turns),
            name,
            op_id is not None,
        )
        answer = await self._driver.run(steps)
        if isinstance(answer, protocol.Stopped):
            raise_refusal(answer.refusal)
        return answer

    def history(self, key: str, *, after: int = 0) -> AsyncIterator[Entry]:
        """Yield every entry of `key` after position `after`, oldest first."""
        return self._entries(protocol.history_page, key, after)

    def log(self, after: int = 0, prefix: str = "") -> AsyncIterator[Entry]:
        """Yield the entries after position `after` under `prefix`, in commit order."""
        return self._entries(protocol.log_page, prefix, after)

    def watch(self, prefix: str = "", after: int | None = None) -> AsyncIterator[Entry]:
        """Yield entries as they are committed, without end, after `after` (None: from now)."""
        _raise(check_prefix(prefix) or protocol.check_position("after", after or 0))
        return self._follow(prefix, after)

    def at(
        self, *, position: int | None = None, time: datetime | float | None = None
    ) -> AsyncMoment:
        """Return the space as of a log position, or of a time (aware datetime, or Unix seconds)."""
        return AsyncMoment(self._driver, position, as_time_us(position, time))

    async def position(self) -> int:
        """Return the position of the last entry of the log, 0 where it is empty."""
        snapshot: Snapshot = await self._run(protocol.load(()))
        return snapshot.position

    async def outcome(self, op_id: str) -> Committed | None:
        """Return the commit that `op_id` made, or None where it was not applied."""
        done: Committed | None = await self._run(protocol.outcome(checked_op_id(op_id)))
        return done

    async def close(self) -> None:
        """Give back connections and threads.  Closing twice does nothing."""
        self._driver.close()
        await asyncio.to_thread(self._driver.backend.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<interlock.Space {self._driver.backend.name!r} agent={self.agent!r}>"

    async def _follow(self, prefix: str, after: int | None) -> AsyncIterator[Entry]:
        position = await self.position() if after is None else after
        while True:
            page: LogPage = await self._run(protocol.log_page(prefix, position, PAGE))
            for entry in page.entries:
                yield entry
            position = page.upto
            if len(page.entries) < PAGE:
                await self._run(protocol.wait(WATCH_PAUSE, position))

    async def _entries(
        self, page_of: Callable[..., Any], name: str, after: int
    ) -> AsyncIterator[Entry]:
        while True:
            page: LogPage = await self._run(page_of(name, after, PAGE))
            for entry in page.entries:
                yield entry
            after = page.upto
            if after >= page.head:
                return

    async def _commit(self, key: str, plan: Any) -> Record:
        reentry.check(self._writer.space, (key,))
        record: Record = await self._run(protocol.commit(self._writer, plan))
        return record

    async def _run(self, steps: Any) -> Any:
        answer = await self._driver.run(steps)
        if isinstance(answer, Refusal):
            raise_refusal(answer)
        return answer

    def _op_id(self, op_id: str | None) -> str:
        return new_op_id() if op_id is None else checked_op_id(op_id)


class AsyncTx:
    """One transaction: reads of one moment, and writes committed together or not at all."""

    def __init__(self, driver: AsyncDriver, state: Transaction, op_id: str) -> None:
        self._driver = driver
        self._state = state
        self._op_id = op_id
        self.committed: Committed | None = None

    async def read(self, key: str) -> Record:
        """Return the record of `key`, with this transaction's own write.

        Raises Conflict, Invalid.
        """
        return (await self.read_many([key]))[key]

    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys`."""
        names = distinct(keys)
        await self._load(names)
        return {key: self._state.view(key) for key in names}

    async def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records under `prefix`; one that appears later is a conflict, too."""
        await self._load((), (prefix,))
        return self._state.view_scan(prefix)

    async def write(self, record: Record, value: Any) -> None:
        """Write `value` over `record` at the commit."""
        _raise(self._state.write(record, value))

    async def create(self, key: str, value: Any) -> None:
        """Write `value` to a key that must not exist at the commit."""
        _raise(self._state.create(key, value))

    async def delete(self, record: Record) -> None:
        """Delete the key of `record` at the commit."""
        _raise(self._state.delete(record))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            outcome = await self._driver.run(protocol.commit_transaction(self._state, self._op_id))
            _raise(outcome)
            self.committed = outcome

    async def _load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> None:
        _raise(await self._driver.run(self._state.load(keys, prefixes)))


class AsyncMoment:
    """The space as it was at one moment: reads only."""

    def __init__(self, driver: AsyncDriver, position: int | None, time_us: int | None) -> None:
        self._driver = driver
        self._position = position
        self._time_us = time_us

    async def read(self, key: str) -> Record:
        """Return the record of `key` as it was."""
        return (await self.read_many([key]))[key]

    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys` as they were."""
        return dict((await self._load(distinct(keys))).records)

    async def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the records that existed under `prefix`."""
        snapshot = await self._load((), (prefix,))
        return {record.key: record for record in snapshot.scans[prefix]}

    async def position(self) -> int:
        """Return the log position of this moment."""
        return (await self._load(())).position

    async def _load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> Snapshot:
        answer = await self._driver.run(
            protocol.load_at(self._position, self._time_us, keys, prefixes)
        )
        _raise(answer)
        snapshot: Snapshot = answer
        return snapshot


def _raise(answer: Any) -> None:
    if isinstance(answer, Refusal):
        raise_refusal(answer)
