"""Running the MCP server: on standard input and output, or on a port, until it is told to stop."""

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
from typing import Any, Self, cast

import anyio
import uvicorn
from mcp.server import Server
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend
from mcp.server.auth.provider import AccessToken
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware.authentication import AuthenticationMiddleware

from interlock import Unavailable
from interlock.server.mcp_connections import Limits, limited

PATH = "/mcp"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_LARGEST_REQUEST = 16 * 1024 * 1024  # bytes
_STOPS_WITHIN = 2  # seconds for answers under way and streams that clients keep open


async def serve_stdio(server: Server[Any]) -> signal.Signals | None:
    """Serve the client on standard input and output until it leaves.

    Returns the signal that ended it before.
    """

    async def serve() -> None:
        lines = cast("anyio.AsyncFile[str]", _Lines(os.dup(0)))
        async with stdio_server(stdin=lines) as (read, write):
            await server.run(read, write, server.create_initialization_options())

    return await _until_stopped(serve(), None)


async def serve_http(
    server: Server[Any],
    host: str,
    port: int,
    *,
    tokens: Mapping[str, str | None],
    allowed_hosts: Sequence[str] = (),
    told: Callable[[str], None] = lambda url: None,
    limits: Limits = Limits(),  # noqa: B008  # it is frozen
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
    serving: Coroutine[Any, Any, None], stop: Callable[[], None] | None
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
            raise Unavailable(f"cannot listen on {host}:{port}: {problem}") from problem
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
