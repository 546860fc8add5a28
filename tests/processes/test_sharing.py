"""One file among processes: first opens at once, forks, spawned processes, threads, tasks."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.sqlite import location
from interlock.backends.sqlite.connect import SCHEMA_VERSION, SQLiteOptions, connect, prepare
from tests.processes.writers import disagreements, together

EACH = 25


def open_and_create(url: str, index: int, gate: Any, answers: Any) -> None:
    gate.wait()
    try:
        with interlock.open(url, agent=f"a{index}") as space:
            answers.put(space.create(f"k/{index}", index).space)
    except interlock.InterlockError as problem:
        answers.put(repr(problem))


def test_twenty_processes_open_a_new_file_at_once(tmp_path: Path) -> None:
    """Making the schema, and the switch to WAL, which SQLite does not wait for."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    uids = together(open_and_create, 20, url)
    assert len(set(uids)) == 1, uids
    with interlock.open(url) as space:
        assert {record.value for record in space.scan("k/").values()} == set(range(20))
        assert disagreements(space) == []


def migrate(path: Path, index: int, gate: Any, answers: Any) -> None:
    where = location.parse(f"sqlite:///{path}")
    steps = {SCHEMA_VERSION: "CREATE TABLE made_once (x);"}  # a second run of it would fail
    gate.wait()
    with closing(connect(where, SQLiteOptions())) as db:
        prepare(db, where, SQLiteOptions(), steps, SCHEMA_VERSION + 1)
        answers.put(db.execute("PRAGMA user_version").fetchone()[0])


def test_processes_that_migrate_at_once_migrate_once(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    interlock.open(f"sqlite:///{path}").close()
    assert together(migrate, 4, path) == [SCHEMA_VERSION + 1] * 4


def add_many(space: interlock.Space, key: str = "count") -> None:
    for _ in range(EACH):
        space.update(key, lambda n: n + 1, default=0, attempts=1000)


def test_a_space_is_shared_by_threads(tmp_path: Path) -> None:
    with (
        interlock.open(f"sqlite:///{tmp_path / 'threads.db'}") as space,
        ThreadPoolExecutor(8) as threads,
    ):
        for done in [threads.submit(add_many, space) for _ in range(8)]:
            done.result()
        assert space.read("count").value == 8 * EACH
        assert disagreements(space) == []


async def test_a_space_is_shared_by_tasks_and_a_second_loop(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'tasks.db'}"

    async def add(space: interlock.AsyncSpace) -> None:
        for _ in range(EACH):
            await space.update("count", lambda n: n + 1, default=0, attempts=1000)

    async def other_loop() -> None:
        async with interlock.open_async(url) as space:
            await asyncio.gather(*(add(space) for _ in range(4)))

    async with interlock.open_async(url) as space:
        elsewhere = asyncio.to_thread(asyncio.run, other_loop())
        await asyncio.gather(elsewhere, *(add(space) for _ in range(4)))
        assert (await space.read("count")).value == 8 * EACH


def in_child(work: Callable[[], object]) -> int:
    """Fork, run `work` in the child, return its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_space_goes_on_after_a_fork_on_both_sides(tmp_path: Path) -> None:
    with interlock.open(f"sqlite:///{tmp_path / 'fork.db'}") as space:
        record = space.create("k", 0)
        started, stop = threading.Event(), threading.Event()

        def busy() -> None:  # a thread that holds connections at the moment of the fork
            while not stop.is_set():
                space.update("busy", lambda n: n + 1, default=0)
                started.set()

        thread = threading.Thread(target=busy)
        thread.start()
        started.wait()
        assert [in_child(lambda: add_many(space)) for _ in range(5)] == [0] * 5
        stop.set()
        thread.join()
        assert space.write(record, 1).version == 2
        assert space.read("count").value == 5 * EACH
        assert disagreements(space) == []


def test_a_child_keeps_its_own_files_when_the_parent_closes(tmp_path: Path) -> None:
    """The last to close removes the write-ahead log and its index; a child with inherited
    connections would go by the removed ones, and overwrite what others commit."""
    url = f"sqlite:///{tmp_path / 'fork.db'}"
    space = interlock.open(url)
    space.create("k", 0)
    turns, turn = os.pipe()
    answers, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(turn)
        while os.read(turns, 1):
            space.update("k", lambda n: n + 1)
            os.write(answer, b".")
        os._exit(0)
    os.close(turns)
    os.close(answer)
    space.close()
    for mine in (1, 3, 5):
        os.write(turn, b".")
        assert os.read(answers, 1) == b"."
        with interlock.open(url) as again:
            assert again.read("k").value == mine
            again.update("k", lambda n: n + 1)
    os.close(turn)
    os.close(answers)
    assert os.waitpid(pid, 0)[1] == 0


def test_operation_ids_of_a_forked_child_are_its_own(tmp_path: Path) -> None:
    with interlock.open(f"sqlite:///{tmp_path / 'ids.db'}") as space:
        space.create("before", 0)
        assert in_child(lambda: space.create("child", 1)) == 0
        space.create("parent", 2)
        assert len({entry.op_id for entry in space.log()}) == 3


async def test_an_asyncio_space_goes_on_after_a_fork(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fork.db'}"
    async with interlock.open_async(url) as space:
        await space.create("k", 0)

        def child() -> None:
            async def work() -> None:
                await space.update("k", lambda n: n + 1)

            loop = asyncio.new_event_loop()
            asyncio.events._set_running_loop(None)
            loop.run_until_complete(work())

        assert in_child(child) == 0
        await space.update("k", lambda n: n + 1)
        assert (await space.read("k")).value == 2


def test_a_store_in_memory_says_that_it_does_not_cross_a_fork() -> None:
    with interlock.open("sqlite://") as space:
        space.create("k", 1)

        def child() -> None:
            with pytest.raises(interlock.Unavailable, match="does not cross a fork"):
                space.read("k")

        assert in_child(child) == 0
        assert space.read("k").value == 1


def test_closing_waits_for_calls_under_way_and_refuses_later_ones(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'close.db'}"
    space = interlock.open(url)
    acknowledged: list[int] = []
    first = threading.Event()

    def write() -> None:
        with pytest.raises(interlock.Closed):  # noqa: PT012  # which call meets it is a race
            for number in range(1_000_000):
                space.create(f"k/{number}", number)
                acknowledged.append(number)
                first.set()

    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(write)
        first.wait()
        space.close()
        done.result()
    with interlock.open(url) as again:
        assert len(again.scan("k/")) == len(acknowledged)
