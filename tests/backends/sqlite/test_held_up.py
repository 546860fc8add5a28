"""Somebody holds a store up: a writer that was stopped, a reader that never ends."""

from __future__ import annotations

import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.sqlite import health, store
from tests.facades import Facades

OTHER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(sys.argv[2])
db.execute("SELECT COUNT(*) FROM log").fetchone()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """A new file for each test."""
    return f"sqlite:///{tmp_path / 'store.db'}"


def path_of(facades: Facades) -> Path:
    return Path(facades.url.removeprefix("sqlite:///"))


@contextmanager
def another(facades: Facades, begin: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has a transaction open."""
    command = [sys.executable, "-c", OTHER, str(path_of(facades)), begin]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_stopped_writer_is_named(facades: Facades) -> None:
    space = facades.open(busy_timeout=0.05)
    with another(facades, "BEGIN IMMEDIATE") as writer:
        with pytest.raises(interlock.Unavailable, match=rf"^process {writer.pid} \(.*\) kept"):
            space.create("k", 1)
        writer.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WNOWAIT)
        stopped = rf"{writer.pid} .*which is stopped \(kill -CONT {writer.pid}\)"
        with pytest.raises(interlock.Unavailable, match=stopped):
            space.create("k", 1)
    assert space.create("k", 1).version == 1


READS: dict[str, Callable[[Any], Any]] = {
    "log": lambda space: space.log(),
    "history": lambda space: space.history("k"),
    "scan": lambda space: space.scan(""),
    "watch": lambda space: space.watch(after=0),
    "at": lambda space: space.at(position=1).scan(""),
    "group": lambda space: space.group("g", consumer="c", start=0).take(1),
}


@pytest.mark.parametrize("read", READS)
def test_a_reader_holds_no_snapshot_between_pages(facades: Facades, read: str) -> None:
    space = facades.open()
    with space.transaction() as tx:
        for number in range(5):
            tx.create(f"k{number}" if number else "k", number)
    begun = iter(READS[read](space))  # a loop that is not over yet
    next(begun)
    space.create("more", 1)
    with closing(sqlite3.connect(path_of(facades))) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    del begun


def test_a_reader_that_lets_the_log_grow_is_named(
    facades: Facades, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "LOG_LIMIT", 200_000)
    monkeypatch.setattr(store, "LOG_LIMIT", 200_000)
    monkeypatch.setattr(store, "_LOOK_EVERY", 1)
    space = facades.open()
    space.create("k", 1)
    path = path_of(facades)
    with caplog.at_level(logging.WARNING, logger="interlock"):
        space.update("k", lambda _: "x" * 300_000, touch=True)
        assert caplog.messages == [], "large, and held up by nobody"
        with another(facades, "BEGIN") as reader:
            for _ in range(4):
                space.update("k", lambda _: "x" * 300_000, touch=True)
            named = rf"log has \d+ MB because process {reader.pid} \(.*\) keeps an old snapshot"
            found = health.log_health(path)
            assert [each.pid for each in found.readers] == [reader.pid]
            assert found.waiting > 0
            assert interlock is not None
            assert re.search(named, found.problem)
    assert 0 < len(caplog.messages) < 4, "not at each commit"
    assert re.search(named, caplog.messages[0])
    assert health.log_health(path).problem == ""


def test_a_process_that_writes_once_says_so_too(
    facades: Facades, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "LOG_LIMIT", 200_000)
    monkeypatch.setattr(store, "LOG_LIMIT", 200_000)
    with interlock.open(facades.url, space="once", agent="many") as space:
        space.create("k", 1)
        with another(facades, "BEGIN"):
            for _ in range(2):
                space.update("k", lambda _: "x" * 300_000, touch=True)
            space.close()
            assert caplog.messages == []
            with interlock.open(facades.url, space="once", agent="short") as short:
                short.create("once", 1)
            assert "keeps an old snapshot" in caplog.messages[0]
