"""A space that was opened for asyncio, and not awaited."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import interlock

NAMES = [name for name in dir(interlock.AsyncSpace) if not name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_space_that_was_not_awaited_says_what_to_do(name: str) -> None:
    opening: Any = interlock.open_async("sqlite://")
    with pytest.raises(interlock.Invalid, match=rf"no '{name}' .*await interlock\.open_async"):
        getattr(opening, name)
    assert not hasattr(opening, name)
    with pytest.raises(interlock.Invalid, match="async with"), opening:
        pass


def test_other_attributes_of_a_space_that_was_not_awaited_are_missing() -> None:
    opening: Any = interlock.open_async("sqlite://")
    with pytest.raises(AttributeError, match="has no attribute 'reed'"):
        opening.reed()
    copy.copy(opening)


async def test_what_is_no_function_of_a_transaction_is_refused() -> None:
    wrong: Any = 3
    with interlock.open("sqlite://") as space:
        with pytest.raises(interlock.Invalid, match="fn must be a function, not 3"):
            space.transact(wrong)
        with space.lease("k") as lease, pytest.raises(interlock.Invalid, match="not 3"):
            lease.update(wrong)
        with pytest.raises(interlock.Invalid, match="not 3"), space.transaction() as tx:
            tx.update("k", wrong)
    async with interlock.open_async("sqlite://") as later:
        with pytest.raises(interlock.Invalid, match="fn must be a function, not 3"):
            await later.transact(wrong)
