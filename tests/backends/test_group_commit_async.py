"""Grouping the commits of tasks: a flight that has landed holds nobody up; groups are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from interlock.backends.remote import AsyncGroupCommit
from interlock.core.plan import Plan
from interlock.core.records import Committed
from interlock.core.refusals import Outcome
from interlock.core.writer import Writer
from interlock.errors import Unavailable


def plan(name: str) -> Plan:
    return Writer("", "us", 0).plan(name, writes=())


async def applied(plans: Sequence[Plan]) -> list[Outcome]:
    """Answer each plan with its own name, after a turn of the event loop."""
    await asyncio.sleep(0)
    return [Committed(1, 0, each.op_id, ()) for each in plans]


@pytest.mark.parametrize("flights", [1, 2, 3])
async def test_chains_of_commits_go_on(flights: int) -> None:
    group = AsyncGroupCommit(applied, flights, 100)

    async def chain(task: int) -> list[str]:
        done = [await group.commit(plan(f"{task}-{n}")) for n in range(50)]
        return [each.agent for each in done if isinstance(each, Committed)]

    async with asyncio.timeout(10):
        chains = await asyncio.gather(*(chain(task) for task in range(10)))
    assert chains == [[f"{task}-{n}" for n in range(50)] for task in range(10)]


async def test_a_group_holds_so_many_plans_at_most() -> None:
    sizes: list[int] = []

    async def counted(plans: Sequence[Plan]) -> list[Outcome]:
        sizes.append(len(plans))
        return await applied(plans)

    group = AsyncGroupCommit(counted, 2, 8)
    await asyncio.gather(*(group.commit(plan(str(n))) for n in range(100)))
    assert sum(sizes) == 100
    assert max(sizes) == 8


async def test_a_fault_reaches_everybody_of_the_group_and_the_next_group_goes_on() -> None:
    faults = [Unavailable("away")]

    async def failing(plans: Sequence[Plan]) -> list[Outcome]:
        if faults:
            raise faults.pop()
        return await applied(plans)

    group = AsyncGroupCommit(failing, 1, 8)
    told = await asyncio.gather(
        *(group.commit(plan(str(n))) for n in range(3)), return_exceptions=True
    )
    assert [type(each) for each in told] == [Unavailable] * 3
    assert isinstance(await group.commit(plan("next")), Committed)


async def test_draining_waits_for_what_is_on_its_way() -> None:
    group = AsyncGroupCommit(applied, 2, 8)
    waiting = asyncio.ensure_future(group.commit(plan("last")))
    await asyncio.sleep(0)
    await group.drain()
    assert isinstance(await waiting, Committed)
