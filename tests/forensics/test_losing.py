"""The losing application: the audit finds its six causes, forensics names what its ledger knows,
from each source; repaired, it has and loses nothing."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.losing import app, repaired
from examples.losing.ledger import Ledger
from interlock.cli import main
from interlock.forensics import (
    Event,
    Findings,
    Keyspace,
    Watcher,
    find_losses,
    monitor_lines,
    open_feed,
    open_source,
)
from tests.documents import blocks, commands
from tests.forensics.test_losses import named
from tests.repository import ROOT, text_of
from tests.servers.process import wait_until
from tests.servers.redis import Redis


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis.start(tmp_path_factory.mktemp("losing"), {"appendfsync": "always"}) as server:
        yield server


@contextmanager
def captured(url: str, file: Path) -> Iterator[None]:
    """Save what MONITOR shows meanwhile."""
    ready, stop = threading.Event(), threading.Event()

    def capture() -> None:
        with file.open("wb") as out:
            for line in monitor_lines(url):
                if line:
                    out.write(line + b"\n")
                    ready.set()
                elif stop.is_set():
                    return

    with running(capture):
        assert ready.wait(20)
        try:
            yield
        finally:
            stop.set()


@contextmanager
def recorded(url: str, events: list[Event]) -> Iterator[None]:
    """Take in keyspace events meanwhile."""
    keyspace, stop = Keyspace(url, enable=True), threading.Event()

    def record() -> None:
        while (found := keyspace.poll(0.2)) or not stop.is_set():
            events.extend(found)

    with running(record):
        try:
            yield
        finally:
            stop.set()
    keyspace.close()


@contextmanager
def running(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
        assert not thread.is_alive()


def truth(ledger: Ledger) -> set[tuple[str, str]]:
    return {(lost.key, lost.token) for lost in ledger.lost}


def found_in(source: str) -> Findings:
    found = open_source(source)
    return find_losses(
        found.read(), from_start=found.from_start, shows_reads=found.kind == "monitor"
    )


@pytest.mark.parametrize("seed", range(3))
def test_every_lost_write_is_named_and_none_is_invented(
    redis: Redis, tmp_path: Path, seed: int
) -> None:
    redis.ask("FLUSHALL")
    capture = tmp_path / "capture.txt"
    with captured(redis.url(), capture):
        ledger = app.run(redis.url(), seed)
    assert len(ledger.lost) > 5
    from_monitor = named(found_in(str(capture)))
    assert set(from_monitor) == truth(ledger)
    from_log = set(named(found_in(redis.url())))  # which has no reads: content alone says it
    assert len(from_log & truth(ledger)) >= 0.8 * len(ledger.lost)


def test_an_append_only_file_and_keyspace_events_name_a_part(tmp_path: Path) -> None:
    events: list[Event] = []
    with Redis.start(tmp_path / "redis", {"appendfsync": "always"}) as redis:
        with recorded(redis.url(), events):
            ledger = app.run(redis.url(), 1)
        flags = redis.ask("CONFIG", "GET", "notify-keyspace-events")[1]
    assert flags == ""  # as it was before
    from_file = set(named(found_in(str(redis.folder / "appendonly.aof"))))
    from_events = set(named(find_losses(events)))
    for found in (from_file, from_events):
        assert len(found - truth(ledger)) <= 2  # what was read is not in there
    assert len(from_file & truth(ledger)) >= len(truth(ledger)) / 3


def test_what_was_lost_is_brought_back(redis: Redis, tmp_path: Path) -> None:
    redis.ask("FLUSHALL")
    capture = tmp_path / "capture.txt"
    with captured(redis.url(), capture):
        ledger = app.run(redis.url(), 2)
    call = ("forensics", str(capture), "--into", redis.url(), "--reapply", "--match", "trip:*")
    shown = CliRunner().invoke(main, call)
    assert (shown.exit_code, "Nothing is written." in shown.output) == (6, True)
    done = CliRunner().invoke(main, [*call, "--yes", "--json"])
    clashes = sum(len(json.loads(line)["clashes"]) for line in done.stdout.splitlines())
    assert done.exit_code == (6 if clashes else 0)
    superseded = {lost.token for lost in ledger.lost if lost.key == "trip:plan"}
    for lost in ledger.lost:
        gone = lost.token in superseded | ledger.taken_out(lost.key)
        if lost.key.startswith("trip:") and not gone:
            assert lost.token in redis.ask("GET", lost.key)


def test_each_overlap_is_raised_within_a_second(redis: Redis) -> None:
    redis.ask("FLUSHALL")
    watcher = Watcher(lambda position: open_feed(redis.url(), position=position))
    raised: dict[tuple[str, int], float] = {}
    done = threading.Event()

    def watch() -> None:
        late = 0.0
        while not done.is_set() or time.time() < late:
            for alert in watcher.poll(0.05):
                raised.setdefault((alert.key, alert.time_us), time.time())
            late = late or (time.time() + 1.0 if done.is_set() else 0.0)

    with running(watch):
        app.run(redis.url(), 3)
        done.set()
    watcher.close()
    overlaps = found_in(redis.url()).overlaps
    assert len(overlaps) > 5
    for overlap in overlaps:
        seen = raised[overlap.key, overlap.time_us]
        assert seen - overlap.time_us / 1e6 < 1.0


def test_the_repaired_application_loses_nothing(redis: Redis, tmp_path: Path) -> None:
    redis.ask("FLUSHALL")
    capture = tmp_path / "capture.txt"
    with captured(redis.url(), capture):
        ledger = repaired.run(redis.url(), 1)
    assert (ledger.lost, ledger.writes) == ([], 47)
    assert found_in(str(capture)).losses == []
    assert found_in(redis.url()).losses == []


@pytest.mark.slow
def test_the_audit_finds_the_six_causes_and_none_in_the_repaired() -> None:
    found = {}
    for name in ("app", "repaired"):
        ran = CliRunner().invoke(
            main, ["audit", str(ROOT / f"examples/losing/{name}.py"), "--json"]
        )
        found[name] = {
            (each["rule"], each["function"]) for each in json.loads(ran.stdout)["findings"]
        }
    assert found["app"] >= {
        ("lost-update", "Agent.book"),
        ("lost-append", "Agent.take_note"),
        ("shared-key", "Agent.report"),
        ("stale-retry", "Agent.spend"),
        ("graph-state", "search.node.find"),
        ("write-behind", "Agent.remember"),
    }
    assert found["repaired"] == set()


def test_the_page_runs_as_it_says(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.ask("FLUSHALL")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    page = text_of(ROOT / "docs/how-to/lost-writes.md").split("\n## How sure")[0]
    lines = [line for block in blocks(page) for line in commands(block)]
    assert len(lines) == 13
    recorders: list[subprocess.Popen[bytes]] = []
    for line in lines:
        command, _, code = line.partition("  # exit code ")
        command = command.replace("redis://localhost:6379/", redis.url()[:-1])
        program, *words = shlex.split(command)
        if words[-1] == "&":
            run = [sys.executable, "-c", "from interlock.cli import main; main()", *words[:-1]]
            recorders.append(subprocess.Popen(run))
            wait_until(lambda: "cmd=monitor" in redis.ask("CLIENT", "LIST"), "it records")
        elif program == "python":
            module, url = {"app": app, "repaired": repaired}[words[1].split(".")[-1]], words[2]
            module.run(url, int(words[4]))
            recorders[-1].send_signal(signal.SIGINT)
            assert recorders[-1].wait(60) == 130
        else:
            ran = CliRunner().invoke(main, words)
            assert ran.exit_code == int(code or 0), (line, ran.output)
