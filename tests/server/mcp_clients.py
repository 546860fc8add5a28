"""Clients of the MCP server for its tests: in this process, and to server processes."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client._transport import TransportStreams
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types import Implementation

from interlock.server.mcp.agents import Agents, opened
from interlock.server.mcp.server import make_server
from tests.processes.writers import Place

BACKENDS = ("sqlite", "postgres", "redis")
INTERLOCK = str(Path(sys.executable).parent / "interlock")


def a_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return a space of the test's own in a store of the kind that `request.param` names."""
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path / 'store.db'}", "s")
    url: str = request.getfixturevalue(f"{request.param}_url")
    return Place(url, f"mcp-{secrets.token_hex(8)}")


class Tools:
    """The tools of a server, called as a client calls them."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def __call__(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the structured answer; text, flag and schema agree with it."""
        result = await self.client.call_tool(tool, arguments)
        answer: dict[str, Any] = result.structured_content
        (content,) = result.content
        assert content.type == "text"
        assert json.loads(content.text) == answer
        assert result.is_error == (not answer["ok"])
        return answer

    async def done(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return what was answered to a call that is not refused."""
        answer = await self(tool, **arguments)
        assert answer["ok"], answer
        return answer

    async def refused(self, kind: str, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the refusal of a call."""
        refusal: dict[str, Any] = (await self(tool, **arguments)).get("refusal", {})
        assert refusal.get("kind") == kind, refusal
        assert refusal["message"]
        assert refusal["next_step"]
        return refusal

    async def record(self, key: str) -> dict[str, Any]:
        """Return the record of a key."""
        (record,) = (await self.done("read", keys=[key]))["records"]
        found: dict[str, Any] = record
        return found

    async def agent(self) -> str:
        """Return the name that this client's writes are logged under."""
        return str((await self.done("about"))["agent"])


@asynccontextmanager
async def using(client: Client) -> AsyncIterator[Tools]:
    """Connect a client; what tools answer is checked against the schemas that they announce."""
    async with client:
        await client.list_tools()
        yield Tools(client)


@asynccontextmanager
async def in_a_task(context: AbstractAsyncContextManager[Tools]) -> AsyncIterator[Tools]:
    """Enter and leave a context in one task, as the SDK wants it and fixtures do not."""
    entered: asyncio.Future[Tools] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def hold() -> None:
        async with context as value:
            entered.set_result(value)
            await leave.wait()

    task = asyncio.create_task(hold())
    task.add_done_callback(lambda _: entered.cancel())
    try:
        value = await entered
    except asyncio.CancelledError:
        await task  # it says why
        raise
    yield value
    leave.set()
    await task


@asynccontextmanager
async def here(
    place: Place,
    name: str | None = "us",
    read_only: bool = False,
    profile: str = "space",
    client: Mapping[str, Any] = {},
    **options: Any,
) -> AsyncIterator[Tools]:
    """Connect a client to a server in this process."""
    async with (
        opened(place.url, place.space, name, **options) as agents,
        using(client_of(agents, read_only, profile, **client)) as tools,
    ):
        yield tools


def client_of(
    agents: Agents, read_only: bool = False, profile: str = "space", **options: Any
) -> Client:
    """Return a client of a server in this process, not yet connected."""
    return Client(make_server(agents, read_only, profile), **options)


def on_stdio(place: Place, *options: str, client: str = "tester", mode: str = "auto") -> Client:
    """Return a client that starts a server of its own."""
    arguments = ["mcp", place.url, "--space", place.space, *options]
    started = StdioServerParameters(command=INTERLOCK, args=arguments, env={**os.environ})
    return Client(started, mode=mode, client_info=Implementation(name=client, version="1"))


@contextmanager
def http_server(place: Place, *options: str, **environment: str) -> Iterator[str]:
    """Run a server over HTTP on a port of its own; yield its URL."""
    command = [INTERLOCK, "mcp", place.url, "--space", place.space, "--http", "127.0.0.1:0"]
    server = subprocess.Popen(
        [*command, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert server.stderr is not None
    assert server.stdout is not None
    try:
        said = server.stderr.readline()
        assert said.startswith("serving at "), said + server.stderr.read()
        yield said.removeprefix("serving at ").strip()
    finally:
        server.terminate()
        code = server.wait(30)
        with server.stdout, server.stderr:
            assert (code, server.stdout.read()) == (0, "")


def over_http(url: str, token: str = "", client: str = "tester", mode: str = "auto") -> Client:
    """Return a client of a server over HTTP, which sends an access token if there is one."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    info = Implementation(name=client, version="1")
    return Client(_transport(url, headers), mode=mode, client_info=info)


@asynccontextmanager
async def _transport(url: str, headers: dict[str, str]) -> AsyncIterator[TransportStreams]:
    async with (
        create_mcp_http_client(headers=headers) as http,
        streamable_http_client(url, http_client=http) as streams,
    ):
        yield streams
