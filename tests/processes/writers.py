"""What several tests run in processes, and how they start them and look at what came of it."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import interlock

SPAWN = multiprocessing.get_context("spawn")
FORKSERVER = multiprocessing.get_context("forkserver")
_PRELOADED = [
    __name__,
    *(f"interlock.backends.{kind}" for kind in ("sqlite", "postgres", "redis")),
    *("interlock.cli", "interlock.verify.simulate.runner"),
]
KEYS = [f"shared/{n}" for n in range(3)]


def preload(*modules: str) -> None:
    """Have the processes of `FORKSERVER` begin with these modules, too: importing takes longer
    than most of what they do.  There is one server; what is asked for once it runs comes too late.
    """
    _PRELOADED.extend(modules)
    FORKSERVER.set_forkserver_preload(_PRELOADED)


preload()


class Place(NamedTuple):
    """A space in a store, as other processes open it."""

    url: str
    space: str


def together(
    target: Callable[..., None], number: int, *arguments: Any, context: Any = FORKSERVER
) -> list[Any]:
    """Run `target(*arguments, index, gate, answers)` in processes that start at one moment."""
    gate, answers = context.Barrier(number), context.SimpleQueue()
    agents = [
        context.Process(target=target, args=(*arguments, index, gate, answers))
        for index in range(number)
    ]
    for agent in agents:
        agent.start()
    found = [answers.get() for _ in agents]
    for agent in agents:
        agent.join()
        assert agent.exitcode == 0
    return found


def write_for_ever(url: str, name: str, seed: int, acknowledge: Connection) -> None:
    """Contribute until killed, acknowledging each through the pipe before going on: updates,
    transactions over two keys, plain writes.

    Without turns, so that a round need not wait for the ticket of a writer that died.
    """
    chance = random.Random(seed)
    space = interlock.open(url, agent=name)
    number = 0
    while True:
        item = f"{name}:{number}"
        number += 1
        _contribute(space, chance, item)
        acknowledge.send(item)


def _contribute(space: interlock.Space, chance: random.Random, item: str) -> None:
    def add(items: list[str]) -> list[str]:
        return [*items, item][-500:]

    kind = chance.choice(["update", "transaction", "write"])
    if kind == "update":
        space.update(chance.choice(KEYS), add, default=[], attempts=1000, turns="never")
    elif kind == "write":
        space.create(f"own/{item}", item)
    else:
        first, second = chance.sample(KEYS, 2)

        def both(tx: Any) -> None:
            for key in (first, second):
                record = tx.read(key)
                tx.write(record, add(record.value or []))

        space.transact(both, attempts=1000, turns="never")


def disagreements(space: interlock.Space) -> list[str]:
    """Return where log and records disagree: gaps, versions that jump, a fold that differs."""
    found: list[str] = []
    versions: dict[str, int] = {}
    state: dict[str, Any] = {}
    for expected, entry in enumerate(space.log(), start=1):
        if entry.position != expected:
            found.append(f"position {expected} is missing")
        if entry.key.startswith("$"):
            continue  # the library's own keys are not scanned
        if entry.version != versions.get(entry.key, 0) + 1:
            found.append(f"{entry.key} jumps to version {entry.version}")
        versions[entry.key] = entry.version
        if entry.kind == "append":
            state[entry.key] = [*state.get(entry.key, []), entry.value]
        else:
            state[entry.key] = entry.value
    records = space.scan()
    if {key: r.value for key, r in records.items()} != state:
        found.append("the fold of the log is not what the records hold")
    if {key: r.version for key, r in records.items()} != versions:
        found.append("the versions of log and records differ")
    return found
