"""The log of a space: its pages, the history of a key, and what comes from now on."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.responses import Response

from interlock import Entry, InterlockError
from interlock.server.http.call import MOST_LISTED, Call, answer, entry_dict, streamed
from interlock.server.http.feed import Feed
from interlock.server.http.problem import Problem, invalid, problem_of

_RECHECKED = 15.0  # seconds after which a busy stream looks at its token again
_PIECE = 16 << 10  # bytes of events after which they are sent
_MOST_LOOKED_AT = 5000  # entries for one page


def _chosen(call: Call) -> dict[str, Any]:
    kinds = call.query.get("kinds")
    asked = None if kinds is None else [each for each in kinds.split(",") if each]
    return {"agent": call.query.get("agent") or None, "kinds": asked}


async def read(call: Call) -> Response:
    """Read the log page by page; as NDJSON all of it, however long."""
    after, prefix, chosen = call.number("after", None), call.query.get("prefix", ""), _chosen(call)
    if "application/x-ndjson" in call.request.headers.get("accept", ""):
        whole = call.space.log(after, prefix, **chosen)
        return streamed(_lines(call, whole), "application/x-ndjson")
    limit, before = call.number("limit", 100, 1, MOST_LISTED), call.number("before", None, 1)
    if call.flag("newest_first"):
        entries, rest = await earlier(call, limit, before, after, prefix=prefix, **chosen)
        return _page(call, entries, {"next_after": None, "next_before": rest, "more": bool(rest)})
    entries, rest, reached = await _later(call, limit, after, before, prefix=prefix, **chosen)
    return _page(call, entries, {"next_after": reached, "more": rest})


async def history(call: Call) -> Response:
    """Read the entries of one key."""
    after, limit = call.number("after", None), call.number("limit", 100, 1, MOST_LISTED)
    entries = [e async for e in call.space.history(call.key, after=after, limit=limit + 1)]
    shown = entries[:limit]
    last = shown[-1].position if shown else after or 0
    return _page(call, shown, {"next_after": last, "more": len(entries) > limit})


async def earlier(
    call: Call, limit: int, before: int | None, after: int | None = None, **chosen: Any
) -> tuple[list[Entry], int | None]:
    """Return entries before a position (None: the last ones), the newest first, and before which
    position the rest comes: so much of the log is looked at, however little is found."""
    floor = await _oldest(call) - 1 if after is None else after
    head = await call.space.position()
    upto = head if before is None else min(head, before - 1)
    least = max(floor, upto - _MOST_LOOKED_AT)
    found: list[Entry] = []
    async for entry in call.space.log(least, before=upto + 1, newest_first=True, **chosen):
        if len(found) == limit:
            return found, found[-1].position
        if call.sees(entry.key):
            found.append(entry)
    return found, least + 1 if least > floor else None


async def _later(
    call: Call, limit: int, after: int | None, before: int | None, **chosen: Any
) -> tuple[list[Entry], bool, int]:
    """Return entries after a position (None: the oldest ones), whether there is more, and up to
    where the log was looked at."""
    start = await _oldest(call) - 1 if after is None else after
    head = await call.space.position()
    last = head if before is None else min(head, before - 1)
    upto = min(last, start + _MOST_LOOKED_AT)
    found: list[Entry] = []
    async for entry in call.space.log(start, before=upto + 1, **chosen):
        if len(found) == limit:
            return found, True, found[-1].position
        if call.sees(entry.key):
            found.append(entry)
    return found, upto < last, max(start, upto)


async def _oldest(call: Call) -> int:
    """Return the position of the oldest entry that is kept, 1 where there is none."""
    async for entry in call.space.log(limit=1):
        return entry.position
    return 1


def _page(call: Call, entries: list[Entry], rest: dict[str, Any]) -> Response:
    return answer({"entries": [entry_dict(entry, call) for entry in entries], **rest})


async def _lines(call: Call, entries: AsyncIterator[Entry]) -> AsyncGenerator[bytes]:
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
    events = call.service.watched(_events(call, feed, after, prefix))
    return streamed(events, "text/event-stream", headers)


async def _events(call: Call, feed: Feed, after: int, prefix: str) -> AsyncGenerator[bytes]:
    yield b": watching\n\n"
    checked = time.monotonic()
    try:
        async with aclosing(feed.follow(after)) as followed:
            async for entries in followed:
                text = b""
                for entry in entries or (None,):
                    if entry is None or time.monotonic() - checked >= _RECHECKED:
                        await call.service.recheck(call.request)
                        checked = time.monotonic()
                    if entry is None:
                        text = b": still here\n\n"
                    elif entry.key.startswith(prefix) and call.sees(entry.key):
                        data = msgspec.json.encode(entry_dict(entry, call))
                        text += b"id: %d\nevent: entry\ndata: %b\n\n" % (entry.position, data)
                    if len(text) > _PIECE:
                        yield text
                        text = b""
                if text:
                    yield text
    except Problem as problem:
        yield _failed(problem)
    except InterlockError as problem:
        yield _failed(problem_of(problem))


def _failed(problem: Problem) -> bytes:
    return b"event: problem\ndata: %b\n\n" % bytes(problem.response().body)
