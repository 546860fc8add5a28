"""Sources while they grow: what is new since a position that can be kept in a file.

Each feed connects again when its server was away; what the source itself still has is not missed.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import interlock
from interlock import Json
from interlock.errors import Fault, Unavailable
from interlock.forensics import history_table
from interlock.forensics.captures import MONITOR_LINE, Monitor
from interlock.forensics.history import Event, event_of
from interlock.forensics.record import Keyspace
from interlock.forensics.sources import (
    LOG_PREFIX,
    REDIS,
    event_of_entry,
    log_keys,
    redis_client,
    redis_faults,
)

_PAGE = 1000  # entries that are read at once
_CONTEXT = 1000  # entries before a position
_CONTEXT_OF_LOG = 50
_CHUNK = 1 << 22  # bytes of a file that are read at once


class Feed(Protocol):
    """A source that grows."""

    shows_reads: bool
    from_start: bool

    @property
    def position(self) -> Json:
        """How far it was read."""

    def context(self) -> list[Event]:
        """Return what came right before the position: what is new is compared with it."""

    def poll(self, seconds: float) -> list[Event]:
        """Return what is new, waiting at most so long for it.  Raises Fault, and goes on where it
        was when it is called again."""

    def close(self) -> None:
        """Stop."""


class SpaceFeed:
    """The log of a space."""

    shows_reads = False
    from_start = False

    def __init__(self, url: str, space: str, position: Json) -> None:
        self.url = url
        self.space = interlock.open(url, space=space, create=False)
        self.position = self.space.position() if position is None else position

    def context(self) -> list[Event]:
        """Return the last entries."""
        last = list(self.space.log(limit=_CONTEXT, newest_first=True))
        entries = [each for each in reversed(last) if each.position <= self.position]
        return list(filter(None, map(event_of_entry, entries)))

    def poll(self, seconds: float) -> list[Event]:
        """Return new entries."""
        try:
            entries = list(self.space.log(after=self.position, limit=_PAGE))
        except interlock.Pruned as problem:
            self.position = problem.oldest - 1
            raise Fault(f"Entries were trimmed before they were read: {problem}") from problem
        if entries:
            self.position = entries[-1].position
        else:
            time.sleep(seconds)
        return list(filter(None, map(event_of_entry, entries)))

    def close(self) -> None:
        """Close the space."""
        self.space.close()


class LogsFeed:
    """Write logs: lists in Redis."""

    shows_reads = False
    from_start = False
    _LOOKED_FOR = 0.5  # seconds between two looks for new lists

    def __init__(self, url: str, prefix: str, position: Json) -> None:
        self._url, self._prefix = url, prefix
        self._client = redis_client(url)
        self._looked = 0.0
        self.position: dict[str, int] = {} if position is None else dict(position)
        if position is None:
            with redis_faults(url):
                self._look()
                for log in self.position:
                    self.position[log] = self._client.llen(log)

    def context(self) -> list[Event]:
        """Return the last entries of each list."""
        events = []
        with redis_faults(self._url):
            for log, end in self.position.items():
                start = max(end - _CONTEXT_OF_LOG, 0)
                items = self._client.lrange(log, start, end - 1) if end else []
                events += [self._event(log, n, item) for n, item in enumerate(items, start + 1)]
        return events

    def poll(self, seconds: float) -> list[Event]:
        """Return new entries of all lists, those of one list in its order."""
        with redis_faults(self._url):
            if time.monotonic() - self._looked > self._LOOKED_FOR:
                self._look()
            pipe = self._client.pipeline(transaction=False)
            for log, start in self.position.items():
                pipe.lrange(log, start, start + _PAGE - 1)
                pipe.llen(log)
            found = pipe.execute() if self.position else []
        events = []
        for (log, start), items, length in zip(
            list(self.position.items()), found[::2], found[1::2], strict=True
        ):
            # A list that is shorter than it was, was trimmed, or lost by the server.
            self.position[log] = min(start, length) + len(items)
            events += [self._event(log, n, item) for n, item in enumerate(items, start + 1)]
        if not events:
            time.sleep(seconds)
        return sorted(events, key=lambda event: event.time_us)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _look(self) -> None:
        for log in log_keys(self._client, self._prefix):
            self.position.setdefault(log.decode("utf-8", "backslashreplace"), 0)
        self._looked = time.monotonic()

    def _event(self, log: str, number: int, item: bytes) -> Event:
        from msgspec.json import decode

        return event_of(decode(item), number, log, log.removeprefix(self._prefix))


class KeyspaceFeed:
    """Keyspace events of a Redis: what happens while nobody listens is not shown."""

    shows_reads = False
    from_start = False
    position: Json = None

    def __init__(self, url: str, **options: Any) -> None:
        self._url, self._options = url, options
        self._open: Keyspace | None = Keyspace(url, **options)

    def context(self) -> list[Event]:
        """Return nothing: the first poll returns what the keys hold."""
        return []

    def poll(self, seconds: float) -> list[Event]:
        """Return what has happened."""
        try:
            if self._open is None:
                self._open = Keyspace(self._url, **self._options)
            return self._open.poll(seconds)
        except (Fault, Unavailable):
            self._open = None
            raise

    def close(self) -> None:
        """Stop listening."""
        if self._open is not None:
            self._open.close()


class TableFeed:
    """The history of a PostgreSQL table."""

    shows_reads = False
    from_start = False

    def __init__(self, url: str, table: str, position: Json) -> None:
        self._url, self._table = url, table
        with history_table.connected(url) as connection:
            now = history_table.horizon(connection)
            list(history_table.between(connection, table, now, now))  # that it is recorded
        self.position = now if position is None else position

    def context(self) -> list[Event]:
        """Return what the last transactions before have recorded."""
        first = max(self.position - _CONTEXT, 0)
        with history_table.connected(self._url) as connection:
            return list(history_table.between(connection, self._table, first, self.position))

    def poll(self, seconds: float) -> list[Event]:
        """Return what the transactions that have ended since have recorded."""
        with history_table.connected(self._url) as connection:
            before = history_table.horizon(connection)
            first = self.position
            found = list(history_table.between(connection, self._table, first, before))
        self.position = before
        if not found:
            time.sleep(seconds)
        return found

    def close(self) -> None:
        """Nothing is open."""


class FileFeed:
    """A file that is being written: JSONL, or what MONITOR shows."""

    from_start = False

    def __init__(self, path: Path, position: Json) -> None:
        self._path = path
        self._monitor: Monitor | None = None
        self.position = 0 if position is None else position
        self._number = 0
        self.shows_reads = False

    def context(self) -> list[Event]:
        """Return the events before the position."""
        end, self.position, events = self.position, 0, []
        while self.position < end:
            before = self.position
            events += self._events(min(end - before, _CHUNK))
            if self.position == before:
                break
        return events

    def poll(self, seconds: float) -> list[Event]:
        """Return the events of the lines that are complete."""
        found = self._events(_CHUNK)
        if not found:
            time.sleep(seconds)
        return found

    def close(self) -> None:
        """Nothing is open."""

    def _events(self, size: int) -> list[Event]:
        from msgspec.json import decode

        try:
            with self._path.open("rb") as file:
                if self._path.stat().st_size < self.position:
                    self.position = 0  # it was begun anew
                file.seek(self.position)
                data = file.read(size)
        except OSError as problem:
            raise Unavailable(f"Can't read {self._path}: {problem.strerror}") from problem
        complete = data[: data.rfind(b"\n") + 1]
        self.position += len(complete)
        found: list[Event] = []
        for line in complete.splitlines():
            self._number += 1
            if MONITOR_LINE.match(line):
                self._monitor = self._monitor or Monitor()
                self.shows_reads = True
                found += self._monitor.events(line) or ()
            elif line.startswith(b"{"):
                found.append(event_of(decode(line), self._number, str(self._path)))
        return found


def open_feed(
    source: str,
    *,
    space: str | None = None,
    table: str | None = None,
    keyspace: bool = False,
    enable: bool = False,
    match: str | None = None,
    log_prefix: str = LOG_PREFIX,
    position: Json = None,
) -> Feed:
    """Return what a source adds after `position` (None: from now on).

    `source`: a store's URL, a Redis with write logs (or, with `keyspace`, its keyspace events), a
    PostgreSQL with a `table` whose history is recorded, or a file that is being written.  `enable`
    switches keyspace events on.  Raises Invalid, Unavailable, NotInstalled.
    """
    if table is not None:
        return TableFeed(source, table, position)
    if source.startswith(REDIS) and keyspace:
        return KeyspaceFeed(source, match=match or "*", enable=enable)
    if source.startswith(REDIS) and space is None:
        return LogsFeed(source, log_prefix, position)
    if "://" in source:
        return SpaceFeed(source, space or "default", position)
    return FileFeed(Path(source), position)
