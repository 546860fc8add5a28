"""Connections to the MCP server over HTTP that begin a request and do not finish it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from interlock.server.connections import Limits
from interlock.server.mcp.agents import opened
from interlock.server.mcp.server import make_server, serve_http
from tests.server.mcp_clients import over_http, using

POST = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
WHOLE = b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
HALF_OPEN = {
    "nothing": b"",
    "half a header": POST[:40],
    "no body": POST + b"Content-Length: 10\r\n\r\n",
    "half a body": POST + b"Content-Length: 10\r\n\r\n12345",
    "a chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    "a second one in half": WHOLE + POST + b"Content-Length: 10\r\n\r\n",
}


@asynccontextmanager
async def served(tmp_path: Path, limits: Limits) -> AsyncIterator[str]:
    """Serve a store in this process; yields the URL."""
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with opened(f"sqlite:///{tmp_path / 'store.db'}", "s", "us") as agents:
        serving = asyncio.create_task(
            serve_http(
                make_server(agents), "127.0.0.1", 0, tokens={}, told=told.set_result, limits=limits
            )
        )
        serving.add_done_callback(lambda _: told.cancel())  # it could not listen
        try:
            yield await told
        finally:
            if not serving.done():
                signal.raise_signal(signal.SIGTERM)  # as it is stopped outside of tests
            await asyncio.wait([serving])


class Raw:
    """A connection of a client that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, url: str, sent: bytes) -> Raw:
        raw = cls(*await asyncio.open_connection("127.0.0.1", urlsplit(url).port))
        raw.writer.write(sent)
        await raw.writer.drain()
        return raw

    async def closed(self) -> None:
        """Wait until the server has closed it, reading what comes."""
        with suppress(ConnectionError):
            await self.reader.read()
        self.writer.close()


async def test_half_open_requests_are_closed_and_others_are_served(tmp_path: Path) -> None:
    limits = Limits(request=1.5, idle=1.5, connections=400)
    async with served(tmp_path, limits) as url:
        kinds = list(HALF_OPEN.values()) * 50
        half_open = [await Raw.to(url, sent) for sent in kinds]
        async with using(over_http(url)) as tools:
            await tools.done("create", key="k", value=1)
            async with asyncio.timeout(30):
                await asyncio.gather(*(each.closed() for each in half_open))
            assert (await tools.record("k"))["value"] == 1


@pytest.mark.parametrize("sent", HALF_OPEN.values(), ids=HALF_OPEN)
async def test_each_half_open_request_is_closed(sent: bytes, tmp_path: Path) -> None:
    async with served(tmp_path, Limits(request=0.1, idle=0.1)) as url, asyncio.timeout(30):
        await (await Raw.to(url, sent)).closed()


async def test_a_request_that_trickles_in_is_closed(tmp_path: Path) -> None:
    async with served(tmp_path, Limits(request=0.2)) as url, asyncio.timeout(30):
        raw = await Raw.to(url, POST)
        closed = asyncio.create_task(raw.closed())
        while not closed.done():
            raw.writer.write(b"X-A: b\r\n")
            await asyncio.wait([closed], timeout=0.02)


async def test_a_crowd_of_half_open_requests_makes_room(tmp_path: Path) -> None:
    async with served(tmp_path, Limits(connections=20)) as url:
        crowd = [await Raw.to(url, POST) for _ in range(40)]
        async with using(over_http(url)) as tools:
            await tools.done("create", key="k", value=1)
        async with asyncio.timeout(30):
            await asyncio.gather(*(each.closed() for each in crowd[:20]))
        for each in crowd:
            each.writer.close()


async def test_who_does_not_read_an_answer_is_closed(tmp_path: Path) -> None:
    async with served(tmp_path, Limits(unread=0.2)) as url, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port, limit=1)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

        async def ask_on() -> None:
            while not reader.at_eof():  # nobody takes the answers
                writer.write(WHOLE * 1000)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await ask_on()
