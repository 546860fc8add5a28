"""A store that is busy, a disk that is full: a typed error, nothing half-written, then on."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.drive import SyncDriver
from interlock.errors import AnswerLost
from tests.processes.writers import disagreements

# Writes until the disk is full, says so, then shows that what was acknowledged is there.
FILL = """
import json, resource, signal, sys, interlock
url, limit = sys.argv[1], int(sys.argv[2])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
space = interlock.open(url, agent="filler")
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
acknowledged = []
try:
    for number in range(1000):
        with space.transaction() as tx:
            tx.create(f"a/{number}", "x" * 20_000)
            tx.create(f"b/{number}", "x" * 20_000)
        acknowledged.append(number)
    problem = None
except interlock.Fault as fault:
    problem = fault
kept = len(space.scan("a/")), len(space.scan("b/"))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    space.create("afterwards", 1)
print(json.dumps([type(problem).__name__, str(problem), len(acknowledged), *kept]))
"""


def writer_of(space: Any) -> Any:
    """The connection that the space writes with, as a context manager."""
    return space.session.driver.backend._pool.writer()


def fill(url: str, limit: int = 0, *before: str) -> list[Any]:
    command = [*before, sys.executable, "-c", FILL, url, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: list[Any] = json.loads(done.stdout)
    return answer


def with_small_disk(folder: Path, then: str) -> list[str]:
    """A command that mounts a disk of four megabytes, runs the shell script `then` in it, and then
    the command that follows."""
    mount = ["unshare", "--map-root-user", "--mount", "--"]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk; the page limit below remains")
    script = f'mount -t tmpfs -o size=4m tmpfs {folder} && cd {folder} && {then} && exec "$@"'
    return [*mount, "sh", "-c", script, "sh"]


def test_a_full_disk_is_unavailable_and_nothing_is_half_written(tmp_path: Path) -> None:
    answer = fill(f"sqlite:///{tmp_path}/full.db", 0, *with_small_disk(tmp_path, "true"))
    kind, text, acknowledged, first, second = answer
    assert (kind, first, second) == ("Unavailable", acknowledged, acknowledged)
    assert "The disk of" in text
    assert "full" in text
    assert acknowledged > 10


@pytest.mark.parametrize(
    ("then", "command", "why"),
    [
        ("{put} && mount -o remount,ro .", "get", "folder is read-only"),
        ("{put} && mount -o remount,ro .", "put", "folder is read-only"),
        ("mount -o remount,ro .", "put", "folder is read-only"),
        ("{put} && (head -c 8m /dev/zero > rest || true)", "put", "is full. Nothing was written"),
    ],
)
def test_a_disk_that_is_full_or_read_only_is_told_as_such(
    tmp_path: Path, then: str, command: str, why: str
) -> None:
    interlock = [sys.executable, "-c", "from interlock.cli import main; main()"]
    put = shlex.join([*interlock, "put", "k", "1"])
    before = with_small_disk(tmp_path, f"({then.format(put=put)}) 2>/dev/null >/dev/null")
    value = ["--force", "2"] if command == "put" else []
    told = subprocess.run(
        [*before, *interlock, command, "k", *value],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "INTERLOCK_STORE": f"sqlite:///{tmp_path}/team.db"},
    )
    assert (told.returncode, why in told.stderr) == (1, True), told.stderr


def test_a_full_database_is_unavailable_and_nothing_is_half_written(tmp_path: Path) -> None:
    with interlock.open(f"sqlite:///{tmp_path / 'full.db'}") as space:
        with writer_of(space) as connection:
            connection.execute("PRAGMA max_page_count=100")
        written = 0
        with pytest.raises(interlock.Unavailable, match=r"full\. Nothing was written"):  # noqa: PT012  # which write finds it full is SQLite's affair
            for number in range(100):
                with space.transaction() as tx:
                    tx.create(f"a/{number}", "x" * 9000)
                    tx.create(f"b/{number}", "x" * 9000)
                written += 1
        assert len(space.scan("a/")) == len(space.scan("b/")) == written > 3
        assert disagreements(space) == []
        with writer_of(space) as connection:
            connection.execute("PRAGMA max_page_count=100000")
        assert space.create("afterwards", "x" * 9000).position == 2 * written + 1


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_a_fault_and_nothing_is_half_written(tmp_path: Path) -> None:
    """A quota: SQLite cannot say whether the commit got through, so the driver asks again."""
    url = f"sqlite:///{tmp_path / 'quota.db'}"
    kind, _, acknowledged, first, second = fill(url, 1_000_000)
    assert kind in ("Unknown", "Unavailable")
    assert first == second == acknowledged > 5
    with interlock.open(url) as space:
        assert disagreements(space) == []
        assert space.read("afterwards").value == 1


def test_a_busy_store_is_unavailable_after_the_limit_and_usable_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "busy.db"
    with interlock.open(f"sqlite:///{path}", busy_timeout=0.05) as space:
        record = space.create("k", 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(interlock.Unavailable, match="busy_timeout"):
                space.write(record, 2)
            with pytest.raises(interlock.Unavailable, match="busy_timeout"):
                space.update("k", lambda n: n + 1, turns="always")
            assert space.read("k").value == 1, "readers never wait for writers"
            other.execute("ROLLBACK")
        assert space.write(record, 2).version == 2


def test_waiting_for_a_busy_store_ends_when_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "busy.db"
    with (
        interlock.open(f"sqlite:///{path}", busy_timeout=60) as space,
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        free = threading.Timer(0.2, lambda: other.execute("COMMIT"))
        free.start()
        assert space.create("k", 1).version == 1
        free.join()


class _Forgetful:
    """A backend whose answers get lost: `after` the request was carried out, or before."""

    def __init__(self, backend: Any, losses: int, after: bool) -> None:
        self._backend = backend
        self._losses = losses
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def perform(self, request: Any) -> Any:
        if self._losses:
            self._losses -= 1
            if self._after:
                self._backend.perform(request)
            raise AnswerLost("the cable was cut")
        return self._backend.perform(request)


@pytest.mark.parametrize("after", [True, False])
def test_a_lost_answer_is_asked_for_again_and_applied_once(after: bool) -> None:
    with interlock.open("sqlite://", agent="us") as space:
        first = space.create("k", 1)
        honest = space.session.driver.backend
        space.session.driver = SyncDriver(_Forgetful(honest, 2, after))
        second = space.write(first, 2)
        assert (second.version, second.position) == (2, 2)
        assert [entry.value for entry in space.log()] == [1, 2]


def test_an_answer_that_stays_away_is_unknown_and_names_the_operation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("interlock.backends.drive.RESUBMIT_FOR", 0.1)
    with interlock.open("sqlite://", agent="us") as space:
        first = space.create("k", 1)
        honest = space.session.driver.backend
        space.session.driver = SyncDriver(_Forgetful(honest, 10_000, after=True))
        with pytest.raises(interlock.Unknown) as lost:
            space.write(first, 2)
        space.session.driver = SyncDriver(honest)
        done = space.outcome(lost.value.op_id)
        assert done is not None
        assert done.position == 2
        assert space.write(first, 2, op_id=lost.value.op_id).version == 2
        assert space.position() == 2
