"""Threads that write to a store of one's own: one that loses is found, one that keeps passes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import interlock
from interlock.verify import check_append, check_update


class GetAndSet:
    """A dict that is read, and written back."""

    def __init__(self) -> None:
        self.data: dict[str, list[str]] = {}

    def get(self, key: str) -> list[str] | None:
        return self.data.get(key)

    def set(self, key: str, value: list[str]) -> None:
        self.data[key] = value

    def read(self) -> list[str]:
        return self.data.get("k", [])


class Locked(GetAndSet):
    """The same with a lock around both."""

    lock = threading.Lock()

    def update(self, fn: Callable[[list[str] | None], list[str]]) -> None:
        with self.lock:
            self.set("k", fn(self.get("k")))


def test_get_and_set_loses_and_each_lost_item_is_named() -> None:
    report = check_update(GetAndSet, update=lambda store, fn: store.set("k", fn(store.get("k"))))
    assert report.acknowledged == 100
    assert report.lost
    assert not report.ok
    with pytest.raises(AssertionError, match=r"of 100 acknowledged writes are lost; lost: writer-"):
        report.check()


def test_a_lock_keeps_everything() -> None:
    report = check_update(Locked)
    report.check()
    assert (report.acknowledged, report.errors) == (100, {})


def test_an_append_that_happens_twice_is_named() -> None:
    class Twice(list[str]):
        def append(self, item: str) -> None:
            super().append(item)
            super().append(item)

    report = check_append(Twice, writers=2, each=1, read=list)
    assert (report.lost, set(report.repeated)) == ((), {"writer-0/0", "writer-1/0"})
    with pytest.raises(AssertionError, match="repeated: writer-"):
        report.check()


def test_a_write_that_raises_was_not_acknowledged() -> None:
    class Full(list[str]):
        def append(self, item: str) -> None:
            if len(self) == 3:
                raise OSError("full")
            super().append(item)

    report = check_append(Full, writers=1, each=5, read=list)
    report.check()
    assert (report.acknowledged, report.errors) == (3, {"OSError: full": 2})


def test_a_space_keeps_everything(tmp_path: Path) -> None:
    rules = {"found": interlock.merged("append")}
    with interlock.open(f"sqlite:///{tmp_path}/team.db", rules=rules) as space:
        check_append(
            lambda: space,
            append=lambda space, item: space.append("found", item),
            read=lambda space: space.read("found").value,
        ).check()
        check_update(
            lambda: space,
            each=2,
            update=lambda space, fn: space.update("plan", fn),
            read=lambda space: space.read("plan").value,
        ).check()


@pytest.mark.parametrize(("writers", "each"), [(0, 1), (1, 0), (-1, 1)])
def test_numbers_below_one_are_refused(writers: int, each: int) -> None:
    with pytest.raises(interlock.Invalid, match="must be 1 or more"):
        check_append(list[str], writers, each=each)


def test_a_store_that_acknowledges_nothing_does_not_pass() -> None:
    def refuse(store: list[str], item: str) -> None:
        raise ConnectionError("away")

    async def later(store: list[str], item: str) -> None:
        store.append(item)

    for append, why in ((refuse, "away"), (later, "coroutine")):
        report = check_append(list[str], 1, each=1, append=append, read=list)
        assert (report.acknowledged, report.lost, report.ok) == (0, (), False)
        with pytest.raises(AssertionError, match=why):
            report.check()
