"""Where histories come from: spaces, write logs, captures, append-only files, tables, JSONL."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import interlock
from interlock.core.plan import APPEND, DELETE
from interlock.core.records import Entry
from interlock.errors import Invalid, Unavailable
from interlock.extras import needs
from interlock.forensics import history_table
from interlock.forensics.captures import (
    MONITOR_LINE,
    append_only_files,
    begins_with_rdb,
    read_append_only,
    read_monitor,
)
from interlock.forensics.history import ADD, PUT, Event, event_of, keys_like, read_history
from interlock.forensics.history import DELETE as DELETED
from interlock.forensics.operations import BadTrace

REDIS = ("redis://", "rediss://", "unix://")
POSTGRES = ("postgresql://", "postgres://")
LOG_PREFIX = "write_log:"
_GUARD = "guard/"
_LOGGED = {"created": PUT, "written": PUT, "changed outside": PUT, "deleted": DELETED}
_PAGE = 1000  # entries of a list that are fetched at once
TRACE = "trace"  # the kind of a file that `find_anomalies` reads


class Source(NamedTuple):
    """A history that can be read again and again.

    `kind`: `space`, `write_log`, `monitor`, `aof`, `table`, `jsonl` or `trace`.  `from_start`: it
    shows the first write of each key.  `resolution`: seconds that its times are exact to, infinite
    where it has none.
    """

    name: str
    kind: str
    read: Callable[[], Iterator[Event]]
    from_start: bool = True
    resolution: float = 1e-6


def open_source(
    source: str,
    *,
    space: str | None = None,
    table: str | None = None,
    log_prefix: str = LOG_PREFIX,
    match: str | None = None,
) -> Source:
    """Return the history that `source` names.

    `source` is a file (JSONL, a MONITOR capture, an append-only file), `-` for standard input, the
    folder of an append-only file, or a URL: of a store of Interlock, of a Redis whose write logs
    are lists (`log_prefix` and the key; where there is none, or `space` is given, a space), or of a
    PostgreSQL with a `table` whose history is recorded.  `match`: only keys like `plan:*`.

    Raises Invalid, Unavailable, NotInstalled.
    """
    shown = interlock.redact_url(source) if "://" in source else source
    if table is not None:
        if not source.startswith(POSTGRES):
            raise Invalid(f"{shown!r}: only a table of PostgreSQL has a history.")
        found = Source(
            shown, "table", lambda: history_table.events(source, table), from_start=False
        )
    elif source.startswith(REDIS) and space is None and _has_logs(source, log_prefix):
        found = Source(shown, "write_log", lambda: _write_logs(source, log_prefix))
    elif "://" in source:
        found = Source(shown, "space", lambda: _space(source, space or "default"))
    elif source == "-":
        found = Source("standard input", *_of_file(_standard_input()))
    else:
        path = Path(source)
        if not path.exists():
            raise Unavailable(f"Can't read {source}: there is no such file.")
        found = Source(shown, *(_of_folder(path) if path.is_dir() else _of_file(path)))
    if match is None:
        return found
    return found._replace(read=lambda: keys_like(found.read(), match))


def _of_folder(path: Path) -> tuple[str, Callable[[], Iterator[Event]], bool, float]:
    files = append_only_files(path)
    whole = not (files and begins_with_rdb(files[0]))
    return "aof", lambda: read_append_only(files), whole, float("inf")


def _of_file(
    path: Path | Callable[[], IO[bytes]],
) -> tuple[str, Callable[[], Iterator[Event]], bool, float]:
    if not isinstance(path, Path):
        return "jsonl", lambda: read_history(path(), "standard input"), True, 1e-6
    with _reading(path) as file:
        first = next((line for line in iter(file.readline, b"") if line.strip()), b"")
        if first.strip() in (b"OK", b"+OK"):
            first = file.readline()
    if first.startswith((b"*", b"REDIS", b"#TS:")):
        resolution = 1.0 if first.startswith(b"#TS:") else float("inf")
        whole = not begins_with_rdb(path)
        return "aof", lambda: read_append_only([path]), whole, resolution
    if MONITOR_LINE.match(first.rstrip(b"\r\n")):
        return "monitor", lambda: _lines(path, read_monitor), False, 1e-6
    if b'"session"' in first and b'"write_time"' in first:
        return TRACE, lambda: iter(()), True, 1e-6
    return "jsonl", lambda: _lines(path, read_history), True, 1e-6


def _standard_input() -> Callable[[], IO[bytes]]:
    return lambda: sys.stdin.buffer


def _lines(path: Path, read: Callable[[IO[bytes], str], Iterator[Event]]) -> Iterator[Event]:
    with _reading(path) as file:
        yield from read(file, str(path))


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as problem:
        raise Unavailable(f"Can't read {path}: {problem.strerror}") from problem


def _space(url: str, name: str) -> Iterator[Event]:
    with interlock.open(url, space=name, create=False) as space:
        yield from filter(None, map(event_of_entry, space.log()))


def event_of_entry(entry: Entry) -> Event | None:
    """Return an entry of a space's log as an event: version N was computed from version N-1.

    What a guard has logged of data outside becomes an event of that data; None for what has changed
    nothing, such as a refusal.
    """
    if entry.key.startswith(_GUARD) and isinstance(entry.value, dict) and "event" in entry.value:
        return _guarded(entry, entry.value)
    kind = {APPEND: ADD, DELETE: DELETED}.get(entry.kind, PUT)
    value = [entry.value] if kind == ADD else entry.value
    version = entry.version
    return Event(
        key=entry.key,
        time_us=entry.time_us,
        kind=kind,
        value=value,
        agent=entry.agent,
        position=entry.position,
        version=version,
        base=version - 1,
    )


def _guarded(entry: Entry, logged: dict[str, Any]) -> Event | None:
    """Return what a guard has logged: its own writes compare with the state that is named before,
    of what was changed outside nobody knows what it was computed from."""
    kind = _LOGGED.get(logged["event"])
    if kind is None:
        return None
    outside = logged["event"] == "changed outside"
    before = logged.get("before")
    based = before.get("position") if isinstance(before, dict) else 0
    gone = outside and "value" not in logged
    return Event(
        key=entry.key,
        time_us=entry.time_us,
        kind=DELETED if gone else kind,
        value=logged.get("value"),
        agent="" if outside else entry.agent,
        position=entry.position,
        version=entry.position,
        base=None if outside else based,
    )


def redis_client(url: str, **options: Any) -> Any:
    """Return a client of redis-py.  Raises Invalid, NotInstalled."""
    with needs("redis-py", "redis"):
        import redis
    try:
        return redis.Redis.from_url(url, **options)
    except ValueError as problem:
        raise Invalid(f"{interlock.redact_url(url)!r}: {problem}") from problem


@contextmanager
def redis_faults(url: str) -> Iterator[None]:
    """Raise what a Redis, or the way to it, has against us as Unavailable, Invalid or a Fault."""
    from interlock.backends.redis.faults import fault_of, redis

    try:
        yield
    except (redis.exceptions.RedisError, OSError) as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        raise fault_of(problem, interlock.redact_url(url), sent=False) from problem


def _has_logs(url: str, prefix: str) -> bool:
    with redis_faults(url), redis_client(url) as client:
        return next(log_keys(client, prefix), None) is not None


def log_keys(client: Any, prefix: str) -> Iterator[bytes]:
    """Yield the names of write logs."""
    escaped = "".join(f"\\{each}" if each in "*?[]^\\" else each for each in prefix)
    seen: set[bytes] = set()  # a scan may show a key twice
    for key in client.scan_iter(match=f"{escaped}*", count=_PAGE, _type="list"):
        key = key.encode() if isinstance(key, str) else key
        if key not in seen:
            seen.add(key)
            yield key


def _write_logs(url: str, prefix: str) -> Iterator[Event]:
    from msgspec import DecodeError
    from msgspec.json import decode

    with redis_faults(url), redis_client(url) as client:
        for log in sorted(log_keys(client, prefix)):
            key = log.decode("utf-8", "backslashreplace")[len(prefix) :]
            start = 0
            while page := client.lrange(log, start, start + _PAGE - 1):
                for number, item in enumerate(page, start + 1):
                    try:
                        given = decode(item)
                    except (DecodeError, UnicodeDecodeError) as problem:
                        name = log.decode("utf-8", "backslashreplace")
                        step = "log JSON objects with agent, ts and value"
                        why = f"is not JSON ({problem})"
                        raise BadTrace(name, number, "", item, why, step) from problem
                    yield event_of(given, number, log.decode("utf-8", "replace"), key)
                start += len(page)
