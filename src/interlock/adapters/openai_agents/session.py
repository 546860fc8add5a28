"""The session: history that OpenAI Agents reads before a run and adds to while it goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from agents.memory.session import SessionABC
from agents.memory.session_settings import (
    SessionSettings,
    coerce_session_settings,
    resolve_session_limit,
)

from interlock import AsyncSpace, Conflict, Invalid, Record, Space
from interlock.adapters.home import Closing
from interlock.adapters.observed import Observed
from interlock.adapters.openai_agents import history
from interlock.adapters.openai_agents.branches import Branching
from interlock.adapters.openai_agents.history import MAIN, Basis, Change, Changed, Keys
from interlock.adapters.openai_agents.turn import (
    TakesTurns,
    Turn,
    Where,
    install_runner,
    translated,
)
from interlock.adapters.space import Work, erase_deleted, one_of, run_async

if TYPE_CHECKING:
    from agents import RunContextWrapper, TResponseInputItem

T = TypeVar("T")


class Session(Closing, Branching, TakesTurns, SessionABC):
    """A session of OpenAI Agents: `Session("id", url)`, or `Session(space, "id")`.

    With a URL it opens the space called `space`, as `agent`, and closes it: at the end of a `with`
    or `async with` block, by `close()`, or when nobody refers to it any more.

    A run takes the session's turn with its first call, before the model is asked: a second run on
    the same session is refused with SessionHeld, or waits up to `wait` seconds (None: without
    limit).  The turn is a lease of `ttl` seconds, renewed until the run ends, and everything that
    the run stores is checked against it: whoever lost it gets SessionFenced.

    Outside of runs, `add_items` only adds.  `pop_item` and `clear_session` destroy what was read
    through this object, or nothing: if it was not read, or has moved since, they raise
    SessionConflict.  `unread="overwrite"` lets them destroy what nobody has read.

    `session_ttl`: seconds after the last change when the session is empty again (None: never).
    Branches, turns and usage are as in `AdvancedSQLiteSession`.  Raises SessionInvalid.
    """

    def __init__(
        self,
        first: str | Space | AsyncSpace,
        second: str | Space | AsyncSpace,
        /,
        *,
        session_settings: SessionSettings | dict[str, Any] | None = None,
        wait: float | None = 0,
        ttl: float = 30.0,
        unread: Literal["refuse", "overwrite"] = "refuse",
        session_ttl: float | None = None,
        space: str = "default",
        agent: str | None = None,
    ) -> None:
        where, session_id = (second, first) if isinstance(first, str) else (first, second)
        with translated():
            one_of("unread", unread, "refuse", "overwrite")
            if not isinstance(session_id, str):
                raise Invalid(f"session_id={session_id!r:.80} is not a string")
            if session_ttl is not None and not 0 < session_ttl <= 1e9:
                raise Invalid(f"session_ttl={session_ttl!r:.40} is not a number of seconds")
            self._open(where, space, agent)
        self.session_id = session_id
        self.session_settings: SessionSettings | None = (
            SessionSettings()
            if session_settings is None
            else coerce_session_settings(session_settings)
        )
        self._keys = Keys.of(session_id)
        self._overwrites = unread == "overwrite"
        self._session_ttl = session_ttl
        address = (where, space) if isinstance(where, str) else self._space
        TakesTurns.__init__(self, Where(self._space, self._keys.turn, address), ttl, wait)
        install_runner()

    async def get_items(
        self,
        limit: int | None = None,
        branch_id: str | None = None,
        *,
        wrapper: RunContextWrapper[Any] | None = None,
    ) -> list[TResponseInputItem]:
        """Return the last `limit` items in order (None: as `session_settings` say, else all), of
        the current branch or another one.

        Raises SessionHeld in a run while another run has the session.
        """
        turn = await self._turn(wrapper)
        keys = self._keys if branch_id is None else self._keys._replace(branch=branch_id)
        wanted = resolve_session_limit(limit, self.session_settings)
        head, items = await self._run(history.read(self._calls, keys, wanted))
        if turn is not None:
            turn.head = Observed.of(head)
        elif keys == self._keys:
            self.reads.read(Observed.of(head))
        return [item.value for item in items]

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
        done = await self._run(history.add(self._change(turn), items))
        assert done is not None  # there was something to add
        before = Observed.of(done.head)
        if before == self._known(turn) or not history.count_of(done.head):
            self._wrote(turn, before)

    async def pop_item(
        self,
        *,
        expected: TResponseInputItem | None = None,
        op_id: str | None = None,
        wrapper: RunContextWrapper[Any] | None = None,
    ) -> TResponseInputItem | None:
        """Take the last item off and return it; None if there is none.

        `expected`: the item that must be the last one, for a caller who has read it elsewhere.
        `op_id` names the request that asks, which may be delivered twice: the second time it gets
        the same item, and nothing more is taken off.

        Raises SessionConflict if the session was not read, or has moved since, or its last item is
        not `expected`; SessionHeld while another run has it, SessionFenced.
        """
        turn = await self._turn(wrapper)
        change = self._change(turn, destroys=True)
        if expected is not None:
            change = change._replace(basis=lambda head: head)
        done = await self._destroyed(turn, history.pop(change, expected, op_id))
        return None if done is None else done.item

    async def clear_session(
        self, *, erase: bool = False, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """Take all items of all branches off, with `erase` out of the log, too, for good.

        Raises as `pop_item` does.
        """
        turn = await self._turn(wrapper)
        await self._destroyed(turn, history.clear(self._change(turn, destroys=True)))
        if self._keys.branch != MAIN:
            self._keys = self._keys._replace(branch=MAIN)
        if erase:
            kept = (f"{self._keys.base}/{name}/" for name in ("items", "branches", "usage"))
            await self._run(erase_deleted(self._calls, *kept))

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
        await self._run(self._calls.reclaim(self._keys.turn))

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

    def _change(self, turn: Turn | None, destroys: bool = False) -> Change:
        """Return what a change is made with; one that destroys something is made to what was read,
        or nobody but its own run may have changed."""
        hold = None if turn is None else turn.record
        basis: Basis | None = None
        if destroys and turn is None:
            known = self.reads.known()
            if known is not None:
                basis = _as_read(known)
            elif not self._overwrites:
                basis = _never_read
        return Change(self._calls, self._keys, hold, basis, self._session_ttl)

    async def _destroyed(self, turn: Turn | None, work: Work[Changed | None]) -> Changed | None:
        try:
            done = await self._run(work)
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
            self.reads.made(after)
        else:
            turn.head = after

    async def _run(self, work: Work[T]) -> T:
        with translated():
            return await run_async(self._space, work)


def _never_read(head: Record) -> Record:
    return head._replace(version=0)


def _as_read(known: Observed) -> Basis:
    """Return the head as it was read, if that was the head of this branch."""
    return lambda head: known.record(head) if known.is_of(head) else _never_read(head)
