"""Shared state of a group of agents: what `interlock.open_async` returns.

Its methods check their arguments and run protocols, most of them of `core`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from interlock._async import concurrency
from interlock._async.calls import all_awaited
from interlock._async.lease import AsyncLease, AsyncLeases
from interlock._async.moment import AsyncMoment
from interlock._async.transaction import AsyncTx, returned
from interlock.core import read, transact, update, write
from interlock.core.keys import check_prefix
from interlock.core.lease import reclaim_lease
from interlock.core.records import Committed, Entry, KeyInfo, Record, as_datetime
from interlock.core.refusals import Refusal
from interlock.core.requests import LogPage, Steps
from interlock.core.rules import Rule, declare
from interlock.core.transact import Transaction
from interlock.core.update import Limits
from interlock.core.write import Decision
from interlock.errors import accepted, raise_refused
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
)

if TYPE_CHECKING:
    import os

    from interlock._async.breaker import AsyncBreaker
    from interlock._async.coordinator import AsyncCoordinator
    from interlock._async.files import AsyncFiles
    from interlock._async.group import AsyncGroup
    from interlock._async.projection import AsyncProjection
    from interlock._async.run import AsyncRun, AsyncRuns
    from interlock._async.worker import AsyncWorker
    from interlock.core.conflict_report import ConflictReport
    from interlock.core.erase import Erasure
    from interlock.core.merge import Reducer
    from interlock.core.trim import Trimmed
    from interlock.runs.breaker import BreakerInfo
    from interlock.runs.worker import Worked
    from interlock.streams.projection import Fold

_PageAfter = Callable[[int | None, int], Steps[LogPage | Refusal]]


class AsyncSpace:
    """Shared state of a group of agents, in one event loop; open with `interlock.open_async`."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session  # for the other layers of the package

    @property
    def agent(self) -> str:
        """The name that this space's commits are logged under."""
        return self.session.writer.agent

    async def read(self, key: str) -> Record:
        """Return the record of `key`; one that was never written has version 0.  Raises Invalid."""
        records = await self.read_many([key])
        return records[key]

    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys` as of one moment.  Raises Invalid."""
        names = distinct(keys)
        self.session.check_read(*names)
        return dict((await self.session.run(read.load(self.session.writer, names))).records)

    async def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records whose keys begin with `prefix`, by key, as of one moment."""
        snapshot = await self.session.run(read.load(self.session.writer, (), (prefix,)))
        return {record.key: record for record in snapshot.scans[prefix]}

    async def list_keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000
    ) -> list[KeyInfo]:
        """Return at most `limit` existing keys that begin with `prefix`, in order, without values.

        `after`: only keys after this one, such as the last one of the page before.  At most 10,000
        in one call.
        """
        return list(await self.session.run(read.list_keys(prefix, after, limit)))

    async def write(self, record: Record, value: Any, *, op_id: str | None = None) -> Record:
        """Write `value` over `record` and return the new record.

        Raises Conflict if the key has changed since `record` was read; Held if it is the turn of
        another agent that has already lost one to such a write; Invalid, or a fault.  With an
        `op_id` it is safe to retry the same write; the default is a new id.
        """
        self.session.check_write(getattr(record, "key", None))
        return await self.session.run(
            write.write_record(self.session.writer, record, value, self.session.op_id(op_id))
        )

    async def create(self, key: str, value: Any, *, op_id: str | None = None) -> Record:
        """Write `value` to a key that must not exist, and return its record.

        Raises Conflict if it does.
        """
        name = self.session.op_id(op_id)
        return await self._commit(
            key, lambda: write.plan_create(self.session.writer, key, value, name)
        )

    async def delete(self, record: Record, *, op_id: str | None = None) -> Record:
        """Delete the key of `record`.

        Its versions keep counting if it is created again.  Raises Conflict if the key has changed.
        """
        name, key = self.session.op_id(op_id), getattr(record, "key", None)
        return await self._commit(key, lambda: write.plan_delete(self.session.writer, record, name))

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
        """Read `key`, call `fn(value)`, commit what it returns, and return the new record.

        `fn` is a coroutine function, or a plain one, which then runs in a worker thread.

        `fn` gets `default` if the key does not exist.  After a conflict it is called again with the
        fresh value, so keep side effects out of it.  If it raises, nothing is written.  Return
        `interlock.DELETE` to delete the key; None raises Invalid, as it is mostly a forgotten
        `return`.  `attempts` limits how often `fn` is called, and `patience` the seconds spent
        waiting for a turn (None: no limit); beyond them Contended is raised.  `turns`: `auto` calls
        `fn` without waiting and queues after a conflict, or if there is a queue; `always` queues
        first, so that no call is wasted; `never` only retries.  If `op_id` was already applied,
        `fn` is not called and the record written then is returned.
        """
        self.session.check_write(key)
        concurrency.check_function(fn, "fn")
        think = self.session.thought(key).marked(fn)
        limits, name = Limits(attempts, patience, turns), self.session.op_id(op_id)
        steps = update.update(
            self.session.writer, key, think, default, limits, name, op_id is not None
        )
        return await self.session.run(steps)

    def transaction(self, *, op_id: str | None = None) -> AsyncTx:
        """Begin a transaction over several keys, committed when its `with` block ends.

        Raises Conflict, at a read or at the end, if anything that it read has changed.
        """
        return AsyncTx(self.session, Transaction(self.session.writer), self.session.op_id(op_id))

    async def transact(
        self,
        fn: Callable[[AsyncTx], Any],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
    ) -> Any:
        """Run `fn(tx)` in a transaction and return its result; retry if what it read has changed.

        `fn` is a coroutine function.

        The limits are those of `update`.  Returns None if `op_id` was already applied by a
        transaction.  Raises Invalid if `fn` changed a value that it had read without `tx.write`.
        """
        concurrency.check_function(fn, "fn")
        name, thought = self.session.op_id(op_id), self.session.thought()
        steps = transact.transact(
            self.session.writer,
            lambda state: thought.begin(state, AsyncTx(self.session, state, name)),
            thought.marked(all_awaited(fn)),
            Limits(attempts, patience, turns),
            name,
            op_id is not None,
        )
        (answer,) = await self.session.run(returned(steps))
        return answer

    async def append(
        self, key: str, item: Any, *, id: str | None = None, dedupe: bool = False
    ) -> Entry:
        """Add a contribution to a merged key, without reading it, and return its entry.

        Never conflicts, and takes one round trip however much the key holds.  An `id` that was
        already added adds nothing; `dedupe` makes the id from the item's content.  Raises Forbidden
        if the key is not merged, Held if another agent holds its lease, Invalid.
        """
        self.session.check_write(key)
        name = contribution_id(key, item, id, dedupe)
        steps = write.append(
            self.session.writer, key, item, name or self.session.op_id(None), exact=name is None
        )
        return await self.session.run(steps)

    async def transition(
        self, target: str | Record, to: str, /, *, op_id: str | None = None, **changes: Any
    ) -> Record:
        """Move the machine of a key to state `to`, with `changes` of other fields.

        Given a key, it reads the record and retries on a conflict; given a record, it tries once
        and may raise Conflict.  Raises IllegalTransition, which names the allowed states, Invalid.
        """
        key = target.key if isinstance(target, Record) else target
        self.session.check_write(key)
        steps = write.transition(
            self.session.writer, target, to, changes, self.session.op_id(op_id)
        )
        return await self.session.run(steps)

    def lease(self, key: str, ttl: float = 30.0, *, wait: float | None = None) -> AsyncLease:
        """Return a lease of `key` to use in an `async with` block, or to `acquire` and `release`.

        `ttl`: seconds after which it may be taken over, unless renewed; it is renewed in the
        background.  `wait`: seconds to wait for it in a first-come queue (None: without limit).
        """
        return AsyncLease(self.session, key, ttl, wait)

    def leases(
        self, keys: Iterable[str], ttl: float = 30.0, *, wait: float | None = None
    ) -> AsyncLeases:
        """Return the leases of several keys, taken in one step: all of them or none.

        Two that need several keys do so instead of taking one lease inside another, which could end
        in a Deadlock.  `ttl` and `wait` are those of `lease`.  Raises Invalid if a key is named
        twice.
        """
        return AsyncLeases(self.session, distinct_keys(keys), ttl, wait)

    async def reclaim(self, key: str) -> Record:
        """Revoke the lease of `key`; writes computed from earlier reads are refused with Fenced.

        For supervisors.  Returns the record at its new epoch.
        """
        return await self.session.run(
            reclaim_lease(self.session.writer, key, self.session.op_id(None))
        )

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules in force as this space last knew them, by pattern."""
        return dict(self.session.writer.book.rules.rules)

    async def apply_rules(
        self, rules: Mapping[str, Rule], *, dry_run: bool = False
    ) -> dict[str, Rule]:
        """Store `rules` in place of those that the space has, in one logged commit.

        Returns the rules in force.  `dry_run` only checks whether they could be stored.

        Raises Invalid, with a report, if they are ambiguous or existing values break them.
        """
        writer = self.session.writer
        await self.session.run(
            declare(writer.book, writer.plan, rules, self.session.op_id(None), True, dry_run)
        )
        return self.rules

    async def conflicts(self, limit: int = 1000) -> ConflictReport:
        """Return the last refusals, newest first, and what they say of each key.

        The store keeps the last 10,000; a refusal may be half a second late.  Those that came too
        fast to be kept are counted as `dropped`.
        """
        return await self.session.run(read.conflicts(limit))

    def group(
        self,
        name: str,
        *,
        prefix: str = "",
        start: str | int = "beginning",
        consumer: str | None = None,
        ttl: float = 30.0,
    ) -> AsyncGroup:
        """Return one consumer of a consumer group, which deals the log to its consumers.

        `prefix` and `start` (`beginning`, `now` or a position to read after) count for the first
        consumer that reads.  `consumer`: a name of its own for each worker (default: the agent's).
        `ttl`: seconds without a sign of life after which others take its entries over.
        """
        from interlock._async.group import AsyncGroup
        from interlock.streams.group import membership

        who = self.agent if consumer is None else consumer
        return AsyncGroup(self.session, accepted(membership(name, who, prefix, start, ttl)))

    async def groups(self) -> list[str]:
        """Return the names of the space's consumer groups."""
        from interlock.streams import group

        return list(await self.session.run(group.names()))

    def coordinator(
        self,
        into: str,
        *,
        source: str,
        merge: Callable[[Any, Any], Any] | Reducer | str,
        validate: Callable[[Any], Any] | None = None,
        dedupe: str | Callable[[Any], Any] | None = "id",
        initial: Any = None,
        name: str | None = None,
        ttl: float = 30.0,
        wait: float | None = None,
        on_error: Literal["reject", "stop"] = "reject",
    ) -> AsyncCoordinator:
        """Return a coordinator, which merges what is written under `source` into the key `into`.

        `merge(value, contribution)` returns the new value (`initial` before the first), or is a
        reducer or its name.  `validate(contribution)` returns why it is rejected, or raises
        ValueError; so may `merge`.  `dedupe`: what the same contribution is known by: its `id`
        field, its `content`, a function, or None.  `name` (default: `into`) is what others stand by
        for.  `ttl` and `wait` are those of its lease.  `on_error`: what becomes of a contribution
        that a function raises an error for, or whose result cannot be written: `reject` keeps it
        with the reason and goes on, `stop` raises Invalid, which names it.
        """
        from interlock._async.coordinator import AsyncCoordinator
        from interlock.streams.coordinator import job

        todo = accepted(job(into, source, merge, validate, dedupe, initial, name, on_error))
        return AsyncCoordinator(self.session, todo, ttl, wait)

    def projection(
        self,
        fold: Fold,
        *,
        prefix: str = "",
        initial: Any = None,
        name: str | None = None,
        version: int = 1,
        snapshot_every: int = 1000,
    ) -> AsyncProjection:
        """Return a view in memory: `fold(value, entry)` of `initial` and the entries of `prefix`.

        The fold is pure: what it returns depends on the value and the entry only.  It may change
        the value and return it.  With a `name` the value, which is JSON then, is kept in the store
        every `snapshot_every` log positions, so that opening it costs what came since, and the log
        after that is not trimmed.  A fold that has changed needs another `version`.
        """
        from interlock._async.projection import AsyncProjection
        from interlock.streams.projection import shape

        found = accepted(shape(fold, prefix, initial, name, version, snapshot_every))
        return AsyncProjection(self.session, found)

    def run(
        self,
        id: str,
        *,
        agent: str | None = None,
        input: Any = None,
        ttl: float = 30.0,
        wait: float | None = None,
        attempts: int = 5,
    ) -> AsyncRun:
        """Return a durable run to work on in an `async with` block: new, or where it was left.

        `async with space.run("order-7") as run: await run.step("choose", choose)`.  Only one
        process works on a run at a time: it has the run's lease for `ttl` seconds, renewed in the
        background; another one waits for it `wait` seconds (None: without limit).  Leaving the
        block well completes the run, with `run.result`; RunFailed makes it fail, and undoes its
        effects; after `attempts` other failures it is parked.  `agent`: the name that the run's
        commits are logged under.  `input` is kept with a new run.

        Entering raises Held if `wait` has passed, RunFailed if the run has failed, Invalid.
        """
        from interlock._async.run import AsyncRun

        return AsyncRun(
            self.session.under_name(agent), id, given=input, ttl=ttl, wait=wait, attempts=attempts
        )

    @property
    def runs(self) -> AsyncRuns:
        """The runs of this space, for whoever begins, watches and answers them."""
        from interlock._async.run import AsyncRuns

        return AsyncRuns(self.session)

    def worker(
        self,
        programs: Mapping[str, Callable[[AsyncRun], Any]],
        *,
        slots: int = 4,
        ttl: float = 30.0,
        poll: float = 1.0,
        attempts: int = 5,
        on_worked: Callable[[Worked], object] | None = None,
    ) -> AsyncWorker:
        """Return a worker: it takes up the runs of `programs`, `slots` at a time.

        `programs` maps names, as `space.runs.start` is given them, to functions of an AsyncRun;
        what one returns is the result of the run.  `ttl`: seconds after which others take over the
        runs of a worker that has died.  It looks for runs whenever one has moved, and every `poll`
        seconds.  After `attempts` failures, or workers that died at the same step, a run is parked.
        `on_worked(worked)` is called whenever the worker is done with a run for now, in the run's
        task.  Raises Invalid.
        """
        from interlock._async.worker import AsyncWorker

        return AsyncWorker(self.session, programs, slots, ttl, poll, attempts, on_worked)

    def breaker(
        self,
        name: str,
        *,
        failures: int = 5,
        within: float = 60.0,
        timeout: float = 30.0,
        reset_after: float = 30.0,
        ignore: tuple[type[BaseException], ...] = (),
        refresh: float = 1.0,
    ) -> AsyncBreaker:
        """Return a circuit breaker, which all who open the space share under `name`.  Keep it.

        It opens after `failures` failures `within` so many seconds: exceptions, but not those of
        `ignore`, and calls that take longer than `timeout` seconds.  `reset_after` seconds later
        one caller may probe.  `refresh`: seconds for which it goes by what it saw of the state.
        """
        from interlock._async.breaker import AsyncBreaker
        from interlock.runs.breaker import limits

        found = accepted(limits(name, failures, within, timeout, reset_after))
        return AsyncBreaker(self.session, found, ignore, refresh)

    async def breakers(self) -> list[BreakerInfo]:
        """Return the state of each of the space's breakers that ever counted a failure."""
        from interlock.runs import breaker

        return list(await self.session.run(breaker.every(self.session.writer)))

    def files(
        self,
        root: str | os.PathLike[str],
        pattern: str = "**",
        *,
        outside: str = "refuse",
        merge: bool = False,
        hidden: bool = False,
    ) -> AsyncFiles:
        """Return the documents whose paths match `pattern`, shown as files below `root`.

        `outside`: what becomes of a file that was changed around the space: `refuse` leaves it
        and refuses writes of the document until it is adopted or discarded, `adopt` commits it.
        `merge`: a write that conflicts is merged, by lines (JSON by fields), if the two sides
        changed different places.  `hidden`: whether paths such as `.git/hooks/post-merge` or
        `.envrc`, which programs run or trust, may be documents, too.  Raises Invalid.
        """
        from interlock._async.files import AsyncFiles
        from interlock.files.context import files_context

        found = files_context(self.session, root, pattern, outside, merge, hidden)
        return AsyncFiles(self.session, found)

    def history(self, key: str, *, after: int | None = None) -> AsyncIterator[Entry]:
        """Yield the entries of `key` after position `after` (None: all kept), oldest first.

        Raises Pruned if what comes after `after` was trimmed.
        """
        return self._entries(partial(read.history_page, key), after)

    def log(self, after: int | None = None, prefix: str = "") -> AsyncIterator[Entry]:
        """Yield the entries after position `after` (None: all kept) under `prefix`, in order.

        Raises Pruned if what comes after `after` was trimmed.
        """
        return self._entries(partial(read.log_page, prefix), after)

    def watch(self, prefix: str = "", after: int | None = None) -> AsyncIterator[Entry]:
        """Yield entries as they are committed, without end, after `after` (None: from now)."""
        raise_refused(check_prefix(prefix) or read.check_position("after", after or 0))
        start = concurrency.at_once(self.position) if after is None else None
        return self._follow(prefix, start, after or 0)

    def at(
        self, *, position: int | None = None, time: datetime | float | None = None
    ) -> AsyncMoment:
        """Return the space as of a log position, or of a time (aware datetime, or Unix seconds).

        A position inside a commit stands for the end of that commit.

        Its reads raise Pruned if the log is not kept so far back.
        """
        return AsyncMoment(self.session, position, as_time_us(position, time))

    async def erase(
        self,
        key: str | None = None,
        *,
        prefix: str | None = None,
        where: Callable[[Entry], bool] | None = None,
        dry_run: bool = False,
        vacuum: bool = False,
    ) -> Erasure:
        """Remove the values of `key`, or of all keys under `prefix`, for good.

        With `where` only entries for which `where(entry)` is true; alone it looks at the whole
        space, finished runs included.  `dry_run` only says what would go.  `vacuum`: have the
        server rewrite its files, too, which may hold others up.  If interrupted, call it again.
        Raises Held if a lease holds a key, Contended if somebody keeps a snapshot open, Invalid.
        """
        from interlock.runs import erase

        chosen = (key, prefix, where, dry_run, vacuum)
        return await self.session.run(erase.erasing(self.session, *chosen))

    async def trim(self, *, keep: float | None = None, before: int | None = None) -> Trimmed:
        """Cut off the oldest part of the log that nobody needs, and say what is kept and why.

        `keep`: days that entries are kept whose rule does not say, at least one (None: forever).
        `before`: what begins at that position is kept.  What consumer groups and coordinators have
        not handled is kept, and so is what every key was at the cut.  A thousand entries a step.
        """
        from interlock.core import trim  # only here: few who write ever trim

        return await self.session.run(trim.trim(self.session.writer, keep, before))

    async def position(self) -> int:
        """Return the position of the last entry of the log, 0 if it is empty."""
        snapshot = await self.session.run(read.load(self.session.writer, ()))
        return snapshot.position

    async def time(self) -> datetime:
        """Return the store's time now, UTC: its clock is the one that `Record.at` is of."""
        snapshot = await self.session.run(read.load(self.session.writer, ()))
        return as_datetime(snapshot.time_us)

    async def outcome(self, op_id: str) -> Committed | None:
        """Return the commit that `op_id` made for any agent, None if it was not applied."""
        return await self.session.run(read.outcome(checked_op_id(op_id)))

    async def close(self) -> None:
        """Give back the connections.

        Closing twice does nothing; using it afterwards raises Closed.
        """
        await self.session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *problem: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<interlock.Space {self.session.driver.backend.name!r} agent={self.agent!r}>"

    async def _follow(
        self, prefix: str, start: Callable[[], Awaitable[int]] | None, position: int
    ) -> AsyncIterator[Entry]:
        if start is not None:
            position = await start()
        while True:
            page = await self.session.run(read.log_page(prefix, position, PAGE))
            for entry in page.entries:
                yield entry
            raise_refused(read.check_reached(position, page.head))
            position = page.upto
            if position >= page.head:
                await self.session.run(read.wait(WATCH_PAUSE, position))

    def _entries(self, page_after: _PageAfter, after: int | None) -> AsyncIterator[Entry]:
        async def page() -> LogPage:
            return await self.session.run(page_after(after, PAGE))

        return self._pages(concurrency.at_once(page), page_after)

    async def _pages(
        self, first: Callable[[], Awaitable[LogPage]], page_after: _PageAfter
    ) -> AsyncIterator[Entry]:
        page = await first()
        while True:
            for entry in page.entries:
                yield entry
            if page.upto >= page.head:
                return
            page = await self.session.run(page_after(page.upto, PAGE))

    async def _commit(self, key: object, decision: Callable[[], Decision]) -> Record:
        self.session.check_write(key)
        return await self.session.run(write.write_one(self.session.writer, decision))
