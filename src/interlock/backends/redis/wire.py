"""Carries commands to Redis and replies back, for threads and for asyncio.  Spaces share a wire.

redis-py opens the connections and follows the cluster's slots.  A connection is used as it is,
without asking first whether it still lives: where it does not, the answer is lost, and sending the
same request again is safe.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from interlock import cancellation
from interlock.backends.bridge import Bridge
from interlock.backends.redaction import Hidden, malformed
from interlock.backends.redis.calls import BY_SHA, Command
from interlock.backends.redis.faults import fault_of, is_redirect, redis, script_is_missing
from interlock.backends.remote import Slots
from interlock.errors import AnswerLost, Unavailable

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


try:
    from hiredis import pack_command
except ImportError:  # redis-py does the same, more slowly
    pack_command = None  # type: ignore[assignment]  # a function where it is installed

MOST = 32  # connections that are used at once; whoever comes then waits for one
_LOOKS, _LOOK = 20, 0.25  # times that a connect is looked at, and seconds between
BROKEN = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
_DEFAULTS: dict[str, str | float] = {
    "decode_responses": True,
    "encoding": "utf-8",
    "socket_timeout": 10.0,
    "socket_connect_timeout": _LOOKS * _LOOK,
    "socket_keepalive": True,
    "health_check_interval": 0,
}


class _Connection(Protocol):
    """What is used of redis-py's connections, which have no types."""

    def connect(self) -> object: ...
    def disconnect(self) -> object: ...
    def pack_command(self, *parts: object) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], check_health: bool) -> object: ...
    def read_response(self) -> object: ...


class _AsyncConnection(Protocol):
    """The same of those for asyncio."""

    socket_connect_timeout: float | None

    async def connect(self) -> object: ...
    async def disconnect(self, nowait: bool) -> object: ...
    def pack_command(self, *parts: object) -> list[bytes]: ...
    async def send_packed_command(self, command: list[bytes], check_health: bool) -> object: ...
    async def read_response(self) -> object: ...


def _with_text(command: Command) -> Command:
    """A script's call with the script itself, for a server that does not know it."""
    return ("EVAL", BY_SHA[command[1]], *command[2:])


class Wire:
    """Connections for threads."""

    def __init__(self, target: Target) -> None:
        self._begin(target, MOST)
        kind: Any = redis.cluster.RedisCluster if target.cluster else redis.Redis
        try:
            self.client: Any = kind.from_url(target.url, **_DEFAULTS)
        except redis.exceptions.RedisError as problem:
            raise fault_of(problem, target.place, sent=False) from problem

    def _begin(self, target: Target, most: int) -> None:
        self._target = target
        self._idle: defaultdict[str, list[_Connection]] = defaultdict(list)  # by node
        self._free = threading.Semaphore(min(MOST, most))

    def send(
        self, commands: Sequence[Command], last: Command | None, key: str, patience: float
    ) -> list[object]:
        """Send commands together, and `last` after them; return a reply or exception for each.

        They go to the node that has `key`.  `patience`: seconds to wait for a connection.
        """
        if not self._free.acquire(timeout=patience):
            raise all_in_use(self._target, patience)
        try:
            return self.send_at_once(commands, last, key)
        finally:
            self._free.release()

    def send_at_once(
        self, commands: Sequence[Command], last: Command | None, key: str
    ) -> list[object]:
        """The same on a connection beyond those that are counted."""
        node, connection = self._take(key)
        asked = [*commands, *([last] if last else [])]
        try:
            connection.send_packed_command(packed(connection, asked), check_health=False)
            replies = [self._heard(_reply(connection)) for _ in asked]
        except BROKEN as problem:
            self._drop(connection)
            raise fault_of(problem, self._target.place, sent=True) from problem
        except BaseException:
            self._drop(connection)  # replies that nobody read are on their way
            raise
        self._give(node, connection)
        found = [self._again(c, r) for c, r in zip(asked, replies, strict=True)]
        return found if last is None else _waited(replies, found)

    def node_of(self, key: str) -> dict[str, Any]:
        """Return the arguments that send a command of redis-py to the node that has `key`."""
        return {"target_nodes": self.client.get_node_from_key(key)} if self._target.cluster else {}

    def close(self) -> None:
        """Close every connection."""
        for idle in [*self._idle.values()]:
            while idle:
                with suppress(IndexError):  # another thread takes one at this moment
                    idle.pop().disconnect()
        self.client.close()

    def info(self) -> dict[str, Any]:
        """Return what the server says of itself, or each node of a cluster by its name."""
        found: dict[str, Any] = self.client.info()
        return found

    def _give(self, node: str, connection: _Connection) -> None:
        if len(self._idle[node]) < MOST:
            self._idle[node].append(connection)
        else:
            connection.disconnect()

    def _drop(self, connection: _Connection) -> None:
        connection.disconnect()

    def _heard(self, reply: object) -> object:
        return reply

    def _take(self, key: str) -> tuple[str, _Connection]:
        try:
            node, pool = self._node(key)
            with suppress(IndexError):
                return node, self._idle[node].pop()
            # Not by the pool, which counts what it makes and never hears that it was dropped.
            connection: _Connection = pool.connection_class(**pool.connection_kwargs)
            connection.connect()
            return node, connection
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self._target.place, sent=False) from problem

    def _node(self, key: str) -> tuple[str, Any]:
        if not self._target.cluster:
            return "", self.client.connection_pool
        node = self.client.get_node_from_key(key)
        return node.name, self.client.get_redis_connection(node).connection_pool

    def _again(self, command: Command, reply: object) -> object:
        """Send a command again that was not carried out: another node, a script not loaded."""
        if not isinstance(reply, Exception):
            return reply
        if not script_is_missing(reply) and not (self._target.cluster and is_redirect(reply)):
            return reply
        try:
            if command[0] == "EVALSHA":
                command = _with_text(command)
            return self._heard(self.client.execute_command(*command))
        except BROKEN as problem:
            raise fault_of(problem, self._target.place, sent=True) from problem
        except redis.exceptions.RedisError as problem:
            return problem


class AsyncWire:
    """Connections for the tasks of one event loop."""

    def __init__(self, target: Target) -> None:
        self._begin(target, MOST)
        asynchronous: Any = redis.asyncio
        kind: Any = asynchronous.RedisCluster if target.cluster else asynchronous.Redis
        self.client: Any = kind.from_url(target.url, **_DEFAULTS)

    def _begin(self, target: Target, most: int) -> None:
        self._target = target
        self._idle: defaultdict[str, list[_AsyncConnection]] = defaultdict(list)  # by node
        self._slots = Slots(min(MOST, most))
        self._alone = asyncio.Lock()

    async def send(
        self, commands: Sequence[Command], last: Command | None, key: str, patience: float
    ) -> list[object]:
        """Do as `Wire.send`."""
        try:
            async with self._slots.one(patience):
                return await self.send_at_once(commands, last, key)
        except TimeoutError:
            raise all_in_use(self._target, patience) from None

    async def send_at_once(
        self, commands: Sequence[Command], last: Command | None, key: str
    ) -> list[object]:
        """Do as `Wire.send_at_once`."""
        node, connection = await self._take(key)
        asked = [*commands, *([last] if last else [])]
        try:
            await connection.send_packed_command(packed(connection, asked), check_health=False)
            replies = [self._heard(await _reply_async(connection)) for _ in asked]
        except BROKEN as problem:
            await self._drop(connection)
            raise fault_of(problem, self._target.place, sent=True) from problem
        except BaseException:
            await self._drop(connection)  # replies that nobody read are on their way
            raise
        await self._give(node, connection)
        found = [await self._again(c, r) for c, r in zip(asked, replies, strict=True)]
        return found if last is None else _waited(replies, found)

    async def close(self) -> None:
        """Close every connection."""
        for idle in [*self._idle.values()]:
            while idle:
                await _drop(idle.pop())
        await self.client.aclose()

    async def _give(self, node: str, connection: _AsyncConnection) -> None:
        if len(self._idle[node]) < MOST:
            self._idle[node].append(connection)
        else:
            await _drop(connection)

    async def _drop(self, connection: _AsyncConnection) -> None:
        await _drop(connection)

    def _heard(self, reply: object) -> object:
        return reply

    async def _take(self, key: str) -> tuple[str, _AsyncConnection]:
        try:
            node, kind, arguments = await self._node(key)
            if self._idle[node]:
                return node, self._idle[node].pop()
            connection: _AsyncConnection = kind(**arguments)
            await _connect(connection)
            return node, connection
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self._target.place, sent=False) from problem

    async def _node(self, key: str) -> tuple[str, Any, dict[str, Any]]:
        if not self._target.cluster:
            pool = self.client.connection_pool
            return "", pool.connection_class, pool.connection_kwargs
        async with self._alone:
            await self.client.initialize()
        node = self.client.get_node_from_key(key)
        return node.name, node.connection_class, node.connection_kwargs

    async def _again(self, command: Command, reply: object) -> object:
        if not isinstance(reply, Exception):
            return reply
        if not script_is_missing(reply) and not (self._target.cluster and is_redirect(reply)):
            return reply
        try:
            if command[0] == "EVALSHA":
                command = _with_text(command)
            # One task at a time: a client that learns of a move cuts its other tasks off.
            async with self._alone:
                return self._heard(await self.client.execute_command(*command))
        except BROKEN as problem:
            raise fault_of(problem, self._target.place, sent=True) from problem
        except redis.exceptions.RedisError as problem:
            return problem


def all_in_use(target: Target, seconds: float) -> Unavailable:
    """Return the fault of a request that found no connection."""
    return Unavailable(
        f"All {MOST} connections of this process to {target.place} were in use for {seconds:g} s. "
        "Try again, or raise busy_timeout=."
    )


def _waited(replies: list[object], found: list[object]) -> list[object]:
    """Return what was found.  What was sent again was carried out after the waiting."""
    late = any(reply is not answer for reply, answer in zip(replies, found, strict=True))
    return [*found[:-1], AnswerLost("carried out, but not waited for")] if late else found


def packed(connection: _Connection | _AsyncConnection, commands: Sequence[Command]) -> list[bytes]:
    """Return commands as they are sent, in one piece where that is fast."""
    if pack_command is not None:
        return [b"".join([pack_command(command) for command in commands])]
    return [b"".join([part for c in commands for part in connection.pack_command(*c)])]


def _reply(connection: _Connection) -> object:
    try:
        return connection.read_response()
    except redis.exceptions.ResponseError as problem:
        return problem
    except redis.exceptions.ConnectionError as problem:
        if isinstance(problem, redis.exceptions.BusyLoadingError):
            return problem
        raise


async def _reply_async(connection: _AsyncConnection) -> object:
    try:
        return await connection.read_response()
    except redis.exceptions.ResponseError as problem:
        return problem
    except redis.exceptions.ConnectionError as problem:
        if isinstance(problem, redis.exceptions.BusyLoadingError):
            return problem
        raise


async def _connect(connection: _AsyncConnection) -> None:
    """Open a connection.  Its time is counted in looks: an event loop that thousands of tasks hold
    up for seconds has looked once, and the server is not to blame."""
    connection.socket_connect_timeout = None
    task = asyncio.ensure_future(connection.connect())
    try:
        for _ in range(_LOOKS):
            if (await asyncio.wait([task], timeout=_LOOK))[0]:
                await task
                return
        raise redis.exceptions.TimeoutError("Timeout connecting to server")
    finally:
        if not task.done():
            await cancellation.stop(task)
            await _drop(connection)


async def _drop(connection: _AsyncConnection) -> None:
    with suppress(*BROKEN, asyncio.CancelledError):
        await connection.disconnect(nowait=True)
