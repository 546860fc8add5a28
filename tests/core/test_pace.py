"""What is learned of how long a function thinks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import interlock
from interlock import session
from interlock.core.pace import pace_of
from interlock.verify import explore


def counting(step: int) -> Callable[[int], int]:
    return lambda n: n + step


def test_functions_of_one_code_have_one_pace() -> None:
    assert pace_of(counting(1)) is pace_of(counting(2))
    assert not pace_of(lambda n: n).is_quick, "it was never called"
    assert pace_of(partial(counting(1))) is not pace_of(partial(counting(1)))


def test_an_update_learns_how_long_its_function_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fn = counting(3)
    with interlock.open(f"sqlite:///{tmp_path / 'a.db'}") as space:
        space.update("k", fn, default=0)
        assert pace_of(fn).is_quick
        clock = iter([10.0, 10.5])
        monkeypatch.setattr(session, "perf_counter", lambda: next(clock))
        space.update("k", fn)
    assert pace_of(fn).seconds == 0.5, "the last time counts"


def test_a_coroutine_function_has_the_pace_of_its_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(n: int) -> int:
        await asyncio.sleep(0)
        return n + 1

    async def update() -> None:
        async with await interlock.open_async(f"sqlite:///{tmp_path / 'a.db'}") as space:
            await space.update("k", slow, default=0)

    clock = iter([10.0, 11.0])
    monkeypatch.setattr(session, "perf_counter", lambda: next(clock))
    asyncio.run(update())
    assert pace_of(slow).seconds == 1.0


def test_where_time_stands_still_nothing_is_learned() -> None:
    fn = counting(7)
    pace = pace_of(fn)
    before = pace.seconds
    explore({"a": lambda space: space.update("k", fn, default=0)})
    assert pace.seconds == before
