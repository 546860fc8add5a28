"""Contributions of many agents to one vector store: Chroma or Qdrant.

A vector store overwrites what has the same id, and tells nobody.  Here an id is made of everything
that is stored with it, so two different contributions never share one, and the same contribution
sent twice is stored once.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import threading
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interlock import Invalid
from interlock.extras import needs

if TYPE_CHECKING:
    from chromadb import Collection
    from qdrant_client import QdrantClient

Scalar = str | int | float | bool

MOST_AT_ONCE = 1000  # contributions in one call: what every store takes in one piece
# Metadata that is ours, so that it can be searched by.
RESERVED = ("id", "agent", "space", "name", "text")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Contribution:
    """What an agent puts into a vector store: a vector, and what it stands for.

    `vector` is a list, a tuple or an array.  `name` is for people, and need not be unique.
    `metadata` holds text, numbers and booleans.
    """

    vector: Iterable[float]
    text: str = ""
    name: str = ""
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


def content_id(agent: str, contribution: Contribution, space: str = "default") -> str:
    """Return the id of an agent's contribution, a UUID made of all that it holds.

    It is the same in every process and forever.  Numbers of a vector count as the stores keep
    them, with 32 bits.  Raises `Invalid`.
    """
    return _checked(agent, contribution, space).id


def upsert_chroma(
    collection: Collection,
    contributions: Iterable[Contribution],
    *,
    agent: str,
    space: str = "default",
) -> list[str]:
    """Store contributions in a Chroma collection; return the id of each.

    Raises `Invalid` before anything is stored, also if the collection's vectors have another
    number of dimensions.
    """
    checked = [_checked(agent, each, space) for each in contributions]
    unique = _unique(checked)
    with needs("Chroma", "chroma"):
        from chromadb.errors import InvalidArgumentError
    vectors: list[Sequence[float] | Sequence[int]] = [each.vector for each in unique]
    try:
        collection.upsert(
            ids=[each.id for each in unique],
            embeddings=vectors,
            metadatas=[each.metadata for each in unique],
            documents=[each.text for each in unique],
        )
    except InvalidArgumentError as problem:
        raise Invalid(f"Chroma refused the vectors: {problem}") from problem
    return [each.id for each in checked]


def upsert_qdrant(
    client: QdrantClient,
    collection: str,
    contributions: Iterable[Contribution],
    *,
    agent: str,
    space: str = "default",
    vector_name: str | None = None,
) -> list[str]:
    """Store contributions in a Qdrant collection; return the id of each.

    `vector_name` is for a collection with several vectors for each point.  Raises `Invalid` before
    anything is stored, also if the collection's vectors have another number of dimensions.
    """
    checked = [_checked(agent, each, space) for each in contributions]
    unique = _unique(checked)
    with needs("Qdrant", "qdrant"):
        from qdrant_client.models import PointStruct
    with _lock_of(client):
        _check_dimensions(client, collection, vector_name, len(unique[0].vector))
        points = [
            PointStruct(
                id=each.id,
                vector=each.vector if vector_name is None else {vector_name: each.vector},
                payload={**each.metadata, "text": each.text},
            )
            for each in unique
        ]
        client.upsert(collection, points, wait=True)
    return [each.id for each in checked]


# Checks, and the id


@dataclass(frozen=True)
class _Checked:
    id: str
    vector: list[float]
    text: str
    metadata: dict[str, Scalar]


def _checked(agent: str, contribution: Contribution, space: str) -> _Checked:
    """Return what is stored for a contribution.  Raises `Invalid`."""
    if not agent:
        raise Invalid("A contribution needs the name of its agent.")
    named = {"agent": agent, "space": space, "name": contribution.name, "text": contribution.text}
    for part, text in named.items():
        if not isinstance(text, str):
            raise Invalid(f"{part}={text!r} is not a string")
    vector = _vector(contribution.vector)
    metadata = _metadata(contribution.metadata)
    try:
        described = json.dumps(
            [space, agent, contribution.name, contribution.text, metadata],
            ensure_ascii=False,
            allow_nan=False,
            sort_keys=True,
            separators=(",", ":"),
        ).encode()
    except UnicodeEncodeError:
        raise Invalid("A string contains a lone surrogate, which UTF-8 can't encode.") from None
    digest = hashlib.sha256(described + b"\n" + struct.pack(f"<{len(vector)}f", *vector))
    made = str(uuid.UUID(bytes=digest.digest()[:16], version=5))
    ours = {"id": made, "agent": agent, "space": space, "name": contribution.name}
    return _Checked(made, vector, contribution.text, {**metadata, **ours})


def _vector(given: Iterable[float]) -> list[float]:
    """Return a vector as plain numbers of 32 bits.  Raises `Invalid`."""
    try:
        numbers = [] if isinstance(given, str | bytes) else list(given)
        form = f"<{len(numbers)}f"
        numbers = list(struct.unpack(form, struct.pack(form, *numbers)))
    except (TypeError, struct.error) as problem:
        raise Invalid(f"The vector is not a sequence of numbers: {problem}") from problem
    except OverflowError:
        raise Invalid("The vector contains a number that does not fit in 32 bits.") from None
    if not numbers:
        raise Invalid("The vector is empty, or a string.")
    if not all(map(math.isfinite, numbers)):
        raise Invalid("The vector contains a number that is infinite or not a number.")
    return [number + 0.0 for number in numbers]  # no negative zero, which equals the other


def _metadata(given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return metadata that every store keeps as it is.  Raises `Invalid`."""
    for key, value in given.items():
        if not isinstance(key, str) or not key or key.startswith("chroma:"):
            raise Invalid(f"metadata can't have the key {key!r}.")
        if key in RESERVED:
            raise Invalid(
                f"metadata can't have the key {key!r}: {', '.join(RESERVED)} are reserved."
            )
        if type(value) not in (str, int, float, bool):
            raise Invalid(f"metadata {key!r} is {value!r}, not text, a number or a boolean")
        if isinstance(value, float) and not math.isfinite(value):
            raise Invalid(f"metadata {key!r} is {value!r}, which is infinite or not a number")
        if isinstance(value, int) and value not in _INT64:
            raise Invalid(f"metadata {key!r} does not fit in 64 bits")
    return dict(given)


def _unique(checked: list[_Checked]) -> list[_Checked]:
    """Return each contribution once.  Raises `Invalid` if they cannot be stored together."""
    if not checked:
        raise Invalid("There are no contributions.")
    if len(checked) > MOST_AT_ONCE:
        raise Invalid(f"{len(checked):,} contributions at once; the limit is {MOST_AT_ONCE:,}")
    if len(lengths := {len(each.vector) for each in checked}) > 1:
        raise Invalid(f"The vectors differ in dimensions: {sorted(lengths)}")
    return list({each.id: each for each in checked}.values())


def _check_dimensions(
    client: QdrantClient, collection: str, vector_name: str | None, found: int
) -> None:
    vectors: Any = client.get_collection(collection).config.params.vectors
    if isinstance(vectors, dict):
        if vector_name not in vectors:
            raise Invalid(f"vector_name is {vector_name!r}; {collection} has {sorted(vectors)}")
        vectors = vectors[vector_name]
    elif vector_name is not None:
        raise Invalid(f"vector_name is {vector_name!r}; the vectors of {collection} have no name")
    if vectors is not None and vectors.size != found:
        raise Invalid(f"The vectors have {found} dimensions; {collection} has {vectors.size}.")


# Qdrant inside the process loses points that two threads add at once: they get the same place.
_local_locks: weakref.WeakKeyDictionary[QdrantClient, threading.Lock] = weakref.WeakKeyDictionary()
_making_a_lock = threading.Lock()


def _lock_of(client: QdrantClient) -> threading.Lock:
    """Return the lock that orders the writes of a client; one of its own for a server's."""
    local = client.init_options.get("path") or client.init_options.get("location") == ":memory:"
    if not local:
        return threading.Lock()
    with _making_a_lock:
        return _local_locks.setdefault(client, threading.Lock())
