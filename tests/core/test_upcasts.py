"""Objects of a class whose shape has changed: stored with a version, lifted when they are read."""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import Any, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest

from interlock.core.keys import decode, encode
from interlock.core.refusals import Invalid
from interlock.core.types import Misfit, Shape, shape_of, tagged, upcast, version_of


@dataclass
class Name:
    """It was {"name": "Ada Lovelace"}, then {"names": ["Ada", "Lovelace"]}."""

    first: str
    last: str


def split(fields: dict[str, Any]) -> dict[str, Any]:
    return {"names": fields.pop("name").split()}


def named(fields: dict[str, Any]) -> dict[str, Any]:
    first, last = fields["names"]
    return {"first": first, "last": last}


assert upcast(Name, 1, split) is None
assert upcast(Name, 2, named) is None

ADA = Name("Ada", "Lovelace")
NOW = {"$version": 3, "first": "Ada", "last": "Lovelace"}
OLD: list[dict[str, Any]] = [
    {"name": "Ada Lovelace"},
    {"$version": 1, "name": "Ada Lovelace"},
    {"$version": 2, "names": ["Ada", "Lovelace"]},
    NOW,
]


@dataclass
class Team:
    lead: Name
    members: list[Name]
    by_role: dict[str, tuple[int, Name | None]]


class Plan(TypedDict):
    author: Name


class Guest(pydantic.BaseModel):
    name: Name
    best: Guest | None = None


class Cat(msgspec.Struct, tag=True):
    owner: Name


class Dog(msgspec.Struct, tag=True):
    owner: Name
    others: list[Cat | None]


class Pair(NamedTuple):
    number: int
    name: Name


def shape(form: Any) -> Shape[Any]:
    found = shape_of(form)
    assert not isinstance(found, Invalid), found.message
    return found


@pytest.mark.parametrize("old", OLD)
def test_every_version_is_read_as_the_newest(old: dict[str, Any]) -> None:
    before = {**old}
    assert shape(Name).decode(old) == ADA
    assert old == before


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize(
    ("form", "value", "json"),
    [
        (
            Team,
            Team(ADA, [ADA, ADA], {"x": (1, ADA), "y": (2, None)}),
            lambda old: {
                "lead": old,
                "members": [old, NOW],
                "by_role": {"x": [1, old], "y": [2, None]},
            },
        ),
        (Plan, {"author": ADA}, lambda old: {"author": old}),
        (
            Guest,
            Guest(name=ADA, best=Guest(name=ADA)),
            lambda old: {"name": old, "best": {"name": old, "best": None}},
        ),
        (
            Cat | Dog,
            Dog(ADA, [Cat(ADA), None]),
            lambda old: {
                "type": "Dog",
                "owner": old,
                "others": [{"type": "Cat", "owner": old}, None],
            },
        ),
        (Pair, Pair(1, ADA), lambda old: [1, old]),
        (Team | Name, ADA, lambda old: {"$type": "Name", **old}),
        (list[Name] | None, [ADA], lambda old: [old]),
    ],
    ids=["fields", "TypedDict", "pydantic", "tagged", "NamedTuple", "union", "list"],
)
def test_objects_inside_other_types_are_lifted_and_stored_with_their_version(
    form: Any, value: Any, json: Any, old: dict[str, Any]
) -> None:
    assert shape(form).decode(json(old)) == value
    assert decode(str(encode(shape(form).encode(value)))) == json(NOW)


def test_a_typed_object_in_a_plain_value_carries_its_version() -> None:
    assert decode(str(encode({"by": [ADA]}))) == {"by": [NOW]}


def test_a_class_without_upcasts_carries_no_version() -> None:
    plain = make_dataclass("Plain", [("n", int)])
    assert (version_of(plain), version_of(Name)) == (1, 3)
    assert shape(plain).encode(plain(1)) == {"n": 1}


LATE = make_dataclass("Late", [("n", int)])
upcast(LATE, 2, lambda fields: fields)
BROKEN = make_dataclass("Broken", [("n", int)])
upcast(BROKEN, 1, lambda fields: fields["gone"])
FORGETFUL = make_dataclass("Forgetful", [("n", int)])
upcast(FORGETFUL, 1, lambda fields: None)
PLAIN = make_dataclass("Plain", [("n", int)])

NEVER_GUESSED: dict[str, tuple[Any, Any, str]] = {
    "newer than the code": (
        Name,
        {"$version": 4},
        r"Name has version 4.* 3 as the newest at \$\.\$version",
    ),
    "newer, inside": (list[Name], [NOW, {"$version": 4}], r"at \$\[1\]\.\$version"),
    "newer than a class without upcasts": (PLAIN, {"$version": 2, "n": 1}, "Plain has version 2"),
    "no path": (LATE, {"n": 1}, r"Late has version 1, which no upcast lifts"),
    "odd": (Name, {"$version": "3"}, r"'3' is not a version at \$\.\$version"),
    "true": (Name, {"$version": True}, "True is not a version"),
    "zero": (Name, {"$version": 0}, "0 is not a version"),
    "raises": (BROKEN, {"n": 1}, "the upcast of Broken from version 1 raised KeyError"),
    "forgot its return": (FORGETFUL, {"n": 1}, "from version 1 returned NoneType, not a dict"),
    "lifted to what does not fit": (Name, {"name": "A B", "$version": 2}, "raised KeyError"),
    "newer event": (Name | Team, {"$type": "Name", "$version": 4}, "Name has version 4"),
}


@pytest.mark.parametrize("name", NEVER_GUESSED)
def test_a_version_that_cannot_be_lifted_does_not_fit(name: str) -> None:
    form, json, message = NEVER_GUESSED[name]
    with pytest.raises(Misfit, match=message):
        shape(form).decode(json)


def test_events_are_lifted() -> None:
    events = tagged(Name, Team)
    assert not isinstance(events, Invalid)
    assert events.encode(ADA) == {"$type": "Name", **NOW}
    for old in OLD:
        assert events.decode({"$type": "Name", **old}) == ADA


def test_an_update_of_an_old_object_keeps_what_its_type_does_not_know() -> None:
    form = shape(Team)
    stored = {"lead": {"name": "A B"}, "members": [], "by_role": {}, "motto": "x"}
    assert form.changed(stored, Team(ADA, [], {})) == {
        "lead": NOW,
        "members": [],
        "by_role": {},
        "motto": "x",
    }


@pytest.mark.parametrize(
    ("form", "version", "fn", "message"),
    [
        (int, 1, split, "int can't have versions"),
        (Pair, 1, split, "Pair can't have versions"),
        (list[Name], 1, split, "can't have versions"),
        ("Name", 1, split, "can't have versions"),
        (Name, 0, split, "from_version=0 must be a whole number from 1"),
        (Name, True, split, "from_version=True"),
        (Name, "1", split, "from_version='1'"),
        (Name, 3, None, "is a function, not None"),
        (Name, 1, named, "has another upcast from version 1"),
    ],
)
def test_a_malformed_upcast_is_refused_and_changes_nothing(
    form: Any, version: Any, fn: Any, message: str
) -> None:
    wrong = upcast(form, version, fn)
    assert wrong is not None
    assert message in wrong.message
    assert version_of(Name) == 3


def test_the_same_upcast_may_be_declared_twice() -> None:
    assert upcast(Name, 1, split) is None
