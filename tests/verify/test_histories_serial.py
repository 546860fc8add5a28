"""Serializability: planted anomalies of each name, real time, what is undecided."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.verify import Verdict, check_serializable
from tests.verify.brute_histories import parsed


def txn(name: str, **fields: Any) -> dict[str, Any]:
    """A transaction that overlaps all others; the outcome is ok unless said otherwise."""
    line = {"process": name, "kind": "txn", "id": name, "outcome": "ok"}
    return {**line, "invoked": 0, "completed": 9, **fields}


def checked(*lines: dict[str, Any], strict: bool = False, limit: int = 10) -> Verdict:
    return check_serializable(parsed(list(lines)), strict=strict, limit=limit)


START = txn("start", writes={"x": 1, "y": 1})
UNKNOWN = txn("u", reads={"x": 1}, writes={"x": {"value": "u"}}, outcome="unknown")

PLANTED: dict[str, list[dict[str, Any]]] = {
    "lost update": [
        txn("a", reads={"x": 1}, writes={"x": 2}),
        txn("b", reads={"x": 1}, writes={"x": 3}),
    ],
    "read skew": [
        txn("a", writes={"x": 2, "y": 2}),
        txn("b", reads={"x": 2, "y": 1}),
    ],
    "write skew": [
        txn("a", reads={"x": 1, "y": 1}, writes={"x": 2}),
        txn("b", reads={"x": 1, "y": 1}, writes={"y": 2}),
    ],
    "phantom": [
        txn("a", scans={"task/": {}}, writes={"task/1": 1}),
        txn("b", scans={"task/": {}}, writes={"task/2": 1}),
    ],
    "dirty read": [
        txn("a", writes={"x": 2}, outcome="failed"),
        txn("b", reads={"x": 2}),
    ],
    "intermediate read": [
        txn("a", writes={"x": [2, 3]}),
        txn("b", reads={"x": 2}),
    ],
    "garbage read": [txn("b", reads={"x": 7})],
    "duplicate version": [txn("a", writes={"x": 2}), txn("b", writes={"x": 2})],
    "dirty write": [
        txn("a", writes={"x": 2, "y": 3}),
        txn("b", writes={"x": 3, "y": 2}),
    ],
    "cyclic information flow": [
        txn("a", reads={"y": 2}, writes={"x": 2}),
        txn("b", reads={"x": 2}, writes={"y": 2}),
    ],
}
OTHER: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "lost update",
        [
            txn("a", reads={"x": 1}, writes={"x": 2}),
            txn("b", reads={"x": 1}, writes={"x": 2}),
        ],
    ),
    (
        "lost update",
        [
            txn("a", reads={"x": 1}, writes={"x": 4}),
            txn("b", reads={"x": 1}, writes={"x": 2}),
            txn("c", reads={"x": 2}, writes={"x": 3}),
        ],
    ),
    ("read skew", [txn("a", writes={"x": 2}), txn("b", reads={"x": [1, 2]})]),
    (
        "write skew",
        [
            txn("a", reads={"x": 1}, writes={"y": 2}),
            txn("b", reads={"y": 1}, writes={"z": 1}),
            txn("c", reads={"z": 0}, writes={"x": 2}),
        ],
    ),
    (
        "phantom",
        [txn("a", writes={"task/1": 1, "x": 2}), txn("b", scans={"task/": {}}, reads={"x": 2})],
    ),
    (
        "phantom",
        [
            txn("a", writes={"task/1": 1}),
            txn("b", reads={"task/1": 1}, scans={"task/": {}}),
        ],
    ),
    (
        "dirty read",
        [
            txn("a", writes={"x": {"value": "bad"}}, outcome="failed"),
            txn("b", writes={"x": {"version": 2, "value": "good"}}),
            txn("c", reads={"x": {"version": 2, "value": "bad"}}),
        ],
    ),
    (
        "garbage read",
        [
            txn("b", writes={"x": {"version": 2, "value": "good"}}),
            txn("c", reads={"x": {"version": 2, "value": "bad"}}),
        ],
    ),
    (
        "garbage read",
        [txn("a", outcome="failed", writes={"x": {"value": "a"}}), txn("c", reads={"x": 7})],
    ),
    ("garbage read", [txn("a", kind="cas", key="x", expect=2, version=2)]),
    ("garbage read", [UNKNOWN, txn("a", reads={"x": 2}), txn("b", reads={"x": 3})]),
    (
        "dirty read",
        [
            txn("a", outcome="failed", kind="cas", key="x", expect=1, version=2),
            txn("b", kind="read", key="x", version=2),
        ],
    ),
]
ALL = [*PLANTED.items(), *OTHER]


@pytest.mark.parametrize(("name", "lines"), ALL, ids=[name for name, _ in ALL])
def test_a_planted_anomaly_is_found_and_named(name: str, lines: list[dict[str, Any]]) -> None:
    verdict = checked(START, *lines)
    assert [anomaly.name for anomaly in verdict.anomalies] == [name], str(verdict)
    assert verdict.undecided == ()
    (anomaly,) = verdict.anomalies
    planted = {line["id"] for line in lines}
    assert {operation.id for operation in anomaly.operations} <= planted
    assert len(anomaly.operations) == len(anomaly.dependencies) or not anomaly.dependencies
    assert set(anomaly.keys) <= {"x", "y", "z", "task/1", "task/2"}
    assert all(operation.id in str(anomaly) for operation in anomaly.operations)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_anomaly_is_found_in_a_long_history(name: str) -> None:
    """Between two thousand transactions that follow one upon the other."""
    before = [txn(f"x{n}", reads={"q": n}, writes={"q": n + 1, f"r{n}": 1}) for n in range(1_000)]
    after = [line | {"id": f"after-{line['id']}", "writes": {}} for line in before[::2]]
    after = [line | {"reads": {"q": line["reads"]["q"] + 1}} for line in after]
    verdict = checked(*before, START, *PLANTED[name], *after)
    assert [anomaly.name for anomaly in verdict.anomalies] == [name], str(verdict)


@pytest.mark.parametrize("name", ["stale read", "real-time violation"])
def test_real_time_counts_where_it_is_asked_for(name: str) -> None:
    late = {"invoked": 20, "completed": 21}
    lines = {
        "stale read": [txn("a", writes={"x": 2}), txn("b", reads={"x": 1}, **late)],
        "real-time violation": [txn("a", writes={"x": 3}), txn("b", writes={"x": 2}, **late)],
    }
    assert checked(START, *lines[name]).ok
    (anomaly,) = checked(START, *lines[name], strict=True).anomalies
    assert anomaly.name == name
    assert "a had completed before b was invoked" in str(anomaly)


@pytest.mark.parametrize("invoked", [0, 1])
def test_real_time_holds_over_many_in_between(invoked: int) -> None:
    """One after the other, and all at once."""
    lines = [
        txn(f"t{n}", writes={f"k{n}": 1}, invoked=n * invoked, completed=n + 0.5) for n in range(50)
    ]
    late = txn("late", reads={"k0": 0}, invoked=100, completed=101)
    (anomaly,) = checked(*lines, late, strict=True).anomalies
    assert [operation.id for operation in anomaly.operations] == ["t0", "late"]
    touching = txn("late", reads={"k0": 0}, invoked=0.5, completed=101)
    assert checked(*lines, touching, strict=True).ok


def test_an_unknown_transaction_is_checked_by_values_too() -> None:
    """It took effect, so that what it wrote beside had to be seen."""
    unknown = txn("u", writes={"v": {"value": 1}, "w": {"value": 2}}, outcome="unknown")
    reader = txn("a", reads={"v": {"value": None}, "w": {"value": 2}})
    (anomaly,) = checked(unknown, reader).anomalies
    assert anomaly.name == "read skew"


def test_real_time_says_nothing_of_what_is_unknown() -> None:
    lost = txn("u", writes={"x": 2}, outcome="unknown", completed=1)
    before = txn("a", reads={"x": 1}, invoked=2, completed=3)
    after = txn("b", reads={"x": 2}, invoked=4, completed=5)
    assert checked(START, lost, before, after, strict=True).ok


def test_real_time_is_no_reason_at_the_same_instant() -> None:
    ring = [txn(f"r{n}", reads={f"k{n}": 1}, writes={f"k{(n + 1) % 3}": 1}) for n in range(3)]
    ring[0]["invoked"] = ring[1]["completed"] = 5
    (anomaly,) = checked(*ring, strict=True).anomalies
    assert (anomaly.name, len(anomaly.operations)) == ("cyclic information flow", 3)


def test_the_shortest_cycle_is_found_past_many_completions() -> None:
    lines = {name: txn(name, reads={}, writes={}, completed=99) for name in "abcde"}
    for first, then in ("ab", "bc", "ce", "de", "ea"):
        lines[first]["reads"][f"{first}-{then}"] = 0
        lines[then]["writes"][f"{first}-{then}"] = 1
    lines["a"]["completed"], lines["d"]["invoked"] = 1, 20
    others = [txn(f"t{n}", writes={f"t{n}": 1}, completed=n) for n in range(2, 12)]
    (anomaly,) = checked(*lines.values(), *others, strict=True).anomalies
    assert {operation.id for operation in anomaly.operations} == {"a", "d", "e"}


def test_the_cycle_is_told_with_operations_and_keys() -> None:
    verdict = checked(START, *PLANTED["write skew"])
    told = str(verdict).splitlines()
    assert told[0] == "3 operations are not serializable: 1 anomaly"
    assert told[1] == "write skew on y, x: each read what another one then overwrote"
    assert told[-2:] == [
        "  because a read y before b overwrote it (rw)",
        "  because b read x before a overwrote it (rw)",
    ]
    (anomaly,) = verdict.to_json()["anomalies"]
    assert anomaly["cycle"][0] == {"kind": "rw", "key": "y", "before": 2, "after": 3}


def test_the_shortest_come_first_and_only_so_many() -> None:
    ring = [txn(f"r{n}", reads={f"k{n}": 1}, writes={f"k{(n + 1) % 5}": 1}) for n in range(5)]
    pairs = [
        txn(f"{name}{n}", reads={f"p{n}": 0}, writes={f"p{n}": version})
        for n in range(3)
        for name, version in (("a", 1), ("b", 2))
    ]
    verdict = checked(*ring, *pairs)
    assert [len(anomaly.operations) for anomaly in verdict.anomalies] == [2, 2, 2, 5]
    assert verdict.anomalies[-1].name == "cyclic information flow"
    few = checked(*ring, *pairs, limit=1)
    assert (len(few.anomalies), few.found) == (1, 4)
    with pytest.raises(ValueError, match="at least 1"):
        checked(limit=0)


HOLDING: list[tuple[str, list[dict[str, Any]]]] = [
    ("nothing", []),
    ("blind writes", [txn("a", writes={"x": 5}), txn("b", writes={"x": 3})]),
    ("own writes", [txn("a", reads={"x": [1, 2, 3]}, writes={"x": [2, 3]})]),
    ("an unknown one, not seen", [UNKNOWN, txn("a", reads={"x": 1}, writes={"x": 2})]),
    ("an unknown one, seen", [UNKNOWN, txn("a", reads={"x": 2}, writes={"x": 3})]),
    ("a failed one", [txn("a", reads={"x": 77}, writes={"x": 2}, outcome="failed")]),
    (
        "a failed one whose version another one made",
        [
            txn("a", writes={"x": 2}, outcome="failed"),
            txn("b", writes={"x": 2}),
            txn("c", reads={"x": 2}),
        ],
    ),
    (
        "a scan before and after",
        [
            txn("a", writes={"task/1": 1}),
            txn("b", scans={"task/": {"task/1": 1}}, writes={"task/2": 1}),
            txn("c", scans={"task/": {}}),
        ],
    ),
    (
        "a scan after a deletion",
        [
            txn("a", writes={"task/1": 1}, invoked=0, completed=1),
            txn("b", writes={"task/1": {"version": 2, "value": None}}, invoked=2, completed=3),
            txn("c", scans={"task/": {}}, invoked=4, completed=5),
        ],
    ),
    (
        "a scan after its own deletion",
        [
            txn("a", writes={"task/1": 1}),
            txn("b", writes={"task/1": {"version": 2, "value": None}}, scans={"task/": {}}),
        ],
    ),
    (
        "values",
        [
            txn("a", writes={"v": {"value": "a"}}),
            txn("b", reads={"v": {"value": "a"}}, writes={"v": {"value": "b"}}),
            txn("c", reads={"v": {"value": "b"}}),
        ],
    ),
    (
        "an unknown append, seen",
        [
            txn("a", kind="append", key="l", value=1, version=1),
            txn("u", kind="append", key="l", value=2, outcome="unknown"),
            txn("b", reads={"l": {"version": 2, "value": [1, 2]}}),
        ],
    ),
    (
        "an append with its version",
        [
            txn("a", kind="append", key="l", value=1, version=1),
            txn("b", reads={"l": {"version": 1, "value": [1]}}),
        ],
    ),
]


@pytest.mark.parametrize(("what", "lines"), HOLDING, ids=[name for name, _ in HOLDING])
def test_what_is_serializable_holds(what: str, lines: list[dict[str, Any]]) -> None:
    verdict = checked(START, *lines)
    assert verdict.ok, (what, str(verdict))


def test_an_unknown_transaction_that_was_seen_counts() -> None:
    """It took effect, so that what it read counts, too: here it read what b had overwritten."""
    unknown = UNKNOWN | {"reads": {"y": 1}}
    seen = txn("a", reads={"x": 2, "y": 2})
    later = txn("b", reads={"x": 1, "y": 1}, writes={"y": 2})
    assert checked(START, unknown, later).ok
    (anomaly,) = checked(START, unknown, seen, later).anomalies
    assert anomaly.name == "write skew"
    assert {operation.id for operation in anomaly.operations} == {"u", "b"}


BY_VALUE = txn("c", reads={"x": {"value": "u"}})
UNDECIDED: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "no versions were recorded, and writes did not read it before",
        [txn("a", writes={"v": {"value": "a"}}), txn("b", writes={"v": {"value": "b"}})],
    ),
    (
        "a value was written twice",
        [
            txn("a", writes={"v": {"value": "a"}}),
            txn("b", reads={"v": {"value": "a"}}, writes={"v": {"value": "a"}}),
            txn("c", reads={"v": {"value": "a"}}, writes={"v": {"value": "c"}}),
        ],
    ),
    (
        "what was written has no version",
        [UNKNOWN | {"writes": {"x": 2, "y": {"value": 7}}}, txn("a", reads={"x": 2})],
    ),
    (
        "what was read has no version",
        [UNKNOWN, txn("a", writes={"x": {"version": 2, "value": "u"}}), BY_VALUE],
    ),
    (
        "a value was written twice",
        [
            txn("a", writes={"v": {"value": "a"}}),
            txn("u", writes={"v": {"value": "a"}}, outcome="unknown"),
        ],
    ),
    (
        "what was written has no version",
        [txn("a", writes={"x": {"value": "b"}}), BY_VALUE],
    ),
    (
        "several unknown writes may have made version 2",
        [UNKNOWN, UNKNOWN | {"id": "u2"}, txn("a", reads={"x": 2})],
    ),
    (
        "several unknown writes may have made version 2",
        [UNKNOWN, UNKNOWN | {"id": "u2", "writes": {"x": 2}}, txn("a", reads={"x": 2})],
    ),
    (
        "what was written has no version",
        [txn("a", kind="append", key="l", value=1)],
    ),
    (
        "what was read has no version",
        [
            txn("a", writes={"w": {"version": 1, "value": 0}}),
            txn("b", writes={"w": {"version": 2, "value": 0}}),
            txn("c", reads={"w": {"value": 0}}),
        ],
    ),
    (
        "deleted at one time",
        [
            txn("a", writes={"task/1": 1}, invoked=0, completed=1),
            txn("b", writes={"task/1": {"version": 2, "value": None}}, invoked=2, completed=3),
            txn("c", scans={"task/": {}}, reads={"z": 1}, invoked=4, completed=5),
            txn("d", reads={"task/1": 2}, writes={"task/1": 3, "z": 1}, invoked=6, completed=7),
        ],
    ),
]


@pytest.mark.parametrize(("reason", "lines"), UNDECIDED, ids=[name for name, _ in UNDECIDED])
def test_what_cannot_be_told_is_undecided_and_no_pass(
    reason: str, lines: list[dict[str, Any]]
) -> None:
    verdict = checked(START, *lines)
    assert (verdict.outcome, verdict.ok, verdict.anomalies) == ("undecided", False, ())
    assert reason in verdict.undecided[0]
