"""Workers that are stopped at any moment, replaced and woken: nothing stale ever lands."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import interlock
from tests.processes.writers import FORKSERVER, SPAWN, disagreements, preload

preload(__name__)
ROUNDS, WORKERS, TTL = 100, 4, 0.06


class Stalling:
    """A backend around every request of which the process may be stopped."""

    def __init__(self, backend: Any, pipe: Connection, seed: int) -> None:
        self._backend = backend
        self._pipe = pipe
        self._chance = random.Random(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def perform(self, request: Any) -> Any:
        self._maybe_stop()
        try:
            return self._backend.perform(request)
        finally:
            self._maybe_stop()

    def _maybe_stop(self) -> None:
        if self._chance.random() < 0.06:
            self._pipe.send("stopped")
            os.kill(os.getpid(), signal.SIGSTOP)


def work(url: str, name: str, seed: int, pipe: Connection) -> None:
    """Hold the lease for a few writes, again and again; say when a write was fenced."""
    space = interlock.open(url, agent=name)
    driver: Any = space.session.driver
    driver.backend = Stalling(driver.backend, pipe, seed)
    while True:
        try:
            with space.lease("job", TTL) as lease:
                for _ in range(3):
                    lease.write({"epoch": lease.epoch, "by": name})
        except interlock.Fenced:
            pipe.send("fenced")


def test_a_hundred_zombies_and_no_stale_write(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'zombies.db'}"
    with interlock.open(url, rules={"job": interlock.leased()}):
        pass
    workers: dict[Any, Any] = {}
    for number in range(WORKERS):
        mine, theirs = SPAWN.Pipe(duplex=False)
        worker = SPAWN.Process(target=work, args=(url, f"w{number}", number, theirs), daemon=True)
        worker.start()
        theirs.close()
        workers[mine] = worker
    chance = random.Random(20261121)
    stopped: dict[int, float] = {}  # pid: when to wake it
    stalls = fenced = 0
    try:
        while stalls < ROUNDS:
            for pipe in wait(list(workers), timeout=0.005):
                assert isinstance(pipe, Connection)
                if pipe.recv() == "fenced":
                    fenced += 1
                else:
                    stalls += 1
                    pause = chance.uniform(0, 3 * TTL)
                    stopped[workers[pipe].pid] = time.monotonic() + pause
            for pid in [pid for pid, due in stopped.items() if due <= time.monotonic()]:
                # It tells before it stops; woken before it has, it would sleep forever.
                if os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG) is not None:
                    del stopped[pid]
                    os.kill(pid, signal.SIGCONT)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.join()
    with interlock.open(url) as space:
        entries = list(space.history("job"))
        assert disagreements(space) == []
        assert space.lease("job", 30, wait=10).acquire().epoch > entries[-1].epoch
    epochs = [entry.epoch for entry in entries]
    assert epochs == sorted(epochs), "a write at an older epoch landed after a newer one"
    assert all(entry.value == {"epoch": entry.epoch, "by": entry.agent} for entry in entries)
    assert fenced > 0, "no zombie tried to write: the test shows nothing"
    assert len(set(epochs)) > 10


def add_findings(url: str, number: int, count: int, gate: Any) -> None:
    # A hundred write at once, and may wait for long on a busy machine.
    with interlock.open(url, agent=f"a{number}", busy_timeout=240) as space:
        gate.wait()
        for n in range(count):
            space.append("findings", f"{number}/{n}")


def test_a_hundred_processes_add_twenty_findings_each(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'findings.db'}"
    agents, each = 100, 20
    with interlock.open(url, rules={"findings": interlock.merged("append")}) as space:
        gate = FORKSERVER.Barrier(agents)
        running = [
            FORKSERVER.Process(target=add_findings, args=(url, number, each, gate))
            for number in range(agents)
        ]
        for process in running:
            process.start()
        for process in running:
            process.join()
            assert process.exitcode == 0
        record = space.read("findings")
        assert record.version == agents * each
        assert sorted(record.value) == sorted(
            f"{a}/{n}" for a in range(agents) for n in range(each)
        )
        assert [entry.value for entry in space.history("findings")] == record.value
        assert space.read("findings") == record, "the same from the fold that was kept"
