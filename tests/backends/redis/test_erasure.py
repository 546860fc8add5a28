"""After an erasure the text is in no snapshot that Redis writes, nor in its append-only file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.redis import calls
from interlock.core.requests import Trim
from tests.servers.redis import Redis

SECRET = "alice@example.com"
RULES = {"found/*": interlock.merged("append")}


def count(folder: Path, pattern: str) -> int:
    files = [file for file in folder.rglob(pattern) if file.is_file()]
    assert files
    return sum(file.read_bytes().count(SECRET.encode()) for file in files)


def test_the_text_is_nowhere_in_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_COPIED", 100)
    with (
        Redis.start(tmp_path, {"rdbcompression": "no", "save": "3600 1000000"}) as server,
        interlock.open(server.url(), agent="ann", rules=RULES) as space,
    ):
        record = space.create("a", SECRET)
        record = space.write(record, SECRET)
        for n in range(450):
            space.append(f"found/{n % 2}", SECRET if n % 5 else n)
        space.scan()
        server.ask("SAVE")
        assert count(tmp_path, "*.rdb") > 100
        done = space.erase(where=lambda entry: SECRET in str(entry.value))
        assert any("BGREWRITEAOF" in each for each in done.remains)
        assert space.read("found/0").value == [*range(0, 450, 10)]
        server.ask("SAVE")
        assert count(tmp_path, "*.rdb") == 0
        done = space.erase("a", vacuum=True)
        assert len(done.done) == 2
        assert count(tmp_path, "*.rdb") == count(tmp_path, "*.aof") == 0
        assert [entry.position for entry in space.log()] == [*range(1, space.position() + 1)]
        assert server.ask("KEYS", "*erasing*") == server.ask("KEYS", "*copy*") == []


def test_a_log_that_is_trimmed_and_written_while_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step of the copy is followed by a commit, and one of them by a cut."""
    monkeypatch.setattr(calls, "_COPIED", 7)
    with (
        Redis.start(tmp_path) as server,
        interlock.open(server.url(), agent="ann", rules=RULES) as space,
        interlock.open(server.url(), agent="bob", rules=RULES) as other,
    ):
        for n in range(30):
            space.append("found/0", SECRET if n % 5 == 0 else n)
        driver, steps = space.session.driver, 0
        perform = driver.backend.perform

        def among_others(request: Any) -> Any:
            nonlocal steps
            answer = perform(request)
            if type(request).__name__ == "Scrub":
                steps += 1
                other.append("found/0", -steps)
                if steps == 2:
                    backend = other.session.driver.backend
                    erasures = backend.perform(Trim(0, ())).erasures
                    folds = (("found/0", "[]"),)
                    assert backend.perform(Trim(4, folds, erasures)).cut == 4
            return answer

        monkeypatch.setattr(driver.backend, "perform", among_others)
        space.erase("found/0", where=lambda entry: entry.value == SECRET)
        assert steps > 3
        assert SECRET not in str([*space.log()])
        assert [entry.position for entry in space.log()] == [*range(5, space.position() + 1)]
        written = [n for n in space.read("found/0").value if n < 0]
        assert written == [*range(-1, -steps - 1, -1)]


def test_a_value_that_has_expired_and_is_not_swept_goes_too(tmp_path: Path) -> None:
    with (
        Redis.start(tmp_path, {"rdbcompression": "no", "save": "3600 1000000"}) as server,
        interlock.open(server.url(), agent="ann") as space,
    ):
        space.create("a", SECRET, expires=0.001)
        while space.read("a").exists:
            space.create("tick", 1, op_id="tick")
        space.erase("a")
        server.ask("SAVE")
        assert count(tmp_path, "*.rdb") == 0
        assert not space.read("a").exists
