"""A client of a PostgreSQL store that stops right after it has sent a call: `python -m
tests.processes.frozen_client URL CALL`.  Its answer would be large."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import interlock
from interlock.backends.postgres import wire
from interlock.backends.postgres.calls import Call
from interlock.core.plan import PUT, Expect, Plan, Write
from interlock.core.requests import ReadGroup, TakeLease
from interlock.core.writer import Writer


def stale(n: int) -> Plan:
    """A plan that is refused with the record of `big`."""
    expects, writes = (Expect("big", 7, None),), (Write(PUT, "big", "1"),)
    return Writer("", "a", 0).plan(f"o{n}", expects=expects, writes=writes)


def call_of(backend: Any, name: str) -> Call:
    """Return the call of that name; each takes the lock of the space and answers with `big`."""
    if name == "refusals":
        found: Call = backend._commit_call([stale(n) for n in range(8)], backend._known)
    elif name == "refusal":
        found = backend._commit_call([stale(0)], backend._known)
    elif name == "lease":
        found = backend._call(
            TakeLease(
                ("big",),
                name="me",
                agent="a",
                incarnation=0,
                ttl=30.0,
                epoch=0,
                ticket=0,
                reclaim=False,
            )
        )
    else:
        found = backend._call(
            ReadGroup("g", consumer="c", prefix="", limit=100, ttl=30.0, name="me")
        )
    return found


def main(url: str, name: str) -> None:
    """Send the call and stop."""
    with interlock.open(url, "s", "a") as space:
        backend: Any = space.session.driver.backend
        call, connection = call_of(backend, name), backend._store._connection()
        wire.begin(connection, call, None)
        while connection.pgconn.flush():
            pass
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    main(*sys.argv[1:])
