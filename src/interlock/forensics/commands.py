"""What commands of Redis do to keys, as events: of a MONITOR capture, or of an append-only file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from interlock.forensics.history import ADD, DELETE, FIELDS, PUT, READ, REMOVE, Event

_OURS = ("write_log:", "interlock:", "ilk:")  # not data, and they only grow
_WHOLE_READS = {
    *("GET", "GETEX", "HGETALL", "HVALS", "LRANGE", "SMEMBERS", "JSON.GET"),
    *("GETRANGE", "LINDEX", "SISMEMBER"),
}
_Change = tuple[str, str, Any]  # key, kind, value


class Commands:
    """Turns commands into events; knows which keys there are, for `SET ... NX`.

    `complete`: only commands that have changed something are shown, as in an append-only file.
    """

    def __init__(self, complete: bool) -> None:
        self._complete = complete
        self._exists: dict[str, int | None] = {}  # until when, in microseconds
        self._position = 0

    def events(self, words: Sequence[bytes], db: int, time_us: int, agent: str) -> Iterator[Event]:
        """Yield the events of one command."""
        name = words[0].upper().decode("ascii", "replace")
        if name in ("FLUSHALL", "FLUSHDB"):
            for key in list(self._exists):
                self._position += 1
                yield Event(key, time_us, DELETE, None, agent, self._position)
            self._exists.clear()
            return
        if name == "COPY" or len(words) < 2:
            return
        for key, kind, value in self._changes(name, words, time_us):
            if key.startswith(_OURS):
                continue
            if kind == DELETE:
                self._exists.pop(key, None)
            elif kind != READ:
                self._exists.setdefault(key, None)
            self._position += 1
            shown = key if not db else f"db{db}:{key}"
            yield Event(shown, time_us, kind, value, agent, self._position)

    def _changes(self, name: str, words: Sequence[bytes], time_us: int) -> Iterator[_Change]:
        key, rest = text(words[1]), words[2:]
        if name == "SET":
            yield from self._set(key, rest, time_us)
        elif name in ("SETEX", "PSETEX") and len(rest) == 2:
            self._exists[key] = time_us + _integer(rest[0]) * (10**6 if name == "SETEX" else 10**3)
            yield key, PUT, value_of(rest[1])
        elif name in ("SETNX", "MSETNX"):
            pairs = list(_pairs(words[1:]))
            if self._complete or not any(self._there(text(k), time_us) for k, _ in pairs):
                yield from ((text(k), PUT, value_of(v)) for k, v in pairs)
        elif name == "MSET":
            yield from ((text(k), PUT, value_of(v)) for k, v in _pairs(words[1:]))
        elif name == "GETSET" and rest:
            yield key, READ, None
            yield key, PUT, value_of(rest[0])
        elif name in ("DEL", "UNLINK"):
            yield from ((text(each), DELETE, None) for each in words[1:])
        elif name == "GETDEL":
            yield key, READ, None
            yield key, DELETE, None
        elif name == "MGET":
            yield from ((text(each), READ, None) for each in words[1:])
        elif name in _WHOLE_READS:
            yield key, READ, None
        elif name in ("HGET", "HMGET"):
            yield key, READ, [text(each) for each in rest]
        elif name == "JSON.SET" and len(rest) >= 2 and rest[0] in (b"$", b"."):
            yield key, PUT, value_of(rest[1])
        elif name in ("EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "PERSIST"):
            self._expire(name, key, rest, time_us)
        elif name in _ATOMIC:
            change = _ATOMIC[name](rest)
            if change is not None:
                yield key, *change

    def _set(self, key: str, rest: Sequence[bytes], time_us: int) -> Iterator[_Change]:
        options = [word.upper() for word in rest[1:]]
        there = self._there(key, time_us)
        if not self._complete and (
            (b"NX" in options and there) or (b"XX" in options and not there)
        ):
            return
        until = None
        for unit, scale in ((b"EX", 10**6), (b"PX", 10**3)):
            if unit in options[:-1]:
                until = time_us + _integer(options[options.index(unit) + 1]) * scale
        for unit, scale in ((b"EXAT", 10**6), (b"PXAT", 10**3)):
            if unit in options[:-1]:
                until = _integer(options[options.index(unit) + 1]) * scale
        self._exists[key] = until
        if b"GET" in options:
            yield key, READ, None
        yield key, PUT, value_of(rest[0])

    def _there(self, key: str, time_us: int) -> bool:
        if key not in self._exists:
            return False
        until = self._exists[key]
        return until is None or until > time_us

    def _expire(self, name: str, key: str, rest: Sequence[bytes], time_us: int) -> None:
        if key not in self._exists:
            return
        scale = 10**3 if name.startswith("PEX") else 10**6
        start = 0 if name.endswith("AT") else time_us
        self._exists[key] = start + _integer(rest[0]) * scale if rest else None


def _fields(rest: Sequence[bytes]) -> tuple[str, Any]:
    return FIELDS, {text(name): value_of(value) for name, value in _pairs(rest)}


def _items(rest: Sequence[bytes]) -> tuple[str, Any]:
    return ADD, [value_of(each) for each in rest]


def _taken(rest: Sequence[bytes], end: str) -> tuple[str, Any]:
    return REMOVE, {end: _integer(rest[0]) if rest else 1}


def _step(rest: Sequence[bytes], sign: int = 1) -> tuple[str, Any]:
    return ADD, sign * (_number(rest[0]) if rest else 1)


# What the server itself does to a value, in one step, given the words after the key.
_ATOMIC: dict[str, Callable[[Sequence[bytes]], tuple[str, Any] | None]] = {
    "HSET": _fields,
    "HMSET": _fields,
    "HDEL": lambda rest: (REMOVE, [text(each) for each in rest]),
    "HINCRBY": lambda rest: (ADD, {text(rest[0]): _number(rest[1])}),
    "HINCRBYFLOAT": lambda rest: (ADD, {text(rest[0]): _number(rest[1])}),
    "INCR": _step,
    "INCRBY": _step,
    "INCRBYFLOAT": _step,
    "DECR": lambda rest: (ADD, -1),
    "DECRBY": lambda rest: _step(rest, -1),
    "APPEND": lambda rest: (ADD, text(rest[0])),
    "RPUSH": _items,
    "LPUSH": _items,
    "SADD": _items,
    "SREM": lambda rest: (REMOVE, [value_of(each) for each in rest]),
    "LREM": lambda rest: (REMOVE, [value_of(rest[1])]),
    "LPOP": lambda rest: _taken(rest, "first"),
    "RPOP": lambda rest: _taken(rest, "last"),
}


def text(word: bytes) -> str:
    """Return a word as text; bytes that are no UTF-8 are shown as escapes."""
    return word.decode("utf-8", "backslashreplace")


def value_of(word: bytes) -> Any:
    """Return what a stored string holds: JSON, else text."""
    from msgspec import DecodeError
    from msgspec.json import decode

    try:
        return decode(word)
    except (DecodeError, UnicodeDecodeError, RecursionError):
        return text(word)


def _pairs(words: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(words[::2], words[1::2], strict=False)


def _integer(word: bytes) -> int:
    return int(word) if word.isdigit() else 0


def _number(word: bytes) -> int | float:
    try:
        return int(word)
    except ValueError:
        return float(word)
