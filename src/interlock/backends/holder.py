"""What the calling context holds: the leases that it took, and the turns that it thinks in.

A wait is sent to the store with the names of what its caller holds, so that a cycle of waits is
found there.  Tasks and worker threads that are begun while something is held inherit it; what was
given up meanwhile, wherever that was, counts no more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from interlock.core.keys import check_unreserved
from interlock.core.refusals import Held, Invalid
from interlock.core.requests import Steps, T, TakeTurn
from interlock.core.writer import Writer


class HeldRight:
    """A lease, or a turn (no `key`), that was granted under `name` in the space `uid`."""

    def __init__(
        self,
        uid: str,
        key: str,
        name: str,
        agent: str = "",
        renewed: Callable[[], bool] = lambda: True,
    ) -> None:
        self.uid = uid
        self.key = key
        self.name = name
        self.agent = agent
        self._renewed = renewed
        self._released = False
        self._pid = os.getpid()
        _held.set((*_current(), self))

    @property
    def lasts(self) -> bool:
        """Whether it is held, and will not simply run out."""
        return not self._released and self._pid == os.getpid() and self._renewed()

    def release(self) -> None:
        """Hold it no more, in any context."""
        self._released = True
        _held.set(_current())


_held: ContextVar[tuple[HeldRight, ...]] = ContextVar("interlock_held", default=())


def _current() -> tuple[HeldRight, ...]:
    return tuple(each for each in _held.get() if each.lasts)


@contextmanager
def in_turn(uid: str, renew: TakeTurn | None) -> Iterator[None]:
    """Hold a turn while the caller's function thinks in it."""
    turn = None if renew is None else HeldRight(uid, "", renew.name)
    try:
        yield
    finally:
        if turn is not None:
            turn.release()


def holds(uid: str) -> bool:
    """Whether the calling context holds anything in the space `uid`."""
    return any(each.uid == uid for each in _current())


def with_held(uid: str, request: TakeTurn) -> TakeTurn:
    """Return a request; one that joins a queue says what the calling context holds."""
    if not request.ticket and _held.get():
        names = dict.fromkeys(each.name for each in _current() if each.uid == uid)
        return request.replace(holding=tuple(names))
    return request


def taking(
    take: Callable[[Writer, tuple[str, ...], float, float | None, str], Steps[T]],
    writer: Writer,
    keys: tuple[str, ...],
    ttl: float,
    wait: float | None,
    name: str,
) -> Steps[T | Invalid]:
    """Protocol: `take(writer, keys, ttl, wait, name)`, but never wait for what the calling context
    holds: Invalid then.

    The store is asked first: a lease that was taken away is not held, though nobody knows it here.
    """
    mine = _leases(writer.space, keys)
    if not mine or wait == 0:
        return (yield from take(writer, keys, ttl, wait, name))
    answer = yield from take(writer, keys, ttl, 0, name)
    if not isinstance(answer, Held):
        return answer
    if any(_is_behind(answer, each) for each in mine):
        return Invalid(
            f"This call already holds the lease of {answer.key!r}. Use that lease: "
            "waiting would never end.",
            answer.key,
        )
    return (yield from take(writer, keys, ttl, wait, name))


def explained(writer: Writer, refusal: T) -> T | Invalid:
    """Return `refusal`, or, where it is the caller's own lease that holds the write back, an
    Invalid that says so: trying again could not help.  An adapter knows its own leases."""
    if isinstance(refusal, Held) and refusal.lease and refusal.holder == writer.agent:
        mine = _leases(writer.space, (refusal.key,))
        if check_unreserved(refusal.key) is None and any(_is_behind(refusal, e) for e in mine):
            return Invalid(
                f"This call holds the lease of {refusal.key!r}. Write with the lease's write().",
                refusal.key,
            )
    return refusal


def _leases(uid: str, keys: tuple[str, ...]) -> list[HeldRight]:
    """Return the leases of `keys` that the calling context holds as far as it knows."""
    return [each for each in _current() if each.uid == uid and each.key in keys]


def _is_behind(refusal: Held, mine: HeldRight) -> bool:
    """Whether it is this lease that a refusal is about."""
    return (refusal.key, refusal.holder) == (mine.key, mine.agent)
