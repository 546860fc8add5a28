"""The profile of the reference memory server: its tools and results, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.subscriptions import ResourceUpdated
from mcp_types import TextResourceContents

import interlock
from interlock.server.mcp.graph import entity_key, relation_key
from tests.processes.writers import Place
from tests.repository import ROOT, text_of
from tests.server.mcp_clients import BACKENDS, a_place, here, on_stdio

PROCESSES, EACH = 4, 25
URI = "memory://knowledge-graph"
# Recorded from `@modelcontextprotocol/server-memory`: its tools, and what it answered to calls.
REFERENCE = json.loads(text_of(ROOT / "tests" / "server" / "reference_memory.json"))


@pytest.fixture
def local(tmp_path: Path) -> Place:
    return Place(f"sqlite:///{tmp_path / 'local.db'}", "s")


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return a_place(request, tmp_path)


async def called(client: Client, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    return result.structured_content


def entity(name: str, *observations: str) -> dict[str, Any]:
    return {"name": name, "entityType": "t", "observations": list(observations)}


def relation(one: str, other: str) -> dict[str, Any]:
    return {"from": one, "to": other, "relationType": "knows"}


async def test_its_tools_and_results_are_those_of_the_reference_server(local: Place) -> None:
    async with here(local, profile="memory") as tools:
        client = tools.client
        listed = (await client.list_tools()).tools
        ours = [tool.model_dump(by_alias=True, exclude_none=True) for tool in listed]
        assert ours == REFERENCE["tools"]
        for call in REFERENCE["calls"]:
            result = await client.call_tool(call["tool"], call["arguments"])
            (content,) = result.content
            assert content.type == "text"
            assert result.is_error == call["is_error"], call
            assert result.structured_content == call.get("structured"), call
            if not call["is_error"]:
                answer = result.structured_content
                assert answer is not None
                lists = (answer.get("message"), *map(as_text, (answer, *answer.values())))
                assert content.text in lists, call
            elif "validation" not in call["text"]:
                assert content.text == call["text"]


def as_text(answer: object) -> str:
    return json.dumps(answer, indent=2, ensure_ascii=False)


async def test_four_processes_lose_no_observation(local: Place) -> None:
    gate = asyncio.Barrier(PROCESSES)

    async def work(number: int) -> None:
        async with on_stdio(local, "--profile", "memory") as client:
            await called(client, "create_entities", entities=[entity("log"), entity(str(number))])
            await gate.wait()
            for n in range(EACH):
                added = [{"entityName": "log", "contents": [f"{number}:{n}"]}]
                await called(client, "add_observations", observations=added)

    await asyncio.gather(*map(work, range(PROCESSES)))
    async with here(local, profile="memory") as tools:
        graph = await called(tools.client, "read_graph")
    log = next(each for each in graph["entities"] if each["name"] == "log")
    assert sorted(log["observations"]) == sorted(
        f"{number}:{n}" for number in range(PROCESSES) for n in range(EACH)
    )
    assert len(graph["entities"]) == 1 + PROCESSES, "one of them made the log"


async def test_clients_work_on_one_graph_on_every_store(place: Place) -> None:
    async with here(place, "a", profile="memory") as a, here(place, "b", profile="memory") as b:
        made = await asyncio.gather(
            *(called(each.client, "create_entities", entities=[entity("x")]) for each in (a, b))
        )
        assert sorted(len(each["entities"]) for each in made) == [0, 1], "one of them made it"
        pairs = [relation("x", "y"), relation("y", "x"), relation("z", "y")]
        await called(a.client, "create_relations", relations=pairs)
        added = [{"entityName": "x", "contents": ["1", "2"]}]
        await asyncio.gather(
            called(a.client, "add_observations", observations=added),
            called(b.client, "create_entities", entities=[entity("y")]),
        )
        await called(
            b.client, "delete_observations", deletions=[{"entityName": "x", "observations": ["1"]}]
        )
        await called(b.client, "delete_entities", entityNames=["y"])
        graph = await called(a.client, "read_graph")
    assert graph == {"entities": [entity("x", "2")], "relations": []}
    with interlock.open(place.url, place.space) as space:
        writers = {entry.agent for entry in space.log(prefix="graph/")}
        assert writers == {"a", "b"}, "who wrote what is in the log"
        assert space.read(entity_key("x")).value["observations"] == ["2"]


def test_any_name_is_a_key_of_its_own() -> None:
    names = ["a", "A", "a/b", "a%2Fb", "", "=", ".", "..", "x" * 1000, "x" * 1001, "é*{}$ ", "\n"]
    assert len({entity_key(name) for name in names}) == len(names)
    relations = [relation(one, other) for one in names for other in names]
    keys = {relation_key(each) for each in relations}
    assert len(keys) == len(relations)
    with interlock.open("sqlite://") as space:
        space.read_many(keys)


async def test_what_others_keep_under_its_keys_is_not_in_the_graph(local: Place) -> None:
    with interlock.open(local.url, local.space) as space:
        space.create_many(
            {entity_key("odd"): 7, entity_key("half"): {"name": "half"}, "graph/relations/x": []}
        )
    async with here(local, profile="memory") as tools:
        client = tools.client
        await called(client, "create_entities", entities=[entity("x")])
        await called(client, "delete_entities", entityNames=["y"])
        added = [{"entityName": "half", "contents": ["1"]}]
        refused = await client.call_tool("add_observations", {"observations": added})
        assert refused.is_error
        graph = await called(client, "read_graph")
    assert graph == {"entities": [entity("x")], "relations": []}


async def test_a_read_only_server_has_the_tools_that_read(local: Place) -> None:
    async with here(local, profile="memory") as tools:
        await called(tools.client, "create_entities", entities=[entity("x")])
    async with here(local, profile="memory", read_only=True) as tools:
        names = [tool.name for tool in (await tools.client.list_tools()).tools]
        assert names == ["read_graph", "search_nodes", "open_nodes"]
        refused = await tools.client.call_tool("delete_entities", {"entityNames": ["x"]})
        assert refused.is_error
        assert (await called(tools.client, "open_nodes", names=["x"]))["entities"]


async def test_the_graph_is_a_resource_that_changes_whoever_writes(local: Place) -> None:
    async with here(local, profile="memory") as tools, here(local, "b", profile="memory") as other:
        client = tools.client
        (resource,) = (await client.list_resources()).resources
        assert (resource.uri, resource.name) == (URI, "knowledge-graph")
        async with client.listen(resource_subscriptions=[URI]) as changes:
            await called(other.client, "create_entities", entities=[entity("x")])
            assert await anext(aiter(changes)) == ResourceUpdated(URI)
        (contents,) = (await client.read_resource(URI)).contents
        assert isinstance(contents, TextResourceContents)
        assert json.loads(contents.text)["entities"] == [entity("x")]
