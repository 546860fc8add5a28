"""Plans that travel in one transaction: each is judged on its own, in the order they came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.sqlite import SQLiteBackend
from interlock.core.plan import DELETE, PUT, Expect, Plan, Scanned, Write
from interlock.core.records import Committed
from interlock.core.refusals import Conflict, Fenced, Invalid
from interlock.core.requests import Load, LogPage, ReadLog
from interlock.core.writer import Writer


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[SQLiteBackend]:
    opened = SQLiteBackend(f"sqlite:///{tmp_path / 'groups.db'}", "s")
    yield opened
    opened.close()


def plan(op_id: str, key: str, version: int | None, body: str | None = "1") -> Plan:
    """Write `body` (None: delete) to `key`, computed from `version`."""
    epoch = None if version is None else 0
    write = Write(PUT if body is not None else DELETE, key, body)
    return Writer("", "me", 0).plan(op_id, expects=(Expect(key, version, epoch),), writes=(write,))


def test_of_two_in_a_group_one_wins_and_the_other_gets_its_record(backend: SQLiteBackend) -> None:
    first, second, third = backend._apply(
        [plan("a", "k", 0, '"a"'), plan("b", "k", 0, '"b"'), plan("c", "k", 1, '"c"')]
    )
    assert isinstance(first, Committed)
    assert isinstance(second, Conflict)
    assert (second.actual, second.record.value, second.record.position) == (1, "a", 1)
    assert isinstance(third, Committed)
    assert third.writes[0].version == 2
    record = backend.perform(Load(("k",))).records["k"]
    assert (record.value, record.version, record.position) == ("c", 2, 2)


def test_the_same_operation_twice_in_a_group_is_applied_once(backend: SQLiteBackend) -> None:
    first, second, third = backend._apply(
        [plan("a", "k", 0), plan("a", "k", 0), plan("a", "other", 0)]
    )
    assert isinstance(first, Committed)
    assert isinstance(second, Committed)
    assert (first.replayed, second.replayed) == (False, True)
    assert second.writes == first.writes
    assert isinstance(third, Invalid)
    assert backend.perform(Load(())).position == 1


def test_a_scan_sees_what_the_group_wrote_before_it(backend: SQLiteBackend) -> None:
    booking = plan("b", "total", 0)._replace(scans=(Scanned("room/", ()),))
    first, second = backend._apply([plan("a", "room/1", None), booking])
    assert isinstance(first, Committed)
    assert isinstance(second, Conflict)
    assert (second.prefix, second.key, second.record.version) == ("room/", "room/1", 1)
    assert backend.perform(Load(("total",))).records["total"].version == 0


def test_a_key_deleted_and_created_in_one_group_counts_on(backend: SQLiteBackend) -> None:
    answers = backend._apply(
        [
            plan("a", "k", None, '"old"'),
            plan("b", "k", 1, None),
            plan("c", "k", None, '"new"'),
            plan("d", "k", 1, '"stale"'),
        ]
    )
    assert [type(answer) for answer in answers] == [Committed, Committed, Committed, Conflict]
    record = backend.perform(Load(("k",))).records["k"]
    assert (record.value, record.version) == ("new", 3)


def test_refusals_in_a_group_do_not_touch_the_others(backend: SQLiteBackend) -> None:
    wrong_epoch = plan("e", "k3", 0)._replace(expects=(Expect("k3", 0, 7),))
    answers = backend._apply(
        [plan("a", "k1", 0), plan("b", "k2", 5), wrong_epoch, plan("d", "k4", 0)]
    )
    assert [type(answer) for answer in answers] == [Committed, Conflict, Fenced, Committed]
    page = backend.perform(ReadLog(after=0, limit=10))
    assert isinstance(page, LogPage)
    assert [(e.position, e.key, e.op_id) for e in page.entries] == [(1, "k1", "a"), (2, "k4", "d")]


def test_times_never_fall_though_the_clock_does() -> None:
    times = iter([5_000_000, 9_000_000, 2_000_000, 3_000_000, 10_000_000])
    now = [0]
    backend = SQLiteBackend("sqlite://", "s", clock=lambda: now[0])
    for number, time in enumerate(times):
        now[0] = time
        backend.perform(Load(()))
        assert isinstance(backend._apply([plan(f"o{number}", f"k{number}", 0)])[0], Committed)
    page = backend.perform(ReadLog(after=0, limit=10))
    assert isinstance(page, LogPage)
    assert [entry.time_us for entry in page.entries] == [
        5_000_000,
        9_000_000,
        9_000_000,
        9_000_000,
        10_000_000,
    ]
    backend.close()


def test_threads_that_come_while_one_commits_share_the_next_transaction(tmp_path: Path) -> None:
    with interlock.open(f"sqlite:///{tmp_path / 'store.db'}") as space:
        driver: Any = space.session.driver
        group = driver.backend._group
        sizes: list[int] = []
        honest, entered, go_on = group._apply, threading.Event(), threading.Event()

        def apply(plans: list[Plan]) -> list[object]:
            sizes.append(len(plans))
            if len(sizes) == 1:
                entered.set()
                go_on.wait()
            answers: list[object] = honest(plans)
            return answers

        group._apply = apply
        with ThreadPoolExecutor(20) as threads:
            done = [threads.submit(space.create, "first", 0)]
            entered.wait()
            done += [threads.submit(space.create, f"k/{n}", n) for n in range(19)]
            while len(group._waiting) < 19:
                threading.Event().wait(0.001)
            go_on.set()
            positions = sorted(each.result().position for each in done)
        assert sizes == [1, 19]
        assert positions == list(range(1, 21))
