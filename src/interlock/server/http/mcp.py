"""MCP beside HTTP: each space has its own endpoint, on the same port and for the same tokens."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from interlock import InterlockError
from interlock.extras import needs
from interlock.server.http.hosts import Hosted
from interlock.server.http.identity import Identity
from interlock.server.http.problem import Problem, problem_of
from interlock.server.http.service import Service

_PATH = "/mcp"
_STARTS_WITHIN = 30.0  # seconds


class Endpoint:
    """The MCP endpoint of every space, as an ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: dict[tuple[str, bool], _Running] = {}
        service.closes(self.close)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of the protocol."""
        request = Request(scope)
        try:
            identity = await self._service.identity(request)
            identity.need_all()  # its tools know of no patterns
            name = request.path_params["space"]
            if not identity.may_space(name):
                raise Problem(404, "NotFound", f"There is no space {name!r}.")
            app = await self._app(await self._service.hosts.get(name), identity)
        except Problem as problem:
            await problem.response()(scope, receive, send)
        except InterlockError as error:
            await problem_of(error).response()(scope, receive, send)
        else:
            inside = {**scope, "path": _PATH, "raw_path": _PATH.encode(), "root_path": ""}
            await app(inside | _user(identity), receive, send)

    async def close(self) -> None:
        """End the sessions of all spaces."""
        running, self._running = list(self._running.values()), {}
        for each in running:
            await each.stop()

    async def _app(self, hosted: Hosted, identity: Identity) -> ASGIApp:
        read_only = identity.role == "reader"
        key = (hosted.uid, read_only)
        if key not in self._running:
            self._running[key] = _Running(hosted, read_only)
        running = self._running[key]
        await running.started()
        return running.app


class _Running:
    """The server of one space, whose sessions live in a task of their own."""

    def __init__(self, hosted: Hosted, read_only: bool) -> None:
        with needs("The MCP SDK", "mcp"):
            from mcp.server.transport_security import TransportSecuritySettings

            from interlock.server.mcp.agents import Agents
            from interlock.server.mcp.server import make_server
        self._agents = Agents(hosted.base, hosted.name, None, False)
        # Host, origin and size were looked at before.
        self.app = make_server(self._agents, read_only).streamable_http_app(
            streamable_http_path=_PATH,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        self._ready, self._over = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def started(self) -> None:
        """Wait until sessions can begin.  Raises Problem."""
        try:
            async with asyncio.timeout(_STARTS_WITHIN):
                await self._ready.wait()
        except TimeoutError:
            raise Problem(503, "Unavailable", "The MCP server does not start.") from None

    async def stop(self) -> None:
        """End the sessions, and give up the leases of their agents."""
        self._over.set()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._agents.close()

    async def _run(self) -> None:
        async with self.app.router.lifespan_context(self.app):
            self._ready.set()
            await self._over.wait()


def _user(identity: Identity) -> dict[str, object]:
    """Return what the SDK binds a session to: a token, and the agent that it stands for."""
    if identity.agent is None:
        return {}
    from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
    from mcp.server.auth.provider import AccessToken

    token = AccessToken(
        token=identity.token, client_id=identity.token, scopes=[], subject=identity.agent
    )
    return {"user": AuthenticatedUser(token)}
