"""Keys as resources: listed, read, and told of when they change, whoever changes them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp_types import INVALID_PARAMS, ResourceUpdatedNotification, TextResourceContents

import interlock
from tests.processes.writers import Place
from tests.server.mcp_clients import here, in_a_task

BASE = "interlock://team%20a/"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(f"sqlite:///{tmp_path / 'store.db'}", "team a")


@pytest.fixture
def them(place: Place) -> Any:
    """Another agent, in no server."""
    with interlock.open(place.url, place.space, agent="them") as space:
        yield space


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with in_a_task(here(place)) as tools:
        yield tools.client


async def read(client: Client, uri: str) -> Any:
    (contents,) = (await client.read_resource(uri)).contents
    assert (contents.uri, contents.mime_type) == (uri, "application/json")
    assert isinstance(contents, TextResourceContents)
    return json.loads(contents.text)


async def test_records_are_resources(client: Client, them: interlock.Space) -> None:
    them.create_many({f"booking/{n:03}": {"n": n} for n in range(201)})
    them.create("plan é.md", "draft")
    first = await client.list_resources()
    rest = await client.list_resources(cursor=first.next_cursor)
    assert (len(first.resources), rest.next_cursor) == (200, None)
    assert [each.uri for each in rest.resources] == [
        f"{BASE}booking/200",
        f"{BASE}plan%20%C3%A9.md",
    ]
    (template,) = (await client.list_resource_templates()).resource_templates
    assert template.uri_template == f"{BASE}{{+key}}"
    record = await read(client, rest.resources[1].uri)
    assert (record["value"], record["version"], record["writer"]) == ("draft", 1, "them")
    below = await read(client, f"{BASE}booking/")
    assert [each["key"] for each in below["keys"]] == [f"booking/{n:03}" for n in range(201)]
    assert not below["more"]


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        pytest.param(f"{BASE}nobody", "no resource", id="absent"),
        pytest.param(f"{BASE}langgraph/x", "no resource", id="reserved"),
        pytest.param(f"{BASE}a//b", "empty segment", id="malformed"),
        pytest.param(f"{BASE}$rules", "reserved", id="own"),
        pytest.param("interlock://other/plan", "no resource", id="elsewhere"),
        pytest.param("file:///etc/passwd", "no resource", id="file"),
    ],
)
async def test_what_is_no_resource_is_an_error(
    client: Client, them: interlock.Space, uri: str, said: str
) -> None:
    them.create("langgraph/x", 1)
    with pytest.raises(MCPError, match=said) as refused:
        await client.read_resource(uri)
    assert refused.value.error.code == INVALID_PARAMS


async def test_a_malformed_cursor_is_an_error(client: Client) -> None:
    with pytest.raises(MCPError, match="empty segment") as refused:
        await client.list_resources(cursor="a//b")
    assert refused.value.error.code == INVALID_PARAMS


async def test_who_listens_hears_of_changes_by_anybody(
    client: Client, them: interlock.Space
) -> None:
    plan = them.create("plan", 1)
    wanted = [f"{BASE}plan", f"{BASE}booking/", f"{BASE}langgraph/"]
    async with client.listen(resource_subscriptions=wanted) as changes:
        heard = aiter(changes)
        them.create("other", 1)
        them.create("langgraph/x", 1)
        them.write(plan, 2)
        assert await anext(heard) == ResourceUpdated(f"{BASE}plan")
        them.create("booking/1", {})
        assert await anext(heard) == ResourceUpdated(f"{BASE}booking/")
        async with client.listen(resources_list_changed=True) as lists:
            them.delete(them.read("plan"))
            assert await anext(aiter(lists)) == ResourcesListChanged()


@pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")
async def test_a_client_of_an_older_protocol_subscribes(
    place: Place, them: interlock.Space
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: object) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            await heard.put(str(message.params.uri))

    plan, other = them.create("plan", 1), them.create("other", 1)
    older = {"mode": "legacy", "message_handler": note}
    async with here(place, client=older) as tools:
        client = tools.client
        capabilities = client.server_capabilities.resources
        assert capabilities is not None
        assert capabilities.subscribe
        for key in ("plan", "other"):
            await client.subscribe_resource(f"{BASE}{key}")
        plan = them.write(plan, 2)
        assert await heard.get() == f"{BASE}plan"
        await client.unsubscribe_resource(f"{BASE}plan")
        them.write(plan, 3)
        them.write(other, 2)
        assert await heard.get() == f"{BASE}other"
        assert (await read(client, f"{BASE}plan"))["value"] == 3
