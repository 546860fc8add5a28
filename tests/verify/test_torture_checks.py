"""The checks of torture find what is planted into a record or a log that was in order."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any, Unpack

import pytest

import interlock
from interlock.verify.torture import Settings
from interlock.verify.torture.checks import Overall, Tally, Window
from interlock.verify.torture.log import Findings, Line, Log, check_records
from interlock.verify.torture.plan import (
    FAULTS,
    faults,
    op_id,
    operation,
    parse_op_id,
    possible,
    told,
)
from interlock.verify.torture.record import Done, Facts, Piece, Recorder, read_window
from interlock.verify.torture.runner import gaps
from interlock.verify.torture.worker import Noted, stamp

SETTINGS = Settings("sqlite:///no.db", "s", operations=1000, seed=3, workers=2)
KEY = "hot/0/1"


def done(number: int, outcome: str = "ok", at: float = 1.0, **facts: Unpack[Facts]) -> Done:
    """An operation of worker 0 that made version `number` of the key, as it was told."""
    pieces: tuple[Piece, ...] = ()
    if outcome == "ok":
        name = op_id(0, number)
        before = (number - 1, op_id(0, number - 1) if number > 1 else None)
        pieces = (Piece(at, at + 1, name, {KEY: before}, {KEY: (number, name)}, {}),)
    completed = None if outcome == "unknown" else at + 1
    reason = {"refused": "Conflict", "unavailable": "Unavailable"}.get(outcome, "")
    return Done(0, number, "write", at, completed, outcome, reason, pieces, facts)


def line(number: int, position: int = 0, **changes: Any) -> Line:
    """The entry of the log that it made."""
    made = Line(position or number, KEY, number, 0, op_id(0, number), False, None)
    return made._replace(**changes)


def found(operations: list[Done], lines: list[Line]) -> tuple[dict[str, int], Tally, Window]:
    """Compare; return what was found by name."""
    findings, tally = Findings(), Tally(100.0)
    window = Window(lines, tally, findings)
    for each in operations:
        window.take(each)
    window.finish()
    return dict(findings.counts), tally, window


def test_what_agrees_is_no_anomaly() -> None:
    counts, tally, window = found([done(1), done(2, at=3.0)], [line(1), line(2)])
    assert counts == {}
    assert (tally.commits, len(tally.acknowledged), len(window.history)) == (2, 2, 2)


@pytest.mark.parametrize(
    ("operations", "lines", "name"),
    [
        ([done(1), done(2)], [line(1)], "acknowledged and lost"),
        ([done(1)], [line(1), line(1, 2, version=2)], "applied twice"),
        ([done(1, "unknown")], [line(1), line(1, 2, version=2)], "applied twice"),
        ([done(1, "refused")], [line(1)], "refused and applied"),
        ([done(1, "unavailable")], [line(1)], "refused and applied"),
        ([done(1)], [line(1, version=2)], "answered another version"),
        ([done(1)], [line(1), line(1, 2, key="hot/0/2")], "wrote more than it said"),
        ([done(1)], [line(1), line(1, 2, name="op-0-1.7")], "wrote more than it said"),
        ([done(1)], [line(1), line(2)], "nobody asked for it"),
        ([done(1, "unknown")._replace(reason="!KeyError: x")], [], "unexpected error"),
    ],
)
def test_what_does_not_agree_is_found(operations: list[Done], lines: list[Line], name: str) -> None:
    counts, _, _ = found(operations, lines)
    assert counts == {name: 1}


def test_what_got_no_answer_may_be_there_or_not() -> None:
    counts, tally, window = found([done(1, "unknown"), done(2, "unknown")], [line(1)])
    assert counts == {}
    assert (len(tally.doubtful), tally.applied) == (2, 1)
    (applied,) = window.history
    assert (applied.outcome, applied.completed) == ("ok", 100.0)


def entry(position: int, key: str = KEY, version: int = 0, **changes: Any) -> interlock.Entry:
    """An entry of the log."""
    value = {"by": op_id(0, position)}
    made = interlock.Entry(
        *(position, key, version or position, 0, "put", value, "a", position, "o", None)
    )
    return made._replace(**changes)


def duty(position: int, number: int, on: bool) -> interlock.Entry:
    value = {"by": op_id(0, position), "on": on}
    return entry(position, f"duties/0/0/{number}", 1, value=value)


def job(position: int, status: str) -> interlock.Entry:
    value = {"by": op_id(0, position), "status": status}
    return entry(position, "jobs/0/0", position, value=value)


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ([entry(1), entry(3, version=2)], "gap in the log"),
        ([entry(1, time_us=9), entry(2)], "time falls"),
        ([entry(1), entry(2, version=3)], "version jumps"),
        ([entry(1, epoch=2), entry(2)], "epoch falls"),
        ([entry(1, value={"by": "somebody"})], "entry of nobody"),
        ([duty(n + 1, n, False) for n in range(4)], "nobody on duty"),
        ([job(1, "IDLE"), job(2, "DONE")], "illegal transition"),
        ([entry(n, f"rosters/0/0/{n}", 1) for n in range(1, 5)], "too many on a roster"),
    ],
)
def test_a_log_that_is_wrong_is_found(
    entries: list[interlock.Entry], name: str, tmp_path: Path
) -> None:
    findings = Findings()
    Log(SETTINGS, tmp_path, findings).read(entries)
    assert findings.counts == {name: 1}


def test_records_that_differ_from_the_log_are_found(tmp_path: Path) -> None:
    findings = Findings()
    log = Log(SETTINGS, tmp_path, findings)
    account = "accounts/0/1"
    log.read([entry(1), entry(2, account, 1, value={"by": op_id(0, 2), "funds": 90})])
    record = interlock.Record(KEY, {"by": op_id(0, 7)}, 1, 0, "a", 1, 1, True, "s")
    check_records(log, {KEY: record})
    assert findings.counts == {
        "record is not what the log says": 2,
        "money appears or disappears": 1,
    }


def overall(*operations: Done) -> tuple[Overall, Findings]:
    """Note operations for the checks of a whole run."""
    findings = Findings()
    checks = Overall(findings)
    for operation_ in operations:
        checks.take(operation_)
    return checks, findings


def jobs_log(folder: Path) -> Log:
    """A log of three entries of one job."""
    log = Log(SETTINGS, folder, Findings())
    log.read([job(1, "IDLE"), job(2, "RUNNING"), job(3, "DONE")])
    return log


def taken(*positions: int, at: float = 1.0) -> Facts:
    return {"taken": (at, list(positions))}


def acked(*positions: int, at: float = 1.0) -> Facts:
    return {**taken(*positions, at=at), "acked": (at + 1, at + 2, len(positions))}


def grant(epoch: int, at: float) -> Facts:
    return {"grant": (KEY, epoch, at, at + 0.5)}


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ([taken(1, 2)], "never delivered"),
        ([acked(1, 2, 3), acked(3)], "acknowledged twice"),
        ([acked(1, 2, 3), taken(2, at=9.0)], "delivered after it was acknowledged"),
        ([acked(2), acked(1, at=9.0), acked(3, at=19.0)], "order of a key is not kept"),
        ([acked(1, 2, 3), grant(4, 1.0), grant(4, 2.0)], "two have one lease"),
        ([acked(1, 2, 3), {"same": False}], "answered differently the second time"),
        ([acked(1, 2, 3), {"gap": [4, 5]}], "reader of the log missed entries"),
        ([acked(1, 2, 3), {"log": [0, 2, 17]}], "reader of the log saw another log"),
        ([acked(1, 2, 3), {"log": [0, 9, 17]}], "reader of the log saw another log"),
        ([acked(1, 2, 3), {"funds": 799}], "money appears or disappears"),
        (
            [acked(1, 2, 3), {"total": ["sums/0/1", 1, 5], "items": ["lists/0/1", 2, 2]}],
            "sum is not what was counted",
        ),
        (
            [acked(1, 2, 3), {"total": ["sums/0/1", 0, 0], "items": ["lists/0/1", 2, 1]}],
            "list is not what was appended",
        ),
    ],
)
def test_what_only_the_whole_run_shows_is_found(
    facts: list[Facts], name: str, tmp_path: Path
) -> None:
    checks, findings = overall(*(done(n, **each) for n, each in enumerate(facts, 1)))
    checks.check(jobs_log(tmp_path), [], {})
    assert findings.counts == {name: 1}


def test_a_reader_that_saw_the_log_is_no_anomaly(tmp_path: Path) -> None:
    total = stamp(job(2, "RUNNING")) + stamp(job(3, "DONE"))
    checks, findings = overall(done(1, **acked(1, 2, 3)), done(2, log=(1, 3, total)))
    checks.check(jobs_log(tmp_path), [], {})
    assert findings.counts == {}


def test_a_zombie_is_found(tmp_path: Path) -> None:
    late = done(1, at=5.0, **grant(4, 1.0))
    checks, findings = overall(late, done(2, "refused", **grant(5, 2.0)), done(3, **acked(1, 2, 3)))
    checks.check(jobs_log(tmp_path), [], {})
    assert findings.counts == {"zombie wrote": 1}
    checks, findings = overall(late, done(3, **acked(1, 2, 3)))
    checks.check(jobs_log(tmp_path), [], {op_id(0, 1): 5})
    assert findings.counts == {"zombie wrote": 1}


def test_an_order_that_is_not_that_of_time_is_found(tmp_path: Path) -> None:
    checks, findings = overall(done(1, **acked(1, 2, 3)))
    checks.check(jobs_log(tmp_path), [(1, 5.0, 6.0), (2, 1.0, 2.0), (3, 5.5, 7.0)], {})
    assert findings.counts == {"order is not that of real time": 1}


def recorded(folder: Path) -> list[Done]:
    return list(read_window(folder, 0, SETTINGS.workers))


def test_a_record_with_a_torn_line_is_read(tmp_path: Path) -> None:
    ops = [operation(SETTINGS, 0, number) for number in range(3)]
    recorder = Recorder(tmp_path, 0)
    noted = Noted(lambda facts: recorder.note(ops[1], facts))
    noted.commit(1.0, ops[0].id, {KEY: (0, None)}, {KEY: (1, ops[0].id)})
    recorder.begin(ops[0], 1.0)
    recorder.end(ops[0], 2.0, "ok", "", noted.pieces, {"same": True})
    recorder.begin(ops[1], 3.0)
    noted.record(taken(4, 5))
    (file,) = tmp_path.iterdir()
    with file.open("ab") as torn:
        torn.write(b'\n["e",1,4.0,"ok"')
    Recorder(tmp_path, 0).begin(ops[2], 5.0)
    first, *others = recorded(tmp_path)
    assert (first.outcome, first.pieces[0].writes) == ("ok", {KEY: (1, ops[0].id)})
    assert first.facts == {"same": True}
    assert others[0].facts == json.loads(json.dumps(taken(4, 5)))
    assert [(each.number, each.outcome, each.completed) for each in others] == [
        (1, "unknown", None),
        (2, "unknown", None),
    ]


def test_the_same_seed_is_the_same_plan() -> None:
    def plan(**changes: Any) -> list[str]:
        return [json.dumps(line) for line in told(SETTINGS._replace(**changes))]

    assert plan() == plan(url="redis://elsewhere", space="other")
    assert plan() != plan(seed=4)
    assert len(plan()) == len(faults(SETTINGS)) + 1000
    assert {fault.kind for fault in faults(SETTINGS)} == set(FAULTS)


def test_settings_travel_to_a_worker() -> None:
    assert Settings.from_json(SETTINGS.to_json()) == SETTINGS


@pytest.mark.parametrize("text", ["op-1", "op-1-2-", "op-x-1", "once-12", ""])
def test_what_is_no_operation_id(text: str) -> None:
    assert parse_op_id(text) is None
    assert parse_op_id("op-1-23") == parse_op_id("op-1-23.4") == (1, 23)


@pytest.mark.parametrize(
    ("url", "restartable", "missing"),
    [
        ("sqlite:///a.db", True, {"cut", "restart", "durable"}),
        ("redis://127.0.0.1:7", True, {"durable"}),
        ("postgresql://me@a/db", True, set()),
        ("postgresql://me@a/db", False, {"restart", "durable"}),
        ("redis://127.0.0.1:7", False, {"restart", "durable"}),
        ("rediss://host", True, {"cut", "lost", "durable"}),
        ("redis+cluster://host", False, {"cut", "lost", "restart", "durable"}),
        ("postgresql://me@a,b/db", True, {"cut", "lost"}),
        ("postgresql:///db?host=/run", True, {"cut", "lost"}),
    ],
)
def test_what_cannot_be_injected_is_said(url: str, restartable: bool, missing: set[str]) -> None:
    assert set(possible(url, restartable)) == missing


def test_the_time_without_acknowledgement() -> None:
    longest, in_all = gaps(array("d", [5.0, 1.0, 1.2, 2.0, 3.5, 3.6]))
    assert longest == pytest.approx(1.5)
    assert in_all == pytest.approx(0.8 + 1.5 + 1.4)
