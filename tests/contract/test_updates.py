"""Updates: read, think, commit, and think again on the fresh record."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import interlock
from interlock.core.requests import Load, TakeTurn
from tests.facades import Facades, elsewhere


def test_update_gives_the_default_then_the_value(space: Any) -> None:
    assert space.update("n", lambda n: n + 1, default=0).value == 1
    assert space.update("n", lambda n: n + 1, default=0).value == 2


def test_update_thinks_again_on_the_fresh_record(facades: Facades) -> None:
    ours, theirs = facades.open("us"), facades.peer("them")
    seen = []

    def think(value: Any) -> Any:
        seen.append(value)
        if len(seen) == 1:
            elsewhere(theirs.create, "k", ["theirs"])
        return [*(value or []), "ours"]

    assert ours.update("k", think).value == ["theirs", "ours"]
    assert seen == [None, ["theirs"]]
    theirs.close()


def test_update_gives_up_after_its_attempts_and_leaves_the_queue(facades: Facades) -> None:
    ours, theirs = facades.open("us"), facades.peer("them")

    def beaten(value: Any) -> Any:
        elsewhere(theirs.update, "k", lambda n: (n or 0) + 1, turns="never")
        return "ours"

    with pytest.raises(interlock.Contended) as refused:
        ours.update("k", beaten, attempts=2)
    assert (refused.value.attempts, refused.value.retryable) == (2, True)
    assert theirs.read("k").value == 2
    assert theirs.update("k", lambda n: n + 1, turns="always", patience=0).value == 3
    theirs.close()


def test_a_turn_that_was_beaten_once_holds_other_writers_back(facades: Facades) -> None:
    """A writer from outside the queue wins once; then it is told to wait."""
    ours, theirs = facades.open("us"), facades.peer("them")
    held: list[interlock.Held] = []

    def beaten(value: Any) -> Any:
        try:
            elsewhere(lambda: theirs.write(theirs.read("k"), f"theirs {len(held)} {value}"))
        except interlock.Held as refused:
            held.append(refused)
        return "ours"

    assert ours.update("k", beaten, turns="always").value == "ours"
    assert [refused.holder for refused in held] == ["us"]
    assert held[0].seconds > 0
    assert [entry.agent for entry in theirs.log()] == ["them", "us"]
    theirs.close()


@pytest.mark.usefixtures("long_thoughts")
def test_an_update_without_a_turn_gives_way_to_who_has_it(facades: Facades) -> None:
    """It began before anybody had a turn.  A plain write does not give way: it competes."""
    ours, theirs = facades.open("us"), facades.peer("them")

    def overtaken(value: Any) -> Any:
        ask = ours.session.driver.backend.perform
        assert elsewhere(ask, TakeTurn(("k",), name="n1", agent="us", ttl=6.0)).ahead == 0
        return "theirs"

    with pytest.raises(interlock.Contended, match="Gave up on 'k'"):
        theirs.update("k", overtaken, attempts=1)
    assert theirs.write(theirs.read("k"), "at once").version == 1
    theirs.close()


def test_what_fn_raises_ends_the_update_with_nothing_written(space: Any) -> None:
    class Stop(Exception):
        pass

    def think(value: Any) -> Any:
        raise Stop

    for turns in ("auto", "always", "never"):
        with pytest.raises(Stop):
            space.update("k", think, turns=turns)
    assert space.position() == 0
    assert space.update("k", lambda _: 1, turns="always", patience=0).value == 1


def test_a_value_that_is_not_json_ends_the_update_with_nothing_written(space: Any) -> None:
    with pytest.raises(interlock.Invalid, match="set"):
        space.update("k", lambda _: {1, 2}, turns="always")
    assert space.position() == 0
    assert space.update("k", lambda _: 1, turns="always", patience=0).value == 1


def test_an_operation_that_was_applied_does_not_think_again(space: Any) -> None:
    first = space.update("k", lambda _: "first", op_id="op-1")

    def never(value: Any) -> Any:
        raise AssertionError("fn must not run for an operation that was applied")

    assert space.update("k", never, op_id="op-1") == first
    with pytest.raises(interlock.Invalid, match="already belongs to"):
        space.update("other", never, op_id="op-1")


def test_calling_the_space_on_the_same_key_inside_update_says_so(facades: Facades) -> None:
    space = facades.open()
    other = facades.peer()
    with pytest.raises(interlock.Invalid, match="being updated"):
        other.update("k", lambda _: other.read("k").value)
    with pytest.raises(interlock.Invalid, match="being updated"):
        space.update("k", lambda _: other.update("k", lambda v: v).value)
    assert other.update("k", lambda _: other.read("elsewhere").version).value == 0
    other.close()


def test_a_queue_makes_readers_join_before_they_think(facades: Facades) -> None:
    """While one agent has its turn, another one that comes waits and thinks only once."""
    ours, theirs = facades.open("us"), facades.peer("them")
    thoughts: list[Any] = []

    def first(value: Any) -> Any:
        with pytest.raises(interlock.Contended, match="s: 1 ahead"):
            elsewhere(theirs.update, "k", thoughts.append, patience=0)
        return "first"

    assert ours.update("k", first, turns="always").value == "first"
    assert thoughts == [], "it thought before its turn"
    theirs.close()


@pytest.mark.any_store
@pytest.mark.parametrize(
    "options", [{"turns": "maybe"}, {"attempts": 0}, {"patience": -1}, {"patience": "x"}]
)
def test_limits_without_meaning_are_invalid(space: Any, options: dict[str, Any]) -> None:
    with pytest.raises(interlock.Invalid):
        space.update("k", lambda _: 1, **options)
    assert space.position() == 0


def test_whoever_is_cancelled_gives_up_the_turn_at_once(async_facades: Facades) -> None:
    """Otherwise the others would wait until the ticket expires."""
    async_facades.run(_some_are_cancelled(async_facades))


async def _some_are_cancelled(facades: Facades) -> None:
    async with await facades.open_async() as space:
        thinking, go_on = asyncio.Event(), asyncio.Event()

        async def think(value: int) -> int:
            thinking.set()
            await go_on.wait()
            return value + 1

        async def queued() -> Any:
            return (await space.session.driver.backend.perform_async(Load(("k",)))).queued.get(
                "k", 0
            )

        async def update() -> Any:
            return await space.update("k", think, default=0, turns="always")

        tasks = [asyncio.create_task(update()) for _ in range(6)]
        await thinking.wait()
        while await queued() < 6:
            await asyncio.to_thread(threading.Event().wait, 0.001)
        for task in (tasks[0], tasks[2], tasks[4]):
            task.cancel()
        await asyncio.gather(tasks[0], tasks[2], tasks[4], return_exceptions=True)
        assert await queued() == 3
        go_on.set()
        await asyncio.gather(tasks[1], tasks[3], tasks[5])
        assert (await space.read("k")).value == 3
        assert await queued() == 0


def test_an_operation_applied_elsewhere_gives_up_the_turn(facades: Facades) -> None:
    ours, theirs = facades.open("us"), facades.peer("us")

    def think(value: Any) -> str:
        elsewhere(theirs.update, "k", lambda _: "theirs", turns="never", op_id="x")
        return "ours"

    assert ours.update("k", think, turns="always", op_id="x").value == "theirs"
    assert theirs.session.driver.backend.perform(Load(("k",))).queued == {}
    theirs.close()


@pytest.mark.parametrize("turns", ["auto", "always"])
def test_update_refuses_none(space: Any, turns: str) -> None:
    """A function that changed its argument and forgot its return must not store null."""
    space.create("booking/1", {"paid": True})
    with pytest.raises(interlock.Invalid, match="returned None: is a return missing"):
        space.update("booking/1", lambda booking: booking.update(seat="12A"), turns=turns)
    assert space.read("booking/1").value == {"paid": True}
    with pytest.raises(interlock.Invalid, match="is a return missing"):
        space.update("list", lambda items: items.append(1), default=[], turns=turns)
    assert not space.read("list").exists
    assert space.update("booking/1", lambda booking: {**booking, "n": 1}, patience=0).version == 2


def test_update_gives_each_thought_its_own_default(facades: Facades) -> None:
    ours, theirs = facades.open("us"), facades.peer("them")

    thoughts = iter((1, 2))

    def think(seats: list[int]) -> list[int]:
        seats.append(len(seats))
        if next(thoughts) == 1:
            elsewhere(lambda: theirs.delete(theirs.create("k", [9])))
        return seats

    default: list[int] = []
    assert ours.update("k", think, default=default).value == [0]
    assert default == []
    theirs.close()


@pytest.mark.parametrize("turns", ["auto", "always"])
def test_update_deletes_with_the_sentinel(space: Any, turns: str) -> None:
    space.create("k", 1)
    gone = space.update("k", lambda value: interlock.DELETE, turns=turns, op_id="delete-k")
    assert (gone.exists, gone.version) == (False, 2)
    assert space.update("k", lambda value: 1 / 0, op_id="delete-k") == gone
    assert [entry.kind for entry in space.history("k")] == ["put", "delete"]
    with pytest.raises(interlock.Invalid, match="Nothing to delete"):
        space.update("k", lambda value: interlock.DELETE)
    with pytest.raises(interlock.Invalid, match=r"interlock\.DELETE"):
        space.create("k", {"nested": interlock.DELETE})
    assert space.write(space.read("k"), None).exists  # null is a value


def test_an_update_that_deletes_thinks_again_on_the_fresh_record(facades: Facades) -> None:
    ours, theirs = facades.open("us"), facades.peer("them")
    theirs.create("k", 1)

    def think(value: int) -> Any:
        if value == 1:
            elsewhere(theirs.update, "k", lambda n: n + 1)
        return interlock.DELETE if value == 1 else -value

    assert ours.update("k", think).value == -2
    theirs.close()


INSIDE: dict[str, Any] = {
    "transact": lambda s: s.transact(lambda tx: tx.write(tx.read("k"), 1), patience=0),
    "transact, creating": lambda s: s.transact(lambda tx: tx.create("k", 1), patience=0),
    "transact, of a record": lambda s: s.transact(lambda tx: tx.write(READ[0], 1), patience=0),
    "lease": lambda s: s.lease("k", wait=0).acquire(),
    "coordinator": lambda s: s.coordinator("k", source="from/", merge="append").catch_up(),
    "create": lambda s: s.create("k", 1),
}
READ: list[interlock.Record] = []


@pytest.mark.any_store
@pytest.mark.parametrize("call", INSIDE)
@pytest.mark.parametrize("turns", ["auto", "always"])
def test_whatever_would_wait_for_the_update_around_it_is_refused(
    facades: Facades, call: str, turns: str
) -> None:
    space, same = facades.open(), facades.peer("tester")
    READ[:] = [space.create("k", 0)]
    with pytest.raises(interlock.Invalid, match="being updated"):
        space.update("k", lambda _: INSIDE[call](same), turns=turns)
    assert space.update("k", lambda n: n + 1, turns="always", patience=0).value == 1


@pytest.mark.any_store
@pytest.mark.parametrize("call", [*INSIDE, "update", "append"])
@pytest.mark.parametrize("touched", ["read", "scan", "written"])
def test_whatever_would_wait_for_the_transaction_around_it_is_refused(
    facades: Facades, call: str, touched: str
) -> None:
    space, same = facades.open(), facades.peer("tester")
    READ[:] = [space.create("k", 0)]
    calls = INSIDE | {
        "update": lambda s: s.update("k", lambda n: n + 1, patience=0),
        "append": lambda s: s.append("k", 1),
    }

    def think(tx: Any) -> None:
        if touched == "read":
            tx.read("k")
        elif touched == "scan":
            tx.scan("k")
        else:
            tx.write(READ[0], 1)
        assert same.update("other", lambda n: n + 1, default=0).value
        calls[call](same)

    with pytest.raises(interlock.Invalid, match="being decided in a transaction"):
        space.transact(think)
    assert space.update("k", lambda n: n + 1, turns="always", patience=0).value == 1


def test_a_task_that_an_update_left_behind_is_not_inside_it(facades: Facades) -> None:
    async def check() -> int:
        async with await facades.open_async() as space:
            go_on, tasks = asyncio.Event(), []

            async def later() -> None:
                await go_on.wait()
                await space.update("k", lambda n: n + 1)

            async def think(n: int) -> int:
                tasks.append(asyncio.create_task(later()))
                return n + 1

            await space.update("k", think, default=0)
            go_on.set()
            await tasks[0]
            return int((await space.read("k")).value)

    assert facades.run(check()) == 2
