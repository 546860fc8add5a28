"""Slots for connections: first come first served, however many wait."""

from __future__ import annotations

import asyncio

import pytest

from interlock.backends.remote import Slots


async def test_everybody_gets_a_slot_in_the_order_of_coming() -> None:
    slots, inside, came = Slots(2), [0], []

    async def work(n: int) -> None:
        async with slots.one(30.0):
            inside[0] += 1
            assert inside[0] <= 2
            came.append(n)
            await asyncio.sleep(0)
            inside[0] -= 1

    await asyncio.gather(*(work(n) for n in range(50)))
    assert came == list(range(50))


async def test_patience_is_over_where_nobody_gets_on() -> None:
    slots = Slots(1)
    async with slots.one(1.0):
        with pytest.raises(TimeoutError):
            await _take(slots, 0.0)
    await _take(slots, 0.0)


async def test_who_is_cancelled_while_it_waits_takes_no_slot() -> None:
    slots = Slots(1)
    async with slots.one(1.0):
        early, late = (asyncio.create_task(_take(slots, 30.0)) for _ in range(2))
        await asyncio.sleep(0)
        early.cancel()
        await asyncio.wait([early])
    late.cancel()  # its turn has come, and it has not heard of it
    await asyncio.wait([late])
    assert early.cancelled()
    assert late.cancelled()
    async with asyncio.timeout(30):
        await _take(slots, 30.0)


async def _take(slots: Slots, patience: float) -> None:
    async with slots.one(patience):
        pass
