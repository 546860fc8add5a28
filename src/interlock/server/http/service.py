"""The service: whom it lets in, how much each may ask, and what becomes of what goes wrong."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interlock import AsyncSpace, Json
from interlock.server.http.feed import Feed
from interlock.server.http.hosts import Hosted, Hosts
from interlock.server.http.identity import ANYBODY, Identity, Tokens, unauthorized
from interlock.server.http.issuer import Issuer, Issuers
from interlock.server.http.problem import Problem
from interlock.server.http.refused import RefusedWrites

_log = logging.getLogger("interlock.server")
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_MOST_BUCKETS = 10_000
_PRECONDITIONS = ("if-match", "if-none-match")


@dataclass(frozen=True)
class Bounds:
    """What a client may ask of the service, whoever it is."""

    body: int = 8 << 20  # bytes of one request
    seconds: float = 60.0  # for one request, but not for one that streams
    rate: float = 2000.0  # requests a second of one token, or of one address without tokens
    refused: float = 10.0  # requests a second of one address whose tokens are wrong
    watchers: int = 500  # streams of events: fewer than connections, so that others get in


@dataclass
class _Bucket:
    left: float
    since: float = field(default_factory=time.monotonic)

    def take(self, rate: float) -> float:
        """Take one; return 0, or after how many seconds there will be one.  It holds two seconds'
        worth."""
        now = time.monotonic()
        self.left = min(self.left + (now - self.since) * rate, rate * 2)
        self.since = now
        if self.left < 1:
            return (1 - self.left) / rate
        self.left -= 1
        return 0.0


class Service:
    """One service over some spaces."""

    def __init__(
        self,
        sources: Sequence[str | AsyncSpace],
        *,
        tokens: bool,
        create: bool = True,
        issuers: Sequence[Issuer] = (),
        allowed_hosts: Sequence[str] = (),
        bounds: Bounds | None = None,
        remembered: float | None = None,
    ) -> None:
        self.hosts = Hosts(sources, create)
        self.has_tokens = tokens or bool(issuers)
        self._issuers = Issuers(issuers)
        self.bounds = bounds or Bounds()
        self._hosts = {*LOCAL_HOSTS, *allowed_hosts}
        self._remembered = {} if remembered is None else {"remembered": remembered}
        self._tokens: Tokens | None = None
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._feeds: dict[str, Feed] = {}
        self.watching = 0
        self.refused = RefusedWrites()
        self._closing: list[Callable[[], Awaitable[None]]] = []

    # Who calls

    async def identity(self, request: Request) -> Identity:
        """Return who calls.  Raises Problem where nobody knows."""
        address = request.client.host if request.client else "?"
        if not self.has_tokens:
            self._spend(address, self.bounds.rate)
            return ANYBODY
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer" or not token.strip():
                raise unauthorized("Send a token: Authorization: Bearer TOKEN.")
            known = self._issuers if self._issuers.may_be(token) else await self._known()
            identity = await known.identity(token.strip())
        except Problem as problem:
            _log.warning("%s: %s %s: %s", address, request.method, request.url.path[:200], problem)
            self._spend(f"refused {address}", self.bounds.refused)
            raise
        self._spend(identity.token, self.bounds.rate)
        return identity

    async def _known(self) -> Tokens:
        if self._tokens is None:
            self._tokens = Tokens(await self.hosts.service(), **self._remembered)
        return self._tokens

    def _spend(self, whose: str, rate: float) -> None:
        bucket = self._buckets.get(whose)
        if bucket is None:
            bucket = self._buckets[whose] = _Bucket(rate * 2)
            if len(self._buckets) > _MOST_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(whose)
        seconds = bucket.take(rate)
        if seconds:
            raise Problem(
                429,
                "TooMany",
                f"More than {rate:g} requests a second.",
                headers={"Retry-After": f"{seconds:.3f}"},
                retryable=True,
                seconds=round(seconds, 3),
            )

    async def audit(self, agent: str, what: str, space: str, **details: Json) -> None:
        """Keep what an operator did, in the service's space where it has tokens, and in the log."""
        _log.info("audit: %s: %s in %s %s", agent, what, space, details)
        if self.has_tokens:
            await (await self._known()).note(agent, what, space, **details)

    # What is asked

    async def recheck(self, request: Request) -> None:
        """Raise Problem where a token that watches was revoked or has expired."""
        if self.has_tokens:
            await self.identity(request)

    def feed(self, hosted: Hosted) -> Feed:
        """Return what is committed to a space from now on."""
        feed = self._feeds.get(hosted.uid)
        if feed is None:
            feed = self._feeds[hosted.uid] = Feed(hosted.base)
        return feed

    def watched(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """Return a stream of events that counts as one.  Raises Problem: there are too many."""
        if self.watching >= self.bounds.watchers:
            raise Problem(429, "TooMany", "Too many clients watch.", headers={"Retry-After": "5"})
        self.watching += 1
        return self._counted(events)

    async def _counted(self, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        try:
            async for event in events:
                yield event
        finally:
            self.watching -= 1
            await events.aclose()

    def closes(self, close: Callable[[], Awaitable[None]]) -> None:
        """Call something before the spaces are closed."""
        self._closing.append(close)

    async def close(self) -> None:
        """Close what was opened."""
        for close in self._closing:
            await close()
        for feed in self._feeds.values():
            await feed.stop()
        await self.hosts.close()
        self._tokens = None

    # Before anything is looked at

    def gate(self, app: ASGIApp) -> ASGIApp:
        """Return `app` for those requests only whose host, origin and size are right."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            try:
                self._check_place(Request(scope))
                receive = self._bounded(Request(scope), receive)
            except Problem as problem:
                _log.warning("%s %s: %s", scope["method"], scope["path"][:200], problem)
                problem.headers["Connection"] = "close"
                await problem.response()(scope, receive, send)
                return
            await app(scope, receive, send)

        return guarded

    def _check_place(self, request: Request) -> None:
        """Raise Problem where the request is meant for another server, or comes from a page of one:
        a browser sends what it is made to send, with the visitor's network and cookies."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise Problem(421, "Forbidden", "This is not the host of that name.")
        origin = request.headers.get("origin")
        if origin is not None:
            parts = urlsplit(origin) if origin.isascii() else None
            if (
                parts is None
                or parts.scheme not in ("http", "https")
                or not self._is_ours(parts.netloc)
            ):
                raise Problem(403, "Forbidden", "Requests from pages of other sites are refused.")

    def _is_ours(self, place: str) -> bool:
        name, colon, port = place.rpartition(":")
        host = name if colon and port.isdecimal() else place
        return "*" in self._hosts or host.lower() in self._hosts

    def _bounded(self, request: Request, receive: Receive) -> Receive:
        """Return `receive` so that it takes no more than a body may have.  Raises Problem."""
        most, length, came = self.bounds.body, request.headers.get("content-length", "0"), 0
        if not length.isdecimal() or int(length[:20]) > most:
            raise _too_large(most)

        async def receive_some() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                raise _too_large(most)
            return message

        return receive_some


def _too_large(most: int) -> Problem:
    return Problem(413, "TooLarge", f"A request has at most {most:,} bytes.")
