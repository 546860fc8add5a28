"""The session: history that OpenAI Agents reads before a run and adds to while it goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from agents.memory.session_settings import (
    SessionSettings,
    coerce_session_settings,
    resolve_session_limit,
)

from interlock import AsyncSpace, Conflict, Invalid, Record, Space
from interlock.adapters.observed import Observed
from interlock.adapters.openai_agents.errors import translated
from interlock.adapters.openai_agents.items import (
    Basis,
    Changed,
    Keys,
    add,
    clear,
    count_of,
    pop,
    read,
)
from interlock.adapters.openai_agents.turn import TakesTurns, Turn, install_runner
from interlock.adapters.space import (
    Work,
    awaitable,
    checked,
    erase_deleted,
    one_of,
    run_async,
)

if TYPE_CHECKING:
    from agents import RunContextWrapper, TResponseInputItem

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
        self,
        items: list[TResponseInputItem],
        *,
        wrapper: RunContextWrapper[Any] | None = None,
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
