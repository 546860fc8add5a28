"""Shared documents edited by processes that are killed and stopped anywhere.

`INTERLOCK_FILES_SECONDS=60` edits for a minute instead of a few seconds, and strikes at every step.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

import interlock
from tests.processes.documents import PATHS, edit_for_ever, lines_of, seal, struck
from tests.processes.writers import FORKSERVER, Place, preload
from tests.servers.process import wait_until

SECONDS = float(os.environ.get("INTERLOCK_FILES_SECONDS", "5"))
EVERY = 1 if "INTERLOCK_FILES_SECONDS" in os.environ else 4  # steps at which somebody is struck
EDITORS = 8
preload("tests.processes.documents")


def is_stopped(pid: int) -> bool:
    """Say whether a process is stopped; it is a child of the server that forks, not of ours."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"
    return False


class Editors:
    """The processes, what they said, and what was seen on the disk meanwhile."""

    def __init__(self, place: Place, root: Path, seed: int) -> None:
        self.place, self.root, self.chance = place, root, random.Random(seed)
        self.running: dict[Connection, Any] = {}
        self.wakes: dict[int, float] = {}  # by pid of one that is stopped
        self.kept: set[tuple[str, str]] = set()
        self.refused: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.seen: dict[str, set[str]] = {path: set() for path in PATHS}
        self.lengths: Counter[str] = Counter()
        self.longest_silence, self.last_kept = 0.0, time.monotonic()

    def start(self) -> None:
        mine, theirs = FORKSERVER.Pipe(duplex=False)
        born = self.counts["started"]
        self.counts["started"] += 1
        arguments = (self.place, self.root, f"e{born}", self.chance.random(), theirs)
        process = FORKSERVER.Process(target=edit_for_ever, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self.running[mine] = process

    def listen(self) -> bool:
        """Take in what was said.  Returns False."""
        for pipe in wait(list(self.running), timeout=0.002):
            assert isinstance(pipe, Connection)
            while pipe.poll():
                try:
                    said = pipe.recv()
                except (EOFError, OSError):
                    self.running[pipe].join()  # the pipe may be closed before the end is known
                    assert self.running[pipe].exitcode == -signal.SIGKILL, "an editor failed"
                    break
                self.note(said, self.running[pipe].pid)
        return False

    def note(self, said: tuple[str, str, str], pid: int) -> None:
        what, path, item = said
        self.counts[what] += 1
        if what == "kept":
            self.kept.add((path, item))
            now = time.monotonic()
            self.longest_silence = max(self.longest_silence, now - self.last_kept)
            self.last_kept = now
        elif what == "refused":
            self.refused.add(item)
        else:  # it stops itself before a step on the disk, for a long time
            self.wakes[pid] = time.monotonic() + self.chance.uniform(0, SECONDS / 4)

    def strike(self) -> None:
        """Stop or kill somebody, anywhere; wake those whose time has come."""
        chosen = self.chance.choice(list(self.running))
        process = self.running[chosen]
        self.counts["strikes"] += 1
        if self.counts["strikes"] % 8 == 0:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self.wakes.pop(process.pid, None)
            self.drain(chosen)
            self.counts["killed"] += 1
            self.start()
        elif process.pid not in self.wakes:
            os.kill(process.pid, signal.SIGSTOP)  # perhaps while it holds the lock of the store
            self.wakes[process.pid] = time.monotonic() + self.chance.uniform(0, 0.4)
            self.counts["stopped"] += 1

    def wake(self) -> None:
        for pid in [pid for pid, due in self.wakes.items() if due <= time.monotonic()]:
            # It tells before it stops; woken before it has, it would sleep forever.
            if is_stopped(pid):
                del self.wakes[pid]
                os.kill(pid, signal.SIGCONT)

    def drain(self, pipe: Connection) -> None:
        process = self.running.pop(pipe)
        try:
            while pipe.poll():
                self.note(pipe.recv(), process.pid)
        except (EOFError, OSError):
            pass  # it died in the middle of sending: not acknowledged
        self.wakes.pop(process.pid, None)

    def look(self) -> None:
        """Read one file as anybody does: it is whole, and never older than it was."""
        path = self.chance.choice(PATHS)
        try:
            text = (self.root / path).read_text()
        except FileNotFoundError:
            assert not self.lengths[path], f"{path} has gone"
            return
        lines = lines_of(text)
        assert len(lines) >= self.lengths[path], f"{path} went back to {len(lines)} lines"
        self.lengths[path] = len(lines)
        self.seen[path].update(lines)
        self.counts["looked"] += 1

    def end(self) -> None:
        for pipe, process in list(self.running.items()):
            process.kill()
            process.join()
            self.drain(pipe)


def test_editors_killed_and_stopped_lose_nothing(
    place: Place, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    root = tmp_path / "workspace"
    editors = Editors(place, root, 20261121)
    with interlock.open(place.url, space=place.space, agent="us"):
        pass
    for _ in range(EDITORS):
        editors.start()
    wait_until(lambda: editors.listen() or editors.counts["kept"] > EDITORS, "they have begun")
    strikes = editors.last_kept = time.monotonic()
    editors.longest_silence = 0.0
    ends = strikes + SECONDS
    try:
        while time.monotonic() < ends:
            editors.listen()
            editors.look()
            editors.wake()
            if time.monotonic() - strikes > 0.15:
                strikes = time.monotonic()
                editors.strike()
    finally:
        editors.end()
    found = editors.counts
    record_property(
        "killed",
        f"{place.url.partition(':')[0]}: {SECONDS:g} s, {found['kept']} document writes kept, "
        f"{found['refused']} refused, {found['killed']} kills, {found['stopped']} stops, "
        f"{found['looked']} looks, longest silence {editors.longest_silence:.1f} s",
    )
    assert editors.longest_silence < 15
    assert found["killed"] >= SECONDS / 10
    assert found["stopped"] >= SECONDS / 2
    assert found["refused"] > 0
    assert found["kept"] > SECONDS
    with interlock.open(place.url, space=place.space, agent="after") as space:
        files = space.files(root, "plans/*")
        files.sync()
        assert files.status() == (), "nothing was taken for an edit"
        contents = {path: lines_of(files.read(path).text) for path in PATHS}
        shown = {path: lines_of((root / path).read_text()) for path in files.paths()}
        assert shown == {path: lines for path, lines in contents.items() if lines}
        lost = [(path, item) for path, item in editors.kept if item not in contents[path]]
        assert lost == [], "acknowledged, and not there"
        on_disk = set[str]().union(*editors.seen.values())
        assert on_disk & editors.refused == set(), "a refused write was on the disk"
        assert all(editors.seen[path] <= set(contents[path]) for path in PATHS)
        for path in PATHS:
            files.update(path, lambda text: seal([*lines_of(text), "after"]))
            assert lines_of((root / path).read_text())[-1] == "after"


# Every step of putting a version in place


def begin(
    place: Place, root: Path, what: str, number: int | str, blow: int
) -> tuple[Any, Connection]:
    """Have a process write that is struck before a step on the disk."""
    mine, theirs = FORKSERVER.Pipe(duplex=False)
    child = FORKSERVER.Process(target=struck, args=(place, root, what, number, blow, theirs))
    child.start()
    theirs.close()
    return child, mine


def fresh(folder: Path, what: str, number: int) -> tuple[Place, Path]:
    """Return a store and a folder, with `plan.md` in both unless it is to be made."""
    here = folder / f"{what}-{number}"
    here.mkdir()
    place = Place(f"sqlite:///{here / 'store.db'}", "s")
    with interlock.open(place.url, space=place.space, agent="us") as space:
        files = space.files(here / "workspace")
        document = files.read("plan.md")
        if what != "create":
            files.write(document, "first\n")
    return place, here / "workspace"


def on_disk(root: Path) -> str | None:
    """Return what somebody sees who opens the file; None for no file, or a deleted one's folder."""
    try:
        return (root / "plan.md").read_text()
    except (FileNotFoundError, IsADirectoryError):
        return None


def first_of(what: str) -> int:
    """Return where to begin to count steps: not all strike at the same ones."""
    return ["write", "create", "delete"].index(what) % EVERY + 1 - EVERY


BEFORE = {"write": "first\n", "create": None, "delete": "first\n"}
AFTER = {"write": "write\n", "create": "create\n", "delete": None}


@pytest.mark.parametrize("what", ["write", "create", "delete"])
def test_killed_at_any_step_it_is_made_good(tmp_path: Path, what: str) -> None:
    number = first_of(what)
    died = 0
    while True:
        number += EVERY
        place, root = fresh(tmp_path, what, number)
        child, pipe = begin(place, root, what, number, signal.SIGKILL)
        child.join()
        assert on_disk(root) in (BEFORE[what], AFTER[what])
        with interlock.open(place.url, space=place.space, agent="us") as space:
            files = space.files(root)
            document = files.read("plan.md")
            assert document.state == "published"
            assert on_disk(root) == (document.text if document.exists else None)
            assert files.status() == ()
            files.write(document, "next\n")
            assert on_disk(root) == "next\n"
            assert files.status() == ()
        if child.exitcode == 0:
            assert pipe.recv()[0] == "written"
            break
        assert child.exitcode == -signal.SIGKILL
        died += 1
    assert died > 10 / EVERY


def stopped(child: Any) -> bool:
    """Wait until a process is stopped or has ended; say whether it is stopped."""
    wait_until(
        lambda: child.exitcode is not None or is_stopped(child.pid), "a process stops or ends"
    )
    return child.exitcode is None


def woken(child: Any, root: Path, must_show: str | None) -> None:
    """Wake a process, and see that the file is never again another than it must be."""
    os.kill(child.pid, signal.SIGCONT)
    while child.is_alive():
        assert on_disk(root) == must_show
    assert child.exitcode == 0
    assert on_disk(root) == must_show


@pytest.mark.parametrize(
    ("what", "then"), [("write", "write"), ("create", "delete"), ("delete", "write")]
)
def test_stopped_at_any_step_it_holds_nobody_up_and_changes_nothing_later(
    tmp_path: Path, what: str, then: str
) -> None:
    number, refused = first_of(what), 0
    while True:
        number += EVERY
        place, root = fresh(tmp_path, what, number)
        child, pipe = begin(place, root, what, number, signal.SIGSTOP)
        if not stopped(child):
            child.join()
            break
        with interlock.open(place.url, space=place.space, agent="us") as space:
            files = space.files(root)
            document = files.write(files.read("plan.md"), "newer\n")
            if then == "delete":
                document = files.delete(document)
            assert document.state == "published"
            newest = on_disk(root)
            assert newest == (None if then == "delete" else "newer\n")
            woken(child, root, newest)
            said, _ = pipe.recv()
            refused += said == "refused"
            assert files.read("plan.md").version == document.version
            assert files.status() == ()
    assert number > 10
    assert 0 < refused < number / EVERY, "stopped both before and after its commit"


def test_a_late_writer_changes_nothing_though_the_newer_one_was_killed(tmp_path: Path) -> None:
    number, shown = first_of("write"), Counter[str | None]()
    while True:
        number += EVERY
        place, root = fresh(tmp_path, "write", number)
        late, _late_said = begin(place, root, "write", "exchange", signal.SIGSTOP)
        assert stopped(late)
        newer, _newer_said = begin(place, root, "newer", number, signal.SIGKILL)
        newer.join()
        shown[on_disk(root)] += 1
        if on_disk(root) == "newer\n":
            woken(late, root, "newer\n")
        else:  # it was killed before
            os.kill(late.pid, signal.SIGCONT)
            late.join()
        with interlock.open(place.url, space=place.space, agent="us") as space:
            assert space.files(root).read("plan.md").text == on_disk(root)
        if newer.exitcode == 0:
            break
    assert shown["first\n"] > 1
    assert shown["newer\n"] > 1


def test_an_edit_made_while_a_publisher_is_stopped_is_kept(tmp_path: Path) -> None:
    number = first_of("write")
    states: Counter[str] = Counter()
    while True:
        number += EVERY
        place, root = fresh(tmp_path, "write", number)
        child, pipe = begin(place, root, "write", number, signal.SIGSTOP)
        if not stopped(child):
            child.join()
            break
        formatted = root / "formatted"
        formatted.write_text("by a person\n")
        formatted.replace(root / "plan.md")
        os.kill(child.pid, signal.SIGCONT)
        child.join()
        assert child.exitcode == 0
        with interlock.open(place.url, space=place.space, agent="us") as space:
            files = space.files(root)
            files.read("plan.md")
            (found,) = files.status()
            states[found.state] += 1
            kept = Path(found.where) if found.state == "saved" else root / "plan.md"
            assert kept.read_text() == "by a person\n"
        pipe.close()
    assert states["edited"] > states["saved"] > 0, "seen beforehand, and in the last moment"
