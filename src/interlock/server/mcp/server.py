"""The MCP server: tools over one space, on standard input and output or over HTTP.

Every client of the protocol can use it; several at once may, on any number of servers.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Self, cast

from mcp.server import Server
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend
from mcp.server.auth.provider import AccessToken
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware.authentication import AuthenticationMiddleware

import interlock
from interlock.server.connections import (
    LIMITS,
    Limits,
    address_of,
    bound,
    serve_application,
    until_stopped,
)
from interlock.server.mcp.agents import Agents
from interlock.server.mcp.handlers import Handlers
from interlock.server.mcp.memory import MemoryHandlers

if TYPE_CHECKING:
    import anyio

PROFILES: Mapping[str, type[Handlers]] = {"space": Handlers, "memory": MemoryHandlers}


def make_server(agents: Agents, read_only: bool = False, profile: str = "space") -> Server[object]:
    """Return an MCP server for the connections whose agents are `agents`.

    `read_only`: the tools that write are not there.  `profile`: what its tools are, one of
    `PROFILES`.
    """
    handlers = PROFILES[profile](agents, read_only)
    server: Server[object] = Server(
        handlers.NAME,
        version=interlock.__version__,
        title=handlers.TITLE,
        instructions=handlers.INSTRUCTIONS,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_resource_templates,
        on_read_resource=handlers.read_resource,
        on_subscribe_resource=handlers.changes.subscribe,
        on_unsubscribe_resource=handlers.changes.unsubscribe,
        on_subscriptions_listen=handlers.changes.listen,
    )
    server.middleware.append(handlers.only_with_a_session)
    return server


PATH = "/mcp"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_LARGEST_REQUEST = 16 * 1024 * 1024  # bytes


async def serve_stdio(server: Server[object]) -> signal.Signals | None:
    """Serve the client on standard input and output until it leaves.

    Returns the signal that ended it before.
    """

    async def serve() -> None:
        lines = cast("anyio.AsyncFile[str]", _Lines(os.dup(0)))
        async with stdio_server(stdin=lines) as (read, write):
            await server.run(read, write, server.create_initialization_options())

    return await until_stopped(serve(), None)


async def serve_http(
    server: Server[object],
    host: str,
    port: int,
    *,
    tokens: Mapping[str, str | None],
    allowed_hosts: Sequence[str] = (),
    told: Callable[[str], None] = lambda url: None,
    limits: Limits = LIMITS,
) -> signal.Signals | None:
    """Serve over streamable HTTP until a signal comes, which is returned.

    `tokens`: the access tokens, each with the agent's name that it stands for (None: no name);
    without any, everybody is let in.  `allowed_hosts`: what a request's Host header may name
    besides this machine and `host`.  `told` gets the URL.  `limits`: of all connections.

    Raises Unavailable.
    """
    listening = bound(host, port)
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
    told(f"http://{address_of(listening, host)}{PATH}")
    return await serve_application(app, listening, limits)


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
