"""What an AsyncSpace hands out.  The same names as `interlock.handles`, awaited."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any, Self

from interlock import cancellation, reentry
from interlock.awaiting import AwaitsCalls, awaited
from interlock.backends.drive import RENEWALS_PER_TTL
from interlock.backends.drive_async import AsyncDriver
from interlock.backends.holding import explained, taking
from interlock.core import commands, decide, leases, protocol
from interlock.core.decide import Writer
from interlock.core.outcome import Committed
from interlock.core.records import Record, Snapshot
from interlock.core.transaction import ENDED, Transaction
from interlock.errors import AnswerLost, Closed, InterlockError, Refused, raise_refused
from interlock.handles import LeasesState, LeaseState
from interlock.settings import distinct


class Buffered:
    """What a write of an AsyncTx returns: it is part of the transaction already, awaited or not."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


BUFFERED = Buffered()


class AsyncTx(AwaitsCalls):
    """One transaction: reads of one moment, and writes committed together or not at all.

    Reads are awaited: the block raises Invalid at its end where one was not.  Writes are made at
    the commit, so there is nothing to await yet.
    """

    def __init__(self, driver: AsyncDriver, state: Transaction, op_id: str) -> None:
        self._driver = driver
        self._state = state
        self._op_id = op_id
        self.committed: Committed | None = None

    @awaited
    async def read(self, key: str) -> Record:
        """Return the record of `key`, with this transaction's own write.

        Raises Conflict, Invalid.
        """
        return (await self.read_many([key]))[key]

    @awaited
    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys`."""
        names = distinct(keys)
        reentry.check(self._state.writer.space, names)
        await self._load(names)
        return {key: self._state.view(key) for key in names}

    @awaited
    async def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records under `prefix`; one that appears later is a conflict, too."""
        await self._load((), (prefix,))
        return self._state.view_scan(prefix)

    def expect(self, record: Record) -> Buffered:
        """Let the commit be refused where `record`, read outside the transaction, has moved."""
        self._check(getattr(record, "key", None))
        raise_refused(self._state.expect(record))
        return BUFFERED

    def write(self, record: Record, value: Any) -> Buffered:
        """Write `value` over `record` at the commit."""
        self._check(getattr(record, "key", None))
        raise_refused(self._state.write(record, value))
        return BUFFERED

    def create(self, key: str, value: Any) -> Buffered:
        """Write `value` to a key that must not exist at the commit."""
        self._check(key)
        raise_refused(self._state.create(key, value))
        return BUFFERED

    def delete(self, record: Record) -> Buffered:
        """Delete the key of `record` at the commit."""
        self._check(getattr(record, "key", None))
        raise_refused(self._state.delete(record))
        return BUFFERED

    def append(self, key: str, item: Any) -> Buffered:
        """Add a contribution to a merged key at the commit.

        Raises Forbidden, Invalid.
        """
        self._check(key)
        raise_refused(self._state.append(key, item))
        return BUFFERED

    async def __aenter__(self) -> Self:
        raise_refused(ENDED if self._state.ended else None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state.ended = True
        forgotten = self._calls.forgotten()
        if kind is None:
            raise_refused(forgotten)
            outcome: Any = await self._driver.run(
                protocol.commit_transaction(self._state, self._op_id)
            )
            raise_refused(explained(self._state.writer, outcome))
            self.committed = outcome

    def _check(self, key: object) -> None:
        reentry.check_write(self._state.writer.space, (key,), self._state)

    async def _load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> None:
        raise_refused(await self._driver.run(self._state.load(keys, prefixes)))


class AsyncMoment:
    """The space as it was at one moment: reads only."""

    def __init__(
        self, driver: AsyncDriver, writer: Writer, position: int | None, time_us: int | None
    ) -> None:
        self._driver = driver
        self._writer = writer
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
        answer: Any = await self._driver.run(
            protocol.load_at(self._writer, self._position, self._time_us, keys, prefixes)
        )
        raise_refused(answer)
        snapshot: Snapshot = answer
        if self._position is not None:
            self._position = snapshot.position  # the end of a commit from now on
        return snapshot


class AsyncLease(AwaitsCalls, LeaseState):
    """The exclusive right to write one key, renewed in the background while it is held.

    `async with space.lease("report.md", ttl=30) as lease: await lease.write(draft)`.  Other writers
    are told `Held`.  Where it was taken away meanwhile, `write` raises Fenced, whatever the clocks
    say.
    """

    _driver: AsyncDriver
    _take = staticmethod(leases.take)
    _task: asyncio.Task[None] | None = None

    async def acquire(self) -> Self:
        """Take the lease.

        Raises Held where `wait` has passed, Deadlock where its holder waits for what the caller
        holds, Fenced where this process was replaced, Invalid.
        """
        reentry.check_write(self._writer.space, (self._key,))
        name = self._op_id(None)
        (record,) = await self._run(
            taking(self._take, self._writer, (self._key,), self._ttl, self._wait, name)
        )
        self._granted(record, name)
        return self

    @awaited
    async def write(self, value: Any, *, op_id: str | None = None) -> Record:
        """Write the key and return its new record.

        Raises Fenced where the lease was taken away, IllegalTransition, Invalid.
        """
        self._check_held()
        steps = commands.write(self._writer, self.record, value, self._op_id(op_id), leased=True)
        return self._moved(await self._run(steps))

    @awaited
    async def delete(self, *, op_id: str | None = None) -> Record:
        """Delete the key and return its record.

        Raises as `write` does.
        """
        self._check_held()
        record, name = self.record, self._op_id(op_id)
        steps = commands.write_one(
            self._writer, lambda: decide.delete(self._writer, record, name, leased=True)
        )
        return self._moved(await self._run(steps))

    @awaited
    async def renew(self, ttl: float | None = None) -> None:
        """Keep it for another `ttl` seconds.

        Raises Fenced where it was taken away.
        """
        self._check_held()
        seconds = self._ttl if ttl is None else ttl
        await self._run(leases.renew(self._writer, self._key, seconds, self.epoch))

    async def release(self) -> None:
        """Give it up, even where the caller is cancelled meanwhile.

        Giving up one that was lost does nothing.
        """
        self._end()
        held = self._held and self._pid == os.getpid()  # a forked child has only a copy
        self._held = False
        renewing, self._task = self._task, None
        if held or renewing is not None:
            await cancellation.finish(self._give_up(held, renewing))

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        forgotten = self._calls.forgotten()
        await self.release()
        raise_refused(forgotten if kind is None else None)

    def _granted(self, record: Record, name: str) -> None:
        self._pid = os.getpid()
        self._task = asyncio.create_task(self._renew())
        self._begin(record, name)

    def _is_renewed(self) -> bool:
        return self._lost is None and (self._task is None or not self._task.done())

    async def _give_up(self, held: bool, renewing: asyncio.Task[None] | None) -> None:
        if renewing is not None:
            renewing.cancel()
        try:
            if held:  # a renewal that comes after it does nothing
                await self._run(leases.release(self._key, self.epoch))
        finally:
            if renewing is not None:
                await cancellation.stop(renewing)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._ttl / RENEWALS_PER_TTL)
            try:
                await self.renew()
            except Refused as refused:
                self._lost = refused.outcome
                return
            except Closed:
                return
            except (AnswerLost, InterlockError):
                continue  # the next one may get through; the store judges in the end

    async def _run(self, steps: Any) -> Any:
        answer: Any = await self._driver.run(steps)
        raise_refused(answer)
        return answer


class AsyncLeases(AwaitsCalls, LeasesState):
    """The exclusive right to write several keys, taken in one step: all of them or none.

    `async with space.leases(["x", "y"]) as leases: await leases["x"].write(1)`.  Each is an
    `AsyncLease`, renewed in the background, and given up at the end of the block.
    """

    def __getitem__(self, key: str) -> AsyncLease:
        """Return the lease of one of the keys."""
        lease: AsyncLease = self._leases[key]
        return lease

    async def acquire(self) -> Self:
        """Take all of them, waiting until nobody holds any.

        Raises Held where `wait` has passed, Deadlock, Fenced, Invalid.
        """
        lease = next(iter(self._leases.values()))
        reentry.check_write(lease._writer.space, self.keys)
        name = lease._op_id(None)
        steps = taking(lease._take, lease._writer, self.keys, lease._ttl, self._wait, name)
        for each, record in zip(self._leases.values(), await lease._run(steps), strict=True):
            each._granted(record, name)
        return self

    @awaited
    async def write(self, key: str, value: Any, *, op_id: str | None = None) -> Record:
        """Write one of the keys and return its new record.

        Raises Fenced where its lease was taken away, IllegalTransition, Invalid.
        """
        return await self[key].write(value, op_id=op_id)

    async def release(self) -> None:
        """Give all of them up, even where the caller is cancelled meanwhile."""
        releasing = asyncio.gather(*(lease.release() for lease in self._leases.values()))
        await cancellation.finish(releasing)

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        every = [each._calls.forgotten() for each in (self, *self._leases.values())]
        await self.release()
        raise_refused(next(filter(None, every), None) if kind is None else None)
