"""A knowledge graph in a space: entities with observations, and relations between them.

Each entity and each relation is a key of its own, and a call is one transaction over those that it
needs: what two clients do at once is done one after the other.  Who asks for what, and what answers
look like, is in `memory`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from interlock import AsyncSpace, AsyncTx, Json, Record
from interlock.server.mcp.calls import Answer, Refusal

GRAPH = "graph/"
_ENTITIES, _RELATIONS = f"{GRAPH}entities/", f"{GRAPH}relations/"
_LONGEST = 120  # bytes of a name in a key; longer ones are there by their digest
_ATTEMPTS = 1000

Arguments = Mapping[str, Any]


def _part(name: str) -> str:
    """Return a name as a segment of a key: as it is where that is possible."""
    quoted = quote(name, safe="", errors="surrogatepass")
    if not quoted or len(quoted) > _LONGEST or quoted in (".", ".."):
        return "=" + hashlib.sha256(quoted.encode()).hexdigest()
    return quoted


def entity_key(name: str) -> str:
    """Return the key of an entity."""
    return _ENTITIES + _part(name)


def relation_key(relation: Mapping[str, str]) -> str:
    """Return the key of a relation."""
    parts = (relation["from"], relation["relationType"], relation["to"])
    return _RELATIONS + "/".join(map(_part, parts))


def _only(fields: Iterable[str], value: Mapping[str, Json]) -> dict[str, Json]:
    return {field: value[field] for field in fields}


_ENTITY = ("name", "entityType", "observations")
_RELATION = ("from", "to", "relationType")


def _is(fields: Sequence[str], record: Record) -> bool:
    """Whether a record is part of the graph: other programs may write such keys, too."""
    return isinstance(record.value, dict) and {*fields} <= record.value.keys()


async def _create(
    space: AsyncSpace,
    given: Sequence[Mapping[str, Json]],
    fields: Sequence[str],
    key_of: Callable[[Mapping[str, Json]], str],
) -> list[dict[str, Json]]:
    """Create what does not exist; return it.  `at` keeps the order that things were made in."""
    position = await space.position()
    wanted: dict[str, dict[str, Json]] = {}
    for each in given:  # the first of a name counts
        wanted.setdefault(key_of(each), _only(fields, each))

    async def create(tx: AsyncTx) -> list[dict[str, Json]]:
        there = await tx.read_many(wanted)
        made = [key for key in wanted if not there[key].exists]
        for number, key in enumerate(made):
            tx.create(key, {**wanted[key], "at": [position, number]})
        return [wanted[key] for key in made]

    return await space.transact(create, attempts=_ATTEMPTS)


async def _create_entities(space: AsyncSpace, arguments: Arguments) -> Answer:
    def key_of(entity: Mapping[str, Json]) -> str:
        return entity_key(entity["name"])

    return {"entities": await _create(space, arguments["entities"], _ENTITY, key_of)}


async def _create_relations(space: AsyncSpace, arguments: Arguments) -> Answer:
    return {"relations": await _create(space, arguments["relations"], _RELATION, relation_key)}


async def _add_observations(space: AsyncSpace, arguments: Arguments) -> Answer:
    given = arguments["observations"]

    async def add(tx: AsyncTx) -> list[Json]:
        results: list[Json] = []
        for each in given:
            name = each["entityName"]
            record = await tx.read(entity_key(name))
            if not _is(_ENTITY, record):
                raise Refusal("NotFound", f"Entity with name {name} not found", "Create it.")
            known = record.value["observations"]
            new = [text for text in each["contents"] if text not in known]
            if new:
                tx.write(record, {**record.value, "observations": [*known, *new]})
            results.append({"entityName": name, "addedObservations": new})
        return results

    return {"results": await space.transact(add, attempts=_ATTEMPTS)}


async def _delete_entities(space: AsyncSpace, arguments: Arguments) -> Answer:
    names = {*arguments["entityNames"]}

    async def delete(tx: AsyncTx) -> None:
        scanned = (await tx.scan(_RELATIONS)).values()
        relations = [each for each in scanned if _is(_RELATION, each)]
        entities = (await tx.read_many(map(entity_key, names))).values()
        touched = [each for each in relations if names & {each.value["from"], each.value["to"]}]
        for record in (*(each for each in entities if each.exists), *touched):
            tx.delete(record)

    await space.transact(delete, attempts=_ATTEMPTS)
    return _done("Entities")


async def _delete_observations(space: AsyncSpace, arguments: Arguments) -> Answer:
    async def delete(tx: AsyncTx) -> None:
        for each in arguments["deletions"]:
            record = await tx.read(entity_key(each["entityName"]))
            known = record.value["observations"] if _is(_ENTITY, record) else []
            left = [text for text in known if text not in each["observations"]]
            if left != known:
                tx.write(record, {**record.value, "observations": left})

    await space.transact(delete, attempts=_ATTEMPTS)
    return _done("Observations")


async def _delete_relations(space: AsyncSpace, arguments: Arguments) -> Answer:
    keys = [*map(relation_key, arguments["relations"])]

    async def delete(tx: AsyncTx) -> None:
        for record in (await tx.read_many(dict.fromkeys(keys))).values():
            if record.exists:
                tx.delete(record)

    await space.transact(delete, attempts=_ATTEMPTS)
    return _done("Relations")


def _done(what: str) -> Answer:
    return {"success": True, "message": f"{what} deleted successfully"}


async def _graph(space: AsyncSpace) -> tuple[list[Json], list[Json]]:
    """Return the entities and the relations as of one moment, in the order they were made in."""
    records = sorted((await space.scan(GRAPH)).values(), key=_order)

    def found(prefix: str, fields: Sequence[str]) -> list[Json]:
        there = [each for each in records if each.key.startswith(prefix) and _is(fields, each)]
        return [_only(fields, each.value) for each in there]

    return found(_ENTITIES, _ENTITY), found(_RELATIONS, _RELATION)


def _order(record: Record) -> tuple[int, int, int]:
    at = record.value.get("at") if isinstance(record.value, dict) else None
    position, number = at if isinstance(at, list) else (record.position, 0)
    return position, number, record.position


async def read_graph(space: AsyncSpace, arguments: Arguments) -> Answer:
    """Return the whole graph."""
    entities, relations = await _graph(space)
    return {"entities": entities, "relations": relations}


async def _chosen(space: AsyncSpace, chosen: Callable[[Json], bool]) -> Answer:
    """Return some entities, and the relations that begin or end at one of them."""
    entities, relations = await _graph(space)
    entities = [each for each in entities if chosen(each)]
    names = {each["name"] for each in entities}
    touching = [each for each in relations if names & {each["from"], each["to"]}]
    return {"entities": entities, "relations": touching}


async def _search_nodes(space: AsyncSpace, arguments: Arguments) -> Answer:
    query = arguments["query"].lower()

    def matches(entity: Json) -> bool:
        texts = (entity["name"], entity["entityType"], *entity["observations"])
        return any(query in text.lower() for text in texts)

    return await _chosen(space, matches)


async def _open_nodes(space: AsyncSpace, arguments: Arguments) -> Answer:
    return await _chosen(space, lambda entity: entity["name"] in arguments["names"])


CALLS: Mapping[str, Callable[[AsyncSpace, Arguments], Awaitable[Answer]]] = {
    "create_entities": _create_entities,
    "create_relations": _create_relations,
    "add_observations": _add_observations,
    "delete_entities": _delete_entities,
    "delete_observations": _delete_observations,
    "delete_relations": _delete_relations,
    "read_graph": read_graph,
    "search_nodes": _search_nodes,
    "open_nodes": _open_nodes,
}
