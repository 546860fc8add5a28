"""Chroma and Qdrant, embedded: agents that write at once keep all their vectors."""

from __future__ import annotations

import builtins
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chromadb
import numpy
import pytest
from chromadb.config import Settings
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

import interlock
from interlock.adapters.vectors import (
    MOST_AT_ONCE,
    Contribution,
    content_id,
    upsert_chroma,
    upsert_qdrant,
)
from interlock.extras import NotInstalled

AGENTS, EACH = 6, 20
SPAWN = multiprocessing.get_context("spawn")


def open_chroma(folder: Path) -> chromadb.Collection:
    """Return the collection of a Chroma that is kept in a folder."""
    client = chromadb.PersistentClient(str(folder), settings=Settings(anonymized_telemetry=False))
    return client.get_or_create_collection("findings", embedding_function=None)


@pytest.fixture
def chroma(tmp_path: Path) -> chromadb.Collection:
    """A new Chroma collection."""
    return open_chroma(tmp_path)


@pytest.fixture(params=["memory", "folder"])
def qdrant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[QdrantClient]:
    """A Qdrant inside this process, with a collection."""
    in_memory = request.param == "memory"
    client = QdrantClient(
        ":memory:" if in_memory else None, path=None if in_memory else str(tmp_path)
    )
    client.create_collection("findings", VectorParams(size=3, distance=Distance.COSINE))
    yield client
    client.close()


def finding(agent: int, number: int) -> Contribution:
    """Return what an agent finds; the names are the same for all agents."""
    vector = [float(agent), float(number), 1.0]
    return Contribution(vector, f"{agent} found {number}", f"finding-{number}", {"step": number})


def at_once(work: Callable[[int], None]) -> None:
    """Run work in a thread for each agent, with frequent changes from one to another."""
    gate, failed = threading.Barrier(AGENTS), []

    def run(agent: int) -> None:
        gate.wait()
        try:
            work(agent)
        except Exception as problem:
            failed.append(problem)

    threads = [threading.Thread(target=run, args=(agent,)) for agent in range(AGENTS)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not failed, failed


# The loss, and its end


def test_numbering_by_count_loses_vectors_in_chroma(chroma: chromadb.Collection) -> None:
    both_counted = threading.Barrier(AGENTS)

    def work(agent: int) -> None:
        for number in range(3):
            name = f"finding-{chroma.count()}"  # the next number, as it seems to everyone
            both_counted.wait()
            chroma.upsert(ids=[name], embeddings=[float(agent), float(number), 1.0])
            both_counted.wait()

    at_once(work)
    assert chroma.count() == 3


def test_numbering_by_count_loses_vectors_in_qdrant(qdrant: QdrantClient) -> None:
    both_counted, one_at_a_time = threading.Barrier(AGENTS), threading.Lock()

    def work(agent: int) -> None:
        for number in range(3):
            name = qdrant.count("findings").count
            both_counted.wait()
            with one_at_a_time:
                point = PointStruct(id=name, vector=[float(agent), float(number), 1.0])
                qdrant.upsert("findings", [point])
            both_counted.wait()

    at_once(work)
    assert qdrant.count("findings").count == 3


def test_chroma_keeps_what_all_agents_found(chroma: chromadb.Collection) -> None:
    def work(agent: int) -> None:
        for first in range(0, EACH, 5):
            found = [finding(agent, number) for number in range(first, first + 5)]
            for _ in range(2):
                upsert_chroma(chroma, found, agent=f"agent-{agent}")

    at_once(work)
    kept = chroma.get(include=["documents", "metadatas"])
    wanted = {f"{agent} found {number}" for agent in range(AGENTS) for number in range(EACH)}
    assert sorted(kept["documents"] or []) == sorted(wanted)
    for made, metadata in zip(kept["ids"], kept["metadatas"] or [], strict=True):
        assert metadata["id"] == made
    assert len(chroma.get(where={"agent": "agent-1"})["ids"]) == EACH
    assert len(chroma.get(where={"name": "finding-1"})["ids"]) == AGENTS


def test_qdrant_keeps_what_all_agents_found(qdrant: QdrantClient) -> None:
    def work(agent: int) -> None:
        for number in range(EACH):
            for _ in range(2):
                upsert_qdrant(qdrant, "findings", [finding(agent, number)], agent=f"agent-{agent}")

    at_once(work)
    kept, _ = qdrant.scroll("findings", limit=1000)
    wanted = {f"{agent} found {number}" for agent in range(AGENTS) for number in range(EACH)}
    payloads = [(point.id, point.payload or {}) for point in kept]
    assert sorted(payload["text"] for _, payload in payloads) == sorted(wanted)
    assert all(payload["id"] == made for made, payload in payloads)
    found = qdrant.query_points("findings", [1.0, 2.0, 1.0], limit=1).points[0].payload
    assert found is not None
    assert (found["agent"], found["name"]) == ("agent-1", "finding-2")


def contribute(folder: Path, agent: int) -> None:
    """Write to a Chroma in a folder: what each process does."""
    collection = open_chroma(folder)
    for number in range(EACH):
        upsert_chroma(collection, [finding(agent, number)], agent=f"agent-{agent}")


def look(folder: Path, answers: Any) -> None:
    """Tell how many vectors a Chroma in a folder has, and how many a search finds."""
    collection = open_chroma(folder)
    found = collection.query(query_embeddings=[1.0, 1.0, 1.0], n_results=1000)
    answers.put((collection.count(), len(found["ids"][0])))


@pytest.mark.slow
def test_processes_share_a_chroma(tmp_path: Path) -> None:
    open_chroma(tmp_path)
    processes = [SPAWN.Process(target=contribute, args=(tmp_path, agent)) for agent in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    answers = SPAWN.SimpleQueue()
    looking = SPAWN.Process(target=look, args=(tmp_path, answers))
    looking.start()
    looking.join()
    assert answers.get() == (3 * EACH, 3 * EACH)


# Ids


def test_the_same_content_has_one_id_in_every_process_and_for_ever() -> None:
    made = content_id("planner", finding(1, 2))
    assert made == "e709e42d-1ec3-5717-8f00-e60ebfe42689"
    assert made == content_id("planner", finding(1, 2), space="default")
    in_32_bits = Contribution([0.1, -0.0], metadata={"a": 1, "b": 2})
    again = Contribution((0.10000000149011612, 0), metadata={"b": 2, "a": 1})
    array = Contribution(numpy.array([0.1, 0.0], dtype=numpy.float32), metadata={"a": 1, "b": 2})
    assert len({content_id("planner", each) for each in (in_32_bits, again, array)}) == 1


def test_different_content_has_different_ids() -> None:
    one = Contribution([1.0, 2.0], "text", "name", {"a": 1})
    others = [
        content_id("planner", one),
        content_id("critic", one),
        content_id("planner", one, space="other"),
        content_id("planner", Contribution([1.0, 2.5], "text", "name", {"a": 1})),
        content_id("planner", Contribution([1.0, 2.0], "texts", "name", {"a": 1})),
        content_id("planner", Contribution([1.0, 2.0], "", "name", {"a": 1})),
        content_id("planner", Contribution([1.0, 2.0], "text", "names", {"a": 1})),
        content_id("planner", Contribution([1.0, 2.0], "text", "name", {"a": True})),
        content_id("planner", Contribution([1.0, 2.0], "text", "name", {"a": 1.0})),
        content_id("planner", Contribution([1.0, 2.0], "text", "name", {"a": "1"})),
        content_id("planner", Contribution([1.0, 2.0], "text", "name")),
    ]
    assert len(set(others)) == len(others)


def test_one_call_may_hold_a_contribution_twice(
    chroma: chromadb.Collection, qdrant: QdrantClient
) -> None:
    both = [finding(1, 1), finding(1, 2), finding(1, 1)]
    for ids in (
        upsert_chroma(chroma, both, agent="a"),
        upsert_qdrant(qdrant, "findings", both, agent="a"),
    ):
        assert ids == [content_id("a", each) for each in both]
    assert (chroma.count(), qdrant.count("findings").count) == (2, 2)


# Bad input

GOOD = Contribution([1.0, 2.0, 3.0])
BAD: list[tuple[list[Any], str]] = [
    ([], "no contributions"),
    ([Contribution([])], "empty"),
    ([Contribution([1.0, float("nan"), 1.0])], "not a number"),
    ([Contribution([1.0, float("inf"), 1.0])], "infinite"),
    ([Contribution([1.0, 1e39, 1.0])], "32 bits"),
    ([Contribution("123")], "empty, or a string"),  # type: ignore[arg-type]  # tried on purpose
    ([Contribution(["1"])], "sequence of numbers"),  # type: ignore[list-item]  # tried on purpose
    ([Contribution(None)], "sequence of numbers"),  # type: ignore[arg-type]  # tried on purpose
    ([Contribution([1.0, 2.0])], "dimension"),
    ([Contribution([1.0] * 3, 7)], "not a string"),  # type: ignore[arg-type]  # tried on purpose
    ([Contribution([1.0] * 3, "\ud800")], "surrogate"),
    ([Contribution([1.0] * 3, metadata={"id": "mine"})], "'id'"),
    ([Contribution([1.0] * 3, metadata={"": 1})], "key ''"),
    ([Contribution([1.0] * 3, metadata={"a": float("nan")})], "not a number"),
    ([Contribution([1.0] * 3, metadata={"a": 2**63})], "64 bits"),
    ([Contribution([1.0] * 3, metadata={"a": [1]})], "not text"),  # type: ignore[dict-item]  # too
    ([GOOD] * (MOST_AT_ONCE + 1), "limit"),
]


@pytest.mark.parametrize(("contributions", "message"), BAD)
@pytest.mark.parametrize("with_a_good_one", [False, True])
def test_bad_input_is_refused_and_changes_nothing(
    chroma: chromadb.Collection,
    contributions: list[Contribution],
    message: str,
    with_a_good_one: bool,
) -> None:
    upsert_chroma(chroma, [GOOD], agent="a")
    qdrant = QdrantClient(":memory:")
    qdrant.create_collection("findings", VectorParams(size=3, distance=Distance.COSINE))
    upsert_qdrant(qdrant, "findings", [GOOD], agent="a")
    if with_a_good_one and contributions:
        contributions = [Contribution([3.0, 2.0, 1.0]), *contributions]
    with pytest.raises(interlock.Invalid, match=message):
        upsert_chroma(chroma, contributions, agent="a")
    with pytest.raises(interlock.Invalid, match=message):
        upsert_qdrant(qdrant, "findings", contributions, agent="a")
    assert (chroma.count(), qdrant.count("findings").count) == (1, 1)
    qdrant.close()


def test_a_contribution_needs_an_agent(chroma: chromadb.Collection) -> None:
    with pytest.raises(interlock.Invalid, match="agent"):
        upsert_chroma(chroma, [GOOD], agent="")
    assert chroma.count() == 0


def test_points_may_have_several_vectors() -> None:
    qdrant = QdrantClient(":memory:")
    of_three = VectorParams(size=3, distance=Distance.COSINE)
    qdrant.create_collection("several", {"text": of_three, "image": of_three})
    upsert_qdrant(qdrant, "several", [GOOD], agent="a", vector_name="text")
    for name in ("sound", None):
        with pytest.raises(interlock.Invalid, match=r"has \['image', 'text'\]"):
            upsert_qdrant(qdrant, "several", [GOOD], agent="a", vector_name=name)
    qdrant.create_collection("one", of_three)
    with pytest.raises(interlock.Invalid, match="have no name"):
        upsert_qdrant(qdrant, "one", [GOOD], agent="a", vector_name="text")
    assert (qdrant.count("several").count, qdrant.count("one").count) == (1, 0)
    qdrant.close()


@pytest.mark.parametrize("library", ["chromadb", "qdrant_client"])
def test_a_missing_library_is_named_with_its_extra(
    library: str,
    monkeypatch: pytest.MonkeyPatch,
    chroma: chromadb.Collection,
) -> None:
    really = builtins.__import__

    def missing(name: str, *arguments: Any, **named: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(name)
        return really(name, *arguments, **named)

    def store() -> None:
        if library == "chromadb":
            upsert_chroma(chroma, [GOOD], agent="a")
        else:
            upsert_qdrant(client, "any", [GOOD], agent="a")

    client = QdrantClient(":memory:")
    monkeypatch.setattr(builtins, "__import__", missing)
    extra = library.removesuffix("db").removesuffix("_client")
    with pytest.raises(NotInstalled, match=rf"pip install 'interlock\[{extra}\]'"):
        store()
    monkeypatch.undo()
    client.close()
