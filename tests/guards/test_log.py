"""What a guard logs in a space, and the leases of it: in the same atomic step, or apart from it."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import redis
import redis.asyncio
import sqlalchemy

import interlock
from interlock import guards
from interlock.guards import log as guard_log
from tests.facades import Bridge
from tests.guards.conftest import Shelf
from tests.guards.tables import bookings, sqlite_file

TOGETHER = ("sqlite", "sqlite-engine", "postgres", "postgres-async", "redis", "redis-async", "hash")
APART = ("custom", "file-async", "redis-elsewhere", "table-elsewhere")


class Logged(NamedTuple):
    """A guard with a log: the space, the key, and what others see and do outside."""

    guard: Callable[..., Any]  # options of the guard -> it, as if it were synchronous
    space: Any
    key: str
    name: str
    look: Callable[[], Any]
    overwrite: Callable[[str], object]  # the seat, blindly
    connection: Any = None

    def start(self, seat: str = "1A") -> dict[str, Any]:
        """Return a value to begin with."""
        return {"status": "PENDING", "seat": seat}

    @property
    def entries(self) -> list[Any]:
        """The entries of the log."""
        return list(self.space.history(guards.log_key(self.name, self.key)))

    @property
    def events(self) -> list[str]:
        """What they are of."""
        return [entry.value["event"] for entry in self.entries]

    def done(self) -> list[str]:
        """The same, without what is said before a write."""
        return [event for event in self.events if event != "in doubt"]


@pytest.fixture(params=[*TOGETHER, *APART])
def logged(
    request: pytest.FixtureRequest, tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> Iterator[Logged]:
    """Each place that has its log in the same step, and some that have it apart."""
    with ExitStack() as stack:
        yield made(request.param, request.getfixturevalue, tmp_path, loop, stack)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def together(
    request: pytest.FixtureRequest, tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> Iterator[Logged]:
    """One place of each store that has the log in the same step."""
    with ExitStack() as stack:
        yield made(request.param, request.getfixturevalue, tmp_path, loop, stack)


def made(
    param: str,
    fixture: Callable[[str], Any],
    folder: Path,
    loop: asyncio.AbstractEventLoop,
    stack: ExitStack,
) -> Logged:
    """Return a place with a log."""
    kind, _, mode = param.partition("-")
    asynchronous, name = mode == "async", f"g{uuid.uuid4().hex[:8]}"

    def opened(url: str) -> Any:
        space: Any
        if not asynchronous:
            if kind == "sqlite":  # the file has the application's tables
                space = interlock.open(connection=table.plain, space=name, agent="planner")
            else:
                space = interlock.open(url, space=name, agent="planner")
            stack.callback(space.close)
            return space, space
        space = loop.run_until_complete(interlock.open_async(url, space=name, agent="planner"))
        stack.callback(lambda: loop.run_until_complete(space.close()))
        return space, Bridge(space, loop)

    def shown(guard: Any) -> Any:
        return Bridge(guard, loop) if asynchronous else guard

    def options(given: dict[str, Any], space: Any) -> dict[str, Any]:
        return {"log": space, "name": name, **given}

    if kind in ("sqlite", "postgres", "table"):
        where = fixture("postgres_url") if kind == "postgres" else sqlite_file(folder)
        database = "postgres" if kind == "postgres" else "sqlite"
        table = stack.enter_context(bookings(database, where))
        used, connection = opened("sqlite://" if kind == "table" else where), table.plain
        if mode == "engine":
            connection = sqlalchemy.create_engine(table.url)
            stack.callback(connection.dispose)
        elif asynchronous:
            connection = loop.run_until_complete(
                psycopg.AsyncConnection.connect(where, autocommit=True)
            )
            stack.callback(lambda: loop.run_until_complete(connection.close()))
        return Logged(
            lambda **given: shown(
                guards.table(
                    connection, table.table, columns=["status", "seat"], **options(given, used[0])
                )
            ),
            used[1],
            "1",
            name,
            lambda: next((seat for (seat,) in table.run("SELECT seat FROM %t")), None),
            lambda seat: table.run("UPDATE %t SET seat = ?", seat),
            connection,
        )
    key = f"booking:{name}"
    if kind in ("redis", "hash"):
        url = fixture("redis_url")
        plain = stack.enter_context(redis.Redis.from_url(url))
        used = opened("sqlite://" if mode == "elsewhere" else url)
        client: Any = redis.asyncio.Redis.from_url(url) if asynchronous else plain
        if asynchronous:
            stack.callback(lambda: loop.run_until_complete(client.aclose()))
        what = "hash" if kind == "hash" else "json"
        return Logged(
            lambda **given: shown(guards.redis(client, kind=what, **options(given, used[0]))),
            used[1],
            key,
            name,
            lambda: (
                (plain.hget(key, "seat") or b"").decode() or None
                if kind == "hash"
                else json.loads(plain.get(key) or "{}").get("seat")
            ),
            lambda seat: (
                plain.hset(key, "seat", seat)
                if kind == "hash"
                else plain.set(key, json.dumps({"status": "PENDING", "seat": seat}))
            ),
            plain,
        )
    used = opened("sqlite://")
    if kind == "file":
        path = folder / "booking.json"

        def put(seat: str) -> None:
            (folder / "new").write_text(json.dumps({"status": "PENDING", "seat": seat}))
            (folder / "new").rename(path)

        return Logged(
            lambda **given: shown(guards.file_async(folder, **options(given, used[0]))),
            used[1],
            path.name,
            name,
            lambda: json.loads(path.read_bytes())["seat"] if path.exists() else None,
            put,
        )
    shelf = Shelf()
    return Logged(
        lambda **given: guards.custom(
            given.pop("load", shelf.load),
            given.pop("replace", shelf.replace),
            **options(given, used[0]),
        ),
        used[1],
        key,
        name,
        lambda: shelf.there[key][1]["seat"] if key in shelf.there else None,
        lambda seat: shelf.put(key, {"status": "PENDING", "seat": seat}),
        shelf,
    )


def test_every_write_is_an_entry_that_says_who_and_from_which_state(logged: Logged) -> None:
    guard, key = logged.guard(), logged.key
    guard.create(key, logged.start())
    guard.patch(key, {"seat": "2B"})
    guard.update(key, lambda value: {**value, "seat": "3C"})
    guard.delete(guard.read(key))
    entries = [entry for entry in logged.entries if entry.value["event"] != "in doubt"]
    assert [entry.value["event"] for entry in entries] == [
        *("created", "written", "written", "deleted")
    ]
    assert [entry.value.get("value", {}).get("seat") for entry in entries] == [
        *("1A", "2B", "3C", None)
    ]
    assert {entry.agent for entry in entries} == {"planner"}
    befores = [entry.value["before"] for entry in entries]
    assert befores[0] is None
    for entry, before in zip(entries, befores[1:], strict=False):
        assert (before["position"], before["digest"]) == (
            *(entry.position, entry.value["state"]["digest"]),
        )


def test_what_blind_writers_destroyed_is_listed(logged: Logged) -> None:
    guard, key, space = logged.guard(), logged.key, logged.space
    guard.create(key, logged.start("1A"))
    logged.overwrite("9Z")
    guard.read(key)
    guard.patch(key, {"seat": "2B"})
    logged.overwrite("9Y")
    guard.patch(key, {"seat": "3C"})
    guard.read(key)
    changes = [each for each in logged.entries if each.value["event"] == "changed outside"]
    destroyed = [
        space.at(position=each.value["before"]["position"]).read(each.key).value["value"]["seat"]
        for each in changes
    ]
    assert destroyed == ["1A", "2B"]
    assert [each.value["value"]["seat"] for each in changes] == ["9Z", "9Y"]


def test_what_is_refused_is_logged_with_why(logged: Logged) -> None:
    guard, key = logged.guard(machine=interlock.BOOKING), logged.key
    record = guard.create(key, logged.start())
    logged.overwrite("9Z")
    with pytest.raises(interlock.Conflict):
        guard.write(record, {**record.value, "seat": "2B"})
    with pytest.raises(interlock.IllegalTransition):
        guard.transition(key, "COMPLETED")
    refused = [each.value for each in logged.entries if each.value["event"] == "refused"]
    assert [each["refusal"] for each in refused] == ["Conflict", "IllegalTransition"]
    assert "can't go from" in refused[1]["message"]
    assert refused[1]["state"]["digest"] == logged.entries[-1].value["state"]["digest"]
    assert not any("in_doubt" in each for each in refused)
    guard.patch(key, {"seat": "2B"})
    assert logged.done()[-1] == "written"


def test_what_the_space_refuses_is_not_written(logged: Logged) -> None:
    guard, key = logged.guard(), logged.key
    guard.create(key, logged.start())
    logged.space.apply_rules({"guard/**": interlock.leased()})
    with pytest.raises(interlock.Forbidden, match="needs its lease"):
        guard.patch(key, {"seat": "2B"})
    assert (logged.look(), logged.done()) == ("1A", ["created"])
    logged.space.apply_rules({})
    guard.patch(key, {"seat": "2B"})
    assert (logged.look(), logged.done()) == ("2B", ["created", "written"])


def test_a_value_that_is_put_back_blindly_does_not_hide_what_it_destroyed(logged: Logged) -> None:
    guard, key = logged.guard(), logged.key
    seen = guard.create(key, logged.start("1A"))
    guard.patch(key, {"seat": "2B"})
    logged.overwrite("1A")  # what was there before, byte by byte
    with suppress(interlock.Conflict):  # an ETag is another one
        guard.write(seen, {**seen.value, "seat": "3C"})
    guard.read(key)
    assert [event for event in logged.done() if event != "refused"][:3] == [
        *("created", "written", "changed outside")
    ]


def test_writers_at_once_make_one_chain(logged: Logged) -> None:
    guard = logged.guard()
    guard.create(logged.key, {"status": "PENDING", "seat": "0"})
    if isinstance(guard, Bridge) or isinstance(logged.connection, sqlite3.Connection):
        for _ in range(6):
            guard.update(logged.key, one_more, attempts=100)
    else:
        with ThreadPoolExecutor(3) as threads:
            done = [
                threads.submit(guard.update, logged.key, one_more, attempts=100) for _ in range(6)
            ]
            [each.result() for each in done]
    assert logged.look() == "6"
    made = [each.value for each in logged.entries if each.value["event"] in ("created", "written")]
    assert [each["value"]["seat"] for each in made] == [str(n) for n in range(7)]
    assert "changed outside" not in logged.events


def one_more(value: dict[str, Any]) -> dict[str, Any]:
    """Count."""
    return {**value, "seat": str(int(value["seat"]) + 1)}


# Leases


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


# Doubts


class Died(Exception):
    """A process that ends in the middle of a write."""


@pytest.fixture
def apart(tmp_path: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Logged]:
    """Two functions, with a log that they know nothing of."""
    with ExitStack() as stack:
        yield made("custom", lambda name: name, tmp_path, loop, stack)


def died(apart: Logged, written: bool) -> None:
    """Die in a write of the seat 2B, before or after it."""

    def replace(key: str, tag: Any, value: Any) -> object:
        if written:
            apart.connection.replace(key, tag, value)
        raise Died

    with pytest.raises(Died):
        apart.guard(replace=replace, agent="mortal").patch(apart.key, {"seat": "2B"})


def test_a_doubt_is_resolved_by_what_is_there(apart: Logged) -> None:
    guard, key = apart.guard(), apart.key
    guard.create(key, apart.start())
    died(apart, written=True)
    assert apart.events[-1] == "in doubt"
    guard.read(key)
    last = apart.entries[-1].value
    assert (last["event"], last["writer"], last["value"]["seat"]) == ("written", "mortal", "2B")
    assert "in_doubt" not in last


def test_a_doubt_about_what_was_not_written_lasts_as_long_as_its_writer_may_live(
    apart: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard, key = apart.guard(), apart.key
    guard.create(key, apart.start())
    died(apart, written=False)
    guard.read(key)
    assert apart.events[-1] == "in doubt"
    monkeypatch.setattr(guard_log, "STALE", 0.0)
    guard.read(key)
    last = apart.entries[-1].value
    assert (last["event"], [each["agent"] for each in last["resolved"]]) == (
        *("not written", ["mortal"]),
    )
    assert last["state"]["digest"] == apart.entries[-2].value["state"]["digest"]


def test_what_was_destroyed_perhaps_is_named(apart: Logged) -> None:
    guard, key = apart.guard(), apart.key
    guard.create(key, apart.start())
    died(apart, written=True)
    apart.overwrite("9Z")
    guard.read(key)
    last = apart.entries[-1].value
    assert (last["event"], last["perhaps"][0]["agent"]) == ("changed outside", "mortal")


def test_whoever_was_slow_does_not_log_again_what_others_have_resolved(apart: Logged) -> None:
    key = apart.key
    apart.guard().create(key, apart.start())

    def replace(key: str, tag: Any, value: Any) -> object:
        made = apart.connection.replace(key, tag, value)
        apart.guard().read(key)
        return made

    apart.guard(replace=replace).patch(key, {"seat": "2B"})
    assert apart.done() == ["created", "written"]


# Transactions of the caller's


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_in_a_callers_transaction_the_log_is_rolled_back_with_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> None:
    with ExitStack() as stack:
        logged = made(kind, request.getfixturevalue, tmp_path, loop, stack)
        guard, key, connection = logged.guard(), logged.key, logged.connection
        stale = guard.create(key, logged.start())
        connection.execute("BEGIN IMMEDIATE" if kind == "sqlite" else "BEGIN")
        guard.patch(key, {"seat": "2B"})
        with pytest.raises(interlock.Conflict):
            guard.write(stale, {**stale.value, "seat": "9Z"})
        assert guard.patch(key, {"seat": "3C"}).value["seat"] == "3C"
        connection.execute("ROLLBACK")
        assert (logged.look(), logged.events) == ("1A", ["created"])
        connection.execute("BEGIN IMMEDIATE" if kind == "sqlite" else "BEGIN")
        guard.patch(key, {"seat": "2B"})
        with logged.space.joined(connection) as joined:
            guard.patch(key, {"seat": "3C"})
            joined.create("note", "with the row")
        connection.execute("COMMIT")
        assert (logged.look(), logged.events) == ("3C", ["created", "written", "written"])
        guard.read(key)
        assert logged.events[-1] == "written"


def test_what_a_refused_entry_undoes_leaves_the_callers_transaction_usable(
    together: Logged,
) -> None:
    connection, key = together.connection, together.key
    if isinstance(connection, redis.Redis):
        return  # there is no such thing
    guard = together.guard()
    guard.create(key, together.start())
    together.space.apply_rules({"guard/**": interlock.leased()})
    connection.execute("BEGIN IMMEDIATE" if isinstance(connection, sqlite3.Connection) else "BEGIN")
    with pytest.raises(interlock.Forbidden):
        guard.patch(key, {"seat": "2B"})
    connection.execute("COMMIT")
    assert together.look() == "1A"


# What else may be meanwhile


def test_a_write_whose_answer_was_lost_is_known_by_its_entry(together: Logged) -> None:
    guard, key = together.guard(), together.key
    guard.create(key, together.start())
    place = guard.session.driver.backend.place
    send = place.replace_all

    async def lose(changes: Any, beside: Any) -> Any:
        place.replace_all = send
        await send(changes, beside)
        together.overwrite("9Z")
        raise interlock.errors.AnswerLost("cut")

    place.replace_all = lose
    assert guard.patch(key, {"seat": "2B"}).value["seat"] == "2B"
    assert together.look() == "9Z"
    assert together.done()[:2] == ["created", "written"]
    assert together.done().count("written") == 1


def test_what_was_overtaken_while_its_answer_was_lost_conflicts(together: Logged) -> None:
    guard, key = together.guard(), together.key
    guard.create(key, together.start())
    place = guard.session.driver.backend.place
    send = place.replace_all

    async def lose(changes: Any, beside: Any) -> Any:
        place.replace_all = send
        await send(changes, beside)
        together.overwrite("9Z")
        raise interlock.errors.AnswerLost("cut")

    place.replace_all = lose
    record = guard.patch(key, {"seat": "2B"})
    with pytest.raises(interlock.Conflict):
        guard.write(record, {**record.value, "seat": "3C"})
    assert together.look() == "9Z"


def test_a_cipher_hides_the_values_of_the_log(redis_url: str, client: redis.Redis) -> None:
    class Reversed:
        def encrypt(self, key: str, text: bytes) -> bytes:
            return text[::-1]

        def decrypt(self, key: str, data: bytes) -> bytes:
            return data[::-1]

    name = f"g{uuid.uuid4().hex[:8]}"
    with interlock.open(redis_url, space=name, cipher=Reversed()) as space:
        guard = guards.redis(client, log=space, name=name)
        guard.create(name, {"seat": "top secret"})
        state = f"interlock:{{{name}}}"
        stored = client.hgetall(state)
        assert not any(b"top secret" in each for each in stored.values())
        (entry,) = space.history(guards.log_key(name, name))
        assert entry.value["value"] == {"seat": "top secret"}


def test_bad_options_are_refused(tmp_path: Path) -> None:
    shelf = Shelf()
    with interlock.open("sqlite://") as one, interlock.open("sqlite://") as other:
        with pytest.raises(interlock.Invalid, match="the same space"):
            guards.custom(shelf.load, shelf.replace, log=one, turns=other)
        with pytest.raises(interlock.Invalid, match="log= must be an interlock"):
            guards.custom(shelf.load, shelf.replace, log="sqlite://")  # type: ignore[call-overload]
        guard = guards.custom(shelf.load, shelf.replace, log=one)
        with pytest.raises(interlock.Invalid, match="give it lease="):
            guard.lease("plan").acquire()
        with pytest.raises(interlock.Invalid):
            guards.custom(shelf.load, shelf.replace, lease=one).lease("plan", ttl=-1).acquire()


def test_every_key_has_a_name_of_its_own_in_the_space() -> None:
    keys = [
        "a",
        "a/b",
        "a//b",
        "a%2Fb",
        "a/../b",
        "*",
        "{user:1}:cart",
        " a ",
        "ключ",
        ".",
        "x" * 999,
    ]
    names = [guards.log_key("redis", key) for key in keys]
    assert len({*names}) == len(keys)
    with interlock.open("sqlite://") as space:
        for name in names:
            space.create(name, 1)
    assert guards.log_key("redis", "booking:17") == "guard/redis/booking:17"
    assert guards.log_key("a/b", "c") != guards.log_key("a", "b/c")
