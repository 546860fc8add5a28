"""Signals: Ctrl-C while committing, SIGSTOP and SIGKILL of the agent that others wait for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.core.requests import Load
from tests.processes.writers import disagreements

SPAWN = multiprocessing.get_context("spawn")


def think_in_turn(url: str, pipe: Any) -> None:
    """Take the turn for `k`, say so, and think until told to go on."""
    with interlock.open(url, agent="thinker") as space:

        def think(value: Any) -> Any:
            pipe.send("thinking")
            pipe.recv()
            return f"{value} thinker"

        record = space.update("k", think, turns="always")
        pipe.send(record.value)


def wait_in_queue(url: str, pipe: Any) -> None:
    with interlock.open(url, agent="waiter") as space:
        pipe.send("here")
        record = space.update("k", lambda value: f"{value} waiter", turns="always")
        pipe.send(record.value)


def started(target: Any, url: str) -> tuple[Any, Any]:
    mine, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(url, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, mine


def queue_of(space: interlock.Space, number: int, key: str = "k") -> None:
    """Wait until `number` agents stand in the queue of `key`."""
    while space.session.driver.backend.perform(Load((key,))).queued.get(key, 0) < number:
        threading.Event().wait(0.01)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_an_agent_that_dies_in_its_turn_is_passed_over(tmp_path: Path, blow: int) -> None:
    url = f"sqlite:///{tmp_path / 'turns.db'}"
    with interlock.open(url, agent="us") as space:
        space.create("k", "start")
        thinker, pipe = started(think_in_turn, url)
        assert pipe.recv() == "thinking"
        waiter, other = started(wait_in_queue, url)
        assert other.recv() == "here"
        queue_of(space, 2)
        os.kill(thinker.pid, blow)
        assert other.recv() == "start waiter", "the queue goes on without the dead agent"
        waiter.join()
        if blow == signal.SIGSTOP:  # it wakes, and what it thought about is gone: it thinks again
            pipe.send("go on")
            os.kill(thinker.pid, signal.SIGCONT)
            assert pipe.recv() == "thinking"
            pipe.send("go on")
            assert pipe.recv() == "start waiter thinker"
        thinker.kill()
        thinker.join()
        assert disagreements(space) == []


def test_an_agent_that_dies_waiting_is_passed_over(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'turns.db'}"
    with interlock.open(url, agent="us") as space:
        space.create("k", "start")
        thinker, pipe = started(think_in_turn, url)
        assert pipe.recv() == "thinking"
        victim, first = started(wait_in_queue, url)
        assert first.recv() == "here"
        queue_of(space, 2)
        waiter, second = started(wait_in_queue, url)
        assert second.recv() == "here"
        queue_of(space, 3)
        victim.kill()
        victim.join()
        pipe.send("go on")
        assert pipe.recv() == "start thinker"
        assert second.recv() == "start thinker waiter"
        for process in (thinker, waiter):
            process.join()


def wait_for_lease(url: str, pipe: Any) -> None:
    with interlock.open(url, agent="waiter") as space:
        pipe.send("here")
        with space.lease("k", 30) as lease:
            pipe.send(lease.epoch)
            pipe.recv()


def test_who_waits_for_a_lease_and_dies_is_passed_over(tmp_path: Path) -> None:
    """And so is who holds it and dies."""
    url = f"sqlite:///{tmp_path / 'leases.db'}"
    with interlock.open(url, agent="us") as space:
        agents = []
        with space.lease("k", 30) as lease:
            for number in range(3):
                process, pipe = started(wait_for_lease, url)
                assert pipe.recv() == "here"
                queue_of(space, number + 1, "$lease/k")
                agents.append((process, pipe))
            agents[0][0].kill()
            agents[0][0].join()
        assert agents[1][1].recv() == lease.epoch + 1
        assert space.reclaim("k").epoch == lease.epoch + 2  # the supervisor saw it die
        agents[1][0].kill()
        agents[1][0].join()
        assert agents[2][1].recv() == lease.epoch + 3
        agents[2][1].send("done")
        agents[2][0].join()
        assert disagreements(space) == []


def commit_until_interrupted(url: str, pipe: Any) -> None:
    """Acknowledge each commit; Ctrl-C comes at any moment, and the space stays usable."""
    space = interlock.open(url, agent="typist")
    acknowledged, number = [], 0
    try:
        while True:
            space.create(f"k/{number}", number)
            acknowledged.append(number)
            number += 1
            if number == 1:
                pipe.send("started")
    except KeyboardInterrupt:
        pass
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    space.update("afterwards", lambda n: n + 1, default=0)
    pipe.send(acknowledged)
    space.close()


def test_ctrl_c_while_committing_leaves_nothing_half_done(tmp_path: Path) -> None:
    for round_number in range(8):
        url = f"sqlite:///{tmp_path / f'{round_number}.db'}"
        process, pipe = started(commit_until_interrupted, url)
        assert pipe.recv() == "started"
        threading.Event().wait(0.003 * round_number)
        os.kill(process.pid, signal.SIGINT)
        acknowledged = pipe.recv()
        process.join()
        assert process.exitcode == 0
        with interlock.open(url) as space:
            kept = len(space.scan("k/"))
            assert len(acknowledged) <= kept <= len(acknowledged) + 1
            assert space.read("afterwards").value == 1
            assert disagreements(space) == []
