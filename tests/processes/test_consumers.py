"""`kill -9` and SIGSTOP of random consumers: nothing is left out, and each key stays in order."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import interlock
from tests.processes.writers import FORKSERVER, Place, preload

preload(__name__)
CONSUMERS, KEYS, ROUNDS, TTL = 4, 6, 40, 0.15
MOST = 400  # rounds, until somebody was killed with its work done and not acknowledged


def consume(place: Place, name: str, handled: str) -> None:
    """Handle entries until killed: add a line to a file, then acknowledge."""
    chance = random.Random(name)
    file = os.open(handled, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with (
        interlock.open(place.url, space=place.space, agent=name) as space,
        space.group("g", ttl=TTL) as group,
    ):
        for delivery in group:
            entry = delivery.entry
            threading.Event().wait(chance.uniform(0, 0.006))  # its work
            os.write(file, f"{entry.key} {entry.position} {name}\n".encode())
            threading.Event().wait(chance.uniform(0, 0.006))  # here it dies with its work done
            group.ack(delivery)


def lines(handled: Path) -> list[tuple[str, int]]:
    """Return the key and the position of every handling, in order; a torn line is none."""
    whole = handled.read_text().rpartition("\n")[0].splitlines()
    return [(line.split()[0], int(line.split()[1])) for line in whole]


def twice(found: list[tuple[str, int]]) -> bool:
    """Whether an entry was handled by two."""
    return len(found) > len(set(found))


def at_work(handled: Path, seconds: float) -> str:
    """Return who has handled an entry just now and not acknowledged it, most likely; "" where
    nobody does."""
    before, over = handled.stat().st_size, threading.Event()
    for _ in range(int(seconds / 0.001)):
        if handled.stat().st_size > before:
            return handled.read_text().rpartition("\n")[0].split()[-1]
        over.wait(0.001)
    return ""


def test_every_entry_is_handled_in_order_whoever_dies(place: Place, tmp_path: Path) -> None:
    chance, handled = random.Random(20261121), tmp_path / "handled"
    running: dict[str, Any] = {}
    stopped: dict[str, threading.Timer] = {}  # it may hold the write lock: a thread must wake it

    def start(name: str) -> None:
        arguments = (place, name, str(handled))
        running[name] = FORKSERVER.Process(target=consume, args=arguments, daemon=True)
        running[name].start()

    try:
        options: dict[str, Any] = {"agent": "writer", "durability": "normal"}
        with interlock.open(place.url, space=place.space, **options) as space:
            handled.touch()
            for n in range(CONSUMERS):
                start(f"w{n}")
            for blow in range(MOST):
                if blow >= ROUNDS and twice(lines(handled)):
                    break
                for _ in range(chance.randrange(5, 30)):
                    space.update(f"k/{chance.randrange(KEYS)}", lambda n: n + 1, default=0)
                busy = at_work(handled, TTL / 2) if chance.random() < 0.5 else ""
                if not busy:
                    threading.Event().wait(chance.uniform(0, TTL / 2))
                stopped = {name: timer for name, timer in stopped.items() if timer.is_alive()}
                whole = running.keys() - stopped.keys()
                name = busy if busy in whole else chance.choice(sorted(whole))
                if len(stopped) < 2 and chance.random() < 0.4:
                    os.kill(running[name].pid, signal.SIGSTOP)
                    wake = (running[name].pid, signal.SIGCONT)
                    stopped[name] = threading.Timer(chance.uniform(0, 3 * TTL), os.kill, wake)
                    stopped[name].start()
                else:
                    running.pop(name).kill()
                    start(name if chance.random() < 0.5 else f"heir{blow}")
            group, written = space.group("g"), space.position()
            for _ in range(1500):
                info = group.info()
                if info.cursor == written and not info.pending:
                    break
                threading.Event().wait(0.02)
            assert group.pending() == [], "what dead consumers had is not handled"
    finally:
        for timer in stopped.values():
            timer.join()
        for process in running.values():
            process.kill()
            process.join()
    found = lines(handled)
    assert {position for _, position in found} == set(range(1, written + 1))
    assert twice(found), "nothing was handled twice: nobody was killed in the middle"
    for n in range(KEYS):
        first = list(dict.fromkeys(position for key, position in found if key == f"k/{n}"))
        assert first == sorted(first), f"k/{n} was handled out of order"
