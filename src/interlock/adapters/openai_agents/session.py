"""The session: history that OpenAI Agents reads before a run and adds to while it goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from agents.memory.session_settings import (
    SessionSettings,
    coerce_session_settings,
    resolve_session_limit,
)

from interlock import AsyncSpace, Invalid, Record, Space
from interlock.adapters.calls import Steps, run_async
from interlock.adapters.openai_agents.errors import translated
from interlock.adapters.openai_agents.storing import Changed, Keys, add, clear, pop, read
from interlock.adapters.openai_agents.turns import Turn, ended, is_answer, known, learn
from interlock.adapters.turns import take

if TYPE_CHECKING:
    from agents import RunContextWrapper, TResponseInputItem


class Session:
    """A session of OpenAI Agents in a space: `Runner.run(..., session=Session(space, "s"))`.

    A run takes the session's turn with its first call, before the model is asked: a second run on
    the same session is refused with SessionHeld, or waits up to `wait` seconds (None: without
    limit).  The turn is a lease of `ttl` seconds, renewed while the run goes on, and everything
    that the run stores is checked against it: whoever lost it gets SessionFenced.

    Outside of runs, `add_items` only adds.  `pop_item` and `clear_session` destroy what this task
    has read, or nothing: where the session has moved since, they raise SessionConflict.

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
    ) -> None:
        with translated():
            if not isinstance(session_id, str):
                raise Invalid(f"session_id is {session_id!r:.80}, which is no text")
        self.session_id = session_id
        self.session_settings: SessionSettings | None = (
            SessionSettings()
            if session_settings is None
            else coerce_session_settings(session_settings)
        )
        self._space = space
        self._keys = Keys.of(session_id)
        self._where = (space, self._keys.base)
        self._wait = wait
        self._ttl = ttl

    async def get_items(
        self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> list[TResponseInputItem]:
        """Return the last `limit` items in order (None: as `session_settings` say, else all).

        Raises SessionHeld in a run while another run has the session.
        """
        turn = await self._turn(wrapper)
        head, items = await self._made(
            read(self._keys, resolve_session_limit(limit, self.session_settings))
        )
        if turn is None:
            learn(self._where, head=head)
        found: list[TResponseInputItem] = items
        return found

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
        done: Changed = await self._made(add(self._keys, items, _hold(turn)))
        if turn is None:
            self._learn(done)
        elif not turn.explicit and is_answer(items):
            await turn.end()

    async def pop_item(
        self, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> TResponseInputItem | None:
        """Take the last item off and return it; None where there is none.

        Raises SessionConflict where the session has moved since this task read it, SessionHeld
        while another run has it, SessionFenced.
        """
        turn = await self._turn(wrapper)
        done: Changed | None = await self._made(pop(self._keys, _hold(turn), self._basis(turn)))
        if done is None:
            return None
        if turn is None:
            self._learn(done)
        popped: TResponseInputItem = done.item
        return popped

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """Take all items off.

        Raises as `pop_item` does.
        """
        turn = await self._turn(wrapper)
        done: Changed | None = await self._made(clear(self._keys, _hold(turn), self._basis(turn)))
        if done is not None and turn is None:
            self._learn(done)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Session]:
        """Have the session to oneself: `async with session.turn(): ...`, for a run and whatever
        belongs to it, or to read and rewrite the history.  Turns of the same task are one.

        Raises SessionHeld.
        """
        mine = known(self._where).turn
        if mine is not None and not mine.over:
            yield self
            return
        await ended(self._where)
        begun = await self._begin(explicit=True)
        try:
            yield self
        finally:
            await begun.end()
            learn(self._where, turn=None)

    async def reclaim(self) -> None:
        """Take the turn away from whichever run has it, which is fenced.  For supervisors."""
        if isinstance(self._space, Space):
            self._space.reclaim(self._keys.turn)
        else:
            await self._space.reclaim(self._keys.turn)

    async def _turn(self, wrapper: object) -> Turn | None:
        """Return the turn that this call belongs to; the first call of a run begins one."""
        mine = known(self._where).turn
        if mine is not None and not mine.over:
            return mine
        await ended(self._where)
        # Only a run passes a wrapper.
        return None if wrapper is None else await self._begin(explicit=False)

    async def _begin(self, explicit: bool) -> Turn:
        with translated():
            lease = await take(self._space, self._keys.turn, self._ttl, self._wait)
        begun = Turn(self._where, lease, explicit)
        learn(self._where, turn=begun, head=None)
        if not explicit:
            await begun.watch()
        return begun

    def _basis(self, turn: Turn | None) -> Record | None:
        return None if turn is not None else known(self._where).head

    def _learn(self, done: Changed) -> None:
        """Go on from what was changed here, if it was made to what this task knew."""
        head = known(self._where).head
        if head is None or head.version == done.before.version:
            learn(self._where, head=done.head)

    async def _made(self, steps: Steps) -> Any:
        with translated():
            return await run_async(self._space, steps)


def _hold(turn: Turn | None) -> Record | None:
    return None if turn is None else turn.hold
