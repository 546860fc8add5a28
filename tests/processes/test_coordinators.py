"""Coordinators that are killed, stopped and woken: each contribution is in the result once."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

import interlock
from interlock.core.requests import Load
from tests.processes.writers import FORKSERVER, Place, preload

preload(__name__)
WORKERS, EACH, TTL, BLOWS = 4, 300, 0.2, 16
LONGEST = 100  # looks at who coordinates while a zombie sleeps
SOURCE = "contrib/"


def opened(place: Place, agent: str, **options: Any) -> interlock.Space:
    return interlock.open(place.url, space=place.space, agent=agent, durability="normal", **options)


def contribute(place: Place, worker: int) -> None:
    """Add contributions; every tenth is sent twice, every seventh is not valid."""
    with opened(place, f"w{worker}") as space:
        for n in range(EACH):
            item = {"id": f"{worker}/{n}", "valid": n % 7 != 0}
            for _ in range(2 if n % 10 == 0 else 1):
                space.append(f"{SOURCE}w{worker}", item)
            threading.Event().wait(0.02)


def merge(value: list[str], contribution: Any) -> list[str]:
    threading.Event().wait(0.001)  # so that it is mostly here when it is killed
    return [*value, contribution["id"]]


def validate(contribution: Any) -> str | None:
    return None if contribution["valid"] else "not valid"


def coordinate(place: Place, name: str, told: Any) -> None:
    """Coordinate until killed; one that was replaced says so and stands by again."""
    with opened(place, name) as space:
        while True:
            boss = space.coordinator(
                "report", source=SOURCE, merge=merge, validate=validate, initial=[], ttl=TTL
            )
            try:
                for _ in boss:
                    pass
            except interlock.Fenced:
                told.put(name)


def holder(space: interlock.Space) -> str:
    """Return who coordinates now."""
    leases = space.session.driver.backend.perform(Load(("report/coordinator",))).leases
    return leases["report/coordinator"].holder if leases else ""


def at_work(space: interlock.Space, running: dict[str, Any], workers: list[Any]) -> str:
    """Return who coordinates now and has merged something, unless nothing more comes."""
    while True:
        assert any(each.is_alive() for each in running.values()), "all have died"
        name = holder(space)
        idle = not any(worker.is_alive() for worker in workers)
        if name in running and (idle or space.read("report/coordinator").writer == name):
            return name
        threading.Event().wait(0.005)


def test_each_contribution_is_merged_once_whoever_dies(place: Place) -> None:
    chance, told = random.Random(20261121), FORKSERVER.SimpleQueue()
    running: dict[str, Any] = {}

    def start(name: str) -> None:
        running[name] = FORKSERVER.Process(target=coordinate, args=(place, name, told), daemon=True)
        running[name].start()

    rules = {f"{SOURCE}*": interlock.merged("append")}
    with opened(place, "boss", rules=rules) as space:
        workers = [FORKSERVER.Process(target=contribute, args=(place, n)) for n in range(WORKERS)]
        try:
            for process in workers:
                process.start()
            start("c0")
            start("c1")
            for blow in range(BLOWS):
                name = at_work(space, running, workers)
                threading.Event().wait(chance.uniform(0, TTL / 2))
                pid = running[name].pid
                if blow % 3 == 0:  # a zombie: it sleeps until it is replaced
                    os.kill(pid, signal.SIGSTOP)
                    for _ in range(LONGEST):  # it may hold the write lock, and nobody can
                        if holder(space) != name:
                            break
                        threading.Event().wait(0.01)
                    os.kill(pid, signal.SIGCONT)
                else:
                    running.pop(name).kill()
                    start(f"heir{blow}")
            for process in workers:
                process.join()
            rest = space.coordinator(
                "report", source=SOURCE, merge=merge, validate=validate, initial=[]
            )
            for process in running.values():
                process.kill()
                process.join()
            progress = rest.catch_up()
        finally:
            for process in [*running.values(), *workers]:
                process.kill()
                process.join()
        everything = [(f"{w}/{n}", n % 7 != 0) for w in range(WORKERS) for n in range(EACH)]
        valid = sorted(name for name, good in everything if good)
        assert sorted(space.read("report").value) == valid
        kept = [record.value["contribution"]["id"] for record in space.scan(rest.rejected).values()]
        assert sorted(kept) == sorted(name for name, good in everything if not good)
        assert (progress.merged, progress.rejected) == (len(valid), len(everything) - len(valid))
        assert progress.duplicates == WORKERS * len(range(0, EACH, 10))
        holders = {entry.agent for entry in space.history("report/coordinator")}
        epochs = [entry.epoch for entry in space.history("report/coordinator")]
        assert epochs == sorted(epochs), "a commit at an older epoch landed after a newer one"
        assert len(holders) > 3, "nobody took over: the test shows nothing"
    assert not told.empty(), "no zombie was fenced: the test shows nothing"
