"""Branches, turns and usage of a session, as OpenAI's own advanced session has them."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from agents import Runner
from agents.extensions.memory import AdvancedSQLiteSession
from agents.testing import assistant_message, function_call

from interlock.adapters.openai_agents import Session, SessionConflict, SessionHeld
from tests.adapters.openai_runs import QUIET, agent, texts, user
from tests.adapters.spaces import SHORT

pytestmark = SHORT

ITEMS: list[Any] = [
    user("Rome or Oslo?"),
    assistant_message("Rome").model_dump(),
    user("Book it"),
    function_call("book", {}, call_id="1").model_dump(),
    {"type": "web_search_call", "id": "w", "status": "completed"},
    {"type": "mcp_call", "name": "pay", "server_label": "bank"},
    assistant_message("Booked").model_dump(),
]


async def test_a_branch_goes_on_from_before_a_users_message(space: Any) -> None:
    session = Session(space, "s")
    await session.add_items(ITEMS)
    assert await session.create_branch_from_turn(2, "oslo") == "oslo"
    await session.add_items([user("Oslo then")])
    assert texts(await session.get_items()) == ["Rome or Oslo?", "Rome", "Oslo then"]
    assert len(await session.get_items(branch_id="main")) == 7
    assert [(each["branch_id"], each["is_current"]) for each in await session.list_branches()] == [
        ("main", False),
        ("oslo", True),
    ]
    other = Session(space, "s")  # it is on the main branch
    assert len(await other.get_items()) == 7
    await other.switch_to_branch("oslo")
    await other.get_items()
    assert await other.pop_item() == user("Oslo then")
    with pytest.raises(ValueError, match="current branch"):
        await session.delete_branch("oslo")
    await session.delete_branch("oslo", force=True)
    assert len(await session.get_items()) == 7
    for name in ("oslo", "main"):
        with pytest.raises(ValueError, match="already been used"):
            await session.create_branch_from_turn(2, name)
    name = await session.create_branch_from_content("BOOK")
    assert name.startswith("branch_from_turn_2_")
    await session.get_items()
    await session.clear_session()
    assert await session.list_branches() == []
    with pytest.raises(ValueError, match="does not exist"):
        await session.switch_to_branch(name)


async def test_what_is_no_branch_is_said(space: Any) -> None:
    session = Session(space, "s")
    await session.add_items(ITEMS)
    for turn in (0, 3):
        with pytest.raises(ValueError, match="does not contain a user message"):
            await session.create_branch_from_turn(turn)
    with pytest.raises(ValueError, match="empty"):
        await session.create_branch_from_turn(1, " ")
    with pytest.raises(ValueError, match="containing 'Paris'"):
        await session.create_branch_from_content("Paris")
    for name in ("x", "main", " "):
        with pytest.raises(ValueError, match=r"Branch|main"):
            await session.delete_branch(name)


async def test_a_branch_destroys_nothing_of_another(space: Any) -> None:
    one, two = Session(space, "s"), Session(space, "s")
    await one.add_items(ITEMS)
    await one.create_branch_from_turn(2, "b")
    with pytest.raises(SessionConflict):  # of this branch it has read nothing
        await one.pop_item()
    outside = contextvars.copy_context()
    async with two.turn():
        deleting = Session(space, "s").delete_branch("b")
        with pytest.raises(SessionHeld):
            await asyncio.get_running_loop().create_task(deleting, context=outside)
    made = await asyncio.gather(
        *(Session(space, "s").create_branch_from_turn(1, "same") for _ in range(2)),
        return_exceptions=True,
    )
    assert {type(each) for each in made} == {str, ValueError}


async def test_turns_and_tools_are_as_in_their_session(space: Any, tmp_path: Any) -> None:
    theirs = AdvancedSQLiteSession(
        session_id="s", db_path=tmp_path / "theirs.db", create_tables=True
    )
    ours = Session(space, "s")
    for session in (theirs, ours):
        await session.add_items(ITEMS)
    for name in ("get_conversation_by_turns", "get_tool_usage"):
        assert await getattr(ours, name)() == await getattr(theirs, name)(), name
    for name, *arguments in (("get_conversation_turns",), ("find_turns_by_content", "book")):
        found, expected = [await getattr(each, name)(*arguments) for each in (ours, theirs)]
        for each in (*found, *expected):
            assert each.pop("timestamp")
        assert found == expected
    theirs.close()


async def test_what_a_turn_used_is_stored_with_it_and_goes_with_it(space: Any) -> None:
    session = Session(space, "s")
    for text in ("a", "b"):
        result = await Runner.run(agent(), text, session=session, run_config=QUIET)
        result.context_wrapper.usage.input_tokens = 5
        await session.store_run_usage(result)
    turns: Any = await session.get_turn_usage()
    first, second = turns
    assert (first["user_turn_number"], second["user_turn_number"]) == (1, 2)
    used: Any = await session.get_turn_usage(2)
    assert (used["requests"], used["input_tokens"]) == (1, 5)
    assert used["output_tokens_details"] == {"reasoning_tokens": 0}
    total = await session.get_session_usage()
    assert total is not None
    assert (total["requests"], total["input_tokens"], total["total_turns"]) == (2, 10, 2)
    await session.get_items()
    await session.pop_item()
    await session.pop_item()
    assert await session.get_turn_usage(2) == {}
    assert (await session.get_session_usage("main") or {})["total_turns"] == 1
    assert await session.get_session_usage("other") is None
