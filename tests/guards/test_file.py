"""Files that other programs use: what is kept of them, who may be killed, what is merged."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from errno import EINVAL
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock import guards
from interlock.errors import Unavailable
from interlock.files import disk
from interlock.guards.places import file as place

BEFORE, AFTER = {"n": 1}, {"n": 2}


def increment(value: Any) -> Any:
    """Add one."""
    return {**value, "n": value["n"] + 1}


def rename_over(path: Path, text: str) -> None:
    """Write as programs do that know no guard, but care for readers."""
    new = path.with_suffix(".theirs")
    new.write_text(text)
    new.rename(path)


def names(folder: Path) -> list[str]:
    """Return what is in a folder, but for locks."""
    return sorted(each.name for each in folder.iterdir() if not each.name.endswith("lock"))


def test_json_keeps_its_style_and_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{\n    "n": 1\n}\n')
    path.chmod(0o600)
    guards.file(path).update("a.json", increment)
    assert path.read_text() == '{\n    "n": 2\n}\n'
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text('{"n":1}')
    guards.file(tmp_path).update("a.json", increment)
    assert path.read_text() == '{"n": 2}'
    assert names(tmp_path) == ["a.json"]


def test_toml_is_read_and_written_and_keeps_its_times(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("n = 1\nat = 2026-01-01T10:00:00Z\n")
    guard = guards.file(tmp_path)
    assert guard.read("a.toml").value == {"n": 1, "at": "2026-01-01T10:00:00+00:00"}
    guard.update("a.toml", increment)
    assert path.read_text() == "n = 2\nat = 2026-01-01 10:00:00+00:00\n"
    with pytest.raises(interlock.Invalid, match="without null"):
        guard.update_fields("a.toml", {"n": None})


def test_text_and_bytes(tmp_path: Path) -> None:
    guard = guards.file(tmp_path)
    assert guard.create("a.md", "# One\n").value == (tmp_path / "a.md").read_text() == "# One\n"
    (tmp_path / "a.bin").write_bytes(b"\xff")
    record = guard.read("a.bin")
    assert record.value == {"base64": "/w=="}
    guard.write(record, {"base64": "AAA="})
    assert (tmp_path / "a.bin").read_bytes() == b"\0\0"
    for key, value in (("a.md", 7), ("b.bin", {"base64": "?"}), ("b.bin", [1])):
        with pytest.raises(interlock.Invalid):
            guard.write(guard.read(key), value)


def test_texts_are_merged_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("one\ntwo\nthree\nfour\n")
    guard = guards.file(tmp_path, merge=True)
    record = guard.read("a.md")
    rename_over(path, "ONE\ntwo\nthree\nfour\n")
    made = guard.write(record, "one\ntwo\nthree\nFOUR\n")
    assert made.value == path.read_text() == "ONE\ntwo\nthree\nFOUR\n"
    assert guard.write(made, "last\n").value == path.read_text()
    with pytest.raises(interlock.Conflict):
        guard.write(record, "uno\ntwo\nthree\nfour\n")
    with pytest.raises(interlock.Conflict):
        guards.file(tmp_path).write(record, "one\ntwo\nthree\nFOUR\n")


def test_what_is_no_file_below_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("no json")
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    guard = guards.file(tmp_path)
    for key in (
        "../x",
        "/etc/passwd",
        "a/../b",
        "a//b",
        "a\0b",
        "a.json",
        "link.json",
        ".",
        ".a.interlock-lock",
    ):
        with pytest.raises(interlock.Invalid):
            guard.read(key)
    with pytest.raises(interlock.Invalid, match="of one file"):
        guards.file(tmp_path / "a.json").read("b.json")
    with pytest.raises(interlock.Invalid, match="no folder"):
        guards.file(tmp_path / "none" / "a.json")
    with pytest.raises(interlock.Invalid, match="kind="):
        guards.file(tmp_path, kind="yaml")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no-exchange"])
def test_a_change_that_comes_between_comparing_and_replacing_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"n": 1}')
    real = disk.exchange

    def first_theirs(source: str, folder: int, name: str) -> None:
        if json.loads(path.read_text()) == BEFORE:
            rename_over(path, '{"n": 10}')
        if not exchange:
            raise OSError(EINVAL, "")
        real(source, folder, name)

    monkeypatch.setattr(disk, "exchange", first_theirs)
    guard = guards.file(tmp_path)
    with pytest.raises(interlock.Conflict) as caught:
        guard.write(guard.read("a.json"), AFTER)
    assert caught.value.record.value == json.loads(path.read_text()) == {"n": 10}
    assert names(tmp_path) == ["a.json"]


def test_a_change_that_comes_between_comparing_and_deleting_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"n": 1}')
    guard = guards.file(tmp_path)
    real = os.rename

    def first_theirs(source: Any, target: Any) -> None:
        if Path(source) == path:
            monkeypatch.setattr(os, "rename", real)
            rename_over(path, '{"n": 10}')
        real(source, target)

    record = guard.read("a.json")
    monkeypatch.setattr(os, "rename", first_theirs)
    with pytest.raises(interlock.Conflict):
        guard.delete(record)
    assert json.loads(path.read_text()) == {"n": 10}


STEPS = ("write", "exchange", "place", "remove", "flush", "look")


def killed(step: int, work: Callable[[], object], before: Callable[[], object]) -> bool:
    """Do some work in a child that is killed before its step of that number; say whether it was.

    `before` is done just before the file changes places.
    """
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = step

    def counted(real: Callable[..., Any], first: Callable[[], object]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            first()
            return real(*arguments)

        return call

    for name in STEPS:
        first = before if name == "exchange" else int
        setattr(disk, name, counted(getattr(disk, name), first))
    os.rename = counted(os.rename, int)
    work()
    os._exit(0)


@pytest.mark.parametrize("outside", [False, True], ids=["alone", "with-an-outside-writer"])
def test_whoever_is_killed_leaves_one_of_both_and_no_lock(tmp_path: Path, outside: bool) -> None:
    path, step = tmp_path / "a.json", 0
    guard = guards.file(tmp_path)

    def theirs() -> None:
        if outside and json.loads(path.read_text()) == BEFORE:
            (tmp_path / "theirs").write_text('{"n": 10}')
            os.replace(tmp_path / "theirs", path)

    def write() -> None:
        with suppress(interlock.Conflict):
            guard.write(guard.read("a.json"), AFTER)

    while True:
        path.write_text('{"n": 1}')
        was_killed = killed(step, write, theirs)
        found = guards.file(tmp_path).update("a.json", lambda value: {**value, "seen": value["n"]})
        allowed = ({"n": 1}, {"n": 10}) if outside else (BEFORE, AFTER)
        assert {"n": found.value["seen"]} in allowed, step
        assert names(tmp_path) == ["a.json"], step
        if not was_killed:
            break
        step += 1
    assert step >= 6


@pytest.mark.parametrize("deletes", [False, True], ids=["write", "delete"])
def test_writers_outside_at_any_two_steps_lose_nothing_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletes: bool
) -> None:
    """What they wrote is there, or kept beside it, or one of them has displaced it itself."""
    path, real = tmp_path / "a.json", disk.exchange
    guard, steps = guards.file(tmp_path), 0
    due: dict[int, str] = {}
    displaced: list[str] = []
    step = -1

    def strike(text: str) -> None:
        (tmp_path / "theirs").write_text(text)
        if not path.exists():
            (tmp_path / "theirs").rename(path)
            return
        folder = os.open(tmp_path, os.O_RDONLY)
        real(str(tmp_path / "theirs"), folder, path.name)
        os.close(folder)
        displaced.append((tmp_path / "theirs").read_text())
        (tmp_path / "theirs").unlink()

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def first_theirs(*arguments: Any) -> Any:
            nonlocal step
            step += 1
            if step in due:
                strike(due.pop(step))
            return call(*arguments)

        return first_theirs

    for name in STEPS:
        monkeypatch.setattr(disk, name, watched(getattr(disk, name)))
    pairs = [(99, 99)]  # never
    for first, second in pairs:  # grows as steps are found
        for each in tmp_path.iterdir():
            each.unlink()
        path.write_text('{"n": 1}')
        record = guard.read("a.json")
        due, step = {first: '{"n": 10}', second: '{"n": 20}'}, -1
        struck = {*due.values()}
        displaced.clear()
        with suppress(interlock.Conflict):
            guard.delete(record) if deletes else guard.write(record, AFTER)
        struck -= {*due.values()}
        files = [each for each in tmp_path.iterdir() if not each.name.endswith("-lock")]
        there = {each.read_text() for each in files} | {*displaced}
        assert struck <= there, (first, second)
        while steps <= step:
            pairs += [(at, steps) for at in range(steps + 1)]
            steps += 1
    assert steps > 3


def test_a_lock_that_somebody_alive_keeps_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_PATIENCE", 0.05)
    with place._locked(tmp_path / "a.json"), pytest.raises(Unavailable, match="has had the lock"):
        guards.file(tmp_path).create("a.json", 1)


def test_a_disk_that_refuses_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write", full)
    with pytest.raises(Unavailable, match="No space left"):
        guards.file(tmp_path).create("a.json", 1)
    assert names(tmp_path) == []


def test_blind_writers_lose_nothing_to_the_guard(tmp_path: Path) -> None:
    """A guarded write counts on from what it replaces: no two count from the same."""
    path = tmp_path / "a.json"
    path.write_text('{"n": 0}')
    guard = guards.file(tmp_path)

    def legacy() -> None:
        for count in range(200):
            rename_over(path, json.dumps({"n": 0, "legacy": count}))

    counted = []

    def guarded() -> None:
        for _ in range(5):
            made = guard.update("a.json", increment, attempts=10_000, turns="never").value
            counted.append((made.get("legacy"), made["n"]))

    with ThreadPoolExecutor(5) as pool:
        stranger = pool.submit(legacy)
        for each in [pool.submit(guarded) for _ in range(4)]:
            each.result()
        stranger.result()
    assert len({*counted}) == len(counted) == 20  # two that both saw the same would be the same


@pytest.mark.usefixtures("long_thoughts")
def test_agents_in_turns_think_less_than_twice_each(tmp_path: Path) -> None:
    path, thoughts, all_read = tmp_path / "a.json", [], threading.Barrier(10)
    path.write_text('{"n": 0}')
    with interlock.open("sqlite://") as space:
        guard = guards.file(tmp_path, turns=space)

        def think(value: Any) -> Any:
            thoughts.append(value)
            if len(thoughts) <= 10:
                all_read.wait(60)
            return increment(value)

        with ThreadPoolExecutor(10) as pool:
            for each in [pool.submit(guard.update, "a.json", think) for _ in range(10)]:
                each.result()
    assert json.loads(path.read_text()) == {"n": 10}
    assert len(thoughts) == 19
