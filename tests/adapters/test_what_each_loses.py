"""What each framework's own store loses, call by call acknowledged; and that ours keeps it all.

A row for each line of the table that this began with.  CrewAI's are in `tests/crewai`: it has an
environment of its own.  LangGraph's SQLite and PostgreSQL stores are tried by `make peers`, which
has them installed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agents import SQLiteSession
from autogen_core import InMemoryStore as InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore

import interlock
from interlock.adapters.autogen import SharedCacheStore, team_state
from interlock.adapters.langgraph import Saver, Store
from interlock.adapters.openai_agents import Session
from interlock.verify.frameworks import (
    Report,
    check_cache_store,
    check_saver,
    check_session,
    check_store,
    check_team_state,
)
from tests.processes.writers import Place

PATIENCE = 0.5  # seconds that a lock keeps the others waiting


def maker(place: Place, adapter: Callable[..., Any], asynchronous: bool = False) -> Any:
    """Return what opens an adapter as one more process would."""
    url, name = place

    @contextmanager
    def make(*arguments: Any) -> Iterator[Any]:
        with interlock.open(url, space=name, agent="worker") as space:
            yield adapter(space, *arguments)

    @asynccontextmanager
    async def make_async(*arguments: Any) -> AsyncIterator[Any]:
        async with interlock.open_async(url, space=name, agent="worker") as space:
            yield adapter(space, *arguments)

    return make_async if asynchronous else make


def counts(report: Report) -> dict[str, tuple[int, int]]:
    """Return expected and kept, by case."""
    return {each.case: (each.expected, each.kept) for each in report.results}


# LangGraph: checkpointers


def test_langgraph_loses_runs_on_one_thread_and_resumes_twice() -> None:
    saver = InMemorySaver()
    report = check_saver(lambda: saver)
    assert counts(report) == {
        "runs_on_one_thread": (12, 4),
        "resume_twice": (1, 2),
        "crash_between_steps": (3, 3),
        "zombie_run": (6, 4),
    }
    assert report.failed == ("runs_on_one_thread", "resume_twice", "zombie_run")


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_our_saver_keeps_them(place: Place, asynchronous: bool) -> None:
    report = check_saver(
        maker(place, Saver, asynchronous),
        run=lambda saver, thread: saver.run(thread),
        take_over=lambda saver, thread: saver.run(thread, on_busy="interrupt"),
        patience=PATIENCE,
    )
    assert counts(report) == {
        "runs_on_one_thread": (12, 12),
        "resume_twice": (1, 1),
        "crash_between_steps": (3, 3),
        "zombie_run": (4, 4),  # the zombie is told
    }
    assert report.passed, report


def test_our_saver_alone_keeps_them(tmp_path: Path) -> None:
    report = check_saver(maker(Place(f"sqlite:///{tmp_path / 'store.db'}", "s"), Saver))
    assert report.passed, report


def test_our_saver_without_a_lease_refuses_what_it_cannot_keep(tmp_path: Path) -> None:
    saver = partial(Saver, on_busy=None)
    report = check_saver(maker(Place(f"sqlite:///{tmp_path / 'store.db'}", "s"), saver))
    # An effect that came before its checkpoint was refused cannot be taken back without a lease.
    assert report.failed == ("resume_twice",), report


# LangGraph: stores

STORE_CASES = ("parallel_writers", "parallel_nodes", "tasks_of_one_loop")


def test_langgraph_loses_parallel_writes_to_one_item() -> None:
    store = InMemoryStore()
    report = check_store(lambda: store)
    assert counts(report) == {**dict.fromkeys(STORE_CASES, (8, 1)), "zombie_writer": (2, 1)}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_our_store_keeps_them(place: Place, asynchronous: bool) -> None:
    report = check_store(maker(place, Store, asynchronous), patience=PATIENCE)
    assert counts(report) == {**dict.fromkeys(STORE_CASES, (8, 8)), "zombie_writer": (1, 1)}
    assert report.passed, report


# OpenAI Agents


def test_openai_agents_loses_what_a_summary_or_an_undo_overtakes(tmp_path: Path) -> None:
    report = check_session(lambda id: SQLiteSession(id, tmp_path / "sessions.db"))
    found = counts(report)
    assert found["parallel_appends"] == (10, 10)
    assert found["summary_against_append"] == (4, 0)
    assert found["undo_twice"] == (4, 2)
    assert not report["two_runs"].passed
    assert not report["zombie_run"].passed


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_our_session_keeps_it(place: Place, asynchronous: bool) -> None:
    report = check_session(
        maker(place, Session, asynchronous),
        take_over=lambda session: session.reclaim(),
        patience=PATIENCE,
    )
    assert counts(report) == {
        "parallel_appends": (10, 10),
        "summary_against_append": (4, 4),
        "undo_twice": (4, 4),
        "two_runs": (1, 1),  # the second run is told, before its model is asked
        "zombie_run": (1, 1),
    }
    assert report.passed, report


# AutoGen


def test_autogen_loses_runs_of_one_conversation_and_cached_values(tmp_path: Path) -> None:
    kept = tmp_path / "team.json"

    @asynccontextmanager
    async def in_a_file(team: Any) -> AsyncIterator[None]:
        if kept.exists():
            await team.load_state(json.loads(kept.read_text()))
        yield
        kept.write_text(json.dumps(await team.save_state()))

    cache: InMemoryCache[list[str]] = InMemoryCache()
    assert counts(check_team_state(in_a_file)) == {"parallel_runs": (12, 4)}
    assert counts(check_cache_store(lambda: cache)) == {"parallel_writers": (5, 1)}


def test_our_team_state_and_cache_keep_them(place: Place) -> None:
    @asynccontextmanager
    async def in_a_space(team: Any) -> AsyncIterator[None]:
        async with (
            interlock.open_async(place.url, space=place.space, agent="worker") as space,
            team_state(space, "conversation", team),
        ):
            yield

    report = check_team_state(in_a_space, patience=PATIENCE)
    assert counts(report) == {"parallel_runs": (12, 12)}, report
    report = check_cache_store(maker(place, SharedCacheStore), patience=PATIENCE)
    assert counts(report) == {"parallel_writers": (5, 5)}, report


# MCP: a memory server.  The reference one needs Node.js; each of its tools reads the whole file,
# changes what it has read, and writes the file.  Ours keeps 100 of 100 in
# `tests/server/test_mcp_transports.py`.


def test_a_memory_server_that_rewrites_its_file_loses_what_others_wrote(tmp_path: Path) -> None:
    file = tmp_path / "memory.jsonl"
    file.write_text("")
    for number in range(25):
        graphs = [file.read_text() for _ in range(4)]  # four servers have read, none has written
        for server, graph in enumerate(graphs):
            file.write_text(f"{graph}{server}/{number}\n")
    assert len(file.read_text().splitlines()) == 25  # of 100
