"""The LangGraph store: it refuses what was computed from the past."""

from __future__ import annotations

import asyncio
import contextvars
import operator
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore, InvalidNamespaceError, PutOp
from langgraph.store.memory import InMemoryStore
from langgraph.types import RetryPolicy

import interlock
from interlock.adapters.langgraph import Store
from tests.adapters.langgraph_places import Place, in_threads, place, space
from tests.adapters.processes import Nursery

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


def test_nodes_that_put_without_reading_are_refused_unless_asked_for(
    space: interlock.Space,
) -> None:
    def made(number: int) -> Any:
        def node(state: State, *, store: BaseStore) -> dict[str, int]:
            store.put(MEMORIES, "last", {"by": number})
            return {"done": 1}

        return node

    store, overwriting = Store(space), Store(space, unread="overwrite")
    store.put(MEMORIES, "last", {"by": -1})
    assert store.get(MEMORIES, "last") is not None  # outside of the graph
    for _ in range(2):
        assert graph_of(made, overwriting).invoke({"done": 0}, AT_ONCE) == {"done": NODES}
    with pytest.raises(interlock.Conflict, match="has not read it"):
        graph_of(made, store).invoke({"done": 0}, AT_ONCE)
    assert store.search(MEMORIES)[0].value["by"] in range(NODES)


async def test_what_a_node_reads_in_tasks_below_it_counts(space: interlock.Space) -> None:
    store = Store(space)
    for key in ("a", "b", "c"):
        store.put(MEMORIES, key, {"n": 1})

    def made(number: int) -> Any:
        async def node(state: State, *, store: BaseStore) -> dict[str, int]:
            if number:
                return {"done": 1}
            await asyncio.gather(store.aget(MEMORIES, "a"), store.aget(MEMORIES, "b"))
            await asyncio.to_thread(store.get, MEMORIES, "c")
            others_put(space, "a", {"n": 2})
            with pytest.raises(interlock.Conflict):
                await store.aput(MEMORIES, "a", {"n": 3})
            for key in ("b", "c"):
                await asyncio.wait_for(store.aput(MEMORIES, key, {"n": 2}), 30)
            return {"done": 1}

        return node

    await graph_of(made, store).ainvoke({"done": 0})
    values = {item.key: item.value["n"] for item in store.search(MEMORIES)}
    assert values == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("child", [False, True], ids=["", "child"])
async def test_coroutines_of_one_node_do_not_write_over_each_other(
    space: interlock.Space, child: bool
) -> None:
    done: list[Any] = []

    def made(number: int) -> Any:
        async def node(state: State, *, store: BaseStore) -> dict[str, int]:
            async def add(n: int) -> None:
                read = store.aget(MEMORIES, "notes")
                item = await (asyncio.create_task(read) if child else read)
                await asyncio.sleep(0)
                notes = [] if item is None else item.value["notes"]
                await store.aput(MEMORIES, "notes", {"notes": [*notes, n]})

            if number == 0:
                done.extend(await asyncio.gather(*map(add, range(5)), return_exceptions=True))
            return {"done": 1}

        return node

    store = Store(space)
    await graph_of(made, store).ainvoke({"done": 0})
    assert {type(each) for each in done} <= {type(None), interlock.Conflict}
    assert len(kept(store)) == done.count(None) > 0


def test_a_node_that_is_tried_again_is_not_held_to_what_it_read_before(
    space: interlock.Space,
) -> None:
    store = Store(space)
    store.put(MEMORIES, "k", {"n": 0})
    attempts: list[int] = []

    def made(number: int) -> Any:
        async def node(state: State, *, store: BaseStore) -> dict[str, int]:
            if number:
                return {"done": 1}

            async def look() -> Any:
                return await store.aget(MEMORIES, "k")

            item, _ = await asyncio.gather(asyncio.create_task(look()), look())
            attempts.append(item.value["n"])
            if len(attempts) == 1:
                others_put(space, "k", {"n": 1})
            await store.aput(MEMORIES, "k", {"n": item.value["n"] + 10})
            return {"done": 1}

        return node

    asyncio.run(graph_of(made, store, QUICK).ainvoke({"done": 0}))
    assert attempts == [0, 1]
    assert store.search(MEMORIES)[0].value == {"n": 11}


async def test_what_a_node_has_awaited_in_other_tasks_is_its_own_read(
    space: interlock.Space,
) -> None:
    store = Store(space)
    store.put(MEMORIES, "k", {"n": 0})

    def made(number: int) -> Any:
        async def node(state: State, *, store: BaseStore) -> dict[str, int]:
            if number:
                return {"done": 1}
            await asyncio.gather(store.aget(MEMORIES, "k"), store.asearch(MEMORIES))
            others_put(space, "k", {"n": 1})
            for n in (2, 3, 4):  # it reads again, and is not held to what it read before
                reads = (store.aget(MEMORIES, "k"), store.asearch(MEMORIES))
                await asyncio.wait_for(asyncio.gather(*reads), 30)
                await asyncio.create_task(store.aput(MEMORIES, "k", {"n": n}))
            return {"done": 1}

        return node

    await graph_of(made, store).ainvoke({"done": 0})
    assert store.search(MEMORIES)[0].value == {"n": 4}


async def test_of_writes_at_once_from_one_read_of_a_node_one_counts(
    space: interlock.Space,
) -> None:
    store = Store(space)
    store.put(MEMORIES, "k", {})
    done: list[Any] = []

    def made(number: int) -> Any:
        async def node(state: State, *, store: BaseStore) -> dict[str, int]:
            if number == 0:
                item = await asyncio.wait_for(store.aget(MEMORIES, "k"), 30)
                assert item is not None
                puts = [store.aput(MEMORIES, "k", {**item.value, str(n): n}) for n in range(5)]
                done.extend(await asyncio.gather(*puts, return_exceptions=True))
            return {"done": 1}

        return node

    await graph_of(made, store).ainvoke({"done": 0})
    assert sorted(type(each).__name__ for each in done) == ["Conflict"] * 4 + ["NoneType"]
    assert len(store.search(MEMORIES)[0].value) == 1


# At a URL


def test_one_line_opens_a_store_at_a_url(place: Place) -> None:
    name = secrets.token_hex(8)
    with Store(place.url, space_name=name, agent="ann") as store:
        store.setup()
        store.put(MEMORIES, "k", {"n": 1})
        opened = store.space
        assert isinstance(opened, interlock.Space)
        assert opened.read("langgraph/store/memories/team/=k").writer == "ann"
    with pytest.raises(interlock.InterlockError):
        opened.scan()  # it was closed
    plain = Store.from_conn_string(place.url, space_name=name, ttl={"default_ttl": 1})
    item = plain.get(MEMORIES, "k")
    assert item is not None
    assert asyncio.run(plain.aget(MEMORIES, "k")) == item
    plain.close()


async def test_one_line_opens_a_store_for_asyncio(place: Place) -> None:
    async with Store.from_conn_string(place.url, space_name=secrets.token_hex(8)) as store:
        await store.setup()
        assert isinstance(store.space, interlock.AsyncSpace)
        await store.aput(MEMORIES, "k", {"n": 1})
        assert await store.aget(MEMORIES, "k") == (await store.asearch(MEMORIES))[0]
        item = await asyncio.to_thread(store.get, MEMORIES, "k")
        assert item is not None
    with pytest.raises(interlock.Invalid):
        Store(3)  # type: ignore[arg-type]  # a mistake


# Outside of graphs: the version travels with the value


async def _get(store: Store, how: str) -> Any:
    match how:
        case "gather":
            return (await asyncio.gather(store.aget(MEMORIES, "notes")))[0]
        case "to_thread":
            return await asyncio.to_thread(store.get, MEMORIES, "notes")
        case "wait_for":
            return await asyncio.wait_for(store.aget(MEMORIES, "notes"), 30)
    return (await store.asearch(MEMORIES))[0]


@pytest.mark.parametrize("how", ["gather", "to_thread", "wait_for", "search"])
async def test_reads_in_any_context_protect_the_write_that_follows(
    space: interlock.Space, how: str
) -> None:
    store = Store(space)
    store.put(MEMORIES, "notes", {"notes": []})
    all_have_read, writing = asyncio.Barrier(5), asyncio.Lock()

    async def add(number: int, named: bool) -> None:
        item = await _get(store, how)
        await all_have_read.wait()
        async with writing:  # one after the other, so that only what was read refuses a write
            if named:
                fresh = {"notes": [*item.value["notes"], number]}
                await store.aput(MEMORIES, "notes", fresh, base=item)
            else:
                item.value["notes"].append(number)
                await store.aput(MEMORIES, "notes", item.value)

    done = await asyncio.gather(*(add(n, n % 2 == 0) for n in range(5)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["Conflict"] * 4 + ["NoneType"]
    assert kept(store) == [done.index(None)]


def test_a_thread_of_a_pool_is_not_held_to_what_an_earlier_job_read(
    space: interlock.Space,
) -> None:
    store, overwriting = Store(space), Store(space, unread="overwrite")
    store.put(MEMORIES, "k", {"n": 0})
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.get, MEMORIES, "k").result()
        others_put(space, "k", {"n": 1})
        pool.submit(overwriting.put, MEMORIES, "k", {"n": 2}).result()
        item = pool.submit(store.get, MEMORIES, "k").result()
        assert item is not None
        pool.submit(store.put, MEMORIES, "k", item.value | {"n": 3}).result()
    assert store.search(MEMORIES)[0].value == {"n": 3}


# What is refused, and what is not


def others_put(space: interlock.Space, key: str, value: dict[str, Any]) -> None:
    """Put as another agent would, over whatever is there."""
    contextvars.Context().run(Store(space, unread="overwrite").put, MEMORIES, key, value)


def test_a_put_of_what_has_moved_since_it_was_read_is_refused(space: interlock.Space) -> None:
    store = Store(space)
    store.put(MEMORIES, "k", {"n": 1})
    item = store.get(MEMORIES, "k")
    assert item is not None
    others_put(space, "k", {"n": 2})
    for value, base in ((item.value, item), ({"n": 10}, item), ({"n": 10}, item.value)):
        with pytest.raises(interlock.Conflict) as caught:
            store.put(MEMORIES, "k", value, base=base)
        assert caught.value.record.value["value"] == {"n": 2}
    with pytest.raises(interlock.Conflict):
        store.put(MEMORIES, "k", item.value.copy())
    with pytest.raises(interlock.Conflict):
        store.delete(MEMORIES, "k", base=item)
    found = store.search(MEMORIES)[0]
    assert found.value == {"n": 2}
    for n in (3, 4):  # its own write is no surprise
        found.value["n"] = n
        store.put(MEMORIES, "k", found.value)
    store.delete(MEMORIES, "k", base=store.get(MEMORIES, "k"))
    with pytest.raises(interlock.Conflict):
        store.put(MEMORIES, "k", found.value)
    store.delete(MEMORIES, "k", base=found)  # it is gone: nothing to refuse
    assert store.get(MEMORIES, "k") is None


def test_what_was_never_read_is_not_overwritten(space: interlock.Space) -> None:
    store = Store(space)
    store.put(MEMORIES, "k", {"by": "other"})
    store.put(MEMORIES, "other", {})
    other = store.get(MEMORIES, "other")
    assert other is not None
    for refused in (
        lambda: store.put(MEMORIES, "k", {"by": "me"}),
        lambda: store.put(MEMORIES, "k", other.value),  # read from another key
        lambda: store.put(MEMORIES, "k", {"by": "me"}, base=None),
        lambda: store.delete(MEMORIES, "k"),
        lambda: store.batch([PutOp(MEMORIES, "new", {}), PutOp(MEMORIES, "k", {})]),
    ):
        with pytest.raises(interlock.Conflict):
            refused()
    with pytest.raises(interlock.Invalid, match="base="):
        store.put(MEMORIES, "k", {"by": "me"}, base=other)
    with pytest.raises(interlock.Invalid, match="base="):
        store.put(MEMORIES, "k", {"by": "me"}, base={"by": "other"})
    assert {item.key: item.value for item in store.search(MEMORIES)} == {
        "k": {"by": "other"},
        "other": {},
    }


async def test_async_puts_and_deletes_name_their_base(place: Place) -> None:
    async with place.open_async() as opened:
        store = Store(opened)
        await store.aput(MEMORIES, "k", {"n": 1}, base=None)
        with pytest.raises(interlock.Conflict, match="has not read it"):
            await store.aput(MEMORIES, "k", {"n": 2})
        with pytest.raises(interlock.Conflict):
            await store.adelete(MEMORIES, "k")
        item = await store.aget(MEMORIES, "k")
        await store.aput(MEMORIES, "k", {"n": 2}, base=item)
        with pytest.raises(interlock.Conflict):
            await store.adelete(MEMORIES, "k", base=item)
        await store.adelete(MEMORIES, "k", base=await store.aget(MEMORIES, "k"))
        assert await store.aget(MEMORIES, "k") is None


def test_a_refused_write_takes_the_whole_batch_with_it(space: interlock.Space) -> None:
    store = Store(space)
    store.put(MEMORIES, "a", {"n": 0})
    item = store.get(MEMORIES, "a")
    assert item is not None
    others_put(space, "a", {"n": 1})
    with pytest.raises(interlock.Conflict):
        store.batch([PutOp(MEMORIES, "b", {"n": 2}), PutOp(MEMORIES, "a", item.value)])
    assert [item.key for item in store.search(MEMORIES)] == ["a"]


def test_of_two_creates_at_once_one_is_refused(space: interlock.Space) -> None:
    store = Store(space)
    gate = threading.Barrier(2)

    class Late(dict[str, Any]):
        """A value that both calls look at before either of them commits."""

        def items(self) -> Any:
            gate.wait(30)
            return super().items()

    def create() -> Any:
        try:
            return store.put(MEMORIES, "k", Late(n=1))
        except interlock.Conflict as conflict:
            return type(conflict)

    done = in_threads(create, create)
    assert sorted(map(str, done)) == sorted(map(str, [None, interlock.Conflict]))


def test_new_items_are_put_without_looking_first(
    space: interlock.Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(space)
    store.put(MEMORIES, "dead", {"n": 0}, ttl=0)
    monkeypatch.setattr(interlock.Space, "read_many", None, raising=False)
    store.batch([PutOp(MEMORIES, key, {"n": 1}) for key in ("a", "b")])
    with pytest.raises(interlock.Conflict, match=r"'a' in .* has not read it"):
        store.batch([PutOp(MEMORIES, "c", {}), PutOp(MEMORIES, "a", {})])
    monkeypatch.undo()
    store.put(MEMORIES, "dead", {"n": 1})
    assert sorted(item.key for item in store.search(MEMORIES)) == ["a", "b", "dead"]


def test_what_was_never_read_is_overwritten_by_all_where_that_is_asked_for(
    space: interlock.Space,
) -> None:
    store = Store(space, unread="overwrite")
    puts = [lambda n=n: store.put(MEMORIES, "last", {"by": n}) for n in range(NODES)]
    assert in_threads(*puts) == [None] * NODES
    record = space.read("langgraph/store/memories/team/=last")
    assert record.version == NODES
    with pytest.raises(interlock.Invalid, match="unread="):
        Store(space, unread="keep")  # type: ignore[arg-type]  # a mistake


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


def test_what_an_update_returns_counts_as_read(space: interlock.Space) -> None:
    store = Store(space)
    value = store.update(MEMORIES, "count", _one_more, default={"n": 0})
    value["n"] = 5
    store.put(MEMORIES, "count", value)
    others_put(space, "count", {"n": 6})
    with pytest.raises(interlock.Conflict):
        store.put(MEMORIES, "count", value)


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
            store.put(MEMORIES, "notes", _with(item and item.value, note), base=item)
        except (interlock.Conflict, interlock.Held):
            refused += 1
        else:
            return refused


def _with(value: Any, note: int) -> dict[str, Any]:
    return {"notes": [*(value or {"notes": []})["notes"], note]}


@pytest.mark.slow
def test_processes_lose_nothing(
    nursery: Nursery, tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    """All kinds of stores in one go: starting a process that uses LangGraph takes seconds."""
    urls = [f"sqlite:///{tmp_path / 'store.db'}", postgres_url, redis_url]
    name = f"processes-{secrets.token_hex(8)}"
    nursery.together(_agent, 3, urls, name)
    for url in urls:
        with interlock.open(url, name) as opened:
            assert kept(Store(opened)) == list(range(30))
