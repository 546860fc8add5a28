"""Interlock's verbs over data that stays where it is: what `interlock.guards` returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from interlock._async import concurrency
from interlock._async.calls import all_awaited
from interlock._async.lease import AsyncLease
from interlock._async.transaction import AsyncTx, returned
from interlock.core import append, patch, transact, update, write
from interlock.core.fold import ask
from interlock.core.keys import Deletion
from interlock.core.lease import take_own_lease
from interlock.core.records import Entry, Record
from interlock.core.requests import Load
from interlock.core.transact import Transaction
from interlock.core.update import Limits
from interlock.core.write import Decision
from interlock.errors import Invalid, raise_refused
from interlock.session import AsyncSession
from interlock.settings import DEFAULT_ATTEMPTS
from interlock.typed import MISSING, Typed

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


class AsyncGuard:
    """Guarded reads and writes of data outside, which others may write, too.

    A write never destroys a change that it was not computed from: it raises Conflict, with the
    fresh record.  Made by the functions of `interlock.guards`.
    """

    def __init__(self, session: AsyncSession, several: bool = False) -> None:
        self.session = session  # for the other layers of the package
        self._several = several  # whether several keys can be written in one step

    @property
    def agent(self) -> str:
        """The name that writes are made under."""
        return self.session.writer.agent

    @overload
    async def read(self, key: str) -> Record: ...
    @overload
    async def read(self, key: str, type: TypeForm[T]) -> Record[T]: ...
    async def read(self, key: str, type: Any = None) -> Record:
        """Return the record of `key`; its `exists` is False if there is nothing.

        `type`: what its value is returned as, such as a dataclass (None: as JSON has it).
        `version` is what the value itself counts (`_version`), else 0: `tag` is compared, which
        says nothing of how often it was written.  Raises Invalid, or a fault.
        """
        view = Typed(type)
        raise_refused(self.session.writer.check_key(key))
        self.session.check_read(key)
        snapshot = await self.session.run(ask(self.session.writer, Load((key,))))
        return view.record(snapshot.records[key])

    async def write(self, record: Record, value: Any) -> Record:
        """Write `value` over `record` and return the new record.

        Raises Conflict if the data has changed since `record` was read, Invalid, or a fault.  If
        `value` is what `record` has, nothing is written.
        """
        self.session.check_write(getattr(record, "key", None))
        name = self.session.op_id()
        steps = write.write_record(self.session.writer, record, value, name, touch=False)
        return await self.session.run(steps)

    async def create(self, key: str, value: Any) -> Record:
        """Write `value` where there must be nothing yet, and return its record.

        Raises Conflict if there is something.
        """
        name = self.session.op_id()
        return await self._commit(
            key, lambda: write.plan_create(self.session.writer, key, value, name)
        )

    async def delete(self, record: Record) -> Record:
        """Delete what `record` was read from.  Raises Conflict if it has changed."""
        name, key = self.session.op_id(), getattr(record, "key", None)
        return await self._commit(key, lambda: write.plan_delete(self.session.writer, record, name))

    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        *,
        default: Any = None,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
    ) -> Record: ...
    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[T | None], T | Deletion | Awaitable[T | Deletion]],
        type: TypeForm[T],
        *,
        default: None,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
    ) -> Record[T]: ...
    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[T], T | Deletion | Awaitable[T | Deletion]],
        type: TypeForm[T],
        *,
        default: T = ...,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
    ) -> Record[T]: ...
    async def update(
        self,
        key: str,
        fn: Callable[[Any], Any],
        type: Any = None,
        *,
        default: Any = MISSING,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
    ) -> Record:
        """Read `key`, call `fn(value)`, write what it returns, and return the new record.

        `fn` is a coroutine function, or a plain one, which then runs in a worker thread.

        `fn`, `type`, `default`, `attempts` and `patience` are those of `space.update`.  `turns`:
        `auto` calls `fn` without waiting, and after a conflict takes a turn in the space that the
        guard was given as `turns=`, or without one waits for a random moment; `always` takes a turn
        first; `never` only retries.  Raises Contended beyond the limits.
        """
        self.session.check_write(key)
        concurrency.check_function(fn, "fn")
        view = Typed(type)
        thought = self.session.thought(key, fn)
        think = thought.marked(view.deciding(fn, key, default))
        limits, name = Limits(attempts, patience, turns), self.session.op_id()
        given = view.default(default, key)
        steps = update.update(
            *(self.session.writer, key, think, given, limits, name),
            resumable=False,
            touch=False,
            pace=thought.pace,
        )
        return view.record(await self.session.run(steps, ("update", key)))

    async def patch(self, target: str | Record, changes: Mapping[str, Any]) -> Record:
        """Change these fields of an object and no others, and return the new record.

        `changes` is a JSON Merge Patch (RFC 7396): None removes a field, an object changes parts of
        one.  Given a key, it changes whatever the key holds now.  Given a record, it raises
        Conflict if one of these fields has changed since; other fields may have.  Raises Invalid if
        there is nothing, or no object.
        """
        self.session.check_write(target.key if isinstance(target, Record) else target)
        part, name = patch.merging(changes), self.session.op_id()
        return await self.session.run(
            patch.change_part(self.session.writer, target, part, name, touch=False)
        )

    async def update_fields(
        self, target: str | Record, fields: Mapping[str, Any], *, remove: Iterable[str] = ()
    ) -> Record:
        """Set whole fields of an object, None included, and remove others; as `patch` otherwise."""
        self.session.check_write(target.key if isinstance(target, Record) else target)
        part, name = patch.setting(fields, remove), self.session.op_id()
        return await self.session.run(
            patch.change_part(self.session.writer, target, part, name, touch=False)
        )

    async def transition(self, target: str | Record, to: str, /, **changes: Any) -> Record:
        """Move the machine of a value to state `to`, with `changes` of other fields.

        The machine is the guard's `machine=`.  Given a key, it reads the record and retries on a
        conflict; given a record, it tries once and may raise Conflict.  Raises IllegalTransition,
        which names the allowed states, Invalid.
        """
        key = target.key if isinstance(target, Record) else target
        self.session.check_write(key)
        if self.session.writer.book.rules.match(str(key))[1].machine is None:
            raise Invalid("This guard has no state machine: give it machine=.")
        steps = write.transition(self.session.writer, target, to, changes, self.session.op_id())
        return await self.session.run(steps)

    async def append(self, key: str, item: Any) -> Entry:
        """Add an item to a list, whatever it holds, and return its entry: `version` is how many the
        list holds now.

        Never conflicts.  Raises Forbidden unless the guard is of lists, Invalid.
        """
        self.session.check_write(key)
        steps = append.append(self.session.writer, key, item, self.session.op_id())
        return await self.session.run(steps)

    def transaction(self) -> AsyncTx:
        """Begin a transaction over several keys, written in one step when its `with` block ends.

        All that it has read is compared in that step, and Conflict is raised if any of it has
        changed; nothing is written then.  For rows of a table, and for Redis keys (of one hash
        slot, in a cluster).  Raises Invalid for any other place.
        """
        self._check_several()
        return AsyncTx(self.session, Transaction(self.session.writer), self.session.op_id())

    async def transact(
        self,
        fn: Callable[[AsyncTx], Any],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
    ) -> Any:
        """Run `fn(tx)` in a transaction and return its result; retry if what it read has changed.

        `fn` is a coroutine function.

        The limits are those of `update`.
        """
        self._check_several()
        concurrency.check_function(fn, "fn")
        name, thought = self.session.op_id(), self.session.thought()
        steps = transact.transact(
            self.session.writer,
            lambda state: thought.begin(state, AsyncTx(self.session, state, name)),
            thought.marked(all_awaited(fn)),
            Limits(attempts, patience, turns),
            name,
            False,
        )
        (answer,) = await self.session.run(returned(steps), ("transact", ""))
        return answer

    def lease(self, key: str, ttl: float = 30.0, *, wait: float | None = None) -> AsyncLease:
        """Return a lease of `key` to use in an `async with` block: the exclusive right to write it
        through guards with the same `lease=` space.

        `ttl` and `wait` are those of `space.lease`, and so is what the lease does.  A write whose
        lease was lost raises Fenced.
        """
        raise_refused(self.session.writer.check_key(key))
        return AsyncLease(self.session, key, ttl, wait, take_own_lease)

    def __repr__(self) -> str:
        return f"<interlock.guards.Guard {self.session.driver.backend.name!r} agent={self.agent!r}>"

    def _check_several(self) -> None:
        if not self._several:
            name = self.session.driver.backend.name
            raise Invalid(f"{name} has no transactions: each key is written in a step of its own.")

    async def _commit(self, key: object, decision: Callable[[], Decision]) -> Record:
        self.session.check_write(key)
        return await self.session.run(write.write_one(self.session.writer, decision))
