"""A call in an `async with` block that was not awaited is refused when the block ends."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest

import interlock

FORGOTTEN = r"{}\(\) was not awaited, so it did nothing"


async def write_under_a_lease(space: Any) -> None:
    async with space.lease("k") as lease:
        lease.write(5)


async def write_under_several_leases(space: Any) -> None:
    async with space.leases(["k", "l"]) as leases:
        leases["l"].write(5)


async def write_through_several_leases(space: Any) -> None:
    async with space.leases(["k", "l"]) as leases:
        leases.write("k", 5)


async def read_in_a_transaction(space: Any) -> None:
    async with space.transaction() as tx:
        tx.read("guard")
        tx.create("k", 5)


async def scan_in_a_function(space: Any) -> None:
    async def fn(tx: Any) -> None:
        tx.scan("guards/")
        tx.create("k", 5)

    await space.transact(fn)


async def step_of_a_run(space: Any) -> None:
    async with space.run("r") as run:
        run.step("first", int)


async def acknowledge(space: Any) -> None:
    await space.create("seen", 1)
    async with space.group("g") as group:
        group.ack(*await group.take())


BLOCKS = {
    acknowledge: "ack",
    write_under_a_lease: "write",
    write_under_several_leases: "write",
    write_through_several_leases: "write",
    read_in_a_transaction: "read",
    scan_in_a_function: "scan",
    step_of_a_run: "step",
}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_a_block_refuses_to_end_before_what_it_began_was_awaited(block: Any) -> None:
    async def check() -> None:
        async with interlock.open_async("sqlite://", space="s", agent="a") as space:
            with pytest.raises(interlock.Invalid, match=FORGOTTEN.format(BLOCKS[block])):
                await block(space)
            assert (await space.read("k")).version == 0
            async with space.lease("k", wait=0) as lease:  # given up, all the same
                writing = asyncio.create_task(lease.write(6))
                await asyncio.gather(lease.renew(), writing)
            assert (await space.read("k")).value == 6
            if block is step_of_a_run:
                async with space.run("r") as run:  # it is not complete
                    assert await run.step("first", int) == 0

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(check())


def test_the_problem_of_the_block_comes_first() -> None:
    async def block(space: Any) -> None:
        async with space.lease("k") as lease:
            lease.write(5)
            raise KeyError

    async def check() -> None:
        async with interlock.open_async("sqlite://", space="s", agent="a") as space:
            with pytest.raises(KeyError):
                await block(space)

    asyncio.run(check())
