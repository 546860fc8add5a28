"""What every object of the API holds: the way to the store, and who asks.

A session runs protocols on a driver and raises their refusals.  It also refuses calls to the space
from inside the function that decides a write of the same key.  Such a call could only see, or make,
a state that the surrounding commit then refuses; if that function has its turn, the call would
wait for a turn that only its own return gives up.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypeVar

from interlock.backends import holder
from interlock.backends.drive import SyncDriver, new_op_id
from interlock.backends.joined import JoinedBackend, join
from interlock.core.keys import check_name
from interlock.core.pace import Pace, pace_of
from interlock.core.records import Entry
from interlock.core.refusals import Refusal
from interlock.core.requests import Steps, Think
from interlock.core.rule_change import declare
from interlock.core.rules import Rule, RuleSet
from interlock.core.transact import Transaction
from interlock.core.writer import Writer, enter
from interlock.errors import Invalid, raise_refusal, raise_refused
from interlock.observe.observer import Doing, observed
from interlock.settings import check_validator, checked_op_id

if TYPE_CHECKING:
    from interlock.backends.contract import Backend
    from interlock.backends.drive_async import AsyncDriver

P = ParamSpec("P")
T = TypeVar("T")


class BaseSession:
    """What both sessions have.  `draw` returns a fresh operation id."""

    def __init__(
        self, driver: AsyncDriver | SyncDriver, writer: Writer, draw: Callable[[], str] = new_op_id
    ) -> None:
        self.driver = driver
        self.writer = writer
        self.draw = draw

    @property
    def keeps_alive(self) -> bool:
        """Whether leases and consumers are renewed in the background."""
        return getattr(self.driver, "keeps_alive", True)

    def observed(self, steps: Steps[T], doing: Doing | None) -> Steps[T]:
        """Return a protocol so that it is watched; `doing` says what it is to the caller."""
        agent, observer = self.writer.agent, self.driver.observer
        if observer.is_idle:
            return steps
        return observed(observer, steps, agent, doing, self.is_joined)

    @property
    def is_joined(self) -> bool:
        """Whether what it commits may be rolled back with a transaction of the caller's."""
        return isinstance(self.driver.backend, JoinedBackend)

    def op_id(self, given: str | None = None) -> str:
        """Return the operation id that the caller chose, or a fresh one.  Raises Invalid."""
        return self.draw() if given is None else checked_op_id(given)

    def under(self, writer: Writer) -> Self:
        """Return a session of another writer over the same connections."""
        return type(self)(self.driver, writer, self.draw)

    def under_name(self, agent: str | None) -> Self:
        """Return a session of another agent, with an incarnation that nothing fences (None: this
        one).  Raises Invalid."""
        if agent is None or agent == self.writer.agent:
            return self
        raise_refused(check_name("agent", agent))
        return self.under(replace(self.writer, agent=agent, incarnation=0))

    def handling(self, *entries: Entry) -> None:
        """Take note that what the caller does next follows from these entries."""
        self.driver.observer.handling(*(entry.trace for entry in entries))

    def unread(self) -> Self:
        """Return a session for what looks into no value: where it has no cipher, encrypted values
        are to it what the store has."""
        seal = self.driver.seal
        if seal is None or seal.cipher is not None:
            return self
        driver = type(self.driver)(self.driver.backend, self.driver.observer)
        return type(self)(driver, self.writer, self.draw)

    def in_thread(self) -> Session:
        """Return a session over the same connections for a thread in the background."""
        driver = SyncDriver(self.driver.backend, self.driver.observer, self.driver.seal)
        return Session(driver, self.writer, self.draw)

    def refuse(self, refusal: Refusal, explain: bool = True) -> NoReturn:
        """Raise a refusal.

        A write that the caller's own lease holds back is Invalid (`explain`): trying again could
        not help.
        """
        raise_refusal(holder.explained(self.writer, refusal) if explain else refusal)

    def entering(
        self, exclusive: bool, rules: Mapping[str, Rule] | None
    ) -> Steps[Refusal | RuleSet | None]:
        """Protocol: begin to work in the space as `interlock.open` says."""
        check_validator(rules)
        yield from enter(self.writer, exclusive, new_op_id())
        if rules is None:
            return None
        return (
            yield from declare(self.writer.book, self.writer.plan, rules, new_op_id(), whole=False)
        )

    # Calls from inside a function that decides a write

    def thought(self, key: str = "", fn: object = None) -> Thought:
        """Return the mark of a function that decides an update of `key`, or a transaction; of an
        update with the pace of `fn`, where time passes and what others write is seen."""
        learns = fn is not None and self.keeps_alive and not self.is_joined
        pace = pace_of(fn) if learns else None
        return Thought(self.writer.space, key, pace)

    def inside(self, joined: BaseSession) -> Inside:
        """Mark this context as inside a transaction of the caller's that `joined` is part of."""
        return Inside(joined)

    def check_outside(self, connection: object = None) -> None:
        """Raise Invalid where this context is inside a transaction of the caller's that a session
        of this space is part of, but not this one: it would wait for that transaction's end.

        `connection`: the one of the transaction that this session is about to be part of.
        """
        for each in _insides.get():
            if connection is not None and each.connection is connection:
                continue
            if not each.over and each.session is not self and each.space == self.writer.space:
                raise Invalid(
                    "This call is inside a joined() block of the same space: use the space that "
                    "joined() gave. This one would wait for your transaction to end."
                )

    def check_read(self, *keys: object) -> None:
        """Raise Invalid if one of `keys` is being updated in this context."""
        if not _marks.get():
            return
        for thought in thoughts(self.writer.space):
            if thought.state is None:
                refuse(
                    thought, keys, "updated", "use the value it was given and return the new one"
                )

    def check_write(self, *keys: object, own: Transaction | None = None) -> None:
        """The same for calls that write or wait, and for keys that a transaction around them (other
        than `own`) has touched."""
        self.check_outside()
        if not _marks.get():
            return
        self.check_read(*keys)
        for thought in thoughts(self.writer.space):
            around = thought.state
            if around is None or around is own:
                continue
            if own is None or not own.recorded or not around.recorded or around.turns & {*keys}:
                refuse(
                    thought, keys, "decided in a transaction", "write it through that transaction"
                )

    def _part_of(self, backend: JoinedBackend) -> Self:
        """Return a session of the same writer inside a transaction of the caller's.  Its rules are
        its own: what it learns there may be rolled back."""
        writer = replace(self.writer, book=self.writer.book.knowing({}))
        driver = type(self.driver)(backend, self.driver.observer, self.driver.seal)
        return type(self)(driver, writer, self.draw)

    def holds(self) -> bool:
        """Whether the calling context holds a lease or a turn, so that others may wait for it."""
        return holder.holds(self.writer.space)


class Session(BaseSession):
    """Runs protocols in the calling thread."""

    driver: SyncDriver

    @classmethod
    def over(cls, backend: Backend, writer: Writer) -> Self:
        """Return a session over a backend."""
        return cls(SyncDriver(backend), writer)

    def run(
        self, steps: Steps[T | Refusal], doing: Doing | None = None, *, explain: bool = True
    ) -> T:
        """Run a protocol to its end and return its answer.  Raises its refusal, or a fault.

        `doing`: what it is, for who watches.
        """
        answer: T | Refusal = self.driver.run(self.observed(steps, doing))
        if isinstance(answer, Refusal):
            self.refuse(answer, explain)
        return answer

    def call(self, fn: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call a function of the caller's."""
        return fn(*args, **options)

    def joined(self, connection: object, nested: bool = False) -> Session:
        """Return a session inside the transaction of a connection; `nested`: in a block of the same
        connection, too.  Raises Invalid, Unavailable."""
        self.check_outside(connection if nested else None)
        backend = join(self.driver.backend, connection)
        backend.begin()
        return self._part_of(backend)

    def close(self) -> None:
        """Give back the connections."""
        if not self.is_joined:
            self.driver.observer.close()
        self.driver.backend.close()


class AsyncSession(BaseSession):
    """Runs protocols in an asyncio task."""

    driver: AsyncDriver

    @classmethod
    def over(cls, backend: Backend, writer: Writer) -> Self:
        """Return a session over a backend."""
        from interlock.backends.drive_async import AsyncDriver  # imports asyncio

        return cls(AsyncDriver(backend), writer)

    async def run(
        self, steps: Steps[T | Refusal], doing: Doing | None = None, *, explain: bool = True
    ) -> T:
        """Run a protocol to its end and return its answer.  Raises its refusal, or a fault.

        `doing`: what it is, for who watches.
        """
        answer: T | Refusal = await self.driver.run(self.observed(steps, doing))
        if isinstance(answer, Refusal):
            self.refuse(answer, explain)
        return answer

    async def call(self, fn: Callable[P, object], *args: P.args, **options: P.kwargs) -> Any:
        """Call a function of the caller's: a plain one runs in a worker thread."""
        return await self.driver.answer(Think(partial(fn, *args, **options), ()))

    async def joined(self, connection: object, nested: bool = False) -> AsyncSession:
        """Return a session inside the transaction of a connection; `nested`: in a block of the same
        connection, too.  Raises Invalid, Unavailable."""
        self.check_outside(connection if nested else None)
        backend = join(self.driver.backend, connection)
        await backend.begin_async()
        return self._part_of(backend)

    async def close(self) -> None:
        """Give back connections and threads."""
        from interlock import cancellation  # imports asyncio

        self.driver.close()
        await cancellation.finish(self._close())

    async def _close(self) -> None:
        import asyncio

        observer = self.driver.observer
        if not self.is_joined:
            if not observer.hooks.idle:
                await asyncio.to_thread(observer.hooks.close)  # they may need the event loop
            observer.close()
        await self.driver.backend.close_async()


class Inside:
    """A block inside a transaction of the caller's that `session` is part of."""

    def __init__(self, session: BaseSession) -> None:
        self.session = session
        self.space = session.writer.space
        self.connection = getattr(session.driver.backend, "connection", None)
        self.over = False
        _insides.set((*_insides.get(), self))

    def end(self) -> None:
        """The block has ended, for tasks and threads that it began, too."""
        self.over = True
        _insides.set(tuple(each for each in _insides.get() if not each.over))


_insides: ContextVar[tuple[Inside, ...]] = ContextVar("interlock_joined", default=())


class Thought:
    """A function that decides a write: of the key of an update, or in a transaction."""

    def __init__(self, space: str, key: str = "", pace: Pace | None = None) -> None:
        self.space = space
        self.key = key
        self.pace = pace
        self.state: Transaction | None = None

    def decides(self, key: object) -> bool:
        """Whether its commit will be computed from `key`, or write it."""
        return key == self.key if self.state is None else self.state.touches(key)

    def begin(self, state: Transaction, tx: T) -> T:
        """Go by a transaction that begins, and return what the function is given of it."""
        self.state = state
        return tx

    def marked(self, fn: Callable[[T], Any]) -> Callable[[T], Any]:
        """Return `fn` so that calls from inside it are known as such."""

        async def finish(result: Awaitable[object]) -> object:
            with _inside(self):
                return await result

        async def think_async(value: T) -> object:
            with _inside(self):
                return await fn(value)

        def think(value: T) -> object:
            with _inside(self):
                result = fn(value)
            return finish(result) if inspect.isawaitable(result) else result

        return think_async if inspect.iscoroutinefunction(fn) else think


class _Mark:
    """One call of a function.  A task that it began and left behind is not inside it any more."""

    def __init__(self, thought: Thought) -> None:
        self.thought = thought
        self.over = False


# Apart from what `holder` keeps: that is granted by the store, can be lost there, and does not pass
# to a forked child; a call is over when it returns, and each read and write looks at these.
_marks: ContextVar[tuple[_Mark, ...]] = ContextVar("interlock_thinking", default=())


@contextmanager
def _inside(thought: Thought) -> Iterator[None]:
    mark = _Mark(thought)
    token, began = _marks.set((*_marks.get(), mark)), perf_counter()
    try:
        yield
    finally:
        mark.over = True
        if thought.pace is not None:
            thought.pace.took(perf_counter() - began)
        _marks.reset(token)


def thoughts(space: str) -> list[Thought]:
    """Return the functions that decide a write of the space in this context."""
    marks = _marks.get()
    return [mark.thought for mark in marks if not mark.over and mark.thought.space == space]


def refuse(thought: Thought, keys: Iterable[object], doing: str, advice: str) -> None:
    """Raise Invalid if one of `keys` is what the function decides."""
    for key in keys:
        if thought.decides(key):
            raise Invalid(
                f"{key!r} is being {doing} by the function that makes this call: {advice}."
            )
