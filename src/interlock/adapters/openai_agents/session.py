"""The session: history that OpenAI Agents reads before a run and adds to while it goes on, and how
its items are read, added and taken off in a space."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from agents.memory.session_settings import (
    SessionSettings,
    coerce_session_settings,
    resolve_session_limit,
)

from interlock import AsyncSpace, Committed, Conflict, Fenced, Invalid, Json, Record, Space
from interlock.adapters.observed import Observed
from interlock.adapters.openai_agents.turn import TakesTurns, Turn, install_runner, translated
from interlock.adapters.space import (
    Work,
    Write,
    awaitable,
    checked,
    commit,
    erase_deleted,
    one_of,
    quoted,
    run_async,
)

if TYPE_CHECKING:
    from agents import RunContextWrapper, TResponseInputItem


class Keys(NamedTuple):
    """The keys of a session: all below `base`."""

    base: str

    @classmethod
    def of(cls, session_id: str) -> Keys:
        """Return the keys of the session `session_id`."""
        return cls(f"openai-agents/{quoted(session_id)}")

    @property
    def head(self) -> str:
        """The key that counts the items; every change writes it."""
        return f"{self.base}/head"

    @property
    def turn(self) -> str:
        """The key whose lease is the turn of a run."""
        return f"{self.base}/turn"

    @property
    def items(self) -> str:
        """What the keys of the items begin with."""
        return f"{self.base}/items/"

    def item(self, index: int) -> str:
        """The key of one item; keys sort as the items do."""
        return f"{self.items}{index:08d}"


# From the head as it is, the head that a change is made to.  What is computed from what somebody
# has read gets the head that was read: then the store refuses it if others came first.
Basis = Callable[[Record], Record]


class Changed(NamedTuple):
    """A change that was made: the head that it was made to, and the item that it took off."""

    head: Record
    item: Json = None


class Wanted(NamedTuple):
    """What a change writes, how many items there are then, and the item that it takes off."""

    writes: list[Write]
    length: int
    item: Json = None


def count_of(head: Record) -> int:
    """Return how many items a session has."""
    return int(head.value["items"]) if head.exists else 0


async def read(space: AsyncSpace, keys: Keys, limit: int | None) -> tuple[Record, list[Json]]:
    """Return the head and the last `limit` items (None, negative: all), as of one moment."""
    head = await space.read(keys.head)
    while True:
        count = count_of(head)
        first = 0 if limit is None or limit < 0 else max(count - limit, 0)
        names = [keys.item(index) for index in range(first, count)]
        found = await space.read_many([keys.head, *names])
        if found[keys.head].version == head.version:
            return head, [found[name].value for name in names]
        head = found[keys.head]


async def add(
    space: AsyncSpace, keys: Keys, items: Sequence[Json], hold: Record | None
) -> Changed | None:
    """Put items at the end, whatever else was put there meanwhile."""

    async def wanted(head: Record) -> Wanted:
        count = count_of(head)
        made = [("create", keys.item(count + n), item) for n, item in enumerate(items)]
        return Wanted([*made], count + len(items))

    return await _change(space, keys, hold, None, wanted)


async def pop(
    space: AsyncSpace, keys: Keys, hold: Record | None, basis: Basis | None, op_id: str | None
) -> Changed | None:
    """Take the last item off; None if there is none.

    What was popped under the same `op_id` before is returned again, and nothing else popped.
    """

    async def wanted(head: Record) -> Wanted | None:
        count = count_of(head)
        if not count:
            return None
        last = await space.read(keys.item(count - 1))
        if not last.exists:  # taken off meanwhile: the head says so, and refuses
            return Wanted([], count)
        return Wanted([("delete", last)], count - 1, last.value)

    if op_id is not None:
        done = await space.outcome(op_id)
        if done is not None:
            return await _popped(space, keys, done)
    return await _change(space, keys, hold, basis, wanted, op_id)


async def clear(
    space: AsyncSpace, keys: Keys, hold: Record | None, basis: Basis | None
) -> Changed | None:
    """Take all items off; None if there are none."""

    async def wanted(head: Record) -> Wanted | None:
        if not count_of(head):
            return None
        found = await space.scan(keys.items)
        return Wanted([("delete", record) for record in found.values()], 0)

    return await _change(space, keys, hold, basis, wanted)


async def _change(
    space: AsyncSpace,
    keys: Keys,
    hold: Record | None,
    basis: Basis | None,
    decide: Callable[[Record], Coroutine[object, None, Wanted | None]],
    op_id: str | None = None,
) -> Changed | None:
    """Commit what `decide(head)` wants.  Without a `basis` it is made to whatever head there is.

    `hold` is the record of the turn that the caller has; without one, the turn key is written, too,
    which the store refuses as long as somebody has its lease.
    """
    while True:
        found = await space.read_many([keys.head, keys.turn])
        head = found[keys.head]
        wanted = await decide(head)
        if wanted is None:
            return None
        if basis is not None:
            head = basis(head)
        guard = ("write", found[keys.turn], None) if hold is None else ("expect", hold)
        try:
            counted = ("write", head, {"items": wanted.length})
            done = await commit(space, [guard, counted, *wanted.writes], op_id)
        except (Conflict, Fenced) as refused:
            # Others came first.  That matters only to what was computed from what they changed.
            others_turn = hold is None and refused.outcome.key == keys.turn
            blind = basis is None and isinstance(refused, Conflict)
            if not others_turn and not blind:
                raise
            continue
        if done is not None and done.replayed:
            return await _popped(space, keys, done)
        return Changed(head, wanted.item)


async def _popped(space: AsyncSpace, keys: Keys, done: Committed) -> Changed:
    """Return what an earlier commit has popped."""
    gone = next(write for write in done.writes if write.key.startswith(keys.items))
    history = space.history(gone.key)
    before = [entry.value async for entry in history if entry.version == gone.version - 1]
    if not before:
        raise Invalid("The item popped under this op_id was trimmed from the log.")
    head = next(write for write in done.writes if write.key == keys.head)
    record = await space.read(keys.head)
    return Changed(record._replace(version=head.version - 1), before[0])


T = TypeVar("T")


class Session(TakesTurns):
    """A session of OpenAI Agents in a space: `Runner.run(..., session=Session(space, "s"))`.

    A run takes the session's turn with its first call, before the model is asked: a second run on
    the same session is refused with SessionHeld, or waits up to `wait` seconds (None: without
    limit).  The turn is a lease of `ttl` seconds, renewed until the run ends, and everything that
    the run stores is checked against it: whoever lost it gets SessionFenced.

    Outside of runs, `add_items` only adds.  `pop_item` and `clear_session` destroy what was read
    through this object, or nothing: if it was not read, or has moved since, they raise
    SessionConflict.  `unread="overwrite"` lets them destroy what nobody has read.

    Raises SessionInvalid.
    """

    def __init__(
        self,
        space: Space | AsyncSpace,
        session_id: str,
        *,
        session_settings: SessionSettings | dict[str, Any] | None = None,
        wait: float | None = 0,
        ttl: float = 30.0,
        unread: Literal["refuse", "overwrite"] = "refuse",
    ) -> None:
        with translated():
            self._space = checked(space, "Session")
            self._calls = awaitable(self._space)
            one_of("unread", unread, "refuse", "overwrite")
            if not isinstance(session_id, str):
                raise Invalid(f"session_id={session_id!r:.80} is not a string")
        self.session_id = session_id
        self.session_settings: SessionSettings | None = (
            SessionSettings()
            if session_settings is None
            else coerce_session_settings(session_settings)
        )
        self._keys = Keys.of(session_id)
        self._overwrites = unread == "overwrite"
        super().__init__((self._space, self._keys.turn), ttl, wait)
        install_runner()

    async def get_items(
        self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> list[TResponseInputItem]:
        """Return the last `limit` items in order (None: as `session_settings` say, else all).

        Raises SessionHeld in a run while another run has the session.
        """
        turn = await self._turn(wrapper)
        head, items = await self._made(
            read(self._calls, self._keys, resolve_session_limit(limit, self.session_settings))
        )
        if turn is None:
            self.reads.read(Observed.of(head))
        else:
            turn.head = Observed.of(head)
        return items

    async def add_items(
        self, items: list[TResponseInputItem], *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Add items at the end, all or none; what others add meanwhile is kept.

        Raises SessionHeld while another run has the session, SessionFenced in a run that lost it,
        SessionInvalid.
        """
        if not items:
            return
        turn = await self._turn(wrapper)
        done = await self._made(add(self._calls, self._keys, items, _held(turn)))
        assert done is not None  # there was something to add
        before = Observed.of(done.head)
        if before == self._known(turn) or not count_of(done.head):
            self._wrote(turn, before)

    async def pop_item(
        self, *, op_id: str | None = None, wrapper: RunContextWrapper[Any] | None = None
    ) -> TResponseInputItem | None:
        """Take the last item off and return it; None if there is none.

        `op_id` names the request that asks, which may be delivered twice: the second time it gets
        the same item, and nothing more is taken off.

        Raises SessionConflict if the session was not read, or has moved since, SessionHeld while
        another run has it, SessionFenced.
        """
        turn = await self._turn(wrapper)
        done = await self._destroyed(
            turn, pop(self._calls, self._keys, _held(turn), self._basis(turn), op_id)
        )
        return None if done is None else done.item

    async def clear_session(
        self, *, erase: bool = False, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Take all items off, with `erase` out of the log, too, for good.

        Raises as `pop_item` does.
        """
        turn = await self._turn(wrapper)
        await self._destroyed(turn, clear(self._calls, self._keys, _held(turn), self._basis(turn)))
        if erase:
            await self._made(erase_deleted(self._calls, self._keys.items))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Session]:
        """Have the session to oneself: `async with session.turn(): ...`, for a run and whatever
        belongs to it, or to read and rewrite the history.  A turn inside a turn is part of it.

        Raises SessionHeld.
        """
        async with self.run_turn() as turn:
            await turn.take()
            yield self

    async def reclaim(self) -> None:
        """Take the turn away from whichever run has it, which is fenced.  For supervisors."""
        await self._calls.reclaim(self._keys.turn)

    async def _turn(self, wrapper: object) -> Turn | None:
        """Return the turn that this call belongs to, taken; None outside of runs."""
        turn = self.current_turn()
        if turn is None and wrapper is not None:  # only a run passes one: of another runner
            turn = self.run_turn_of_task()
        if turn is not None:
            await turn.take()
        return turn

    def _known(self, turn: Turn | None) -> Observed | None:
        return self.reads.known() if turn is None else turn.head

    def _basis(self, turn: Turn | None) -> Basis | None:
        """Return what a change that destroys something is made to."""
        if turn is not None:
            return None
        known = self.reads.known()
        if known is not None:
            return known.record
        return None if self._overwrites else _never_read

    async def _destroyed(self, turn: Turn | None, work: Work[Changed | None]) -> Changed | None:
        try:
            done = await self._made(work)
        except Conflict:
            if turn is None:
                self.reads.refused()
            raise
        if done is not None:
            self._wrote(turn, Observed.of(done.head))
        return done

    def _wrote(self, turn: Turn | None, before: Observed) -> None:
        """Go on from what was changed here."""
        after = before._replace(version=before.version + 1)
        if turn is None:
            self.reads.made(after, before)
        else:
            turn.head = after

    async def _made(self, work: Work[T]) -> T:
        with translated():
            return await run_async(self._space, work)


def _held(turn: Turn | None) -> Record | None:
    return None if turn is None else turn.record


def _never_read(head: Record) -> Record:
    return head._replace(version=0)
