"""What a backend is: it answers the requests of `interlock.core.requests`, nothing else."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from interlock.core.requests import Request, T
from interlock.errors import Invalid, Unavailable

DURABILITY = ("full", "normal", "off")


class Options(NamedTuple):
    """Settings of a store.

    `durability`: `full` keeps every acknowledged commit through a power failure (on PostgreSQL:
    `synchronous_commit` at least `on`).  `normal` and `off` may lose the last commits when the
    machine or the server, not the process, dies.  On Redis it has no effect: how long a commit
    lasts is the server's setting.
    `busy_timeout`: seconds to wait for another process that is writing, for a connection, or for a
    server that is loading, failing over or moving the slot.
    """

    durability: str = "full"
    busy_timeout: float = 20.0

    def check(self, may_refuse_to_wait: bool = False) -> None:
        """Raise Invalid where an option has no meaning."""
        if self.durability not in DURABILITY:
            raise Invalid(f"durability={self.durability!r} must be one of {', '.join(DURABILITY)}.")
        least = "from 0" if may_refuse_to_wait else "above 0"
        seconds = self.busy_timeout
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not 0 <= seconds <= 1e6 or not (seconds or may_refuse_to_wait):
            raise Invalid(f"busy_timeout={seconds!r} must be a number of seconds {least}.")


class Backend(Protocol):
    """One space in one store.

    `uid` is the space's unique id.  `perform` answers every request but Think, which is the
    driver's; `perform_async` does the same without blocking the event loop.  Both raise the faults
    of `interlock.errors`, and `AnswerLost` where a request was sent without an answer.  The tests
    that a backend passes are in `tests/contract`.
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
