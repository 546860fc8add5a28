"""Consumer groups under threads, deaths and interruptions: nothing is lost, keys stay in order."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from interlock.core.requests import ReadGroup
from tests.contract.test_consumer_groups import SHORT, add, dying, keys, taken
from tests.facades import Facades

pytestmark = [pytest.mark.interlock_needs("groups")]


def test_keys_stay_in_order_whoever_handles_them(facades: Facades) -> None:
    """Four consumers that take, die and forget at random: each key's first handling is in order."""
    space = facades.open(durability="off")
    chance, handled = random.Random(20261121), list[tuple[str, int]]()
    add(space, *(f"k/{n % 7}" for n in range(120)))
    consumers = [dying(space, f"w{n}") for n in range(4)]
    while len({position for _, position in handled}) < 120:
        group = chance.choice(consumers)
        for delivery in group.take(chance.randint(1, 9)):
            handled.append((delivery.entry.key, delivery.entry.position))
            if chance.random() < 0.6:
                group.ack(delivery)
        if chance.random() < 0.1:
            threading.Event().wait(SHORT)
    for key in {key for key, _ in handled}:
        first = list(dict.fromkeys(position for each, position in handled if each == key))
        assert first == sorted(first), key


def test_four_threads_handle_each_key_in_order(facades: Facades) -> None:
    other = facades.peer("other")
    count, writers = 200, 5
    add(other, *(f"k/{n % writers}" for n in range(count)))
    handled: list[tuple[str, int]] = []
    running, lock = set[str](), threading.Lock()

    def work(name: str) -> None:
        with facades.peer(name) as mine, mine.group("g") as group:
            while len(handled) < count:
                for delivery in group.take(3, wait=0.05):
                    key = delivery.entry.key
                    with lock:
                        assert key not in running, "two consumers at once"
                        running.add(key)
                    threading.Event().wait(0.0005)
                    with lock:
                        running.discard(key)
                        handled.append((key, delivery.entry.position))
                    assert group.ack(delivery) == 1

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, f"w{n}") for n in range(4)]:
            done.result()
    assert sorted(position for _, position in handled) == list(range(1, count + 1))
    for n in range(writers):
        positions = [position for key, position in handled if key == f"k/{n}"]
        assert positions == sorted(positions)
    assert other.group("g").pending() == []


def test_an_ack_of_what_was_claimed_and_not_delivered_yet_does_not_count(space: Any) -> None:
    add(space, "a", "a")
    dead, heir = dying(space, "dead"), space.group("g", consumer="heir")
    _, second = dead.take()
    (first,) = taken(heir, 1)
    assert dead.ack(second) == 0
    assert heir.ack(first) == 1
    assert [(d.entry, d.deliveries) for d in heir.take()] == [(second.entry, 2)]


class Interrupted(BaseException):
    """As a KeyboardInterrupt or a cancelled task."""


class Interrupting:
    """A backend whose next ReadGroup is carried out, and interrupted before its answer comes."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._left = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def perform(self, request: Any) -> Any:
        answer = self._backend.perform(request)
        self._interrupt(request)
        return answer

    async def perform_async(self, request: Any) -> Any:
        answer = await self._backend.perform_async(request)
        self._interrupt(request)
        return answer

    def _interrupt(self, request: Any) -> None:
        if isinstance(request, ReadGroup) and self._left:
            self._left = 0
            raise Interrupted


def test_what_was_given_when_taking_was_interrupted_comes_again(space: Any) -> None:
    add(space, "a", "b")
    group = space.group("g")
    assert keys(group.take(1)) == ["a"]
    driver = space.session.driver
    driver.backend = Interrupting(driver.backend)
    with pytest.raises(Interrupted):
        group.take()
    assert [(d.entry.key, d.deliveries) for d in group.take()] == [("a", 2), ("b", 2)]
