"""What INTERLOCK_RECORD writes down, and what the checker of traces makes of it.

`tests/processes/test_traces.py` does the same with many processes on every store.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.sqlite import SQLiteBackend
from interlock.backends.trace import RecordingBackend
from interlock.core import write
from interlock.core.lease import take_lease
from interlock.core.refusals import Fenced
from tests.servers.process import wait_until
from tests.test_specs import FORMAL, NODE, needs_node

Lines = list[dict[str, Any]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is recorded into."""
    monkeypatch.setenv("INTERLOCK_RECORD", str(tmp_path / "traces"))
    return tmp_path / "traces"


def lines_of(folder: Path) -> list[Lines]:
    """Return the lines of each file, in the order in which they were begun."""
    paths = sorted(folder.iterdir(), key=lambda path: path.name.split("-")[-2:])
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]


def test_nothing_is_recorded_unless_it_is_asked_for(url: str) -> None:
    with interlock.open(url) as space:
        assert type(space.session.driver.backend) is SQLiteBackend


def test_requests_and_answers_are_recorded_without_values(url: str, folder: Path) -> None:
    with interlock.open(url, agent="ann") as space:
        record = space.read("k")
        space.write(record, "a secret", op_id="first")
        with pytest.raises(interlock.Conflict):
            space.write(record, "a secret", op_id="second")
        epoch = space.reclaim("k").epoch
    ((head, *lines),) = lines_of(folder)
    assert (head["trace"], head["name"], head["pid"]) == (1, "default", os.getpid())
    asks = [line for line in lines if "ask" in line]
    told = {line["n"]: line for line in lines if "told" in line}
    assert [line["ask"] for line in asks] == ["Enter", "Load", "Commit", "Commit", "TakeLease"]
    assert all(line["at"] <= told[line["n"]]["at"] for line in asks)
    first, second, taken = asks[2:]
    assert (first["op_id"], first["expects"], first["writes"]) == (
        "first",
        [["k", 0, 0]],
        [["put", "k"]],
    )
    assert told[first["n"]]["writes"] == [["k", 1, 0, 1]]
    assert told[second["n"]]["told"] == "Conflict"
    assert told[second["n"]]["records"] == [["k", 1, 0, True]]
    assert told[taken["n"]]["records"] == [["k", 1, epoch, True]]
    assert "a secret" not in "".join(path.read_text() for path in folder.iterdir())


async def test_a_cancelled_commit_is_recorded_as_in_doubt(url: str, folder: Path) -> None:
    async with interlock.open_async(url, agent="ann") as space:
        record = await space.read("k")
        task = asyncio.ensure_future(space.write(record, 1, op_id="cancelled"))
        while not any("cancelled" in path.read_text() for path in folder.iterdir()):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    ((_, *lines),) = lines_of(folder)
    (sent,) = [line for line in lines if line.get("op_id") == "cancelled"]
    assert [line["fault"] for line in lines if line["n"] == sent["n"] and "ask" not in line] == [
        "CancelledError"
    ]


def test_a_forked_child_writes_to_a_file_of_its_own(url: str, folder: Path) -> None:
    with interlock.open(url, agent="ann") as space:
        child = os.fork()
        if not child:
            os._exit(0 if space.read("k").version == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
    ours, theirs = lines_of(folder)
    assert (ours[0]["pid"], theirs[0]["pid"]) == (os.getpid(), child)
    assert [line["ask"] for line in theirs if "ask" in line] == ["Load"]


def test_a_folder_that_cannot_be_made_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("INTERLOCK_RECORD", str(tmp_path / "file"))
    with pytest.raises(interlock.Invalid, match="INTERLOCK_RECORD"):
        interlock.open(url)


def test_a_full_disk_ends_the_recording_and_not_the_work(url: str, folder: Path) -> None:
    with interlock.open(url, agent="ann") as space:
        backend: Any = space.session.driver.backend
        assert type(backend) is RecordingBackend
        os.close(backend._file or 0)
        backend._file = os.open("/dev/full", os.O_WRONLY)
        with pytest.warns(RuntimeWarning, match="recording ends"):
            assert space.create("k", 1).version == 1
        assert space.read("k").value == 1


# What the checker makes of a small trace, and of the same trace after an edit.


def judged(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Run the checker of traces."""
    return subprocess.run(
        [NODE or "node", str(FORMAL / "traces.mjs"), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def leave_a_trace(url: str) -> None:
    """Ann's lease runs out; ben writes over it, and deletes; ann's write is fenced."""
    with interlock.open(url, agent="ann") as ann, interlock.open(url, agent="ben") as ben:
        ann.create("k", 1, op_id="made")
        taken = ann.session.driver.run(take_lease(ann.session.writer, ("k",), 0.001, 0.0, "taken"))
        assert isinstance(taken, tuple)
        (held,) = taken

        def written_over() -> bool:
            with suppress(interlock.Held):
                return ben.write(ben.read("k"), 2, op_id="over").epoch == 2
            return False

        wait_until(written_over, "the lease runs out")
        late = ann.session.driver.run(
            write.write_record(ann.session.writer, held, 3, "late", leased=True)
        )
        assert isinstance(late, Fenced)
        ben.delete(ben.read("k"), op_id="gone")
        assert list(ben.log())


def edited(folder: Path, edit: Callable[[dict[str, Any], dict[str, Any]], Any]) -> None:
    """Change a trace in place: `edit` is given each line and its request; None leaves it out."""
    for path in folder.iterdir():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        asks = {line["n"]: line for line in lines if "ask" in line}
        left = [edit(line, asks.get(line.get("n"), {})) for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in left if line is not None))


def not_in_the_log(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    if "entries" in line:
        line["entries"] = [entry for entry in line["entries"] if entry[6] != "gone"]
    return line


def by_somebody_else(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    for entry in line.get("entries", []):
        entry[6] = {"gone": "strange"}.get(entry[6], entry[6])
    return None if ask.get("op_id") == "gone" else line


def never_granted(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    return None if ask.get("ask") == "TakeLease" else line


def stale(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    if ask.get("ask") == "Load" and line.get("records") == [["k", 2, 2, True]]:
        line["records"] = [["k", 1, 1, True]]
    return line


def from_nowhere(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    if line.get("op_id") == "gone":
        line["expects"] = [["k", 7, 2]]
    return line


def at_another_epoch(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    if line.get("told") == "Fenced":
        line["current"] = 1
    return line


def at_a_later_epoch(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    if line.get("told") == "Committed" and ask["op_id"] == "made":
        line["writes"][0][2] = 1
    for entry in line.get("entries", []):
        entry[3] = max(entry[3], 1)
    return line


def answer_lost(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    lost = {"TakeLease": "granted", "Commit": "replayed"}.get(ask.get("ask", ""), "")
    return None if lost in line else line


def half_written(line: dict[str, Any], ask: dict[str, Any]) -> Any:
    return None if ask.get("ask") == "ReadLog" else line


@needs_node
@pytest.mark.slow
class TestTheChecker:
    def test_accepts_what_happened(self, url: str, folder: Path) -> None:
        leave_a_trace(url)
        ran = judged(folder)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.splitlines()[-1] == "1 of 1 traces accepted"

    def test_finds_what_was_applied_though_nobody_was_told(self, url: str, folder: Path) -> None:
        leave_a_trace(url)
        edited(folder, answer_lost)
        ran = judged(folder)
        assert (ran.returncode, ran.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("edit", "who", "wrong"),
        [
            (not_in_the_log, "ben", "position 3, where the log holds nothing"),
            (by_somebody_else, "ben", "operation strange of ben is in the log at position 3"),
            (never_granted, "ben", "the epoch rises to 1, and nobody asked for that"),
            (stale, "ben", "was told of version 1 at epoch 1, which was over before it asked"),
            (from_nowhere, "ben", "computed from version 7 at epoch 2, which nobody was told of"),
            (at_another_epoch, "ann", "write late was answered Fenced: epoch 1 is in force"),
            (at_a_later_epoch, "ann", "sent write made, computed from version 0 at epoch 1"),
        ],
    )
    def test_names_the_first_event_that_is_wrong(
        self, edit: Callable[..., Any], who: str, wrong: str, url: str, folder: Path
    ) -> None:
        leave_a_trace(url)
        edited(folder, edit)
        ran = judged(folder)
        assert ran.returncode == 1
        assert ran.stdout.splitlines()[-1] == "0 of 1 traces accepted"
        told = ran.stderr.splitlines()[1]
        assert f": {who}: " in told
        assert wrong in told

    def test_says_what_it_left_out(self, url: str, folder: Path) -> None:
        leave_a_trace(url)
        edited(folder, half_written)
        ran = judged(folder)
        assert ran.returncode == 1
        assert "k is left out: nobody read the log" in ran.stdout
        assert ran.stdout.splitlines()[-1] == "0 of 1 traces accepted"

    def test_a_line_that_was_being_written_when_its_process_died_was_not_sent(
        self, url: str, folder: Path
    ) -> None:
        leave_a_trace(url)
        for path in folder.iterdir():
            path.write_text(path.read_text() + '{"n": 99, "at": 1, "ask": "Com')
        assert judged(folder).returncode == 0

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no line says what is recorded here"),
            ("{}\n", ":1: not a trace of format 1"),
            ("{\n", ":1: not a line of JSON"),
            ('{"trace": 1}\n{"n": 1, "told": "Grant"}\n', ":2: answers request 1"),
            (None, "no such file"),
        ],
    )
    def test_refuses_files_that_are_no_traces(
        self, text: str | None, message: str, tmp_path: Path
    ) -> None:
        if text is not None:
            (tmp_path / "file").write_text(text)
        ran = judged(tmp_path / "file")
        assert (ran.returncode, ran.stdout) == (1, "")
        assert message in ran.stderr

    def test_wants_to_be_told_where_the_traces_are(self, tmp_path: Path) -> None:
        assert "name the files or folders" in judged().stderr
        assert "there are no traces" in judged(tmp_path).stderr
