"""Interlock's log as a trace: clean as it is, guilty where the log shows what must not be."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

import interlock
from interlock.core.merge import same
from interlock.core.records import Entry
from interlock.forensics import Operation, Report, export_trace, find_anomalies, read_trace

AGENTS = ("ann", "ben", "cy", "dan")

pytestmark = pytest.mark.slow


def entry(
    position: int,
    key: str,
    version: int,
    agent: str,
    value: Any = None,
    reads: dict[str, Any] | None = None,
    *,
    op_id: str = "",
    kind: str = "put",
    time_us: int = 0,
) -> Entry:
    """An entry as the log has it; the operation and the time follow from the position."""
    op_id, time_us = op_id or f"o{position}", time_us or position * 10
    return Entry(position, key, version, 0, kind, value, agent, time_us, op_id, reads)


def exported(entries: Sequence[Entry]) -> dict[str, Operation]:
    return {operation.id: operation for operation in export_trace(entries, "team")}


def guilty(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    return [each.operations for each in find_anomalies(export_trace(entries)).anomalies]


def work(space: interlock.Space, chance: random.Random) -> None:
    """One commit of one of the kinds that there are, over few keys; a conflict is no matter."""
    key = f"k/{chance.randrange(3)}"
    kind = chance.choice(["update", "write", "append", "delete", "create", "sum", "count"])
    try:
        if kind == "update":
            space.update(key, lambda value: (value or 0) + 1, turns="never", attempts=3)
        elif kind == "write":
            space.write(space.read(key), chance.randrange(3))
        elif kind == "append":
            space.append("notes", chance.randrange(3))
        elif kind == "create":
            space.create(key, 0)
        elif kind == "delete":
            space.delete(space.read(key))
        else:
            with space.transaction() as tx:
                found = tx.scan("k/") if kind == "count" else tx.read_many(["k/0", "k/1", "notes"])
                tx.write(tx.read("total"), len(found))
                tx.append("notes", "counted")
    except (interlock.Conflict, interlock.Contended, interlock.Invalid):
        return


@pytest.mark.parametrize("seed", range(4))
def test_a_run_of_concurrent_agents_exports_clean(tmp_path: Path, seed: int) -> None:
    url = f"sqlite:///{tmp_path / 'team.db'}"
    rules = {"notes": interlock.merged("append")}
    interlock.open(url, rules=rules, agent="setup").close()
    together, lost = Barrier(len(AGENTS)), list[str]()

    def agent(name: str) -> None:
        chance = random.Random(f"{name} {seed}")
        with interlock.open(url, agent=name, durability="off") as space:
            record = space.read("meet")
            together.wait(20)
            try:
                space.write(record, name)
            except interlock.Conflict:
                lost.append(name)
            for _ in range(60):
                work(space, chance)

    with ThreadPoolExecutor(len(AGENTS)) as pool:
        list(pool.map(agent, AGENTS))
    with interlock.open(url) as space:
        entries = list(space.log())
    assert len(lost) == len(AGENTS) - 1
    trace = list(export_trace(entries, "team"))
    again = find_anomalies(read_trace(BytesIO(lines(trace))))
    assert again == find_anomalies(trace)
    assert again.anomalies == ()
    (session,) = again.sessions
    assert (session.level, session.operations) == (4, len({e.op_id for e in entries}))
    assert session.unseen == ("tool-effect reordering", "phantom tool")
    assert guilty_by_the_log(entries) == set()
    check_doctored(entries)


def lines(trace: list[Operation]) -> bytes:
    return b"".join(json.dumps(each.to_json()).encode() + b"\n" for each in trace)


def check_doctored(entries: list[Entry]) -> None:
    """What each agent read is made older by one version: whoever then stands on it is found."""
    found = 0
    for at, each in enumerate(entries):
        old = {k: v - 1 for k, v in (each.reads or {}).items() if isinstance(v, int) and v}
        if old:
            doctored = [*entries[:at], each._replace(reads=old), *entries[at + 1 :]]
            first = all(other.op_id != each.op_id for other in entries[:at])
            told = find_anomalies(export_trace(doctored))
            assert {(a.operations[0], a.key) for a in told.anomalies} == guilty_by_the_log(doctored)
            found += first and bool(told.anomalies)
    assert found > 0


def guilty_by_the_log(entries: Sequence[Entry]) -> set[tuple[str, str]]:
    """Return the operations and keys of which the log alone shows that somebody wrote in between.

    Its definition, with positions in place of times: between the version that was read and the
    operation's own commit there is a write of another agent, and of another value.
    """
    bad: set[tuple[str, str]] = set()
    starts: dict[str, int] = {}
    for at, each in enumerate(entries):
        starts.setdefault(each.op_id, at)
    for each in entries:
        past = entries[: starts[each.op_id]]

        def place(key: str, version: int, past: Sequence[Entry] = past) -> int:
            made = [n for n, e in enumerate(past) if (e.key, e.version) == (key, version)]
            return max(made, default=-1)

        reads = {each.key: place(each.key, each.version - 1)} if each.kind != "append" else {}
        for name, version in (entries[len(past)].reads or {}).items():
            if isinstance(version, int):
                reads[name] = place(name, version)
                continue
            reads |= {key: place(key, version[key]) for key in version}
            now = {e.key: e for e in past if e.key.startswith(name[:-1]) and e.key[0] != "$"}
            for key, last in now.items():
                if last.kind != "delete" and key not in version:
                    gone = [n for n, e in enumerate(past) if (e.key, e.kind) == (key, "delete")]
                    reads[key] = max(gone, default=-1)
        for key, start in reads.items():
            value = shown(past, start) if start >= 0 else None
            bad |= {
                (each.op_id, key)
                for n, e in enumerate(past)
                if e.key == key
                and n > start
                and e.agent != each.agent
                and not same(shown(past, n), value)
            }
    return bad


def shown(entries: Sequence[Entry], at: int) -> Any:
    """The value of an entry; contributions to a merged key are told apart by their versions."""
    each = entries[at]
    return ["append", each.version] if each.kind == "append" else each.value


def drawn_log(seed: int) -> list[Entry]:
    """A log in which some commits stand on versions that were no longer current."""
    chance = random.Random(seed)
    entries: list[Entry] = []
    last: dict[str, tuple[int, bool]] = {}
    for number in range(chance.randint(2, 12)):
        reads: dict[str, Any] = {}
        agent = chance.choice(AGENTS[:3])
        for key in chance.sample(["k/a", "k/b", "m"], chance.randint(0, 2)):
            reads[key] = max(last.get(key, (0, False))[0] - chance.choice([0, 0, 0, 1, 2]), 0)
        if chance.random() < 0.3:
            there = {key: v for key, (v, live) in last.items() if live and key != "m"}
            reads["k/*"] = {k: v for k, v in there.items() if chance.random() < 0.8}
        for key in chance.sample(["k/a", "k/b", "m"], chance.randint(1, 2)):
            version, live = last.get(key, (0, False))
            kind = "append" if key == "m" else "delete" if live and chance.random() < 0.3 else "put"
            blind = version > 1 and kind == "put" and chance.random() < 0.1
            version += not blind  # the version check ignored: the same version twice
            value = None if kind == "delete" else chance.randrange(2)
            made = entry(len(entries) + 1, key, version, agent, value, reads or None, kind=kind)
            entries.append(made._replace(op_id=f"o{number}", time_us=chance.randint(1, 40)))
            last[key] = version, kind != "delete"
    return entries


def test_doctored_logs_are_judged_as_by_the_log_alone() -> None:
    found = 0
    for seed in range(3000):
        entries = drawn_log(seed)
        report = find_anomalies(export_trace(entries))
        told = {(each.operations[0], str(each.key)) for each in report.anomalies}
        assert told == guilty_by_the_log(entries), seed
        found += bool(told)
    assert 300 < found < 2700


def test_a_commit_is_one_operation() -> None:
    both = [
        entry(1, "a", 1, "ann", 1),
        entry(2, "a", 2, "ben", 2, {"c": 0}, op_id="tx"),
        entry(3, "b", 1, "ben", 3, {"c": 0}, op_id="tx"),
    ]
    assert exported(both)["tx"] == Operation(
        "team",
        "tx",
        "ben",
        19,
        20,
        {"a": 1, "b": None, "c": None},
        {"a": 2, "b": 3},
        predecessors=("o1",),
    )


def test_times_rise_as_positions_do() -> None:
    same_moment = [entry(n, "a", n, "ann", n, time_us=5) for n in (1, 2, 3)]
    assert [each.write_time for each in export_trace(same_moment)] == [5, 6, 7]
    assert [each.read_time for each in export_trace(same_moment)] == [4, 5, 6]
    blind = [same_moment[0], entry(2, "a", 2, "ben", 7, time_us=5), same_moment[1]]
    assert guilty(blind[:2]) == []
    assert guilty([*blind[:2], entry(3, "a", 2, "ann", 8, time_us=5)]) == [("o3", "o2")]


def test_contributions_are_told_apart_and_deletions_are_null() -> None:
    entries = [
        entry(1, "m", 1, "ann", "x", kind="append"),
        entry(2, "m", 2, "ben", "x", op_id="two", kind="append"),
        entry(3, "m", 3, "ben", "y", op_id="two", kind="append"),
        entry(4, "k", 1, "cy", 1, {"m": 3}),
        entry(5, "k", 2, "cy", kind="delete"),
        entry(6, "l", 1, "dan", 1, {"m": 1, "k": 2}),
    ]
    trace = exported(entries)
    assert trace["two"].write_set == {"m": {"append": ["x", "y"], "version": 3}}
    assert trace["two"].read_set == {}
    assert trace["o4"].read_set["m"] == {"append": ["x", "y"], "version": 3}
    assert trace["o5"].write_set == {"k": None}
    assert trace["o6"].read_set == {
        "l": None,
        "m": {"append": ["x"], "version": 1},
        "k": None,
    }
    assert guilty(entries) == [("o6", "two")]


def test_a_phantom_of_a_scan_is_a_stale_read_of_nothing() -> None:
    entries = [
        entry(1, "$rules", 1, "ann", {}),
        entry(2, "k/a", 1, "ann", 1),
        entry(3, "k/b", 1, "ben", 2),
        entry(4, "n", 1, "cy", 1, {"k/*": {"k/a": 1}, "*": {"k/a": 1, "k/b": 1}}),
    ]
    assert guilty(entries) == []
    entries[3] = entries[3]._replace(reads={"k/*": {"k/a": 1}})
    (found,) = find_anomalies(export_trace(entries)).anomalies
    assert (found.operations, found.key, found.shown) == (("o4", "o3"), "k/b", ("null", "2"))


def test_a_log_that_was_cut_off_tells_versions() -> None:
    rest = [entry(7, "a", 5, "ann", 1), entry(8, "b", 1, "ben", 2, {"a": 5, "c": 3})]
    trace = exported(rest)
    assert trace["o7"].read_set == {"a": {"version": 4}}
    assert trace["o8"].read_set == {"b": None, "a": 1, "c": {"version": 3}}
    assert guilty(rest) == []
    assert guilty([rest[0], rest[1]._replace(reads={"a": 4})]) == [("o8", "o7")]


def test_a_cascade_in_a_doctored_export_is_found() -> None:
    entries = [entry(n, "a", n, agent, n) for n, agent in enumerate(AGENTS, 1)]
    trace = [each._replace(aborted=each.id == "o2") for each in export_trace(entries)]
    report: Report = find_anomalies(trace)
    assert [each.operations for each in report.anomalies] == [("o3", "o2"), ("o4", "o2")]
    assert report.sessions[0].level == 1
