"""The format of agent traces: what is written is read again, what is malformed is told."""

from __future__ import annotations

import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.forensics import BadTrace, Operation, read_trace
from tests.forensics.test_anomalies import drawn

LINE = {"session": "s", "id": "i", "agent": "a", "read_time": 0, "write_time": 1.5}


def read(*lines: Any) -> list[Operation]:
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return list(read_trace(io.BytesIO(b"\n".join(texts)), name="t.jsonl"))


def test_the_least_operation_is_read() -> None:
    assert read(LINE) == [Operation("s", "i", "a", 0, 1.5)]
    assert read(b"\xef\xbb\xbf" + json.dumps(LINE).encode() + b"\r\n") == read(LINE)
    assert read() == []


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    trace = [operation for seed in range(200) for operation in drawn(seed)]
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(each.to_json()) + "\n" for each in trace), encoding="utf-8")
    assert list(read_trace(file)) == trace
    assert list(read_trace(str(file))) == trace


@pytest.mark.parametrize(
    ("line", "field", "told"),
    [
        (b"", "", "is not JSON"),
        (b"{", "", "is not JSON"),
        (b"[1]", "", "is not a JSON object: [1]"),
        (b'{"id": "\xff"}', "", "is not UTF-8"),
        (b'{"id": "\\ud800"}', "", "holds a lone surrogate"),
        (b'{"id": ' + b"[" * 100_000, "", "is nested too deeply"),
        (b'{"id": ' + b"1" * 5000 + b"}", "", "is not readable"),
        (b'{"read_time": NaN}', "", "is not a JSON number: 'NaN'"),
        (b'{"id": "a", "id": "b"}', "id", "is there twice: 'b'"),
        (LINE | {"reads": {}}, "reads", "is not a field"),
        ({**LINE, "agent": ""}, "agent", "is not a text of one character or more: ''"),
        ({**LINE, "agent": 7}, "agent", "is not a text of one character or more: 7"),
        ({k: LINE[k] for k in LINE if k != "session"}, "session", "is missing"),
        ({k: LINE[k] for k in LINE if k != "write_time"}, "write_time", "is missing"),
        (LINE | {"read_time": True}, "read_time", "is not a finite number: True"),
        (LINE | {"read_time": "09:30"}, "read_time", "is not a finite number: '09:30'"),
        (b'{"session":"s","id":"i","agent":"a","read_time":1e999}', "read_time", "not a finite"),
        (LINE | {"read_time": 2}, "write_time", "is before read_time: 1.5; both must be of one"),
        (LINE | {"read_times": {"k": 1}}, "read_times", "holds a key that was not read: 'k'"),
        (LINE | {"read_set": {"k": 1}, "read_times": {"k": 2}}, "write_time", "is before read"),
        (LINE | {"read_set": {"k": 1}, "read_times": {"k": ""}}, "read_times k", "not a finite"),
        (LINE | {"read_set": ["k"]}, "read_set", "is not an object: ['k']"),
        (LINE | {"write_set": None}, "write_set", "is not an object: None"),
        (LINE | {"predecessors": "x"}, "predecessors", "is not a list: 'x'"),
        (LINE | {"predecessors": [1]}, "predecessors", "holds what is not a text: 1"),
        (LINE | {"predecessors": ["i"]}, "predecessors", "holds the operation itself: 'i'"),
        (LINE | {"aborted": 0}, "aborted", "is not true or false: 0"),
        (LINE | {"planned_tools": ["x"], "tools_at_read": []}, "tools_at_write", "is missing"),
        (LINE | {"intended_effects": []}, "committed_effects", "is missing"),
    ],
)
def test_what_is_malformed_is_told_with_its_place(line: Any, field: str, told: str) -> None:
    with pytest.raises(BadTrace) as caught:
        read(LINE, line, LINE)
    problem = caught.value
    assert (problem.file, problem.line, problem.field) == ("t.jsonl", 2, field)
    assert told in str(problem)
    assert str(problem).startswith(f"t.jsonl, line 2: {field}")
    assert problem.next_step
    assert str(problem).endswith(problem.next_step)
    assert len(str(problem)) < 500


def test_a_bad_trace_is_an_invalid_call_and_can_be_pickled() -> None:
    with pytest.raises(interlock.Invalid) as caught:
        read({**LINE, "agent": 7})
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.line, again.value) == (str(caught.value), 1, 7)
    assert not again.retryable


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(interlock.Unavailable, match=r"t read .*: No such file"):
        list(read_trace(tmp_path / "none.jsonl"))


def test_progress_counts_every_byte() -> None:
    lines = (json.dumps(LINE) + "\n") * 2500
    told: list[int] = []
    assert len(list(read_trace(io.BytesIO(lines.encode()), progress=told.append))) == 2500
    assert sum(told) == len(lines)
    assert len(told) == 3


def test_random_damage_is_never_anything_but_a_bad_trace() -> None:
    chance = random.Random(5)
    whole = json.dumps(drawn(4)[0].to_json()).encode()
    refused = 0
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            read(bytes(damaged).replace(b"\n", b" "))
        except BadTrace as problem:
            refused += problem.line == 1
    assert refused > 1000
