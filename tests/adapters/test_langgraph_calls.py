"""The saver alone, one line changed: calls on one thread don't lose or repeat anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

import interlock
from interlock.adapters.langgraph import Saver
from tests.adapters.langgraph_graphs import (
    Talk,
    in_two_steps,
    no_time,
    paying,
    said,
    talking,
    talking_in_threads,
)
from tests.processes.writers import Place

RUNS = 5
THREAD: Any = {"configurable": {"thread_id": "thread"}}


def lease_is_free(space: interlock.Space) -> bool:
    """Whether nobody has the thread: its lease is granted at once, and given back."""
    try:
        space.lease("langgraph/run/thread", wait=0).acquire().release()
    except interlock.Held:
        return False
    return True


async def free(space: Any) -> bool:
    """Ask the same of a space of either API, outside of whatever this task holds."""
    if isinstance(space, interlock.Space):
        return await asyncio.to_thread(lease_is_free, space)
    try:
        await (await space.lease("langgraph/run/thread", wait=0).acquire()).release()
    except interlock.Held:
        return False
    return True


async def test_five_calls_at_once_keep_all_messages(space: Any) -> None:
    graph = talking(Saver(space), no_time)
    await asyncio.gather(*(graph.ainvoke(said(f"{n}"), THREAD) for n in range(RUNS)))
    found = (await graph.aget_state(THREAD)).values["messages"]
    assert sorted(found[::2]) == [str(number) for number in range(RUNS)]
    assert found[1::2] == [f"re: {message}" for message in found[::2]]


def test_five_calls_in_threads_keep_all_messages(place: Place) -> None:
    with Saver(place.url, space=place.space) as saver:
        graph = talking_in_threads(saver, lambda _: None)
        with ThreadPoolExecutor(RUNS) as pool:
            list(pool.map(lambda n: graph.invoke(said(f"{n}"), THREAD), range(RUNS)))
        found = graph.get_state(THREAD).values["messages"]
    assert sorted(found[::2]) == [str(number) for number in range(RUNS)]
    assert found[1::2] == [f"re: {message}" for message in found[::2]]


async def test_an_answer_that_is_delivered_twice_has_one_effect(space: Any) -> None:
    charged = list[str]()
    graph = paying(Saver(space), charged.append)
    await graph.ainvoke(said("pay"), THREAD)
    assert await free(space), "an interrupted call has ended"
    answers = [graph.ainvoke(Command(resume="yes"), THREAD) for _ in range(2)]
    assert await asyncio.gather(*answers) == [said("pay", "paid: yes")] * 2
    assert charged == ["yes"]


async def test_a_call_that_is_cancelled_leaves_the_thread_at_once(space: Any) -> None:
    there = asyncio.Event()

    async def hang(_: str) -> None:
        there.set()
        await asyncio.Event().wait()

    graph = talking(Saver(space), hang)
    calling = asyncio.create_task(asyncio.wait_for(graph.ainvoke(said("0"), THREAD), 60))
    await there.wait()
    assert not await free(space)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:  # its traceback holds the loop
        await calling
    assert await free(space)
    assert cancelled.traceback


async def test_a_call_that_fails_leaves_the_thread_at_once(space: Any) -> None:
    async def fail(_: str) -> None:
        assert not await free(space)
        raise LookupError("the model is gone")

    with pytest.raises(LookupError) as failed:
        await talking(Saver(space), fail).ainvoke(said("0"), THREAD)
    assert await free(space)
    assert failed.traceback


async def test_a_stream_that_nobody_reads_any_further_leaves_the_thread(space: Any) -> None:
    graph = talking(Saver(space), no_time)
    async for _ in graph.astream(said("0"), THREAD):
        break
    await graph.ainvoke(said("1"), THREAD)
    assert await free(space)


def test_a_stream_is_not_called_over_before_its_end(shared: interlock.Space) -> None:
    graph = talking_in_threads(Saver(shared), lambda _: None)
    stream = graph.stream(said("0"), THREAD)
    next(stream)
    with pytest.raises(interlock.Invalid, match="close its stream"):
        graph.invoke(said("1"), THREAD)
    stream.close()
    assert lease_is_free(shared)
    graph.invoke(said("1"), THREAD)


async def test_a_node_that_calls_a_graph_on_its_own_thread_is_told(space: Any) -> None:
    saver = Saver(space)

    async def nested(_: str) -> None:
        await asyncio.gather(
            asyncio.wait_for(talking(saver, no_time).ainvoke(said("1"), THREAD), 60)
        )

    with pytest.raises(interlock.Invalid, match="wait for itself"):
        await talking(saver, nested).ainvoke(said("0"), THREAD)

    async def other(_: str) -> None:
        config: Any = {"configurable": {"thread_id": "other"}}
        await talking(saver, no_time).ainvoke(said("1"), config)

    await talking(saver, other).ainvoke(said("2"), THREAD)
    assert await free(space)


@pytest.mark.parametrize("thread_id", ["thread", 7])
async def test_subgraphs_belong_to_the_call(space: Any, thread_id: object) -> None:
    inner = talking(True, no_time)
    builder = StateGraph(Talk)
    builder.add_node("inner", inner)
    builder.add_edge(START, "inner")
    builder.add_edge("inner", END)
    graph = builder.compile(checkpointer=Saver(space))
    config: Any = {"configurable": {"thread_id": thread_id}}
    assert "re: 0" in (await graph.ainvoke(said("0"), config))["messages"]


async def test_a_synchronous_node_works_in_an_asynchronous_graph(space: Any) -> None:
    saver = Saver(space)

    def look(_: Talk) -> Talk:
        return said(str(graph.get_state(THREAD).values["messages"]))

    graph: Any = in_two_steps(saver, lambda _: said("first"), look)
    found = await graph.ainvoke(said("0"), THREAD, durability="sync")
    assert found["messages"][-1] == "['0', 'first']"


Callbacks = Callable[[], Any]


@pytest.mark.parametrize(
    "callbacks", [lambda: None, list, lambda: AsyncCallbackManager([]), lambda: CallbackManager([])]
)
async def test_the_end_is_noticed_whatever_brings_the_callbacks(
    space: Any, callbacks: Callbacks
) -> None:
    async def busy(_: str) -> None:
        assert not await free(space)

    graph = talking(Saver(space), busy)
    for _ in range(2):
        await graph.ainvoke(said("0"), {**THREAD, "callbacks": callbacks()})
        assert await free(space)
    chain = RunnableLambda(lambda text: said(text)) | graph
    await chain.ainvoke("1", {**THREAD, "callbacks": callbacks()})
    assert await free(space)


@pytest.mark.parametrize(
    "callbacks", [lambda: None, list, lambda: CallbackManager([]), lambda: AsyncCallbackManager([])]
)
def test_the_end_of_a_synchronous_call_is_noticed(
    shared: interlock.Space, callbacks: Callbacks
) -> None:
    def busy(_: str) -> None:
        assert not lease_is_free(shared)

    graph = talking_in_threads(Saver(shared), busy)
    for _ in range(2):
        graph.invoke(said("0"), {**THREAD, "callbacks": callbacks()})
        assert lease_is_free(shared)
    (RunnableLambda(lambda text: said(text)) | graph).invoke("1", THREAD)
    assert lease_is_free(shared)


async def test_a_call_that_was_replaced_stores_nothing_more(space: Any) -> None:
    go_on, there = asyncio.Event(), asyncio.Event()

    async def stall(message: str) -> None:
        if message == "zombie":
            there.set()
            await go_on.wait()

    old = talking(Saver(space), stall)
    new = talking(Saver(space, on_busy="interrupt"), stall)
    running = asyncio.create_task(old.ainvoke(said("zombie"), THREAD, durability="sync"))
    await there.wait()
    await new.ainvoke(said("new"), THREAD)
    go_on.set()
    with pytest.raises(interlock.Fenced):
        await running
    assert (await new.aget_state(THREAD)).values["messages"] == ["zombie", "new", "re: new"]


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"on_busy": "reject"}, False), ({"wait": 0.01}, False), ({"on_busy": "rollback"}, True)],
)
async def test_a_busy_thread_is_treated_as_the_saver_says(
    space: Any, options: dict[str, Any], kept: bool
) -> None:
    go_on, there = asyncio.Event(), asyncio.Event()

    async def stall(message: str) -> None:
        if message == "old":
            there.set()
            await go_on.wait()

    graph = talking(Saver(space, **options), stall)
    running = asyncio.create_task(graph.ainvoke(said("old"), THREAD, durability="sync"))
    await there.wait()
    if kept:
        await graph.ainvoke(said("new"), THREAD)
    else:
        with pytest.raises(interlock.Held):
            await graph.ainvoke(said("new"), THREAD)
    go_on.set()
    await asyncio.wait([running])
    assert isinstance(running.exception(), interlock.Fenced) is kept
    found = (await graph.aget_state(THREAD)).values["messages"]
    assert found == (["new", "re: new"] if kept else ["old", "re: old"])


async def test_a_plain_saver_of_a_url_serves_both_kinds_of_calls(place: Place) -> None:
    saver = Saver(place.url, space=place.space, agent="app")
    saver.setup()
    await saver.setup()
    graph = talking(saver, no_time)
    await asyncio.gather(graph.ainvoke(said("0"), THREAD), graph.ainvoke(said("1"), THREAD))
    in_thread = talking_in_threads(saver, lambda _: None)
    found = await asyncio.to_thread(in_thread.invoke, said("2"), THREAD)
    assert len(found["messages"]) == 6
    saver.close()


async def test_a_saver_of_a_url_opens_a_space_for_a_block(place: Place) -> None:
    async with Saver(place.url, space=place.space) as saver:
        assert isinstance(saver.space, interlock.AsyncSpace)
        await talking(saver, no_time).ainvoke(said("0"), THREAD)
        opened = saver.space
    with pytest.raises(interlock.Closed):
        await opened.read("key")
    with Saver(place.url, space=place.space) as saver:
        assert saver.get_tuple(THREAD) is not None


async def test_what_a_stream_shows_of_a_call_can_be_called_with(space: Any) -> None:
    graph = talking(Saver(space), no_time)
    shown = [each async for each in graph.astream(said("0"), THREAD, stream_mode="checkpoints")]
    await graph.ainvoke(said("1"), shown[-1]["config"])
    assert "epoch" not in str(shown)


@pytest.mark.parametrize("options", [{}, {"on_busy": "reject"}, {"wait": 0.001}], ids=str)
async def test_whoever_retries_whatever_is_refused_stores_an_input_once(
    space: Any, options: dict[str, Any]
) -> None:
    graph = talking(Saver(space, **options), no_time)

    async def send(message: str) -> None:
        while True:
            try:
                await graph.ainvoke(said(message), THREAD)
            except interlock.InterlockError:
                await asyncio.sleep(0)
            else:
                return

    await asyncio.gather(*(send(f"{n}") for n in range(RUNS)))
    found = (await graph.aget_state(THREAD)).values["messages"]
    assert sorted(found[::2]) == [str(number) for number in range(RUNS)]
    assert len(found) == 2 * RUNS


def test_refusals_name_the_thread_and_the_checkpoint() -> None:
    saver = Saver("sqlite://", agent="app")
    graph = talking_in_threads(saver, lambda _: None)
    graph.invoke(said("0"), THREAD)
    first, second = list(saver.list(THREAD))[1::-1]
    again: Any = {**second.checkpoint, "id": "1ffffbfa-0a3a-69a7-8019-04c0eee35328"}
    parent: Any = second.parent_config
    assert parent == first.config
    with pytest.raises(interlock.InterlockError, match="thread 'thread'"):
        saver.put(parent, again, {"source": "loop", "step": 1}, {})
    id = parent["configurable"]["checkpoint_id"]
    with pytest.raises(interlock.Conflict, match=f"'thread' has moved on from .*'{id}'.* by 'app'"):
        saver.put(parent, again, {"source": "input", "step": 1}, {})
    run = saver.run("thread")
    config = run.__enter__()
    with pytest.raises(interlock.Held, match="'app' has a run on thread 'thread'"):
        saver.delete_thread("thread")
    assert isinstance(saver.space, interlock.Space)
    saver.space.reclaim("langgraph/run/thread")
    with pytest.raises(interlock.Fenced, match="took over thread 'thread'") as fenced:
        graph.invoke(said("1"), config)
    assert "langgraph/" not in str(fenced.value)
    run.__exit__(LookupError)
    saver.close()
