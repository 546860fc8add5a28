"""FastMCP's session state, and py-key-value's protocol, in a space."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.server.sessions import SessionId, SessionProvider, get_session  # type: ignore[attr-defined]  # it is in their docs
from key_value.aio.errors import InvalidTTLError, KeyValueOperationError, SerializationError
from key_value.aio.protocols.key_value import AsyncKeyValueProtocol
from key_value.aio.wrappers.prefix_keys import PrefixKeysWrapper

import interlock
from interlock.adapters.fastmcp import KeyValueConflict, KeyValueInvalid, KeyValueStore


@pytest.fixture
async def store() -> AsyncIterator[KeyValueStore]:
    async with interlock.open_async("sqlite://", agent="a") as space:
        yield KeyValueStore(space)


async def test_it_is_an_async_key_value(store_space: interlock.AsyncSpace) -> None:
    store = KeyValueStore(store_space)
    assert isinstance(store, AsyncKeyValueProtocol)
    assert (await store.get("k"), await store.ttl("k"), await store.delete("k")) == (
        None,
        (None, None),
        False,
    )
    await store.put("k", {"n": 1})
    await store.put("k", {"n": 2}, collection="other", ttl=100)
    value, seconds = await store.ttl("k", collection="other")
    assert value == {"n": 2}
    assert seconds is not None
    assert 90 < seconds <= 100
    await store.put_many(["a", "b"], ({"n": 3}, {"n": 4}), ttl=50)
    assert await store.get_many(["k", "b", "none"]) == [{"n": 1}, {"n": 4}, None]
    assert [ttl for _, ttl in await store.ttl_many(["k", "none"])] == [None, None]
    assert await store.delete_many(["a", "b", "none"]) == 2
    assert await store.delete("k")
    assert await store.get("k") is None
    assert await PrefixKeysWrapper(store, "p").get("k") is None


async def test_names_and_values_of_any_kind_are_stored(store: KeyValueStore) -> None:
    for name in ("a/b", "ä" * 400, "!@#$%^&*()", "."):
        await store.put(name, {name: [None, 1.5, {"x": "y"}]}, collection=name)
        assert await store.get(name, collection=name) == {name: [None, 1.5, {"x": "y"}]}


@pytest.mark.parametrize("ttl", [0, -1, True, "soon"])
async def test_a_ttl_that_is_none_is_refused(store: KeyValueStore, ttl: Any) -> None:
    with pytest.raises(InvalidTTLError):
        await store.put("k", {"n": 1}, ttl=ttl)
    assert await store.get("k") is None


async def test_a_value_expires_after_its_seconds(store: KeyValueStore) -> None:
    await store.put("k", {"n": 1}, ttl=0.01)
    while await store.get("k") is not None:
        await asyncio.sleep(0)
    await store.put("k", {"n": 2})  # read as gone
    assert await store.ttl("k") == ({"n": 2}, None)


async def test_what_is_not_json_is_the_frameworks_error(store: KeyValueStore) -> None:
    with pytest.raises(SerializationError) as refused:
        await store.put("k", {"n": object()})
    assert isinstance(refused.value, KeyValueInvalid | interlock.Invalid)
    with pytest.raises(interlock.Invalid, match="limit") as too_large:
        await store.put("k", {"n": "x" * 2**20})
    assert not isinstance(too_large.value, SerializationError)
    with pytest.raises(ValueError, match="for each key"):
        await store.put_many(["a", "b"], [{}])


async def in_a_task(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call as somebody else would."""

    async def calls() -> Any:
        return await call()

    return await asyncio.create_task(calls())


async def test_other_fields_are_kept_and_the_same_field_conflicts(store: KeyValueStore) -> None:
    await store.put("k", {"a": 1, "b": {"c": 1}})
    (await store.get("k"))["b"]["c"] = 5  # type: ignore[index]  # what a reader does to its copy

    async def other(value: dict[str, Any]) -> None:
        await store.get("k")
        await store.put("k", value)

    await in_a_task(lambda: other({"a": 2, "b": {"c": 1}}))
    await store.put("k", {"a": 1, "b": {"c": 1, "d": 1}})
    assert await store.get("k") == {"a": 2, "b": {"c": 1, "d": 1}}
    with pytest.raises(KeyValueConflict) as refused:
        await store.put("k", {"a": 3, "b": {"c": 1, "d": 1}})  # it first read a 1
    assert isinstance(refused.value, KeyValueOperationError | interlock.Conflict)
    await store.get("k")  # whoever is refused reads again
    await store.put("k", {"a": 3})
    assert await store.get("k") == {"a": 3}


async def test_two_increments_to_the_same_number_are_two(store: KeyValueStore) -> None:
    await store.put("k", {"n": 0})

    async def increment() -> None:
        found = await store.get("k") or {}
        await asyncio.sleep(0)
        await store.put("k", {"n": found["n"] + 1})

    done = await asyncio.gather(*(in_a_task(increment) for _ in range(3)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["KeyValueConflict"] * 2 + ["NoneType"]
    assert await store.get("k") == {"n": 1}


async def test_what_nobody_read_is_not_destroyed(store: KeyValueStore) -> None:
    await in_a_task(lambda: store.put("k", {"n": 1}))
    for destroy in (
        lambda: store.put("k", {"n": 2}),
        lambda: store.put_many(["new", "k"], [{}, {}]),
        lambda: store.delete("k"),
        lambda: store.delete_many(["k"]),
    ):
        with pytest.raises(KeyValueConflict, match="unread='overwrite'"):
            await destroy()
    await store.put("k", {"n": 1})  # as it is
    assert await in_a_task(lambda: store.get_many(["k", "new"])) == [{"n": 1}, None]


async def test_what_nobody_read_may_be_overwritten_if_asked_for(store: KeyValueStore) -> None:
    await store.put("k", {"n": 1})
    async with interlock.open_async("sqlite://", agent="a") as space:
        cache = KeyValueStore(space, unread="overwrite")
        for n in range(2):
            await in_a_task(partial(cache.put, "k", {"n": n}))
        old = await cache.get("k")
        await in_a_task(lambda: cache.put("k", {"n": 5}))
        with pytest.raises(KeyValueConflict):
            await cache.put("k", {"n": 6})  # this task has read what is no more
        assert old == {"n": 1}
        assert await in_a_task(lambda: cache.delete("k"))


async def test_a_value_that_get_returned_shows_what_was_read(store: KeyValueStore) -> None:
    await store.put("k", {"n": 1, "m": 1})
    found: Any = await in_a_task(lambda: store.get("k"))
    await in_a_task(lambda: store.get("k"))

    async def other() -> None:
        await store.get("k")
        await store.put("k", {"n": 1, "m": 2})

    await in_a_task(other)
    found["n"] = 2
    await in_a_task(lambda: store.put("k", found))
    assert await store.get("k") == {"n": 2, "m": 2}
    with pytest.raises(KeyValueConflict):
        await in_a_task(lambda: store.put("k", found | {"m": 3}))


async def test_several_are_put_in_one_commit_or_not_at_all(store: KeyValueStore) -> None:
    await store.put_many(["a", "b"], [{"n": 1}, {"n": 1}])

    async def other() -> None:
        await store.get("b")
        await store.put("b", {"n": 2})

    await in_a_task(other)
    with pytest.raises(KeyValueConflict):
        await store.put_many(["a", "b"], [{"n": 3}, {"n": 3}])
    assert await store.get_many(["a", "b"]) == [{"n": 1}, {"n": 2}]
    await store.put_many(["a", "b"], [{"n": 3}, {"n": 3}])
    await store.put("a", {"n": 4})  # what one has written one knows
    assert await store.get_many(["a", "b"]) == [{"n": 4}, {"n": 3}]


async def test_reads_are_forgotten_with_their_task(store: KeyValueStore) -> None:
    for n in range(3):
        await in_a_task(partial(store.put, f"{n}", {}))
    gc.collect()
    assert len([task for task in store._reads._tasks if task.done()]) <= 1  # the latest one


# Requests of FastMCP


REQUESTS = 3
logging.getLogger("fastmcp").setLevel(logging.CRITICAL)  # it draws each refusal, which takes long


def server(store: KeyValueStore) -> FastMCP[Any]:
    """A server whose tool increments a counter of a session; `reads`, `sets`: how it calls."""
    mcp: FastMCP[Any] = FastMCP("counters", session_state_store=store)
    mcp.add_provider(SessionProvider())
    readers, all_have_read, one_at_a_time = list[int](), asyncio.Event(), asyncio.Lock()

    @mcp.tool
    async def increment(session_id: SessionId, key: str, reads: bool, sets: bool) -> int:
        session = await get_session(session_id)
        getting, n = session.get(key, 0), 0
        n = await (asyncio.create_task(getting) if reads else getting)
        readers.append(n)
        if len(readers) == REQUESTS:
            all_have_read.set()
        await all_have_read.wait()
        async with one_at_a_time:
            setting = session.set(key, n + 1)
            await (asyncio.create_task(setting) if sets else setting)
        return n + 1

    @mcp.tool
    async def twice(session_id: SessionId) -> int:
        session = await get_session(session_id)
        for _ in range(2):
            n = await asyncio.create_task(session.get("twice", 0))
            await asyncio.create_task(session.set("twice", n + 1))
            await session.set("other", n)
        return int(await session.get("twice"))

    @mcp.tool
    async def state(ctx: Context) -> int:
        n = await ctx.get_state("n") or 0
        await ctx.set_state("n", n + 1)
        return int(n + 1)

    @mcp.tool
    async def nothing(ctx: Context) -> str:
        try:
            await ctx.set_state("n", object())
        except TypeError as problem:
            return str(problem)
        return "stored"

    return mcp


@pytest.mark.parametrize(
    ("reads", "sets"), [(False, False), (True, False), (False, True)], ids=["here", "read", "set"]
)
async def test_requests_lose_no_increment(store: KeyValueStore, reads: bool, sets: bool) -> None:
    async with Client(server(store)) as client:
        session = (await client.call_tool("create_session", {})).data
        asked = {"session_id": session, "key": "n", "reads": reads, "sets": sets}

        messages = set[str]()

        async def call() -> int:
            while True:
                found = await client.call_tool("increment", asked, raise_on_error=False)
                if not found.is_error:
                    return int(found.data)
                messages.add(str(found.content))

        done = sorted(await asyncio.gather(*(call() for _ in range(REQUESTS))))
        assert done == [1, 2, 3]
        assert all("Re-read, recompute and write again" in each for each in messages)


async def test_a_request_may_write_again_what_its_children_wrote(store: KeyValueStore) -> None:
    async with Client(server(store)) as client:
        session = (await client.call_tool("create_session", {})).data
        assert (await client.call_tool("twice", {"session_id": session})).data == 2


async def test_state_of_a_context_is_kept(store: KeyValueStore) -> None:
    async with Client(server(store)) as client:
        assert (await client.call_tool("state", {})).data >= 1
        assert "is not serializable" in (await client.call_tool("nothing", {})).data


async def test_a_url_is_opened_and_closed(tmp_path: Path) -> None:
    async with KeyValueStore(f"sqlite:///{tmp_path / 's.db'}", agent="a") as store:
        await store.put("k", {"n": 1})
    with pytest.raises(interlock.Closed):
        await store.get("k")
