"""What a backend is: it answers the requests of `interlock.core.requests`, nothing else."""

from __future__ import annotations

from typing import Protocol

from interlock.core.requests import Request, T
from interlock.errors import Dropped, Invalid, Unavailable


class Backend(Protocol):
    """One space in one store.

    `uid` is the space's unique id.  `perform` answers every request but Think, which is the
    driver's; `perform_async` does the same without blocking the event loop.  Both raise the faults
    of `interlock.errors`, and `AnswerLost` where a request was sent without an answer.  One that
    can take part in a transaction of the caller's also has `join`: see `joined.py`.  The tests that
    a backend passes are in `tests/contract`.
    """

    uid: str
    name: str

    def perform(self, request: Request[T]) -> T:
        """Answer one request."""
        ...

    async def perform_async(self, request: Request[T]) -> T:
        """Answer one request without blocking the event loop."""
        ...

    def close(self) -> None:
        """Give back connections and threads.  Closing twice does nothing."""
        ...

    async def close_async(self) -> None:
        """The same without blocking the event loop, whose own connections are given back too."""
        ...


def no_space(place: str, name: str | None = None) -> Unavailable:
    """The fault of a store, or of a space in it, that is not there and was not to be made."""
    what = f"No Interlock store at {place}" if name is None else f"{place} has no space {name!r}"
    return Unavailable(f"{what}. Create it with `interlock init`.")


def dropped(place: str) -> Dropped:
    """The fault of a space that was dropped or renamed while it was open."""
    return Dropped(
        f"The space in {place} was dropped or renamed while it was open. Nothing was written. "
        "Open it again by the name that it has now."
    )


def being_imported(place: str, name: str) -> Unavailable:
    """The fault of opening a space that an import or a copy has not finished."""
    return Unavailable(
        f"Space {name!r} in {place} is being imported. Run the same import or copy again to finish "
        "it, or drop the space."
    )


def not_empty(place: str, name: str) -> Invalid:
    """The refusal of importing into a space that holds something."""
    return Invalid(
        f"Space {name!r} in {place} is not empty. Import under another name, or drop it first."
    )


def other_source(place: str, name: str) -> Invalid:
    """The refusal of importing into a space that another import has begun."""
    return Invalid(
        f"Another import or copy into space {name!r} in {place} is not finished. Finish that one, "
        "or drop the space and start again."
    )
