"""The asyncio façade: `interlock.open_async`.  The same names as `interlock.space`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from interlock import cancellation, reentry
from interlock.aio_handles import AsyncLease, AsyncLeases, AsyncMoment, AsyncTx
from interlock.backends.drive import new_op_id
from interlock.backends.drive_async import AsyncDriver
from interlock.backends.holding import explained
from interlock.backends.urls import open_backend
from interlock.core import commands, decide, governing, leases, protocol
from interlock.core.keys import check_prefix
from interlock.core.outcome import Committed
from interlock.core.records import Entry, KeyInfo, Record, Snapshot, as_datetime
from interlock.core.requests import LogPage
from interlock.core.rules import Rule
from interlock.core.transaction import Transaction
from interlock.core.turns import Limits
from interlock.errors import Invalid, raise_refusal, raise_refused
from interlock.files.opening import OpensAsyncFiles
from interlock.runs.breaking_opening import AsyncBreakers
from interlock.runs.opening import OpensAsyncRuns
from interlock.session import AsyncSession
from interlock.settings import (
    DEFAULT_ATTEMPTS,
    PAGE,
    WATCH_PAUSE,
    as_time_us,
    checked_op_id,
    contribution_id,
    distinct,
    distinct_keys,
    make_writer,
)
from interlock.streams.opening import AsyncStreams

if TYPE_CHECKING:
    from interlock.core.conflicts import ConflictReport
    from interlock.core.trimming import Trimmed


_NOT_OPENED = (
    "what interlock.open_async returns {}: write `space = await interlock.open_async(...)` or "
    "`async with interlock.open_async(...) as space`"
)


def open_async(
    url: str,
    space: str = "default",
    agent: str | None = None,
    *,
    rules: Mapping[str, Rule] | None = None,
    exclusive: bool = False,
    create: bool = True,
    durability: str | None = None,
    busy_timeout: float | None = None,
    max_value_bytes: int | None = None,
) -> Opening:
    """Open a space for asyncio: `await open_async(...)`, or `async with open_async(...) as space`.

    The arguments and what is raised are those of `interlock.open`.
    """
    make_writer("", space, agent, max_value_bytes)

    def opened() -> AsyncSpace:
        backend = open_backend(url, space, create, durability=durability, busy_timeout=busy_timeout)
        writer = make_writer(backend.uid, space, agent, max_value_bytes)
        return AsyncSpace(AsyncDriver(backend), writer)

    return Opening(opened, exclusive, rules)


class NotOpened(Invalid, AttributeError):
    """A space that is not open yet was used.  `hasattr` takes it for an AttributeError."""


class Opening:
    """An AsyncSpace that is being opened: await it, or enter it."""

    if not TYPE_CHECKING:  # type checkers know better that there is no such attribute

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("__") or not hasattr(AsyncSpace, name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise NotOpened(_NOT_OPENED.format(f"has no {name!r} before it is open"))

        def __enter__(self) -> NoReturn:
            raise NotOpened(_NOT_OPENED.format("cannot be entered by a plain `with`"))

        def __exit__(self, *_: object) -> None:
            """Is never reached."""

    def __init__(
        self,
        opened: Callable[[], AsyncSpace],
        exclusive: bool,
        rules: Mapping[str, Rule] | None,
    ) -> None:
        self._opened = opened
        self._exclusive = exclusive
        self._rules = rules
        self._space: AsyncSpace | None = None

    def __await__(self) -> Generator[Any, None, AsyncSpace]:
        return self._open().__await__()

    async def _open(self) -> AsyncSpace:
        opening = asyncio.to_thread(self._opened)
        space = await cancellation.obtain(opening, AsyncSpace.close)
        try:
            await space._enter(self._exclusive, self._rules)
        except BaseException:
            await space.close()
            raise
        return space

    async def __aenter__(self) -> AsyncSpace:
        self._space = await self
        return self._space

    async def __aexit__(self, *_: object) -> None:
        if self._space is not None:
            await self._space.close()


class AsyncSpace(AsyncStreams, OpensAsyncRuns, AsyncBreakers, OpensAsyncFiles):
    """Shared state of a group of agents, in one event loop; open with `interlock.open_async`."""

    def __init__(self, driver: AsyncDriver, writer: decide.Writer) -> None:
        self.session = AsyncSession(driver, writer)  # for the other layers of the package
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
        return dict((await self._run(protocol.load(self._writer, names))).records)

    async def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records whose keys begin with `prefix`, by key, as of one moment."""
        snapshot: Snapshot = await self._run(protocol.load(self._writer, (), (prefix,)))
        return {record.key: record for record in snapshot.scans[prefix]}

    async def list_keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000
    ) -> list[KeyInfo]:
        """Return at most `limit` existing keys that begin with `prefix`, in order, without values.

        `after`: only keys after this one, such as the last one of the page before.  At most 10,000
        in one call.
        """
        return list(await self._run(protocol.list_keys(prefix, after, limit)))

    async def write(self, record: Record, value: Any, *, op_id: str | None = None) -> Record:
        """Write `value` over `record` and return the new record, as `Space.write` does."""
        reentry.check_write(self._writer.space, (getattr(record, "key", None),))
        written: Record = await self._run(
            commands.write(self._writer, record, value, self._op_id(op_id))
        )
        return written

    async def create(self, key: str, value: Any, *, op_id: str | None = None) -> Record:
        """Write `value` to a key that must not exist, and return its record.

        Raises Conflict if it does.
        """
        name = self._op_id(op_id)
        return await self._commit(key, lambda: decide.create(self._writer, key, value, name))

    async def delete(self, record: Record, *, op_id: str | None = None) -> Record:
        """Delete the key of `record`.

        Its version goes on counting.  Raises Conflict if it has moved.
        """
        name, key = self._op_id(op_id), getattr(record, "key", None)
        return await self._commit(key, lambda: decide.delete(self._writer, record, name))

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
        reentry.check_write(self._writer.space, (key,))
        limits = Limits(attempts, patience, turns)
        think = reentry.Thought(self._writer.space, key).marked(fn)
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
        name, thought = self._op_id(op_id), reentry.Thought(self._writer.space)
        steps = protocol.transact(
            self._writer,
            lambda state: thought.begin(state, AsyncTx(self._driver, state, name)),
            thought.marked(fn),
            Limits(attempts, patience, turns),
            name,
            op_id is not None,
        )
        answer = await self._driver.run(steps)
        if isinstance(answer, protocol.Stopped):
            raise_refusal(explained(self._writer, answer.refusal))
        return answer

    async def append(
        self, key: str, item: Any, *, id: str | None = None, dedupe: bool = False
    ) -> Entry:
        """Add a contribution to a merged key, without reading it, and return its entry.

        Never conflicts, and takes one round trip however much the key holds.  The same `id` twice
        is one contribution; `dedupe` takes the item's content for its id.  Raises Forbidden where
        the key is not merged, Held where somebody has its lease, Invalid.
        """
        reentry.check_write(self._writer.space, (key,))
        name = contribution_id(key, item, id, dedupe)
        steps = commands.append(
            self._writer, key, item, name or self._op_id(None), exact=name is None
        )
        entry: Entry = await self._run(steps)
        return entry

    async def transition(
        self, target: str | Record, to: str, /, *, op_id: str | None = None, **changes: Any
    ) -> Record:
        """Move the machine of a key to state `to`, with `changes` of other fields.

        A key is read first, and again where it moved; a record in hand is written once and may be
        refused with Conflict.  Raises IllegalTransition, which names the allowed states, Invalid.
        """
        key = target.key if isinstance(target, Record) else target
        reentry.check_write(self._writer.space, (key,))
        steps = commands.transition(self._writer, target, to, changes, self._op_id(op_id))
        record: Record = await self._run(steps)
        return record

    def lease(self, key: str, ttl: float = 30.0, *, wait: float | None = None) -> AsyncLease:
        """Return a lease of `key` to use in a `async with` block, or to `acquire` and `release`.

        `ttl`: seconds after which it may be taken over, unless renewed; it is renewed in the
        background.  `wait`: seconds to wait for it in a first-come queue (None: without limit).
        """
        return AsyncLease(self._driver, self._writer, key, ttl, wait, self._op_id)

    def leases(
        self, keys: Iterable[str], ttl: float = 30.0, *, wait: float | None = None
    ) -> AsyncLeases:
        """Return the leases of several keys, taken in one step: all of them or none.

        Two that need several keys do so instead of taking one lease inside another, which could end
        in a Deadlock.  `ttl` and `wait` are those of `lease`.  Raises Invalid where a key is named
        twice.
        """
        names = distinct_keys(keys)
        return AsyncLeases([self.lease(key, ttl, wait=wait) for key in names], wait)

    async def reclaim(self, key: str) -> Record:
        """Take the lease of `key` away and fence whoever read the key before.

        For supervisors.  Returns the record at its new epoch.
        """
        record: Record = await self._run(leases.reclaim(self._writer, key, self._op_id(None)))
        return record

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules in force as this space last knew them, by pattern."""
        return dict(self._writer.book.rules.rules)

    async def apply_rules(
        self, rules: Mapping[str, Rule], *, dry_run: bool = False
    ) -> dict[str, Rule]:
        """Store `rules` in place of those that the space has, in one logged commit.

        Returns the rules in force.  `dry_run` only looks whether they could be stored.

        Raises Invalid, with a report, where they are ambiguous or existing values break them.
        """
        await self._run(governing.declare(self._writer, rules, self._op_id(None), True, dry_run))
        return self.rules

    async def conflicts(self, limit: int = 1000) -> ConflictReport:
        """Return the last refusals, newest first, and what they say of each key.

        The store keeps the last 10,000; a refusal may be half a second late.  Those that came too
        fast to be kept are counted as `dropped`.
        """
        report: ConflictReport = await self._run(governing.conflicts(limit))
        return report

    def history(self, key: str, *, after: int | None = None) -> AsyncIterator[Entry]:
        """Yield the entries of `key` after position `after` (None: all kept), oldest first.

        Raises Pruned where what comes after `after` was trimmed.
        """
        return self._entries(protocol.history_page, key, after)

    def log(self, after: int | None = None, prefix: str = "") -> AsyncIterator[Entry]:
        """Yield the entries after position `after` (None: all kept) under `prefix`, in order.

        Raises Pruned where what comes after `after` was trimmed.
        """
        return self._entries(protocol.log_page, prefix, after)

    def watch(self, prefix: str = "", after: int | None = None) -> AsyncIterator[Entry]:
        """Yield entries as they are committed, without end, after `after` (None: from now)."""
        raise_refused(check_prefix(prefix) or protocol.check_position("after", after or 0))
        return self._follow(prefix, after)

    def at(
        self, *, position: int | None = None, time: datetime | float | None = None
    ) -> AsyncMoment:
        """Return the space as of a log position, or of a time (aware datetime, or Unix seconds).

        A position inside a commit stands for the end of that commit.

        Its reads raise Pruned where the log is not kept so far back.
        """
        return AsyncMoment(self._driver, self._writer, position, as_time_us(position, time))

    async def trim(self, *, keep: float | None = None, before: int | None = None) -> Trimmed:
        """Cut off the oldest part of the log that nobody needs, and say what is kept and why.

        `keep`: days that entries are kept whose rule does not say, at least one (None: for ever).
        `before`: what begins at that position is kept.  What consumer groups and coordinators have
        not handled is kept, and so is what every key was at the cut.  A thousand entries a step.
        """
        from interlock.core import trimming  # only here: few who write ever trim

        trimmed: Trimmed = await self._run(trimming.trim(self._writer, keep, before))
        return trimmed

    async def position(self) -> int:
        """Return the position of the last entry of the log, 0 where it is empty."""
        snapshot: Snapshot = await self._run(protocol.load(self._writer, ()))
        return snapshot.position

    async def time(self) -> datetime:
        """Return the store's time now, UTC: its clock is the one that `Record.at` is of."""
        snapshot: Snapshot = await self._run(protocol.load(self._writer, ()))
        return as_datetime(snapshot.time_us)

    async def outcome(self, op_id: str) -> Committed | None:
        """Return the commit that `op_id` made for any agent, None where it was not applied."""
        done: Committed | None = await self._run(protocol.outcome(checked_op_id(op_id)))
        return done

    async def close(self) -> None:
        """Give back connections and threads.  Closing twice does nothing."""
        self._driver.close()
        await cancellation.finish(self._driver.backend.close_async())

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
            raise_refused(protocol.check_reached(position, page.head))
            position = page.upto
            if position >= page.head:
                await self._run(protocol.wait(WATCH_PAUSE, position))

    async def _entries(
        self, page_of: Callable[..., Any], name: str, after: int | None
    ) -> AsyncIterator[Entry]:
        while True:
            page: LogPage = await self._run(page_of(name, after, PAGE))
            for entry in page.entries:
                yield entry
            after = page.upto
            if after >= page.head:
                return

    async def _commit(self, key: object, decision: Callable[[], decide.Decision]) -> Record:
        reentry.check_write(self._writer.space, (key,))
        record: Record = await self._run(commands.write_one(self._writer, decision))
        return record

    async def _enter(self, exclusive: bool, rules: Mapping[str, Rule] | None) -> None:
        await self._run(governing.enter(self._writer, exclusive, new_op_id()))
        if rules is not None:
            await self._run(governing.declare(self._writer, rules, new_op_id(), whole=False))

    async def _run(self, steps: Any) -> Any:
        answer = await self._driver.run(steps)
        raise_refused(explained(self._writer, answer))
        return answer

    def _op_id(self, op_id: str | None) -> str:
        return new_op_id() if op_id is None else checked_op_id(op_id)
