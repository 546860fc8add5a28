"""Clients of the service that are slow on purpose: others are served all the same."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

import interlock
from interlock.server.connections import Limits
from interlock.server.http.app import serve
from interlock.server.http.service import Service
from tests.servers.process import wait_until

HEAD = b"PUT /v1/spaces/main/records/k HTTP/1.1\r\nHost: 127.0.0.1\r\n"
SLOW = (
    b"",  # nothing
    HEAD,  # headers that never end
    HEAD + b"Content-Length: 1000\r\n\r\n1",  # a body a byte at a time
)


@asynccontextmanager
async def served(tmp_path: Path, limits: Limits) -> AsyncIterator[tuple[Service, str]]:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    service = Service([f"sqlite:///{tmp_path / 's.db'}"], tokens=False)
    serving = asyncio.create_task(
        serve(service, "127.0.0.1", 0, told=told.set_result, limits=limits)
    )
    serving.add_done_callback(lambda _: told.cancel())
    try:
        yield service, await told
    finally:
        if not serving.done():
            signal.raise_signal(signal.SIGTERM)
        await asyncio.wait([serving])


async def test_200_slow_connections_do_not_keep_others_out(tmp_path: Path) -> None:
    most, path = 40, "/v1/spaces/main/records/other"
    async with (
        served(tmp_path, Limits(request=600, idle=600, connections=most)) as (_, url),
        httpx.AsyncClient(base_url=url, timeout=20) as client,
        AsyncExitStack() as stack,
    ):
        assert (await client.put("/v1/spaces/main")).status_code == 201
        opened = []
        for n in range(200):
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
            stack.push_async_callback(closed, writer)
            writer.write(SLOW[n % len(SLOW)])
            opened.append(reader)
        made = await client.put(path, json=1, headers={"If-None-Match": "*"})
        assert made.status_code == 201
        async with asyncio.timeout(20):  # the oldest are dropped: so many there may not be
            for reader in opened[: 200 - most]:
                with suppress(ConnectionError):
                    await reader.read()


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection, also one that the server has dropped."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_viewer_that_reads_nothing_is_dropped(tmp_path: Path) -> None:
    async with served(tmp_path, Limits(unread=0.3)) as (service, url):
        store = f"sqlite:///{tmp_path / 's.db'}"
        async with interlock.open_async(store, "main", "us") as space:
            await space.create("k", 0)
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, ("127.0.0.1", urlsplit(url).port))
            await loop.sock_sendall(
                deaf, b"GET /v1/spaces/main/watch HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
            )
            await asyncio.to_thread(wait_until, lambda: service.watching == 1, "it watches", 20)
            record = await space.read("k")
            async with asyncio.timeout(30):
                while service.watching:  # what is sent fills the buffers on the way, then nothing
                    record = await space.write(record, "x" * 200_000, touch=True)
            deaf.close()
