"""Sessions of Google ADK: one run at a time, and no change over one that was not read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from google.adk.errors import StaleSessionError
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events import Event
from google.adk.sessions import InMemorySessionService, Session
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

import interlock
from interlock.adapters.adk import FencedSession, SessionService, StaleSession
from tests.adapters.adk_runs import (
    WHERE,
    WHO,
    Gate,
    ask,
    asked_for_confirmation,
    change,
    message,
    runner,
    texts,
)
from tests.adapters.cuts import CUTS, Cut, cut_in_this_task
from tests.adapters.spaces import FACADES, opened
from tests.processes.writers import Place

ONLY_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


@pytest.fixture
async def service(space: Any) -> SessionService:
    """A service with one session."""
    made = SessionService(space)
    await made.create_session(**WHERE)
    return made


async def read(service: Any, id: str = "s", **config: Any) -> Session:
    """Read a session of the user that the tests share."""
    found = await service.get_session(**WHO, session_id=id, config=GetSessionConfig(**config))
    assert isinstance(found, Session)
    return found


# As ADK's own services behave


@pytest.fixture(params=["memory", "sqlite", "ours"])
async def any_service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """ADK's own services, and ours."""
    file = tmp_path / "sessions.db"
    if request.param == "memory":
        yield InMemorySessionService()
    elif request.param == "sqlite":
        yield SqliteSessionService(str(file))
    else:
        async with SessionService(f"sqlite:///{file}") as ours:
            yield ours


async def test_sessions_are_created_listed_and_deleted(any_service: Any) -> None:
    made = await any_service.create_session(**WHO, state={"a": 1, "app:b": 2, "user:c": 3})
    assert made.state == {"a": 1, "app:b": 2, "user:c": 3}
    assert await any_service.get_session(**WHO, session_id=made.id) == made
    named = await any_service.create_session(**WHO, session_id=" s/1 ")
    assert (named.id, named.state) == ("s/1", {"app:b": 2, "user:c": 3})
    other = await any_service.create_session(app_name="app", user_id="ü v", session_id="s/1")
    assert other.state == {"app:b": 2}
    with pytest.raises(AlreadyExistsError):
        await any_service.create_session(**WHO, session_id="s/1")
    found = await any_service.list_sessions(**WHO)
    assert [(each.id, each.events) for each in found.sessions] == [(made.id, []), ("s/1", [])]
    assert found.sessions[0].state == made.state
    everyone = (await any_service.list_sessions(app_name="app")).sessions
    assert [each.user_id for each in everyone] == ["u", "u", "ü v"]
    assert await any_service.get_user_state(**WHO) == {"c": 3}
    await any_service.delete_session(**WHO, session_id=made.id)
    assert await any_service.get_session(**WHO, session_id=made.id) is None
    await any_service.delete_session(**WHO, session_id=made.id)
    with pytest.raises(SessionNotFoundError):
        await any_service.append_event(made, change(a=2))
    assert (await any_service.list_sessions(app_name="none")).sessions == []


async def test_an_event_changes_the_state_and_is_read_again(any_service: Any) -> None:
    session = await any_service.create_session(**WHERE)
    event = Event(
        author="user",
        content=types.Content(parts=[types.Part.from_bytes(data=b"\0", mime_type="x/y")]),
        actions=change(a=None, user_b=[1], app_c={"d": 0.1}, temp_e=5).actions,
        long_running_tool_ids={"tool"},
        custom_metadata={"n": 10**30},
        timestamp=session.last_update_time + 10,
    )
    assert await any_service.append_event(session, event) is event
    await any_service.append_event(session, Event(author="agent", partial=True))
    assert session.state == {"a": None, "user:b": [1], "app:c": {"d": 0.1}, "temp:e": 5}
    assert session.events == [event]
    assert "temp:e" not in event.actions.state_delta
    found = await read(any_service)
    assert found.state.pop("temp:e", None) is None
    del session.state["temp:e"]
    assert found == session
    assert found.last_update_time == event.timestamp


async def test_a_config_asks_for_fewer_events(any_service: Any) -> None:
    session = await any_service.create_session(**WHERE)
    for n in range(1, 6):
        await any_service.append_event(session, Event(author="user", timestamp=float(n)))

    async def times(**config: Any) -> list[float]:
        return [event.timestamp for event in (await read(any_service, **config)).events]

    assert await times() == [1, 2, 3, 4, 5]
    assert await times(num_recent_events=0) == []
    assert await times(num_recent_events=3) == [3, 4, 5]
    assert await times(num_recent_events=30) == [1, 2, 3, 4, 5]
    assert await times(after_timestamp=4.0) == [4, 5]
    assert await times(after_timestamp=40.0) == []
    assert await times(after_timestamp=2.0, num_recent_events=2) == [4, 5]


async def test_what_is_no_json_is_kept_as_text(any_service: Any) -> None:
    session = await any_service.create_session(**WHERE)
    await any_service.append_event(session, change(f=print))
    assert (await read(any_service)).state["f"] == (
        print if isinstance(any_service, InMemorySessionService) else repr(print)
    )


# What they lose


async def test_a_session_that_others_changed_is_stale(service: SessionService) -> None:
    first, second = await read(service), await read(service, num_recent_events=1)
    await service.append_event(first, change(a=1))
    event = change(b=2)
    with pytest.raises(StaleSessionError, match="modified in storage") as refused:
        await service.append_event(second, event)
    assert isinstance(refused.value, StaleSession)
    assert isinstance(refused.value, interlock.Conflict)
    assert refused.value.retryable
    assert "Session 's'" in str(refused.value)
    assert second.events == []
    assert (await read(service)).state == {"a": 1}
    await service.append_event(await read(service), event)
    assert (await read(service)).state == {"a": 1, "b": 2}


@pytest.mark.parametrize("scope", ["seats", "user_seats", "app_seats"])
@ONLY_SQLITE
async def test_five_who_change_one_name_are_told_or_kept(scope: str, space: Any) -> None:
    service, key = SessionService(space), scope.replace("_", ":")
    ids = [f"s{n}" if "_" in scope else "s" for n in range(5)]
    for name in set(ids):
        await service.create_session(**WHO, session_id=name)
    await service.append_event(await read(service, ids[0]), change(**{scope: []}))

    async def add(name: str, item: int) -> int:
        refused = 0
        while True:
            session = await read(service, name)
            await asyncio.sleep(0)
            try:
                mine = change(**{scope: [*session.state[key], item]})
                await service.append_event(session, mine)
            except StaleSession:
                refused += 1
            else:
                return refused

    refusals = await asyncio.gather(*(add(name, n) for n, name in enumerate(ids)))
    assert sorted((await read(service, ids[0])).state[key]) == [0, 1, 2, 3, 4]
    assert sum(refusals) >= 4


@ONLY_SQLITE
async def test_names_that_others_set_meanwhile_are_merged(service: SessionService) -> None:
    other = await service.create_session(**WHO, session_id="other")
    session = await read(service)
    await service.append_event(other, change(user_a=1, app_b=1))
    await service.append_event(session, change(user_c=2, app_d=2))
    await service.append_event(other, change(user_a=3))  # what it has set itself it knows
    shared = {"user:a": 3, "app:b": 1, "user:c": 2, "app:d": 2}
    assert (await read(service)).state == shared
    with pytest.raises(StaleSession, match="'user:a' was modified"):
        await service.append_event(session, change(user_a=4))
    assert (await read(service)).state == shared


@ONLY_SQLITE
async def test_an_event_that_is_delivered_again_is_stored_once(service: SessionService) -> None:
    session, event = await read(service), change(n=1)
    earlier = session.model_copy(deep=True)
    await service.append_event(session, event)
    await service.append_event(session, event)
    await service.append_event(earlier, event)  # its caller has not heard of the first time
    assert earlier == session
    await service.append_event(await read(service), event)
    await service.append_event(earlier, change(n=2))
    assert len((await read(service)).events) == 2
    changed = event.model_copy(update={"author": "somebody else"})
    with pytest.raises(AlreadyExistsError, match=event.id):
        await service.append_event(await read(service), changed)
    await service.delete_session(**WHERE)
    again = await service.create_session(**WHERE)
    await service.append_event(again, event)
    assert len((await read(service)).events) == 1


@ONLY_SQLITE
async def test_a_session_from_json_is_known_by_its_last_event(service: SessionService) -> None:
    def copied(session: Session) -> Session:
        return Session.model_validate_json(session.model_dump_json())

    empty = copied(await read(service))
    await service.append_event(copied(empty), change(a=1, user_b=1))
    with pytest.raises(StaleSession):
        await service.append_event(empty, change(a=2))
    current = copied(await read(service))
    with pytest.raises(StaleSession, match="'user:b'"):  # it does not say which one it has read
        await service.append_event(current, change(user_b=2))
    await service.append_event(current, change(a=3))
    assert (await read(service)).state == {"a": 3, "user:b": 1}


@ONLY_SQLITE
async def test_a_session_read_in_a_child_task_is_known(service: SessionService) -> None:
    session = (await asyncio.gather(read(service)))[0]
    session = await asyncio.wait_for(read(service), 10) or session
    await service.append_event(session, change(a=1))
    assert (await read(service)).state == {"a": 1}


# Runs


async def test_five_runs_of_one_session_keep_everything(place: Place, space: Any) -> None:
    async with opened("sync", place, "other") as also:
        services = [SessionService(space), SessionService(also)]
        await services[0].create_session(**WHERE)
        await asyncio.gather(*(ask(services[n % 2], f"m{n}") for n in range(5)))
        said = texts(await read(services[0]))
        assert sorted(said[::2]) == ["m0", "m1", "m2", "m3", "m4"]
        assert said[1::2] == [f"to {text}" for text in said[::2]]


@ONLY_SQLITE
async def test_a_run_waits_as_long_as_it_may(service: SessionService, place: Place) -> None:
    gate = Gate()
    running = asyncio.create_task(ask(service, "first", gate))
    await gate.asked.wait()
    async with interlock.open_async(*place, agent="other") as other:
        with pytest.raises(interlock.Held):
            await asyncio.create_task(ask(SessionService(other, wait=0), "second"))
    gate.may_answer.set()
    await running
    assert texts(await read(service)) == ["first", "to first"]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("facade", FACADES)
@pytest.mark.usefixtures("no_collector")
@ONLY_SQLITE
async def test_a_run_that_is_cut_off_frees_the_session(facade: str, cut: Cut, place: Place) -> None:
    async with opened(facade, place, "us") as space, opened(facade, place, "other") as other:
        service, gate = SessionService(space), Gate()
        await service.create_session(**WHERE)
        running = asyncio.ensure_future(ask(service, "hangs", gate))
        await gate.asked.wait()
        await cut(running)
        await asyncio.create_task(ask(SessionService(other, wait=0), "next"))
        assert texts(await read(service)) == ["hangs", "next", "to next"]


@ONLY_SQLITE
async def test_a_timeout_in_a_task_that_goes_on_frees_the_session(
    service: SessionService, place: Place
) -> None:
    gate = Gate()
    await cut_in_this_task(ask(service, "hangs", gate), gate.asked)
    async with interlock.open_async(*place, agent="other") as other:
        await asyncio.create_task(ask(SessionService(other, wait=0), "next"))
    assert texts(await read(service)) == ["hangs", "next", "to next"]


@ONLY_SQLITE
async def test_a_run_that_is_closed_early_frees_the_session(
    service: SessionService, place: Place
) -> None:
    found = runner(service).run_async(user_id="u", session_id="s", new_message=message("hi"))
    async with aclosing(found):
        await anext(found)
    async with interlock.open_async(*place, agent="other") as other:
        await asyncio.create_task(ask(SessionService(other, wait=0), "next"))
    assert texts(await read(service))[-2:] == ["next", "to next"]


@ONLY_SQLITE
async def test_a_run_that_was_replaced_stores_nothing(place: Place, space: Any) -> None:
    service, gate = SessionService(space), Gate()
    await service.create_session(**WHERE)
    zombie = asyncio.create_task(ask(service, "stalls", gate))
    await gate.asked.wait()
    async with interlock.open_async(*place, agent="supervisor") as other:
        await other.reclaim("adk/app/turns/u/s")
        second = Gate()
        replacing = asyncio.create_task(ask(SessionService(other), "replaces", second))
        await second.asked.wait()
        gate.may_answer.set()
        with pytest.raises(StaleSessionError):
            await zombie
        second.may_answer.set()
        await replacing
    assert texts(await read(service)) == ["stalls", "replaces", "to replaces"]


@ONLY_SQLITE
async def test_a_run_that_was_taken_away_is_fenced_though_nobody_wrote(
    service: SessionService, place: Place
) -> None:
    gate = Gate()
    zombie = asyncio.create_task(ask(service, "stalls", gate))
    await gate.asked.wait()
    async with interlock.open_async(*place, agent="supervisor") as other:
        await other.reclaim("adk/app/turns/u/s")
    gate.may_answer.set()
    with pytest.raises(FencedSession):
        await zombie
    assert texts(await read(service)) == ["stalls"]


def test_a_run_goes_on_where_a_process_died(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def die() -> None:
        os._exit(7)

    async def first() -> None:
        async with SessionService(url, agent="dies", ttl=0.5) as service:
            await service.create_session(**WHERE)
            await ask(service, "before", die)

    child = os.fork()
    if not child:
        asyncio.run(first())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    async def second() -> list[str]:
        async with SessionService(url, agent="goes-on") as service:
            await ask(service, "after")
            return texts(await read(service))

    assert asyncio.run(second()) == ["before", "after", "to after"]


@ONLY_SQLITE
async def test_a_run_inside_a_run_of_its_session_does_not_wait_for_itself(
    service: SessionService,
) -> None:
    async def nested() -> None:
        await ask(service, "inner")

    with pytest.raises(interlock.Invalid, match="already holds the lease"):
        await ask(service, "outer", nested)


@ONLY_SQLITE
async def test_a_confirmation_that_is_delivered_twice_acts_once(service: SessionService) -> None:
    effects = list[str]()
    deliver = await asked_for_confirmation(service, effects)
    done = await asyncio.gather(deliver(), deliver(), return_exceptions=True)
    assert effects == ["paid"]
    (refused,) = [each for each in done if isinstance(each, BaseException)]
    assert isinstance(refused, StaleSessionError)
    assert "delivered" in str(refused)
    with pytest.raises(StaleSession):
        await deliver()
    assert effects == ["paid"]


def test_a_url_serves_runs_without_asyncio(tmp_path: Path) -> None:
    service = SessionService(f"sqlite:///{tmp_path / 'store.db'}", space="chat", agent="web")
    asyncio.run(service.create_session(**WHERE))
    for text in ("one", "two"):
        list(runner(service).run(user_id="u", session_id="s", new_message=message(text)))
    assert texts(asyncio.run(read(service))) == ["one", "to one", "two", "to two"]
    asyncio.run(service.close())
    with pytest.raises(interlock.Closed):
        asyncio.run(read(service))


async def test_runs_of_other_services_are_left_alone(tmp_path: Path) -> None:
    SessionService(f"sqlite:///{tmp_path / 'store.db'}")
    theirs = InMemorySessionService()
    await theirs.create_session(**WHERE)
    await ask(theirs, "hi")
    assert texts(await read(theirs)) == ["hi", "to hi"]


def test_what_is_no_place_is_refused() -> None:
    with pytest.raises(interlock.Invalid, match="SessionService needs an open space, not int"):
        SessionService(5)  # type: ignore[arg-type]  # none on purpose
