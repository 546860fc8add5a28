"""Interlock's verbs over data that stays where it is: what `interlock.guards` returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from interlock._async import concurrency
from interlock.core import patch, update, write
from interlock.core.fold import ask
from interlock.core.keys import Deletion
from interlock.core.records import Record
from interlock.core.requests import Load
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

    def __init__(self, session: AsyncSession) -> None:
        self.session = session  # for the other layers of the package

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
        think = self.session.thought(key).marked(view.deciding(fn, key, default))
        limits, name = Limits(attempts, patience, turns), self.session.op_id()
        given = view.default(default, key)
        steps = update.update(
            self.session.writer, key, think, given, limits, name, resumable=False, touch=False
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

    def __repr__(self) -> str:
        return f"<interlock.guards.Guard {self.session.driver.backend.name!r} agent={self.agent!r}>"

    async def _commit(self, key: object, decision: Callable[[], Decision]) -> Record:
        self.session.check_write(key)
        return await self.session.run(write.write_one(self.session.writer, decision))
