"""Vectors of the items: which texts are embedded, how vectors are kept, how a query ranks.

A search compares the query with every item under its namespace: no index is built, so it is meant
for thousands of items, not for millions.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from operator import mul
from typing import NamedTuple

from interlock import Invalid
from interlock.adapters.langgraph.items import Found
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langgraph.store.base import (
        IndexConfig,
        Op,
        PutOp,
        SearchItem,
        SearchOp,
        ensure_embeddings,
        get_text_at_path,
        tokenize_path,
    )

Vectors = Mapping[str, Sequence[float]]  # by text


class Index:
    """How the items of a store are embedded.  `config` is LangGraph's `IndexConfig`."""

    def __init__(self, config: IndexConfig) -> None:
        self.embeddings = ensure_embeddings(config.get("embed"))
        self._dims = config["dims"]
        self._fields = config.get("fields") or ["$"]

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


class Embedded(NamedTuple):
    """The vectors of some operations: of the texts that they write, and of their queries."""

    by: Index | None
    texts: Vectors
    queries: Vectors

    def of(self, op: PutOp) -> dict[str, str]:
        """Return the vectors of an item as they are kept, by the paths of its texts."""
        texts = {} if self.by is None else self.by.texts(op)
        return {path: _packed(self.texts[text]) for path, text in texts.items()}


NOT_EMBEDDED = Embedded(None, {}, {})


def _packed(vector: Sequence[float]) -> str:
    """Return a vector as text: numbers of 32 bits, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def ranked(query: Sequence[float], candidates: Iterable[Found]) -> list[SearchItem]:
    """Return items by how near their nearest vector is to a query, those without one last."""
    scored: list[SearchItem] = []
    unscored: list[SearchItem] = []
    for found in candidates:
        vectors = [_unpacked(text) for text in found.kept.vectors.values()]
        if vectors:
            scored.append(found.ranked(max(_cosine(query, vector) for vector in vectors)))
        else:
            unscored.append(found.ranked())
    return [*sorted(scored, key=_score, reverse=True), *unscored]


def _unpacked(text: str) -> Sequence[float]:
    data = base64.b64decode(text)
    return struct.unpack(f"<{len(data) // 4}f", data)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    norms = math.hypot(*one) * math.hypot(*other)
    return sum(map(mul, one, other)) / norms if norms else 0.0


def _score(item: SearchItem) -> float:
    return item.score or 0.0
