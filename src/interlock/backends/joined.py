"""A space inside a transaction of the caller's: what `space.joined` talks to instead of a backend.

Requests are answered on the caller's connection, one at a time, so that all of it is committed or
rolled back with what the caller writes himself.  Nothing that is heard there is remembered outside:
it may be rolled back.  So a fold is not saved, and no position counts as known.  Nobody waits in
there for another agent either: a queue or a lease would be waited for with the log locked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from interlock.backends.contract import Backend
from interlock.core.records import Snapshot
from interlock.core.refusals import Refusal
from interlock.core.requests import (
    AckGroup,
    Commit,
    DropLease,
    LeaveTurn,
    ListKeys,
    Load,
    LoadAt,
    Noted,
    Pause,
    ReadGroup,
    ReadLog,
    ReadValues,
    Request,
    SaveFold,
    TakeLease,
    TakeTurn,
)
from interlock.errors import Invalid, Unavailable, raise_refusal

_ANSWERED = (Commit, Load, LoadAt, ListKeys, ReadLog, ReadValues)
_LEFT_OUT = (SaveFold, LeaveTurn, DropLease)  # a cache, and what was never taken
_REFUSED: dict[type[Request[Any]], str] = {
    TakeTurn: "Waiting for a turn",
    TakeLease: "Taking a lease",
    ReadGroup: "Reading a consumer group",
    AckGroup: "Acknowledging entries",
    Pause: "Waiting for entries",
}


class Elsewhere(Invalid):
    """The connection is to no database that the space is in."""


class JoinedBackend(ABC):
    """One space inside the caller's transaction."""

    def __init__(self, outer: Backend, connection: Any) -> None:
        self.uid = outer.uid
        self.name = outer.name
        self.connection = connection  # what the caller gave
        self._outer = outer
        self._ended = False
        self._refusal: Refusal | None = None  # of the last commit

    @abstractmethod
    def begin(self) -> None:
        """See that the connection has a transaction to take part in.  Raises Invalid."""

    @abstractmethod
    async def begin_async(self) -> None:
        """The same for a connection of asyncio."""

    @abstractmethod
    def _answer(self, request: Request[Any]) -> Any:
        """Answer a request inside the transaction.  A commit that is refused leaves nothing in it.

        Never raises AnswerLost: while the transaction is open, nothing is committed.
        """

    @abstractmethod
    async def _answer_async(self, request: Request[Any]) -> Any:
        """The same for a connection of asyncio."""

    def perform(self, request: Request[Any]) -> Any:
        """Answer one request."""
        if isinstance(request, _ANSWERED):
            self._check_open()
            return self._heard(request, self._answer(request))
        return self._aside(request)

    async def perform_async(self, request: Request[Any]) -> Any:
        """Answer one request."""
        if isinstance(request, _ANSWERED):
            self._check_open()
            return self._heard(request, await self._answer_async(request))
        return self._aside(request)

    def close(self) -> None:
        """End it.  The transaction, and the connection, are the caller's."""
        self._ended = True

    async def close_async(self) -> None:
        """The same."""
        self._ended = True

    def _check_open(self) -> None:
        if self._ended:
            raise Invalid("The block of joined() has ended. Use the space itself, or join again.")

    def _heard(self, request: Request[Any], answer: Any) -> Any:
        if isinstance(answer, Snapshot):
            return answer._replace(queued={})  # nobody takes a turn in here
        if isinstance(request, Commit) and isinstance(answer, Refusal):
            self._refusal = answer
            self._outer.perform(Noted(answer, request.plan.agent))
        return answer

    def _aside(self, request: Request[Any]) -> Any:
        if isinstance(request, Noted):
            return self._outer.perform(request)
        if isinstance(request, _LEFT_OUT):
            return None
        if isinstance(request, TakeTurn) and self._refusal is not None:
            raise_refusal(self._refusal)  # instead of a second thought in turn
        what = _REFUSED.get(type(request), "This call")
        raise Invalid(f"{what} can't be part of your transaction. Use the space itself.")


def join(backend: Backend, connection: object) -> JoinedBackend:
    """Return the space of a backend inside a transaction of the caller's, not begun yet.

    Raises Invalid.
    """
    joining = getattr(backend, "join", None)
    if joining is None:
        raise Elsewhere("This store can't take part in a transaction of yours.")
    found: JoinedBackend = joining(connection)
    return found


def ended() -> Invalid:
    """The refusal of a call whose transaction is over."""
    return Invalid("Your transaction has ended. Join another one.")


def lost(place: str, told: object) -> Unavailable:
    """The fault of a connection that is gone, and the transaction with it."""
    return Unavailable(
        f"Your connection to {place} was lost ({told}). Its transaction is rolled back, with what "
        "was joined to it."
    )
