"""What the LangGraph store answers: as LangGraph's own, with times to live and vectors."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from contextlib import aclosing, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

import interlock
from interlock.adapters.langgraph import Store, views
from interlock.backends.drive import SyncDriver
from interlock.backends.sqlite import SQLiteBackend
from interlock.session import Session
from interlock.settings import make_writer
from tests.adapters.langgraph_places import Place, place, space

__all__ = ["place", "space"]  # fixtures

# The same operations on LangGraph's store and on ours

LABELS = st.sampled_from(["a", "b", "ab", "a/b"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["k", "l", "k/l", ""])
VALUES = st.fixed_dictionaries(
    {"n": st.integers(-2, 2), "in": st.fixed_dictionaries({"m": st.integers(0, 1)})},
    optional={"tags": st.lists(st.sampled_from(["x", "y"]), max_size=2), "t": st.none()},
)
OPERATORS = st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"])
FILTERS = st.one_of(
    st.none(),
    st.fixed_dictionaries({"n": st.integers(-2, 2)}),
    st.fixed_dictionaries({"n": st.dictionaries(OPERATORS, st.integers(-2, 2), min_size=1)}),
    st.fixed_dictionaries({"in": st.fixed_dictionaries({"m": st.integers(0, 1)})}),
    st.fixed_dictionaries({"tags": st.lists(st.sampled_from(["x", "y"]), max_size=2)}),
    st.fixed_dictionaries({"t": st.none()}),
)
CONDITIONS = st.lists(
    st.builds(
        MatchCondition,
        st.sampled_from(["prefix", "suffix"]),
        st.lists(st.one_of(LABELS, st.just("*")), min_size=1, max_size=2).map(tuple),
    ),
    max_size=2,
).map(tuple)
OPS: st.SearchStrategy[Any] = st.one_of(
    st.tuples(NAMESPACES, KEYS, st.one_of(VALUES, VALUES, st.none())).map(lambda a: PutOp(*a)),
    st.tuples(NAMESPACES, KEYS).map(lambda a: GetOp(*a)),
    st.tuples(
        st.lists(LABELS, max_size=2).map(tuple),
        FILTERS,
        st.integers(0, 4),
        st.integers(0, 3),
    ).map(lambda a: SearchOp(*a)),
    st.builds(
        ListNamespacesOp,
        CONDITIONS,
        st.one_of(st.none(), st.integers(1, 3)),
        st.integers(0, 4),
        st.integers(0, 2),
    ),
)
BATCHES = st.lists(st.lists(OPS, min_size=1, max_size=4), min_size=1, max_size=8)
DIFFERENT = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def whole(ops: list[Op]) -> list[Op]:
    """The same batch with searches of everything: LangGraph's stores have no order in common."""
    return [op._replace(limit=1000, offset=0) if isinstance(op, SearchOp) else op for op in ops]


def plain(result: Any) -> Any:
    """Return an answer without times, in an order that both stores share."""
    if isinstance(result, list):
        return sorted(map(plain, result), key=repr)
    return result if result is None or isinstance(result, tuple) else _parts(result)


def _parts(item: Any) -> Any:
    return item.namespace, item.key, item.value


def expected(memory: InMemoryStore, ops: list[Op]) -> list[Any]:
    """Return what LangGraph's store answers.

    It makes a namespace when one looks into it; here only namespaces that hold something count.
    """
    for namespace in [each for each, items in memory._data.items() if not items]:
        del memory._data[namespace]
    listed = {n: memory.batch([op])[0] for n, op in enumerate(ops) if _is_listing(op)}
    answers = memory.batch(ops)
    return [listed.get(n, answer) for n, answer in enumerate(answers)]


def _is_listing(op: Op) -> bool:
    return isinstance(op, ListNamespacesOp)


def compare(ops: list[Op], ours: list[Any], full: list[Any], theirs: list[Any]) -> None:
    """Compare the answers to one batch; `full` are ours without limits."""
    for op, mine, all_of_mine, other in zip(ops, ours, full, theirs, strict=True):
        assert plain(all_of_mine) == plain(other), op
        if isinstance(op, SearchOp):
            assert mine == all_of_mine[op.offset : op.offset + op.limit]
            times = [item.updated_at for item in all_of_mine]
            assert times == sorted(times, reverse=True), "the newest come first"


@DIFFERENT
@given(batches=BATCHES)
def test_any_operations_are_answered_as_by_langgraphs_own_store(
    place: Place, batches: list[list[Op]]
) -> None:
    memory = InMemoryStore()
    with place.open() as space:
        for ops in batches:
            reading = [op for op in whole(ops) if not isinstance(op, PutOp)]
            store = Store(space, unread="overwrite")  # as LangGraph's own
            full = iter(store.batch(reading))
            ours = store.batch(ops)
            wide = [None if isinstance(op, PutOp) else next(full) for op in ops]
            compare(ops, ours, wide, expected(memory, whole(ops)))


@DIFFERENT
@given(batches=BATCHES)
def test_they_are_so_with_asyncio(place: Place, batches: list[list[Op]]) -> None:
    async def go() -> None:
        memory = InMemoryStore()
        async with place.open_async() as opened:
            store = Store(opened, unread="overwrite")
            for ops in batches:
                asked = whole(ops)
                compare(asked, got := await store.abatch(asked), got, expected(memory, asked))

    asyncio.run(go())


def test_a_batch_reads_once_and_commits_once(space: interlock.Space) -> None:
    store = Store(space, unread="overwrite")
    store.batch([PutOp(("a",), str(n), {"n": n}) for n in range(20)])
    position = space.position()
    store.batch([PutOp(("a",), str(n), {"n": -n}) for n in range(20)])
    entries = list(space.log(after=position))
    assert len(entries) == 20
    assert len({entry.op_id for entry in entries}) == 1


def test_times_are_those_of_the_store(space: interlock.Space) -> None:
    store = Store(space)
    store.put(("a",), "k", {"n": 1})
    first = store.get(("a",), "k")
    store.put(("a",), "k", {"n": 2}, base=first)
    second = store.get(("a",), "k")
    assert first is not None
    assert second is not None
    assert first.created_at == first.updated_at == second.created_at < second.updated_at
    assert abs(space.time() - second.updated_at) < timedelta(minutes=5)


async def test_an_async_space_tells_the_time(place: Place) -> None:
    async with place.open_async() as opened:
        record = await opened.create("k", 1)
        assert record.at <= await opened.time()


# Filters and values

PEOPLE: dict[str, dict[str, Any]] = {
    "ann": {"user": {"name": "Ann", "age": 31, "at": {"city": "Rome"}}, "since": "2026-01-02"},
    "bob": {"user": {"name": "Bob", "age": 9}, "user.name": "Robert", "since": "2025-12-31"},
    "cat": {"user": "Cat", "since": None},
}


@pytest.mark.parametrize(
    ("wanted", "keys"),
    [
        ({"user.name": "Ann"}, ["ann"]),
        ({"user.name": "Robert"}, ["bob"]),  # a key with a dot goes first
        ({"user.at.city": "Rome"}, ["ann"]),
        ({"user.age": {"$gte": 9, "$lt": 31}}, ["bob"]),
        ({"user.age": {"$gt": "9"}}, ["ann"]),
        ({"user.age": None}, ["cat"]),
        ({"user": {"at": {"city": "Rome"}}}, ["ann"]),
        ({"user": {"at": {"city": {"$ne": "Rome"}}}}, []),
        ({"since": {"$gt": "2025-12-31"}}, ["ann"]),  # texts in their order, as dates are
        ({"since": {"$lte": "2026-01-02"}}, ["ann", "bob"]),
        ({"since": {"$gt": 0}}, []),
        ({"user.name": {"$lt": "Bz"}, "since": {"$gt": datetime(2026, 1, 1, tzinfo=UTC)}}, ["ann"]),
    ],
)
def test_filters_reach_into_fields(wanted: dict[str, Any], keys: list[str]) -> None:
    with Store("sqlite://") as store:
        store.batch([PutOp(("people",), key, value) for key, value in PEOPLE.items()])
        assert sorted(item.key for item in store.search(("people",), filter=wanted)) == keys


def test_operators_do_not_match_what_is_no_number(space: interlock.Space) -> None:
    store = Store(space)
    with pytest.raises(ValueError, match="operator"):
        store.search(("a",), filter={"n": {"$near": 0}})
    store.put(("a",), "k", {"n": "many", "large": 10**400})
    assert store.search(("a",), filter={"n": {"$gt": 0}}) == []
    assert store.search(("a",), filter={"large": {"$gt": 0.5}}) != []


def test_times_in_values_are_kept_as_text(space: interlock.Space) -> None:
    store = Store(space)
    day = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    store.put(("a",), "k", {"at": day, "days": [day.date()]})
    [item] = store.search(("a",), filter={"at": day})
    assert item.value == {"at": "2026-01-02T03:04:00+00:00", "days": ["2026-01-02"]}
    store.update(("a",), "k", lambda value: {**value, "at": day + timedelta(hours=1)})
    assert store.search(("a",), filter={"at": {"$gt": day}}) != []
    with pytest.raises(interlock.Invalid):
        store.put(("a",), "other", {"at": object()})
    assert len(store.search(("a",))) == 1


# What is held in memory for searches


def test_searches_see_what_other_stores_have_written_since(place: Place) -> None:
    with place.open("shared") as space, place.open("shared") as other:
        store, theirs = Store(space), Store(other)
        store.batch([PutOp(("a", str(n)), "k", {"n": n}) for n in range(3)])
        for n in range(3):
            found = store.search(("a",))
            theirs.put(("a", str(n)), "k", {"n": -1}, base=theirs.get(("a", str(n)), "k"))
            theirs.put(("a",), f"new {n}", {"n": 9})
            found = store.search(("a",))
            assert [item.key for item in found[:2]] == [f"new {n}", "k"]
            assert [item.value for item in found[:2]] == [{"n": 9}, {"n": -1}]
            theirs.delete(("a",), f"new {n}", base=theirs.get(("a",), f"new {n}"))
            assert len(store.search(("a",))) == 3
            assert store.search(("a",), filter={"n": 9}) == []
        assert store.list_namespaces() == [("a", "0"), ("a", "1"), ("a", "2")]
        other.erase(prefix="langgraph/store/a/1/")
        assert store.list_namespaces() == [("a", "0"), ("a", "2")]
        store.put(("a", "0"), "k", store.search(("a", "0"))[0].value)


def test_a_search_reads_what_changed_and_not_all_items(monkeypatch: pytest.MonkeyPatch) -> None:
    space = interlock.open("sqlite://")
    store = Store(space)
    store.batch([PutOp(("a",), str(n), {"n": n}) for n in range(50)])
    scans: list[Any] = []
    scan = interlock.Space.scan

    def noted(*args: Any, **named: Any) -> Any:
        scans.append(args)
        return scan(*args, **named)

    monkeypatch.setattr(interlock.Space, "scan", noted)
    for n in range(5):
        assert len(store.search(("a",), limit=100)) == 50 + n
        store.put(("a",), f"more {n}", {"n": n})
        space.create(f"elsewhere/{n}", 0)
    assert len(scans) == 1
    for n in range(200):
        space.create(f"far/{n}", 0)
    assert len(store.search(("a",), limit=100)) == 55
    assert len(scans) == 2, "all of it is less than what happened since"
    space.close()


def test_what_a_search_returns_may_be_changed(space: interlock.Space) -> None:
    store = Store(space)
    store.put(("a",), "k", {"list": [1, {"n": 1}]})
    for _ in range(2):
        [item] = store.search(("a",))
        assert item.value == {"list": [1, {"n": 1}]}
        item.value["list"][1]["n"] = 2
        item.value["list"].append(3)


def test_items_that_take_too_much_room_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MOST_TEXT", 3000)
    with Store("sqlite://") as store:
        for name, size in (("small", 10), ("other", 1500), ("large", 4000)):
            store.put((name,), "k", {"text": "x" * size})
            assert len(store.search((name,))) == 1
        held = store._views._views
        assert [*held] == [("small",), ("other",)]
        assert len(store.search(())) == 3
        store.put(("third",), "k", {"text": "x" * 1500})
        assert len(store.search(("third",))) == 1
        assert [*held] == [("third",)]


# Times to live


class Clocked:
    """A space in memory whose clock the test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        self.backend = SQLiteBackend(
            "sqlite://", "s", clock=lambda: (self.now - epoch) // timedelta(microseconds=1)
        )
        writer = make_writer(self.backend.uid, "s", "a", None)
        self.space = interlock.Space(Session(SyncDriver(self.backend), writer))

    def later(self, minutes: float) -> None:
        self.now += timedelta(minutes=minutes)


@pytest.fixture
def clocked() -> Iterator[Clocked]:
    made = Clocked()
    with closing(made.backend):
        yield made


def test_an_item_dies_when_it_was_not_read_for_its_time_to_live(clocked: Clocked) -> None:
    store = Store(clocked.space, ttl={"default_ttl": 10})
    store.put(("a",), "k", {"n": 1})
    store.put(("a",), "forever", {"n": 1}, ttl=None)
    for _ in range(3):
        clocked.later(9)
        assert store.get(("a",), "k") is not None
    clocked.later(9)
    assert len(store.search(("a",))) == 2
    clocked.later(9.9)
    assert store.list_namespaces() == [("a",)]
    assert store.get(("a",), "k", refresh_ttl=False) is not None
    clocked.later(0.1)
    assert store.get(("a",), "k") is None
    assert [item.key for item in store.search(("a",))] == ["forever"]


def test_reading_refreshes_only_where_it_is_to(clocked: Clocked) -> None:
    store = Store(clocked.space, ttl={"refresh_on_read": False})
    store.put(("a",), "k", {"n": 1}, ttl=10)
    clocked.later(9)
    assert store.get(("a",), "k") is not None
    clocked.later(1)
    assert store.get(("a",), "k") is None


def test_writing_gives_a_new_time_to_live(clocked: Clocked) -> None:
    store = Store(clocked.space)
    store.put(("a",), "k", {"n": 1}, ttl=60)
    clocked.later(50)
    item = store.get(("a",), "k")  # lives until 110
    assert item is not None
    store.put(("a",), "k", {"n": 2}, ttl=1, base=item)
    clocked.later(0.5)
    assert store.update(("a",), "k", lambda value: {"n": value["n"] + 1}, ttl=1) == {"n": 3}
    clocked.later(0.9)
    assert store.search(("a",), refresh_ttl=False) != []
    clocked.later(0.1)
    assert store.get(("a",), "k") is None
    assert store.update(("a",), "k", lambda value: {"was": value}) == {"was": None}
    item = store.get(("a",), "k")
    assert item is not None
    assert item.created_at == clocked.now, "it is another item"


def test_reads_that_follow_each_other_closely_write_once(clocked: Clocked) -> None:
    store = Store(clocked.space)
    store.put(("a",), "k", {"n": 1}, ttl=100)
    position = clocked.space.position()
    for _ in range(20):
        clocked.later(0.1)
        assert store.get(("a",), "k") is not None
    assert clocked.space.position() == position + 1


def test_a_read_that_refreshes_does_not_make_a_put_late(clocked: Clocked) -> None:
    store = Store(clocked.space)
    store.put(("a",), "k", {"n": 1}, ttl=10)
    item = store.get(("a",), "k")
    clocked.later(5)
    assert store.get(("a",), "k") == item
    store.put(("a",), "k", {"n": 2}, ttl=10, base=item)
    assert [each.value for each in store.search(("a",))] == [{"n": 2}]


def test_a_sweep_deletes_what_is_dead(clocked: Clocked) -> None:
    store = Store(clocked.space)
    for key, ttl in (("one", 1.0), ("two", 2.0), ("three", None)):
        store.put(("a",), key, {"n": 1}, ttl=ttl)
    clocked.later(0.5)
    assert len(store.search(("a",))) == 3
    clocked.later(1)
    assert store.sweep_ttl() == 1
    assert sorted(clocked.space.scan("langgraph/")) == [
        "langgraph/refreshed/a/=two",
        "langgraph/store/a/=three",
        "langgraph/store/a/=two",
    ]
    clocked.later(9)
    assert (asyncio.run(store.asweep_ttl()), store.sweep_ttl()) == (1, 0)
    assert sorted(clocked.space.scan("langgraph/")) == ["langgraph/store/a/=three"]


@pytest.mark.parametrize("ttl", [-1, float("nan"), "soon", True])
def test_a_time_to_live_that_is_none_is_refused(clocked: Clocked, ttl: Any) -> None:
    with pytest.raises(interlock.Invalid, match="minutes"):
        Store(clocked.space).put(("a",), "k", {}, ttl=ttl)


def test_an_item_expires_by_the_clock_of_any_store(space: interlock.Space) -> None:
    store = Store(space)
    store.put(("a",), "gone", {"n": 1}, ttl=0)
    store.put(("a",), "there", {"n": 1}, ttl=60)
    assert [item.key for item in store.search(("a",))] == ["there"]
    assert store.sweep_ttl() == 1


def test_a_sweeper_sweeps_until_it_is_stopped(clocked: Clocked) -> None:
    ttl: Any = {"default_ttl": 1, "sweep_interval_minutes": 1e-5}
    store = Store(clocked.space, ttl=ttl)
    store.put(("a",), "k", {})
    clocked.later(2)
    started = store.start_ttl_sweeper()
    assert store.start_ttl_sweeper() is started
    assert any(entry.kind == "delete" for entry in clocked.space.watch("langgraph/store/", 0))
    assert store.stop_ttl_sweeper() == 1
    assert started.cancelled()
    assert not any(thread.name == "interlock-sweeper" for thread in threading.enumerate())
    with pytest.raises(interlock.Invalid, match="sweep_interval_minutes"):
        store.start_ttl_sweeper(0)


async def test_a_sweeper_of_an_async_space_is_awaited_as_langgraphs(place: Place) -> None:
    async with Store(place.url, space_name=secrets.token_hex(8)) as store:
        await store.setup()
        await store.aput(("a",), "k", {}, ttl=0)
        started = await store.start_ttl_sweeper(1e-5)
        space = store.space
        assert isinstance(space, interlock.AsyncSpace)
        entries: Any = space.watch("langgraph/store/", 0)
        async with aclosing(entries):
            async for entry in entries:
                if entry.kind == "delete":
                    break
        assert await store.stop_ttl_sweeper()
        assert started.cancelled()


# Vectors


def embed(texts: Any) -> list[list[float]]:
    """Count letters."""
    return [[float(text.count(letter)) for letter in "abcd"] for text in texts]


async def aembed(texts: Any) -> list[list[float]]:
    return embed(texts)


DOCUMENTS: dict[str, dict[str, Any]] = {
    "one": {"text": "aaab", "tags": ["b"]},
    "two": {"text": "bbb", "tags": ["a", "d"]},
    "three": {"text": "cccd", "tags": []},
    "four": {"text": "", "other": "a"},
}


@pytest.mark.parametrize("fields", [None, ["text"], ["text", "tags[*]"]])
@pytest.mark.parametrize("query", ["a", "bbc", "d", None])
def test_a_search_by_meaning_ranks_as_langgraphs_own_store(
    space: interlock.Space, fields: list[str] | None, query: str | None
) -> None:
    index: Any = {"dims": 4, "embed": embed, "fields": fields}
    store, memory = Store(space, index=index), InMemoryStore(index=index)
    for each in (store, memory):
        for key, value in DOCUMENTS.items():
            each.put(("docs",), key, value)
        each.put(("docs",), "by hand", {"note": "dd", "text": "a"}, index=["note"])
        each.put(("docs",), "none", {"text": "a"}, index=False)
    mine = {item.key: item.score for item in store.search(("docs",), query=query)}
    theirs = {item.key: item.score for item in memory.search(("docs",), query=query)}
    assert mine == {key: pytest.approx(score, abs=1e-6) for key, score in theirs.items()}
    scores = [score for score in mine.values() if score is not None]
    assert scores == sorted(scores, reverse=True)
    first = store.search(("docs",), query=query, limit=2)
    rest = store.search(("docs",), query=query, limit=10, offset=2)
    assert [item.key for item in (*first, *rest)] == list(mine)


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"distance_type": "l2"}, {"one": -1.0, "two": -(17**0.5), "three": -2.0}),
        ({"distance_type": "inner_product"}, {"one": 6.0, "two": 2.0, "three": 8.0}),
        ({"ann_index_config": {"kind": "hnsw", "vector_type": "halfvec"}, "fields": "text"}, None),
    ],
)
def test_distances_are_those_that_are_asked_for(
    options: dict[str, Any], scores: dict[str, float] | None
) -> None:
    index: Any = {"dims": 4, "embed": embed, "text_fields": ["text"], **options}
    with interlock.open("sqlite://") as space:
        store = Store(space, index=index)
        for key, text in (("one", "aaa"), ("two", "abbbb"), ("three", "aaaa")):
            store.put(("docs",), key, {"text": text, "other": "a" * 9})
        found = {
            item.key: item.score for item in store.search(("docs",), query="aa" if scores else "a")
        }
        if scores is None:
            assert found["one"] == found["three"] == 1.0
            assert len(space.read("langgraph/store/docs/=one").value["vectors"]["text"]) == 12
        else:
            assert found == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"distance_type": "hamming"},
        {"ann_index_config": {"kind": "bit"}},
        {"ann_index_config": {"vector_type": "bit"}},
    ],
)
def test_an_index_that_there_is_none_of_is_refused(options: dict[str, Any]) -> None:
    index: Any = {"dims": 4, "embed": embed, **options}
    with pytest.raises(interlock.Invalid, match="must be one of"):
        Store("sqlite://", index=index)


async def test_an_async_model_embeds_for_an_async_space(place: Place) -> None:
    async with place.open_async() as opened:
        store = Store(opened, index={"dims": 4, "embed": aembed, "fields": ["text"]})
        for key, value in DOCUMENTS.items():
            await store.aput(("docs",), key, value)
        await store.aupdate(("docs",), "one", lambda value: {"text": "d"})
        found = await store.asearch(("docs",), query="d", limit=1)
        assert [(item.key, item.score) for item in found] == [("one", 1.0)]


def test_an_update_embeds_what_it_writes(space: interlock.Space) -> None:
    store = Store(space, index={"dims": 4, "embed": embed, "fields": ["text"]})
    store.put(("docs",), "one", {"text": "aaa"})
    store.update(("docs",), "one", lambda value: {"text": "ddd"})
    assert store.search(("docs",), query="d")[0].score == 1.0


def test_vectors_of_another_size_are_refused(space: interlock.Space) -> None:
    store = Store(space, index={"dims": 3, "embed": embed})
    with pytest.raises(interlock.Invalid, match="dims=3"):
        store.put(("docs",), "one", {"text": "a"})
    assert space.scan() == {}
