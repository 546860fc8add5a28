"""The synchronous façade: `interlock.open` and what it returns.

Thin: the protocols are in `core`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from interlock import reentry
from interlock.backends.drive import SyncDriver, new_op_id
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
from interlock.files.opening import OpensFiles
from interlock.handles import Lease, Leases, Moment, Tx
from interlock.runs.breaking_opening import Breakers
from interlock.runs.opening import OpensRuns
from interlock.session import Session
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
from interlock.streams.opening import Streams

if TYPE_CHECKING:
    from interlock.core.conflicts import ConflictReport
    from interlock.core.trimming import Trimmed


def open(  # reads as interlock.open
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
) -> Space:
    """Open `space` in the store at `url`, making both where they do not exist yet.

    With `create=False` nothing is made: Unavailable is raised where either is not there.

    `url`: `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://` (in memory, for tests);
    `?mode=ro` opens a file read-only.  `postgresql://user@host/db` needs the extra `postgres`, and
    `redis://`, `rediss://` and `redis+cluster://` the extra `redis`.  `agent` is the name that
    commits are logged under (default: host and process id).  `durability` is `full` (default),
    `normal` (a crash of the machine may lose the last commits) or `off` (in SQLite it may damage
    the file); Redis is as durable as the server is set up.  `busy_timeout`: seconds to wait for
    another process that is writing, for a connection or a server that is not ready (20).
    `max_value_bytes`: limit of a value's JSON (1 MiB).

    `exclusive` takes the agent's name over from any other process that uses it: what such a
    process commits from then on is refused with Fenced.  `rules` maps patterns of keys to rules
    such as `interlock.merged("append")`; they are stored, added to those that the space has.

    Raises Invalid, Unavailable, Corrupt or IncompatibleStore.
    """
    make_writer("", space, agent, max_value_bytes)  # refuse bad names before a file is made
    backend = open_backend(url, space, create, durability=durability, busy_timeout=busy_timeout)
    opened = Space(SyncDriver(backend), make_writer(backend.uid, space, agent, max_value_bytes))
    try:
        opened._enter(exclusive, rules)
    except BaseException:
        opened.close()
        raise
    return opened


class Space(Streams, OpensRuns, Breakers, OpensFiles):
    """Shared state of a group of agents.

    May be used by many threads; open with `interlock.open`.
    """

    def __init__(self, driver: SyncDriver, writer: decide.Writer) -> None:
        self.session = Session(driver, writer)  # for the other layers of the package
        self._driver = driver
        self._writer = writer

    @property
    def agent(self) -> str:
        """The name that this space's commits are logged under."""
        return self._writer.agent

    def read(self, key: str) -> Record:
        """Return the record of `key`; one that was never written has version 0.  Raises Invalid."""
        return self.read_many([key])[key]

    def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys` as of one moment.  Raises Invalid."""
        names = distinct(keys)
        reentry.check(self._writer.space, names)
        return dict(self._run(protocol.load(self._writer, names)).records)

    def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records whose keys begin with `prefix`, by key, as of one moment."""
        snapshot: Snapshot = self._run(protocol.load(self._writer, (), (prefix,)))
        return {record.key: record for record in snapshot.scans[prefix]}

    def list_keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000
    ) -> list[KeyInfo]:
        """Return at most `limit` existing keys that begin with `prefix`, in order, without values.

        `after`: only keys after this one, such as the last one of the page before.  At most 10,000
        in one call.
        """
        return list(self._run(protocol.list_keys(prefix, after, limit)))

    def write(self, record: Record, value: Any, *, op_id: str | None = None) -> Record:
        """Write `value` over `record` and return the new record.

        Raises Conflict where the key has moved since `record` was read, Held where an agent whose
        turn it is has already lost one to a write from outside, Invalid, or a fault.  `op_id` makes
        sending the same write again harmless; without one a fresh id is drawn.
        """
        reentry.check_write(self._writer.space, (getattr(record, "key", None),))
        written: Record = self._run(commands.write(self._writer, record, value, self._op_id(op_id)))
        return written

    def create(self, key: str, value: Any, *, op_id: str | None = None) -> Record:
        """Write `value` to a key that must not exist, and return its record.

        Raises Conflict if it does.
        """
        name = self._op_id(op_id)
        return self._commit(key, lambda: decide.create(self._writer, key, value, name))

    def delete(self, record: Record, *, op_id: str | None = None) -> Record:
        """Delete the key of `record`.

        Its version goes on counting.  Raises Conflict if it has moved.
        """
        name, key = self._op_id(op_id), getattr(record, "key", None)
        return self._commit(key, lambda: decide.delete(self._writer, record, name))

    def update(
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
        """Read `key`, let `fn(value)` think, commit what it returns; return the new record.

        `fn` gets `default` where the key does not exist.  It may run several times (on a conflict,
        with the fresh value), so effects do not belong into it; what it raises ends the update with
        nothing written.  `interlock.DELETE` returned deletes the key; None is Invalid, for it is a
        forgotten `return`.  `attempts` limits how often it runs and `patience` the seconds spent
        waiting for a turn (None: no limit); beyond them Contended is raised.  `turns`: `auto`
        thinks at once and queues after a conflict or where a queue exists, `always` queues first,
        so that every thought counts, `never` only retries.  With an `op_id` that was already
        applied, `fn` does not run and the record made then is returned.
        """
        reentry.check_write(self._writer.space, (key,))
        if inspect.iscoroutinefunction(fn):
            raise Invalid(
                "fn is a coroutine function; use interlock.open_async for async functions"
            )
        limits = Limits(attempts, patience, turns)
        think = reentry.Thought(self._writer.space, key).marked(fn)
        steps = protocol.update(
            self._writer, key, think, default, limits, self._op_id(op_id), op_id is not None
        )
        record: Record = self._run(steps)
        return record

    def transaction(self, *, op_id: str | None = None) -> Tx:
        """Begin a transaction over several keys, committed when its `with` block ends.

        Raises Conflict, at a read or at the end, where anything that it read has moved.
        """
        return Tx(self._driver, Transaction(self._writer), self._op_id(op_id))

    def transact(
        self,
        fn: Callable[[Tx], Any],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
    ) -> Any:
        """Run `fn(tx)` in a transaction and return what it returns, again where its reads moved.

        The limits are those of `update`.  Returns None where `op_id` was already applied by a
        transaction.  Raises Invalid where `fn` only changed a value that it had read: it forgot
        `tx.write`.
        """
        if inspect.iscoroutinefunction(fn):
            raise Invalid(
                "fn is a coroutine function; use interlock.open_async for async functions"
            )
        name, thought = self._op_id(op_id), reentry.Thought(self._writer.space)
        steps = protocol.transact(
            self._writer,
            lambda state: thought.begin(state, Tx(self._driver, state, name)),
            thought.marked(fn),
            Limits(attempts, patience, turns),
            name,
            op_id is not None,
        )
        answer = self._driver.run(steps)
        if isinstance(answer, protocol.Stopped):
            raise_refusal(explained(self._writer, answer.refusal))
        return answer

    def append(self, key: str, item: Any, *, id: str | None = None, dedupe: bool = False) -> Entry:
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
        entry: Entry = self._run(steps)
        return entry

    def transition(
        self, target: str | Record, to: str, /, *, op_id: str | None = None, **changes: Any
    ) -> Record:
        """Move the machine of a key to state `to`, with `changes` of other fields.

        A key is read first, and again where it moved; a record in hand is written once and may be
        refused with Conflict.  Raises IllegalTransition, which names the allowed states, Invalid.
        """
        key = target.key if isinstance(target, Record) else target
        reentry.check_write(self._writer.space, (key,))
        steps = commands.transition(self._writer, target, to, changes, self._op_id(op_id))
        record: Record = self._run(steps)
        return record

    def lease(self, key: str, ttl: float = 30.0, *, wait: float | None = None) -> Lease:
        """Return a lease of `key` to use in a `with` block, or to `acquire` and `release`.

        `ttl`: seconds after which it may be taken over, unless renewed; it is renewed in the
        background.  `wait`: seconds to wait for it in a first-come queue (None: without limit).
        """
        return Lease(self._driver, self._writer, key, ttl, wait, self._op_id)

    def leases(
        self, keys: Iterable[str], ttl: float = 30.0, *, wait: float | None = None
    ) -> Leases:
        """Return the leases of several keys, taken in one step: all of them or none.

        Two that need several keys do so instead of taking one lease inside another, which could end
        in a Deadlock.  `ttl` and `wait` are those of `lease`.  Raises Invalid where a key is named
        twice.
        """
        names = distinct_keys(keys)
        return Leases([self.lease(key, ttl, wait=wait) for key in names], wait)

    def reclaim(self, key: str) -> Record:
        """Take the lease of `key` away and fence whoever read the key before.

        For supervisors.  Returns the record at its new epoch.
        """
        record: Record = self._run(leases.reclaim(self._writer, key, self._op_id(None)))
        return record

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules in force as this space last knew them, by pattern."""
        return dict(self._writer.book.rules.rules)

    def apply_rules(self, rules: Mapping[str, Rule], *, dry_run: bool = False) -> dict[str, Rule]:
        """Store `rules` in place of those that the space has, in one logged commit.

        Returns the rules in force.  `dry_run` only looks whether they could be stored.

        Raises Invalid, with a report, where they are ambiguous or existing values break them.
        """
        self._run(governing.declare(self._writer, rules, self._op_id(None), True, dry_run))
        return self.rules

    def conflicts(self, limit: int = 1000) -> ConflictReport:
        """Return the last refusals, newest first, and what they say of each key.

        The store keeps the last 10,000; a refusal may be half a second late.  Those that came too
        fast to be kept are counted as `dropped`.
        """
        report: ConflictReport = self._run(governing.conflicts(limit))
        return report

    def history(self, key: str, *, after: int | None = None) -> Iterator[Entry]:
        """Yield the entries of `key` after position `after` (None: all kept), oldest first.

        Raises Pruned where what comes after `after` was trimmed.
        """
        return self._entries(protocol.history_page, key, after)

    def log(self, after: int | None = None, prefix: str = "") -> Iterator[Entry]:
        """Yield the entries after position `after` (None: all kept) under `prefix`, in order.

        Raises Pruned where what comes after `after` was trimmed.
        """
        return self._entries(protocol.log_page, prefix, after)

    def watch(self, prefix: str = "", after: int | None = None) -> Iterator[Entry]:
        """Yield entries as they are committed, without end, after `after` (None: from now)."""
        position = self.position() if after is None else after
        raise_refused(check_prefix(prefix) or protocol.check_position("after", position))
        return self._follow(prefix, position)

    def at(self, *, position: int | None = None, time: datetime | float | None = None) -> Moment:
        """Return the space as of a log position, or of a time (aware datetime, or Unix seconds).

        A position inside a commit stands for the end of that commit.

        Its reads raise Pruned where the log is not kept so far back.
        """
        return Moment(self._driver, self._writer, position, as_time_us(position, time))

    def trim(self, *, keep: float | None = None, before: int | None = None) -> Trimmed:
        """Cut off the oldest part of the log that nobody needs, and say what is kept and why.

        `keep`: days that entries are kept whose rule does not say, at least one (None: for ever).
        `before`: what begins at that position is kept.  What consumer groups and coordinators have
        not handled is kept, and so is what every key was at the cut.  A thousand entries a step.
        """
        from interlock.core import trimming  # only here: few who write ever trim

        trimmed: Trimmed = self._run(trimming.trim(self._writer, keep, before))
        return trimmed

    def position(self) -> int:
        """Return the position of the last entry of the log, 0 where it is empty."""
        snapshot: Snapshot = self._run(protocol.load(self._writer, ()))
        return snapshot.position

    def time(self) -> datetime:
        """Return the store's time now, UTC: its clock is the one that `Record.at` is of."""
        snapshot: Snapshot = self._run(protocol.load(self._writer, ()))
        return as_datetime(snapshot.time_us)

    def outcome(self, op_id: str) -> Committed | None:
        """Return the commit that `op_id` made for any agent, None where it was not applied."""
        done: Committed | None = self._run(protocol.outcome(checked_op_id(op_id)))
        return done

    def close(self) -> None:
        """Give back the connections.

        Closing twice does nothing; using it afterwards raises Closed.
        """
        self._driver.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<interlock.Space {self._driver.backend.name!r} agent={self.agent!r}>"

    def _follow(self, prefix: str, position: int) -> Iterator[Entry]:
        while True:
            page: LogPage = self._run(protocol.log_page(prefix, position, PAGE))
            yield from page.entries
            raise_refused(protocol.check_reached(position, page.head))
            position = page.upto
            if position >= page.head:
                self._run(protocol.wait(WATCH_PAUSE, position))

    def _entries(
        self, page_of: Callable[..., Any], name: str, after: int | None
    ) -> Iterator[Entry]:
        first: LogPage = self._run(page_of(name, after, PAGE))

        def pages() -> Iterator[Entry]:
            page = first
            yield from page.entries
            while page.upto < page.head:
                page = self._run(page_of(name, page.upto, PAGE))
                yield from page.entries

        return pages()

    def _commit(self, key: object, decision: Callable[[], decide.Decision]) -> Record:
        reentry.check_write(self._writer.space, (key,))
        record: Record = self._run(commands.write_one(self._writer, decision))
        return record

    def _enter(self, exclusive: bool, rules: Mapping[str, Rule] | None) -> None:
        self._run(governing.enter(self._writer, exclusive, new_op_id()))
        if rules is not None:
            self._run(governing.declare(self._writer, rules, new_op_id(), whole=False))

    def _run(self, steps: Any) -> Any:
        answer = self._driver.run(steps)
        raise_refused(explained(self._writer, answer))
        return answer

    def _op_id(self, op_id: str | None) -> str:
        return new_op_id() if op_id is None else checked_op_id(op_id)
