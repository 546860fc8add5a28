"""Processes that are killed while they keep a projection, over a log that is trimmed meanwhile."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest

import interlock
from interlock.core import trim
from tests.processes.writers import FORKSERVER, Place, preload

preload(__name__)
ROUNDS, VIEWS = 12, 2


def totals(value: dict[str, int], entry: interlock.Entry) -> dict[str, int]:
    """The sum of what was contributed to each key; every entry counts once or it shows."""
    value[entry.key] = value.get(entry.key, 0) + entry.value
    return value


def opened(space: interlock.Space) -> interlock.Projection:
    return space.projection(totals, prefix="paid/", initial={}, name="totals", snapshot_every=3)


def follow(place: Place, told: Any) -> None:
    """Follow the log until killed, keeping the value every few positions."""
    with interlock.open(place.url, space=place.space, agent="viewer") as space:
        for value in opened(space):
            told.send(sum(value.values()))


def test_views_that_are_killed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trim, "KEPT_AT_LEAST", 0.0)
    chance = random.Random(20261121)
    rules = {"paid/*": interlock.merged("counter")}
    paid: dict[str, int] = {}
    with interlock.open(place.url, space=place.space, agent="desk", rules=rules) as space:
        for _ in range(ROUNDS):
            pipes = [FORKSERVER.Pipe(duplex=False) for _ in range(VIEWS)]
            views = [
                FORKSERVER.Process(target=follow, args=(place, theirs), daemon=True)
                for _, theirs in pipes
            ]
            for view in views:
                view.start()
            for mine, _ in pipes:
                assert mine.recv() == sum(paid.values())
            for _ in range(chance.randint(1, 30)):
                key, amount = f"paid/{chance.randint(0, 3)}", chance.randint(1, 9)
                space.append(key, amount)
                paid[key] = paid.get(key, 0) + amount
                if chance.random() < 0.2:
                    space.trim(keep=0)
            for view in views:
                assert view.pid is not None
                os.kill(view.pid, signal.SIGKILL)
                view.join()
            assert opened(space).refresh() == paid
        assert space.trim(keep=0).oldest > 1
        opened(space).drop()
        assert space.trim(keep=0).oldest == space.position() + 1
