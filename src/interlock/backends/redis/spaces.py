"""A Redis server or cluster as a whole: the spaces in it, and its health.  See `core/spaces.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from interlock.backends.redis.backend import STORES, Store
from interlock.backends.redis.calls import Command, Keys, script
from interlock.backends.redis.faults import fault_of, redis
from interlock.backends.redis.server import check_server, nodes
from interlock.backends.redis.wire import space_name, state_key, target_of
from interlock.backends.remote import ServerOptions, check_options
from interlock.backends.whole_store import WholeStore
from interlock.core.health import (
    GroupLag,
    QueueState,
    SpaceState,
    bytes_of,
    of_skew,
    of_spaces,
)
from interlock.core.spaces import (
    CreateSpace,
    DropSpace,
    Examine,
    Finding,
    FindSpace,
    ListSpaces,
    RenameSpace,
    SpaceInfo,
)
from interlock.errors import Invalid

SCHEMA_VERSION = 2
_PAGE = 10_000  # keys
_FULL = 0.8  # of the memory


class RedisStore(WholeStore):
    """All spaces of one server or cluster."""

    def __init__(self, url: str, options: ServerOptions | None = None) -> None:
        self._options = options or ServerOptions()
        check_options(self._options)
        self._target = target_of(url)
        self._store = STORES.borrow(self._target, lambda: Store(self._target))
        try:
            check_server(self._store.wire(), self._target)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back the connections."""
        if STORES.give_back(self._target, self._store):
            self._store.close()

    def _send(self, keys: Keys, *commands: Command) -> list[Any]:
        wire = self._store.wire()
        replies = wire.send(commands, None, keys.state, self._options.busy_timeout)
        for reply in replies:
            if isinstance(reply, Exception):
                raise fault_of(reply, self._target.place, sent=True) from reply
        return replies

    def _list(self, request: ListSpaces) -> tuple[SpaceInfo, ...]:
        found = (self._info(name) for name in sorted(self._names()))
        return tuple(each for each in found if each is not None)

    def _names(self) -> Iterator[str]:
        """Yield the names of the spaces.  A server is asked for all its keys, a part at a time."""
        try:
            for key in self._store.wire().client.scan_iter(
                match="interlock:{*}", count=1000, _type="hash"
            ):
                if (name := space_name(key)) is not None:
                    yield name
        except redis.exceptions.RedisError as problem:
            raise fault_of(problem, self._target.place, sent=False) from problem

    def _info(self, name: str) -> SpaceInfo | None:
        keys = Keys(state_key(name))
        fields, *sizes = self._send(
            keys,
            ("HMGET", keys.state, "uid", "p", "t", "c", "importing"),
            *(("MEMORY", "USAGE", each) for each in keys.fixed),
        )
        uid, position, time_us, cut, source = fields
        if uid is None:
            return None
        end, floor = int(position or 0), int(cut or 0)
        count = self._count(keys, uid)
        size = sum(each or 0 for each in sizes)
        return SpaceInfo(
            name, count, max(end - floor, 0), size, end, int(time_us or 0), source is not None
        )

    def _count(self, keys: Keys, uid: str) -> int:
        count, after = 0, ""
        while True:
            command = script("list_keys", keys.fixed, "", after, "", after, _PAGE, 0, uid)
            (rows,) = self._send(keys, command)
            count += len(rows)
            if len(rows) < _PAGE:
                return count
            after = rows[-1][0]

    def _named(self) -> list[str]:
        return [name for name in sorted(self._names()) if self._is_whole(name)]

    def _is_whole(self, name: str) -> bool:
        keys = Keys(state_key(name))
        uid, source = self._send(keys, ("HMGET", keys.state, "uid", "importing"))[0]
        return uid is not None and source is None

    def _find(self, request: FindSpace) -> str | None:
        keys = Keys(state_key(request.name))
        uid: str | None = self._send(keys, ("HGET", keys.state, "uid"))[0]
        return uid

    def _create(self, request: CreateSpace) -> bool:
        keys = Keys(state_key(request.name))
        command = script("open", keys.fixed, request.uid, SCHEMA_VERSION, "")
        return bool(self._send(keys, command)[0][0] == request.uid)

    def _drop(self, request: DropSpace) -> None:
        if self._find(FindSpace(request.name)) == request.uid:
            keys = Keys(state_key(request.name))
            self._send(keys, script("drop_space", keys.fixed, int(request.unfinished), request.uid))

    def _rename(self, request: RenameSpace) -> Literal["done", "taken", "gone"]:
        if self._target.cluster:
            raise Invalid(
                "A space can't be renamed in a cluster, where its name says on which node it is. "
                "Copy it under the new name, then drop it."
            )
        if self._find(FindSpace(request.to)) == request.new:
            return "done"
        if self._find(FindSpace(request.name)) != request.uid:
            return "gone"
        keys, to = Keys(state_key(request.name)), state_key(request.to)
        answer: Literal["done", "taken", "gone"]
        command = script("rename_space", keys.fixed, to, request.new, request.uid)
        answer = self._send(keys, command)[0]
        return answer

    def _examine(self, request: Examine) -> tuple[Finding, ...]:
        found = [*self._of_server()]
        return (*found, *of_spaces(self._state(name) for name in sorted(self._names())))

    def _state(self, name: str) -> SpaceState:
        keys = Keys(state_key(name))
        uid, source = self._send(keys, ("HMGET", keys.state, "uid", "importing"))[0]
        command = script("examine", (*keys.fixed, keys.groups), uid or "")
        now, end, floor, last, leases, queues, groups = self._send(keys, command)[0]
        return SpaceState(
            name,
            max(end - floor, 0),
            end,
            source is not None,
            (last - now) / 1e6 if last else 0.0,
            tuple((key, holder, left / 1e6) for key, holder, left in leases),
            tuple(map(QueueState._make, queues)),
            tuple(map(GroupLag._make, groups)),
        )

    def _of_server(self) -> Iterator[Finding]:
        wire = self._store.wire()
        for info in nodes(wire, self._target):
            yield from _of_node(info)
        before = time.time()
        seconds, micros = self._send(Keys(state_key("")), ("TIME",))[0]
        clock = int(seconds) + int(micros) / 1e6
        yield of_skew(clock - (before + time.time()) / 2)
        target = self._target
        if target.wait_replicas or target.wait_aof:
            file = " and the append-only file" if target.wait_aof else ""
            found = f"a commit waits for {target.wait_replicas} replicas{file}"
            yield Finding("waits", "ok", found)


def _of_node(info: Mapping[str, Any]) -> Iterator[Finding]:
    yield Finding("server", "ok", f"Redis {info['redis_version']}, role {info.get('role')}")
    yield Finding("schema", "ok", f"version {SCHEMA_VERSION} of {SCHEMA_VERSION}")
    if info.get("aof_enabled"):
        failed = info.get("aof_last_write_status") != "ok"
        found = f"append-only file, last write {info.get('aof_last_write_status')}"
        advice = "Free the server's disk: it can't write its append-only file." if failed else ""
        yield Finding("durability", "wrong" if failed else "ok", found, advice)
    elif info.get("rdb_last_bgsave_status") != "ok":
        advice = "Free the server's disk, and look into its log."
        yield Finding("durability", "wrong", "the last snapshot failed", advice)
    else:
        yield Finding(
            "durability",
            "note",
            "snapshots only: a crash loses what was committed since the last one",
            "Set appendonly yes (appendfsync always keeps every acknowledged commit).",
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):
        advice = "Set maxmemory-policy noeviction."
        yield Finding("eviction", "wrong", f"{policy}: keys of spaces may be dropped", advice)
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used > _FULL * most:
        advice = "Raise maxmemory, or trim: a full server refuses commits."
        yield Finding("space", "wrong", f"{bytes_of(used)} of {bytes_of(most)}", advice)
    else:
        yield Finding("space", "ok", bytes_of(used) + (f" of {bytes_of(most)}" if most else ""))
    replicas = info.get("connected_slaves", 0)
    yield Finding("replicas", "ok", f"{replicas} replicas are connected")
    clients = info.get("connected_clients", 0)
    yield Finding("connected", "ok", f"{clients} clients, of whatever program")
