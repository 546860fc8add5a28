"""Agents that are killed, stopped for long, or have a wrong clock: the store's word counts.

The same tests for PostgreSQL and Redis.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from typing import Any

import pytest

import interlock
from tests.processes.faults import RULES, Ledger, Work, check, contribute
from tests.processes.writers import FORKSERVER, preload

_numbers = itertools.count()
preload("psycopg_pool", __name__)
_YEAR = 365 * 24 * 3600


@pytest.fixture(params=["postgres", "redis"])
def store(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URL of a store, and the name of a space of the test's own in it."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url, f"clients-{os.getpid()}-{next(_numbers)}"


class Agent:
    """A process that runs `target(url, space, name, pipe)`."""

    def __init__(self, target: Any, store: tuple[str, str], name: str) -> None:
        self.pipe, theirs = FORKSERVER.Pipe()
        self.process = FORKSERVER.Process(target=target, args=(*store, name, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, word: str = "go on") -> Any:
        """Let it go on to its next answer."""
        self.pipe.send(word)
        return self.pipe.recv()

    def stop(self) -> None:
        """Stop it where it is."""
        assert self.process.pid
        os.kill(self.process.pid, signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on."""
        assert self.process.pid
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.join()


@pytest.fixture
def agents() -> Iterator[list[Agent]]:
    """The agents that a test starts, to be ended."""
    started: list[Agent] = []
    yield started
    for agent in started:
        agent.end()


# Killed


def contribute_until_killed(url: str, name: str, agent: str, pipe: Connection) -> None:
    """Contribute items, acknowledging each before going on."""
    chance = random.Random(agent)
    with interlock.open(url, name, agent) as space:
        for item in Work(0).items_of(agent, chance):
            contribute(space, chance, item, "never")
            pipe.send(item)


def test_agents_that_are_killed_leave_nothing_half_done(
    store: tuple[str, str], agents: list[Agent]
) -> None:
    url, name = store
    interlock.open(url, name, rules=RULES).close()
    chance, ledger = random.Random(20261121), Ledger()
    running = [Agent(contribute_until_killed, store, f"w{n}") for n in range(4)]
    agents.extend(running)
    for born in range(4, 8):
        for _ in range(chance.randrange(15, 40)):  # so many acknowledgements, then the kill
            for pipe in wait([agent.pipe for agent in running]):
                assert isinstance(pipe, Connection)
                ledger.acknowledged.add(pipe.recv())
        victim = running.pop(chance.randrange(len(running)))
        victim.end()
        with suppress(EOFError, OSError):  # what it was in the middle of is not acknowledged
            while victim.pipe.poll():
                ledger.acknowledged.add(victim.pipe.recv())
        agents.append(Agent(contribute_until_killed, store, f"w{born}"))
        running.append(agents[-1])
    for agent in running:
        agent.end()
    assert len(ledger.acknowledged) > 50
    check(url, name, ledger)


# Stopped


def hold(url: str, name: str, agent: str, pipe: Connection) -> None:
    """Hold a lease; write when asked, and tell what came of it."""
    with interlock.open(url, name, agent) as space:
        record = space.read("job")
        lease = space.lease("job", ttl=0.25).acquire()
        pipe.send((lease.epoch, lease.write("mine").version))
        for use in (
            lambda: lease.write("stale"),
            lambda: space.write(record, "older still"),
            lambda: lease.renew(),
            lambda: lease.release(),
        ):
            pipe.recv()
            try:
                use()
                pipe.send("done")
            except interlock.Refused as refused:
                pipe.send(type(refused).__name__)


def test_a_holder_that_sleeps_past_its_lease_is_fenced(
    store: tuple[str, str], agents: list[Agent]
) -> None:
    url, name = store
    agents.append(Agent(hold, store, "sleeper"))
    sleeper = agents[0]
    assert sleeper.pipe.recv() == (1, 1)
    with interlock.open(url, name, "successor") as space:
        sleeper.stop()
        with space.lease("job", ttl=30, wait=20) as lease:
            assert lease.epoch == 2
            sleeper.wake()
            assert sleeper.ask() == "Fenced", "the version has not moved, but the epoch has"
            assert sleeper.ask() == "Held", "nor may it write without a lease"
            assert lease.write("theirs").version == 2
            assert sleeper.ask() == "Fenced"
            assert sleeper.ask() == "done", "giving up what it has not got harms nobody"
            assert lease.write("theirs again").epoch == 2
        assert [entry.value for entry in space.history("job")] == ["mine", "theirs", "theirs again"]


# Wrong clocks


def live_in_another_year(url: str, name: str, agent: str, pipe: Connection) -> None:
    """Do as one is told, with a clock that is wrong by the years that `agent` names."""
    ahead, true, true_ns = int(agent) * _YEAR, time.time, time.time_ns
    time.time = lambda: true() + ahead
    time.time_ns = lambda: true_ns() + ahead * 1_000_000_000
    with interlock.open(url, name, agent) as space:
        first = space.create("k", 1)
        space.write(first, 2)
        with suppress(interlock.Conflict):
            space.write(first, 3)
        seen = space.at(time=first.at).read("k").value
        space.update("k", lambda n: n + 1, turns="always")
        refusals = [note.time_us / 1e6 for note in space.conflicts().refusals]
        lease = space.lease("report", ttl=30).acquire()
        pipe.send((first.at, seen, refusals, lease.epoch))
        pipe.recv()
        lease.release()
        pipe.send("released")
        pipe.recv()
        try:
            space.lease("report", ttl=30, wait=0).acquire()
        except interlock.Held as held:
            pipe.send(held.seconds)


@pytest.mark.parametrize("years", [10, -10])
def test_an_agent_whose_clock_is_wrong_by_years(
    store: tuple[str, str], agents: list[Agent], years: int
) -> None:
    url, name = store
    began = time.time()
    agents.append(Agent(live_in_another_year, store, str(years)))
    traveller = agents[0]
    first_at, seen, refusals, epoch = traveller.pipe.recv()
    assert abs(first_at.timestamp() - began) < 60
    assert seen == 1
    assert [round((each - began) / 60) for each in refusals] == [0]
    assert epoch == 1
    with interlock.open(url, name, "us") as space:
        with pytest.raises(interlock.Held) as held:
            space.lease("report", wait=0).acquire()
        assert 10 < held.value.seconds <= 30
        assert traveller.ask() == "released"
        with space.lease("report", ttl=30, wait=0) as lease:
            assert lease.epoch == 2
            assert 10 < traveller.ask() <= 30
        assert space.update("k", lambda n: n + 1, turns="always").value == 4
        times = [entry.at for entry in space.log()]
    assert times == sorted(times)
    assert abs((times[-1] - datetime.now(UTC)).total_seconds()) < 60
