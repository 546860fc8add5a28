"""Runs on one thread at once: nothing is lost or done twice, and whoever was replaced stops."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from langgraph.types import Command

import interlock
from interlock.adapters.langgraph import AlreadyDone, Overtaken, Saver
from tests.adapters.langgraph_graphs import (
    Talk,
    hang_in_the_second_step,
    in_two_steps,
    no_time,
    paying,
    said,
    talking,
    talking_in_threads,
)
from tests.processes.writers import FORKSERVER, Place

RUNS = 5
THREAD: Any = {"configurable": {"thread_id": "thread"}}


async def messages(graph: Any) -> list[str]:
    """Return what a thread holds."""
    found: list[str] = (await graph.aget_state(THREAD)).values.get("messages", [])
    return found


async def test_five_runs_at_once_keep_all_messages(space: Any) -> None:
    saver = Saver(space)
    graph = talking(saver, no_time)

    async def run(number: int) -> None:
        async with saver.run("thread") as config:
            await graph.ainvoke(said(f"{number}"), config)

    await run(0)
    await asyncio.gather(*(run(number) for number in range(1, RUNS + 1)))
    found = await messages(graph)
    assert len(found) == 12
    assert sorted(found[::2]) == [str(number) for number in range(RUNS + 1)]
    assert found[1::2] == [f"re: {message}" for message in found[::2]]


def test_five_threads_at_once_keep_all_messages(shared: interlock.Space) -> None:
    saver = Saver(shared)
    graph = talking_in_threads(saver, lambda _: None)

    def run(number: int) -> None:
        with saver.run("thread") as config:
            graph.invoke(said(f"{number}"), config)

    with ThreadPoolExecutor(RUNS) as pool:
        list(pool.map(run, range(RUNS)))
    found = graph.get_state(THREAD).values["messages"]
    assert sorted(found[::2]) == [str(number) for number in range(RUNS)]
    assert found[1::2] == [f"re: {message}" for message in found[::2]]


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "new"])
async def test_without_a_run_whoever_comes_second_is_told(space: Any, begun: bool) -> None:
    together = asyncio.Barrier(RUNS)

    async def meet(message: str) -> None:
        if message != "0":
            await together.wait()

    # All have read the thread before anybody writes: each asks for the newest checkpoint first.
    class Meeting(Saver):
        async def aget_tuple(self, config: Any) -> Any:
            found = await super().aget_tuple(config)
            if meeting:
                await together.wait()
            return found

    meeting = False
    graph = talking(Meeting(space, on_busy=None), no_time)
    if begun:
        await graph.ainvoke(said("0"), THREAD)
    meeting = True
    ran = await asyncio.gather(
        *(graph.ainvoke(said(f"{n}"), THREAD) for n in range(1, RUNS + 1)), return_exceptions=True
    )
    meeting = False
    refused = [each for each in ran if isinstance(each, BaseException)]
    assert len(refused) == RUNS - 1
    assert all(isinstance(each, interlock.Conflict) for each in refused)
    assert len(await messages(graph)) == 2 + 2 * begun


@pytest.mark.parametrize("durability", ["async", "sync", "exit"])
async def test_calls_that_are_retried_after_a_conflict_store_their_input_once(
    space: Any, durability: str
) -> None:
    async def yielding(_: str) -> None:
        await asyncio.sleep(0)

    graph, overtaken = talking(Saver(space, on_busy=None), yielding), list[str]()
    callers = 10 if durability == "async" else 5

    async def send(message: str) -> None:
        while True:
            try:
                await graph.ainvoke(said(message), THREAD, durability=durability)
            except interlock.Conflict:
                continue
            except Overtaken:
                overtaken.append(message)
            return

    await asyncio.gather(*(send(f"{n}") for n in range(callers)))
    found = [each for each in await messages(graph) if not each.startswith("re: ")]
    assert sorted(found) == sorted(f"{n}" for n in range(callers))
    if durability == "exit":
        assert not overtaken, "nothing is stored before the end"


async def test_a_call_whose_thread_was_taken_after_its_input_is_not_to_be_retried(
    space: Any,
) -> None:
    saver = Saver(space, on_busy=None)
    taken: list[Any] = []

    async def takes(_: str) -> None:
        if not taken:
            taken.append(saver.run("thread"))
            await taken[0].__aenter__()

    graph = talking(saver, takes)
    with pytest.raises(Overtaken) as caught:
        await graph.ainvoke(said("0"), THREAD, durability="sync")
    assert isinstance(caught.value.__cause__, interlock.Held)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), Overtaken)
    newest: Any = (await graph.aget_state(THREAD)).config
    newest["configurable"]["__pregel_runtime"] = None
    with pytest.raises(Overtaken):  # as LangGraph stores what a node has written
        await saver.aput_writes(newest, [("messages", ["re: 0"])], "task")
    with pytest.raises(interlock.Held):  # nothing of this one is stored
        await graph.ainvoke(said("1"), THREAD)
    await taken[0].__aexit__(None, None, None)
    await graph.ainvoke(None, THREAD)
    assert await messages(graph) == ["0", "re: 0"]


async def test_an_input_that_another_run_dropped_is_sent_again(space: Any) -> None:
    """LangGraph drops an input that no step has taken up where another input comes."""
    others = talking(Saver(space, on_busy=None), no_time)

    class Slow(Saver):
        async def aput(self, config: Any, checkpoint: Any, metadata: Any, *rest: Any) -> Any:
            if metadata["source"] == "loop" and not between:
                between.append(await others.ainvoke(said("theirs"), THREAD))
            return await super().aput(config, checkpoint, metadata, *rest)

    between: list[Any] = []
    graph = talking(Slow(space, on_busy=None), no_time)
    with pytest.raises(interlock.Conflict):
        await graph.ainvoke(said("mine"), THREAD, durability="sync")
    await graph.ainvoke(said("mine"), THREAD)
    assert await messages(graph) == ["theirs", "re: theirs", "mine", "re: mine"]


async def test_a_resume_that_is_delivered_twice_has_one_effect(space: Any) -> None:
    saver, charged = Saver(space), list[str]()
    graph = paying(saver, charged.append)
    async with saver.run("thread", once="order-7") as config:
        await graph.ainvoke(said("pay"), config)

    async def deliver() -> str:
        run = saver.run("thread", once="answer-7")
        try:
            async with run as config:
                await graph.ainvoke(run.input(Command(resume="yes")), config)
        except AlreadyDone:
            return "already done"
        return "done"

    told = await asyncio.gather(deliver(), deliver())
    assert (sorted(told), charged) == (["already done", "done"], ["yes"])
    assert await messages(graph) == ["pay", "paid: yes"]


async def test_without_a_name_the_state_says_whether_there_is_anything_to_resume(
    space: Any,
) -> None:
    saver, charged = Saver(space), list[str]()
    graph = paying(saver, charged.append)
    await graph.ainvoke(said("pay"), THREAD)

    async def deliver() -> None:
        async with saver.run("thread") as config:
            if (await graph.aget_state(config)).next:
                await graph.ainvoke(Command(resume="yes"), config)

    await asyncio.gather(deliver(), deliver())
    assert charged == ["yes"]


async def replaced(space: Any, on_busy: str) -> tuple[Any, BaseException | None]:
    """Have a run replaced between its two steps; return its graph, and what it was told."""
    saver, there, go_on = Saver(space), asyncio.Event(), asyncio.Event()

    async def first(state: Talk) -> Talk:
        return said(f"first of {state['messages'][-1]}")

    async def second(state: Talk) -> Talk:
        if state["messages"][-1] == "first of old":
            there.set()
            await go_on.wait()
        return said(f"second of {state['messages'][-2]}")

    graph = in_two_steps(saver, first, second)
    async with saver.run("thread") as config:
        await graph.ainvoke(said("before"), config)

    async def old() -> None:
        async with saver.run("thread") as config:
            await graph.ainvoke(said("old"), config, durability="sync")

    running = asyncio.create_task(old())
    await there.wait()
    async with saver.run("thread", on_busy=on_busy) as config:
        await graph.ainvoke(said("new"), config)
    go_on.set()
    (ended,) = await asyncio.gather(running, return_exceptions=True)
    return graph, ended


BEFORE = ["before", "first of before", "second of before"]
NEW = ["new", "first of new", "second of new"]


async def test_an_interrupted_run_keeps_what_it_stored_and_writes_no_more(space: Any) -> None:
    graph, ended = await replaced(space, "interrupt")
    assert isinstance(ended, interlock.Fenced)
    assert await messages(graph) == [*BEFORE, "old", "first of old", *NEW]


async def test_a_run_that_is_rolled_back_leaves_nothing(space: Any) -> None:
    graph, ended = await replaced(space, "rollback")
    assert isinstance(ended, interlock.Fenced)
    assert await messages(graph) == [*BEFORE, *NEW]
    states = [state async for state in graph.aget_state_history(THREAD)]
    assert not any("old" in state.values.get("messages", ()) for state in states)


async def test_a_busy_thread_can_be_refused(space: Any) -> None:
    saver = Saver(space)
    async with saver.run("thread"):
        with pytest.raises(interlock.Held) as held:
            async with saver.run("thread", on_busy="reject"):
                raise AssertionError("it was let in")
        assert held.value.holder == "app"

        async def waits() -> None:
            async with saver.run("thread", wait=0.02):
                raise AssertionError("it was let in")

        with pytest.raises(interlock.Held):
            await asyncio.create_task(waits(), context=contextvars.Context())
    async with saver.run("thread", on_busy="reject"):
        pass


async def test_who_has_no_run_is_held_back_while_there_is_one(space: Any) -> None:
    saver = Saver(space, on_busy=None)
    graph = talking(saver, no_time)
    await graph.ainvoke(said("before"), THREAD)
    async with saver.run("thread") as config:
        for write in (
            graph.ainvoke(said("from outside"), THREAD),
            graph.aupdate_state(THREAD, said("from outside")),
            saver.adelete_thread("thread"),
            saver.aprune(["thread"]),
        ):
            with pytest.raises(interlock.Held):
                await write
        await graph.ainvoke(said("from the run"), config)
    await graph.ainvoke(said("after"), THREAD)
    assert (await messages(graph))[::2] == ["before", "from the run", "after"]


async def test_the_config_of_a_run_that_has_ended_writes_nothing(space: Any) -> None:
    saver = Saver(space)
    graph = talking(saver, no_time)
    async with saver.run("thread") as config:
        await graph.ainvoke(said("in it"), config)
    with pytest.raises(interlock.Invalid, match="has ended"):
        await graph.ainvoke(said("after it"), config)
    async with saver.run("thread"):
        with pytest.raises(interlock.Fenced):
            await graph.ainvoke(said("after it"), config)
    assert await messages(graph) == ["in it", "re: in it"]


@pytest.mark.parametrize("busy", [True, False], ids=["waiting", "entering"])
async def test_a_run_that_is_cancelled_leaves_the_thread_to_others(space: Any, busy: bool) -> None:
    saver = Saver(space)

    async def enter() -> None:
        async with saver.run("thread"):
            raise AssertionError("it was let in")

    async with saver.run("thread") if busy else nullcontext():
        entering = asyncio.create_task(enter())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
    async with asyncio.timeout(20), saver.run("thread"):
        pass


def hanging(place: Place) -> tuple[Any, Any]:
    """Return a process that is in the second step of a run, and the pipe to it."""
    heard, told = FORKSERVER.Pipe()
    one = FORKSERVER.Process(
        target=hang_in_the_second_step, args=(place.url, place.space, "hello-1", told)
    )
    one.start()
    assert heard.recv() == "in the second step"
    return one, heard


@pytest.mark.slow
def test_the_next_process_goes_on_where_one_was_killed(
    place: Place, shared: interlock.Space
) -> None:
    one, _ = hanging(place)
    one.kill()
    one.join()
    saver, firsts = Saver(shared), list[str]()

    def first(_: Talk) -> Talk:
        firsts.append("again")
        return said("first")

    graph = in_two_steps(saver, first, lambda _: said("second"))
    run = saver.run("thread", once="hello-1")
    with run as config:  # waits until the lease of the dead process has expired
        given = run.input(said("hello"))
        graph.invoke(given, config)
    assert (given, firsts) == (None, [])
    assert graph.get_state(THREAD).values["messages"] == ["hello", "first", "second"]
    with pytest.raises(AlreadyDone), saver.run("thread", once="hello-1"):
        raise AssertionError("it was let in")


def stop_outside_of_a_commit(pid: int, place: Place) -> None:
    """Stop a process at a moment at which it does not hold the write lock of a SQLite file."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        try:
            with interlock.open(place.url, "probe", busy_timeout=0.1) as probe:
                probe.update("stops", lambda n: n + 1, default=0)
        except interlock.Unavailable:
            os.kill(pid, signal.SIGCONT)
        else:
            return


@pytest.mark.slow
def test_a_stopped_process_that_was_replaced_writes_nothing(
    place: Place, shared: interlock.Space
) -> None:
    one, heard = hanging(place)
    assert one.pid is not None
    stop_outside_of_a_commit(one.pid, place)
    saver = Saver(shared)
    graph = in_two_steps(saver, lambda _: said("first"), lambda _: said("second"))
    with saver.run("thread", once="hello-1") as config:
        graph.invoke(None, config)
    os.kill(one.pid, signal.SIGCONT)
    heard.send("go on")
    assert heard.recv() == "fenced: Fenced"
    one.join()
    assert graph.get_state(THREAD).values["messages"] == ["hello", "first", "second"]


def test_a_run_that_a_supervisor_ended_is_told(shared: interlock.Space) -> None:
    saver, there, go_on = Saver(shared), threading.Event(), threading.Event()

    def think(_: str) -> None:
        there.set()
        assert go_on.wait(60)

    graph = talking_in_threads(saver, think)

    def work() -> None:
        with saver.run("thread") as config:
            graph.invoke(said("zombie"), config, durability="sync")

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        assert there.wait(60)
        shared.reclaim("langgraph/run/thread")
        go_on.set()
        with pytest.raises(interlock.Fenced):
            working.result()
    assert graph.get_state(THREAD).values["messages"] == ["zombie"]


@pytest.mark.parametrize("on_busy", ["enqueue", "rollback", "interrupt"])
async def test_a_run_inside_of_a_run_of_the_same_thread_is_refused(
    space: Any, on_busy: str
) -> None:
    saver = Saver(space)

    async def nested() -> None:
        async with saver.run("thread", on_busy=on_busy):
            pass

    async def in_a_node(_: str) -> None:
        await asyncio.gather(nested())

    async def after() -> None:
        async with Saver(space).run("thread"):
            pass

    async with saver.run("thread") as config:
        for inner in (
            nested,
            lambda: asyncio.wait_for(nested(), 30),
            lambda: talking(saver, in_a_node).ainvoke(said("hello"), config),
        ):
            with pytest.raises(interlock.Invalid, match="wait for itself"):
                await inner()
        async with saver.run("other"):
            pass
        waiting = asyncio.create_task(after(), context=contextvars.Context())
    await waiting
    await nested()


def test_a_run_inside_of_a_run_is_refused_in_threads_of_a_graph(shared: interlock.Space) -> None:
    saver = Saver(shared)

    def think(_: str) -> None:
        with saver.run("thread"):
            pass

    graph = talking_in_threads(saver, think)
    with saver.run("thread") as config, pytest.raises(interlock.Invalid, match="wait for itself"):
        graph.invoke(said("hello"), config)
    think("free again")
