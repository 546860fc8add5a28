"""Sessions of OpenAI Agents: one run at a time, and nothing of a zombie, on every store."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, Runner, function_tool
from agents.exceptions import AgentsException, UserError
from agents.extensions.memory import EncryptedSession
from agents.memory import Session as SessionProtocol
from agents.memory.session import SessionABC
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

import interlock
from interlock.adapters.openai_agents import (
    Session,
    SessionConflict,
    SessionFenced,
    SessionHeld,
    SessionInvalid,
)
from interlock.adapters.openai_agents.history import Keys
from interlock.adapters.space import awaitable
from tests.adapters.openai_runs import (
    QUIET,
    GatedModel,
    agent,
    ask,
    die_in_a_run,
    run_once,
    texts,
    user,
)
from tests.adapters.processes import Nursery
from tests.adapters.spaces import ON_SQLITE, SHORT
from tests.processes.writers import Place


async def alone(coroutine: Any) -> Any:
    """Do something in a task of its own, as a request of a server is."""
    return await asyncio.create_task(coroutine)


async def test_it_is_a_session(space: Any) -> None:
    session = Session(space, "a/b .. ü*", session_settings={"limit": 2})
    assert isinstance(session, SessionProtocol)
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.add_items([user("1"), user("2"), user("3")])
    assert texts(await session.get_items()) == ["2", "3"]
    assert texts(await session.get_items(limit=-1)) == ["1", "2", "3"]
    assert await session.get_items(limit=0) == []
    assert await session.pop_item() == user("3")
    await session.add_items([user("4")])
    assert texts(await Session(space, "a/b .. ü*").get_items()) == ["1", "2", "4"]
    assert await Session(space, "a").get_items() == []
    await session.clear_session()
    assert await session.get_items() == []


async def test_clearing_a_session_erases_it_where_asked_to(space: Any) -> None:
    session = Session(space, "s")
    await session.add_items([user("secret 1"), user("secret 2")])
    assert await session.pop_item() == user("secret 2")
    await session.clear_session(erase=True)
    await session.add_items([user("3")])
    for index, erased in enumerate(([True, False], [True])):
        history = awaitable(space).history(Keys.of("s").item(index))
        assert [entry.erased async for entry in history if entry.kind == "put"] == erased
    assert texts(await session.get_items()) == ["3"]
    await session.clear_session(erase=True)
    assert await session.get_items() == []


async def test_a_second_run_is_refused_before_its_model_is_asked(space: Any) -> None:
    first, second = GatedModel([[assistant_message("first")]]), ScriptedModel([])
    running = asyncio.create_task(ask(Session(space, "s"), "one", Agent(name="a", model=first)))
    await first.asked.wait()
    with pytest.raises(SessionHeld) as refused:
        await alone(ask(Session(space, "s"), "two", Agent(name="b", model=second)))
    assert isinstance(refused.value, AgentsException)
    assert isinstance(refused.value, interlock.Held)
    assert refused.value.holder == "app"
    assert not second.calls
    first.may_answer.set()
    assert await running == "first"
    assert await alone(ask(Session(space, "s"), "three")) == "to three"
    assert texts(await Session(space, "s").get_items()) == ["one", "first", "three", "to three"]


async def test_runs_that_wait_come_one_after_the_other(space: Any) -> None:
    asked = [f"q{n}" for n in range(5)]
    await asyncio.gather(*(ask(Session(space, "s", wait=None), text) for text in asked))
    found = texts(await Session(space, "s").get_items())
    assert sorted(found[::2]) == asked
    assert found[1::2] == [f"to {text}" for text in found[::2]]


async def test_a_run_that_was_replaced_stores_nothing_more(space: Any) -> None:
    model = GatedModel([[assistant_message("late")]])
    zombie = asyncio.create_task(ask(Session(space, "s"), "one", Agent(name="a", model=model)))
    await model.asked.wait()
    await Session(space, "s").reclaim()
    assert await alone(ask(Session(space, "s"), "two")) == "to two"
    model.may_answer.set()
    with pytest.raises(SessionFenced) as fenced:
        await zombie
    assert isinstance(fenced.value, interlock.Fenced)
    assert isinstance(fenced.value, AgentsException)
    assert texts(await Session(space, "s").get_items()) == ["one", "two", "to two"]


async def test_the_turn_ends_with_the_run_however_it_ends(space: Any) -> None:
    session = Session(space, "s")
    with pytest.raises(ValueError, match="broken"):
        await ask(session, "fails", agent(error=ValueError("broken")))
    assert await alone(ask(Session(space, "s"), "after it")) == "to after it"
    model = GatedModel([])
    cancelled = asyncio.create_task(ask(session, "cancelled", Agent(name="a", model=model)))
    await model.asked.wait()
    cancelled.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled
    assert await alone(ask(Session(space, "s"), "after that")) == "to after that"
    await session.add_items([user("by hand")])
    assert len(await session.get_items()) == 7


async def test_a_streamed_run_has_the_session_until_it_ends(space: Any) -> None:
    session = Session(space, "s")
    for failing in (False, True):
        by = agent("streamed", error=ValueError("broken") if failing else None)
        result = Runner.run_streamed(by, "q", session=session, run_config=QUIET)
        refused = pytest.raises(ValueError, match="broken") if failing else contextlib.nullcontext()
        with refused:
            async for _ in result.stream_events():
                pass
        assert await alone(ask(Session(space, "s"), "next")) == "to next"
    found = texts(await session.get_items())
    assert found == ["q", "streamed", "next", "to next", "q", "next", "to next"]


async def test_a_run_keeps_the_session_while_its_tools_work(space: Any) -> None:
    seen: list[str] = []

    @function_tool
    async def look() -> str:
        with pytest.raises(SessionHeld):  # of another process, as it were
            await asyncio.get_running_loop().create_task(
                ask(Session(space, "s"), "between"), context=outside
            )
        seen.extend(texts(await Session(space, "s").get_items()))  # its own session
        return "looked"

    outside = contextvars.copy_context()
    steps: list[Any] = [
        ModelStep(output=[function_call("look", {}, call_id="1")]),
        [assistant_message("done")],
    ]
    by: Agent[Any] = Agent(name="a", model=ScriptedModel(steps), tools=[look])
    assert await ask(Session(space, "s"), "look", by) == "done"
    assert seen == ["look"]
    kinds = [each.get("type") for each in await Session(space, "s").get_items()]
    assert kinds == [None, "function_call", "function_call_output", "message"]


async def test_others_are_refused_while_a_turn_lasts(space: Any) -> None:
    session, other = Session(space, "s"), Session(space, "s")
    await session.add_items([user("1")])
    writes = (other.pop_item, other.clear_session, lambda: other.add_items([user("x")]))
    outside = [asyncio.Event(), asyncio.Event()]

    async def rewrite() -> None:
        async with session.turn():
            outside[0].set()
            await outside[1].wait()
            assert await ask(session, "inside") == "to inside"
            assert texts(await session.get_items())[-1] == "to inside"

    rewriting = asyncio.create_task(rewrite())
    await outside[0].wait()
    for write in writes:
        with pytest.raises(SessionHeld):
            await write()
    assert texts(await other.get_items()) == ["1"]
    outside[1].set()
    await rewriting
    await other.add_items([user("2")])
    assert texts(await other.get_items()) == ["1", "inside", "to inside", "2"]


async def test_a_summary_destroys_nothing_that_was_not_read(space: Any) -> None:
    session = Session(space, "s")
    await session.add_items([user(str(n)) for n in range(3)])
    read, appended = asyncio.Event(), asyncio.Event()

    async def summarise() -> None:
        old = await session.get_items()
        read.set()
        await appended.wait()
        await session.clear_session()
        await session.add_items([user(f"summary of {len(old)}")])

    async def append() -> None:
        await read.wait()
        await session.add_items([user("3")])
        appended.set()

    with pytest.raises(SessionConflict) as refused:
        await asyncio.gather(summarise(), append())
    assert isinstance(refused.value, interlock.Conflict)
    assert isinstance(refused.value, AgentsException)
    assert texts(await session.get_items()) == ["0", "1", "2", "3"]
    await alone(summarise())
    assert texts(await alone(session.get_items())) == ["summary of 4"]


async def test_an_undo_that_is_delivered_twice_undoes_once(space: Any) -> None:
    await Session(space, "s").add_items([user(str(n)) for n in range(6)])
    ready = asyncio.Barrier(2)

    async def undo() -> None:
        session = Session(space, "s")
        await session.get_items(limit=2)
        await ready.wait()
        await session.pop_item()
        await session.pop_item()

    done = await asyncio.gather(undo(), undo(), return_exceptions=True)
    assert {type(each) for each in done} == {type(None), SessionConflict}
    assert texts(await alone(Session(space, "s").get_items())) == ["0", "1", "2", "3"]


async def test_parallel_items_are_all_kept_in_order(space: Any) -> None:
    async def add(name: int) -> None:
        for n in range(3):
            await Session(space, "s").add_items([user(f"{name}/{n}/a"), user(f"{name}/{n}/b")])

    await asyncio.gather(*(add(name) for name in range(5)))
    found = texts(await Session(space, "s").get_items())
    assert len(found) == 30
    assert [each[:-1] for each in found[::2]] == [each[:-1] for each in found[1::2]]
    for name in range(5):
        own = [each for each in found if each.startswith(f"{name}/")]
        assert own == sorted(own)


async def test_pop_and_clear_refuse_what_was_never_read(space: Any) -> None:
    await alone(Session(space, "s").add_items([user(str(n)) for n in range(4)]))
    for destroy in (Session(space, "s").pop_item, Session(space, "s").clear_session):
        with pytest.raises(SessionConflict):
            await alone(destroy())
    assert len(await Session(space, "s").get_items()) == 4


async def test_pops_that_may_overwrite_get_an_item_each(space: Any) -> None:
    await alone(Session(space, "s").add_items([user(str(n)) for n in range(4)]))
    made = [Session(space, "s", unread="overwrite") for _ in range(6)]
    popped = await asyncio.gather(*(alone(each.pop_item()) for each in made))
    assert sorted(texts([each for each in popped if each is not None])) == ["0", "1", "2", "3"]


async def test_two_requests_undo_once_wherever_they_read(space: Any) -> None:
    shared, ready = Session(space, "s"), asyncio.Barrier(2)
    await alone(Session(space, "s").add_items([user(str(n)) for n in range(9)]))

    async def undo(session: Session, read: Any) -> None:
        await read(session.get_items())
        await ready.wait()
        await session.pop_item()
        await session.pop_item()

    async def within(coroutine: Any) -> Any:
        return (await asyncio.gather(coroutine))[0]

    left = 9
    for read in (within, alone, lambda coroutine: asyncio.wait_for(coroutine, 9)):
        for sessions in ((shared, shared), (Session(space, "s"), Session(space, "s"))):
            done = await asyncio.gather(
                *(undo(each, read) for each in sessions), return_exceptions=True
            )
            assert {type(each) for each in done} == {type(None), SessionConflict}
            left -= 2
            if left < 4:
                await alone(Session(space, "s").add_items([user("more")] * 6))
                left += 6
            assert len(await alone(Session(space, "s").get_items())) == left


@SHORT
async def test_a_request_that_comes_again_goes_on_from_nobody_elses_undo(space: Any) -> None:
    shared = Session(space, "s")
    await alone(shared.add_items([user(str(n)) for n in range(4)]))

    async def undo() -> None:
        await shared.pop_item()
        await shared.pop_item()

    await alone(shared.get_items())  # as somebody is shown it
    await alone(undo())
    for again in (undo, shared.pop_item, shared.clear_session):
        with pytest.raises(SessionConflict):
            await alone(again())
    assert texts(await Session(space, "s").get_items()) == ["0", "1"]


@SHORT
async def test_of_two_that_pop_the_item_they_were_shown_one_does(space: Any) -> None:
    await alone(Session(space, "s").add_items([user(str(n)) for n in range(4)]))
    undo = [Session(space, "s").pop_item(expected=user("3")) for _ in range(2)]
    done = await asyncio.gather(*map(alone, undo), return_exceptions=True)
    assert sorted(str(type(each)) for each in done) == sorted(map(str, (dict, SessionConflict)))
    with pytest.raises(SessionConflict):
        await alone(Session(space, "s").pop_item(expected=user("3")))
    assert texts(await Session(space, "s").get_items()) == ["0", "1", "2"]


async def test_one_line_opens_a_session_and_closes_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    plain = Session("s", url, space="shop", agent="web")
    assert isinstance(plain, SessionABC)
    assert await ask(plain, "a") == "to a"
    async with Session("s", url, space="shop") as second:
        assert await alone(ask(second, "b")) == "to b"
    with Session("s", url, space="shop") as third:
        assert texts(await third.get_items()) == ["a", "to a", "b", "to b"]
    async with plain.turn():  # of which another object of this address is a part
        await Session("s", url, space="shop").add_items([user("c")])
    for n in range(2):  # sessions that nobody else refers to
        result = Runner.run_streamed(
            agent(f"d{n}"), "d", session=Session("s", url, space="shop"), run_config=QUIET
        )
        gc.collect()
        async for _ in result.stream_events():
            pass
        assert result.final_output == f"d{n}"
    plain.close()
    for closed in (plain, second, third):
        with pytest.raises(interlock.Closed):
            await closed.get_items()
    with interlock.open(url, space="shop") as space:
        assert await Session("s", space).get_items() == await Session(space, "s").get_items()
        with Session(space, "s"):
            pass
        assert space.position()  # what was given stays open


@SHORT
async def test_a_session_that_has_expired_is_empty(space: Any) -> None:
    def session(seconds: float) -> Session:
        return Session(space, "s", session_ttl=seconds)

    await session(60).add_items([user("1"), user("2")])
    assert len(await session(60).get_items()) == 2
    await session(0.02).add_items([user("3")])
    while await session(60).get_items():
        await asyncio.sleep(0)
    assert await session(60).pop_item() is None
    await session(60).add_items([user("new")])
    assert texts(await session(60).get_items()) == ["new"]
    scan = awaitable(space).scan(Keys.of("s").items)
    assert len(await scan) == 1  # nothing is left of what has expired


async def test_a_request_that_is_delivered_twice_pops_once(space: Any) -> None:
    await alone(Session(space, "s").add_items([user(str(n)) for n in range(4)]))

    async def undo() -> Any:
        session = Session(space, "s")
        await session.get_items()
        return await session.pop_item(op_id="undo-1")

    assert await undo() == user("3")
    assert await undo() == user("3")
    both = await asyncio.gather(undo(), undo())
    assert [*both] == [user("3"), user("3")]
    assert len(await Session(space, "s").get_items()) == 3


async def test_whoever_had_a_run_may_pop_what_it_stored(space: Any) -> None:
    session = Session(space, "s")
    for n in range(2):
        await ask(session, f"q{n}")
        assert texts([await session.pop_item()]) == [f"to q{n}"]
        result = Runner.run_streamed(agent("streamed"), "s", session=session, run_config=QUIET)
        async for _ in result.stream_events():
            pass
        assert texts([await session.pop_item()]) == ["streamed"]
    await session.clear_session()


async def test_what_cannot_be_stored_is_said(space: Any) -> None:
    bad: Any = {"role": "user", "content": float("nan")}
    with pytest.raises(SessionInvalid) as refused:
        await Session(space, "s").add_items([user("fine"), bad])
    assert isinstance(refused.value, UserError)
    assert isinstance(refused.value, interlock.Invalid)
    with pytest.raises(SessionInvalid, match="not a string"):
        Session(space, 17)  # type: ignore[arg-type]  # that is what is refused
    arguments: Any = ("s", None), (None, "s")
    for wrong in arguments:
        with pytest.raises(SessionInvalid, match=r"interlock\.open\(url\)"):
            Session(*wrong)
    with pytest.raises(SessionInvalid, match="session_ttl"):
        Session(space, "s", session_ttl=0)
    assert await Session(space, "s").get_items() == []


async def test_a_long_history_is_stored_and_cleared(space: Any) -> None:
    session = Session(space, "x" * 5000)
    await session.add_items([user(str(n)) for n in range(2000)])
    assert texts(await session.get_items(limit=2)) == ["1998", "1999"]
    assert len(await session.get_items()) == 2000
    await session.clear_session()
    assert await session.get_items() == []


async def test_wrapped_sessions_are_guarded_too(space: Any) -> None:
    model = GatedModel([[assistant_message("first")]])

    def wrapped() -> EncryptedSession:
        inner: Any = Session(space, "s")  # it asks for a base class, and uses the protocol
        return EncryptedSession("s", inner, encryption_key="synthetic")

    running = asyncio.create_task(ask(wrapped(), "one", Agent(name="a", model=model)))
    await model.asked.wait()
    with pytest.raises(SessionHeld):
        await alone(ask(wrapped(), "two"))
    model.may_answer.set()
    assert await running == "first"
    assert texts(await wrapped().get_items()) == ["one", "first"]


@pytest.mark.slow
@ON_SQLITE
def test_a_process_that_dies_in_a_run_leaves_the_session_to_the_next(
    nursery: Nursery, place: Place
) -> None:
    with interlock.open(place.url, space=place.space) as space:
        assert nursery.together(die_in_a_run, 1, place.url, place.space) == ["died"]
        session = Session(space, "shared", wait=None)  # until the lease has run out
        assert asyncio.run(ask(session, "next")) == "to next"
        assert texts(asyncio.run(session.get_items())) == ["lost", "next", "to next"]


@pytest.mark.slow
def test_processes_run_one_at_a_time(nursery: Nursery, place: Place) -> None:
    interlock.open(place.url, space=place.space).close()
    found = nursery.together(run_once, 3, place.url, place.space, 0)
    done = [each for each in found if each.startswith("to ")]
    assert done, found
    assert {*found} - {*done} <= {"SessionHeld"}

    async def stored() -> list[str]:
        async with interlock.open_async(place.url, space=place.space) as opened:
            return texts(await Session(opened, "shared").get_items())

    before = len(asyncio.run(stored()))
    assert before == 2 * len(done)
    assert len(nursery.together(run_once, 3, place.url, place.space, None)) == 3
    history = asyncio.run(stored())
    assert len(history) == before + 6
    assert history[1::2] == [f"to {text}" for text in history[::2]]
