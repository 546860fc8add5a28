"""Schemas of rules: made from types, checked by whoever has them or not, never guessed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pydantic
import pytest

from interlock.core import rules
from interlock.core.keys import decode, encode
from interlock.core.refusals import Invalid
from interlock.core.schema import Schema, schema_of
from interlock.core.types import shape_of, upcast


@dataclass
class Seat:
    row: int


@dataclass
class Booking:
    seats: list[Seat]
    tags: set[str] = field(default_factory=set)
    previous: Booking | None = None


@dataclass
class Times:
    at: datetime | None = None
    on: date | None = None
    by: time | None = None
    all: list[datetime] = field(default_factory=list)
    named: dict[str, datetime] = field(default_factory=dict)
    took: timedelta | None = None
    cost: Decimal | None = None
    id: UUID | None = None


class Guest(pydantic.BaseModel):
    name: str
    seats: list[Seat] = []
    best: Guest | None = None


class Order(msgspec.Struct, forbid_unknown_fields=True):
    number: int


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Party:
    guests: list[Guest]


@dataclass
class Place:
    city: str


assert upcast(Place, 1, lambda fields: fields) is None
NOW = datetime(2026, 11, 29, 6)

FITS: dict[str, tuple[Any, Any, list[tuple[Any, str]]]] = {
    "dataclass": (
        Booking,
        Booking([Seat(1)], {"a"}, Booking([])),
        [
            (
                {"seats": [{"row": 1}, {"row": "x"}]},
                "'x' is not of type 'integer' at $.seats[1].row",
            ),
            ({}, "'seats' is a required property"),
            ({"seats": [], "previous": {}}, "at $.previous"),
            (3, "3 is not of type 'object'"),
        ],
    ),
    "times": (
        Times,
        Times(
            NOW,
            NOW.date(),
            NOW.time(),
            [NOW],
            {"a": NOW},
            timedelta(1),
            Decimal("1.5"),
            UUID(int=1),
        ),
        [({name: "x"}, f"at $.{name}") for name in ("at", "on", "by", "took", "cost", "id")]
        + [({"all": ["x"]}, "at $.all[0]"), ({"named": {"a": "x"}}, "at $.named.a")],
    ),
    "pydantic": (
        Guest,
        Guest(name="A", seats=[Seat(1)], best=Guest(name="B")),
        [({"name": "A", "best": {"name": 1}}, "at $.best.name")],
    ),
    "pydantic in a dataclass": (
        Party,
        Party([Guest(name="A", best=Guest(name="B"))]),
        [({"guests": [{"name": "A", "seats": [{"row": "x"}]}]}, "at $.guests[0].seats[0].row")],
    ),
    "union": (
        Order | Seat | None,
        Order(1),
        [({"number": 1}, "'row' is a required property"), ({"$type": "Order", "number": "1"}, "")],
    ),
    "NamedTuple": (Point, Point(1, 2), [([1], "")]),
    "list": (
        list[Seat],
        [Seat(1)],
        [([{"row": wrong}], "at $[0].row") for wrong in (1.5, 1.0, True)],
    ),
    "versioned": (
        Place,
        Place("Rome"),
        [
            ({"city": "Rome"}, "'$version' is a required property"),
            ({"$version": 1, "city": "x"}, "2"),
        ],
    ),
}


def schema(given: Any) -> Schema:
    found = schema_of(given)
    assert isinstance(found, Schema), found
    return found


@pytest.mark.parametrize("name", FITS)
def test_what_a_type_encodes_to_fits_its_schema_and_other_values_do_not(name: str) -> None:
    form, value, wrong = FITS[name]
    shape = shape_of(form)
    assert not isinstance(shape, Invalid)
    made = schema(form)
    assert (made.malformed(), made.misfit(decode(str(encode(shape.encode(value)))))) == (None, None)
    for json, message in wrong:
        found = made.misfit(json)
        assert found is not None
        assert message in found, json


def test_a_schema_is_stored_with_its_rule_and_read_again() -> None:
    rule = rules.guarded(schema=Booking)
    stored = rule.to_json()
    assert stored["schema"]["title"] == "Booking"
    assert rules.rule_from_json(stored, {}) == rule
    assert rules.describe_rule(rule) == "guarded(schema=Booking)"
    assert rule.about.how.endswith("; values fit Booking")
    assert rule.about.tools.endswith("; values fit Booking")
    assert rules.plain(rules.merged("append", schema=Seat)).to_json()["schema"]["title"] == "Seat"


def test_a_schema_is_the_same_whatever_the_order_of_its_names() -> None:
    assert schema({"type": "object", "title": "A"}) == schema({"title": "A", "type": "object"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"type": "nope"}, "the schema is malformed: 'nope'"),
        ({"minimum": float("nan")}, "The schema is not JSON"),
        ({"a": object()}, "The schema is not JSON"),
        (object, "object can't be the type of a value"),
        ("Booking", "can't be the type of a value"),
        (3, "can't be the type of a value"),
    ],
)
def test_what_is_no_schema_is_refused_where_the_rules_are_declared(
    given: Any, message: str
) -> None:
    for make in (rules.guarded, rules.leased, rules.private):
        wrong = rules.check({"agent/{agent}/x": make(schema=given)})
        assert wrong is not None
        assert message in wrong.message
        assert "agent/{agent}/x" in wrong.message


@pytest.mark.parametrize(
    "stored", [{"rule": "guarded", "schema": 3}, {"rule": "guarded", "schema": None}]
)
def test_a_stored_schema_that_is_none_is_not_passed_over(stored: Any) -> None:
    assert isinstance(rules.rule_from_json(stored, {}), rules.UnknownRule)


@pytest.mark.parametrize("reference", ["http://example.invalid/schema", "#/$defs/gone", "#"])
def test_a_schema_that_cannot_be_applied_fits_nothing(reference: str) -> None:
    found = schema({"$ref": reference}).misfit(1)
    assert found is not None
    assert "the schema can't be applied" in found


def test_without_the_library_nothing_fits_and_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    found = schema({"title": "only here"}).misfit(1)
    assert found is not None
    assert "interlock[schema]" in found
