"""Where a store in Redis is, and what a commit waits for: out of its URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from interlock.backends.bridge import Bridge
from interlock.backends.redaction import Hidden, malformed
from interlock.backends.redis.faults import redis

_OURS = ("wait_replicas", "wait_aof", "wait_timeout", "allow_eviction")
_BOOLEANS = {"0": False, "1": True}
_ESCAPED = str.maketrans({"{": "%7B", "}": "%7D", "%": "%25"})


@dataclass(frozen=True, repr=False)
class Target(Hidden):
    """Where a store is, and what a commit waits for.

    `url` is redis-py's.  `wait_replicas` replicas must have a commit, and with `wait_aof` also the
    append-only files of the primary and of so many replicas (Redis 7.2), within `wait_timeout`
    seconds.  `allow_eviction` opens a store on a server that evicts keys when its memory is full.
    `client` is the application's, whose connections are used; of asyncio where there is a `bridge`.
    """

    url: str
    place: str
    cluster: bool
    wait_replicas: int
    wait_aof: bool
    wait_timeout: float
    allow_eviction: bool = False
    client: Any = None
    bridge: Bridge | None = None


def target_of(url: str) -> Target:
    """Return where a store is.  Raises Invalid."""
    try:
        parts = urlsplit(url)
    except ValueError:  # whose text quotes the URL
        raise malformed(url, "its host is not one") from None
    asked = dict(parse_qsl(parts.query, keep_blank_values=True))
    own = {name: asked.pop(name) for name in _OURS if name in asked}
    scheme = parts.scheme.removesuffix("+cluster")
    cluster = scheme != parts.scheme
    try:
        port = parts.port or 6379
        replicas = int(own.get("wait_replicas", "0"))
        timeout = float(own.get("wait_timeout", "1"))
        aof = _BOOLEANS[own.get("wait_aof", "0")]
        evicts = _BOOLEANS[own.get("allow_eviction", "0")]
        if replicas < 0 or not 0 < timeout <= 60:
            raise ValueError("out of range")
    except (ValueError, KeyError):
        raise malformed(
            url,
            "its port is a number, and it may have wait_replicas=N, wait_aof=1, "
            "wait_timeout=SECONDS (up to 60) and allow_eviction=1",
        ) from None
    plain = urlunsplit((scheme, parts.netloc, parts.path, urlencode(asked), ""))
    where = (
        parts.path if scheme == "unix" else f"{parts.hostname or 'localhost'}:{port}{parts.path}"
    )
    place = f"{parts.scheme}://{where}"
    _check_options(url, plain, asked)
    return Target(plain, place, cluster, replicas, aof, timeout, evicts)


def _check_options(url: str, plain: str, asked: Mapping[str, str]) -> None:
    """Raise Invalid where redis-py does not know an option: it says so only when it connects."""
    try:
        pool = redis.ConnectionPool.from_url(plain)
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, redis.exceptions.RedisError):
        names = ", ".join(sorted(name for name in asked if name.isidentifier())) or "none"
        raise malformed(
            url,
            f"one of its options ({names}) is not known to redis-py or has a wrong value; "
            f"Interlock's own are {', '.join(_OURS)}",
        ) from None


def state_key(name: str) -> str:
    """Return the name of a space's first key.  All its keys hold the same name in braces, so that
    they share a hash slot; a brace in the name would end that part early."""
    return f"interlock:{{{name.translate(_ESCAPED)}}}"


def space_name(key: str) -> str | None:
    """Return the name of the space that a first key is of, None where it is no such key."""
    if not (key.startswith("interlock:{") and key.endswith("}")):
        return None
    name = unquote(key[len("interlock:{") : -1])
    return name if state_key(name) == key else None
