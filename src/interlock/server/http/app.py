"""The ASGI application, and the server that runs it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from interlock import AsyncSpace
from interlock.server.connections import LIMITS, Limits, address_of, bound, serve_application
from interlock.server.http.api import OPERATIONS, SPACE
from interlock.server.http.call import handler
from interlock.server.http.issuer import Issuer
from interlock.server.http.mcp import Endpoint
from interlock.server.http.openapi import openapi
from interlock.server.http.operate import health
from interlock.server.http.page import pages
from interlock.server.http.problem import Problem
from interlock.server.http.service import Bounds, Service

_NAMES = {404: "NotFound", 405: "NotAllowed"}


def app(
    *sources: str | AsyncSpace,
    tokens: bool = False,
    issuers: Sequence[Issuer] = (),
    create: bool = True,
    allowed_hosts: Sequence[str] = (),
    bounds: Bounds | None = None,
) -> Starlette:
    """Return the service as an ASGI application, to run or to mount into another one.

    `sources`: URLs of stores, whose spaces are served, and spaces that the application has open in
    this event loop.  `tokens`: whether callers must show a token of `interlock tokens`; without,
    whoever reaches it may do everything.  `issuers`: whose JWTs are tokens, too.  `create`: whether
    stores and spaces are made where there are none.  `allowed_hosts`: what a request's Host and
    Origin may name besides this machine, `*` for any.  What it opens is closed at its
    shutdown (`lifespan`).  Raises Invalid.
    """
    service = Service(
        sources,
        tokens=tokens,
        issuers=issuers,
        create=create,
        allowed_hosts=allowed_hosts,
        bounds=bounds,
    )
    return application(service)


def application(service: Service) -> Starlette:
    """Return the application of a service."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await service.close()

    routes = [Route("/healthz", health), Route("/openapi.json", openapi)]
    mcp = Endpoint(service)
    for each in OPERATIONS:
        answers = handler(service, each.run, each.role, each.streams, each.creates)
        routes.append(Route(each.path, answers, methods=[each.method]))
    return Starlette(
        routes=[*_merged(routes), Route(f"{SPACE}/mcp", mcp), *pages.routes(service)],
        lifespan=lifespan,
        middleware=[Middleware(service.gate)],
        exception_handlers={HTTPException: _refused, Problem: _told},
    )


def _merged(routes: list[Route]) -> list[Route]:
    """Return one route for each path, so that a method that it lacks is answered as such."""
    by_path: dict[str, dict[str, Any]] = {}
    for route in routes:
        for method in route.methods or ():
            by_path.setdefault(route.path, {}).setdefault(method, route.endpoint)

    def dispatch(methods: dict[str, Any]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            found: Response = await methods[request.method](request)
            return found

        return handle

    return [Route(path, dispatch(found), methods=[*found]) for path, found in by_path.items()]


async def _refused(request: Request, problem: Exception) -> Response:
    """Answer what no operation is: a path, or a method of it."""
    assert isinstance(problem, HTTPException)
    name = _NAMES.get(problem.status_code, "Invalid")
    return Problem(
        problem.status_code,
        name,
        f"{request.method} {request.url.path[:200]}: {problem.detail}",
        headers=problem.headers,
    ).response()


async def _told(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return problem.response()


async def serve(
    service: Service,
    host: str,
    port: int,
    *,
    told: Callable[[str], None] = lambda url: None,
    tls: tuple[str, str] | None = None,
    behind_proxy: bool = False,
    limits: Limits = LIMITS,
) -> signal.Signals | None:
    """Serve until a signal comes, which is returned.  `tls`: files of the certificate and the key.

    `behind_proxy`: the address of a client is what the proxy says.  Raises Unavailable.
    """
    listening = bound(host, port)
    scheme = "http" if tls is None else "https"
    told(f"{scheme}://{address_of(listening, host)}")
    return await serve_application(
        application(service),
        listening,
        limits,
        lifespan="on",
        proxy_headers=behind_proxy,
        forwarded_allow_ips="127.0.0.1,::1" if behind_proxy else "",
        server_header=False,
        ssl_certfile=None if tls is None else tls[0],
        ssl_keyfile=None if tls is None else tls[1],
    )
