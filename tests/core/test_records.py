"""Records and entries by themselves: true or false, shown, and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

import interlock
from interlock.core.records import Entry, Record, absent


@dataclass
class Seat:
    row: int
    until: datetime


SEAT = Seat(12, datetime(2026, 12, 1, tzinfo=UTC))
SEAT_JSON = {"row": 12, "until": "2026-12-01T00:00:00Z"}
AT = "2026-11-29T08:00:00.000001+00:00"
TIME_US = 1795939200000001


def record(value: Any, exists: bool = True) -> Record:
    return Record("k", value, 3, 1, "ann", TIME_US, 7, exists, "s")


@pytest.mark.parametrize("value", [None, 0, "", [], {}, SEAT])
def test_a_record_is_true_where_the_key_exists_whatever_it_holds(value: Any) -> None:
    assert record(value)
    assert not record(None, exists=False)
    assert not absent("k", "s")


@pytest.mark.parametrize(
    "value",
    [
        "x" * 1_000_000,
        list(range(100_000)),
        {str(n): {"n": {"n": [n] * 50}} for n in range(1000)},
        [["x" * 50] * 50] * 50,
        Seat(10**500, SEAT.until),
    ],
)
def test_a_record_is_shown_in_short(value: Any) -> None:
    shown = repr(record(value))
    assert shown.startswith("<Record 'k' version 3: ")
    assert len(shown) <= len("<Record 'k' version 3: >") + 60


def test_a_record_that_does_not_exist_says_so() -> None:
    assert repr(record({"row": 1})) == "<Record 'k' version 3: {'row': 1}>"
    assert repr(absent("k", "s")) == "<Record 'k' version 0: does not exist>"


def test_a_record_and_an_entry_become_json() -> None:
    for value, stored in ((SEAT, SEAT_JSON), ({"n": 2**70, "x": [1.5, None]},) * 2):
        found = record(value).to_dict()
        assert json.loads(json.dumps(found)) == {
            "key": "k",
            "value": stored,
            "version": 3,
            "epoch": 1,
            "writer": "ann",
            "at": AT,
            "exists": True,
        }
        entry = Entry(7, "k", 3, 1, "put", value, "ann", TIME_US, "op", {"a": 1}, None)
        assert json.loads(json.dumps(entry.to_dict())) == {
            "position": 7,
            "key": "k",
            "version": 3,
            "epoch": 1,
            "kind": "put",
            "value": stored,
            "agent": "ann",
            "at": AT,
            "op_id": "op",
            "reads": {"a": 1},
            "trace": None,
        }
    never = absent("k", "s").to_dict()
    assert (never["at"], never["writer"], never["exists"]) == (None, None, False)


def test_what_a_pydantic_model_holds_becomes_json() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Model", row=(int, ...))
    assert record(model(row=1)).to_dict()["value"] == {"row": 1}


def test_a_transaction_goes_by_records_that_do_not_exist() -> None:
    """They are false: what a transaction read of them counts all the same."""
    with interlock.open("sqlite://", agent="ann") as space:
        with space.transaction() as tx:
            was = tx.read("k")
            tx.create("k", 1)
            assert tx.read("k").version == was.version == 0
        space.transact(lambda tx: None if tx.read("other") else tx.create("other", 2))
        assert space.read("other").value == 2
