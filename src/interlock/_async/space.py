"""Shared state of a group of agents: what `interlock.open_async` returns.

Its methods check their arguments and run protocols, most of them of `core`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from interlock import settings
from interlock._async import concurrency
from interlock._async.calls import all_awaited
from interlock._async.lease import AsyncLease, AsyncLeases
from interlock._async.observable import AsyncObservable
from interlock._async.reader import AsyncReader
from interlock._async.retention import AsyncRetention
from interlock._async.streams import AsyncStreams
from interlock._async.transaction import AsyncTx, returned
from interlock.core import append, patch, transact, update, write
from interlock.core.keys import Deletion
from interlock.core.lease import reclaim_lease
from interlock.core.records import Entry, Record
from interlock.core.refusals import Refusal
from interlock.core.rule_change import declare
from interlock.core.rules import Rule
from interlock.core.transact import Transaction
from interlock.core.update import Limits
from interlock.core.write import Decision
from interlock.errors import accepted
from interlock.typed import MISSING, Typed

if TYPE_CHECKING:
    import os

    from typing_extensions import TypeForm

    from interlock._async.breaker import AsyncBreaker
    from interlock._async.files import AsyncFiles
    from interlock._async.joined import AsyncJoined
    from interlock._async.run import AsyncRun, AsyncRuns
    from interlock._async.worker import AsyncWorker
    from interlock.runs.breaker import BreakerInfo
    from interlock.runs.worker import Worked

T = TypeVar("T")


class AsyncSpace(AsyncReader, AsyncStreams, AsyncObservable, AsyncRetention):
    """Shared state of a group of agents, in one event loop; open with `interlock.open_async`."""

    async def write(
        self,
        record: Record,
        value: Any,
        *,
        op_id: str | None = None,
        touch: bool = False,
        expires: float | None = None,
    ) -> Record:
        """Write `value` over `record` and return the new record.

        `value` is JSON; typed objects in it (dataclasses and such) become JSON.  Raises Conflict if
        the key has changed since `record` was read; Held if it is the turn of another agent that
        has already lost one to such a write; Invalid, or a fault.  With an `op_id` it is safe to
        retry the same write; the default is a new id.  If `value` is what `record` has, nothing is
        written, unless `touch` or an `op_id` asks for an entry.  `expires`: seconds after which the
        key does not exist any more (None: as its rule says); a value that expires is always
        written.
        """
        self.session.check_write(getattr(record, "key", None))
        name, touch = self.session.op_id(op_id), touch or op_id is not None
        steps = write.write_record(
            self.session.writer, record, value, name, touch=touch, expires=expires
        )
        return await self.session.run(steps)

    async def write_many(
        self, writes: Iterable[tuple[Record, Any]], *, op_id: str | None = None
    ) -> dict[str, Record]:
        """Write a value over each record, all in one commit or none, and return the new records.

        `writes`: pairs of a record and its value.  Raises Conflict if one of the keys has changed.
        """
        pairs = settings.written_pairs(writes)
        self.session.check_write(*(record.key for record, _ in pairs))
        return await self._write_all(
            lambda tx: (tx.write(record, value) for record, value in pairs), op_id
        )

    async def create(
        self, key: str, value: Any, *, op_id: str | None = None, expires: float | None = None
    ) -> Record:
        """Write `value` to a key that must not exist, and return its record.

        `expires`: seconds after which the key does not exist any more (None: as its rule says).
        Raises Conflict if it does.
        """
        name = self.session.op_id(op_id)
        return await self._commit(
            key, lambda: write.plan_create(self.session.writer, key, value, name, expires)
        )

    async def create_many(
        self, values: Mapping[str, Any], *, op_id: str | None = None
    ) -> dict[str, Record]:
        """Write values to keys that must not exist, all in one commit or none; return the records.

        Raises Conflict if one of them exists.
        """
        self.session.check_write(*settings.by_key(values))
        return await self._write_all(
            lambda tx: (tx.create(key, value) for key, value in values.items()), op_id
        )

    async def delete(self, record: Record, *, op_id: str | None = None) -> Record:
        """Delete the key of `record`.

        Its versions keep counting if it is created again.  Raises Conflict if the key has changed.
        """
        name, key = self.session.op_id(op_id), getattr(record, "key", None)
        return await self._commit(key, lambda: write.plan_delete(self.session.writer, record, name))

    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        default: Any = None,
        attempts: int = settings.DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
        touch: bool = False,
        expires: float | None = None,
    ) -> Record: ...
    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[T | None], T | Deletion | Awaitable[T | Deletion]],
        type: TypeForm[T],
        *,
        default: None,
        attempts: int = settings.DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
        touch: bool = False,
        expires: float | None = None,
    ) -> Record[T]: ...
    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[T], T | Deletion | Awaitable[T | Deletion]],
        type: TypeForm[T],
        *,
        default: T = ...,
        attempts: int = settings.DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
        touch: bool = False,
        expires: float | None = None,
    ) -> Record[T]: ...
    async def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        type: Any = None,
        *,
        default: Any = MISSING,
        attempts: int = settings.DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
        touch: bool = False,
        expires: float | None = None,
    ) -> Record:
        """Read `key`, call `fn(value)`, commit what it returns, and return the new record.

        `fn` is a coroutine function, or a plain one, which then runs in a worker thread.

        `fn` gets the value as `type` (None: as JSON has it) and returns the next one as such;
        fields that the type does not know stay.  It gets `default` if the key does not exist:
        None where none is given, unless there is a type that does not allow it.

        After a conflict `fn` is called again with the fresh value, so keep side effects out of it.
        If it raises, nothing is written.  Return `interlock.DELETE` to delete the key; None raises
        Invalid, as it is mostly a forgotten `return`.  `attempts` limits how often `fn` is called,
        and `patience` the seconds spent waiting for a turn (None: no limit); beyond them Contended
        is raised.  `turns`: `auto` calls `fn` without waiting and queues after a conflict, or if
        there is a queue (while `fn` takes less than 5 ms it tries again first, with half of its
        attempts); `always` queues first, so that no call is wasted; `never` only retries.
        If `op_id` was already applied, `fn` is not called and the record written then is returned.
        If `fn` returns what it was given, nothing is written, unless `touch` or an `op_id` asks for
        an entry.  `expires`: as in `write`.
        """
        self.session.check_write(key)
        concurrency.check_function(fn, "fn")
        view = Typed(type)
        thought = self.session.thought(key, fn)
        think = thought.marked(view.deciding(fn, key, default))
        limits, name = Limits(attempts, patience, turns), self.session.op_id(op_id)
        given, chosen = view.default(default, key), op_id is not None
        steps = update.update(
            *(self.session.writer, key, think, given, limits, name, chosen),
            touch=touch or chosen,
            expires=expires,
            pace=thought.pace,
        )
        return view.record(await self.session.run(steps, ("update", key)))

    async def patch(
        self, target: str | Record, changes: Mapping[str, Any], *, op_id: str | None = None
    ) -> Record:
        """Change these fields of an object and no others, and return the new record.

        `changes` is a JSON Merge Patch (RFC 7396): None removes a field, an object changes parts of
        one.  Given a key, it changes whatever the key holds now.  Given a record, it raises
        Conflict if one of these fields has changed since; other fields may have.  Raises Invalid if
        the key does not exist or holds no object.
        """
        self.session.check_write(target.key if isinstance(target, Record) else target)
        name, touch = self.session.op_id(op_id), op_id is not None
        part = patch.merging(changes)
        return await self.session.run(
            patch.change_part(self.session.writer, target, part, name, touch)
        )

    async def update_fields(
        self,
        target: str | Record,
        fields: Mapping[str, Any],
        *,
        remove: Iterable[str] = (),
        op_id: str | None = None,
    ) -> Record:
        """Set whole fields of an object, None included, and remove others; as `patch` otherwise."""
        self.session.check_write(target.key if isinstance(target, Record) else target)
        name, touch = self.session.op_id(op_id), op_id is not None
        part = patch.setting(fields, remove)
        return await self.session.run(
            patch.change_part(self.session.writer, target, part, name, touch)
        )

    def transaction(self, *, op_id: str | None = None) -> AsyncTx:
        """Begin a transaction over several keys, committed when its `with` block ends.

        Raises Conflict, at a read or at the end, if anything that it read has changed.
        """
        return AsyncTx(self.session, Transaction(self.session.writer), self.session.op_id(op_id))

    def joined(self, connection: object) -> AsyncJoined[AsyncSpace]:
        """Return this space inside the caller's open transaction, for an `async with` block.

        `connection`: psycopg's, sqlite3's, or SQLAlchemy's Connection or Session.
        """
        from interlock._async.joined import AsyncJoined

        return AsyncJoined(self.session, connection, AsyncSpace)

    @overload
    async def transact(
        self,
        fn: Callable[[AsyncTx], Awaitable[T]],
        *,
        attempts: int = settings.DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: None = None,
    ) -> T: ...
    @overload
    async def transact(
        self,
        fn: Callable[[AsyncTx], Awaitable[T]],
        *,
        attempts: int = settings.DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None,
    ) -> T | None: ...
    async def transact(
        self,
        fn: Callable[[AsyncTx], Any],
        *,
        attempts: int = settings.DEFAULT_ATTEMPTS,
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
        (answer,) = await self.session.run(returned(steps), ("transact", ""))
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
        name = settings.contribution_id(key, item, id, dedupe)
        steps = append.append(
            self.session.writer, key, item, name or self.session.op_id(None), exact=name is None
        )
        return await self.session.run(steps)

    async def append_many(
        self, key: str, items: Iterable[Any], *, op_id: str | None = None
    ) -> list[Entry]:
        """Add contributions to a merged key in one commit, in order, and return their entries.

        An `op_id` that was already applied adds nothing.  Raises as `append` does.
        """
        many = settings.listed(items, "append_many", "contributions")
        self.session.check_write(key)
        steps = append.append_many(self.session.writer, key, many, self.session.op_id(op_id))
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
        return AsyncLeases(self.session, settings.distinct_keys(keys), ttl, wait)

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
        settings.check_validator(rules)
        writer = self.session.writer
        await self.session.run(
            declare(writer.book, writer.plan, rules, self.session.op_id(None), True, dry_run)
        )
        return self.rules

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

    async def _write_all(
        self, fill: Callable[[Transaction], Iterable[Refusal | None]], op_id: str | None
    ) -> dict[str, Record]:
        name = self.session.op_id(op_id)
        return await self.session.run(transact.write_all(self.session.writer, fill, name))

    async def _commit(self, key: object, decision: Callable[[], Decision]) -> Record:
        self.session.check_write(key)
        return await self.session.run(write.write_one(self.session.writer, decision))
