"""Connections to a service: kept open, used by one request at a time, from threads and tasks.

Connecting is tried again for a while, because nothing was sent; what was sent is not sent again
here.  A forked child makes connections of its own.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from interlock.backends.redaction import Hidden, check_server_url, malformed, redact_url
from interlock.errors import AnswerLost, Closed, Unavailable

_PAUSE = 0.05  # seconds between two tries to connect
_IDLE = 15.0  # seconds after which a connection is not used again: the server is about to close it
_ANSWERS_WITHIN = 60.0  # seconds; a Pause is shorter
_MOST_HEAD = 1 << 16  # bytes of a status line and headers
_SENT = (OSError, http.client.HTTPException, asyncio.IncompleteReadError, EOFError)


class Reply(NamedTuple):
    """Status, headers with lower-case names, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Place(Hidden):
    """Where a service is, and the token to show there."""

    def __init__(self, url: str) -> None:
        check_server_url(url)
        self.place = redact_url(url)
        try:
            parts = urlsplit(url)
            self.host, self.port = parts.hostname or "", parts.port
        except ValueError:
            raise malformed(url, "host or port can't be read") from None
        if not self.host or parts.query or parts.fragment:
            raise malformed(url, "write http://host:port or https://host")
        self.secure = parts.scheme == "https"
        self.port = self.port or (443 if self.secure else 80)
        self.root = parts.path.rstrip("/")
        self.token = unquote(parts.password or "") or os.environ.get("INTERLOCK_TOKEN", "")

    def context(self) -> ssl.SSLContext | None:
        """Return how the server's certificate is checked, None without TLS."""
        return ssl.create_default_context() if self.secure else None


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter, float]


class Connections:
    """The connections of one process to one service.  Every thread and event loop may use them."""

    def __init__(self, place: Place, patience: float) -> None:
        self.place = place
        self._patience = patience  # seconds to wait for a server that is not there
        self._closed = False
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if place.token:
            self._headers["Authorization"] = f"Bearer {place.token}"
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._tls = self.place.context()
        self._free: list[tuple[http.client.HTTPConnection, float]] = []
        self._streams: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Streams]] = (
            weakref.WeakKeyDictionary()
        )

    def request(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Send one request.  Raises Unavailable where nothing was sent, AnswerLost, Closed."""
        self._check_open()
        connection = self._reusable() or self._connected()
        try:
            connection.request(method, self.place.root + path, body, self._headers)
            answer = connection.getresponse()
            reply = Reply(answer.status, _lower(answer.headers), answer.read())
        except BaseException as problem:
            connection.close()
            if isinstance(problem, _SENT):
                raise AnswerLost(f"{self.place.place}: {type(problem).__name__}") from problem
            raise
        if answer.will_close or self._closed:
            connection.close()
        else:
            self._free.append((connection, time.monotonic()))
        return reply

    async def request_async(self, method: str, path: str, body: bytes = b"") -> Reply:
        """The same without blocking the event loop."""
        self._check_open()
        free = self._streams.setdefault(asyncio.get_running_loop(), [])
        reader, writer = self._reusable_streams(free) or await self._streams_connected()
        try:
            writer.write(self._head(method, path, body) + body)
            async with asyncio.timeout(_ANSWERS_WITHIN):
                reply, stays = await _read(reader)
        except BaseException as problem:
            writer.close()
            if isinstance(problem, (*_SENT, TimeoutError, ValueError)):
                raise AnswerLost(f"{self.place.place}: {type(problem).__name__}") from problem
            raise
        if stays and not self._closed:
            free.append((reader, writer, time.monotonic()))
        else:
            writer.close()
        return reply

    def close(self) -> None:
        """Close what no request uses."""
        self._closed = True
        if self._pid != os.getpid():
            return
        while self._free:
            self._free.pop()[0].close()
        for loop, streams in list(self._streams.items()):
            for _, writer, _ in streams:
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(writer.close)
            streams.clear()

    async def close_async(self) -> None:
        """The same, waiting until those of this event loop are closed."""
        streams = self._streams.pop(asyncio.get_running_loop(), [])
        for _, writer, _ in streams:
            writer.close()
        for _, writer, _ in streams:
            with suppress(OSError):
                await writer.wait_closed()
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("The space was closed. Open it again to use it.")
        if self._pid != os.getpid():
            self._start_anew()

    def _reusable(self) -> http.client.HTTPConnection | None:
        while self._free:
            try:
                connection, since = self._free.pop()
            except IndexError:  # another thread was faster
                break
            if time.monotonic() - since < _IDLE:
                return connection
            connection.close()
        return None

    def _connected(self) -> http.client.HTTPConnection:
        place, ends = self.place, time.monotonic() + self._patience
        while True:
            if self._tls is None:
                made = http.client.HTTPConnection(place.host, place.port, timeout=_ANSWERS_WITHIN)
            else:
                made = http.client.HTTPSConnection(
                    place.host, place.port, timeout=_ANSWERS_WITHIN, context=self._tls
                )
            try:
                made.connect()
            except OSError as problem:
                made.close()
                self._check_worth(problem, ends)
                time.sleep(_PAUSE)
            else:
                return made

    def _reusable_streams(
        self, free: list[_Streams]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        while free:
            reader, writer, since = free.pop()
            if time.monotonic() - since < _IDLE and not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    async def _streams_connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ends = time.monotonic() + self._patience
        while True:
            try:
                async with asyncio.timeout(self._patience):
                    return await asyncio.open_connection(
                        self.place.host, self.place.port, ssl=self._tls, limit=_MOST_HEAD
                    )
            except OSError as problem:
                self._check_worth(problem, ends)
                await asyncio.sleep(_PAUSE)

    def _check_worth(self, problem: OSError, ends: float) -> None:
        """Raise Unavailable where trying again has no hope, or has lasted long enough."""
        hopeless = isinstance(problem, ssl.SSLError | socket.gaierror)
        if hopeless or time.monotonic() > ends:
            raise Unavailable(f"Can't reach {self.place.place}: {problem}") from problem

    def _head(self, method: str, path: str, body: bytes) -> bytes:
        host = f"[{self.place.host}]" if ":" in self.place.host else self.place.host
        lines = [
            f"{method} {self.place.root}{path} HTTP/1.1",
            f"Host: {host}:{self.place.port}",
            *(f"{name}: {value}" for name, value in self._headers.items()),
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _read(reader: asyncio.StreamReader) -> tuple[Reply, bool]:
    """Return one reply, and whether the connection stays."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, _, rest = head.partition(b"\r\n")
    status = int(first.split(b" ", 2)[1])
    headers = _lower(http.client.parse_headers(io.BytesIO(rest)))
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b"".join([chunk async for chunk in _chunks(reader)])
    else:
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Reply(status, headers, body), headers.get("connection", "").lower() != "close"


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        pass


def _lower(headers: http.client.HTTPMessage) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
