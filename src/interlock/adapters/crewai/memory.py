"""What CrewAI's agents remember, in a space: memories are records, and none overwrites another."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeVar

from interlock import Conflict, Invalid, Json, Record, Space, Tx
from interlock.adapters.home import Closing
from interlock.adapters.observed import Observed, observed
from interlock.adapters.space import one_of, quoted, synchronous, write_over
from interlock.cancellation import finish
from interlock.extras import needs

with needs("CrewAI", "crewai"):
    import numpy as np
    from crewai.memory.storage.backend import EmbeddingDimensionMismatchError
    from crewai.memory.types import MemoryRecord, ScopeInfo
    from crewai.memory.unified_memory import Memory

MEMORIES = "crewai/memory/record/"
DIMENSIONS = "crewai/memory/dimensions"
_VECTOR = "<f4"  # how an embedding is kept: numbers of 32 bits

Wanted = Callable[[dict[str, Json]], bool]


class _Created(datetime):
    """When a memory was made.  It carries the version that the memory was read at: CrewAI's
    consolidation makes the record that it updates anew, from the fields of the one it found."""

    observed: Observed

    @classmethod
    def of(cls, at: datetime, observed: Observed) -> Self:
        """Return the same time, carrying a version."""
        made = cls.combine(at.date(), at.timetz())
        made.observed = observed
        return made

    def __reduce_ex__(self, protocol: object) -> tuple[object, ...]:
        return _Created.of, (datetime.combine(self.date(), self.timetz()), self.observed)


def memory_key(record_id: object) -> str:
    """Return the key of a memory."""
    return f"{MEMORIES}{quoted(str(record_id))}"


class MemoryStorage(Closing):
    """CrewAI's `StorageBackend` in a space: `Memory(storage=MemoryStorage(url))`.

    With a URL it opens the space called `space`, and closes it as `Persistence` does; it may be
    given a space.  For all memories, `set_memory_storage_factory(lambda spec: storage)`.  Searching
    compares with every memory in the scope: meant for thousands, not millions.

    `unread="overwrite"` lets `update` replace memories that were not read.
    """

    _space: Space

    def __init__(
        self,
        where: Space | str,
        /,
        *,
        space: str = "default",
        agent: str | None = None,
        unread: Literal["refuse", "overwrite"] = "refuse",
    ) -> None:
        one_of("unread", unread, "refuse", "overwrite")
        self._open(where, space, agent)
        self._space = synchronous(self._space, "MemoryStorage")
        self._overwrites = unread == "overwrite"

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copy of a crew remembers in the same place

    def save(self, records: list[MemoryRecord]) -> None:
        """Add memories, all or none.

        Raises Conflict if one with the same id exists, EmbeddingDimensionMismatchError if
        the memories there have vectors of another length.
        """
        if not records:
            return
        values = {memory_key(record.id): _value(record) for record in records}
        if len(values) < len(records):
            raise Invalid("two of the memories have the same id")
        found = _common({record.id: _length(record) for record in records})

        def add() -> None:
            with self._space.transaction() as tx:
                _check_length(tx, found)
                for key, value in values.items():
                    tx.create(key, value)

        _past_the_first(add)

    def update(self, record: MemoryRecord) -> None:
        """Replace a memory by one with the same id.

        Raises Conflict if somebody has changed it since it was read, or it was not read:
        `record` is what a storage returned, a copy of it, or made of its fields, `created_at` too.
        """
        key, value, length = memory_key(record.id), _value(record), _length(record)

        def replace() -> Record:
            fresh = self._space.read(key)
            read = observed(record.created_at, fresh)
            if read is not None:
                base: Record | None = read.record(fresh)
            else:
                base = fresh if self._overwrites else None
            return write_over(self._space, key, base, value, lambda tx: _check_length(tx, length))

        written = _past_the_first(replace)
        record.created_at = _Created.of(record.created_at, Observed.of(written))

    def search(
        self,
        query_embedding: list[float],
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Json] | None = None,
        limit: int = 10,
        min_score: float = 0.0,
    ) -> list[tuple[MemoryRecord, float]]:
        """Return the memories whose vectors point most nearly the same way, and their cosines.

        Those without a vector are not found.  Raises EmbeddingDimensionMismatchError.
        """
        wanted = _filter(scope_prefix, categories, metadata_filter)
        found = [each for each in self._find(wanted) if each.value["embedding"]]
        if not found or limit <= 0:
            return []
        query = np.asarray(query_embedding, dtype=np.float64)
        vectors = [_vector(each.value["embedding"]) for each in found]
        for vector in vectors:
            _same_length(len(vector), len(query))
        matrix = np.stack(vectors).astype(np.float64)
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        scores = np.divide(matrix @ query, lengths, out=np.zeros(len(found)), where=lengths > 0)
        best = [index for index in np.argsort(-scores, kind="stable") if scores[index] >= min_score]
        return [(self._read(found[index]), float(scores[index])) for index in best[:limit]]

    def delete(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        record_ids: list[str] | None = None,
        older_than: datetime | None = None,
        metadata_filter: dict[str, Json] | None = None,
    ) -> int:
        """Delete the memories that all of the filters match, in one commit; return how many."""
        wanted = _filter(scope_prefix, categories, metadata_filter, older_than)
        keys = None if record_ids is None else [memory_key(each) for each in record_ids]

        def remove(tx: Tx) -> int:
            found = tx.scan(MEMORIES) if keys is None else tx.read_many(keys)
            doomed = [each for each in found.values() if each.exists and wanted(each.value)]
            for each in doomed:
                tx.delete(each)
            return len(doomed)

        return int(self._space.transact(remove))

    def reset(self, scope_prefix: str | None = None) -> None:
        """Delete the memories of a scope, or all; then vectors of another length may come."""
        if _path(scope_prefix) != "/":
            self.delete(scope_prefix)
            return

        def remove(tx: Tx) -> None:
            lengths = tx.read(DIMENSIONS)
            for each in (*tx.scan(MEMORIES).values(), *([lengths] if lengths.exists else [])):
                tx.delete(each)

        self._space.transact(remove)

    def get_record(self, record_id: str) -> MemoryRecord | None:
        """Return a memory, or None."""
        record = self._space.read(memory_key(record_id))
        return self._read(record) if record.exists else None

    def list_records(
        self, scope_prefix: str | None = None, limit: int = 200, offset: int = 0
    ) -> list[MemoryRecord]:
        """Return memories of a scope and those below it, newest first."""
        if limit <= 0 or offset < 0:
            return []
        found = sorted(self._find(_filter(scope_prefix)), key=_created, reverse=True)
        return [self._read(each) for each in found[offset : offset + limit]]

    def get_scope_info(self, scope: str) -> ScopeInfo:
        """Return how many memories a scope has, with those below it, from when, on what."""
        found = self._find(_filter(scope))
        times = [_created(each) for each in found]
        categories = {each for record in found for each in record.value["categories"]}
        return ScopeInfo(
            path=scope.rstrip("/") or "/",
            record_count=len(found),
            categories=sorted(categories),
            oldest_record=min(times, default=None),
            newest_record=max(times, default=None),
            child_scopes=sorted(_children(found, scope)),
        )

    def list_scopes(self, parent: str = "/") -> list[str]:
        """Return the scopes right below a scope."""
        return sorted(_children(self._find(_filter(parent)), parent))

    def list_categories(self, scope_prefix: str | None = None) -> dict[str, int]:
        """Return how many memories of a scope have each category."""
        counts: dict[str, int] = {}
        for record in self._find(_filter(scope_prefix)):
            for category in record.value["categories"]:
                counts[category] = counts.get(category, 0) + 1
        return counts

    def count(self, scope_prefix: str | None = None) -> int:
        """Return how many memories a scope and those below it have."""
        return len(self._find(_filter(scope_prefix)))

    async def asave(self, records: list[MemoryRecord]) -> None:
        """Like `save`, in a thread."""
        await finish(asyncio.to_thread(self.save, records))

    async def asearch(
        self, query_embedding: list[float], *args: Any, **named: Any
    ) -> list[tuple[MemoryRecord, float]]:
        """Like `search`, in a thread."""
        return await asyncio.to_thread(self.search, query_embedding, *args, **named)

    async def adelete(self, *args: Any, **named: Any) -> int:
        """Like `delete`, in a thread."""
        return await finish(asyncio.to_thread(self.delete, *args, **named))

    def _find(self, wanted: Wanted) -> list[Record]:
        return [each for each in self._space.scan(MEMORIES).values() if wanted(each.value)]

    @staticmethod
    def _read(record: Record) -> MemoryRecord:
        fields = dict(record.value)
        embedding = fields.pop("embedding")
        memory = MemoryRecord(
            **fields, embedding=_vector(embedding).tolist() if embedding else None
        )
        memory.created_at = _Created.of(memory.created_at, Observed.of(record))
        return memory


class SharedMemory(Memory):
    """CrewAI's `Memory` with a `MemoryStorage`: `Crew(memory=SharedMemory(url), ...)`.

    `options` are those of `Memory`, such as `embedder` and `llm`.
    """

    def __init__(
        self,
        where: Space | str,
        /,
        *,
        space: str = "default",
        agent: str | None = None,
        unread: Literal["refuse", "overwrite"] = "refuse",
        **options: Any,
    ) -> None:
        storage = MemoryStorage(where, space=space, agent=agent, unread=unread)
        super().__init__(storage=storage, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()  # which ends what is being saved, and closes the storage


# Values

Answer = TypeVar("Answer")


def _past_the_first(commit: Callable[[], Answer]) -> Answer:
    """Commit, again if two commits at once were the first with a vector."""
    while True:
        try:
            return commit()
        except Conflict as conflict:
            if conflict.key != DIMENSIONS:
                raise


def _check_length(tx: Tx, found: int | None) -> None:
    """Check the length of vectors, and fix it if these are the first."""
    if found is not None:
        stored = tx.read(DIMENSIONS)
        _same_length(stored.value, found)
        if not stored.exists:
            tx.write(stored, found)


def _value(record: MemoryRecord) -> dict[str, Json]:
    value: dict[str, Json] = record.model_dump(mode="json")
    vector = np.asarray(record.embedding or [], dtype=_VECTOR)
    if not np.isfinite(vector).all():
        raise Invalid(f"the embedding of memory {record.id!r} holds a number that is not finite")
    value["embedding"] = base64.b64encode(vector.tobytes()).decode() or None
    return value


def _vector(text: str) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=_VECTOR)


def _length(record: MemoryRecord) -> int | None:
    return len(record.embedding) if record.embedding else None


def _common(lengths: dict[str, int | None]) -> int | None:
    """Return the one length that vectors have.  Raises EmbeddingDimensionMismatchError."""
    found: int | None = None
    for length in lengths.values():
        _same_length(found, length)
        found = found or length
    return found


def _same_length(stored: int | None, found: int | None) -> None:
    if stored is not None and found is not None and stored != found:
        raise EmbeddingDimensionMismatchError(stored, found)


# Filters and scopes


def _filter(
    scope: str | None = None,
    categories: list[str] | None = None,
    metadata: dict[str, Json] | None = None,
    older_than: datetime | None = None,
) -> Wanted:
    """Return whether a memory is in a scope, has one of the categories and all of the metadata."""
    path = _path(scope)
    before = None if older_than is None else _moment(older_than)

    def wanted(value: dict[str, Json]) -> bool:
        if before is not None and _moment(datetime.fromisoformat(value["created_at"])) >= before:
            return False
        if categories and not set(categories) & set(value["categories"]):
            return False
        if any(value["metadata"].get(name) != given for name, given in (metadata or {}).items()):
            return False
        return _is_below(_path(value["scope"]), path)

    return wanted


def _path(scope: str | None) -> str:
    """Return a scope as a path that begins with a slash and does not end with one."""
    return f"/{(scope or '').strip('/')}"


def _is_below(scope: str, parent: str) -> bool:
    return parent == "/" or scope == parent or scope.startswith(f"{parent}/")


def _children(found: Iterable[Record], parent: str) -> Iterator[str]:
    """Yield the scopes right below one, some of them several times; see `set`."""
    start = f"{_path(parent).rstrip('/')}/"
    names = {
        _path(each.value["scope"])[len(start) :].split("/", 1)[0]
        for each in found
        if _path(each.value["scope"]).startswith(start)
    }
    return (f"{start}{name}" for name in names if name)


def _created(record: Record) -> datetime:
    return _moment(datetime.fromisoformat(record.value["created_at"]))


def _moment(time: datetime) -> datetime:
    """Return a time as CrewAI has them: UTC, and not saying so."""
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
