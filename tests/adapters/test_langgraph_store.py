"""The LangGraph store: it refuses what was computed from the past, and takes any text."""

from __future__ import annotations

import asyncio
import contextvars
import operator
import secrets
import threading
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from langgraph.types import RetryPolicy

import interlock
from interlock.adapters.langgraph import Store
from tests.adapters.langgraph_places import Place, in_threads, place, space
from tests.processes.writers import together

__all__ = ["place", "space"]  # fixtures

NODES = 8
AT_ONCE: Any = {"max_concurrency": NODES}  # threads
MEMORIES = ("memories", "team")


class State(TypedDict):
    done: Annotated[int, operator.add]


def graph_of(node: Any, store: BaseStore, retry: RetryPolicy | None = None) -> Any:
    """A graph of parallel nodes, each `node(number)`."""
    builder = StateGraph(State)
    for number in range(NODES):
        builder.add_node(f"node{number}", node(number), retry_policy=retry)
        builder.add_edge(START, f"node{number}")
    return builder.compile(store=store)


def adding(gate: threading.Barrier | None) -> Any:
    """Nodes that add their number to what all share; the first read of each is at one moment."""
    waited = set()

    def made(number: int) -> Any:
        def node(state: State, *, store: BaseStore) -> dict[str, int]:
            item = store.get(MEMORIES, "notes")
            if gate is not None and number not in waited:
                waited.add(number)
                gate.wait(30)
            notes = [] if item is None else item.value["notes"]
            store.put(MEMORIES, "notes", {"notes": [*notes, number]})
            return {"done": 1}

        return node

    return made


def kept(store: BaseStore) -> list[int]:
    item = store.get(MEMORIES, "notes")
    return [] if item is None else sorted(item.value["notes"])


QUICK = RetryPolicy(max_attempts=50, initial_interval=0.001, max_interval=0.01)


def test_langgraphs_own_store_loses_what_parallel_nodes_put() -> None:
    store = InMemoryStore()
    assert graph_of(adding(threading.Barrier(NODES)), store).invoke({"done": 0}, AT_ONCE) == {
        "done": NODES
    }
    assert len(kept(store)) == 1


def test_parallel_nodes_keep_everything_with_a_retry_policy(space: interlock.Space) -> None:
    store = Store(space)
    graph = graph_of(adding(threading.Barrier(NODES)), store, QUICK)
    assert graph.invoke({"done": 0}, AT_ONCE) == {"done": NODES}
    assert kept(store) == list(range(NODES))


def test_without_a_retry_policy_the_conflict_reaches_the_caller(space: interlock.Space) -> None:
    graph = graph_of(adding(threading.Barrier(NODES)), Store(space))
    with pytest.raises(interlock.Conflict) as caught:
        graph.invoke({"done": 0}, AT_ONCE)
    assert caught.value.retryable
    retried: Any = RetryPolicy().retry_on
    assert retried(caught.value), "LangGraph runs the node again by default"


async def test_parallel_async_nodes_keep_everything(place: Place) -> None:
    gate = asyncio.Barrier(NODES)

    def made(number: int) -> Any:
        attempts = iter(range(1000))

        async def node(state: State, *, store: BaseStore) -> dict[str, int]:
            item = await store.aget(MEMORIES, "notes")
            if next(attempts) == 0:
                await gate.wait()
            notes = [] if item is None else item.value["notes"]
            await store.aput(MEMORIES, "notes", {"notes": [*notes, number]})
            return {"done": 1}

        return node

    async with place.open_async() as opened:
        store = Store(opened)
        assert await graph_of(made, store, QUICK).ainvoke({"done": 0}) == {"done": NODES}
        item = await store.aget(MEMORIES, "notes")
        assert item is not None
        assert sorted(item.value["notes"]) == list(range(NODES))
        with pytest.raises(interlock.Invalid, match="open_async"):
            store.get(MEMORIES, "notes")


def test_what_was_read_outside_of_a_graph_does_not_bind_its_nodes(space: interlock.Space) -> None:
    """Nodes that put without reading overwrite each other, as LangGraph's own tests have it."""
    store = Store(space)
    store.put(MEMORIES, "last", {"by": -1})

    def made(number: int) -> Any:
        def node(state: State, *, store: BaseStore) -> dict[str, int]:
            store.put(MEMORIES, "last", {"by": number})
            return {"done": 1}

        return node

    for _ in range(2):
        assert store.get(MEMORIES, "last") is not None
        assert graph_of(made, store).invoke({"done": 0}, AT_ONCE) == {"done": NODES}
    assert store.search(MEMORIES)[0].value["by"] in range(NODES)


async def test_what_a_node_reads_in_tasks_below_it_counts(space: interlock.Space) -> None:
    store = Store(space)
    store.put(MEMORIES, "a", {"n": 1})
    store.put(MEMORIES, "b", {"n": 1})

    def made(number: int) -> Any:
        async def node(state: State, *, store: BaseStore) -> dict[str, int]:
            if number:
                return {"done": 1}
            await asyncio.gather(store.aget(MEMORIES, "a"), store.aget(MEMORIES, "b"))
            contextvars.Context().run(store.put, MEMORIES, "a", {"n": 2})
            with pytest.raises(interlock.Conflict):
                await store.aput(MEMORIES, "a", {"n": 3})
            await store.aput(MEMORIES, "b", {"n": 2})
            return {"done": 1}

        return node

    await graph_of(made, store).ainvoke({"done": 0})
    assert {item.key: item.value["n"] for item in store.search(MEMORIES)} == {"a": 2, "b": 2}


async def test_tasks_that_begin_with_the_same_reads_go_their_own_ways(
    space: interlock.Space,
) -> None:
    store = Store(space)
    store.put(MEMORIES, "k", {"n": 0})
    both_have_read, first_has_put = asyncio.Barrier(2), asyncio.Event()

    async def add(first: bool) -> None:
        item = await store.aget(MEMORIES, "k")
        assert item is not None
        await both_have_read.wait()
        if not first:
            await first_has_put.wait()
        try:
            await store.aput(MEMORIES, "k", {"n": item.value["n"] + 1})
        finally:
            first_has_put.set()

    assert await store.aget(MEMORIES, "k") is not None
    done = await asyncio.gather(add(True), add(False), return_exceptions=True)
    assert list(map(type, done)) == [type(None), interlock.Conflict]


# What is refused, and what is not


def elsewhere(call: Any, *arguments: Any) -> Any:
    """Call as another task would."""
    return contextvars.Context().run(call, *arguments)


def test_a_put_of_what_has_moved_since_it_was_read_is_refused(space: interlock.Space) -> None:
    store = Store(space)
    store.put(MEMORIES, "k", {"n": 1})
    assert store.get(MEMORIES, "k") is not None
    elsewhere(store.put, MEMORIES, "k", {"n": 2})
    for _ in range(2):  # until it is read again
        with pytest.raises(interlock.Conflict) as caught:
            store.put(MEMORIES, "k", {"n": 10})
        assert caught.value.record.value["value"] == {"n": 2}
    with pytest.raises(interlock.Conflict):
        store.delete(MEMORIES, "k")
    assert store.search(MEMORIES)[0].value == {"n": 2}
    store.put(MEMORIES, "k", {"n": 3})
    store.put(MEMORIES, "k", {"n": 4})  # its own write is no surprise
    elsewhere(store.delete, MEMORIES, "k")
    with pytest.raises(interlock.Conflict):
        store.put(MEMORIES, "k", {"n": 5})
    store.delete(MEMORIES, "k")  # it is gone: nothing to refuse
    assert store.get(MEMORIES, "k") is None


def test_what_was_read_as_absent_is_not_overwritten(space: interlock.Space) -> None:
    store = Store(space)
    assert store.get(MEMORIES, "k") is None
    elsewhere(store.put, MEMORIES, "k", {"by": "other"})
    with pytest.raises(interlock.Conflict):
        store.put(MEMORIES, "k", {"by": "me"})
    with pytest.raises(interlock.Conflict):
        store.delete(MEMORIES, "k")
    assert elsewhere(store.get, MEMORIES, "k").value == {"by": "other"}


def test_a_refused_write_takes_the_whole_batch_with_it(space: interlock.Space) -> None:
    store = Store(space)
    assert store.get(MEMORIES, "a") is None
    elsewhere(store.put, MEMORIES, "a", {"n": 1})
    with pytest.raises(interlock.Conflict):
        store.batch([PutOp(MEMORIES, "b", {"n": 2}), PutOp(MEMORIES, "a", {"n": 2})])
    assert [item.key for item in store.search(MEMORIES)] == ["a"]


def test_what_was_never_read_is_overwritten_by_all(space: interlock.Space) -> None:
    store = Store(space)
    puts = [lambda n=n: store.put(MEMORIES, "last", {"by": n}) for n in range(NODES)]
    assert in_threads(*puts) == [None] * NODES
    record = space.read("langgraph/store/memories/team/=last")
    assert record.version == NODES


# Updates


def _one_more(value: Any) -> dict[str, int]:
    return {"n": value["n"] + 1}


def _both(fn: Any, number: int) -> list[Any]:
    """Half of them coroutine functions, half plain ones."""
    return [fn, _one_more] * (number // 2)


def test_updates_from_threads_lose_nothing(space: interlock.Space) -> None:
    store = Store(space)
    done = in_threads(
        *[lambda: store.update(MEMORIES, "count", _one_more, default={"n": 0})] * NODES
    )
    assert sorted(value["n"] for value in done) == list(range(1, NODES + 1))


async def test_async_updates_lose_nothing_and_may_use_the_store(space: interlock.Space) -> None:
    store = Store(space)
    many = 3 * NODES  # more than the loop has threads

    async def more(value: Any) -> dict[str, int]:
        assert await store.aget(MEMORIES, "other") is None
        return _one_more(value)

    async with asyncio.timeout(60):
        await asyncio.gather(
            *(store.aupdate(MEMORIES, "count", fn, default={"n": 0}) for fn in _both(more, many))
        )
    item = await store.aget(MEMORIES, "count")
    assert item is not None
    assert item.value == {"n": many}


async def test_updates_of_an_async_space_lose_nothing(place: Place) -> None:
    async def more(value: Any) -> dict[str, int]:
        return _one_more(value)

    async with place.open_async() as opened:
        store = Store(opened)
        await asyncio.gather(
            *(store.aupdate(MEMORIES, "count", fn, default={"n": 0}) for fn in _both(more, NODES))
        )
        item = await store.aget(MEMORIES, "count")
        assert item is not None
        assert item.value == {"n": NODES}


def test_an_update_counts_as_read(space: interlock.Space) -> None:
    store = Store(space)
    store.update(MEMORIES, "count", _one_more, default={"n": 0})
    store.put(MEMORIES, "count", {"n": 5})
    elsewhere(store.put, MEMORIES, "count", {"n": 6})
    with pytest.raises(interlock.Conflict):
        store.put(MEMORIES, "count", {"n": 7})


def test_an_update_that_makes_no_mapping_is_refused(space: interlock.Space) -> None:
    store = Store(space)
    with pytest.raises(interlock.Invalid, match="mapping"):
        store.update(MEMORIES, "count", lambda value: 1)  # type: ignore[arg-type,return-value]  # on purpose
    with pytest.raises(InvalidNamespaceError):
        store.update(("langgraph",), "count", lambda value: {})
    assert space.scan() == {}


def _agent(urls: list[str], name: str, index: int, gate: Any, answers: Any) -> None:
    """One process: half of its notes by `update`, half by `get` and `put` until it went through."""
    refused = 0
    for url in urls:
        with interlock.open(url, name) as opened:
            gate.wait()
            refused += sum(_keep(Store(opened), index * 10 + number) for number in range(10))
    answers.put(refused)


def _keep(store: Store, note: int) -> int:
    if note % 2:
        store.update(MEMORIES, "notes", lambda old: _with(old, note))
        return 0
    refused = 0
    while True:
        item = store.get(MEMORIES, "notes")
        try:
            store.put(MEMORIES, "notes", _with(item and item.value, note))
        except (interlock.Conflict, interlock.Held):
            refused += 1
        else:
            return refused


def _with(value: Any, note: int) -> dict[str, Any]:
    return {"notes": [*(value or {"notes": []})["notes"], note]}


@pytest.mark.slow
def test_processes_lose_nothing(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    """All kinds of stores in one go: starting a process that uses LangGraph takes seconds."""
    urls = [f"sqlite:///{tmp_path / 'store.db'}", postgres_url, redis_url]
    name = f"processes-{secrets.token_hex(8)}"
    together(_agent, 3, urls, name)
    for url in urls:
        with interlock.open(url, name) as opened:
            assert kept(Store(opened)) == list(range(30))


# Namespaces, keys and values that are out of the ordinary


STRANGE = ["a b", "ä/ö", "*", "{x}", "$rules", "..", "=", "#", "%41", " ", "x" * 600, "日本" * 90]


def test_any_text_is_a_label_or_a_key(space: interlock.Space) -> None:
    store, memory = Store(space), InMemoryStore()
    labels = [text for text in STRANGE if "." not in text]
    for each in (store, memory):
        for key in ["", *STRANGE]:
            each.put(("deep", *labels, key.replace(".", "") or "-"), key, {"key": key})
        for label in labels:
            each.put((label,), "k", {"label": label})
    for namespace in [(), ("deep",), *((label,) for label in labels), ("deep", *labels[:10])]:
        found = {(i.namespace, i.key): i.value for i in store.search(namespace, limit=100)}
        wanted = {(i.namespace, i.key): i.value for i in memory.search(namespace, limit=100)}
        assert found == wanted
    for key in ["", *STRANGE]:
        item = store.get(("deep", *labels, key.replace(".", "") or "-"), key)
        assert item is not None
        assert item.value == {"key": key}
    assert all(len(key.encode()) <= 512 for key in space.scan())


@pytest.mark.parametrize(
    "op",
    [
        GetOp(("a.b",), "k"),
        PutOp(("a", ""), "k", {}),
        SearchOp(("a.b",)),
        PutOp(("a", 1), "k", {}),  # type: ignore[arg-type]  # on purpose
        GetOp(("a\x00",), "k"),
    ],
)
def test_a_namespace_that_langgraph_refuses_is_refused_in_a_batch(op: Any) -> None:
    with interlock.open("sqlite://") as space, pytest.raises(InvalidNamespaceError):
        Store(space).batch([op])


def test_values_that_are_no_json_or_too_large_are_refused_with_the_limit() -> None:
    with interlock.open("sqlite://", max_value_bytes=1000) as space:
        store = Store(space)
        with pytest.raises(interlock.Invalid, match="1,000"):
            store.put(MEMORIES, "k", {"text": "x" * 1000})
        with pytest.raises(interlock.Invalid, match="JSON"):
            store.put(MEMORIES, "k", {"at": object()})
        with pytest.raises(interlock.Invalid, match="surrogate"):
            store.put(MEMORIES, "\ud800", {})
        assert space.scan() == {}
        space.create("langgraph/store/memories/team/=x", 1)
        with pytest.raises(interlock.Invalid, match="no item"):
            store.get(MEMORIES, "x")
