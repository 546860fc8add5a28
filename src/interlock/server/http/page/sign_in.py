"""Who looks at the page: a token in a cookie, and the mark that forms carry."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from interlock.server.http.call import Call
from interlock.server.http.problem import forbidden

_COOKIE = "interlock-token"
_AGENT = "web"  # whoever looks at a service without tokens


class SignIn:
    """The tokens of browsers.

    A cookie is sent with whatever a browser is made to send.  So it is SameSite=Strict, requests
    that another site's page makes are refused before (`Service.gate`), and what changes anything
    must carry a mark that another site cannot read.
    """

    def __init__(self, needed: bool) -> None:
        self._needed = needed
        self._secret = secrets.token_bytes(32)

    def with_token(self, request: Request, token: str | None = None) -> Request:
        """Return the request as one that shows its cookie's token, or this one."""
        token = token or request.cookies.get(_COOKIE, "")
        names = {name for name, _ in request.scope["headers"]}
        added = [(b"interlock-agent", _AGENT.encode())] if b"interlock-agent" not in names else []
        if self._needed and token and b"authorization" not in names:
            added.append((b"authorization", b"Bearer " + token.encode("latin-1", "replace")))
        scope = {**request.scope, "headers": [*request.scope["headers"], *added]}
        return Request(scope, request.receive)

    def mark(self, token: str) -> str:
        """Return the mark of the forms of whoever has a token."""
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()

    async def check_form(self, call: Call) -> None:
        """Raise Problem where a form is not of a page of this server."""
        form = await form_of(call.request)
        if not hmac.compare_digest(form.get("csrf", ""), self.mark(call.identity.token)):
            raise forbidden("The form is not of this page, or too old: load it again.")

    async def asked(self, request: Request) -> tuple[str, str]:
        """Return the token that was entered, and the path to go to."""
        form = await form_of(request)
        to = form.get("to", "/")
        ours = to.startswith("/") and not to.startswith(("//", "/\\"))
        return form.get("token", "").strip(), to if ours else "/"

    def keep(self, response: Response, token: str, secure: bool) -> Response:
        """Return the response with the cookie."""
        response.set_cookie(_COOKIE, token, httponly=True, samesite="strict", secure=secure)
        return response

    def forget(self, response: Response) -> Response:
        """Return the response without the cookie."""
        response.delete_cookie(_COOKIE, httponly=True, samesite="strict")
        return response


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form."""
    body = await request.body()
    text = body.decode("utf-8", "replace")
    return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=50))
