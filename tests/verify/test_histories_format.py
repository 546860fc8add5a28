"""The format of histories: what is read, and how what is wrong is told."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.verify import (
    MalformedHistory,
    Operation,
    State,
    parse_history,
    read_history,
    write_history,
)

READ = {"process": "ann", "kind": "read", "key": "k", "version": 1, "invoked": 1, "completed": 2}
READ |= {"outcome": "ok"}
TXN = {"process": "ann", "kind": "txn", "invoked": 1, "completed": 2, "outcome": "ok"}
CAS = READ | {"kind": "cas", "expect": 0}


def without(line: dict[str, Any], field: str) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != field}


WRONG: list[tuple[Any, str, str]] = [
    # the line, the field that is named, a part of what is said
    ("", "", "not an operation as JSON"),
    ('{"process": "ann", ', "", "not an operation as JSON"),
    ("[1]", "", "must be an object"),
    ("{} {}", "", "there is more after character 2"),
    (b"\xff{}", "", "not UTF-8 at byte 1"),
    ('{"kind": "read", "kind": "write"}', "", "'kind' twice"),
    ('{"kind": NaN}', "", "NaN"),
    ('{"process": "\\ud800", "kind": "read"}', "", "half a character"),
    ("[" * 100_000, "", "not an operation as JSON"),
    (without(READ, "kind"), "kind", "must be one of read, write"),
    (READ | {"kind": ["read"]}, "kind", "must be one of"),
    (READ | {"knid": 1}, "knid", "read has no such field; it has completed"),
    (READ | {"expect": 1}, "expect", "read has no such field"),
    (without(READ, "outcome"), "outcome", "must be one of ok, failed, unknown"),
    (READ | {"outcome": "fine"}, "outcome", "must be one of"),
    (without(READ, "process"), "process", "who asked for it"),
    (READ | {"process": ""}, "process", "who asked for it"),
    (READ | {"process": True}, "process", "who asked for it"),
    (READ | {"id": [1]}, "id", "text or a number"),
    (without(READ, "invoked"), "invoked", "must be a time"),
    (READ | {"invoked": "1"}, "invoked", "must be a time"),
    (READ | {"invoked": True}, "invoked", "must be a time"),
    (json.dumps(READ).replace('"invoked": 1', '"invoked": 1e999'), "invoked", "must be a time"),
    (READ | {"completed": 10**400}, "completed", "must be a time"),
    (READ | {"completed": None}, "completed", "where the outcome is ok"),
    (READ | {"completed": 0.5}, "completed", "before it was invoked, 1"),
    (without(READ, "key"), "key", "must be text"),
    (READ | {"key": 1}, "key", "must be text"),
    (without(READ, "version"), "version", "what was read or written"),
    (READ | {"version": -1}, "version", "at least 0"),
    (READ | {"version": 1.0}, "version", "must be an integer"),
    (READ | {"version": True}, "version", "must be an integer"),
    (READ | {"version": 0, "value": 1}, "version", "its value is null"),
    (READ | {"kind": "write", "version": 0}, "version", "at least 1"),
    (without(CAS, "expect"), "expect", "what the key had to be"),
    (CAS | {"expect": None}, "expect", "must be an integer"),
    (CAS | {"expect": {}}, "expect", '"version", "value" or both'),
    (CAS | {"expect": {"versoin": 1}}, "expect", '"version", "value" or both'),
    (READ | {"kind": "append"}, "value", "the item that was appended"),
    (TXN | {"reads": [1]}, "reads", "an object of keys"),
    (TXN | {"reads": {"k": "1"}}, "reads.k", "must be an integer"),
    (TXN | {"reads": {"k": []}}, "reads.k", "must be an integer"),
    (TXN | {"reads": {"k": [1, -1]}}, "reads.k", "at least 0"),
    (TXN | {"writes": {"k": 0}}, "writes.k", "at least 1"),
    (TXN | {"scans": 1}, "scans", "an object of prefixes"),
    (TXN | {"scans": {"a/": 1}}, "scans.a/", "an object of keys"),
    (TXN | {"scans": {"a/": {"b": 1}}}, "scans.a/", "does not begin with the prefix"),
    (TXN | {"scans": {"a/": {"a/b": 0}}}, "scans.a/.a/b", "at least 1"),
    (TXN | {"key": "k"}, "key", "txn has no such field"),
]


@pytest.mark.parametrize(("line", "field", "said"), WRONG)
def test_what_is_wrong_is_named(line: Any, field: str, said: str) -> None:
    text = json.dumps(line) if isinstance(line, dict) else line
    with pytest.raises(MalformedHistory) as caught:
        parse_history([json.dumps(READ), text], "run.jsonl")
    problem = caught.value
    assert (problem.file, problem.line, problem.field) == ("run.jsonl", 2, field)
    assert str(problem).startswith("run.jsonl, line 2: ")
    assert said in str(problem)
    assert len(str(problem)) < 300
    if isinstance(line, dict) and isinstance(line.get(field), str | bool | float):
        assert problem.value == line[field]


def test_an_id_stands_for_one_operation() -> None:
    with pytest.raises(MalformedHistory, match="that of line 1, too") as caught:
        parse_history([json.dumps(READ | {"id": "a"})] * 2)
    assert (caught.value.line, caught.value.field, caught.value.value) == (2, "id", "a")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MalformedHistory, match=r"none\.jsonl: it cannot be read \(No such file"):
        read_history(tmp_path / "none.jsonl")
    with pytest.raises(MalformedHistory, match="directory"):
        read_history(tmp_path)


def test_the_error_is_invalid_and_travels_between_processes() -> None:
    problem = MalformedHistory("f", 3, "kind", "x", "must be one of these")
    assert isinstance(problem, interlock.Invalid)
    copied = pickle.loads(pickle.dumps(problem))
    assert (str(copied), copied.line, copied.value) == (str(problem), 3, "x")


GOOD: list[dict[str, Any]] = [
    READ | {"version": 0},
    READ | {"version": 0, "value": None},
    READ | {"process": 7, "id": 3, "invoked": -1.5},
    without(READ, "version") | {"value": {"b": [1, None], "a": "ü\U0001f600"}},
    without(READ, "version") | {"outcome": "unknown", "completed": None},
    without(READ, "version") | {"outcome": "failed"},
    READ | {"kind": "write", "value": "x"},
    READ | {"kind": "write", "outcome": "unknown", "completed": None},
    CAS,
    CAS | {"expect": {"version": 1, "value": "x"}, "version": 2, "value": "y"},
    READ | {"kind": "append", "value": [1]},
    TXN,
    TXN
    | {
        "reads": {"a/1": 0, "b": [1, {"version": 2, "value": 5}]},
        "writes": {"b": [3, 4], "c": {"value": None}},
        "scans": {"a/": {"a/2": 1}, "": {}},
    },
]


def test_operations_are_written_as_they_were_read(tmp_path: Path) -> None:
    lines = [json.dumps(line) for line in GOOD]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    history = read_history(tmp_path / "in.jsonl")
    assert [operation.line for operation in history] == list(range(1, len(GOOD) + 1))
    write_history(tmp_path / "out.jsonl", history)
    assert read_history(tmp_path / "out.jsonl") == history
    assert [len(str(operation)) > 10 for operation in history] == [True] * len(GOOD)


def test_what_an_operation_holds() -> None:
    (cas,) = parse_history([json.dumps(CAS | {"value": {"b": 1, "a": 2}})])
    assert cas == Operation(
        process="ann",
        kind="cas",
        reads={"k": (State(0),)},
        writes={"k": (State(1, '{"a":2,"b":1}'),)},
        scans={},
        invoked=1,
        completed=2,
        outcome="ok",
        line=1,
    )
    assert cas.writes["k"][0].value == {"a": 2, "b": 1}
    assert (
        str(cas) == 'line 1: ann set k from absent (version 0) to version 1 ({"a":2,"b":1}) [1-2]'
    )
