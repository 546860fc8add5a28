"""Whether a Redis server is one that can hold a store."""

from __future__ import annotations

from typing import Any

from interlock.backends.redis.faults import fault_of, redis
from interlock.backends.redis.wire import Target, Wire
from interlock.errors import IncompatibleStore, Unavailable

_OLDEST_SERVER = (6, 2)


def nodes(wire: Wire, target: Target) -> list[dict[str, Any]]:
    """Return what each node says about itself (INFO).  Raises the faults."""
    try:
        told = wire.info()
    except redis.exceptions.RedisError as problem:
        raise fault_of(problem, target.place, sent=False) from problem
    return [told] if "redis_version" in told else list(told.values())


def check_server(wire: Wire, target: Target) -> str:
    """Refuse a server that is too old, or that drops keys when its memory is full.  Returns the id
    of its run, "" of a cluster."""
    told = nodes(wire, target)
    for info in told:
        _check_node(info, target)
    return "" if target.cluster else str(told[0].get("run_id", ""))


def _check_node(info: dict[str, Any], target: Target) -> None:
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < _OLDEST_SERVER:
        raise IncompatibleStore(
            f"{target.place} is Redis {info['redis_version']}. Interlock needs 6.2 or newer."
        )
    policy = info.get("maxmemory_policy", "noeviction")
    # volatile-* drops only keys that expire, and ours do not.
    if policy.startswith("allkeys") and not target.allow_eviction:
        raise IncompatibleStore(
            f"{target.place} evicts keys when memory is full (maxmemory-policy {policy}), so "
            "commits would be lost. Set it to noeviction, or add ?allow_eviction=1 to the URL."
        )
    if info.get("role") == "slave" and not target.cluster:
        raise Unavailable(f"{target.place} is a read-only replica: name the primary.")
