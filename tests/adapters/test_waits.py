"""Waits for what a framework's run or conversation holds end, with either API of a space."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

import interlock
from interlock.adapters.autogen import team_state
from interlock.adapters.langgraph import Saver
from interlock.adapters.openai_agents import Session

WAITS = 30.0  # seconds after which a wait has no end


class Team:
    """A team whose state does not matter."""

    async def save_state(self) -> Mapping[str, Any]:
        return {}

    async def load_state(self, state: Mapping[str, Any], /) -> None:
        pass


HOLDS = {
    "autogen": lambda space, name: team_state(space, name, Team()),
    "langgraph": lambda space, name: Saver(space).run(name),
    "openai": lambda space, name: Session(space, name, wait=None).turn(),
}


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
async def test_one_of_two_that_wait_for_each_other_is_told(
    space: Any, hold: Callable[[Any, str], AbstractAsyncContextManager[Any]]
) -> None:
    held = {"x": asyncio.Event(), "y": asyncio.Event()}

    async def both(first: str, second: str) -> str:
        async with hold(space, first):
            held[first].set()
            await held[second].wait()
            async with hold(space, second):
                return "both"

    waits = asyncio.gather(both("x", "y"), both("y", "x"), return_exceptions=True)
    found = await asyncio.wait_for(waits, WAITS)
    assert "both" in found
    assert any(isinstance(each, interlock.Deadlock) for each in found)


async def test_a_conversation_inside_of_itself_is_refused(space: Any) -> None:
    async def again() -> None:
        async with team_state(space, "c", Team()):
            pass

    async with team_state(space, "c", Team()):
        with pytest.raises(interlock.Invalid, match="already holds the lease"):
            await asyncio.wait_for(again(), WAITS)
        with pytest.raises(interlock.Held):
            async with team_state(space, "c", Team(), wait=0):
                pass
