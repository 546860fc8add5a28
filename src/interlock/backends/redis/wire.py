"""Carries commands to Redis and replies back, for threads and for asyncio.

redis-py opens the connections and follows the cluster's slots.  A connection is used as it is,
without asking first whether it still lives: where it does not, the answer is lost, and sending the
same request again is safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from interlock.backends.redis.calls import Command
from interlock.backends.redis.faults import fault_of, is_redirect, redis, script_is_missing
from interlock.backends.redis.options import Target
from interlock.backends.redis.scripts import BY_SHA
from interlock.errors import AnswerLost

try:
    from hiredis import pack_command
except ImportError:  # redis-py does the same, more slowly
    pack_command = None  # type: ignore[assignment]  # a function where it is installed

BROKEN = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
_DEFAULTS: dict[str, Any] = {
    "decode_responses": True,
    "encoding": "utf-8",
    "socket_timeout": 10.0,
    "socket_connect_timeout": 5.0,
    "socket_keepalive": True,
    "health_check_interval": 0,
}


def _with_text(command: Command) -> Command:
    """A script's call with the script itself, for a server that does not know it."""
    return ("EVAL", BY_SHA[command[1]], *command[2:])


class Wire:
    """Connections for threads."""

    def __init__(self, target: Target, key: str) -> None:
        self._target = target
        self._key = key
        self._idle: list[tuple[str, Any]] = []
        kind: Any = redis.cluster.RedisCluster if target.cluster else redis.Redis
        try:
            self.client: Any = kind.from_url(target.url, **_DEFAULTS)
        except redis.exceptions.RedisError as problem:
            raise fault_of(problem, target.place, sent=False) from problem

    def send(self, commands: Sequence[Command], last: Command | None = None) -> list[Any]:
        """Send commands together, and `last` after them; return a reply or exception for each."""
        node, connection = self._take()
        asked = [*commands, *([last] if last else [])]
        try:
            connection.send_packed_command(_packed(connection, asked), check_health=False)
            replies = [_reply(connection) for _ in asked]
        except BROKEN as problem:
            connection.disconnect()
            raise fault_of(problem, self._target.place, sent=True) from problem
        except BaseException:
            connection.disconnect()  # replies that nobody read are on their way
            raise
        self._idle.append((node, connection))
        found = [self._again(c, r) for c, r in zip(asked, replies, strict=True)]
        return found if last is None else _waited(replies, found)

    def close(self) -> None:
        """Close every connection."""
        while (idle := self._idle_one()) is not None:
            idle[1].disconnect()
        self.client.close()

    def _idle_one(self) -> tuple[str, Any] | None:
        """Take a connection that nobody uses; other threads do the same at this moment."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _take(self) -> tuple[str, Any]:
        try:
            node, pool = self._node()
            while (idle := self._idle_one()) is not None:
                at, connection = idle
                if at == node:
                    return at, connection
                connection.disconnect()  # the slot has moved
            # Not by the pool, which counts what it makes and never hears that it was dropped.
            connection = pool.connection_class(**pool.connection_kwargs)
            connection.connect()
            return node, connection
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self._target.place, sent=False) from problem

    def _node(self) -> tuple[str, Any]:
        if not self._target.cluster:
            return "", self.client.connection_pool
        node = self.client.get_node_from_key(self._key)
        return node.name, self.client.get_redis_connection(node).connection_pool

    def _again(self, command: Command, reply: Any) -> Any:
        """Send a command again that was not carried out: another node, a script not loaded."""
        if not isinstance(reply, Exception):
            return reply
        if not script_is_missing(reply) and not (self._target.cluster and is_redirect(reply)):
            return reply
        try:
            if command[0] == "EVALSHA":
                command = _with_text(command)
            return self.client.execute_command(*command)
        except BROKEN as problem:
            raise fault_of(problem, self._target.place, sent=True) from problem
        except redis.exceptions.RedisError as problem:
            return problem


class AsyncWire:
    """Connections for the tasks of one event loop."""

    def __init__(self, target: Target, key: str) -> None:
        self._target = target
        self._key = key
        self._idle: list[tuple[str, Any]] = []
        asynchronous: Any = redis.asyncio
        self._alone = asyncio.Lock()
        kind: Any = asynchronous.RedisCluster if target.cluster else asynchronous.Redis
        self.client: Any = kind.from_url(target.url, **_DEFAULTS)

    async def send(self, commands: Sequence[Command], last: Command | None = None) -> list[Any]:
        """Send commands together, and `last` after them; return a reply or exception for each."""
        node, connection = await self._take()
        asked = [*commands, *([last] if last else [])]
        try:
            await connection.send_packed_command(_packed(connection, asked), check_health=False)
            replies = [await _reply_async(connection) for _ in asked]
        except BROKEN as problem:
            await _drop(connection)
            raise fault_of(problem, self._target.place, sent=True) from problem
        except BaseException:
            await _drop(connection)  # replies that nobody read are on their way
            raise
        self._idle.append((node, connection))
        found = [await self._again(c, r) for c, r in zip(asked, replies, strict=True)]
        return found if last is None else _waited(replies, found)

    async def close(self) -> None:
        """Close every connection."""
        while self._idle:
            await _drop(self._idle.pop()[1])
        await self.client.aclose()

    async def _take(self) -> tuple[str, Any]:
        try:
            node, kind, arguments = await self._node()
            while self._idle:
                at, connection = self._idle.pop()
                if at == node:
                    return at, connection
                await _drop(connection)  # the slot has moved
            connection = kind(**arguments)
            await connection.connect()
            return node, connection
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self._target.place, sent=False) from problem

    async def _node(self) -> tuple[str, Any, dict[str, Any]]:
        if not self._target.cluster:
            pool = self.client.connection_pool
            return "", pool.connection_class, pool.connection_kwargs
        async with self._alone:
            await self.client.initialize()
        node = self.client.get_node_from_key(self._key)
        return node.name, node.connection_class, node.connection_kwargs

    async def _again(self, command: Command, reply: Any) -> Any:
        if not isinstance(reply, Exception):
            return reply
        if not script_is_missing(reply) and not (self._target.cluster and is_redirect(reply)):
            return reply
        try:
            if command[0] == "EVALSHA":
                command = _with_text(command)
            # One task at a time: a client that learns of a move cuts its other tasks off.
            async with self._alone:
                return await self.client.execute_command(*command)
        except BROKEN as problem:
            raise fault_of(problem, self._target.place, sent=True) from problem
        except redis.exceptions.RedisError as problem:
            return problem


def _waited(replies: list[Any], found: list[Any]) -> list[Any]:
    """Return what was found.  What was sent again was carried out after the waiting."""
    late = any(reply is not answer for reply, answer in zip(replies, found, strict=True))
    return [*found[:-1], AnswerLost("carried out, but not waited for")] if late else found


def _packed(connection: Any, commands: Sequence[Command]) -> list[bytes]:
    if pack_command is not None:
        return [b"".join([pack_command(command) for command in commands])]
    return [b"".join([part for c in commands for part in connection.pack_command(*c)])]


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.exceptions.ResponseError as problem:
        return problem
    except redis.exceptions.ConnectionError as problem:
        if isinstance(problem, redis.exceptions.BusyLoadingError):
            return problem
        raise


async def _reply_async(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except redis.exceptions.ResponseError as problem:
        return problem
    except redis.exceptions.ConnectionError as problem:
        if isinstance(problem, redis.exceptions.BusyLoadingError):
            return problem
        raise


async def _drop(connection: Any) -> None:
    with suppress(*BROKEN, asyncio.CancelledError):
        await connection.disconnect(nowait=True)
