"""The exclusive, expiring right to write a key, or several."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import deepcopy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from interlock._async import concurrency
from interlock._async.calls import AwaitsCalls, awaited, unawaited_calls
from interlock.backends.holder import HeldRight, taking
from interlock.core import patch, write
from interlock.core.keys import DELETE, Deletion
from interlock.core.lease import release_lease, renew_lease, take_lease
from interlock.core.patch import Part
from interlock.core.records import Record
from interlock.core.refusals import Invalid as InvalidOutcome
from interlock.core.refusals import Refusal
from interlock.core.requests import RENEWALS_PER_TTL, Steps
from interlock.core.struct import Json
from interlock.core.writer import Writer
from interlock.errors import (
    AnswerLost,
    Closed,
    Conflict,
    InterlockError,
    Invalid,
    Refused,
    accepted,
    raise_refused,
)
from interlock.session import AsyncSession
from interlock.typed import MISSING, Typed

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")

# `take_lease`, or what is like it
Take = Callable[
    [Writer, tuple[str, ...], float, float | None, str], Steps[tuple[Record, ...] | Refusal]
]


class AsyncLease(AwaitsCalls):
    """The exclusive right to write one key, renewed in the background while it is held.

    `async with space.lease("report.md", ttl=30) as lease: await lease.write(draft)`.  Other writers
    get `Held`.  If it was taken away meanwhile, `write` raises Fenced, whatever the clocks say.
    """

    def __init__(
        self,
        session: AsyncSession,
        key: str,
        ttl: float,
        wait: float | None,
        take: Take = take_lease,
    ) -> None:
        self._session = session
        self._key = key
        self._ttl = ttl
        self._wait = wait
        self._protocol = take
        self._record: Record | None = None
        self._lost: Refusal | None = None
        self._held = False
        self._holding: HeldRight | None = None
        self._renewal: concurrency.Renewal | None = None
        self._pid = os.getpid()

    @property
    def key(self) -> str:
        """The key that it is for."""
        return self._key

    @property
    def record(self) -> Record:
        """The record of the key, as it was at the grant or after the last `write`."""
        if self._record is None:
            raise Invalid(f"The lease of {self._key!r} was not taken: use it in a with block.")
        return self._record

    @property
    def value(self) -> Json:
        """The value of the record."""
        return self.record.value

    def read(self, type: TypeForm[T]) -> Record[T]:
        """Return `record` with its value as a type, as `AsyncSpace.read` does.  Raises Invalid.

        Nothing is asked of the store: nobody else writes the key.
        """
        return Typed(type).record(self.record)

    @property
    def epoch(self) -> int:
        """The fencing number of this lease.  Pass it to whatever else must be fenced."""
        return self.record.epoch

    @property
    def lost(self) -> bool:
        """Whether a renewal has found that the lease was taken away, or this is a forked child."""
        return self._lost is not None or self._pid != os.getpid()

    async def acquire(self) -> Self:
        """Take the lease.

        Raises Held if `wait` has passed, Deadlock if its holder waits for what the caller
        holds, Fenced if this process was replaced, Forbidden if the rule of the key leaves writing
        it to another agent, Invalid.
        """
        await _acquire(self._session, (self,), self._ttl, self._wait, self._protocol)
        return self

    @awaited
    async def write(
        self,
        value: Json,
        *,
        op_id: str | None = None,
        touch: bool = False,
        expires: float | None = None,
    ) -> Record:
        """Write the key and return its new record.

        A value that it has already is not written, unless `touch` or an `op_id` asks for an entry.
        `expires`: as in `AsyncSpace.write`.  Raises Fenced if the lease was taken away, Conflict if
        the value has expired meanwhile (`record` is then without it), IllegalTransition, Invalid.
        """
        self._check_held()
        return await self._write(self.record, value, op_id, touch, expires)

    @overload
    async def update(self, fn: Callable[[Any], Any], *, op_id: str | None = None) -> Record: ...
    @overload
    async def update(
        self,
        fn: Callable[[T], T | Deletion | Awaitable[T | Deletion]],
        type: TypeForm[T],
        *,
        op_id: str | None = None,
    ) -> Record[T]: ...
    @awaited
    async def update(
        self, fn: Callable[[Any], Any], type: Any = None, *, op_id: str | None = None
    ) -> Record:
        """Call `fn(value)`, write what it returns, and return the new record.

        Nobody else can write meanwhile, so it is called once.  interlock.DELETE deletes.  `type` is
        that of `AsyncSpace.update`.

        `fn` is a coroutine function, or a plain one, which then runs in a worker thread.

        Raises as `write` does, Invalid if `fn` returned None, and Conflict if this lease has
        written the key while `fn` ran.
        """
        self._check_held()
        concurrency.check_function(fn, "fn")
        view, record = Typed(type), self.record
        given = deepcopy(record.value) if record.exists else view.default(MISSING, self._key)
        value = await self._session.call(view.deciding(fn, self._key), given)
        if value is None:
            raise Invalid(write.forgot_return(f"The function for {self._key!r}"))
        self._check_held()
        if value is DELETE:
            return await self._delete(record, op_id)
        return view.record(await self._write(record, value, op_id, touch=False))

    @awaited
    async def patch(self, changes: Mapping[str, Any], *, op_id: str | None = None) -> Record:
        """Change these fields of the object and no others, and return the new record.

        `changes` is that of `AsyncSpace.patch`.  Raises as `write` does, and Invalid if the key
        does not exist or holds no object.
        """
        return await self._change(patch.merging(changes), op_id)

    @awaited
    async def update_fields(
        self, fields: Mapping[str, Any], *, remove: Iterable[str] = (), op_id: str | None = None
    ) -> Record:
        """Set whole fields of the object, None too, and remove others; as `patch` otherwise."""
        return await self._change(patch.setting(fields, remove), op_id)

    @awaited
    async def delete(self, *, op_id: str | None = None) -> Record:
        """Delete the key and return its record.

        Raises as `write` does.
        """
        self._check_held()
        return await self._delete(self.record, op_id)

    @awaited
    async def renew(self, ttl: float | None = None) -> None:
        """Keep it for another `ttl` seconds.

        Raises Fenced if it was taken away.
        """
        self._check_held()
        await self._renew(self._ttl if ttl is None else ttl)

    async def release(self) -> None:
        """Give it up, even if the caller is cancelled meanwhile.

        Giving up one that was lost does nothing.
        """
        if self._holding is not None:
            self._holding.release()
            self._holding = None
        held = self._held and self._pid == os.getpid()  # a forked child has only a copy
        self._held = False
        renewal, self._renewal = self._renewal, None
        if held or renewal is not None:
            await concurrency.finish(self._give_up(held, renewal))

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        unawaited = self._calls.unawaited()
        await self.release()
        raise_refused(unawaited if kind is None else None)

    async def _committed(self, steps: Steps[Record | Refusal]) -> Record:
        """Return the record that a write of the key makes.  Where the value has expired, or data
        outside was written by others, the next write is one over what is there."""
        try:
            return self._moved(await self._session.run(steps))
        except Conflict as conflict:
            if conflict.record.expired or conflict.record.tag is not None:
                self._record = conflict.record
            raise

    def _begin(self, record: Record, name: str) -> None:
        """Begin with what was granted to the request `name`."""
        self._pid = os.getpid()
        if self._session.keeps_alive:
            seconds = self._ttl / RENEWALS_PER_TTL
            self._renewal = concurrency.Renewal(seconds, self._renewed, "interlock-lease")
        self._record, self._held, self._lost = record, True, None
        uid, agent = self._session.driver.backend.uid, self._session.writer.agent
        self._holding = HeldRight(uid, self._key, name, agent, self._is_renewed)

    def _is_renewed(self) -> bool:
        return self._lost is None and (self._renewal is None or self._renewal.alive)

    async def _renew(self, ttl: float) -> None:
        await self._session.run(renew_lease(self._session.writer, self._key, ttl, self.epoch))

    async def _renewed(self) -> bool:
        """Renew it in the background; return whether to go on."""
        try:
            await self._renew(self._ttl)
        except Refused as refused:
            self._lost = refused.outcome
            return False
        except Closed:
            return False
        except (AnswerLost, InterlockError):
            pass  # the next one may get through; the store judges in the end
        return True

    async def _give_up(self, held: bool, renewal: concurrency.Renewal | None) -> None:
        try:
            if renewal is not None:
                await renewal.stop()
        finally:
            if held:
                await self._session.run(release_lease(self._key, self.epoch))

    async def _write(
        self,
        record: Record,
        value: Json,
        op_id: str | None,
        touch: bool,
        expires: float | None = None,
    ) -> Record:
        name, touch = self._session.op_id(op_id), touch or op_id is not None
        steps = write.write_record(
            *(self._session.writer, record, value, name),
            leased=True,
            touch=touch,
            expires=expires,
        )
        return await self._committed(steps)

    async def _change(self, part: Part | InvalidOutcome, op_id: str | None) -> Record:
        self._check_held()
        record = self.record
        value = accepted(patch.changed(record, accepted(part)))
        return await self._write(record, value, op_id, touch=False)

    async def _delete(self, record: Record, op_id: str | None) -> Record:
        name = self._session.op_id(op_id)
        steps = write.write_one(
            self._session.writer,
            lambda: write.plan_delete(self._session.writer, record, name, leased=True),
        )
        return await self._committed(steps)

    def _check_held(self) -> None:
        if self._record is not None and self._pid != os.getpid():
            raise Invalid(
                f"The lease of {self._key!r} belongs to the process that took it, not to a "
                "forked one. Take a lease here."
            )
        if self._record is not None and not self._held:
            raise Invalid(f"The lease of {self._key!r} was released. Take it again.")

    def _moved(self, record: Record) -> Record:
        """Go on from a new record; one that an earlier sending made long ago changes nothing."""
        newer = record.version > self.record.version or record.tag is not None
        if record.epoch == self.epoch and newer:
            self._record = record
        return record


class AsyncLeases(AwaitsCalls):
    """The exclusive right to write several keys, taken in one step: all of them or none.

    `async with space.leases(["x", "y"]) as leases: await leases["x"].write(1)`.  Each is an
    `AsyncLease`, renewed in the background, and given up at the end of the block.
    """

    def __init__(
        self, session: AsyncSession, keys: Iterable[str], ttl: float, wait: float | None
    ) -> None:
        self._session = session
        self._ttl = ttl
        self._wait = wait
        self._leases = {key: AsyncLease(session, key, ttl, wait) for key in keys}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that they are for, sorted."""
        return tuple(self._leases)

    def __getitem__(self, key: str) -> AsyncLease:
        """Return the lease of one of the keys."""
        return self._leases[key]

    async def acquire(self) -> Self:
        """Take all of them, waiting until nobody holds any.

        Raises Held if `wait` has passed, Deadlock, Fenced, Invalid.
        """
        leases = tuple(self._leases.values())
        await _acquire(self._session, leases, self._ttl, self._wait, take_lease)
        return self

    @awaited
    async def write(
        self, key: str, value: Json, *, op_id: str | None = None, expires: float | None = None
    ) -> Record:
        """Write one of the keys and return its new record, as `AsyncLease.write` does."""
        return await self[key].write(value, op_id=op_id, expires=expires)

    async def release(self) -> None:
        """Give all of them up, even if the caller is cancelled meanwhile."""
        await concurrency.do_all(lease.release for lease in self._leases.values())

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        unawaited = unawaited_calls(self, *self._leases.values())
        await self.release()
        raise_refused(unawaited if kind is None else None)


async def _acquire(
    session: AsyncSession,
    leases: tuple[AsyncLease, ...],
    ttl: float,
    wait: float | None,
    take: Take,
) -> None:
    """Take leases in one step, all of them or none, and begin each."""
    keys = tuple(lease.key for lease in leases)
    session.check_write(*keys)
    name = session.op_id()
    steps = taking(take, session.writer, keys, ttl, wait, name)
    records = await session.run(steps, ("lease", keys[0]), explain=False)
    for lease, record in zip(leases, records, strict=True):
        lease._begin(record, name)
