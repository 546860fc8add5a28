"""Records what a Redis does while it does it: keyspace events and values, or MONITOR's lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Any

from interlock.errors import Invalid
from interlock.forensics.captures import MONITOR_LINE
from interlock.forensics.commands import text, value_of
from interlock.forensics.history import CHANGE, DELETE, PUT, Event
from interlock.forensics.sources import redis_client, redis_faults

AGENT_FIELD = "_last_writer"
COST = (
    "Keyspace events cost the server work at every write, whoever listens: see "
    "docs/how-to/lost-writes.md for how much."
)
_OURS = ("write_log:", "interlock:")
_ENABLED = "KA"  # keyspace events, of all kinds
_ASKED = 5  # times that the name of a connection is asked for
_PAGE = 500  # keys whose values are read in one round trip
_READS = {"string": "GET", "hash": "HGETALL", "list": "LRANGE", "set": "SMEMBERS"}
_KINDS = {
    **dict.fromkeys(("set", "append", "incrby", "incrbyfloat", "setrange", "rename_to"), "string"),
    **dict.fromkeys(("hset", "hdel", "hincrby", "hincrbyfloat"), "hash"),
    **dict.fromkeys(("rpush", "lpush", "lpop", "rpop", "lrem", "lset", "ltrim", "linsert"), "list"),
    **dict.fromkeys(("sadd", "srem", "spop"), "set"),
}
_GONE = ("del", "expired", "evicted", "rename_from")


class Keyspace:
    """The keyspace events of a Redis, each with the value that its key has when it is read.

    Two writes that come faster than the value can be read are seen as one.  Who wrote is known only
    where the value says so, in the field `agent_field`.  `enable` switches the events on where the
    server does not send them, and `close` off again; without it Invalid says what to do.
    """

    def __init__(
        self,
        url: str,
        *,
        match: str = "*",
        enable: bool = False,
        agent_field: str = AGENT_FIELD,
        snapshot: bool = True,
    ) -> None:
        self._url = url
        self._match = match
        self._agent_field = agent_field
        self._snapshot = snapshot
        self._position = 0
        self._before: str | None = None
        self._client = redis_client(url)
        with redis_faults(url):
            self._switch(enable)
            db = self._client.connection_pool.connection_kwargs.get("db") or 0
            self._prefix = f"__keyspace@{db}__:"
            self._events = self._client.pubsub(ignore_subscribe_messages=True)
            self._events.psubscribe(f"{self._prefix}{match}")
            self._events.get_message(timeout=5.0)

    def close(self) -> None:
        """Stop; switch the events off if this has switched them on."""
        with redis_faults(self._url):
            self._events.close()
            if self._before is not None:
                self._client.config_set("notify-keyspace-events", self._before)
            self._client.close()

    def poll(self, seconds: float) -> list[Event]:
        """Return what has happened, waiting at most so long for the first."""
        with redis_faults(self._url):
            if self._snapshot:
                self._snapshot = False
                return list(self._existing())
            changed: dict[str, str] = {}
            message = self._events.get_message(timeout=seconds)
            while message is not None and len(changed) < _PAGE:
                key = text(message["channel"]).removeprefix(self._prefix)
                if not key.startswith(_OURS):
                    changed.pop(key, None)
                    changed[key] = text(message["data"])
                message = self._events.get_message(timeout=0)
            return list(self._read(changed.items()))

    def _switch(self, enable: bool) -> None:
        flags = self._client.config_get("notify-keyspace-events")["notify-keyspace-events"]
        if "K" in flags and ("A" in flags or set("g$lsh") <= set(flags)):
            return
        if not enable:
            raise Invalid(f"This Redis sends no keyspace events. Add --enable-events. {COST}")
        self._before = flags
        self._client.config_set("notify-keyspace-events", flags.replace("E", "") + _ENABLED)

    def _existing(self) -> Iterator[Event]:
        """Yield what the keys hold at the start."""
        page: list[tuple[str, str]] = []
        for key in self._client.scan_iter(match=self._match, count=_PAGE):
            name = text(key)
            if fnmatchcase(name, self._match) and not name.startswith(_OURS):
                page.append((name, "rpush"))
            if len(page) == _PAGE:
                yield from self._typed(page)
                page.clear()
        yield from self._typed(page)

    def _typed(self, page: list[tuple[str, str]]) -> Iterator[Event]:
        pipe = self._client.pipeline(transaction=False)
        for key, _ in page:
            pipe.type(key)
        kinds = {name: event for event, name in reversed(_KINDS.items())}
        types = [text(each) for each in pipe.execute()]
        found = [
            (key, kinds[kind]) for (key, _), kind in zip(page, types, strict=True) if kind in kinds
        ]
        for event in self._read(found):
            yield event._replace(kind=CHANGE)

    def _read(self, changed: Iterable[tuple[str, str]]) -> Iterator[Event]:
        known = [(key, what) for key, what in changed if what in _KINDS or what in _GONE]
        pipe = self._client.pipeline(transaction=False)
        for key, what in known:
            command = _READS[_KINDS.get(what, "string")]
            pipe.execute_command(command, key, *((0, -1) if command == "LRANGE" else ()))
        values = pipe.execute(raise_on_error=False) if known else []
        now_us = time.time_ns() // 1000
        for (key, what), value in zip(known, values, strict=True):
            if isinstance(value, Exception):
                continue  # it is of another type by now: another event says so
            self._position += 1
            if value is None or what in _GONE:
                yield Event(key, now_us, DELETE, position=self._position)
                continue
            shown = _shown(value)
            agent = shown.get(self._agent_field) if isinstance(shown, dict) else None
            kind = PUT if what in ("set", "hset") else CHANGE
            whose = agent if isinstance(agent, str) else ""
            yield Event(key, now_us, kind, shown, whose, self._position)


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {text(name): value_of(each) for name, each in value.items()}
    if isinstance(value, (list, set)):
        items = [value_of(each) for each in value]
        return items if isinstance(value, list) else sorted(items, key=repr)
    return value_of(value if isinstance(value, bytes) else str(value).encode())


def _naming(client: Any, time: bytes, names: set[bytes]) -> Iterator[bytes]:
    """Yield the lines that MONITOR would show of how connections were named."""
    for each in client.client_list():
        address = each["addr"].encode()
        if each["name"] and address not in names:
            names.add(address)
            yield b'%s [0 %s] "CLIENT" "SETNAME" "%s"' % (time, address, each["name"].encode())


def monitor_lines(url: str) -> Generator[bytes, None, None]:
    """Yield what MONITOR shows, a line each, without end; empty ones where nothing happens.

    The first is `OK`: all that comes after it is shown.  MONITOR leaves out how connections are
    named, so lines are added that name them.
    """
    names: set[bytes] = set()
    asked: Counter[bytes] = Counter()
    with redis_faults(url), closing(redis_client(url)) as client:
        connection = client.connection_pool.get_connection()
        try:
            connection.send_command("MONITOR")
            while True:
                if not connection.can_read(timeout=0.2):
                    yield b""
                    continue
                line = connection.read_response(disable_decoding=True)
                found = MONITOR_LINE.match(line)
                if found is not None and found[3] not in names and asked[found[3]] < _ASKED:
                    asked[found[3]] += 1  # it may get its name after its first command
                    yield from _naming(client, found[1], names)
                yield line
        finally:
            connection.disconnect()
