"""What the checkpointer keeps, what it reads for it, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

import interlock
from interlock.adapters.langgraph import Saver
from interlock.adapters.langgraph.keys import segment
from tests.adapters.langgraph_graphs import Talk, in_two_steps, said
from tests.processes.writers import Place

THREAD: Any = {"configurable": {"thread_id": "thread"}}
NODES: tuple[Any, Any] = (lambda _: said("first"), lambda _: said("second"))
MANY = 100  # checkpoints: more than fit in a few pages of the index


@pytest.fixture
def space(place: Place) -> Iterator[interlock.Space]:
    """A space of the synchronous API."""
    with interlock.open(place.url, space=place.space, agent="app") as opened:
        yield opened


@pytest.fixture
def memory() -> Iterator[interlock.Space]:
    """A space in memory, for what does not depend on the store."""
    with interlock.open("sqlite://", agent="app") as opened:
        yield opened


def put(
    saver: Saver,
    value: Any = "",
    parent: str | None = None,
    thread: str = "thread",
    **metadata: Any,
) -> str:
    """Store a checkpoint with one channel and return its id."""
    made = {**empty_checkpoint(), "id": str(uuid6(clock_seq=0)), "channel_values": {"c": value}}
    version = saver.get_next_version(None, None)
    made["channel_versions"] = {"c": version}
    conf = {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": parent}
    about: Any = {"source": "loop", "step": 1, **metadata}
    saver.put({"configurable": conf}, made, about, {"c": version})  # type: ignore[arg-type]  # a Checkpoint
    return str(made["id"])


def chain(saver: Saver, length: int, thread: str = "thread", **metadata: Any) -> list[str]:
    """Store checkpoints that follow one another."""
    ids: list[str] = []
    for number in range(length):
        ids.append(put(saver, number, ids[-1] if ids else None, thread, **metadata))
    return ids


def ids_of(saver: Saver, config: Any = None, **options: Any) -> list[str]:
    """Return the ids of what is listed."""
    wanted: Any = config or {"configurable": {"thread_id": "thread", "checkpoint_ns": ""}}
    return [each.checkpoint["id"] for each in saver.list(wanted, **options)]


def named(id: str | None, thread: str = "thread") -> Any:
    """Return a config that names a checkpoint."""
    return {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": id}}


def value_of(saver: Saver, id: str | None = None) -> Any:
    """Return what the channel holds."""
    found = saver.get_tuple(named(id))
    return None if found is None else found.checkpoint["channel_values"]["c"]


def keys_of(space: interlock.Space) -> list[str]:
    """Return the kinds of keys that there are, without who runs."""
    return sorted({key.split("/")[1] for key in space.scan("langgraph/")} - {"run"})


def test_values_larger_than_a_key_are_kept(space: interlock.Space) -> None:
    saver = Saver(space)
    large = "x" * 1_200_000
    graph = in_two_steps(saver, lambda _: said(large), lambda _: {})
    graph.invoke(said("small"), THREAD)
    assert graph.get_state(THREAD).values["messages"] == ["small", large]
    assert len(list(graph.get_state_history(THREAD))) == 4
    saver.prune(["thread"])
    assert graph.get_state(THREAD).values["messages"] == ["small", large]
    saver.delete_thread("thread")
    assert keys_of(space) == []


def test_deleting_a_thread_erases_it_where_asked_to(memory: interlock.Space) -> None:
    saver = Saver(memory)
    graph = in_two_steps(saver, lambda _: said("reply"), lambda _: {})
    graph.invoke(said("secret"), THREAD)
    other: Any = {"configurable": {"thread_id": "other"}}
    graph.invoke(said("kept"), other)
    saver.delete_thread("thread")
    before = [entry for entry in memory.log(prefix="langgraph/") if entry.value is not None]
    saver.delete_thread("thread", erase=True)
    left = [entry for entry in memory.log(prefix="langgraph/") if entry.value is not None]
    assert 0 < len(left) < len(before)
    of_thread = [entry.key for entry in left if "/thread" in entry.key]
    assert all(key.startswith(("langgraph/run/", "langgraph/run-id/")) for key in of_thread)
    assert graph.get_state(other).values["messages"] == ["kept", "reply"]
    graph.invoke(said("again"), THREAD)
    assert graph.get_state(THREAD).values["messages"] == ["again", "reply"]


def test_a_channel_that_does_not_change_is_stored_once(memory: interlock.Space) -> None:
    saver = Saver(memory)
    graph = in_two_steps(saver, lambda _: {}, lambda _: {})
    graph.invoke(said("x" * 10_000), THREAD)
    stored = [entry for entry in memory.log() if "x" * 10_000 in str(entry.value)]
    assert not stored, "it is packed"
    sizes = [len(str(entry.value)) for entry in memory.log(prefix="langgraph/blob/")]
    assert sum(size > 10_000 for size in sizes) == 2, "the input, and what it made of the state"


def test_branches_of_a_thread_do_not_share_versions(memory: interlock.Space) -> None:
    saver = Saver(memory)
    graph = in_two_steps(saver, *NODES)
    graph.invoke(said("start"), THREAD)
    start = [*graph.get_state_history(THREAD)][-2].config
    left = graph.update_state(start, said("left"))
    right = graph.update_state(start, said("right"))
    assert graph.get_state(left).values["messages"][-1] == "left"
    assert graph.get_state(right).values["messages"][-1] == "right"


def test_what_a_saver_has_just_stored_is_not_read_again(memory: interlock.Space) -> None:
    calls = list[str]()
    saver, other = Saver(memory), Saver(memory)
    first = put(saver)
    for name in ("read_many", "scan", "read", "transaction", "position"):
        setattr(memory, name, _told(getattr(memory, name), name, calls))
    second = put(saver, parent=first)
    assert calls == ["transaction"]
    calls.clear()
    third = put(other, parent=second)
    assert calls == ["read_many", "transaction"]
    calls.clear()
    put(saver, parent=third)  # it has not seen that one
    assert calls == ["read_many", "transaction"]
    calls.clear()
    for value in "vw":
        saver.put_writes(named(second), [("c", value), ("d", value)], "task")
    assert calls == ["transaction"] * 2
    other.put_writes(named(second), [("e", "x")], "task")
    assert calls[2:] == ["transaction", "read_many", "transaction"], "it is there, unknown to it"
    found = other.get_tuple(named(second))
    assert found is not None
    assert found.pending_writes == [("task", "c", "v"), ("task", "d", "v")]
    value_of(saver)
    calls.clear()
    value_of(saver)
    assert calls == ["position"]


def test_what_is_remembered_is_never_out_of_date(memory: interlock.Space) -> None:
    saver, other = Saver(memory), Saver(memory)
    id = put(saver)
    for writer in (other, saver):
        for each in (saver, other, saver):
            found = each.get_tuple(named(None))
            assert found is not None
            assert found.checkpoint["id"] == id
        writer.put_writes(named(id), [("c", f"by {writer is saver}")], f"task {writer is saver}")
        found = saver.get_tuple(named(None))
        assert found is not None
        assert [write[2] for write in found.pending_writes or ()] == [f"by {writer is saver}"]
        found.checkpoint["channel_values"]["mine"] = "changed"
        found.checkpoint["channel_versions"].clear()
        id = put(writer, parent=id)
        latest = saver.get_tuple(named(None))
        assert latest is not None
        assert latest.checkpoint["id"] == id
    other.delete_thread("thread")
    assert saver.get_tuple(named(None)) is None
    assert put(saver)


@pytest.mark.parametrize("limit", [1, 5])
def test_reading_does_not_read_the_history(memory: interlock.Space, limit: int) -> None:
    saver, read = Saver(memory), list[str]()
    ids = chain(saver, MANY)
    for name in ("read_many", "read", "scan"):
        setattr(memory, name, _seen(getattr(memory, name), read))
    assert ids_of(saver, limit=limit) == ids[::-1][:limit]
    assert len({key for key in read if "/checkpoint/" in key}) == limit
    read.clear()
    assert value_of(saver) == MANY - 1
    assert len(set(read)) <= 4


def _told(call: Any, name: str, calls: list[str]) -> Any:
    def called(*args: Any, **options: Any) -> Any:
        calls.append(name)
        return call(*args, **options)

    return called


def _seen(call: Any, read: list[str]) -> Any:
    def called(*args: Any, **options: Any) -> Any:
        found = call(*args, **options)
        read.extend(found if isinstance(found, dict) else [found.key])
        return found

    return called


def test_a_long_history_is_listed_newest_first(space: interlock.Space) -> None:
    saver = Saver(space)
    ids = chain(saver, MANY)
    assert ids_of(saver) == ids[::-1]
    assert ids_of(saver, before=named(ids[40]), limit=3) == ids[37:40][::-1]
    assert ids_of(saver, filter={"step": 2}) == []
    assert ids_of(saver, config={"configurable": {"thread_id": "thread"}}) == ids[::-1]
    assert [each.checkpoint["id"] for each in saver.list(None, limit=2)] == ids[::-1][:2]
    assert ids_of(saver, config=named(ids[3])) == [ids[3]]


def test_the_newest_is_the_last_that_was_stored_whatever_its_clock_said(
    memory: interlock.Space,
) -> None:
    saver = Saver(memory)
    later, first = str(uuid6(clock_seq=0)), chain(saver, 1)[0]
    assert later < first
    made: Any = {**empty_checkpoint(), "id": later}
    saver.put(named(first), made, {"source": "loop", "step": 2}, {})
    found = saver.get_tuple(named(None))
    assert found is not None
    assert found.checkpoint["id"] == later


def test_one_run_follows_a_checkpoint(space: interlock.Space) -> None:
    saver = Saver(space)
    (first,) = chain(saver, 1)
    put(saver, "mine", first)
    with pytest.raises(interlock.Conflict) as conflict:
        put(saver, "theirs", first)
    assert conflict.value.key == f"langgraph/next/thread/{first}"
    assert conflict.value.writer == "app"
    with pytest.raises(interlock.Conflict):
        put(saver, "another beginning")
    put(saver, "an update from outside", first, source="update")
    fork: Any = {**named(first), "metadata": {"checkpoint_id": first}}
    saver.put(fork, empty_checkpoint(), {"source": "input", "step": 2}, {})
    assert len(ids_of(saver)) == 4


def test_nothing_follows_a_checkpoint_that_was_removed(space: interlock.Space) -> None:
    saver = Saver(space)
    first, second = chain(saver, 2)
    saver.delete_thread("thread")
    with pytest.raises(interlock.Conflict) as conflict:
        put(saver, "late", second)
    assert not conflict.value.record.exists
    assert saver.get_tuple(named(None)) is None
    assert keys_of(space) == []
    assert first != put(saver, "a new beginning")


def test_pruning_keeps_the_newest_and_goes_on(space: interlock.Space) -> None:
    saver = Saver(space)
    ids = list[str]()
    for number in range(MANY):
        ids.append(put(saver, [number], ids[-1] if ids else None))
    saver.put_writes(named(ids[-1]), [("c", "pending")], "task")
    saver.put_writes(named(ids[0]), [("c", "gone")], "task")
    saver.prune(["thread", "another"])
    assert ids_of(saver) == [ids[-1]]
    assert value_of(saver) == [MANY - 1]
    kinds = [key.split("/")[1] for key in space.scan("langgraph/")]
    assert kinds.count("blob") == kinds.count("checkpoint") == kinds.count("writes") == 1
    assert "page" not in kinds
    last = put(saver, "next", ids[-1])
    assert ids_of(saver) == [last, ids[-1]]
    with pytest.raises(interlock.Invalid, match="strategy"):
        saver.prune(["thread"], strategy="keep_all")


def test_a_run_id_is_removed_from_every_thread(space: interlock.Space) -> None:
    saver = Saver(space)
    for thread in ("one", "two"):
        base = chain(saver, 40, thread, run_id="kept")
        put(saver, "gone", base[-1], thread, run_id="gone")
    saver.copy_thread("two", "three")
    saver.delete_for_runs(["gone", "never"])
    for thread in ("one", "two", "three"):
        found = saver.get_tuple({"configurable": {"thread_id": thread}})
        assert found is not None
        assert found.checkpoint["channel_values"] == {"c": 39}
        assert found.metadata["run_id"] == "kept"
        put(saver, "goes on", found.checkpoint["id"], thread)


def test_a_copy_is_complete_and_its_own(space: interlock.Space) -> None:
    saver = Saver(space)
    ids = chain(saver, MANY)
    saver.put_writes(named(ids[-1]), [("c", "pending")], "task")
    saver.copy_thread("thread", "copy")
    saver.delete_thread("thread")
    config: Any = {"configurable": {"thread_id": "copy", "checkpoint_ns": ""}}
    assert ids_of(saver, config) == ids[::-1]
    copied = saver.get_tuple(config)
    assert copied is not None
    assert copied.pending_writes == [("task", "c", "pending")]
    assert copied.checkpoint["channel_values"] == {"c": MANY - 1}
    with pytest.raises(interlock.Conflict):
        saver.copy_thread("copy", "copy")


@pytest.mark.parametrize("thread", ["a/b", "..", " ", "*{}", "ж" * 300, "line\nfeed"])
def test_any_text_is_a_thread(memory: interlock.Space, thread: str) -> None:
    saver = Saver(memory)
    put(saver, thread="a")
    put(saver, "mine", thread=thread)
    found = saver.get_tuple({"configurable": {"thread_id": thread}})
    assert found is not None
    assert found.config["configurable"]["thread_id"] == thread
    assert len(list(saver.list({"configurable": {"thread_id": thread}}))) == 1
    saver.delete_thread(thread)
    assert len(list(saver.list(None))) == 1


def test_no_two_texts_share_a_segment() -> None:
    texts = ["", "%", ".", "..", "%2E", "a/b", "a%2Fb", "x" * 64, "x" * 65, "%h" + "0" * 40]
    assert len({segment(text) for text in texts}) == len(texts)


@pytest.fixture
async def aspace() -> AsyncIterator[interlock.AsyncSpace]:
    """A space of the asyncio API."""
    async with interlock.open_async("sqlite://", agent="app") as opened:
        yield opened


async def test_an_asyncio_space_serves_other_threads(aspace: interlock.AsyncSpace) -> None:
    saver = Saver(aspace)
    await asyncio.to_thread(chain, saver, 3)
    assert await asyncio.to_thread(value_of, saver) == 2
    with pytest.raises(interlock.Invalid, match="asynchronous"):
        saver.get_tuple(named(None))
    with pytest.raises(interlock.Invalid, match="asynchronous"), saver.run("thread"):
        raise AssertionError("it was let in")


def test_a_policy_that_does_not_exist_is_refused(memory: interlock.Space) -> None:
    with pytest.raises(interlock.Invalid, match="on_busy"):
        Saver(memory).run("thread", on_busy="shrug")


def test_a_killed_put_leaves_nothing_half(memory: interlock.Space) -> None:
    """A checkpoint, its place in the index and its values are one commit."""
    put(Saver(memory), "value")
    entries = list(memory.log())
    assert {entry.key.split("/")[1] for entry in entries} == {"blob", "checkpoint", "head", "next"}
    assert len({entry.op_id for entry in entries}) == 1


def test_a_node_that_fails_keeps_what_the_others_wrote(space: interlock.Space) -> None:
    saver, failing = Saver(space), [True]

    def second(_: Talk) -> Talk:
        if failing:
            raise OSError("the model is down")
        return said("second")

    graph = in_two_steps(saver, NODES[0], second)
    with saver.run("thread", once="m1") as config, pytest.raises(OSError, match="down"):
        graph.invoke(said("hello"), config)
    failing.clear()
    with saver.run("thread") as config:
        graph.invoke(None, config)
    assert graph.get_state(THREAD).values["messages"] == ["hello", "first", "second"]


def test_idle_threads_are_swept(space: interlock.Space) -> None:
    put(Saver(space), thread="old")
    assert Saver(space, ttl={"default_ttl": 1e-9}).sweep_ttl() == 1
    put(saver := Saver(space, ttl={"default_ttl": 60}), thread="new")
    assert saver.sweep_ttl() == 0
    assert saver.get_tuple(named(None, "old")) is None
    assert saver.get_tuple(named(None, "new")) is not None
    assert Saver(space).sweep_ttl() == 0
    for wrong in ({"default_ttl": 0}, {"default_ttl": "1"}, {"refresh_on_read": True}):
        with pytest.raises(interlock.Invalid, match="default_ttl"):
            Saver(space, ttl=wrong)


def test_a_thread_that_a_run_works_on_is_not_swept(memory: interlock.Space) -> None:
    saver = Saver(memory, ttl={"default_ttl": 1e-9})
    put(saver)
    with saver.run("thread"):
        assert saver.sweep_ttl() == 0
    assert saver.sweep_ttl() == 1
    assert ids_of(saver) == []
