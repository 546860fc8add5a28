"""What a Space hands out: transactions, moments and leases."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from interlock import reentry
from interlock.backends.drive import RENEWALS_PER_TTL, SyncDriver
from interlock.backends.holding import Holding, explained, taking
from interlock.core import commands, decide, leases, protocol
from interlock.core.decide import Writer
from interlock.core.outcome import Committed, Refusal
from interlock.core.records import Record, Snapshot
from interlock.core.transaction import ENDED, Transaction
from interlock.errors import AnswerLost, Closed, InterlockError, Invalid, Refused, raise_refused
from interlock.settings import distinct


class Tx:
    """One transaction: reads of one moment, and writes committed together or not at all."""

    def __init__(self, driver: SyncDriver, state: Transaction, op_id: str) -> None:
        self._driver = driver
        self._state = state
        self._op_id = op_id
        self.committed: Committed | None = None

    def read(self, key: str) -> Record:
        """Return the record of `key`, with this transaction's own write.

        Raises Conflict, Invalid.
        """
        return self.read_many([key])[key]

    def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys`."""
        names = distinct(keys)
        reentry.check(self._state.writer.space, names)
        self._load(names)
        return {key: self._state.view(key) for key in names}

    def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records under `prefix`; one that appears later is a conflict, too."""
        self._load((), (prefix,))
        return self._state.view_scan(prefix)

    def expect(self, record: Record) -> None:
        """Let the commit be refused where `record`, read outside the transaction, has moved.

        Nothing is read or written for it; an epoch that was raised is Fenced, a new version a
        Conflict.
        """
        self._check(getattr(record, "key", None))
        raise_refused(self._state.expect(record))

    def write(self, record: Record, value: Any) -> None:
        """Write `value` over `record` at the commit."""
        self._check(getattr(record, "key", None))
        raise_refused(self._state.write(record, value))

    def create(self, key: str, value: Any) -> None:
        """Write `value` to a key that must not exist at the commit."""
        self._check(key)
        raise_refused(self._state.create(key, value))

    def delete(self, record: Record) -> None:
        """Delete the key of `record` at the commit."""
        self._check(getattr(record, "key", None))
        raise_refused(self._state.delete(record))

    def append(self, key: str, item: Any) -> None:
        """Add a contribution to a merged key at the commit.

        Raises Forbidden, Invalid.
        """
        self._check(key)
        raise_refused(self._state.append(key, item))

    def __enter__(self) -> Self:
        raise_refused(ENDED if self._state.ended else None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state.ended = True
        if kind is None:
            outcome: Any = self._driver.run(protocol.commit_transaction(self._state, self._op_id))
            raise_refused(explained(self._state.writer, outcome))
            self.committed = outcome

    def _check(self, key: object) -> None:
        reentry.check_write(self._state.writer.space, (key,), self._state)

    def _load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> None:
        raise_refused(self._driver.run(self._state.load(keys, prefixes)))


class Moment:
    """The space as it was at one moment: reads only."""

    def __init__(
        self, driver: SyncDriver, writer: Writer, position: int | None, time_us: int | None
    ) -> None:
        self._driver = driver
        self._writer = writer
        self._position = position
        self._time_us = time_us

    def read(self, key: str) -> Record:
        """Return the record of `key` as it was."""
        return self.read_many([key])[key]

    def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys` as they were."""
        return dict(self._load(distinct(keys)).records)

    def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the records that existed under `prefix`."""
        return {record.key: record for record in self._load((), (prefix,)).scans[prefix]}

    def position(self) -> int:
        """Return the log position of this moment."""
        return self._load(()).position

    def _load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> Snapshot:
        answer: Any = self._driver.run(
            protocol.load_at(self._writer, self._position, self._time_us, keys, prefixes)
        )
        raise_refused(answer)
        snapshot: Snapshot = answer
        if self._position is not None:
            self._position = snapshot.position  # the end of a commit from now on
        return snapshot


class LeaseState:
    """What a lease knows, with either façade."""

    def __init__(
        self,
        driver: Any,
        writer: Writer,
        key: str,
        ttl: float,
        wait: float | None,
        op_id: Callable[[str | None], str],
    ) -> None:
        self._driver = driver
        self._writer = writer
        self._key = key
        self._ttl = ttl
        self._wait = wait
        self._op_id = op_id
        self._record: Record | None = None
        self._lost: Refusal | None = None
        self._held = False
        self._holding: Holding | None = None
        self._pid = os.getpid()

    @property
    def key(self) -> str:
        """The key that it is for."""
        return self._key

    @property
    def record(self) -> Record:
        """The record of the key, as it was at the grant or after the last `write`."""
        if self._record is None:
            raise Invalid(f"the lease of {self._key!r} was not taken; use it in a with block")
        return self._record

    @property
    def value(self) -> Any:
        """The value of the record."""
        return self.record.value

    @property
    def epoch(self) -> int:
        """The fencing number of this lease.  Pass it on to whatever else must be fenced."""
        return self.record.epoch

    @property
    def lost(self) -> bool:
        """Whether a renewal has found that the lease was taken away, or this is a forked child."""
        return self._lost is not None or self._pid != os.getpid()

    def _begin(self, record: Record, name: str) -> None:
        """Begin with what was granted to the request `name`."""
        self._record, self._held, self._lost = record, True, None
        self._holding = Holding(
            self._writer.space, self._key, name, self._writer.agent, self._is_renewed
        )

    def _end(self) -> None:
        """The calling context holds it no more."""
        if self._holding is not None:
            self._holding.release()
            self._holding = None

    def _is_renewed(self) -> bool:
        raise NotImplementedError

    def _check_held(self) -> None:
        if self._record is not None and self._pid != os.getpid():
            raise Invalid(
                f"the lease of {self._key!r} belongs to the process that took it, not to one that "
                "was forked from it; take a lease here"
            )
        if self._record is not None and not self._held:
            raise Invalid(f"the lease of {self._key!r} was given up; take it again")

    def _moved(self, record: Record) -> Record:
        """Go on from a new record; one that an earlier sending made long ago changes nothing."""
        if record.epoch == self.epoch and record.version > self.record.version:
            self._record = record
        return record


class Lease(LeaseState):
    """The exclusive right to write one key, renewed in the background while it is held.

    `with space.lease("report.md", ttl=30) as lease: lease.write(draft)`.  Other writers are told
    `Held`.  Where it was taken away meanwhile, `write` raises Fenced, whatever the clocks say.
    """

    _driver: SyncDriver
    _take = staticmethod(leases.take)
    _over: threading.Event
    _thread: threading.Thread | None = None

    def acquire(self) -> Self:
        """Take the lease.

        Raises Held where `wait` has passed, Deadlock where its holder waits for what the caller
        holds, Fenced where this process was replaced, Invalid.
        """
        reentry.check_write(self._writer.space, (self._key,))
        name = self._op_id(None)
        (record,) = self._run(
            taking(self._take, self._writer, (self._key,), self._ttl, self._wait, name)
        )
        self._granted(record, name)
        return self

    def write(self, value: Any, *, op_id: str | None = None) -> Record:
        """Write the key and return its new record.

        Raises Fenced where the lease was taken away, IllegalTransition, Invalid.
        """
        self._check_held()
        steps = commands.write(self._writer, self.record, value, self._op_id(op_id), leased=True)
        return self._moved(self._run(steps))

    def delete(self, *, op_id: str | None = None) -> Record:
        """Delete the key and return its record.

        Raises as `write` does.
        """
        self._check_held()
        record, name = self.record, self._op_id(op_id)
        steps = commands.write_one(
            self._writer, lambda: decide.delete(self._writer, record, name, leased=True)
        )
        return self._moved(self._run(steps))

    def renew(self, ttl: float | None = None) -> None:
        """Keep it for another `ttl` seconds.

        Raises Fenced where it was taken away.
        """
        self._check_held()
        seconds = self._ttl if ttl is None else ttl
        self._run(leases.renew(self._writer, self._key, seconds, self.epoch))

    def release(self) -> None:
        """Give it up.  Giving up one that was lost does nothing."""
        self._end()
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None
        if self._held and self._pid == os.getpid():  # a forked child has only a copy
            self._held = False
            self._run(leases.release(self._key, self.epoch))

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def _granted(self, record: Record, name: str) -> None:
        self._pid = os.getpid()
        self._keep()
        self._begin(record, name)

    def _is_renewed(self) -> bool:
        return self._lost is None and (self._thread is None or self._thread.is_alive())

    def _keep(self) -> None:
        """Begin to renew it."""
        if not self._driver.keeps_alive:
            return
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="interlock-lease", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._over.wait(self._ttl / RENEWALS_PER_TTL):
            try:
                self.renew()
            except Refused as refused:
                self._lost = refused.outcome
                return
            except Closed:
                return
            except (AnswerLost, InterlockError):
                continue  # the next one may get through; the store judges in the end

    def _run(self, steps: Any) -> Any:
        answer: Any = self._driver.run(steps)
        raise_refused(answer)
        return answer


class LeasesState:
    """What several leases know, with either façade."""

    def __init__(self, leases: Sequence[Any], wait: float | None) -> None:
        self._leases = {lease.key: lease for lease in leases}
        self._wait = wait

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that they are for, sorted."""
        return tuple(self._leases)


class Leases(LeasesState):
    """The exclusive right to write several keys, taken in one step: all of them or none.

    `with space.leases(["x", "y"]) as leases: leases["x"].write(1)`.  Each is a `Lease`, renewed in
    the background, and given up at the end of the block.
    """

    def __getitem__(self, key: str) -> Lease:
        """Return the lease of one of the keys."""
        lease: Lease = self._leases[key]
        return lease

    def acquire(self) -> Self:
        """Take all of them, waiting until nobody holds any.

        Raises Held where `wait` has passed, Deadlock, Fenced, Invalid.
        """
        lease = next(iter(self._leases.values()))
        reentry.check_write(lease._writer.space, self.keys)
        name = lease._op_id(None)
        steps = taking(lease._take, lease._writer, self.keys, lease._ttl, self._wait, name)
        for each, record in zip(self._leases.values(), lease._run(steps), strict=True):
            each._granted(record, name)
        return self

    def write(self, key: str, value: Any, *, op_id: str | None = None) -> Record:
        """Write one of the keys and return its new record.

        Raises Fenced where its lease was taken away, IllegalTransition, Invalid.
        """
        return self[key].write(value, op_id=op_id)

    def release(self) -> None:
        """Give all of them up."""
        for lease in self._leases.values():
            lease.release()

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
