"""The session store of the Claude Agent SDK: its own contracts, and deliveries that come twice."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import (
    InMemorySessionStore,
    delete_session_via_store,
    get_session_messages_from_store,
    list_sessions_from_store,
    project_key_for_directory,
)
from claude_agent_sdk.testing import run_session_store_conformance

import interlock
from interlock.adapters.claude import SessionStore

KEY: Any = {"project_key": "-home-me-project", "session_id": "s-1"}
SUB: Any = {**KEY, "subpath": "subagents/agent-1"}


@pytest.fixture
async def memory() -> AsyncIterator[interlock.AsyncSpace]:
    async with interlock.open_async("sqlite://", agent="host-1") as space:
        yield space


def entry(n: int, **more: Any) -> Any:
    return {"type": "user", "uuid": f"uuid-{n}", "n": n, **more}


async def test_the_contracts_of_the_sdk_hold(place: Any) -> None:
    url, name = place
    spaces: list[Any] = []

    async def make() -> SessionStore:
        space = await interlock.open_async(url, space=f"{name}-{secrets.token_hex(4)}")
        spaces.append(space)
        return SessionStore(space)

    await run_session_store_conformance(make)
    for space in spaces:
        await space.close()


async def test_the_sdk_s_own_store_keeps_a_redelivered_entry_twice() -> None:
    theirs = InMemorySessionStore()
    for _ in range(2):
        await theirs.append(KEY, [entry(1)])
    assert await theirs.load(KEY) == [entry(1), entry(1)]


async def test_a_redelivered_entry_is_stored_once(space: Any) -> None:
    stores = [SessionStore(space), SessionStore(space)]
    batch = [entry(2), entry(1), {"type": "mode"}, entry(2, again=True)]
    await asyncio.gather(*(store.append(KEY, batch) for store in stores))
    await stores[0].append(KEY, [entry(1), entry(3)])
    found = await stores[1].load(KEY) or []
    assert [each.get("uuid", "-") for each in found] == ["uuid-2", "uuid-1", "-", "-", "uuid-3"]
    assert found[0] == entry(2)
    await stores[0].append(SUB, [entry(1)])
    assert await stores[1].load(SUB) == [entry(1)], "uuids are of one transcript"
    assert await stores[1].list_subkeys(KEY) == ["subagents/agent-1"]


async def test_parallel_batches_are_whole_and_all_there(memory: interlock.AsyncSpace) -> None:
    store = SessionStore(memory)
    batches = [[entry(10 * n + m) for m in range(3)] for n in range(8)]
    await asyncio.gather(*(store.append(KEY, batch) for batch in batches))
    loaded: Any = await store.load(KEY)
    found = [each["n"] for each in loaded]
    assert sorted(found) == sorted(each["n"] for batch in batches for each in batch)
    assert all(found[at : at + 3] == [found[at], found[at] + 1, found[at] + 2] for at in (0, 3, 6))
    with pytest.raises(interlock.Invalid):
        await store.append(KEY, [entry(1000), entry(1001, text="x" * 2_000_000)])
    assert len(await store.load(KEY) or []) == 24, "a batch is stored whole or not at all"


async def test_the_sdk_lists_reads_and_deletes_what_it_stored(
    memory: interlock.AsyncSpace, tmp_path: Any
) -> None:
    store = SessionStore(memory, erase=True)
    session = "11111111-2222-4333-8444-555555555555"
    key: Any = {"project_key": project_key_for_directory(str(tmp_path)), "session_id": session}
    said = {"role": "user", "content": "secret hello"}
    line: Any = {"type": "user", "uuid": secrets.token_hex(8), "message": said, "parentUuid": None}
    line |= {"timestamp": "2026-01-01T00:00:00.000Z", "sessionId": session}
    await store.append(key, [line])
    sub: Any = {**key, "subpath": "subagents/agent-1"}
    await store.append(sub, [entry(1)])
    listed = await list_sessions_from_store(store, directory=str(tmp_path))
    assert [each.session_id for each in listed] == [session]
    assert listed[0].summary == "secret hello"
    shown = await get_session_messages_from_store(store, session, directory=str(tmp_path))
    assert [each.message for each in shown] == [said]

    await delete_session_via_store(store, session, directory=str(tmp_path))
    assert await store.load(key) is None
    assert await store.list_sessions(key["project_key"]) == []
    assert not await memory.scan("claude-agent/")
    log = [each async for each in memory.log()]
    assert "secret hello" not in str(log)


async def test_a_store_opens_a_url_and_closes_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    async with SessionStore(url, space="shop", agent="web-1") as store:
        await store.append(KEY, [entry(1)])
    with pytest.raises(interlock.Closed):
        await store.load(KEY)


async def test_a_space_that_was_given_stays_open(space: Any) -> None:
    async with SessionStore(space) as store:
        await store.append(KEY, [entry(1)])
    store.close()
    assert await store.load(KEY) == [entry(1)]


async def test_names_may_be_anything_and_a_key_must_have_them(
    memory: interlock.AsyncSpace,
) -> None:
    store = SessionStore(memory)
    odd: Any = {"project_key": "a/b*" * 90, "session_id": "..", "subpath": "x" * 900}
    await store.append(odd, [entry(1), {"type": "x", "uuid": "u" * 900}])
    assert len(await store.load(odd) or []) == 2
    assert await store.list_subkeys(odd) == ["x" * 900]
    main: Any = {**odd, "subpath": ""}
    assert await store.load(main) is None
    wrong: Any = {"project_key": "p"}
    with pytest.raises(interlock.Invalid, match="session_id"):
        await store.load(wrong)
