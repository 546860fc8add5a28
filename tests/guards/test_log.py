"""What a guard logs in a space, and the leases of it: in the same atomic step, or apart from it."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import interlock
from interlock import guards
from interlock.guards import log as guard_log
from tests.facades import Bridge
from tests.guards.logged import Logged, made
from tests.guards.shelf import Shelf


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
    assert logged.events[-1] == "changed outside"
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
        guard, key = logged.guard(machine=interlock.BOOKING), logged.key
        connection = logged.connection
        stale = guard.create(key, logged.start())
        connection.execute("BEGIN IMMEDIATE" if kind == "sqlite" else "BEGIN")
        guard.patch(key, {"seat": "2B"})
        with pytest.raises(interlock.Conflict):
            guard.write(stale, {**stale.value, "seat": "9Z"})
        with pytest.raises(interlock.IllegalTransition):
            logged.guard(machine=interlock.BOOKING).transition(key, "COMPLETED")
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


def test_a_create_whose_answer_was_lost_is_not_done_again_where_others_deleted_it(
    together: Logged,
) -> None:
    guard, plain, key = together.guard(), together.guard(log=None), together.key
    place = guard.session.driver.backend.place
    send = place.replace_all

    async def lose(changes: Any, beside: Any) -> Any:
        place.replace_all = send
        await send(changes, beside)
        plain.delete(plain.read(key))
        raise interlock.errors.AnswerLost("cut")

    place.replace_all = lose
    assert guard.create(key, together.start()).value["seat"] == "1A"
    assert not plain.read(key).exists
    assert together.done().count("created") == 1


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
            guards.custom(shelf.load, shelf.replace, log="sqlite://")  # type: ignore[call-overload]  # on purpose
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
