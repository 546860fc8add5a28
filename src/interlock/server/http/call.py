"""One request of a client that is known: what it asks for, in which space, and as whom."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from interlock import AsyncSpace, Dropped, Entry, InterlockError, Json, KeyInfo, Record
from interlock.errors import AnswerLost
from interlock.server.http.hosts import Hosted
from interlock.server.http.identity import Identity
from interlock.server.http.problem import Problem, etag, forbidden, invalid, problem_of
from interlock.server.http.service import Service
from interlock.settings import checked_op_id, is_reserved

MOST_LISTED = 1000  # of a page
_PRECONDITIONS = ("if-match", "if-none-match")
_log = logging.getLogger("interlock.server")


@dataclass
class Call:
    """`space` is `hosted` under the caller's name.  Calls about no space have neither."""

    service: Service
    request: Request
    identity: Identity
    agent: str
    hosted: Hosted
    space: AsyncSpace

    @property
    def query(self) -> QueryParams:
        """The parameters of the URL."""
        return self.request.query_params

    @property
    def key(self) -> str:
        """The key of the path.  Raises Problem where it is not the caller's."""
        return self.own(self.request.path_params["key"])

    def own(self, key: str) -> str:
        """Return a key that a client named.  Raises Problem where it is not the caller's, or an
        adapter's."""
        self.identity.need_key(key)
        if is_reserved(key):
            raise forbidden(f"{key!r} belongs to an adapter: only it reads and writes it.", key=key)
        return key

    def sees(self, key: str) -> bool:
        """Whether a key is shown to the caller."""
        return self.identity.may_key(key) and not is_reserved(key)

    def number(self, name: str, default: int | None, least: int = 0, most: int = 1 << 62) -> Any:
        """Return a whole number of the URL.  Raises Problem."""
        text = self.query.get(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdecimal() or not least <= int(text[:20]) <= most:
            raise invalid(f"{name}={text!r:.40} must be a whole number from {least} to {most}.")
        return int(text)

    def seconds(self, name: str) -> float | None:
        """Return a number of seconds of the URL, None where there is none.  Raises Problem."""
        text = self.query.get(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            raise invalid(f"{name}={text!r:.40} must be a number of seconds.") from None

    def flag(self, name: str, default: str = "false") -> bool:
        """Return whether something is asked for in the URL.  Raises Problem."""
        text = self.query.get(name, default)
        if text not in ("true", "false"):
            raise invalid(f"{name}={text!r:.40} must be true or false.")
        return text == "true"

    @property
    def op_id(self) -> str | None:
        """The operation id that the client chose, None where it has none.  Raises Invalid."""
        given = self.request.headers.get("idempotency-key")
        return None if given is None else checked_op_id(given)

    async def body(self) -> bytes:
        """Return the body, which is no longer than the service takes."""
        return await self.request.body()

    async def value(self) -> Json:
        """Return the JSON value of the body.  Raises Problem."""
        return await self.json(Any)

    async def json(self, kind: Any) -> Any:
        """Return the body as a type.  Raises Problem."""
        body = await self.body()
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise invalid(f"The body is not what it should be: {problem}"[:300]) from None

    async def ask(self, request: Any) -> Any:
        """Return the store's answer to a request of `core`."""
        return await self.hosted.base.session.driver.backend.perform_async(request)

    def keep_refused(self, agent: str, key: str, body: bytes, version: int | None) -> None:
        """Keep a write that was refused with a conflict, for an operator to look at."""
        if version and not is_reserved(key):
            self.service.refused.keep(self.hosted.uid, agent, key, body, version)

    async def audit(self, what: str, **details: Json) -> None:
        """Keep what an operator did."""
        await self.service.audit(self.agent, what, self.hosted.name, **details)


def handler(
    service: Service,
    run: Callable[[Call], Awaitable[Response]],
    role: str,
    streams: bool = False,
    creates: bool = False,
) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers a request with what `run(call)` returns, or with its problem."""

    async def handle(request: Request) -> Response:
        call: Call | None = None
        try:
            async with asyncio.timeout(None if streams else service.bounds.seconds):
                call = await _call(service, request, role, creates)
                return await run(call)
        except Problem as problem:
            found = problem
        except InterlockError as error:
            if isinstance(error, Dropped) and call is not None and call.hosted is not None:
                await service.hosts.forget(call.hosted)
            found = problem_of(error, any(each in request.headers for each in _PRECONDITIONS))
        except AnswerLost as lost:
            found = Problem(503, type(lost).__name__, str(lost), retryable=True)
        except TimeoutError:
            said = "It took too long. Whether it was applied is unknown."
            found = Problem(504, "Unknown", said, retryable=True)
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception:
            found = _failure(request)
        if found.status in (401, 403):
            _log.warning("%s %s: %s", request.method, request.url.path[:200], found)
        return found.response()

    return handle


async def _call(service: Service, request: Request, role: str, creates: bool) -> Call:
    """Return the call of a request.  Raises Problem, Invalid, or a fault."""
    identity = await service.identity(request)
    identity.need(role)
    agent = identity.agent
    if agent is None:
        agent = request.headers.get("interlock-agent", "http")
    name = request.path_params.get("space")
    nowhere: Any = None
    if name is None:
        return Call(service, request, identity, agent, nowhere, nowhere)
    if not identity.may_space(name):  # as if it were not there
        raise Problem(404, "NotFound", f"There is no space {name!r}.")
    hosted = await (service.hosts.create(name) if creates else service.hosts.get(name))
    return Call(service, request, identity, agent, hosted, await hosted.under(agent))


def _failure(request: Request) -> Problem:
    mark = secrets.token_hex(4)
    _log.exception("%s %s failed (%s)", request.method, request.url.path[:200], mark)
    return Problem(500, "InternalError", f"The server failed; see {mark} in its log.")


def answer(value: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer of JSON."""
    body = msgspec.json.encode(value)
    return Response(body, status, headers, media_type="application/json")


def streamed(
    pieces: AsyncGenerator[bytes], media_type: str, headers: dict[str, str] | None = None
) -> Response:
    """Return an answer that is sent piece by piece."""
    return StreamingResponse(_in_turn(pieces), headers=headers, media_type=media_type)


async def _in_turn(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield pieces, and let others have their turn after each.  Else all that is at hand would be
    sent before anybody hears that the client is gone, and asyncio logs each piece that is lost."""
    async with aclosing(pieces):
        async for piece in pieces:
            yield piece
            await asyncio.sleep(0)


def record_answer(record: Record, status: int = 200) -> Response:
    """Return a record as an answer, named by its version and epoch."""
    return answer(record.to_dict(), status, {"ETag": etag(record)})


def key_dict(info: KeyInfo | Record) -> dict[str, Json]:
    """Return a key without its value."""
    assert info.at is not None
    return {
        "key": info.key,
        "version": info.version,
        "epoch": info.epoch,
        "writer": info.writer,
        "at": info.at.isoformat(),
        "exists": True,
    }


def entry_dict(entry: Entry, call: Call) -> dict[str, Json]:
    """Return an entry as a caller may see it."""
    shown = entry.to_dict()
    reads = shown["reads"]
    if reads is not None and not all(call.sees(each.removesuffix("*")) for each in reads):
        shown["reads"] = None
    return shown


def precondition(text: str) -> tuple[int, int]:
    """Return the version and the epoch that an ETag names.  Raises Problem."""
    parts = text.strip().removeprefix('"').removesuffix('"').split(".")
    if len(parts) != 2 or not all(p.isascii() and p.isdecimal() and len(p) < 19 for p in parts):
        raise Problem(
            428 if text.strip() == "*" else 400,
            "PreconditionRequired" if text.strip() == "*" else "Invalid",
            f"If-Match {text!r:.60} is not the ETag of one record: read it first.",
        )
    return int(parts[0]), int(parts[1])
