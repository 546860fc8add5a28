"""Leases of data outside: whoever lost one writes nothing, though nothing has changed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock import guards
from tests.facades import Bridge
from tests.guards.logged import Logged, made
from tests.guards.tables import sqlite_file


def test_a_lease_fences_whoever_had_it_though_nothing_has_changed(logged: Logged) -> None:
    guard, key = logged.guard(lease=logged_space(logged)), logged.key
    guard.create(key, logged.start())
    lease = guard.lease(key, ttl=30)
    lease.acquire()
    before = lease.record
    lease.write({**before.value, "seat": "2B"})
    assert lease.record.value["seat"] == logged.look() == "2B"
    with pytest.raises((interlock.Held, interlock.Invalid)):
        guard.patch(key, {"seat": "3C"})
    stale = guard.read(key)
    logged.space.reclaim(guards.log_key(logged.name, key))
    with pytest.raises(interlock.Fenced, match=f"took over {key!r}"):
        lease.write({**before.value, "seat": "4D"})
    with pytest.raises(interlock.Fenced):
        guard.write(stale, {**stale.value, "seat": "5E"})
    lease.release()
    assert logged.look() == "2B"
    with guard.lease(key) as lease:
        lease.update(lambda value: {**value, "seat": "6F"})
        assert lease.epoch > before.epoch
    assert logged.look() == "6F"


def test_who_has_the_lease_notices_and_logs_what_is_written_around_it(logged: Logged) -> None:
    guard, key = logged.guard(lease=logged_space(logged)), logged.key
    guard.create(key, logged.start())
    with guard.lease(key) as lease:
        logged.overwrite("9Z")
        with pytest.raises(interlock.Conflict):
            lease.write({**lease.value, "seat": "2B"})
        assert lease.value["seat"] == "9Z"
        lease.update(lambda value: {**value, "seat": "3C"})
    assert logged.look() == "3C"
    guard.read(key)
    done = [event for event in logged.done() if event != "refused"]
    assert done == ["created", "changed outside", "written"]


def logged_space(logged: Logged) -> Any:
    """Return the space itself."""
    space = logged.space
    return space._target if isinstance(space, Bridge) else space


def test_who_waits_for_a_lease_gets_it_and_who_does_not_wait_is_told(together: Logged) -> None:
    space = logged_space(together)
    guard, key = together.guard(lease=space), together.key
    guard.create(key, together.start())
    with guard.lease(key) as lease, ThreadPoolExecutor(1) as threads:
        with pytest.raises(interlock.Held, match=f"holds the lease of {key!r}"):
            guard.lease(key, wait=0).acquire()

        def wait() -> int:
            with guard.lease(key, wait=30) as other:
                return int(other.epoch)

        waiting = threads.submit(wait)
        lease.release()
        assert waiting.result() == lease.epoch + 1


ZOMBIE = """
    import sys, interlock
    from interlock import guards
    kind, where, table, name, key = sys.argv[1:]
    def opened(**given):
        return interlock.open(**given, space=name, agent="zombie")
    if kind == "redis":
        import redis
        space = opened(url=where)
        guard = guards.redis(redis.Redis.from_url(where), log=space, lease=space, name=name)
    else:
        import sqlite3, psycopg
        connection = (
            sqlite3.connect(where, isolation_level=None) if kind == "sqlite"
            else psycopg.connect(where, autocommit=True)
        )
        space = opened(connection=connection) if kind == "sqlite" else opened(url=where)
        guard = guards.table(
            connection, table, columns=["status", "seat"], log=space, lease=space, name=name
        )
    with guard.lease(key, ttl=1.0) as lease:
        print("held", flush=True)
        sys.stdin.readline()
        try:
            lease.write({**lease.value, "seat": "zombie"})
        except interlock.Refused as refused:
            print(type(refused).__name__, flush=True)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_a_zombie_that_wakes_after_its_lease_writes_nothing(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    loop: asyncio.AbstractEventLoop,
) -> None:
    with ExitStack() as stack:
        logged = made(kind, request.getfixturevalue, tmp_path, loop, stack)
        space = logged.space
        guard, key = logged.guard(lease=space), logged.key
        guard.create(key, logged.start())
        where = sqlite_file(tmp_path)
        where = where if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
        table = getattr(guard.session.driver.backend.place, "_table", None)
        program = stack.enter_context(
            subprocess.Popen(
                [
                    *(sys.executable, "-c", textwrap.dedent(ZOMBIE), kind, where),
                    *(table.plain if table else "", logged.name, key),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(program.kill)
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "held\n"
        program.send_signal(signal.SIGSTOP)
        with guard.lease(key, wait=30):
            pass  # nothing is written: the value is what the zombie has read
        program.stdin.write("write\n")
        program.stdin.flush()
        program.send_signal(signal.SIGCONT)
        assert program.stdout.readline() == "Fenced\n"
        assert (logged.look(), logged.events) == ("1A", ["created"])
