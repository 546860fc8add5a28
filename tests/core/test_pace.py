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


def test_what_is_known_is_of_the_code_and_of_no_call() -> None:
    first, second = pace_of(counting(1)), pace_of(counting(2))
    assert not first.is_quick, "it was never called"
    first.took(0.001)
    assert first.is_quick
    assert not second.is_quick, "this call has not thought yet"
    assert pace_of(counting(2)).is_quick
    assert not pace_of(partial(counting(1))).is_quick


def test_a_long_call_is_soon_learned_and_slowly_forgotten() -> None:
    def fn() -> None: ...

    pace_of(fn).took(0.001)
    pace_of(fn).took(0.010)
    pace = pace_of(fn)
    pace.took(0.001)
    assert pace.is_quick
    assert not pace_of(fn).is_quick
    pace_of(fn).took(0.001)
    assert pace_of(fn).is_quick


def test_an_update_learns_how_long_its_function_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fn = counting(3)
    with interlock.open(f"sqlite:///{tmp_path / 'a.db'}") as space:
        clock = iter([10.0, 10.5])
        monkeypatch.setattr(session, "perf_counter", lambda: next(clock))
        space.update("k", fn, default=0)
    assert pace_of(fn).seconds == 0.5


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
    before = pace_of(fn).seconds
    explore({"a": lambda space: space.update("k", fn, default=0)})
    assert pace_of(fn).seconds == before
