"""Only a few waiters of a process stand in the store's queue of a key; the others in line here."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import interlock
from interlock.backends import waiters
from interlock.backends.waiters import MOST_TICKETS, WAITERS, Waiters
from interlock.core.records import Committed, Snapshot
from interlock.core.refusals import QUEUE
from interlock.core.requests import Commit, LeaveTurn, Place, TakeLease, TakeTurn

MANY = 60
NOTHING = Snapshot(0, 0, {}, {}, {})


class Asked:
    """A backend that notes who joined a queue, and how many tickets are in the store at once."""

    def __init__(self, backend: Any) -> None:
        self.backend, self.uid = backend, backend.uid
        self.requests: list[Any] = []
        self.tickets: set[int] = set()
        self.most = 0

    @property
    def joined(self) -> list[str]:
        """The names of the turns that were asked of the store, in order."""
        asked = [each for each in self.requests if isinstance(each, TakeTurn)]
        return [each.name.partition("/")[0] for each in asked if not each.ticket]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def perform(self, request: Any) -> Any:
        """Answer one request."""
        answer = self.backend.perform(request)
        self._note(request, answer)
        return answer

    async def perform_async(self, request: Any) -> Any:
        """The same in a task."""
        answer = await self.backend.perform_async(request)
        self._note(request, answer)
        return answer

    def _note(self, request: Any, answer: Any) -> None:
        self.requests.append(request)
        if isinstance(request, TakeTurn) and not request.ticket:
            self.tickets.add(answer.ticket)
            self.most = max(self.most, len(self.tickets))
        elif isinstance(request, Commit) and isinstance(answer, Committed):
            self.tickets.discard(request.plan.ticket)
        elif isinstance(request, LeaveTurn) or (isinstance(request, TakeLease) and answer.granted):
            self.tickets.discard(request.ticket)


class Full:
    """A space in which as many as may stand in the queue of 'k', and the first of them thinks."""

    def __init__(self, space: interlock.AsyncSpace) -> None:
        self.space = space
        self.asked = Asked(space.session.driver.backend)
        space.session.driver.backend = self.asked
        self.go_on = asyncio.Event()
        self.tasks = [self.update(f"first-{n}", self._think) for n in range(MOST_TICKETS)]

    def update(self, op_id: str, fn: Any = lambda n: n + 1, **limits: Any) -> asyncio.Task[Any]:
        """Somebody who waits for a turn."""
        work = self.space.update("k", fn, default=0, turns="always", op_id=op_id, **limits)
        return asyncio.create_task(work)

    def in_line(self) -> int:
        """How many stand in line for 'k'."""
        return len(WAITERS._lines._lines.get((self.asked.uid, "k"), ()))

    async def _think(self, value: int) -> int:
        await self.go_on.wait()
        return value + 1


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def full() -> AsyncIterator[Full]:
    async with interlock.open_async("sqlite://", space="s", agent="a") as space:
        it = Full(space)
        await until(lambda: len(it.asked.joined) == MOST_TICKETS)
        try:
            yield it
        finally:
            it.go_on.set()
            await asyncio.gather(*it.tasks)
        assert not it.in_line()
        assert not it.asked.tickets
        assert not WAITERS._only_here


async def test_few_tasks_of_many_stand_in_the_queue_of_the_store_first_come_first_served() -> None:
    async with full() as it:
        others = []
        for n in range(MANY):
            others.append(it.update(f"op-{n}"))
            await until(lambda n=n: it.in_line() == n + 1)  # type: ignore[misc]  # a lambda with a default
        it.go_on.set()
        await asyncio.gather(*others, *it.tasks)
        assert it.asked.most == MOST_TICKETS
        done = [entry.op_id async for entry in it.space.log()][MOST_TICKETS:]
        assert done == it.asked.joined[MOST_TICKETS:] == [f"op-{n}" for n in range(MANY)]


async def test_thousands_that_come_at_once_ask_the_store_for_nothing_while_they_stand_in_line() -> (
    None
):
    async with full() as it:
        before = len(it.asked.requests)
        work = (it.space.update("k", lambda n: n + 1, turns="always") for _ in range(MANY))
        others = [asyncio.create_task(each) for each in work]
        await until(lambda: it.in_line() == MANY)
        asked = [each for each in it.asked.requests[before:] if not isinstance(each, TakeTurn)]
        assert asked == []
        it.go_on.set()
        await asyncio.gather(*others)


async def test_patience_ends_who_stands_in_line_and_the_store_is_not_asked() -> None:
    async with full() as it:
        with pytest.raises(interlock.Contended, match=f"{MOST_TICKETS} ahead"):
            await it.update("short", patience=0.01)
        assert it.in_line() == 0
        assert "short" not in it.asked.joined


async def test_a_cancelled_task_leaves_the_line_and_the_store_is_not_asked() -> None:
    async with full() as it:
        gone = it.update("gone")
        await until(lambda: it.in_line() == 1)
        next_one = it.update("next")
        await until(lambda: it.in_line() == 2)
        gone.cancel()
        await asyncio.wait([gone])
        assert gone.cancelled()
        assert it.in_line() == 1
        assert not any(isinstance(each, LeaveTurn) for each in it.asked.requests)
        it.go_on.set()
        await next_one
        assert "gone" not in it.asked.joined


async def test_who_holds_something_joins_the_queue_of_the_store_at_once() -> None:
    """Only the store sees a cycle of waits."""
    async with full() as it:
        async with it.space.lease("other"):
            holder = it.update("holder")
            await until(lambda: "holder" in it.asked.joined)
        it.go_on.set()
        await holder


def test_threads_stand_in_line_for_a_lease_and_wait_limits_it() -> None:
    with interlock.open("sqlite://", space="s", agent="a") as space:
        asked = Asked(space.session.driver.backend)
        space.session.driver.backend = asked
        came: list[int] = []
        refused: list[interlock.Held] = []

        def work(n: int) -> None:
            with space.lease("k", ttl=30):
                came.append(n)

        def give_up() -> None:
            try:
                space.lease("k", ttl=30, wait=0.01).__enter__()
            except interlock.Held as held:
                refused.append(held)

        def in_line() -> int:
            return len(WAITERS._lines._lines.get((asked.uid, QUEUE + "k"), ()))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(2 * MOST_TICKETS)]
        with space.lease("k", ttl=30):
            for thread in threads:
                thread.start()
            while in_line() < MOST_TICKETS or len(asked.joined) < MOST_TICKETS:
                threads[0].join(0.001)
            short = threading.Thread(target=give_up)
            short.start()
            short.join()
            assert len(refused) == 1
            assert len(asked.joined) == MOST_TICKETS, "who gave up has not asked the store"
        for thread in threads:
            thread.join()
        assert sorted(came) == list(range(2 * MOST_TICKETS))
        assert asked.most == MOST_TICKETS
        assert not in_line()


class Here:
    """Who has joined the store's queue, and who was woken to do so."""

    def __init__(self) -> None:
        self.waiters = Waiters()
        self.numbers: Iterator[int] = iter(range(1, 1_000))
        self.woken: list[str] = []

    def come(self, name: str, *keys: str, holding: tuple[str, ...] = ()) -> waiters.InLine | None:
        """Let somebody come; one that need not stand in line has a ticket at once."""
        request = TakeTurn(keys or ("k",), name=name, agent="me", ttl=6.0, holding=holding)
        place = self.waiters.enter("uid", request, lambda: self.woken.append(name))
        if place is None:
            self.join(name, *keys)
        return place

    def join(self, name: str, *keys: str) -> int:
        """The store answers: a ticket."""
        request, ticket = (
            TakeTurn(keys or ("k",), name=name, agent="me", ttl=6.0),
            next(self.numbers),
        )
        self.waiters.answered("uid", request, Place(ticket, ticket, NOTHING))
        return ticket

    def leave(self, ticket: int) -> None:
        """Somebody gives up a ticket."""
        self.waiters.answered("uid", LeaveTurn(ticket), None)

    def fill(self, key: str) -> None:
        """As many come as may join."""
        assert [self.come("first", key) for _ in range(MOST_TICKETS)] == [None] * MOST_TICKETS


def test_one_goes_on_when_another_has_left_the_queue() -> None:
    here = Here()
    here.fill("k")
    assert here.come("a") is not None
    assert here.come("b") is not None
    here.leave(2)
    assert here.woken == ["a"], "and has not joined yet"
    here.leave(3)
    here.join("a")
    assert here.woken == ["a", "b"]


def test_who_could_not_join_makes_room() -> None:
    here = Here()
    here.fill("k")
    assert here.come("a") is not None
    assert here.come("b") is not None
    here.leave(2)
    here.waiters.failed("uid", TakeTurn(("k",), name="a", agent="me", ttl=6.0))
    assert here.woken == ["a", "b"]


def test_who_waits_for_two_keys_goes_on_when_it_is_first_in_both_lines() -> None:
    here = Here()
    here.fill("x")
    here.fill("y")
    assert here.come("both", "x", "y") is not None
    assert here.come("after", "y") is not None
    here.leave(MOST_TICKETS + 1)  # there is room for y
    assert here.woken == [], "nobody is served before who came first"
    here.leave(1)
    here.leave(MOST_TICKETS + 2)
    assert here.woken == ["both", "after"]


def test_who_goes_on_but_is_interrupted_makes_room() -> None:
    here = Here()
    here.fill("k")
    place = here.come("a")
    assert place is not None
    assert here.come("b") is not None
    here.leave(1)
    request = TakeTurn(("k",), name="a", agent="me", ttl=6.0)
    here.waiters.leave_line("uid", request, place, gives_up=True)
    assert here.woken == ["a", "b"]
    assert here.waiters.was_only_here("uid", LeaveTurn(0, "a"))
    assert not here.waiters.was_only_here("uid", LeaveTurn(0, "a"))


def test_the_line_goes_on_where_nothing_is_heard_of_those_in_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their programs were dropped as they were: nobody will ask for them."""
    here, now = Here(), [100.0]
    monkeypatch.setattr("interlock.backends.waiters.time.monotonic", lambda: now[0])
    here.fill("k")
    first, second = here.come("a"), here.come("b")
    assert first is not None
    assert second is not None
    now[0] += waiters.HELD_UP - 1
    renewed = TakeTurn(("k",), name="", agent="me", ttl=6.0, ticket=1)
    here.waiters.answered("uid", renewed, Place(1, 5, NOTHING))
    now[0] += waiters.HELD_UP - 1
    here.waiters.look(second)
    assert here.woken == [], "one of them has asked"
    now[0] += 2
    here.waiters.look(second)
    assert here.woken == ["a"]
    here.waiters.answered(
        "uid", TakeTurn(("k",), name="a", agent="me", ttl=6.0), Place(99, 0, NOTHING)
    )
    assert here.woken == ["a", "b"], "the store has passed the dead"
