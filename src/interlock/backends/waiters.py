"""The waiters of this process: few of those on one key stand in the store's queue, and of these
only the first asks all the time.

The others stand in line here, without a request, first come first served; one joins the store's
queue when another has left it.  Of those with tickets all but the first wait to be woken when they
are the first here, and ask seldom meanwhile, so that their tickets live; their order is the
store's.  Nothing rests on it but how often is asked.  Whoever holds something while it waits does
not stand in line: only the store sees a cycle of waits.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interlock.core.records import Committed
from interlock.core.requests import (
    Commit,
    LeaveTurn,
    OutOfTime,
    Pause,
    Request,
    TakeLease,
    TakeTurn,
)

if TYPE_CHECKING:
    import asyncio

MOST_TICKETS = 8  # of this process in the store's queue of a key: the next ones are there in time
_EACH = 1.0  # seconds that whoever waits here sleeps for each other one before it
HELD_UP = 10.0  # seconds without a word of those in the store until the first goes on all the same
_EACH_IN_LINE = 0.01  # seconds that each one in line looks later after that

Key = tuple[str, str]  # uid of the space, key
Wake = Callable[[], None]


class InLine:
    """Somebody in line.  `ahead`: how many came before; `going`: it may join the store's queue."""

    def __init__(self, keys: list[Key], wake: Callable[[], None], ahead: int) -> None:
        self.keys = keys
        self.wake = wake
        self.ahead = ahead
        self.going = False
        self.look_after = HELD_UP + ahead * _EACH_IN_LINE  # seconds


class Lines:
    """All lines; `is_full` says of a key whether enough stand in its queue in the store."""

    def __init__(self, is_full: Callable[[Key], bool]) -> None:
        self._is_full = is_full
        self._lines: dict[Key, OrderedDict[int, InLine]] = {}
        self._heard: dict[Key, float] = {}
        self._numbers: dict[InLine, int] = {}
        self._count = itertools.count()

    def stand(self, keys: list[Key], wake: Callable[[], None]) -> InLine | None:
        """Join the lines of `keys`; None where nobody need wait."""
        if not any(key in self._lines or self._is_full(key) for key in keys):
            return None
        place = InLine(keys, wake, max(len(self._lines.get(key, ())) for key in keys))
        number = self._numbers[place] = next(self._count)
        for key in keys:
            self._lines.setdefault(key, OrderedDict())[number] = place
            self._heard.setdefault(key, time.monotonic())
        return place

    def leave(self, place: InLine) -> None:
        """Leave all lines."""
        number = self._numbers.pop(place)
        for key in place.keys:
            line = self._lines[key]
            del line[number]
            if not line:
                del self._lines[key], self._heard[key]

    def next(self, key: Key) -> InLine | None:
        """Return the first in line for a key if it may go on, in all its lines."""
        place = self._first(key)
        if place is None or any(
            self._is_full(each) or self._first(each) is not place for each in place.keys
        ):
            return None
        return place

    def heard(self, key: Key) -> None:
        """Somebody of this process has had an answer from the store's queue of a key."""
        if key in self._heard:
            self._heard[key] = time.monotonic()

    def held_up(self, keys: list[Key]) -> InLine | None:
        """Return the first in a line whose predecessors seem to be dead: their programs were
        dropped as they were."""
        now = time.monotonic()
        for key in keys:
            if now - self._heard.get(key, now) > HELD_UP:
                self._heard[key] = now
                return self._first(key)
        return None

    def _first(self, key: Key) -> InLine | None:
        line = self._lines.get(key)
        return next(iter(line.values())) if line else None


class Waiters:
    """The waiters of this process, by space and key; of all its threads and event loops."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Forget everybody: in a forked child nobody waits."""
        self._lock = threading.Lock()
        self._queues: dict[Key, list[int]] = {}
        self._keys: dict[tuple[str, int], tuple[str, ...]] = {}
        self._wake: dict[tuple[str, int], Wake] = {}
        self._joins: Counter[Key] = Counter()  # on their way to the store, without a ticket yet
        self._lines = Lines(self._is_full)
        self._only_here: set[tuple[str, str]] = set()

    def enter(self, uid: str, request: TakeTurn, wake: Wake) -> InLine | None:
        """Let somebody join the store's queue (None), or stand in line here until it is woken."""
        keys = [(uid, key) for key in request.keys]
        with self._lock:
            place = None if request.holding else self._lines.stand(keys, wake)
            if place is None:
                self._joins.update(keys)
            return place

    def look(self, place: InLine) -> None:
        """Let the first in line go on, where nothing is heard of those in the store."""
        with self._lock:
            first = self._lines.held_up(place.keys)
            if first is not None:
                self._go_on(first)
        if first is not None:
            first.wake()

    def leave_line(self, uid: str, request: TakeTurn, place: InLine, gives_up: bool) -> None:
        """Leave the line without having asked the store; who `gives_up` its turn then says so."""
        with self._lock:
            if gives_up:
                self._only_here.add((uid, request.name))
            if place.going:
                self._joins.subtract(place.keys)
            else:
                self._lines.leave(place)
            woken = self._advance(place.keys)
        _call(woken)

    def was_only_here(self, uid: str, request: LeaveTurn) -> bool:
        """Whether the store need not be told: who leaves its queue has only stood in line here."""
        with self._lock:
            if request.ticket or (uid, request.name) not in self._only_here:
                return False
            self._only_here.remove((uid, request.name))
            return True

    def failed(self, uid: str, request: TakeTurn) -> None:
        """The store did not answer somebody who joined."""
        self._arrived(uid, request.keys, 0)

    def answered(self, uid: str, request: Request[object], answer: Any) -> None:
        """Note what became of a request: somebody joined a queue, or left it."""
        if isinstance(request, TakeTurn):
            if not request.ticket:
                self._arrived(uid, request.keys, answer.ticket)
            elif not answer.ticket:
                self._left(uid, request.ticket)
            with self._lock:
                for key in request.keys:
                    self._lines.heard((uid, key))
            if answer.ticket and not answer.ahead:
                self._passed_by(uid, request.keys, answer.ticket)
        elif isinstance(request, Commit):
            if request.plan.ticket and isinstance(answer, Committed):
                self._left(uid, request.plan.ticket)
        elif isinstance(request, LeaveTurn) or (
            isinstance(request, TakeLease) and request.ticket and answer.granted
        ):
            self._left(uid, request.ticket)

    def behind(self, uid: str, ticket: int, wake: Wake) -> int:
        """Return how many wait here before a ticket; call `wake` when nobody does any more."""
        with self._lock:
            keys = self._keys.get((uid, ticket), ())
            before = max((bisect_left(self._queues[uid, key], ticket) for key in keys), default=0)
            if before:
                self._wake[uid, ticket] = wake
            return before

    def awake(self, uid: str, ticket: int) -> None:
        """Nobody needs to wake it any more."""
        with self._lock:
            self._wake.pop((uid, ticket), None)

    def _is_full(self, key: Key) -> bool:
        return len(self._queues.get(key, ())) + self._joins[key] >= MOST_TICKETS

    def _arrived(self, uid: str, keys: tuple[str, ...], ticket: int) -> None:
        """Somebody who was on its way has its ticket, or (0) will not have it."""
        queues = [(uid, key) for key in keys]
        with self._lock:
            self._joins.subtract(queues)
            if ticket and (uid, ticket) not in self._keys:
                self._keys[uid, ticket] = keys
                for queue in queues:
                    insort(self._queues.setdefault(queue, []), ticket)
            woken = self._advance(queues)
        _call(woken)

    def _passed_by(self, uid: str, keys: tuple[str, ...], ticket: int) -> None:
        """Forget those before who are there no more: their program was dropped as it was."""
        for key in keys:
            with self._lock:
                gone = [each for each in self._queues.get((uid, key), ()) if each < ticket]
            for each in gone:
                self._left(uid, each)

    def _left(self, uid: str, ticket: int) -> None:
        if not ticket:
            return
        with self._lock:
            woken: list[Wake | None] = []
            keys = [(uid, key) for key in self._keys.pop((uid, ticket), ())]
            for key in keys:
                queue = self._queues[key]
                del queue[bisect_left(queue, ticket)]
                if not queue:
                    del self._queues[key]
                elif queue[0] > ticket:
                    woken.append(self._wake.get((uid, queue[0])))
            woken += self._advance(keys)
        _call(woken)

    def _advance(self, keys: list[Key]) -> list[Wake | None]:
        """Let those in line go on for whom there is room; return how they are woken."""
        woken: list[Wake | None] = []
        keys = list(keys)
        while keys:
            key = keys.pop()
            while (first := self._lines.next(key)) is not None:
                self._go_on(first)
                woken.append(first.wake)
                keys += [each for each in first.keys if each != key]
            if not self._joins[key]:
                del self._joins[key]
        return woken

    def _go_on(self, first: InLine) -> None:
        self._lines.leave(first)
        self._joins.update(first.keys)
        first.going = True


def _call(woken: list[Wake | None]) -> None:
    for wake in woken:
        if wake is not None:
            wake()


def of_a_queue(request: Request[object]) -> bool:
    """Whether a request joins a queue, waits or is answered in one, or leaves it."""
    if isinstance(request, Commit):
        return request.plan.ticket != 0
    return isinstance(request, _OF_A_QUEUE)


_OF_A_QUEUE = (TakeTurn, LeaveTurn, TakeLease, Pause)
WAITERS = Waiters()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WAITERS.start_anew)


def stand(uid: str, request: TakeTurn) -> float:
    """Stand in line here, in a thread, until it may join the store's queue; return for how long.

    Raises OutOfTime after the seconds that the request gives.
    """
    began, woken = time.monotonic(), threading.Event()
    place = WAITERS.enter(uid, request, woken.set)
    if place is None:
        return 0.0
    try:
        while not place.going:
            woken.wait(_until_look(place, request, began))
            WAITERS.look(place)
    except BaseException as problem:
        WAITERS.leave_line(uid, request, place, gives_up=_gives_up(problem))
        raise
    return time.monotonic() - began


async def stand_async(uid: str, request: TakeTurn) -> float:
    """The same in a task."""
    import asyncio  # only here: who works with threads does not pay for it

    began, woken = time.monotonic(), asyncio.Event()
    place = WAITERS.enter(uid, request, _waking(woken))
    if place is None:
        return 0.0
    try:
        while not place.going:
            await _wait(woken, _until_look(place, request, began))
            WAITERS.look(place)
    except BaseException as problem:
        WAITERS.leave_line(uid, request, place, gives_up=_gives_up(problem))
        raise
    return time.monotonic() - began


def pause(uid: str, request: Pause) -> bool:
    """Wait in a thread, where others wait here before the ticket; say whether that was so."""
    woken = threading.Event()
    before = WAITERS.behind(uid, request.ticket, woken.set)
    if before:
        woken.wait(_seconds(request, before))
        WAITERS.awake(uid, request.ticket)
    return before > 0


async def pause_async(uid: str, request: Pause) -> bool:
    """The same in a task."""
    import asyncio

    woken = asyncio.Event()
    before = WAITERS.behind(uid, request.ticket, _waking(woken))
    if before:
        try:
            await _wait(woken, _seconds(request, before))
        finally:
            WAITERS.awake(uid, request.ticket)
    return before > 0


def _waking(woken: asyncio.Event) -> Wake:
    import asyncio

    loop = asyncio.get_running_loop()

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(woken.set)

    return wake


async def _wait(woken: asyncio.Event, seconds: float) -> None:
    import asyncio

    try:
        async with asyncio.timeout(seconds):
            await woken.wait()
    except TimeoutError:
        pass


def _until_look(place: InLine, request: TakeTurn, began: float) -> float:
    if request.most is None:
        return place.look_after
    left = request.most - (time.monotonic() - began)
    if left <= 0:
        raise OutOfTime(MOST_TICKETS + place.ahead)
    return min(left, place.look_after)


def _gives_up(problem: BaseException) -> bool:
    """Whether the protocol will ask to leave the queue: it does where it is interrupted."""
    return not isinstance(problem, OutOfTime | GeneratorExit)


def _seconds(request: Pause, before: int) -> float:
    return max(request.seconds, min(before * _EACH, request.most))
