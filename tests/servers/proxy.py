"""The proxy of `interlock torture`, on a port that no client is given by the system."""

from __future__ import annotations

from interlock.verify.torture import proxy
from interlock.verify.torture.proxy import Cut
from tests.servers.process import free_port

__all__ = ["Cut", "Proxy"]


class Proxy(proxy.Proxy):
    """Forwards connections from a port of 127.0.0.1 to a server, and fails on order."""

    def __init__(self, target_host: str, target_port: int) -> None:
        super().__init__(target_host, target_port, free_port())
