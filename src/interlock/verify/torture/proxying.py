"""Leads the connections to a server through a proxy that the supervisor can cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

from interlock.verify.torture.proxy import Proxy
from interlock.verify.torture.settings import can_be_proxied

_PORTS = {"postgresql": 5432, "postgres": 5432, "redis": 6379}


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, Proxy | None]]:
    """Yield the URL that leads through a proxy, and the proxy; or the URL as it is, and None."""
    if not can_be_proxied(url):
        yield url, None
        return
    parts = urlsplit(url)
    assert parts.hostname is not None, "can_be_proxied looks for it"
    with Proxy(parts.hostname, parts.port or _PORTS[parts.scheme]) as proxy:
        user, at, _ = parts.netloc.rpartition("@")
        place = f"{user}{at}{proxy.host}:{proxy.port}"
        yield urlunsplit((parts.scheme, place, parts.path, parts.query, parts.fragment)), proxy
