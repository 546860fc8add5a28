"""Which reads count as evidence for a write that names no version."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import interlock
from interlock.adapters.observed import (
    MOST_WORKERS,
    Caller,
    Observed,
    ObservedDict,
    TaskReads,
    called_by,
    observed,
)

TASK = "task-1"


def record(version: int, key: str = "k") -> interlock.Record:
    return interlock.Record(key, None, version, 0, None, 0, version, version > 0, "space-1")


def read(reads: TaskReads, version: int) -> None:
    reads.read(Caller.of(TASK), Observed.of(record(version)))


def write(reads: TaskReads, current: int, worker: str | None = None) -> bool:
    """Write as an adapter does; say whether that was allowed."""
    caller = Caller.of(TASK) if worker is None else Caller(TASK, worker)
    evidence = reads.evidence(caller, record(current))
    if evidence is None or evidence.version != current:
        reads.refused(caller, record(current))
        return False
    reads.wrote(caller, Observed.after_write(record(current)))
    return True


def test_version_travels_with_a_value_through_copies_and_changes() -> None:
    value = ObservedDict({"a": 1}, Observed.of(record(3)))
    value["b"] = 2
    for same in (
        value,
        value.copy(),
        copy.copy(value),
        copy.deepcopy(value),
        value | {"c": 3},
        pickle.loads(pickle.dumps(value)),
    ):
        assert observed(same, record(7)) == Observed.of(record(3))
        assert same | {"c": 3} == {"a": 1, "b": 2, "c": 3}
    value |= {"d": 4}
    assert observed(value, record(7)) == Observed.of(record(3))
    assert observed({**value}, record(7)) is None
    assert observed(value, record(7, "other")) is None
    assert observed(value, record(7)._replace(space="space-2")) is None


def test_a_task_writes_on_from_its_own_writes() -> None:
    reads = TaskReads()
    assert not write(reads, 1)
    read(reads, 1)
    read(reads, 1)
    assert write(reads, 1)
    assert write(reads, 2)
    assert not write(reads, 4)  # others wrote


async def test_reads_in_a_child_context_count_for_the_task() -> None:
    reads = TaskReads()

    async def child(version: int) -> None:
        read(reads, version)

    await asyncio.gather(child(1))
    assert write(reads, 1)
    await asyncio.to_thread(read, reads, 2)
    assert write(reads, 2)
    await asyncio.create_task(child(5))  # others wrote meanwhile
    assert write(reads, 5)


async def test_workers_of_one_task_do_not_write_over_each_other() -> None:
    reads = TaskReads()
    version, acknowledged = 1, []

    async def worker(think: int, reads_in_child: bool) -> None:
        nonlocal version

        async def get() -> None:
            read(reads, version)

        await (asyncio.create_task(get()) if reads_in_child else get())
        computed_from = version
        for _ in range(think):
            await asyncio.sleep(0)
        if write(reads, version):
            acknowledged.append((computed_from, version))
            version += 1

    for reads_in_child in (False, True):
        await asyncio.gather(*(worker(think, reads_in_child) for think in (1, 2, 9, 5, 3)))
        late = worker(12, reads_in_child)
        await asyncio.gather(late, *(worker(n, reads_in_child) for n in (0, 2)))
    assert acknowledged
    assert all(computed_from == over for computed_from, over in acknowledged)


def test_of_what_neighbours_read_the_oldest_decides() -> None:
    reads = TaskReads()
    for worker, version in (("one", 1), ("child of two", 1)):
        reads.read(Caller(TASK, worker), Observed.of(record(version)))
    assert write(reads, 1, "one")
    reads.read(Caller(TASK, "three"), Observed.of(record(2)))
    assert write(reads, 2, "three"), "its own read, whatever others have read"
    reads.read(Caller(TASK, "child of four"), Observed.of(record(3)))
    assert not write(reads, 3, "two"), "computed from version 1"
    assert not write(reads, 3, "four"), "it may be this one that was computed from version 1"
    reads.read(Caller(TASK, "child of four"), Observed.of(record(3)))
    assert write(reads, 3, "four"), "read again"
    reads.read(Caller(TASK, "five"), Observed.of(record(4)))
    reads.read(Caller(TASK, "six"), Observed.of(record(5)))
    assert not write(reads, 5, "five"), "its own read, however new its neighbour's is"


def test_a_refused_write_leaves_the_oldest_read_to_whoever_comes_next() -> None:
    for first, second in (("old", "new"), ("new", "old")):
        reads = TaskReads()
        for worker, version in (("child of old", 1), ("child of new", 2)):
            reads.read(Caller(TASK, worker), Observed.of(record(version)))
        assert not write(reads, 2, first)
        assert not write(reads, 2, second), "the one from version 1 must not write over version 2"


def test_threads_of_a_pool_are_other_workers_in_each_job() -> None:
    reads = TaskReads()

    async def both() -> None:
        await asyncio.to_thread(read, reads, 1)
        await asyncio.to_thread(read, reads, 1)
        assert await asyncio.to_thread(write, reads, 1)
        assert not await asyncio.to_thread(write, reads, 2)

    with ThreadPoolExecutor(1) as pool:
        loop = asyncio.new_event_loop()
        loop.set_default_executor(pool)
        loop.run_until_complete(both())
        loop.close()


def test_the_oldest_reads_are_forgotten_first() -> None:
    reads = TaskReads(most=2)
    for key in ("a", "b", "c"):
        reads.read(Caller.of(TASK), Observed.of(record(1, key)))
    assert reads.evidence(Caller.of(TASK), record(1, "a")) is None
    assert reads.evidence(Caller.of(TASK), record(1, "c")) is not None


def test_outside_of_a_task_nothing_is_remembered() -> None:
    reads = TaskReads()
    reads.read(Caller.of(None), Observed.of(record(1)))
    assert reads.evidence(Caller.of(None), record(1)) is None


def steps_of(call: Callable[[], object]) -> int:
    """How many instructions a call takes, whatever the machine does meanwhile."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_reads_that_pile_up_slow_nothing_down_and_take_no_more_room() -> None:
    def piled_up(count: int) -> tuple[TaskReads, list[int]]:
        reads = TaskReads()
        for n in range(count):
            reads.read(Caller(TASK, n), Observed.of(record(1)))
            reads.read(Caller(f"task {n}", n), Observed.of(record(1)))
        one = Caller(TASK, "one")
        return reads, [
            steps_of(lambda: reads.read(one, Observed.of(record(1)))),
            steps_of(lambda: reads.evidence(one, record(1))),
            steps_of(lambda: reads.wrote(one, Observed.after_write(record(1)))),
        ]

    few, steps = piled_up(2 * MOST_WORKERS)
    many, more_steps = piled_up(10 * MOST_WORKERS)
    assert more_steps == steps
    of_a_key = (TASK, "space-1", "k")
    assert len(many._reads[of_a_key]) == len(few._reads[of_a_key]) <= MOST_WORKERS


def test_of_too_many_workers_the_oldest_read_is_never_the_one_that_is_forgotten() -> None:
    reads = TaskReads()
    reads.read(Caller(TASK, "child of one"), Observed.of(record(1)))
    for n in range(2 * MOST_WORKERS):
        reads.read(Caller(TASK, n), Observed.of(record(2)))
    assert not write(reads, 2, "one"), "computed from version 1"


def test_reads_that_nobody_has_written_from_do_not_refuse_a_second_write() -> None:
    reads = TaskReads()
    for child in ("a", "b"):  # as a get and a search in `gather`
        reads.read(Caller(TASK, child), Observed.of(record(1)))
    assert write(reads, 1, "one")
    assert write(reads, 2, "one")
    assert not write(reads, 3, "two"), "it may have been given what b has read"


async def test_what_a_caller_hands_to_another_task_is_the_callers() -> None:
    reads = TaskReads()

    async def get(version: int) -> None:
        read(reads, version)

    async def worker() -> list[bool]:
        await asyncio.gather(*(called_by(Caller.of(TASK), get(1)) for _ in range(3)))
        return [write(reads, 1 + len(done)), write(reads, 9)]

    done: list[bool] = []
    for _ in range(2):
        done += await asyncio.create_task(worker())
    assert done == [True, False, False, False]
