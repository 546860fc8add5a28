"""Typed values: what becomes JSON and comes back, and what does not fit, and where."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from interlock.core.keys import decode, encode
from interlock.core.refusals import Invalid
from interlock.core.types import Misfit, Shape, Tagged, shape_of, tagged

T = TypeVar("T")


class Color(Enum):
    RED = "red"


@dataclass
class Seat:
    row: int
    price: Decimal = Decimal("9.90")


@dataclass
class Booking:
    seats: list[Seat]
    tags: set[str] = field(default_factory=set)
    at: datetime | None = None
    previous: Booking | None = None


class Point(NamedTuple):
    x: int
    day: date


class Plan(TypedDict, total=False):
    title: str
    due: datetime


class Order(msgspec.Struct, rename="camel"):
    order_id: UUID


@attrs.define
class Stop:
    city: str
    colors: frozenset[Color] = frozenset()


class Guest(pydantic.BaseModel):
    name: str
    born: date | None = None
    seats: list[Seat] = []


@dataclass
class Page(Generic[T]):
    items: list[T]


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    number: int


@dataclass
class Paid:
    amount: Decimal


@dataclass
class Cancelled:
    by: str


NOW = datetime(2026, 11, 29, 6, 30, 0, 250, tzinfo=UTC)
ID = UUID(int=7)
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "dataclass": (Seat, Seat(3), {"row": 3, "price": "9.90"}),
    "dataclass in itself": (
        Booking,
        Booking([Seat(1)], {"b", "a"}, NOW, Booking([])),
        {
            "seats": [{"row": 1, "price": "9.90"}],
            "tags": ["a", "b"],
            "at": "2026-11-29T06:30:00.000250Z",
            "previous": {"seats": [], "tags": [], "at": None, "previous": None},
        },
    ),
    "NamedTuple": (Point, Point(1, NOW.date()), [1, "2026-11-29"]),
    "TypedDict": (Plan, {"due": NOW}, {"due": "2026-11-29T06:30:00.000250Z"}),
    "Struct": (Order, Order(ID), {"orderId": str(ID)}),
    "attrs": (Stop, Stop("Rome", frozenset([Color.RED])), {"city": "Rome", "colors": ["red"]}),
    "pydantic": (
        Guest,
        Guest(name="Ada", seats=[Seat(2)]),
        {"name": "Ada", "born": None, "seats": [{"row": 2, "price": "9.90"}]},
    ),
    "several pydantic models": (
        dict[str, Guest],
        {"a": Guest(name="A", born=NOW.date())},
        {"a": {"name": "A", "born": "2026-11-29", "seats": []}},
    ),
    "generic": (Page[int], Page([1]), {"items": [1]}),
    "integers as keys": (dict[int, Decimal], {7: Decimal("1.5")}, {"7": "1.5"}),
    "large integer": (int, 10**40, 10**40),
    "optional": (Seat | None, None, None),
    "union": (Paid | Cancelled, Cancelled("me"), {"$type": "Cancelled", "by": "me"}),
    "union with others": (Paid | Cancelled | list[int] | None, [1], [1]),
}


def shape(form: Any) -> Shape[Any]:
    found = shape_of(form)
    assert not isinstance(found, Invalid), found.message
    return found


@pytest.mark.parametrize("name", VALUES)
def test_an_object_becomes_json_and_comes_back(name: str) -> None:
    form, value, json = VALUES[name]
    body = encode(shape(form).encode(value))
    assert isinstance(body, str)
    assert decode(body) == json
    assert shape(form).decode(decode(body)) == value


WRONG: dict[str, tuple[Any, Any, str]] = {
    "item": (Booking, {"seats": [{"row": 1}, {"row": 2}, {"row": "x"}]}, "at $.seats[2].row"),
    "missing field": (Booking, {"seats": [{}]}, "missing required field row at $.seats[0]"),
    "whole value": (int, "7", "Expected int, got str"),
    "float for int": (int, 1.5, "Expected int, got float"),
    "enum": (Stop, {"city": "Rome", "colors": ["blue"]}, "at $.colors[0]"),
    "model": (Guest, {"name": "A", "born": "x"}, "at $.born"),
    "in a model in a list": (
        Page[Guest],
        {"items": [{"name": "A", "seats": [{"row": "x"}]}]},
        "at $.items[0].seats[0].row",
    ),
    "untagged": (Paid | Cancelled, {"by": "me"}, "whose $type is one of Paid, Cancelled"),
    "unknown tag": (Paid | Cancelled, {"$type": "Lost"}, "got 'Lost' at $.$type"),
    "odd tag": (Paid | Cancelled, {"$type": ["Paid"]}, "got ['Paid'] at $.$type"),
    "inside a tagged one": (Paid | Cancelled, {"$type": "Cancelled", "by": 1}, "at $.by"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named_with_its_path(name: str) -> None:
    form, json, where = WRONG[name]
    with pytest.raises(Misfit) as misfit:
        shape(form).decode(json)
    assert where in str(misfit.value)


MISUSED: dict[str, tuple[Any, Any, str]] = {
    "field of another type": (Booking, Booking([Seat(1), Seat("x")]), "at $.seats[1].row"),  # type: ignore[arg-type]  # that is the point
    "another type": (Seat, "a seat", "Expected object, got str"),
    "class of no union": (Paid | Cancelled, Seat(1), "expected one of Paid, Cancelled, got Seat"),
    "something that is not JSON": (Any, object(), "object"),
    "reserved name": (Plan, {"$version": 3}, "$version is a reserved name"),
}


@pytest.mark.parametrize("name", MISUSED)
def test_an_object_that_is_not_what_its_type_says_is_refused(name: str) -> None:
    form, value, where = MISUSED[name]
    with pytest.raises(Misfit) as misfit:
        shape(form).encode(value)
    assert where in str(misfit.value)


class Unknown:
    pass


PaidToo = make_dataclass("Paid", [("amount", int)])


@pytest.mark.parametrize(
    "form",
    [
        3,
        "Seat",
        object,
        Unknown,
        list[Unknown],
        list[Paid | Cancelled],
        Paid | PaidToo,
        Paid | Plan | Seat,
    ],
)
def test_what_no_value_can_have_as_its_type_is_invalid(form: Any) -> None:
    found = shape_of(form)
    assert isinstance(found, Invalid)
    assert "can't be the type of a value" in found.message


def test_typed_objects_are_found_wherever_they_stand_in_a_plain_value() -> None:
    body = encode({"booking": Booking([Seat(1)]), "points": [Point(1, NOW.date())]})
    assert isinstance(body, str)
    assert decode(body)["points"] == [[1, "2026-11-29"]]
    assert decode(body)["booking"]["seats"] == [{"row": 1, "price": "9.90"}]


def test_a_typed_object_in_a_plain_value_fits_its_own_type() -> None:
    wrong = encode({"all": [Seat("x")]})  # type: ignore[arg-type]  # that is the point
    assert isinstance(wrong, Invalid)
    assert "does not fit Seat: Expected int, got str at $.all[0].row" in wrong.message


@pytest.mark.parametrize("value", [{1, 2}, NOW, Decimal("1"), ID, Color.RED, b"x"])
def test_outside_of_a_typed_object_only_json_is_a_value(value: Any) -> None:
    assert isinstance(encode({"a": value}), Invalid)


def test_a_set_becomes_the_same_text_in_every_process() -> None:
    names = [f"n{number}" for number in range(50)]
    assert shape(set[str]).encode({*names}) == sorted(names)


def test_fields_that_a_type_does_not_know_stay() -> None:
    stored = {"seats": [{"row": 1, "price": "1", "view": "sea"}], "note": "window", "tags": ["a"]}
    booking = shape(Booking).decode(stored)
    kept = shape(Booking).changed(stored, replace(booking, tags={"b"}))
    assert kept["note"] == "window"
    assert kept["seats"] == [{"row": 1, "price": "1", "view": "sea"}]
    assert kept["tags"] == ["b"]


def test_an_unknown_field_below_a_name_that_changed_is_not_lost_in_silence() -> None:
    seats = shape(dict[str, Seat])
    stored = {"12A": {"row": 12, "view": "sea"}, "1B": {"row": 1}}
    before = seats.decode(stored)
    with pytest.raises(Misfit, match=r"would lose at \$\.12A"):
        seats.changed(stored, {"14A": before["12A"], "1B": before["1B"]})
    assert seats.changed(stored, {"1B": before["1B"]}).keys() == {"1B"}
    assert seats.changed(stored, {"12A": before["12A"], "2B": before["1B"]})["12A"] == stored["12A"]


def test_an_unknown_field_in_a_list_that_changed_is_not_lost_in_silence() -> None:
    stored = {"seats": [{"row": 1}, {"row": 2, "view": "sea"}]}
    with pytest.raises(Misfit, match=r"would lose at \$\.seats\[1\]"):
        shape(Booking).changed(stored, Booking([Seat(2)]))


def test_an_unknown_field_does_not_follow_a_value_into_another_class() -> None:
    form = shape(Paid | Cancelled)
    assert form.changed({"$type": "Paid", "amount": "1", "x": 1}, Cancelled("me")) == {
        "$type": "Cancelled",
        "by": "me",
    }


def test_an_entry_that_was_removed_from_a_mapping_does_not_stay() -> None:
    form = shape(dict[str, Seat])
    assert form.changed({"a": {"row": 1}, "b": {"row": 2, "x": 1}}, {"b": Seat(2)}) == {
        "b": {"row": 2, "price": "9.90", "x": 1}
    }


def test_events_are_tagged_even_where_there_is_one_type() -> None:
    one = tagged(Paid)
    assert isinstance(one, Tagged)
    json = one.encode(Paid(Decimal(3)))
    assert json == {"$type": "Paid", "amount": "3"}
    both = tagged(Paid, Cancelled)
    assert isinstance(both, Tagged)
    assert both.decode(json) == Paid(Decimal(3))


@pytest.mark.parametrize("classes", [(), (int,), (Plan,), (Paid, PaidToo), (Point,)])
def test_events_are_of_classes_with_fields_that_know_their_names(classes: Any) -> None:
    found = tagged(*classes)
    assert isinstance(found, Invalid)
    assert "can't be types of events" in found.message


MANY: dict[str, tuple[Any, list[Any]]] = {
    "flat": (Paid, [Paid(Decimal(1)), Paid(Decimal(2))]),
    "nested": (Booking, [Booking([Seat(1)]), Booking([])]),
    "scalars": (int, [1, 10**40]),
    "classes that mind": (Strict | Guest, [Strict(1), Guest(name="A")]),
    "union": (Paid | Cancelled | None, [Paid(Decimal(1)), None, Cancelled("me"), Paid(Decimal(2))]),
}


@pytest.mark.parametrize("name", MANY)
def test_many_values_become_objects_as_one_by_one(name: str) -> None:
    form, values = MANY[name]
    assert shape(form).decode_many([shape(form).encode(value) for value in values]) == values


@pytest.mark.parametrize("form", [Paid, Paid | Cancelled])
def test_of_many_values_the_one_that_does_not_fit_is_named(form: Any) -> None:
    good = shape(form).encode(Paid(Decimal(1)))
    with pytest.raises(Misfit, match=r"^Expected decimal, got bool at \$\.amount$"):
        shape(form).decode_many([good, {**good, "amount": True}])
    with pytest.raises(Misfit, match="has version 2"):
        shape(form).decode_many([good, {**good, "$version": 2}])
