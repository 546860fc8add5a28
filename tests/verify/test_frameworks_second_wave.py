"""The kit fails on the losing defaults of Google ADK and Claude, and passes what loses nothing."""

from __future__ import annotations

import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from anthropic.tools.memory import (
    BetaAsyncLocalFilesystemMemoryTool,
    BetaLocalFilesystemMemoryTool,
)
from claude_agent_sdk import InMemorySessionStore
from google.adk.errors import StaleSessionError
from google.adk.events import Event
from google.adk.sessions import InMemorySessionService, Session
from google.adk.sessions.sqlite_session_service import SqliteSessionService

from interlock.adapters.claude import AsyncMemoryTool, MemoryTool, SessionStore
from interlock.verify.frameworks import (
    check_memory_tool,
    check_session_service,
    check_transcript_store,
)
from tests.adapters.test_what_each_loses import PATIENCE, counts, maker
from tests.processes.writers import Place

# Google ADK


def test_adk_in_memory_loses_state_of_sessions_users_and_apps() -> None:
    service = InMemorySessionService()
    assert counts(check_session_service(lambda: service)) == {
        "parallel_events": (5, 5),
        "session_state": (5, 1),
        "user_state": (5, 1),
        "app_state": (5, 1),
        "zombie_agent": (2, 1),
        "parallel_runs": (10, 10),
    }


def test_adk_on_sqlite_loses_state_and_runs_one_of_five(tmp_path: Path) -> None:
    report = check_session_service(lambda: SqliteSessionService(f"{tmp_path / 'adk.db'}"))
    found = counts(report)
    assert {"user_state", "app_state"} <= set(report.failed)
    assert found["user_state"] == found["app_state"] == (5, 1)
    assert found["zombie_agent"] == (1, 1)


class Checked(InMemorySessionService):
    """Refuses an event that sets what has changed since its session was read."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()
        self.read: dict[int, tuple[Session, dict[str, Any]]] = {}

    async def get_session(self, **named: Any) -> Session | None:
        session = await super().get_session(**named)
        if session is not None:
            self.read[id(session)] = session, deepcopy(session.state)
        return session

    async def append_event(self, session: Session, event: Event) -> Event:
        with self.lock:
            fresh = await super().get_session(
                app_name=session.app_name, user_id=session.user_id, session_id=session.id
            )
            assert fresh is not None
            known = self.read[id(session)][1]
            for name in event.actions.state_delta:
                if fresh.state.get(name) != known.get(name):
                    raise StaleSessionError(name)
            known.update(deepcopy(event.actions.state_delta))
            return await super().append_event(session, event)


def test_a_service_that_checks_what_was_read_passes() -> None:
    service = Checked()
    report = check_session_service(lambda: service, patience=PATIENCE)
    assert report.passed, report
    assert [each.kept for each in report.results] == [5, 5, 5, 5, 1, 10]


# Claude's memory tool


@pytest.mark.parametrize(
    "tool", [BetaLocalFilesystemMemoryTool, BetaAsyncLocalFilesystemMemoryTool]
)
def test_claudes_memory_tool_loses_edits(tool: Any, tmp_path: Path) -> None:
    report = check_memory_tool(lambda: tool(f"{tmp_path}"))
    assert {"edits_in_one_turn", "edits_of_agents", "inserts_of_agents"} & set(report.failed)
    assert report["created_twice"].passed


class Locked(BetaLocalFilesystemMemoryTool):
    """Does one command after the other."""

    lock = threading.Lock()

    def call(self, input: object) -> Any:
        with self.lock:
            return super().call(input)


def test_a_memory_tool_that_does_one_command_at_a_time_passes(tmp_path: Path) -> None:
    report = check_memory_tool(lambda: Locked(f"{tmp_path}"), patience=PATIENCE)
    assert report.passed, report
    assert [each.kept for each in report.results] == [10, 15, 15, 1]


def test_our_memory_tool_keeps_all_edits(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'store.db'}", "s")
    for make in (maker(place, MemoryTool), maker(place._replace(space="a"), AsyncMemoryTool, True)):
        report = check_memory_tool(make, patience=PATIENCE)
        assert report.passed, report
        assert [each.kept for each in report.results] == [10, 15, 15, 1]


# The Claude Agent SDK's transcripts


def test_claudes_session_store_has_twice_what_is_delivered_twice() -> None:
    store = InMemorySessionStore()
    assert counts(check_transcript_store(lambda: store)) == {
        "parallel_appends": (15, 15),
        "delivered_twice": (2, 0),
        "delivered_in_part": (2, 0),
        "without_id": (2, 2),
    }


class Once(InMemorySessionStore):
    """Appends what it has no entry of yet."""

    async def append(self, key: Any, entries: Any) -> None:
        there = {entry.get("uuid") for entry in await self.load(key) or []} - {None}
        await super().append(key, [each for each in entries if each.get("uuid") not in there])


def test_a_store_that_keeps_each_entry_once_passes() -> None:
    store = Once()
    report = check_transcript_store(lambda: store, patience=PATIENCE)
    assert report.passed, report


def test_our_session_store_keeps_each_entry_once(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'store.db'}", "s")
    report = check_transcript_store(maker(place, SessionStore, True), patience=PATIENCE)
    assert report.passed, report


def test_a_store_that_takes_equal_entries_for_duplicates_fails() -> None:
    class TooFew(InMemorySessionStore):
        async def append(self, key: Any, entries: Any) -> None:
            there = await self.load(key) or []
            await super().append(key, [each for each in entries if each not in there])

    store = TooFew()
    assert check_transcript_store(lambda: store).failed == ("without_id",)
