"""Searching by meaning: how items are embedded, and how near they are to a query."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from interlock import Invalid
from interlock.adapters.langgraph.items import Found
from interlock.adapters.space import one_of
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langgraph.store.base import (
        IndexConfig,
        Op,
        PutOp,
        SearchOp,
        ensure_embeddings,
        get_text_at_path,
        tokenize_path,
    )

Vectors = Mapping[str, Sequence[float]]  # by text
DISTANCES = ("cosine", "l2", "inner_product")
_TYPES = {"vector": "<f4", "halfvec": "<f2"}  # how each number is kept


class Index:
    """How the items of a store are embedded and compared.

    `config` is LangGraph's `IndexConfig`, with the `distance_type` and `ann_index_config` of its
    PostgreSQL store.  Each query is compared with every vector, so any kind of index is a flat one.
    Raises Invalid.
    """

    def __init__(self, config: IndexConfig) -> None:
        given: Any = config
        with needs("Searching by meaning", "vectors"):
            import numpy

            self._numpy: Any = numpy
        ann = given.get("ann_index_config") or {}
        self.distance = given.get("distance_type", "cosine")
        one_of("distance_type", self.distance, *DISTANCES)
        one_of("ann_index_config kind", ann.get("kind", "flat"), "flat", "hnsw", "ivfflat")
        one_of("vector_type", ann.get("vector_type", "vector"), *_TYPES)
        self._type = _TYPES[ann.get("vector_type", "vector")]
        self.embeddings = ensure_embeddings(config.get("embed"))
        self._dims = config["dims"]
        # LangGraph's stores on SQLite and PostgreSQL know it by the other name.
        self._fields = given.get("fields") or given.get("text_fields") or ["$"]
        if isinstance(self._fields, str):
            self._fields = [self._fields]

    def texts(self, op: PutOp) -> dict[str, str]:
        """Return the texts of an item that are embedded, by their paths."""
        if op.value is None or op.index is False:
            return {}
        found: dict[str, str] = {}
        for path in self._fields if op.index is None else op.index:
            texts = get_text_at_path(op.value, "$" if path == "$" else tokenize_path(path))
            names = [path] if len(texts) == 1 else [f"{path}.{n}" for n in range(len(texts))]
            found.update(zip(names, texts, strict=True))
        return found

    def embed(self, ops: Iterable[Op]) -> Embedded:
        """Return the vectors of what operations write and ask for.  Raises Invalid."""
        texts, queries = self._asked(ops)
        vectors = self.embeddings.embed_documents(texts) if texts else []
        asked = [self.embeddings.embed_query(query) for query in queries]
        return Embedded(self, self._checked(texts, vectors), self._checked(queries, asked))

    async def aembed(self, ops: Iterable[Op]) -> Embedded:
        """Return the vectors of what operations write and ask for, like `embed`."""
        texts, queries = self._asked(ops)
        vectors = await self.embeddings.aembed_documents(texts) if texts else []
        asked = [await self.embeddings.aembed_query(query) for query in queries]
        return Embedded(self, self._checked(texts, vectors), self._checked(queries, asked))

    def packed(self, vector: Sequence[float]) -> str:
        """Return a vector as the text that is kept."""
        return base64.b64encode(self._numpy.asarray(vector, self._type).tobytes()).decode()

    def table(self, items: Sequence[Found]) -> Table:
        """Return the vectors of items, to be compared with queries."""
        rows, owners = [], []
        for number, item in enumerate(items):
            for text in item.kept.vectors.values():
                data = base64.b64decode(text)
                for kind in _TYPES.values():
                    if len(data) == self._dims * int(kind[-1]):
                        rows.append(self._numpy.frombuffer(data, kind))
                        owners.append(number)
        numbers = self._numpy.array(rows, "<f4").reshape(len(rows), self._dims)
        return Table(self._numpy, self.distance, [i.record.key for i in items], numbers, owners)

    def _asked(self, ops: Iterable[Op]) -> tuple[list[str], list[str]]:
        texts: dict[str, None] = {}
        queries: dict[str, None] = {}
        for op in ops:
            if isinstance(op, PutOp):
                texts.update(dict.fromkeys(self.texts(op).values()))
            elif isinstance(op, SearchOp) and op.query:
                queries[op.query] = None
        return list(texts), list(queries)

    def _checked(self, texts: list[str], vectors: Sequence[Sequence[float]]) -> Vectors:
        if len(vectors) != len(texts) or any(len(each) != self._dims for each in vectors):
            sizes = sorted({len(each) for each in vectors})
            raise Invalid(
                f"embedding {len(texts)} texts gave {len(vectors)} vectors of {sizes} numbers; "
                f"the index has dims={self._dims}"
            )
        return dict(zip(texts, vectors, strict=True))


class Table:
    """The vectors of items, some of which may have none, or several."""

    def __init__(
        self, numpy: Any, distance: str, keys: Sequence[str], rows: Any, owners: Sequence[int]
    ) -> None:
        self._numpy, self._distance, self._keys = numpy, distance, keys
        self._rows, self._owners = rows, numpy.array(owners, dtype=int)
        if distance == "cosine":
            self._rows = self._unit(rows)

    def scores(self, query: Sequence[float]) -> dict[str, float]:
        """Return how near the nearest vector of each item is to a query, by the item's key."""
        np = self._numpy
        wanted = np.asarray([query], "<f4")
        if self._distance == "l2":
            near = -np.linalg.norm(self._rows - wanted, axis=1)
        else:
            near = self._rows @ (self._unit(wanted) if self._distance == "cosine" else wanted)[0]
        best = np.full(len(self._keys), -np.inf)
        np.maximum.at(best, self._owners, near)
        return {
            key: score
            for key, score in zip(self._keys, best.tolist(), strict=True)
            if score > -np.inf
        }

    def _unit(self, rows: Any) -> Any:
        lengths = self._numpy.linalg.norm(rows, axis=1, keepdims=True)
        lengths[lengths == 0] = 1
        return rows / lengths


class Embedded(NamedTuple):
    """The vectors of some operations: of the texts that they write, and of their queries."""

    by: Index | None
    texts: Vectors
    queries: Vectors

    def of(self, op: PutOp) -> dict[str, str]:
        """Return the vectors of an item as they are kept, by the paths of its texts."""
        if self.by is None:
            return {}
        return {path: self.by.packed(self.texts[text]) for path, text in self.by.texts(op).items()}


NOT_EMBEDDED = Embedded(None, {}, {})
