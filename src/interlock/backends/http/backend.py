"""One space behind a service.

The service decodes each request, judges whether the token may ask it, and has its store answer in
one atomic step.  What is decided here (by `core`) is decided again there where a client could lie:
who writes, which keys, and what their rules allow.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast
from urllib.parse import quote

from interlock import errors
from interlock.backends.contract import dropped, no_space
from interlock.backends.http.connection import Connections, Place, Reply
from interlock.backends.http.wire import Malformed, decode_answer, encode_request
from interlock.backends.registry import Registry
from interlock.backends.remote import ServerOptions, check_options
from interlock.core import refusals
from interlock.core.requests import Pause, Request, T
from interlock.errors import AnswerLost, Closed, Corrupt, Forbidden, Invalid, Unavailable

API = 1  # of the service; another one speaks another language
_LONGEST_PAUSE = 20.0  # seconds
_SHORT_PAUSE = 0.1  # seconds, of those who are beyond
_MOST_PAUSES = 100  # connections of a loop that only wait for news
_FAULTS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        errors.AnswerLost,
        errors.Unconfirmed,
        errors.Unavailable,
        errors.Corrupt,
        errors.LostCommits,
        errors.IncompatibleStore,
        errors.Dropped,
        errors.Invalid,
    )
}


_PLACES: Registry[Connections] = Registry()


class HTTPBackend:
    """One space behind a service.

    How long a commit lasts (`durability`) is a setting of its store, and has no effect here.
    `busy_timeout` is also for a service that has too much to do.
    """

    def __init__(
        self, url: str, name: str, options: ServerOptions | None = None, create: bool = True
    ) -> None:
        self.name = name
        self._options = options or ServerOptions()
        check_options(self._options)
        seconds = self._options.busy_timeout
        place = Place(url)
        self.place = place.place
        self._key = (url, place.token, seconds)
        self._connections = _PLACES.borrow(self._key, lambda: Connections(place, seconds))
        self._closed = False
        self._pausing = 0
        self._most = 0  # bytes of a request
        try:
            self.uid = self._found(f"/v1/spaces/{quote(name, safe='')}", create)
        except BaseException:
            self.close()
            raise
        self._path = f"/v1/spaces/{quote(name, safe='')}/requests?uid={self.uid}"

    def perform(self, request: Request[T]) -> T:
        """Answer one request."""
        self._check_open()
        return self._answer(request, self._patient("POST", self._path, self._body(request)))

    async def perform_async(self, request: Request[T]) -> T:
        """Answer one request without blocking the event loop."""
        self._check_open()
        waits = isinstance(request, Pause)
        if not waits:
            return await self._ask(request)
        if self._pausing >= _MOST_PAUSES:
            await asyncio.sleep(_SHORT_PAUSE)
            return cast(T, None)
        self._pausing += 1
        try:
            return await self._ask(request)
        finally:
            self._pausing -= 1

    async def _ask(self, request: Request[T]) -> T:
        body, ends = self._body(request), time.monotonic() + self._options.busy_timeout
        while True:
            reply = await self._connections.request_async("POST", self._path, body)
            seconds = _later(reply)
            if not seconds or time.monotonic() > ends:
                return self._answer(request, reply)
            await asyncio.sleep(seconds)

    def _patient(self, method: str, path: str, body: bytes = b"") -> Reply:
        """Return the reply of a server that may have too much to do at first."""
        ends = time.monotonic() + self._options.busy_timeout
        while True:
            reply = self._connections.request(method, path, body)
            seconds = _later(reply)
            if not seconds or time.monotonic() > ends:
                return reply
            time.sleep(seconds)

    def _body(self, request: Request[Any]) -> bytes:
        long = isinstance(request, Pause) and request.seconds > _LONGEST_PAUSE
        body = encode_request(request.replace(seconds=_LONGEST_PAUSE) if long else request)
        if len(body) > self._most:
            raise Invalid(
                f"The request has {len(body):,} bytes; {self.place} takes {self._most:,} "
                "(interlock serve --max-body). Write less at once."
            )
        return body

    def close(self) -> None:
        """Give back the connections.  Closing twice does nothing."""
        if self._leave():
            self._connections.close()

    async def close_async(self) -> None:
        """The same without blocking the event loop, whose own connections are given back too."""
        if self._leave():
            await self._connections.close_async()

    def _leave(self) -> bool:
        closed, self._closed = self._closed, True
        return not closed and _PLACES.give_back(self._key, self._connections)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("The space was closed. Open it again to use it.")

    def _found(self, path: str, create: bool) -> str:
        """Return the unique id of the space.  Raises Unavailable where there is none."""
        try:
            reply = self._patient("GET", path)
            if reply.status == 404 and create:
                reply = self._patient("PUT", path)
        except AnswerLost as lost:
            raise Unavailable(f"No answer from {self.place}: {lost}") from lost
        if reply.status == 404:
            raise no_space(self.place, self.name)
        found = self._read(reply)
        if reply.status >= 400:
            raise self._problem(reply, found)
        if found.get("api") != API or not isinstance(found.get("uid"), str):
            raise errors.IncompatibleStore(f"{self.place} is no Interlock service of this version.")
        self._most = int(found["max_body"])
        return str(found["uid"])

    def _answer(self, request: Request[T], reply: Reply) -> T:
        if reply.status != 200:
            raise self._problem(reply, self._read(reply))
        try:
            return decode_answer(request, reply.body)
        except Malformed as problem:
            raise Corrupt(f"{self.place} answered what can't be read: {problem}") from problem

    def _read(self, reply: Reply) -> dict[str, Any]:
        try:
            found = json.loads(reply.body)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def _problem(self, reply: Reply, found: dict[str, Any]) -> Exception:
        """Return the exception of an answer that is none."""
        name, said = found.get("title"), str(found.get("detail", f"HTTP status {reply.status}"))
        if name in _FAULTS:
            return _FAULTS[name](said)
        if reply.status in (401, 403):
            return Forbidden(refusals.Forbidden(said, str(found.get("key", "")), "", "token"))
        if reply.status == 404:
            return dropped(self.place)
        if reply.status == 429:
            return Unavailable(f"{self.place} has too much to do: {said}")
        if reply.status >= 500:  # a proxy may have passed it on
            return AnswerLost(f"{self.place}: {said}")
        return Invalid(f"{self.place} refused the request: {said}")


def _later(reply: Reply) -> float:
    """Return after how many seconds the server wants to be asked again, 0 where it answered."""
    if reply.status != 429:
        return 0.0
    try:
        return min(max(float(reply.headers.get("retry-after", "1")), 0.05), 5.0)
    except ValueError:
        return 1.0
