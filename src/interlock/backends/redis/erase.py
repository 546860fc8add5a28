"""Having the files of Redis forget what was erased: the append-only file and the snapshot."""

from __future__ import annotations

import time
from typing import Any

from interlock.backends.redis.faults import fault_of, redis
from interlock.backends.redis.wire import Wire
from interlock.errors import Unavailable

UNWRITTEN = (
    "the append-only file and the snapshot (RDB) until Redis writes them anew: BGREWRITEAOF and "
    "BGSAVE (vacuum=True does it)"
)
REMAINS = (
    "replicas until they have caught up, and backups",
    "the server's slow log, which has the beginnings of commands (SLOWLOG RESET)",
)
_PATIENCE = 600.0  # seconds
_LOOK = 0.05


def rewrite(wire: Wire, key: str, place: str) -> tuple[str, ...]:
    """Have the server that has `key` write its files anew, and wait until it has.  Say what was
    done.  Raises the faults."""
    node, done = wire.node_of(key), []
    try:
        if _info(wire, node)["aof_enabled"]:
            _run(wire, node, place, "BGREWRITEAOF", "aof")
            done.append("the append-only file was rewritten")
        _run(wire, node, place, "BGSAVE", "rdb")
        return (*done, "the snapshot (RDB) was written anew")
    except redis.exceptions.RedisError as problem:
        raise fault_of(problem, place, sent=True) from problem


def _run(wire: Wire, node: dict[str, Any], place: str, command: str, what: str) -> None:
    """Begin to write a file as soon as the server does not write one already, and wait for it."""
    deadline = time.monotonic() + _PATIENCE
    _wait(wire, node, place, deadline)
    wire.client.execute_command(command, **node)
    _wait(wire, node, place, deadline)
    status = "aof_last_bgrewrite_status" if what == "aof" else "rdb_last_bgsave_status"
    if _info(wire, node)[status] != "ok":
        raise Unavailable(f"{command} failed at {place}: look into the log of the server.")


def _wait(wire: Wire, node: dict[str, Any], place: str, deadline: float) -> None:
    flags = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
    while any(_info(wire, node)[flag] for flag in flags):
        if time.monotonic() > deadline:
            raise Unavailable(f"{place} did not finish writing its files in {_PATIENCE:.0f} s.")
        time.sleep(_LOOK)


def _info(wire: Wire, node: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = wire.client.info("persistence", **node)
    return found
