"""AutoGen's teams, memories and caches, shared by several at once, on every store."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_core import CacheStore, Image
from autogen_core.memory import Memory, MemoryContent, MemoryMimeType
from autogen_core.model_context import ChatCompletionContext, UnboundedChatCompletionContext
from autogen_core.models import SystemMessage, UserMessage
from PIL import Image as Pictures

import interlock
from interlock.adapters.autogen import (
    Persistence,
    SharedCacheStore,
    SharedConfig,
    SharedContext,
    SharedMemory,
    team_state,
)
from tests.adapters.autogen_teams import CountingModel, die_in_a_run, history, run_team, team
from tests.adapters.cuts import CUTS, Cut
from tests.adapters.processes import Nursery
from tests.adapters.spaces import FACADES, ON_SQLITE, SHORT, opened
from tests.processes.writers import Place


async def stored(space: Any, name: str = "c") -> list[str]:
    """Return the history of a conversation, as a new team finds it."""
    fresh = team()
    async with team_state(space, name, fresh):
        return history(await fresh.save_state())


async def talk(space: Any, task: str, **options: Any) -> None:
    """Give a new team one task in the conversation `c`."""
    mine = team()
    async with team_state(space, "c", mine, **options):
        await mine.run(task=task)


async def test_parallel_teams_of_one_conversation_keep_everything(space: Any) -> None:
    await asyncio.gather(*(talk(space, f"task {n}") for n in range(6)))
    found = await stored(space)
    assert sorted(found[::2]) == [f"task {n}" for n in range(6)]
    assert found[1::2] == [f"seen {n}" for n in range(1, 7)], "each went on from the one before"
    assert len(found) == 12


async def test_a_team_that_was_replaced_saves_nothing(space: Any) -> None:
    gate, model = asyncio.Event(), CountingModel()
    model.gate = gate

    async def stall() -> None:
        mine = team(model)
        async with team_state(space, "c", mine):
            await mine.run(task="late")

    zombie = asyncio.create_task(stall())
    await model.asked.wait()
    with pytest.raises(interlock.Held) as held:
        await talk(space, "too early", wait=0)
    assert held.value.holder == "app"
    reclaimed = space.reclaim("autogen/state/c")
    if asyncio.iscoroutine(reclaimed):
        await reclaimed
    await talk(space, "in time")
    gate.set()
    with pytest.raises(interlock.Fenced):
        await zombie
    assert await stored(space) == ["in time", "seen 1"]


async def test_what_fails_saves_nothing_and_frees_the_conversation(space: Any) -> None:
    await talk(space, "kept")

    async def fail() -> None:
        mine = team()
        async with team_state(space, "c", mine, wait=0):
            await mine.run(task="lost")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await fail()
    assert await stored(space) == ["kept", "seen 1"]


async def test_a_state_that_is_too_large_is_refused(place: Place) -> None:
    async with interlock.open_async(place.url, space=place.space, max_value_bytes=2000) as small:
        with pytest.raises(interlock.Invalid, match="bytes"):
            await talk(small, "x" * 3000)
        await talk(small, "short")


async def test_a_memory_keeps_what_parallel_teams_add(space: Any) -> None:
    def remembered(text: str) -> MemoryContent:
        return MemoryContent(content=text, mime_type=MemoryMimeType.TEXT)

    one, two = SharedMemory(space, "facts"), SharedMemory(space, "facts")
    assert isinstance(one, Memory)

    async def add(memory: SharedMemory, texts: list[str]) -> None:
        for text in texts:
            await memory.add(remembered(text))

    await asyncio.gather(add(one, ["a1", "a2", "a3"]), add(two, ["b1", "b2", "b3"]))
    found = [each.content for each in (await one.query("anything")).results]
    assert sorted(str(each) for each in found) == ["a1", "a2", "a3", "b1", "b2", "b3"]
    assert [each for each in found if str(each).startswith("a")] == ["a1", "a2", "a3"]
    context = UnboundedChatCompletionContext()
    told = await two.update_context(context)
    assert len(told.memories.results) == 6
    (message,) = await context.get_messages()
    assert isinstance(message, SystemMessage)
    assert "1. " in message.content
    await asyncio.gather(one.clear(), two.clear())
    assert (await one.query()).results == []
    await two.close()


async def test_a_memory_returns_contents_as_they_were(space: Any) -> None:
    picture = Image(Pictures.new("RGB", (2, 2), "red"))
    contents = [
        MemoryContent(content="text", mime_type=MemoryMimeType.TEXT, metadata={"n": 1}),
        MemoryContent(content={"a": [1, None]}, mime_type="application/json"),
        MemoryContent(content=b"\x00\xff", mime_type=MemoryMimeType.BINARY),
        MemoryContent(content=picture, mime_type=MemoryMimeType.IMAGE),
    ]
    memory = SharedMemory(space)
    for content in contents:
        await memory.add(content)
    found = (await memory.query()).results
    assert found[:3] == contents[:3]
    assert isinstance(found[3].content, Image)
    assert found[3].content.to_base64() == picture.to_base64()


async def test_an_assistant_is_told_what_the_memory_holds(space: Any) -> None:
    memory, model = SharedMemory(space), CountingModel()
    await memory.add(MemoryContent(content="likes tea", mime_type=MemoryMimeType.TEXT))
    await team(model, [memory]).run(task="what to drink?")
    assert any("likes tea" in str(each.content) for each in model.shown)


def test_a_cache_refuses_to_overwrite_what_was_not_read(shared: interlock.Space) -> None:
    cache: SharedCacheStore[Any] = SharedCacheStore(shared)
    assert isinstance(cache, CacheStore)
    assert cache.get("k/1", "nothing") == "nothing"
    cache.set("k/1", [1])
    with pytest.raises(interlock.Conflict) as conflict:
        cache.set("k/1", [2])
    assert conflict.value.record.value == [1]
    mine: Any = cache.get("k/1")
    theirs: Any = SharedCacheStore[Any](shared).get("k/1")
    theirs.append(2)
    cache.set("k/1", theirs)
    theirs.append(3)
    cache.set("k/1", theirs)  # on from its own write
    mine.append(4)
    with pytest.raises(interlock.Conflict):
        cache.set("k/1", mine)
    assert cache.get("k/1") == [1, 2, 3]
    keeping: SharedCacheStore[Any] = SharedCacheStore(shared, on_conflict="keep")
    keeping.set("k/1", "mine")
    assert cache.get("k/1") == [1, 2, 3]
    cache.set("k/1", UserMessage(content="hello", source="user"), base=cache.get("k/1"))
    assert cache.get("k/1") == {"content": "hello", "source": "user", "type": "UserMessage"}
    SharedCacheStore[Any](shared, unread="overwrite").set("k/1", "text")
    cache.set("k/1", [copy.deepcopy(cache.get("k/1"))], base=cache.get("k/1"))
    with pytest.raises(interlock.Invalid, match="base="):
        cache.set("k/1", 1, base=[1])


def test_a_version_travels_with_what_a_cache_returned(shared: interlock.Space) -> None:
    cache: SharedCacheStore[Any] = SharedCacheStore(shared)
    for value, other in (({"a": 1}, {"b": 2}), ([1], [2]), ("text", "other")):
        key = type(value).__name__
        cache.set(key, value)
        with ThreadPoolExecutor(1) as elsewhere:  # where it was read does not matter
            found = elsewhere.submit(cache.get, key).result()
        assert (found, json.dumps(found)) == (value, json.dumps(value))
        copies = copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))
        cache.set(key, copies[0])
        cache.set(key, other, base=cache.get(key))
        for stale in (found, *copies):
            with pytest.raises(interlock.Conflict):
                cache.set(key, stale)


def test_a_miss_that_others_filled_is_not_overwritten(shared: interlock.Space) -> None:
    for on_conflict, kept in (("raise", [1]), ("keep", [1])):
        cache: SharedCacheStore[Any] = SharedCacheStore(
            shared,
            on_conflict,
            on_conflict=on_conflict,  # type: ignore[arg-type]  # both are allowed
        )
        assert cache.get("question") is None
        SharedCacheStore[Any](shared, on_conflict).set("question", [1])
        refused = pytest.raises(interlock.Conflict) if on_conflict == "raise" else nullcontext()
        with refused:
            cache.set("question", [2])
        assert cache.get("question") == kept


def test_a_thread_of_a_pool_is_not_what_it_read_before(shared: interlock.Space) -> None:
    cache: SharedCacheStore[Any] = SharedCacheStore(shared)
    cache.set("k", [])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cache.get, "k").result()  # an earlier job
        mine: Any = cache.get("k")
        mine.append(1)
        cache.set("k", mine)

        def job() -> None:
            found: Any = cache.get("k")
            found.append(2)
            cache.set("k", found)

        pool.submit(job).result()
        with pytest.raises(interlock.Conflict):
            pool.submit(cache.set, "k", ["blind"]).result()
    assert cache.get("k") == [1, 2]


def test_parallel_agents_keep_everything_in_a_cache(shared: interlock.Space) -> None:
    gate = threading.Barrier(5)

    def add(n: int) -> None:
        cache: SharedCacheStore[list[int]] = SharedCacheStore(shared)
        gate.wait()
        while True:
            found = cache.get("list") or []
            found.append(n)
            try:
                return cache.set("list", found)
            except interlock.Conflict:
                continue

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(add, range(5)))
    cache: SharedCacheStore[list[int]] = SharedCacheStore(shared)
    assert sorted(cache.get("list") or []) == [0, 1, 2, 3, 4]
    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda n: cache.update("list", lambda old: [*(old or []), n]), range(5)))
    assert len(cache.get("list") or []) == 10


async def test_a_cache_says_what_it_needs(space: Any) -> None:
    if isinstance(space, interlock.AsyncSpace):
        with pytest.raises(interlock.Invalid, match=r"interlock\.open"):
            SharedCacheStore(space)  # type: ignore[arg-type]  # that is what is refused
    else:
        with pytest.raises(interlock.Invalid, match="keep"):
            SharedCacheStore(space, on_conflict="maybe")  # type: ignore[arg-type]  # refused
        with pytest.raises(interlock.Invalid, match="refuse"):
            SharedCacheStore(space, unread="maybe")  # type: ignore[arg-type]  # refused


async def test_what_is_no_space_is_refused_when_it_is_given() -> None:
    nothing: Any = 17
    for make in (SharedCacheStore, SharedMemory, SharedContext, Persistence):
        with pytest.raises(interlock.Invalid, match=r"interlock\.open\(url\)"):
            make(nothing)
    with pytest.raises(interlock.Invalid, match=r"interlock\.open\(url\)"):
        async with team_state(nothing, "c", team()):
            pass
    with pytest.raises(interlock.Invalid, match="k=0"):
        SharedMemory(nothing, k=0)
    with pytest.raises(interlock.Invalid, match="last=0"):
        SharedContext(nothing, last=0)


async def test_one_line_opens_a_space_and_closes_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/teams.db"
    async with Persistence(url, space="shop").run("c", mine := team()) as lease:
        gc.collect()  # nobody refers to the persistence
        assert lease.epoch > 0
        await mine.run(task="a")
    with Persistence(url, space="shop", agent="web") as persistence:
        assert persistence.cache("answers").get("q") is None
        async with persistence.run("c", mine := team()):
            assert history(await mine.save_state()) == ["a", "seen 1"]
        persistence.cache("answers").set("q", [1])
        await persistence.memory("facts").add(MemoryContent(content="tea", mime_type="text/plain"))
        await persistence.context().add_message(UserMessage(content="hello", source="user"))
    with pytest.raises(interlock.Closed):
        async with persistence.run("c", team()):
            pass
    cache: SharedCacheStore[Any] = SharedCacheStore(url, "answers", space="shop")
    assert cache.get("q") == [1]
    async with SharedMemory(url, "facts", space="shop") as memory:
        assert len((await memory.query()).results) == 1
    context = Persistence(url, space="shop").context()
    assert len(await context.get_messages()) == 1
    await memory.close()
    with pytest.raises(interlock.Closed):
        await memory.query()


async def test_a_component_is_dumped_and_loaded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/teams.db"
    cache: SharedCacheStore[Any] = SharedCacheStore(url, "a", space="shop", on_conflict="keep")
    cache.set("k", [1])
    loaded: Any = CacheStore.load_component(cache.dump_component())
    loaded.set("k", [2])  # it keeps what is there
    assert loaded.get("k") == [1]
    memory = SharedMemory(url, "facts", k=1, agent="web")
    await memory.add(MemoryContent(content="likes tea", mime_type=MemoryMimeType.TEXT))
    await memory.add(MemoryContent(content="likes wine", mime_type=MemoryMimeType.TEXT))
    again: Memory = Memory.load_component(json.loads(memory.dump_component().model_dump_json()))
    (found,) = (await again.query("tea")).results
    assert found.content == "likes tea"
    context = SharedContext(url, last=1)
    for text in "ab":
        await context.add_message(UserMessage(content=text, source="user"))
    other = ChatCompletionContext.load_component(context.dump_component())
    assert [each.content for each in await other.get_messages()] == ["b"]


@ON_SQLITE
def test_what_has_no_address_to_show_is_not_dumped(shared: interlock.Space) -> None:
    with pytest.raises(interlock.Invalid, match="make it with a URL"):
        SharedMemory(shared).dump_component()
    secret = SharedMemory(shared)
    for url in ("postgresql://me:secret@host/db", "postgresql://host/db?password=secret"):
        secret._where = SharedConfig(url=url)
        with pytest.raises(interlock.Invalid, match="password") as refused:
            secret.dump_component()
        assert "secret" not in str(refused.value)


@SHORT
async def test_a_query_finds_what_fits_it_best(space: Any) -> None:
    memory = SharedMemory(space, k=2)
    for text in ("The user likes tea", "The user is tall", "Tea is served at five", "Rome"):
        await memory.add(MemoryContent(content=text, mime_type=MemoryMimeType.TEXT))
    found = (await memory.query("when is tea served?")).results
    assert [each.content for each in found] == ["Tea is served at five", "The user likes tea"]
    assert (found[0].metadata or {})["score"] > (found[1].metadata or {})["score"] > 0
    assert len((await memory.query("Rome", k=9, score_threshold=0.5)).results) == 1
    assert len((await memory.query()).results) == 4
    context = UnboundedChatCompletionContext()
    await context.add_message(UserMessage(content="How tall?", source="user"))
    told = await memory.update_context(context)
    assert told.memories.results[0].content == "The user is tall"
    by_length = SharedMemory(space, score=lambda query, texts: [len(text) for text in texts])
    assert (await by_length.query("x")).results[-1].content == "Rome"


@SHORT
async def test_agents_share_a_context_and_keep_each_others_messages(space: Any) -> None:
    one, two = SharedContext(space, "c"), SharedContext(space, "c")

    async def add(context: SharedContext, name: str) -> None:
        for n in range(3):
            await context.add_message(UserMessage(content=f"{name}{n}", source=name))

    await asyncio.gather(add(one, "a"), add(two, "b"))
    said = [str(each.content) for each in await one.get_messages()]
    assert [each for each in said if each.startswith("a")] == ["a0", "a1", "a2"]
    assert len(said) == 6
    saved = await one.save_state()
    await two.add_message(UserMessage(content="since", source="b"))
    await one.load_state(saved)  # what came since stays
    assert len(await one.get_messages()) == 7
    await SharedContext(space, "new").load_state(saved)
    assert await SharedContext(space, "new").save_state() == saved
    other = {"messages": [{"type": "UserMessage", "content": "else", "source": "c"}]}
    with pytest.raises(interlock.Conflict):
        await two.load_state(other)
    await one.clear()
    assert await two.get_messages() == []


@SHORT
async def test_an_assistant_goes_on_from_a_shared_context(space: Any) -> None:
    for n in range(2):
        context = SharedContext(space, "c")
        assistant = AssistantAgent("assistant", CountingModel(), model_context=context)
        answer = await assistant.run(task=f"task {n}")
        assert answer.messages[-1].to_text() == f"seen {n + 1}"


@pytest.mark.parametrize(
    ("place", "facade", "cut"),
    [
        *(("sqlite", facade, cut) for facade in FACADES for cut in CUTS),
        ("postgres", "async", CUTS[0]),
        ("redis", "async", CUTS[0]),
    ],
    indirect=["place"],
)
async def test_a_run_that_is_cut_off_frees_the_conversation(
    facade: str, cut: Cut, place: Place
) -> None:
    async with opened(facade, place, "us") as space:
        begun = asyncio.Event()

        async def hang() -> None:
            async with team_state(space, "c", team()):
                begun.set()
                await asyncio.Event().wait()

        running = asyncio.ensure_future(hang())
        await begun.wait()
        await cut(running)
        await talk(space, "next", wait=0)
        assert await stored(space) == ["next", "seen 1"]


@SHORT
async def test_two_that_resume_one_conversation_go_on_from_each_other(space: Any) -> None:
    await talk(space, "begin")
    await asyncio.gather(talk(space, "again"), asyncio.wait_for(talk(space, "again"), 30))
    assert await stored(space) == ["begin", "seen 1", "again", "seen 2", "again", "seen 3"]


@pytest.mark.slow
@ON_SQLITE
def test_a_process_that_dies_in_a_run_leaves_the_state_before_it(
    nursery: Nursery, place: Place
) -> None:
    with interlock.open(place.url, space=place.space) as space:
        asyncio.run(talk(space, "kept"))
        assert nursery.together(die_in_a_run, 1, place.url, place.space) == ["died"]
        asyncio.run(talk(space, "next"))  # once the lease has run out
        assert asyncio.run(stored(space)) == ["kept", "seen 1", "next", "seen 2"]


@pytest.mark.slow
def test_processes_go_on_from_each_other(nursery: Nursery, place: Place) -> None:
    interlock.open(place.url, space=place.space).close()
    assert nursery.together(run_team, 2, place.url, place.space) == ["done"] * 2

    async def found() -> list[str]:
        async with interlock.open_async(place.url, space=place.space) as opened:
            return await stored(opened, "shared")

    history_of_all = asyncio.run(found())
    assert history_of_all[1::2] == [f"seen {n}" for n in range(1, 7)]
    assert sorted(history_of_all[::2]) == sorted(f"{i}/{n}" for i in range(2) for n in range(3))
