"""The pages in one table, and what turns a request into one of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from interlock.server.http import log
from interlock.server.http.call import Call, answer, handler
from interlock.server.http.identity import ROLES
from interlock.server.http.page import look, operate, refused, work
from interlock.server.http.page.pulse import Pulses
from interlock.server.http.page.sign_in import SignIn
from interlock.server.http.problem import not_found
from interlock.server.http.service import Service

_HERE = Path(__file__).parent
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_SPACE = "/ui/{space}"


class Page(NamedTuple):
    """One page: its template, and what returns the values that the template shows."""

    path: str
    template: str
    show: Callable[[Call], Awaitable[dict[str, Any]]]
    role: str = "reader"
    method: str = "GET"


PAGES = (
    Page(_SPACE, "now.html", look.now),
    Page(_SPACE + "/keys", "keys.html", look.keys),
    Page(_SPACE + "/key/{key:path}", "key.html", look.key),
    Page(_SPACE + "/moment/{key:path}", "_moment.html", look.moment),
    Page(_SPACE + "/conflicts", "conflicts.html", look.conflicts),
    Page(_SPACE + "/refused/{id:int}", "refused.html", refused.show, "operator"),
    Page(_SPACE + "/refused/{id:int}", "refused.html", refused.apply, "operator", "POST"),
    Page(_SPACE + "/agents", "agents.html", look.agents),
    Page(_SPACE + "/runs", "runs.html", work.runs),
    Page(_SPACE + "/runs/{run}", "run.html", work.run),
    Page(_SPACE + "/runs/{run}", "run.html", work.change_run, "writer", "POST"),
    Page(_SPACE + "/streams", "streams.html", work.streams),
    Page(_SPACE + "/operate", "operate.html", operate.show, "operator"),
    Page(_SPACE + "/operate", "operate.html", operate.change, "operator", "POST"),
)


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the pages of a service."""
    sign_in, pulses = SignIn(service.has_tokens), Pulses()
    render = _Renderer(sign_in)

    def page(each: Page) -> Callable[[Request], Awaitable[Response]]:
        async def shown(call: Call) -> Response:
            if each.method == "POST":
                await sign_in.check_form(call)
            return render(each.template, call, await each.show(call))

        return guarded(shown, each.role)

    def guarded(
        run: Callable[[Call], Awaitable[Response]], role: str = "reader"
    ) -> Callable[[Request], Awaitable[Response]]:
        answers = handler(service, run, role)

        async def handle(request: Request) -> Response:
            response = await answers(sign_in.with_token(request))
            if response.media_type != "application/problem+json":
                return response
            problem = json.loads(bytes(response.body))
            if problem["status"] == 401:
                to = f"{_root(request)}/ui/sign-in?to={quote(request.url.path)}"
                return RedirectResponse(to, 303)
            return render.problem(request, problem)

        return handle

    async def spaces(call: Call) -> Response:
        names = [n for n in await service.hosts.names() if call.identity.may_space(n)]
        if len(names) == 1:
            return RedirectResponse(f"{_root(call.request)}/ui/{quote(names[0])}", 303)
        return render("spaces.html", call, {"names": names})

    async def pulse(call: Call) -> Response:
        return answer(await pulses.of(call))

    watch = handler(service, log.watch, "reader", streams=True)

    async def live(request: Request) -> Response:
        return await watch(sign_in.with_token(request))

    async def ask(request: Request) -> Response:
        if not service.has_tokens:
            raise not_found("This service has no tokens.")
        return render.sign_in(request, request.query_params.get("to") or f"{_root(request)}/", None)

    async def signed_in(request: Request) -> Response:
        token, to = await sign_in.asked(request)
        tried = await handler(service, spaces, "reader")(sign_in.with_token(request, token))
        if tried.media_type == "application/problem+json":
            return render.sign_in(request, to, json.loads(bytes(tried.body))["detail"])
        return sign_in.keep(RedirectResponse(to, 303), token, request.url.scheme == "https")

    async def signed_out(request: Request) -> Response:
        return sign_in.forget(RedirectResponse(f"{_root(request)}/ui/sign-in", 303))

    by_path: dict[str, dict[str, Callable[[Request], Awaitable[Response]]]] = {}
    for each in PAGES:
        by_path.setdefault(each.path, {})[each.method] = page(each)
    return [
        Route("/", guarded(spaces)),
        Route("/ui/sign-in", ask),
        Route("/ui/sign-in", signed_in, methods=["POST"]),
        Route("/ui/sign-out", signed_out, methods=["POST"]),
        Route(_SPACE + "/pulse", guarded(pulse)),
        Route(_SPACE + "/live", live),
        *(
            Route(path, endpoint, methods=[method])
            for path, methods in by_path.items()
            for method, endpoint in methods.items()
        ),
        Mount("/ui-static", StaticFiles(directory=_HERE / "static")),
    ]


class _Renderer:
    """Turns templates into responses."""

    def __init__(self, sign_in: SignIn) -> None:
        self._sign_in = sign_in
        self._environment = Environment(
            loader=PackageLoader("interlock.server.http.page"),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "json": _json,
            "short": _short,
            "clock": lambda at: at.strftime("%H:%M:%S.%f")[:-3],
            "path": lambda text: quote(str(text), safe="/"),
        }

    def __call__(self, template: str, call: Call, context: dict[str, Any]) -> Response:
        role = ROLES.index(call.identity.role)
        return self._html(
            call.request,
            template,
            space=call.request.path_params.get("space"),
            agent=call.agent,
            signed_in=bool(call.identity.token),
            may_write=role >= ROLES.index("writer"),
            may_operate=role >= ROLES.index("operator"),
            csrf=self._sign_in.mark(call.identity.token),
            **context,
        )

    def problem(self, request: Request, problem: dict[str, Any]) -> Response:
        """Return a problem document as a page."""
        return self._html(request, "problem.html", problem["status"], space=None, problem=problem)

    def sign_in(self, request: Request, to: str, problem: str | None) -> Response:
        """Return the page that asks for a token."""
        status = 200 if problem is None else 401
        return self._html(request, "sign_in.html", status, space=None, to=to, problem=problem)

    def _html(self, request: Request, template: str, status: int = 200, **context: Any) -> Response:
        text = self._environment.get_template(template).render(root=_root(request), **context)
        return Response(text, status, _HEADERS, media_type="text/html; charset=utf-8")


def _root(request: Request) -> str:
    """Return the path under which the service is mounted."""
    return str(request.scope.get("root_path", ""))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if len(text) <= 120 else text[:119] + "…"
