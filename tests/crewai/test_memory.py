"""What agents remember is found again, and none of it is lost when they save at once."""

from __future__ import annotations

import copy
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from crewai.memory.storage.backend import EmbeddingDimensionMismatchError, StorageBackend
from crewai.memory.storage.factory import set_memory_storage_factory
from crewai.memory.types import MemoryRecord
from crewai.memory.unified_memory import Memory
from stories import WAIT, at_once

import interlock
from interlock.adapters.crewai import MemoryStorage, Persistence, SharedMemory

WEATHER, HOTEL, FLIGHT = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.8, 0.6, 0.0]
NOON = datetime(2026, 5, 1, 12)


def memory(name: str, vector: list[float] | None = None, **fields: Any) -> MemoryRecord:
    return MemoryRecord(id=name, content=f"about {name}", embedding=vector, **fields)


@pytest.fixture
def storage(local: interlock.Space) -> MemoryStorage:
    """A storage with three memories."""
    made = MemoryStorage(local)
    made.save(
        [
            memory("weather", WEATHER, scope="/trip", categories=["sky"], created_at=NOON),
            memory("hotel", HOTEL, scope="/trip/rome", categories=["bed"], metadata={"stars": 4}),
            memory("flight", FLIGHT, scope="/tripod", categories=["sky", "seat"]),
        ]
    )
    return made


def names(found: list[Any]) -> list[str]:
    return [each.id for each in found]


def test_it_is_a_storage_backend(storage: MemoryStorage) -> None:
    assert isinstance(storage, StorageBackend)


def test_a_memory_comes_back_as_it_was(space: interlock.Space) -> None:
    kept = memory(
        "a",
        [0.25, -1.5],
        scope="/trip",
        categories=["x"],
        metadata={"deep": {"er": [1, None]}},
        importance=0.9,
        created_at=datetime(2026, 5, 1, 12, 0, 0, 123456),
        source="user",
        private=True,
    )
    MemoryStorage(space).save([kept])
    found = MemoryStorage(space).get_record("a")
    assert found is not None
    assert found.model_dump() == kept.model_dump()
    assert found.embedding == kept.embedding
    assert MemoryStorage(space).get_record("b") is None


async def test_search_is_by_cosine_and_filters(storage: MemoryStorage) -> None:
    found = storage.search([2.0, 0.0, 0.0])
    assert names([record for record, _ in found]) == ["weather", "flight", "hotel"]
    assert [score for _, score in found] == pytest.approx([1.0, 0.8, 0.0], abs=1e-6)
    assert await storage.asearch([2.0, 0.0, 0.0], limit=1, min_score=0.5) == found[:1]

    def by(**filters: Any) -> list[str]:
        return names([record for record, _ in storage.search(WEATHER, **filters)])

    assert by(min_score=0.5) == ["weather", "flight"]
    assert by(scope_prefix="/trip/") == ["weather", "hotel"]
    assert by(scope_prefix="/") == ["weather", "flight", "hotel"]
    assert by(categories=["seat", "bed"]) == ["flight", "hotel"]
    assert by(metadata_filter={"stars": 4}) == ["hotel"]
    assert by(limit=0) == []
    storage.save([memory("no vector"), memory("null", [0.0, 0.0, 0.0])])
    assert by() == ["weather", "flight", "hotel", "null"]


def test_scopes_and_categories_are_counted(storage: MemoryStorage) -> None:
    assert storage.list_scopes() == ["/trip", "/tripod"]
    assert storage.list_scopes("/trip") == ["/trip/rome"]
    assert storage.list_categories() == {"sky": 2, "bed": 1, "seat": 1}
    assert storage.list_categories("/trip") == {"sky": 1, "bed": 1}
    assert (storage.count(), storage.count("/trip"), storage.count("/nowhere")) == (3, 2, 0)
    info = storage.get_scope_info("/trip")
    assert (info.path, info.record_count, info.categories) == ("/trip", 2, ["bed", "sky"])
    assert (info.oldest_record, info.child_scopes) == (NOON, ["/trip/rome"])
    assert storage.get_scope_info("/nowhere").newest_record is None


def test_the_list_is_newest_first_in_pages(storage: MemoryStorage) -> None:
    listed = names(storage.list_records())
    assert listed[-1] == "weather"
    assert names(storage.list_records(limit=1, offset=2)) == ["weather"]
    assert names(storage.list_records("/trip")) == ["hotel", "weather"]
    assert storage.list_records(limit=0) == []


async def test_what_all_filters_match_is_deleted(storage: MemoryStorage) -> None:
    assert storage.delete(categories=["sky"], older_than=NOON) == 0
    later = (NOON + timedelta(hours=1)).replace(tzinfo=UTC)
    assert await storage.adelete(categories=["sky"], older_than=later) == 1
    assert storage.delete(record_ids=[]) == 0
    assert storage.delete(record_ids=["hotel", "weather"]) == 1
    assert storage.delete(scope_prefix="/trip") == 0
    await storage.asave([memory("other", HOTEL)])
    assert sorted(names(storage.list_records())) == ["flight", "other"]
    assert storage.delete(metadata_filter={"stars": 5}) == 0
    assert storage.delete() == 2


def test_vectors_of_another_length_are_refused_until_a_reset(storage: MemoryStorage) -> None:
    with pytest.raises(EmbeddingDimensionMismatchError):
        storage.save([memory("short", [1.0])])
    read = storage.get_record("weather")
    assert read is not None
    with pytest.raises(EmbeddingDimensionMismatchError):
        storage.update(read.model_copy(update={"embedding": [1.0]}))
    with pytest.raises(EmbeddingDimensionMismatchError):
        storage.search([1.0])
    storage.reset("/trip")
    assert names(storage.list_records()) == ["flight"]
    storage.reset()
    with pytest.raises(EmbeddingDimensionMismatchError):
        storage.save([memory("long", WEATHER), memory("short", [1.0])])
    storage.save([memory("short", [1.0])])
    assert storage.count() == 1


def test_a_vector_that_is_no_vector_is_refused(storage: MemoryStorage) -> None:
    with pytest.raises(interlock.Invalid, match="not finite"):
        storage.save([memory("bad", [1.0, float("nan"), 0.0])])


def test_memories_that_many_save_at_once_are_all_kept(space: interlock.Space) -> None:
    gate = threading.Barrier(8)

    def save(index: int) -> None:
        mine = MemoryStorage(space)
        gate.wait(WAIT)
        for number in range(5):
            mine.save([memory(f"{index}-{number}", [float(index), float(number), 1.0])])

    assert at_once(8, save) == [None] * 8
    assert MemoryStorage(space).count() == 40


def test_the_same_id_twice_is_told(storage: MemoryStorage) -> None:
    with pytest.raises(interlock.Conflict):
        storage.save([memory("new", HOTEL), memory("hotel", HOTEL)])
    assert storage.get_record("new") is None
    with pytest.raises(interlock.Invalid, match="same id"):
        storage.save([memory("new", HOTEL), memory("new", HOTEL)])


def test_an_update_from_what_has_moved_is_refused(space: interlock.Space) -> None:
    mine, theirs = MemoryStorage(space), MemoryStorage(space)
    mine.save([memory("plan", HOTEL)])
    read, other = mine.get_record("plan"), theirs.get_record("plan")
    assert read is not None
    assert other is not None
    theirs.update(other.model_copy(update={"content": "theirs"}))
    mine.search(HOTEL)  # somebody else of this process has seen it since
    with pytest.raises(interlock.Conflict):
        mine.update(read.model_copy(update={"content": "mine"}))
    found = theirs.get_record("plan")
    assert found is not None
    assert found.content == "theirs"
    theirs.update(found.model_copy(update={"content": "theirs again"}))


def anew(found: MemoryRecord | None, content: str) -> MemoryRecord:
    """CrewAI's consolidation makes the record that it updates from the fields of one it found."""
    assert found is not None
    return MemoryRecord(
        id=found.id,
        content=content,
        scope=found.scope,
        categories=found.categories,
        metadata=found.metadata,
        importance=found.importance,
        created_at=found.created_at,
        embedding=found.embedding,
    )


def test_a_record_made_anew_is_compared_with_the_one_it_was_made_from(
    space: interlock.Space,
) -> None:
    mine, theirs = MemoryStorage(space), MemoryStorage(space)
    mine.save([memory("plan", HOTEL)])
    ((found, _),) = mine.search(HOTEL)
    mine.update(anew(copy.deepcopy(found), "mine"))
    mine.search(HOTEL)  # somebody else of this process has seen it since
    with pytest.raises(interlock.Conflict):
        mine.update(anew(found, "late"))
    found_too = theirs.get_record("plan")
    theirs.delete(record_ids=["plan"])
    with pytest.raises(interlock.Conflict):
        theirs.update(anew(found_too, "too late"))


def test_a_memory_that_was_not_read_is_not_replaced(space: interlock.Space) -> None:
    storage = MemoryStorage(space)
    storage.save([memory("plan", HOTEL)])
    storage.search(HOTEL)  # it is for whoever passes on what it returned
    with pytest.raises(interlock.Conflict):
        storage.update(memory("plan", FLIGHT))
    MemoryStorage(space, unread="overwrite").update(memory("plan", WEATHER))
    found = storage.get_record("plan")
    assert found is not None
    assert found.embedding == WEATHER
    found.content = "next"
    for _ in range(2):
        storage.update(found)  # on from its own write


def test_what_is_no_space_is_refused_when_it_is_given() -> None:
    nothing: Any = 17
    makers: Any = (MemoryStorage, Persistence, SharedMemory)
    for make in makers:
        with pytest.raises(interlock.Invalid, match=r"interlock\.open\(url\)"):
            make(nothing)
        with pytest.raises(interlock.Invalid, match="unread"):
            make(nothing, unread="maybe")


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), float(text.count("e")), 1.0] for text in texts]


def test_agents_remember_through_it(local: interlock.Space) -> None:
    set_memory_storage_factory(lambda spec: MemoryStorage(local))
    try:
        shared = Memory(embedder=embed, consolidation_threshold=1.0)
    finally:
        set_memory_storage_factory(None)
    shared.remember(
        "The hotel is full", scope="/trip", categories=["bed"], importance=0.5, metadata={"n": 1}
    )
    shared.drain_writes()
    (found,) = shared.recall("The hotel is full", scope="/trip", depth="shallow")
    assert found.record.content == "The hotel is full"
    shared.update(found.record.id, content="The hotel is free")
    assert [each.content for each in shared.list_records()] == ["The hotel is free"]
    assert shared.forget(scope="/trip") == 1


def test_one_line_shares_a_memory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with SharedMemory(url, space="team", embedder=embed, consolidation_threshold=1.0) as mine:
        mine.remember("The hotel is full", scope="/", categories=["bed"], importance=0.5)
    theirs = SharedMemory(url, space="team", embedder=embed)
    assert [each.content for each in theirs.list_records()] == ["The hotel is full"]
    theirs.close()
    with pytest.raises(interlock.Closed):
        mine.list_records()
    with MemoryStorage(url, space="team") as storage:
        assert copy.deepcopy(storage).count() == 1
