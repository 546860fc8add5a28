"""Hooks: beside the path of a write, which they can neither slow nor break."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import interlock
from interlock.observe import hooks

WAIT = 20  # seconds


@pytest.fixture
def space() -> Iterator[interlock.Space]:
    with interlock.open("sqlite://", agent="us") as opened:
        yield opened


def test_a_hook_that_hangs_does_not_hold_up_a_write_and_what_is_left_out_is_counted(
    space: interlock.Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "WAITING", 2)
    begun, go_on = threading.Event(), threading.Event()
    keys: list[str] = []

    def hang(commit: interlock.CommitNotice) -> None:
        begun.set()
        assert go_on.wait(WAIT)
        keys.append(commit.key)

    space.on("commit", hang)
    space.create("first", 1)
    assert begun.wait(WAIT)
    for key in "abcd":
        space.create(key, 1)
    assert keys == []
    assert space.metrics().hooks_left_out == 2
    go_on.set()
    space.close()
    assert keys == ["first", "a", "b"]


def test_what_happened_before_a_hook_was_ended_still_reaches_it(space: interlock.Space) -> None:
    go_on = threading.Event()
    space.on("commit", lambda commit: go_on.wait(WAIT))  # holds up the one behind it
    keys: list[str] = []
    off = space.on("commit", lambda commit: keys.append(commit.key))
    space.create("before", 1)
    space.create("before too", 1)
    off()
    space.create("after", 1)
    go_on.set()
    space.close()
    assert keys == ["before", "before too"]


def test_closing_does_not_wait_for_a_hook_that_hangs(
    space: interlock.Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "_CLOSING", 0.01)
    go_on = threading.Event()
    space.on("commit", lambda commit: go_on.wait(WAIT))
    space.create("a", 1)
    space.create("b", 1)
    space.close()
    assert space.metrics().hooks_left_out >= 1
    go_on.set()


def test_what_a_hook_raises_is_logged_once_and_raised_nowhere(
    space: interlock.Space, caplog: pytest.LogCaptureFixture
) -> None:
    keys: list[str] = []

    def broken(commit: interlock.CommitNotice) -> None:
        raise SystemExit("not here")

    space.on("commit", broken)
    space.on("commit", lambda commit: keys.append(commit.key))
    for key in "abc":
        space.create(key, 1)
    space.close()
    assert keys == ["a", "b", "c"]
    lines = [record for record in caplog.records if record.name == "interlock"]
    assert [line.levelno for line in lines] == [logging.ERROR]
    assert "A hook of 'commit' raised SystemExit" in lines[0].getMessage()


def test_a_hook_may_use_the_space(space: interlock.Space) -> None:
    done = threading.Event()

    def count(commit: interlock.CommitNotice) -> None:
        if commit.key == "k":
            space.update("count", lambda n: n + 1, default=0)
            done.set()

    space.on("commit", count)
    space.create("k", 1)
    assert done.wait(WAIT)
    assert space.read("count").value == 1


@pytest.mark.parametrize(
    ("event", "fn", "said"),
    [
        ("comit", print, "'comit' is no event"),
        ("commit", None, "must be a function"),
        ("commit", asyncio.sleep, "coroutine function"),
    ],
)
def test_a_bad_hook_is_refused(space: interlock.Space, event: Any, fn: Any, said: str) -> None:
    with pytest.raises(interlock.Invalid, match=said):
        space.on(event, fn)


async def test_a_coroutine_function_is_called_in_the_event_loop() -> None:
    threads: list[Any] = []

    async def told(notice: interlock.RefusalNotice) -> None:
        await asyncio.sleep(0)
        threads.append((threading.get_ident(), notice.reason))

    async with interlock.open_async("sqlite://", agent="us") as space:
        space.on("refusal", told)
        await space.create("k", 1)
        with pytest.raises(interlock.Conflict):
            await space.create("k", 2)
    assert threads == [(threading.get_ident(), "Conflict")]


def test_a_coroutine_function_outside_of_a_loop_is_refused() -> None:
    async def opened() -> interlock.AsyncSpace:
        return await interlock.open_async("sqlite://")

    async def told(notice: object) -> None: ...

    space = asyncio.run(opened())
    with pytest.raises(interlock.Invalid, match="event loop"):
        space.on("commit", told)
    asyncio.run(space.close())


def test_a_forked_child_tells_its_own_hooks(tmp_path: Any) -> None:
    with interlock.open(f"sqlite:///{tmp_path / 'store.db'}", agent="us") as space:
        keys: list[str] = []
        space.on("commit", lambda commit: keys.append(commit.key))
        space.create("parent", 1)
        child = os.fork()
        if not child:
            keys.clear()
            space.create("child", 1)
            space.session.driver.observer.hooks.close()
            os._exit(0 if keys == ["child"] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert keys == ["parent"]
