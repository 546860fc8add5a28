"""How clients reach the MCP server: on standard input and output, or over HTTP.

Uvicorn has a limit for the time between two requests and none for the request itself: one that
begins and does not come to its end would stay forever.  `Limits` says how many connections there
may be, and how long each may keep us waiting.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Self, cast

import anyio
import h11
import uvicorn
from mcp.server import Server
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend
from mcp.server.auth.provider import AccessToken
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware.authentication import AuthenticationMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from interlock import Unavailable


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server, whoever it is."""

    request: float = 30.0  # seconds from the first byte of a request, or the connection, to the end
    idle: float = 30.0  # seconds between an answer and the next request
    unread: float = 60.0  # seconds in which a client takes nothing of its answer
    connections: int = 800  # below the usual limit of 1,024 open files


def limited(limits: Limits) -> type[asyncio.Protocol]:
    """Return the protocol of connections that are within `limits`, for Uvicorn."""

    class Limited(_Connection):
        _limits = limits
        _waiting: ClassVar[dict[_Connection, None]] = {}

    return Limited


class _Connection(H11Protocol):
    _limits: ClassVar[Limits]
    _waiting: ClassVar[dict[_Connection, None]]  # what has not sent a whole request, oldest first

    _until_whole: asyncio.TimerHandle | None = None
    _until_read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # for a client that is gone without a word
            sock = transport.get_extra_info("socket")
            unread_ms = int(self._limits.unread * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
        if len(self.connections) > self._limits.connections and self._waiting:
            next(iter(self._waiting)).transport.abort()
        self._wait_for_request()

    def handle_events(self) -> None:
        super().handle_events()
        state = self.conn.their_state
        # Uvicorn's own timer runs between two requests.
        between = state is h11.IDLE and self.timeout_keep_alive_task is not None
        if state is h11.SEND_BODY or (state is h11.IDLE and not between):
            self._wait_for_request()
        else:
            self._request_is_whole()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_whole()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._until_read = self.loop.call_later(self._limits.unread, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting_for_reader()
        super().resume_writing()

    def _wait_for_request(self) -> None:
        if self._until_whole is None and not self.transport.is_closing():
            self._waiting[self] = None
            self._until_whole = self.loop.call_later(self._limits.request, self.transport.abort)

    def _request_is_whole(self) -> None:
        self._waiting.pop(self, None)
        if self._until_whole is not None:
            self._until_whole.cancel()
            self._until_whole = None

    def _stop_waiting_for_reader(self) -> None:
        if self._until_read is not None:
            self._until_read.cancel()
            self._until_read = None


PATH = "/mcp"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_LARGEST_REQUEST = 16 * 1024 * 1024  # bytes
_STOPS_WITHIN = 2  # seconds for answers under way and streams that clients keep open


async def serve_stdio(server: Server[object]) -> signal.Signals | None:
    """Serve the client on standard input and output until it leaves.

    Returns the signal that ended it before.
    """

    async def serve() -> None:
        lines = cast("anyio.AsyncFile[str]", _Lines(os.dup(0)))
        async with stdio_server(stdin=lines) as (read, write):
            await server.run(read, write, server.create_initialization_options())

    return await _until_stopped(serve(), None)


async def serve_http(
    server: Server[object],
    host: str,
    port: int,
    *,
    tokens: Mapping[str, str | None],
    allowed_hosts: Sequence[str] = (),
    told: Callable[[str], None] = lambda url: None,
    limits: Limits = Limits(),  # it is frozen
) -> signal.Signals | None:
    """Serve over streamable HTTP until a signal comes, which is returned.

    `tokens`: the access tokens, each with the agent's name that it stands for (None: no name);
    without any, everybody is let in.  `allowed_hosts`: what a request's Host header may name
    besides this machine and `host`.  `told` gets the URL.  `limits`: of all connections.

    Raises Unavailable.
    """
    listening = _bound(host, port)
    hosts = [*_LOCAL_HOSTS, f"[{host}]" if ":" in host else host, *allowed_hosts]
    security = TransportSecuritySettings(
        allowed_hosts=[form for each in hosts for form in (each, f"{each}:*")],
        allowed_origins=[
            form
            for each in hosts
            for scheme in ("http", "https")
            for form in (f"{scheme}://{each}", f"{scheme}://{each}:*")
        ],
    )
    verifier = _Tokens(tokens) if tokens else None
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=security,
        token_verifier=verifier,
        max_request_body_size=_LARGEST_REQUEST,
    )
    if verifier is not None:
        app.add_middleware(AuthenticationMiddleware, backend=BearerAuthBackend(verifier))
    config = uvicorn.Config(
        app,
        http=limited(limits),
        ws="none",
        log_level="error",
        access_log=False,
        timeout_keep_alive=limits.idle,  # type: ignore[arg-type]  # any number of seconds
        timeout_graceful_shutdown=_STOPS_WITHIN,
        limit_concurrency=limits.connections + 1,
    )
    running = uvicorn.Server(config)

    def stop() -> None:
        running.should_exit = True

    actual = listening.getsockname()[1]
    told(f"http://{f'[{host}]' if ':' in host else host}:{actual}{PATH}")
    with listening:
        return await _until_stopped(running.serve([listening]), stop)


async def _until_stopped(
    serving: Coroutine[object, None, None], stop: Callable[[], None] | None
) -> signal.Signals | None:
    """Await a server that SIGTERM and Ctrl-C stop, or cancel where there is no other way."""
    came: list[signal.Signals] = []
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(serving)

    def handle(number: signal.Signals) -> None:
        came.append(number)
        (stop or task.cancel)()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, handle, each)
    try:
        await task
    except asyncio.CancelledError:
        if not came:
            raise
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
    return came[0] if came else None


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.  Raises Unavailable."""
    with ExitStack() as on_failure:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            made = on_failure.enter_context(socket.socket(family, kind, protocol))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(128)  # whoever is told the URL may call at once
        except (OSError, UnicodeError) as problem:
            raise Unavailable(f"Can't listen on {host}:{port}: {problem}") from problem
        on_failure.pop_all()
    return made


class _Tokens:
    """Access tokens, and the names that they stand for."""

    def __init__(self, tokens: Mapping[str, str | None]) -> None:
        self._tokens = {token.encode(): name for token, name in tokens.items()}

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return whom a token stands for.  All are compared: time tells nothing of them."""
        given = token.encode(errors="replace")
        found = [name for each, name in self._tokens.items() if hmac.compare_digest(each, given)]
        if not found:
            return None
        client = hashlib.sha256(given).hexdigest()[:12]  # a session belongs to one token
        return AccessToken(token=token, client_id=client, scopes=[], subject=found[0])


class _Lines:
    """The lines of a file, read by a thread that nobody has to wait for at the end.

    A reader in a thread of the event loop would keep the process until the client sends a line.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._lines: asyncio.Queue[str | None] = asyncio.Queue(100)
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="interlock-mcp-stdin", daemon=True).start()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        line = await self._lines.get()
        if line is None:
            raise StopAsyncIteration
        return line

    def _read(self) -> None:
        parts: list[bytes] = []
        while chunk := os.read(self._file, 1 << 16):
            first, *others = chunk.split(b"\n")
            parts.append(first)
            for other in others:
                if not self._pass_on(b"".join(parts)):
                    return
                parts = [other]
        self._pass_on(b"".join(parts))
        self._pass_on(None)

    def _pass_on(self, line: bytes | None) -> bool:
        """Hand a line over, waiting while there are many; say whether anybody is there."""
        text = None if line is None else line.decode("utf-8", "replace")
        if text == "":
            return True
        putting = self._lines.put(text)
        try:
            asyncio.run_coroutine_threadsafe(putting, self._loop).result()
        except (RuntimeError, CancelledError):  # the server has stopped
            putting.close()
            return False
        return True
