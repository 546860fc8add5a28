"""The log of a space: its pages, the history of a key, and what comes from now on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from interlock import Entry, InterlockError
from interlock.server.http.call import MOST_LISTED, Call, answer, entry_dict
from interlock.server.http.feed import Feed
from interlock.server.http.problem import Problem, invalid, problem_of

_RECHECKED = 15.0  # seconds after which a busy stream looks at its token again
_MOST_LOOKED_AT = 20_000  # entries that are not asked for, for one page


def _chosen(call: Call) -> dict[str, Any]:
    kinds = call.query.get("kinds")
    asked = None if kinds is None else [each for each in kinds.split(",") if each]
    return {"agent": call.query.get("agent") or None, "kinds": asked}


async def read(call: Call) -> Response:
    """Read the log page by page; as NDJSON all of it, however long."""
    after, prefix, chosen = call.number("after", None), call.query.get("prefix", ""), _chosen(call)
    if "application/x-ndjson" in call.request.headers.get("accept", ""):
        entries = call.space.log(after, prefix, **chosen)
        return StreamingResponse(_lines(call, entries), media_type="application/x-ndjson")
    limit = call.number("limit", 100, 1, MOST_LISTED)
    if call.flag("newest_first"):
        latest = call.space.log(after, prefix, newest_first=True, **chosen)
        return await _page(call, latest, limit, None)
    return await _page(call, call.space.log(after, prefix, **chosen), limit, after or 0)


async def history(call: Call) -> Response:
    """Read the entries of one key."""
    after = call.number("after", None)
    entries = call.space.history(call.key, after=after)
    return await _page(call, entries, call.number("limit", 100, 1, MOST_LISTED), after or 0)


async def _page(
    call: Call, entries: AsyncIterator[Entry], limit: int, after: int | None
) -> Response:
    shown: list[Any] = []
    more, looked_at = False, 0
    async for entry in entries:
        looked_at += 1
        if call.sees(entry.key):
            if len(shown) == limit:
                more = True
                break
            shown.append(entry_dict(entry, call))
        if after is not None:
            after = entry.position
        if looked_at - len(shown) > _MOST_LOOKED_AT:
            more = True
            break
    return answer({"entries": shown, "next_after": after, "more": more})


async def _lines(call: Call, entries: AsyncIterator[Entry]) -> AsyncIterator[bytes]:
    async for entry in entries:
        if call.sees(entry.key):
            yield msgspec.json.encode(entry_dict(entry, call)) + b"\n"


async def watch(call: Call) -> Response:
    """Stream entries as they are committed, as server-sent events.

    The id of an event is its position: who comes back with `Last-Event-ID` misses nothing.
    """
    text = call.request.headers.get("last-event-id")
    if text is not None and not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise invalid(f"Last-Event-ID {text!r:.40} is no position of the log.")
    after = call.number("after", None) if text is None else int(text)
    prefix = call.query.get("prefix", "")
    head = await call.space.position()
    if after is not None and after > head:
        raise invalid(f"after={after} is beyond the end of the log, which is {head}.")
    if after is not None:  # Pruned is an answer, not an event
        async for _ in call.space.log(after, limit=1):
            break
    else:
        after = head
    feed = call.service.feed(call.hosted)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        call.service.watched(_events(call, feed, after, prefix)),
        headers=headers,
        media_type="text/event-stream",
    )


async def _events(call: Call, feed: Feed, after: int, prefix: str) -> AsyncIterator[bytes]:
    yield b": watching\n\n"
    checked = time.monotonic()
    try:
        async for entry in feed.follow(after):
            if entry is None or time.monotonic() - checked >= _RECHECKED:
                await call.service.recheck(call.request)
                checked = time.monotonic()
            if entry is None:
                yield b": still here\n\n"
            elif entry.key.startswith(prefix) and call.sees(entry.key):
                data = msgspec.json.encode(entry_dict(entry, call))
                yield b"id: %d\nevent: entry\ndata: %b\n\n" % (entry.position, data)
    except Problem as problem:
        yield _failed(problem)
    except InterlockError as problem:
        yield _failed(problem_of(problem))


def _failed(problem: Problem) -> bytes:
    return b"event: problem\ndata: %b\n\n" % bytes(problem.response().body)
