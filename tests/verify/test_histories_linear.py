"""Linearizability per key: planted anomalies, explanations, budgets."""

from __future__ import annotations

import re
from typing import Any

import pytest

from interlock.verify import Verdict, check_linearizable
from tests.verify.brute_histories import is_linearizable, parsed, register_history


def op(kind: str, invoked: float, completed: float, **fields: Any) -> dict[str, Any]:
    """A line of a history; the outcome is ok and the key is k unless said otherwise."""
    line = {"process": "p", "kind": kind, "key": "k", "outcome": "ok"}
    return {**line, "invoked": invoked, "completed": completed, **fields}


def txn(invoked: float, completed: float, **fields: Any) -> dict[str, Any]:
    """A line of a transaction."""
    line = {"process": "p", "kind": "txn", "outcome": "ok"}
    return {**line, "invoked": invoked, "completed": completed, **fields}


def checked(*lines: dict[str, Any], budget: int = 10_000) -> Verdict:
    return check_linearizable(parsed(list(lines)), budget=budget)


WRITE_1, WRITE_2 = op("write", 0, 1, value=1), op("write", 2, 3, value=2)
LOST, READ_1 = op("write", 0, 1, value=2, outcome="unknown"), op("read", 4, 5, value=1)
ADD_1 = op("append", 0, 9, value=1)
LOST_1 = op("write", 0.1, 1, value=1, outcome="unknown")
LOST_CAS = op("cas", 0, 1, expect={"value": None}, value=1, outcome="unknown")
BACK_AND_FORTH = [READ_1, op("write", 6, 7, value=2), op("read", 8, 9, value=2)]
BACK_AND_FORTH += [op("read", 10, 11, value=1)]

FAILING: list[tuple[str, list[dict[str, Any]]]] = [
    ("a stale read", [WRITE_1, WRITE_2, op("read", 4, 5, value=1)]),
    ("a value from nowhere", [WRITE_1, op("read", 2, 3, value=7)]),
    ("a value before it was written", [op("read", 0, 1, value=2), WRITE_2]),
    ("a failed write that was seen", [WRITE_2 | {"outcome": "failed"}, op("read", 4, 5, value=2)]),
    (
        "values that go back",
        [WRITE_1, op("write", 2, 9, value=2), op("read", 3, 4, value=2), op("read", 5, 6, value=1)],
    ),
    (
        "two winners of one compare-and-set",
        [op("cas", 0, 5, expect=0, value="a"), op("cas", 0, 5, expect=0, value="b")],
    ),
    (
        "one version twice",
        [op("write", 0, 5, version=1, value="a"), op("write", 0, 5, version=1, value="b")],
    ),
    ("a version that falls", [op("write", 0, 1, version=5), op("write", 2, 3, version=4)]),
    (
        "one version of two values",
        [op("read", 0, 1, version=1, value=1), op("read", 2, 3, value=2)],
    ),
    (
        "items out of order",
        [op("append", 0, 1, value=1), op("append", 2, 3, value=2), op("read", 4, 5, value=[2, 1])],
    ),
    ("a lost item", [op("append", 0, 1, value=1), op("read", 4, 5, value=[])]),
    (
        "an unknown write that took effect and went away",
        [
            WRITE_1,
            op("write", 2, 3, value=2, outcome="unknown"),
            op("read", 4, 5, value=2),
            op("read", 6, 7, value=1),
        ],
    ),
    (
        "a transaction that read what was overwritten",
        [
            op("write", 0, 1, version=1),
            op("write", 2, 3, version=2),
            txn(4, 5, reads={"k": 1}, writes={"other": 1}),
        ],
    ),
]
FAILING.append(
    (
        "a scan that found what was overwritten",
        [*FAILING[-1][1][:2], txn(4, 5, scans={"": {"k": 1}})],
    )
)

HOLDING: list[tuple[str, list[dict[str, Any]]]] = [
    ("nothing", []),
    ("an absent key", [op("read", 0, 1, version=0), op("read", 0, 1, value=None)]),
    ("reads during a write", [WRITE_1, op("write", 2, 9, value=2), op("read", 3, 4, value=1)]),
    ("at the same instant", [WRITE_1, op("read", 1, 1, value=None)]),
    ("a write that is placed late", [op("write", 0, 9, value=2), op("write", 0, 9, value=1)]),
    (
        "two writes, the one that completed first last",
        [WRITE_1, WRITE_2, op("write", 2, 4, value=1), op("read", 5, 6, value=2)],
    ),
    ("an unknown write, seen late", [LOST, WRITE_1, READ_1, op("read", 6, 7, value=2)]),
    ("an unknown write, never seen", [LOST, WRITE_1, READ_1]),
    ("two unknown writes, of which one can come late", [LOST_CAS, LOST_1, *BACK_AND_FORTH]),
    ("the same, the other way round", [LOST_1, LOST_CAS | {"invoked": 0.2}, *BACK_AND_FORTH]),
    ("a failed compare-and-set", [op("cas", 0, 1, expect=7, value=1, outcome="failed")]),
    ("versions with gaps", [op("write", 0, 1, version=3), op("write", 2, 3, version=9)]),
    ("a version told by the reader", [WRITE_1, op("read", 2, 3, version=40, value=1)]),
    ("a value told by the reader", [op("write", 0, 1, version=2), op("read", 2, 3, value=8)]),
    ("items", [ADD_1, ADD_1, op("read", 2, 3, value=[1]), op("read", 9, 9, value=[1, 1])]),
    ("keys apart", [WRITE_1, op("read", 4, 5, value=None, key="other")]),
]


@pytest.mark.parametrize(("what", "lines"), FAILING, ids=[name for name, _ in FAILING])
def test_what_cannot_be_ordered_is_found(what: str, lines: list[dict[str, Any]]) -> None:
    verdict = checked(*lines)
    assert verdict.outcome == "anomalies", what
    (anomaly,) = verdict.anomalies
    assert (anomaly.name, anomaly.keys) == ("not linearizable", ("k",))
    assert 1 <= len(anomaly.operations) <= 4


@pytest.mark.parametrize(("what", "lines"), HOLDING, ids=[name for name, _ in HOLDING])
def test_what_can_be_ordered_holds(what: str, lines: list[dict[str, Any]]) -> None:
    assert checked(*lines).ok, what


def test_the_explanation_names_few_operations_of_many() -> None:
    lines: list[dict[str, Any]] = []
    for version in range(1, 200):
        at = 10.0 * version
        lines.append(op("cas", at, at + 2, expect=version - 1, version=version))
        lines.append(op("read", at + 1, at + 9, version=version))
    lines[300:300] = [op("read", 1515, 1519, version=149, process="eve", id="stale")]
    (anomaly,) = checked(*lines).anomalies
    assert [operation.id or operation.line for operation in anomaly.operations] == [
        297,
        299,
        "stale",
    ]
    said = "stale fits nowhere between its beginning and its end; k was version 151 then"
    assert anomaly.explanation == said
    assert "stale: eve read k as version 149 [1515-1519]" in str(anomaly)


def test_the_explanation_names_what_stands_in_the_way() -> None:
    (anomaly,) = checked(
        op("write", -2, -1, value="free", version=1),
        op("cas", 0, 5, expect=1, value="ann"),
        op("read", 1, 6, version=1),
        op("cas", 2, 7, expect=1, value="ben"),
    ).anomalies
    assert [operation.line for operation in anomaly.operations] == [1, 2, 4]
    said = "line 4 fits nowhere between its beginning and its end if line 2 fits, too; k was "
    assert anomaly.explanation.startswith(said)


def test_a_write_that_changes_nothing_may_still_come_late() -> None:
    (anomaly,) = checked(
        op("write", 0, 1, value=2),
        op("write", 2, 5, value=4),
        op("write", 2, 6, value=2),
        op("read", 7, 8, value=2),
        op("read", 9, 10, value=9),
    ).anomalies
    assert anomaly.explanation.startswith("line 5 fits nowhere")


def test_the_operation_that_is_named_is_the_first_that_fits_nowhere() -> None:
    """What was invoked by its end cannot be ordered, and can be without its answer."""
    named = 0
    for seed in range(600):
        lines = register_history(seed)
        for anomaly in checked(*lines).anomalies:
            (at,) = re.findall(r"^line (\d+) fits nowhere", anomaly.explanation)
            failing = lines[int(at) - 1]
            begun = [line for line in lines if line["invoked"] <= failing["completed"]]
            early = [
                line | {"outcome": "unknown"}
                if line["outcome"] == "ok" and line["completed"] > failing["completed"]
                else line
                for line in begun
            ]
            assert not is_linearizable(early), (seed, str(anomaly))
            others = [line for line in early if line is not failing]
            again = [line for line in others if line.get("completed") == failing["completed"]]
            assert is_linearizable([*others, failing | {"outcome": "unknown"}]) or again, seed
            named += 1
    assert named > 40


def wide(writes: int) -> list[dict[str, Any]]:
    """Writes that all overlap, and reads that no order of them allows."""
    lines = [op("write", 0, 10, value=number) for number in range(writes)]
    lines += [op("read", 11, 12, value=0), op("read", 13, 14, value=1)]
    return lines


def test_what_takes_too_many_steps_is_undecided_and_no_pass() -> None:
    verdict = checked(*wide(14), budget=5_000)
    assert (verdict.outcome, verdict.ok, verdict.anomalies) == ("undecided", False, ())
    assert verdict.undecided == ("k: not decided within 5000 steps",)
    assert "undecided whether" in str(verdict)


def test_what_was_tried_is_not_tried_again() -> None:
    """Eight writes that overlap have 40,320 orders, and 256 sets of them that are placed."""
    assert checked(*wide(8), budget=60_000).outcome == "anomalies"


def test_another_key_is_still_checked() -> None:
    stale = [line | {"key": "other"} for _, lines in FAILING[:1] for line in lines]
    verdict = checked(*wide(14), *stale, budget=5_000)
    assert verdict.outcome == "anomalies"
    assert [anomaly.keys for anomaly in verdict.anomalies] == [("other",)]
    assert len(verdict.undecided) == 1


def test_many_unknown_writes_of_versions_stay_cheap() -> None:
    lines: list[dict[str, Any]] = []
    for version in range(1, 400):
        lines.append(op("cas", version, version + 0.5, expect=version - 1, version=version))
        lost = op(
            "cas", version, version + 0.5, expect=version - 1, value="lost", outcome="unknown"
        )
        lines.append(lost)
    assert checked(*lines, budget=20_000).ok


def test_only_so_many_anomalies_are_explained() -> None:
    lines = [line | {"key": f"k{n}"} for n in range(5) for line in FAILING[0][1]]
    verdict = check_linearizable(parsed(lines), limit=2)
    assert (len(verdict.anomalies), verdict.found) == (2, 5)
    assert "and 3 more" in str(verdict)


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"limit": 0}])
def test_a_budget_or_a_limit_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        check_linearizable([], **wrong)
