"""What every object of the API holds: the way to the store, and who asks.

A session runs protocols on a driver and raises their refusals.  It also refuses calls to the space
from inside the function that decides a write of the same key.  Such a call could only see, or make,
a state that the surrounding commit then refuses; if that function has its turn, the call would
wait for a turn that only its own return gives up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from interlock.backends import holder
from interlock.backends.drive import SyncDriver, new_op_id
from interlock.core.keys import check_name
from interlock.core.refusals import Refusal
from interlock.core.requests import Steps, Think
from interlock.core.rules import Rule, RuleSet, declare
from interlock.core.transact import Transaction
from interlock.core.writer import Writer, enter
from interlock.errors import Invalid, raise_refusal, raise_refused
from interlock.settings import checked_op_id

if TYPE_CHECKING:
    from interlock.backends.drive_async import AsyncDriver

T = TypeVar("T")


class BaseSession:
    """What both sessions have.  `draw` returns a fresh operation id."""

    def __init__(self, driver: Any, writer: Writer, draw: Callable[[], str] = new_op_id) -> None:
        self.driver = driver
        self.writer = writer
        self.draw = draw

    @property
    def keeps_alive(self) -> bool:
        """Whether leases and consumers are renewed in the background."""
        return getattr(self.driver, "keeps_alive", True)

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

    def in_thread(self) -> Session:
        """Return a session over the same connections for a thread in the background."""
        return Session(SyncDriver(self.driver.backend), self.writer, self.draw)

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
        yield from enter(self.writer, exclusive, new_op_id())
        if rules is None:
            return None
        return (
            yield from declare(self.writer.book, self.writer.plan, rules, new_op_id(), whole=False)
        )

    # Calls from inside a function that decides a write

    def thought(self, key: str = "") -> Thought:
        """Return the mark of a function that decides an update of `key`, or a transaction."""
        return Thought(self.writer.space, key)

    def check_read(self, *keys: object) -> None:
        """Raise Invalid if one of `keys` is being updated in this context."""
        for thought in thoughts(self.writer.space):
            if thought.state is None:
                refuse(
                    thought, keys, "updated", "use the value it was given and return the new one"
                )

    def check_write(self, *keys: object, own: Transaction | None = None) -> None:
        """The same for calls that write or wait, and for keys that a transaction around them (other
        than `own`) has touched."""
        self.check_read(*keys)
        for thought in thoughts(self.writer.space):
            around = thought.state
            if around is None or around is own:
                continue
            if own is None or not own.recorded or not around.recorded or around.turns & {*keys}:
                refuse(
                    thought, keys, "decided in a transaction", "write it through that transaction"
                )

    def holds(self) -> bool:
        """Whether the calling context holds a lease or a turn, so that others may wait for it."""
        return holder.holds(self.writer.space)


class Session(BaseSession):
    """Runs protocols in the calling thread."""

    driver: SyncDriver

    def run(self, steps: Steps[T | Refusal], *, explain: bool = True) -> T:
        """Run a protocol to its end and return its answer.  Raises its refusal, or a fault."""
        answer: T | Refusal = self.driver.run(steps)
        if isinstance(answer, Refusal):
            self.refuse(answer, explain)
        return answer

    def call(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of the caller's."""
        return fn(*args, **options)

    def close(self) -> None:
        """Give back the connections."""
        self.driver.backend.close()


class AsyncSession(BaseSession):
    """Runs protocols in an asyncio task."""

    driver: AsyncDriver

    async def run(self, steps: Steps[T | Refusal], *, explain: bool = True) -> T:
        """Run a protocol to its end and return its answer.  Raises its refusal, or a fault."""
        answer: T | Refusal = await self.driver.run(steps)
        if isinstance(answer, Refusal):
            self.refuse(answer, explain)
        return answer

    async def call(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function of the caller's: a plain one runs in a worker thread."""
        return await self.driver.answer(Think(partial(fn, *args, **options), ()))

    async def close(self) -> None:
        """Give back connections and threads."""
        from interlock import cancellation  # imports asyncio

        self.driver.close()
        await cancellation.finish(self.driver.backend.close_async())


class Thought:
    """A function that decides a write: of the key of an update, or in a transaction."""

    def __init__(self, space: str, key: str = "") -> None:
        self.space = space
        self.key = key
        self.state: Transaction | None = None

    def decides(self, key: object) -> bool:
        """Whether its commit will be computed from `key`, or write it."""
        return key == self.key if self.state is None else self.state.touches(key)

    def begin(self, state: Transaction, tx: T) -> T:
        """Go by a transaction that begins, and return what the function is given of it."""
        self.state = state
        return tx

    def marked(self, fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return `fn` so that calls from inside it are known as such."""

        async def finish(result: Any) -> Any:
            with _inside(self):
                return await result

        async def think_async(value: Any) -> Any:
            with _inside(self):
                return await fn(value)

        def think(value: Any) -> Any:
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
    token = _marks.set((*_marks.get(), mark))
    try:
        yield
    finally:
        mark.over = True
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
