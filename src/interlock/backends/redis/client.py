"""A Redis client of the application's: its connections are used, and it stays as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any

from interlock.backends.bridge import Bridge
from interlock.backends.driver_connection import described, is_a
from interlock.backends.redis.calls import Command, text
from interlock.backends.redis.faults import fault_of, redis
from interlock.backends.redis.wire import AsyncWire, Target, Wire
from interlock.errors import Invalid

# Before redis-py 5.3 a pool had to be told for which command.
_ASKED = signature(redis.ConnectionPool.get_connection).parameters.get("command_name")
COMMAND = ("EVALSHA",) if _ASKED is not None and _ASKED.default is Parameter.empty else ()
_LONGEST = 60.0  # seconds that a thread waits for the event loop of a client


def target_of_client(client: Any, loop: asyncio.AbstractEventLoop | None) -> Target:
    """Return where a client's store is; `loop` is that of asyncio.  Raises Invalid."""
    asynchronous = isinstance(client, redis.asyncio.Redis)
    if isinstance(client, redis.client.Pipeline | redis.asyncio.client.Pipeline):
        raise Invalid("A pipeline can't be shared: give the client that it was made of.")
    if not asynchronous and not isinstance(client, redis.Redis):
        hint = " For a cluster, give a URL: redis+cluster://..." if is_cluster(client) else ""
        raise Invalid(f"A {described(client)} can't be shared: give a redis.Redis.{hint}")
    if asynchronous != (loop is not None):
        other = "open_async" if asynchronous else "open"
        raise Invalid(f"A {described(client)} is for interlock.{other}.")
    settings = client.connection_pool.connection_kwargs
    encoding = str(settings.get("encoding", "utf-8"))
    if encoding.lower().replace("-", "") != "utf8":
        raise Invalid(f"The client's encoding is {encoding}. Interlock needs utf-8.")
    host, port = settings.get("host", "localhost"), settings.get("port", 6379)
    where = settings.get("path") or f"{host}:{port}/{settings.get('db') or 0}"
    return Target(
        url="",
        place=f"redis://{where}",
        cluster=False,
        wait_replicas=0,
        wait_aof=False,
        wait_timeout=1.0,
        client=client,
        bridge=None if loop is None else Bridge(loop, _LONGEST),
    )


def is_cluster(client: Any) -> bool:
    """Whether it is a client of a cluster."""
    return is_a(client, "redis", "RedisCluster")


class ClientWire(Wire):
    """Connections out of the pool of a `redis.Redis`."""

    def __init__(self, target: Target) -> None:
        self._begin(target, target.client.connection_pool.max_connections)
        self.client = target.client

    def close(self) -> None:
        """Close nothing: it is the application's."""

    def _take(self, key: str) -> tuple[str, Any]:
        try:
            return "", self.client.connection_pool.get_connection(*COMMAND)
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self._target.place, sent=False) from problem

    def _give(self, node: str, connection: Any) -> None:
        self.client.connection_pool.release(connection)

    def _drop(self, connection: Any) -> None:
        connection.disconnect()
        self.client.connection_pool.release(connection)

    def _heard(self, reply: Any) -> Any:
        return text(reply)


class AsyncClientWire(AsyncWire):
    """Connections out of the pool of a `redis.asyncio.Redis`."""

    def __init__(self, target: Target) -> None:
        self._begin(target, target.client.connection_pool.max_connections)
        self.client = target.client

    async def close(self) -> None:
        """Close nothing: it is the application's."""

    async def _take(self, key: str) -> tuple[str, Any]:
        try:
            return "", await self.client.connection_pool.get_connection(*COMMAND)
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self._target.place, sent=False) from problem

    async def _give(self, node: str, connection: Any) -> None:
        await self.client.connection_pool.release(connection)

    async def _drop(self, connection: Any) -> None:
        await super()._drop(connection)
        await self.client.connection_pool.release(connection)

    def _heard(self, reply: Any) -> Any:
        return text(reply)


class BridgedWire(Wire):
    """The connections of an asyncio client, for threads."""

    def __init__(self, target: Target, wire: AsyncClientWire) -> None:
        assert target.bridge is not None
        self._bridge = target.bridge
        self._wire = wire

    def send(
        self, commands: Sequence[Command], last: Command | None, key: str, patience: float
    ) -> list[Any]:
        """Do as Wire."""
        return self._bridge.run(self._wire.send(commands, last, key, patience))

    def send_at_once(
        self, commands: Sequence[Command], last: Command | None, key: str
    ) -> list[Any]:
        """Do as Wire."""
        return self._bridge.run(self._wire.send_at_once(commands, last, key))

    def info(self) -> dict[str, Any]:
        """Do as Wire."""
        found: dict[str, Any] = self._bridge.run(self._wire.client.info())
        return found

    def close(self) -> None:
        """Close nothing: it is the application's."""
