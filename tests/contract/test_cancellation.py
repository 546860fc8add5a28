"""A cancelled coroutine leaves nothing behind that others wait for, wherever it was cancelled.

Each scenario is cancelled at every await that it has, in each of the ways of `tests.cancellation`.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock import AsyncSpace
from interlock.core.requests import DropLease, TakeLease
from interlock.errors import AnswerLost
from tests.cancellation import AGAIN, EARLY, LATE, every_await, nothing_left

Scenario = Callable[[AsyncSpace, str], Awaitable[Any]]
WHOLE = {"a": 1, "b": 2}


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@asynccontextmanager
async def two_agents(url: str) -> AsyncIterator[tuple[AsyncSpace, AsyncSpace]]:
    """A space of a test's own, as the agent that is cancelled and another one see it."""
    name = f"cancel-{uuid.uuid4().hex[:8]}"
    async with (
        interlock.open_async(url, space=name, agent="us") as space,
        interlock.open_async(url, space=name, agent="other") as other,
    ):
        yield space, other


async def nobody_waits(other: AsyncSpace, key: str) -> None:
    """Check that another agent has the key to himself at once, as a lease and as a turn."""
    async with other.lease(key, ttl=30, wait=0):
        pass
    await other.update(key, lambda value: value, default={}, turns="always", patience=0)


async def leasing(space: AsyncSpace, key: str) -> None:
    async with space.lease(key, ttl=0.3) as lease:
        await lease.write(WHOLE)
        await asyncio.sleep(0)


async def leasing_several(space: AsyncSpace, key: str) -> None:
    async with space.leases([f"{key}/more", key], ttl=0.3) as leases:
        await leases.write(key, WHOLE)
        await leases.write(f"{key}/more", WHOLE)


async def updating(space: AsyncSpace, key: str) -> None:
    async def think(value: Any) -> Any:
        await asyncio.sleep(0)
        return WHOLE

    await space.update(key, think, turns="always")


async def updating_in_a_thread(space: AsyncSpace, key: str) -> None:
    await space.update(key, lambda value: WHOLE, turns="always")


async def transacting(space: AsyncSpace, key: str) -> None:
    async def both(tx: interlock.AsyncTx) -> None:
        record = await tx.read(key)
        await tx.write(record, WHOLE)
        await tx.create(f"{key}/more", WHOLE)

    await space.transact(both, turns="always")


async def in_a_transaction(space: AsyncSpace, key: str) -> None:
    async with space.transaction() as tx:
        await tx.write(await tx.read(key), WHOLE)
        await tx.create(f"{key}/more", WHOLE)


@pytest.mark.parametrize(
    ("scenario", "keys"),
    [
        (leasing, 1),
        (leasing_several, 0),
        (updating, 1),
        (updating_in_a_thread, 1),
        (transacting, 2),
        (in_a_transaction, 2),
    ],
)
async def test_cancelled_anywhere_nobody_waits_and_nothing_is_half(
    url: str, scenario: Scenario, keys: int
) -> None:
    async with two_agents(url) as (space, other):
        done = []
        async for key in every_await(lambda key: scenario(space, key), scenario.__name__):
            await nobody_waits(other, key)
            await nobody_waits(other, f"{key}/more")
            found = [record.value for record in (await other.scan(key)).values() if record.value]
            assert found in ([], [WHOLE] * keys) or not keys
            await nothing_left()
            done.append(bool(found))
        assert set(done) == {False, True}


async def test_a_lease_is_given_up_though_the_request_is_lost_and_cancelled(tmp_path: Path) -> None:
    async with two_agents(f"sqlite:///{tmp_path / 'store.db'}") as (space, other):
        perform, dropped = space.session.driver.backend.perform_async, False

        async def losing(request: Any) -> Any:
            nonlocal dropped
            if isinstance(request, TakeLease):
                taking.cancel()
            elif isinstance(request, DropLease) and not dropped:
                dropped = True
                taking.cancel()
                raise AnswerLost("nobody knows")
            return await perform(request)

        space.session.driver.backend.perform_async = losing  # type: ignore[method-assign]  # of this one only
        taking = asyncio.create_task(space.lease("key").acquire())
        await asyncio.wait([taking])
        assert taking.cancelled()
        await nobody_waits(other, "key")
        assert dropped


async def test_a_run_cancelled_anywhere_is_taken_up_at_once(url: str) -> None:
    calls: dict[str, int] = {}

    async def program(space: AsyncSpace, key: str) -> None:
        async def charge(idempotency_key: str) -> str:
            calls[idempotency_key] = calls.get(idempotency_key, 0) + 1
            return "paid"

        async def choose() -> str:
            await asyncio.sleep(0)
            return "12A"

        async with space.run(key, wait=0) as run:
            await run.step("choose", choose)
            run.result = await run.effect("charge", charge, key=key, in_doubt="skip")

    async with two_agents(url) as (space, other):
        ways = (EARLY, LATE, AGAIN)
        async for key in every_await(lambda key: program(space, key), "run", ways):
            await program(other, key)
            assert (await other.runs.show(key)).state == "Completed"
            await nothing_left()
        assert set(calls.values()) == {1}, "no effect was repeated"


async def test_a_consumer_cancelled_anywhere_keeps_nothing(url: str) -> None:
    async with two_agents(url) as (space, other):
        group = f"group-{uuid.uuid4().hex[:8]}"

        async def consume(key: str) -> None:
            async with space.group(group, prefix="in/", consumer="us", ttl=60) as us:
                async for delivery in us:
                    await us.ack(delivery)
                    return

        await other.create("in/0", 0)
        handled = 0
        async for key in every_await(consume, "in/entry", (EARLY, LATE, AGAIN)):
            async with other.group(group, prefix="in/", consumer="other", ttl=60) as they:
                found = await they.take(10, wait=0)
                assert await they.ack(*found) == len(found)
                handled += len(found)
            await nothing_left()
            await other.create(key, 0)
        assert handled > 0


async def test_a_worker_cancelled_anywhere_leaves_its_runs_to_others(url: str) -> None:
    async def book(run: interlock.AsyncRun) -> str:
        async def choose() -> str:
            await asyncio.sleep(0)
            return "12A"

        return str(await run.step("choose", choose))

    async with two_agents(url) as (space, other):

        async def work(key: str) -> None:
            await space.runs.start(key, "book")
            await space.worker({"book": book}).work(once=True)

        async for key in every_await(work, "run", (EARLY, LATE, AGAIN)):
            await nothing_left()
            if key in [run.id for run in await other.runs.list()]:
                async with asyncio.timeout(10):
                    await other.worker({"book": book}).work(once=True)
                assert (await other.runs.show(key)).state == "Completed"


async def test_a_coordinator_cancelled_anywhere_is_replaced_at_once(url: str) -> None:
    async with two_agents(url) as (space, other):

        def coordinator(agent: AsyncSpace) -> interlock.AsyncCoordinator:
            return agent.coordinator("sum", source="in/", merge="counter", ttl=60, wait=0)

        async def coordinate(key: str) -> None:
            await other.create(key, 1)
            await coordinator(space).catch_up()

        count = 0
        async for _ in every_await(coordinate, "in/item", (EARLY, LATE, AGAIN)):
            await coordinator(other).catch_up()
            count = len(await other.scan("in/"))
            assert (await other.read("sum")).value == (count or None)
            await nothing_left()
        assert count > 0


async def test_documents_cancelled_anywhere_are_whole(url: str, tmp_path: Path) -> None:
    async with two_agents(url) as (space, other):

        async def write(path: str) -> None:
            files = space.files(tmp_path / "us")
            await files.update(path, lambda text: "whole", turns="always")
            await files.write(await files.read(path), "whole again")

        texts = set()
        theirs = other.files(tmp_path / "other")
        async for path in every_await(write, "doc", (EARLY, LATE)):
            texts.add((await theirs.read(path)).text)
            await theirs.update(path, lambda text: text, turns="always", patience=0)
            await nothing_left()
        assert texts == {"", "whole", "whole again"}


async def test_a_probe_cancelled_anywhere_is_claimed_by_others_at_once(url: str) -> None:
    async def fails() -> None:
        raise OSError("no answer")

    async with two_agents(url) as (space, other):

        async def probe(name: str) -> None:
            opened = other.breaker(name, failures=1, reset_after=0.001)
            with pytest.raises(OSError, match="no answer"):
                await opened.call(fails)
            while (await other.breaker(name).info()).seconds:
                await asyncio.sleep(0)
            await space.breaker(name, timeout=3600).call(asyncio.sleep, 0)

        states = set()
        async for name in every_await(probe, "service", (EARLY, LATE, AGAIN)):
            info = await other.breaker(name).info()
            states.add(info.state)
            assert info.state in ("closed", "open"), info
            await nothing_left()
        assert states == {"closed", "open"}


async def test_opening_cancelled_anywhere_leaves_no_task(url: str) -> None:
    async def work(name: str) -> None:
        async with interlock.open_async(url, space=f"open-{uuid.uuid4().hex[:8]}") as space:
            await space.create("key", 1)

    async for _ in every_await(work, "open"):
        await nothing_left()


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_hanging_function_under_wait_for_gives_up_its_turn(url: str, kind: str) -> None:
    over = threading.Event()

    async def hang(value: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    def block(value: Any) -> Any:
        over.wait()

    async with two_agents(url) as (space, other):
        think = hang if kind == "coroutine" else block
        try:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(space.update("key", think, turns="always"), 0.2)
            await nobody_waits(other, "key")
            await nothing_left()
        finally:
            over.set()


async def test_loops_that_are_cancelled_end_what_they_renew(url: str) -> None:
    async with two_agents(url) as (space, other):
        handling = asyncio.Event()

        async def consume() -> None:
            async for _ in space.group("group", prefix="in/", ttl=60):
                handling.set()
                await asyncio.get_running_loop().create_future()

        async def coordinate() -> None:
            async for _ in space.coordinator("sum", source="in/", merge="counter", ttl=60):
                handling.set()
                await asyncio.get_running_loop().create_future()

        await other.create("in/1", 1)
        for loop in (consume, coordinate):
            handling.clear()
            task = asyncio.create_task(loop())
            await handling.wait()
            task.cancel()
            (problem,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(problem, asyncio.CancelledError)  # which keeps its frames
            await nothing_left()
        await other.coordinator("sum", source="in/", merge="counter", wait=0).catch_up()
