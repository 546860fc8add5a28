"""What a replay owes in SQLite: whoever is told that something was applied finds it on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import interlock
from tests.facades import Facades
from tests.replays import ASKED, commit


class Disk:
    """What would be left of a store if the power failed: its files as of the last sync of its log.

    On a machine that stays up SQLite cannot lose what was not synced, so the files are copied when
    they are synced from Python.  SQLite's own syncs, of the commits of a `full` process, go unseen.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.image = path.with_name("image.db")
        self.syncs = 0
        really = os.fsync

        def fsync(fd: int) -> None:
            really(fd)
            if os.path.samestat(os.fstat(fd), os.stat(f"{self.path}-wal")):
                self.syncs += 1
                for end in ("", "-wal"):
                    shutil.copyfile(f"{self.path}{end}", f"{self.image}{end}")

        monkeypatch.setattr(os, "fsync", fsync)

    def has(self, key: str) -> bool:
        """Say whether a key is there after the power failed."""
        with interlock.open(f"sqlite:///{self.image}", "s") as left:
            return left.read(key).exists


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(tmp_path / "team.db", monkeypatch)


@pytest.fixture(params=["sync", "async"])
def facades(request: pytest.FixtureRequest, disk: Disk) -> Iterator[Facades]:
    found = Facades(request.param, f"sqlite:///{disk.path}", "s")
    yield found
    found.close()


@pytest.mark.parametrize("asked", ASKED)
def test_a_replay_reaches_the_disk_before_it_is_answered(
    facades: Facades, disk: Disk, asked: str
) -> None:
    commit(asked, facades.open("us", durability="normal"))
    full = facades.open("us")
    before = disk.syncs
    ASKED[asked](full)
    assert disk.syncs > before
    assert disk.has("k")


@pytest.mark.parametrize("asked", ASKED)
def test_whoever_asks_for_less_waits_for_less(facades: Facades, disk: Disk, asked: str) -> None:
    commit(asked, facades.open("us", durability="normal"))
    ASKED[asked](facades.open("us", durability="normal"))
    assert not disk.syncs


def test_only_a_replay_is_synced_twice(facades: Facades, disk: Disk) -> None:
    """A commit is synced by SQLite; a refusal and a read claim nothing."""
    full = facades.open("us")
    before = disk.syncs
    record = full.create("k", 1, op_id="op")
    full.write(record, 2)
    with pytest.raises(interlock.Conflict):
        full.write(record, 3)
    assert full.outcome("other") is None
    lease = full.lease("k").acquire()
    with pytest.raises(interlock.Held):
        facades.open("other").lease("k", wait=0).acquire()
    lease.release()
    assert disk.syncs == before


def test_a_disk_that_fails_leaves_a_replay_unknown(
    facades: Facades, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for driver in ("drive", "drive_async"):
        monkeypatch.setattr(f"interlock.backends.{driver}.RESUBMIT_FOR", 0.1)
    facades.open("us", durability="normal").create("k", 1, op_id="op")
    full = facades.open("us")

    def fsync(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    for ask in ASKED.values():
        with pytest.raises(interlock.Unknown, match="not synced") as unknown:
            ask(full)
        assert unknown.value.op_id == "op"
