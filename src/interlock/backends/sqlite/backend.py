"""The SQLite backend: requests in, answers out, on the connections of a pool."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from interlock.backends.answers import reads_of
from interlock.backends.contract import being_imported, no_space
from interlock.backends.group_commit import GroupCommit
from interlock.backends.refusal_log import KEPT, RefusalLog
from interlock.backends.sqlite import (
    erase,
    fences,
    groups,
    location,
    log,
    spaces,
    store,
    transfer,
    turns,
)
from interlock.backends.sqlite.commit import Where, apply_all, judge_all, locate, trimmed
from interlock.backends.sqlite.connect import (
    DURABILITY,
    SQLiteOptions,
    begin_immediate,
    check_options,
    try_begin,
)
from interlock.backends.sqlite.faults import fault_of, is_busy, translated
from interlock.backends.sqlite.statements import SQL
from interlock.core import requests
from interlock.core.conflict_report import RefusalNote, note
from interlock.core.group import Deliveries
from interlock.core.plan import Plan
from interlock.core.records import Committed, Snapshot
from interlock.core.refusals import Outcome, Pruned, Refusal
from interlock.core.requests import LogPage, Request, T, ValuePage
from interlock.core.transfer import Dump, Finish, Importing, Mark, ReadBase, Restore
from interlock.errors import Closed, Fault

if TYPE_CHECKING:
    from interlock.backends.joined import JoinedBackend

_LOOKS = (log.load, apply_all, judge_all)  # see by themselves where the space was dropped
_NEWS_SHARE, _NEWS_SHORTEST, _NEWS_LONGEST = 0.03, 0.001, 0.02  # of the wait; seconds

P = ParamSpec("P")
R = TypeVar("R")
Work = Callable[[sqlite3.Connection, Where, R], T]  # one request, in a transaction


class SQLiteBackend:
    """One space in one SQLite file, or in memory.

    `clock` gives microseconds since 1970; without it the host's clock is the store's clock.
    `importing` opens the space for an import, which makes it or goes on with it.
    `guest`: the store may be made in a file that has an application's tables.
    """

    def __init__(
        self,
        url: str,
        name: str,
        options: SQLiteOptions | None = None,
        clock: Callable[[], int] | None = None,
        keeps_refusals: bool = True,
        create: bool = True,
        importing: Importing | None = None,
        guest: bool = False,
    ) -> None:
        self.name = name
        self._options = options or SQLiteOptions()
        check_options(self._options)
        self._place = location.parse(url)
        self._closed = False
        self._group = GroupCommit(self._apply)
        self._keeps_refusals = keeps_refusals
        self._notes = RefusalLog(self._save_notes)
        self._key, self._store = store.borrow(self._place, self._options, create, guest)
        self._pool = self._store.pool
        try:
            with self._pool.reader() as connection, translated(str(self._place)):
                self._where = self._find_space(connection, clock, create, importing)
        except BaseException:
            store.give_back(self._key, self._store)
            raise
        self.uid = self._where.uid
        _BACKENDS.add(self)

    def perform(self, request: Request[object]) -> Any:
        """Answer one request."""
        self._check_open()
        if isinstance(request, requests.Commit):
            return self._noted(request.plan, self._group.commit(request.plan))
        if isinstance(request, requests.Pause):
            return self._pause(request)
        return self._handlers[type(request)](self, request)

    async def perform_async(self, request: Request[object]) -> Any:
        """Answer one request without blocking the event loop."""
        self._check_open()
        if isinstance(request, requests.Commit):
            outcome = await self._group.commit_async(request.plan, self._in_thread)
            return self._noted(request.plan, outcome)
        if isinstance(request, requests.Pause):
            return await self._pause_async(request)
        return await self._in_thread(self.perform, request)

    def close(self) -> None:
        """Give back the connections and threads.  Closing twice does nothing."""
        if not self._closed:
            self._notes.close()
            self._closed = True
            _BACKENDS.discard(self)
            store.give_back(self._key, self._store)

    async def close_async(self) -> None:
        """The same without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.close)

    def join(self, connection: object) -> JoinedBackend:
        """Return the space inside a transaction of the caller's."""
        from interlock.backends.sqlite.joined import SQLiteJoined  # imports asyncio

        self._check_open()
        timeout = self._options.busy_timeout
        return SQLiteJoined(self, connection, self._place, self._where, timeout, self._reach_disk)

    def dump(self) -> bytes:
        """Return everything that a store in memory holds."""
        with self._pool.writer() as connection, translated(str(self._place)):
            return connection.serialize()

    # One handler a request

    def _load(self, request: requests.Load) -> Snapshot:
        snapshot = self._read(log.load, request)
        if snapshot.applied is not None:
            self._reach_disk()
        return snapshot

    def _load_at(self, request: requests.LoadAt) -> Snapshot | Pruned:
        return self._read(log.load_at, request)

    def _read_log(
        self, request: requests.ReadLog | requests.ReadValues
    ) -> LogPage | ValuePage | Pruned:
        return self._read(log.read_log, request)

    def _take_turn(self, request: requests.TakeTurn) -> requests.Place:
        place = self._read(turns.look, request)
        return self._write(turns.take, request, durable=False) if place is None else place

    def _leave_turn(self, request: requests.LeaveTurn) -> None:
        self._write(turns.leave, request, durable=False)

    def _enter(self, request: requests.Enter) -> requests.Entered:
        if request.exclusive:
            return self._write(fences.enter, request)
        return self._read(fences.look, request)

    def _take_lease(self, request: requests.TakeLease) -> requests.Grant:
        return self._write(
            fences.take_lease, request, claims=lambda grant: grant.granted or request.reclaim
        )

    def _drop_lease(self, request: requests.DropLease) -> None:
        self._write(fences.drop_lease, request)

    def _cache(self, work: Work[R, None], request: R) -> None:
        with suppress(Fault):  # whoever reads next tries again
            self._write(work, request, durable=False)

    def _trim(self, request: requests.Trim) -> requests.Floor:
        return self._write(log.trim, request) if request.upto else self._read(log.floor_of, request)

    def _scrub(self, request: requests.Scrub) -> requests.Scrubbed:
        with self._pool.writer() as connection, translated(str(self._place)):
            return erase.scrub(connection, self._place, request)

    def _note(self, request: requests.Noted) -> None:
        self._keep(request.refusal, request.agent, "")

    def _read_refusals(self, request: requests.ReadRefusals) -> list[RefusalNote]:
        self._notes.flush()
        return self._read(log.refusals, request)

    def _read_group(self, request: requests.ReadGroup) -> Deliveries | Pruned:
        answer = self._read(groups.look, request)
        return self._write(groups.read, request, durable=False) if answer is None else answer

    _handlers: dict[type, Callable[[Any, Any], Any]] = {  # noqa: RUF012  # never changed
        requests.Load: _load,
        requests.LoadAt: _load_at,
        requests.ReadLog: _read_log,
        requests.ReadValues: _read_log,
        requests.TakeTurn: _take_turn,
        requests.LeaveTurn: _leave_turn,
        requests.Enter: _enter,
        requests.TakeLease: _take_lease,
        requests.DropLease: _drop_lease,
        requests.SaveFold: lambda self, request: self._cache(log.save_fold, request),
        requests.SaveProjection: lambda self, request: self._cache(log.save_projection, request),
        requests.LoadProjection: lambda self, request: self._read(log.load_projection, request),
        requests.DropProjection: lambda self, request: self._write(log.drop_projection, request),
        requests.Trim: _trim,
        requests.Redact: lambda self, request: self._write(erase.redact, request),
        requests.Scrub: _scrub,
        requests.Noted: _note,
        requests.ReadRefusals: _read_refusals,
        requests.ReadGroup: _read_group,
        requests.AckGroup: lambda self, request: self._write(groups.acknowledge, request),
        requests.GroupState: lambda self, request: self._read(groups.state, request),
        requests.ListKeys: lambda self, request: self._read(log.list_keys, request),
        requests.ListExpired: lambda self, request: self._read(log.list_expired, request),
        requests.ListWaiters: lambda self, request: self._read(turns.waiters, request),
        requests.ListGroups: lambda self, request: self._read(groups.names, request),
        requests.DropGroup: lambda self, request: self._write(groups.drop, request),
        Dump: lambda self, request: self._read(transfer.dump, request),
        ReadBase: lambda self, request: self._read(transfer.read_base, request),
        Mark: lambda self, request: self._read(transfer.mark, request),
        Restore: lambda self, request: self._write(transfer.restore, request),
        Finish: lambda self, request: self._write(transfer.finish, request),
    }

    def _noted(self, plan: Plan, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Refusal):
            self._keep(outcome, plan.agent, plan.op_id)
        return outcome

    def _keep(self, refusal: Refusal, agent: str, op_id: str) -> None:
        found = note(refusal, agent, op_id, self._where.clock())
        if found is not None and self._keeps_refusals:
            self._notes.add(found)

    def _save_notes(self, notes: Sequence[RefusalNote]) -> bool:
        """Keep refusals if nobody is writing; say whether it was done."""

        def save(
            connection: sqlite3.Connection, where: Where, notes: Sequence[RefusalNote]
        ) -> bool:
            log.save_refusals(connection, where, notes, KEPT)
            return True

        return self._write(save, notes, durable=False, when_busy=lambda: False)

    def _apply(self, plans: Sequence[Plan]) -> Sequence[Outcome]:
        """Judge and apply a group of plans in one transaction."""
        answers: dict[int, Outcome] = {}
        left = encoded = [(plan, reads_of(plan)) for plan in plans]

        def look() -> list[Outcome] | None:
            """Answer what needs no lock.  After a long thought a refusal is likely, and a hundred
            agents that wait for the lock only to be refused keep it from the one who can write."""
            nonlocal answers, left
            answers = self._read(judge_all, [(i, p) for i, p in enumerate(plans) if p.gives_way])
            left = [each for index, each in enumerate(encoded) if index not in answers]
            return None if left else []

        worth_a_look = any(plan.gives_way for plan in plans)
        applied = self._write(
            apply_all,
            lambda: left,
            when_busy=look if worth_a_look else None,
            claims=lambda outcomes: any(isinstance(each, Committed) for each in outcomes),
        )
        if not answers:
            return applied
        rest = iter(applied)
        return [answers[i] if i in answers else next(rest) for i in range(len(plans))]

    # Connections and time

    def _read(self, work: Work[R, T], request: R) -> T:
        """Answer a request in a transaction that only reads, so that all of it is one moment."""
        self._check_open()
        try:
            with self._pool.reader() as connection:
                connection.execute("BEGIN")
                try:
                    if work not in _LOOKS:
                        trimmed(connection, self._where)
                    return work(connection, self._where, request)
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
        except (sqlite3.Error, json.JSONDecodeError) as problem:
            raise fault_of(problem, str(self._place)) from problem

    def _write(
        self,
        work: Work[R, T],
        request: R,
        durable: bool = True,
        when_busy: Callable[[], T | None] | None = None,
        claims: Callable[[T], bool] = lambda answer: True,
    ) -> T:
        """Answer a request in a write transaction, rolled back on any fault.

        `when_busy` is called once where the lock is not free; None: wait for it.
        `claims` says of an answer whether it tells of something that was done: where nothing was
        written now, it was done before.
        """
        try:
            with self._pool.writer() as connection:
                if not durable:
                    connection.execute("PRAGMA synchronous=NORMAL")
                try:
                    if not try_begin(connection):
                        if when_busy is not None and (now := when_busy()) is not None:
                            return now
                        deadline = time.monotonic() + self._options.busy_timeout
                        begin_immediate(connection, deadline, str(self._place))
                    changes = connection.total_changes
                    if work not in _LOOKS:
                        trimmed(connection, self._where)
                    answer = work(connection, self._where, request)
                    if connection.in_transaction:
                        _commit(connection, self._place)
                        self._store.watch_log(connection)
                    if durable and connection.total_changes == changes and claims(answer):
                        self._reach_disk()
                    return answer
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    if not durable:
                        mode = DURABILITY[self._options.durability]
                        connection.execute(f"PRAGMA synchronous={mode}")
        except (sqlite3.Error, json.JSONDecodeError) as problem:
            raise fault_of(problem, str(self._place)) from problem

    def _reach_disk(self) -> None:
        """Bring to the disk what was committed before, perhaps by a process that does not wait for
        it, as this one would have brought its own commit there."""
        if self._options.durability == "full":
            self._sync()

    def _sync(self) -> None:
        location.sync_log(self._place)

    def _find_space(
        self,
        connection: sqlite3.Connection,
        clock: Callable[[], int] | None,
        create: bool,
        importing: Importing | None,
    ) -> Where:
        place = str(self._place)
        row = connection.execute(SQL["find_space"], (self.name,)).fetchone()
        if importing is not None or row is None:
            if self._place.read_only or not create:
                raise no_space(place, self.name)
            deadline = time.monotonic() + self._options.busy_timeout
            begin_immediate(connection, deadline, place)
            try:
                if importing is not None:
                    spaces.begin_import(connection, place, self.name, importing)
                else:
                    spaces.add(connection, self.name, os.urandom(8).hex())
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            row = connection.execute(SQL["find_space"], (self.name,)).fetchone()
        number, uid, source = row
        if importing is None and source is not None:
            raise being_imported(place, self.name)
        return locate(number, uid, clock, place)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"The space in {self._place} is closed. Open it again to use it.")

    # Waiting

    def _pause(self, request: requests.Pause) -> None:
        began = time.monotonic()
        while (seconds := self._next_look(request, began)) > 0:
            time.sleep(seconds)

    async def _pause_async(self, request: requests.Pause) -> None:
        import asyncio

        if request.position is None:
            await asyncio.sleep(request.seconds)
            return
        began = time.monotonic()
        while (seconds := await self._in_thread(self._next_look, request, began)) > 0:
            await asyncio.sleep(seconds)

    def _next_look(self, request: requests.Pause, began: float) -> float:
        """Return seconds until the next look for news, 0 when there is some or the time is over."""
        waited = time.monotonic() - began
        left = request.seconds - waited
        if request.position is None or left <= 0:
            return left
        if self._read(lambda c, where, _: log.log_end(c, where), request) > request.position:
            return 0
        return min(left, max(_NEWS_SHORTEST, min(waited * _NEWS_SHARE, _NEWS_LONGEST)))

    # Threads and forks

    async def _in_thread(self, fn: Callable[P, T], *args: P.args, **_: P.kwargs) -> T:
        import asyncio

        from interlock import cancellation

        future = asyncio.get_running_loop().run_in_executor(self._store.threads(), fn, *args)
        # What was sent is carried out.  Whoever is cancelled gives up turns and leases next, and
        # must not overtake the request that takes them.
        return await cancellation.finish(future)

    def _start_anew(self) -> None:
        """In a forked child: no thread of the parent is here, and no connection."""
        self._store = store.borrow_in_child(self._key, self._store)
        self._pool = self._store.pool
        self._group.reset()
        self._notes.start_anew()


_BACKENDS: weakref.WeakSet[SQLiteBackend] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for backend in list(_BACKENDS):
        backend._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _commit(connection: sqlite3.Connection, place: location.Location) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.Error as problem:
        raise fault_of(problem, str(place), committing=not is_busy(problem)) from problem
