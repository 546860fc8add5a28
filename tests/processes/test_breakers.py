"""Circuit breakers shared by processes that are killed, stopped, or whose clock is wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from itertools import pairwise
from typing import Any

import pytest

import interlock
from tests.processes.writers import FORKSERVER, Place, preload
from tests.servers.process import wait_until

preload(__name__)
HOSTS, ASYNC_HOST = 4, 3
OPTIONS: dict[str, Any] = {"failures": 3, "timeout": 1.0, "reset_after": 0.05, "refresh": 0.2}
HANGS: dict[str, Any] = {"failures": 1, "timeout": 0.5, "reset_after": 3600, "refresh": 0}
UP, DOWN, HANGING = 0, 1, 2
DAY = 86_400.0


class Service:
    """What the hosts call, in shared memory: it counts who is being served."""

    def __init__(self) -> None:
        self.mode = FORKSERVER.Value("i", UP)
        self.calls = FORKSERVER.Array("i", HOSTS)
        self.inside = FORKSERVER.Array("i", HOSTS)
        self.most = FORKSERVER.Value("i", 0)
        self.released = FORKSERVER.Value("i", -1)
        self.lock = FORKSERVER.Lock()

    def enter(self, host: int) -> None:
        with self.lock:
            self.calls[host] += 1
            self.inside[host] = 1
            self.most.value = max(self.most.value, sum(self.inside[:]))

    def hangs(self, host: int) -> bool:
        return bool(self.mode.value == HANGING and self.released.value != host)

    def leave(self, host: int) -> str:
        self.inside[host] = 0
        if self.mode.value == DOWN:
            raise OSError("the service is down")
        return "answered"

    def answer(self, host: int) -> str:
        self.enter(host)
        pause()
        while self.hangs(host):
            pause()
        return self.leave(host)

    async def answer_async(self, host: int) -> str:
        self.enter(host)
        try:
            await asyncio.to_thread(pause)
            while self.hangs(host):
                await asyncio.to_thread(pause)
        finally:
            self.inside[host] = 0
        return self.leave(host)


def pause() -> None:
    threading.Event().wait(0.003)


def host(place: Place, number: int, service: Service) -> None:
    """Call the service forever, through the breaker."""
    if not place.url.startswith("sqlite") and number < 2:  # whose clock is the store's
        wrong, real = (DAY, -DAY)[number], time.time
        time.time = lambda: real() + wrong
    if number == ASYNC_HOST:
        asyncio.run(async_host(place, number, service))
    with interlock.open(place.url, space=place.space, agent=f"h{number}") as space:
        breaker = space.breaker("service", **OPTIONS)
        while True:
            try:
                breaker.call(service.answer, number)
            except (OSError, interlock.BreakerOpen):
                pause()


async def async_host(place: Place, number: int, service: Service) -> None:
    async with interlock.open_async(place.url, space=place.space, agent=f"h{number}") as space:
        breaker = space.breaker("service", **OPTIONS)
        while True:
            try:
                await breaker.call(service.answer_async, number)
            except (OSError, interlock.BreakerOpen):
                await asyncio.to_thread(pause)


@pytest.fixture
def service() -> Service:
    return Service()


def moves(space: interlock.Space) -> list[interlock.Entry]:
    return [entry for entry in space.log(prefix="$breaker/") if entry.key == "$breaker/service"]


def claims(space: interlock.Space) -> int:
    return sum(entry.value["state"] == "half_open" for entry in moves(space))


def assert_it_moved_as_it_may(space: interlock.Space) -> None:
    """Only who probes closes or opens it, and nobody probes before it is due."""
    for before, after in pairwise(moves(space)):
        was, now = before.value, after.value
        if now["state"] == "half_open":
            assert was["state"] != "closed"
            assert after.time_us >= was["until_us"]
        elif was["state"] == "half_open":
            assert after.agent == was["probe"]


def hanging_probe(space: interlock.Space, service: Service, beside: tuple[int, ...] = ()) -> int:
    """Return the number of a synchronous host that probes and hangs."""

    def probing() -> bool:
        info = breaker.info()
        found.append(int(info.probe[1:]) if info.probe else -1)
        return found[-1] not in (-1, ASYNC_HOST, *beside) and service.inside[found[-1]] == 1

    breaker, found = space.breaker("service", **OPTIONS), [-1]
    wait_until(probing, "a synchronous host hangs in a probe")
    return found[-1]


def test_a_fleet_stops_at_once_and_probes_one_at_a_time(place: Place, service: Service) -> None:
    hosts = [
        FORKSERVER.Process(target=host, args=(place, n, service), daemon=True) for n in range(HOSTS)
    ]
    with interlock.open(place.url, space=place.space, agent="boss") as space:
        breaker = space.breaker("service", **OPTIONS)
        try:
            for process in hosts:
                process.start()
            wait_until(lambda: min(service.calls[:]) > 20, "every host calls")
            assert space.position() == 0, "what succeeds is not written"

            service.mode.value = DOWN
            wait_until(lambda: breaker.info().state != "closed", "it opens")
            threading.Event().wait(2 * OPTIONS["refresh"])  # all have looked again
            wait_until(lambda: breaker.info().state == "open", "the probe ends")
            before, calls = claims(space), sum(service.calls[:])
            service.most.value = 0
            wait_until(lambda: claims(space) >= before + 10, "ten probes")
            assert service.most.value == 1, "two probed at once"
            probed = sum(service.calls[:]) - calls
            assert abs(claims(space) - before - probed) <= 1, "calls are the probes, and no others"

            service.mode.value = HANGING
            dead = hanging_probe(space, service)
            hosts[dead].kill()
            hosts[dead].join()
            service.inside[dead] = 0
            zombie = hanging_probe(space, service, beside=(dead,))
            os.kill(hosts[zombie].pid or 0, signal.SIGSTOP)
            next_one = hanging_probe(space, service, beside=(dead, zombie))
            service.released.value = zombie
            os.kill(hosts[zombie].pid or 0, signal.SIGCONT)
            wait_until(lambda: service.inside[zombie] == 0, "the zombie wakes")
            entries = [entry.value["state"] for entry in moves(space)]
            assert "closed" not in entries[entries.index("open") :]
            assert len({dead, zombie, next_one}) == 3

            service.mode.value = UP
            wait_until(lambda: breaker.info().state == "closed", "it closes")
            calls_then = service.calls[:]
            living = [n for n in range(HOSTS) if n != dead]
            wait_until(
                lambda: all(service.calls[n] > calls_then[n] + 20 for n in living),
                "all who live call again",
            )
        finally:
            for process in hosts:
                process.kill()
                process.join()
        assert_it_moved_as_it_may(space)


def caller_that_hangs(place: Place) -> None:
    """Call, with plain functions, what never answers."""
    with interlock.open(place.url, space=place.space, agent="h0") as space:
        space.breaker("service", **HANGS).call(threading.Event().wait)


@pytest.mark.parametrize("then", ["hangs", signal.SIGSTOP])
def test_a_call_that_never_ends_opens_it_on_other_hosts(place: Place, then: Any) -> None:
    process = FORKSERVER.Process(target=caller_that_hangs, args=(place,), daemon=True)
    with interlock.open(place.url, space=place.space, agent="boss") as space:

        def refused() -> bool:
            try:
                breaker.call(lambda: None)
            except interlock.BreakerOpen as problem:
                return problem.reason.startswith("no answer to 'h0', overdue for ")
            return False

        breaker = space.breaker("service", **HANGS)
        try:
            process.start()
            wait_until(lambda: space.position() > 0, "the call is noted")
            if isinstance(then, signal.Signals):
                os.kill(process.pid or 0, then)
            wait_until(refused, "it is open here")
            counted = [entry.value["state"] for entry in moves(space)]
            assert counted == ["open"]
        finally:
            process.kill()
            process.join()
