"""Bad input gets the typed error and changes nothing, on both APIs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

import interlock
from interlock.core.records import absent
from tests.facades import Facades

CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


KEYS: list[Any] = [
    *("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", " a", "a ", "a/ b", "a\nb", "a\0b"),
    *("a*", "{agent}", "a}", "$rules", "\ud800", "k" * 513, "é" * 257),
    *(None, 7, b"k", ["k"], ("a", "b")),
]
VALUES: dict[str, Any] = {
    "set": {1, 2},
    "bytes": b"x",
    "object": object(),
    "NaN": math.nan,
    "infinity": {"a": [math.inf]},
    "number as key": {1: "a"},
    "None as key": {"a": {None: 1}},
    "circular": CIRCULAR,
    "too deep": nested(100_000),
    "lone surrogate": {"a": "\ud800"},
    "lone surrogate in a key": {"\udfff": 1},
    "an integer too long for text": 10**5000,
    "over-long": "x" * (1024 * 1024),
    "complex": 1j,
    "a record": absent("k", "s"),
    "a record in a list": {"a": [absent("k", "s")]},
    "a delivery": interlock.Delivery(interlock.Entry(1, "k", 1, 0, "put", 1, "a", 1, "", None), 1),
}


@pytest.fixture
def unchanged(facades: Facades) -> Any:
    """A space with one record in it, of which nothing may have changed at the end."""
    space = facades.open()
    record = space.create("here", {"n": 1})
    yield space
    assert space.position() == 1
    assert space.scan() == {"here": record}


def refused(bad: Mapping[str, Any], *calls: Callable[[Any], Any]) -> None:
    """Fail unless every one of these calls is Invalid with everything that is bad."""
    __tracebackhide__ = True
    for name, each in bad.items():
        for number, call in enumerate(calls, 1):
            try:
                answer = call(each)
            except interlock.Invalid:
                continue
            pytest.fail(f"{name}: call {number} is not refused and answers {answer!r:.200}")


def test_malformed_keys(unchanged: Any) -> None:
    refused(
        {ascii(key): key for key in KEYS},
        lambda key: unchanged.read(key),
        lambda key: unchanged.create(key, 1),
        lambda key: unchanged.update(key, lambda _: 1),
        lambda key: list(unchanged.history(key)),
        lambda key: unchanged.at(position=1).read(key),
        lambda key: unchanged.write(unchanged.read("here")._replace(key=key), 1),
        lambda key: unchanged.delete(unchanged.read("here")._replace(key=key)),
        lambda key: unchanged.read_many(["here", key]),
        lambda key: unchanged.append(key, 1),
        lambda key: unchanged.append(key, 1, id="once"),
        lambda key: unchanged.append(key, 1, dedupe=True),
        lambda key: unchanged.transition(key, "COMPLETED"),
        lambda key: unchanged.lease(key).acquire(),
        lambda key: unchanged.reclaim(key),
        lambda key: unchanged.transact(lambda tx: tx.read(key)),
        lambda key: unchanged.transact(lambda tx: tx.create(key, 1)),
        lambda key: unchanged.transact(lambda tx: tx.append(key, 1)),
        lambda key: unchanged.coordinator(key, source="from/", merge="append"),
    )


def test_values_that_are_not_json(unchanged: Any) -> None:
    record = unchanged.read("here")
    refused(
        VALUES,
        lambda value: unchanged.create("new", value),
        lambda value: unchanged.write(record, value),
        lambda value: unchanged.update("here", lambda _: value),
    )


def test_what_is_no_function(unchanged: Any) -> None:
    refused(
        {"a number": 3, "None": None, "a record": unchanged.read("here")},
        lambda fn: unchanged.update("here", fn),
        lambda fn: unchanged.on("commit", fn),
    )


def test_what_is_no_list_of_keys(unchanged: Any) -> None:
    refused(
        {"a number": 3, "None": None, "a number in a list": [3]},
        lambda keys: unchanged.read_many(keys),
        lambda keys: unchanged.at(position=1).read_many(keys),
        lambda keys: unchanged.leases(keys),
    )


def test_the_limit_of_a_value_can_be_set(facades: Facades) -> None:
    small = facades.open(max_value_bytes=10)
    assert small.create("k", "x" * 8).version == 1
    with pytest.raises(interlock.Invalid, match="max_value_bytes"):
        small.create("long", "x" * 9)
    with pytest.raises(interlock.Invalid, match="max_value_bytes"):
        small.create("umlaut", "é" * 5)
    assert small.position() == 1


def test_what_is_not_a_record_cannot_be_written_over(unchanged: Any) -> None:
    for record in (None, "here", {"key": "here"}, ("here", 1)):
        with pytest.raises(interlock.Invalid, match="Record"):
            unchanged.write(record, 1)
        with pytest.raises(interlock.Invalid, match="Record"):
            unchanged.delete(record)


def test_pages_that_cannot_be_read(unchanged: Any) -> None:
    pages: list[dict[str, Any]] = [{"after": -1}, {"after": 1.5}, {"after": "1"}, {"prefix": "a*"}]
    refused(
        {str(page): page for page in pages},
        lambda page: list(unchanged.log(**page)),
        lambda page: next(iter(unchanged.watch(**page))),
    )


def test_moments_that_are_none(unchanged: Any) -> None:
    positions: list[Any] = [-1, 2, 1.0, "1", True, 2**70]
    refused(
        {repr(position): position for position in positions},
        lambda position: unchanged.at(position=position).read("here"),
    )


def test_operation_ids_that_are_none(unchanged: Any) -> None:
    op_ids: list[Any] = ["", "x" * 200, 7, "a\n"]
    refused(
        {repr(op_id): op_id for op_id in op_ids},
        lambda op_id: unchanged.create("k", 1, op_id=op_id),
        lambda op_id: unchanged.update("k", lambda _: 1, op_id=op_id),
        lambda op_id: unchanged.transact(lambda tx: tx.create("k", 1), op_id=op_id),
        lambda op_id: unchanged.transaction(op_id=op_id),
        lambda op_id: unchanged.outcome(op_id),
    )


def test_opening_with_what_has_no_meaning(facades: Facades) -> None:
    options: list[dict[str, Any]] = [
        *({"agent": ""}, {"agent": 7}),
        *({"space": ""}, {"space": "x" * 200}),
        {"durability": "maybe"},
        *({"busy_timeout": -1}, {"busy_timeout": "soon"}),
        *({"max_value_bytes": 0}, {"max_value_bytes": 1.5}),
    ]
    refused({str(option): option for option in options}, lambda option: facades.open(**option))


def test_a_closed_space_says_so(facades: Facades) -> None:
    space = facades.open()
    record = space.create("k", 1)
    space.close()
    space.close()
    calls: list[Callable[[], Any]] = [
        lambda: space.read("k"),
        lambda: space.write(record, 2),
        lambda: space.update("k", lambda _: 2),
        lambda: list(space.log()),
    ]
    for call in calls:
        with pytest.raises(interlock.Closed):
            call()
    assert facades.open().read("k") == record


def test_a_transaction_with_a_bad_write_writes_nothing(unchanged: Any) -> None:
    with pytest.raises(interlock.Invalid), unchanged.transaction() as tx:  # noqa: PT012
        tx.create("good", 1)
        tx.create("bad", {1})
    with pytest.raises(interlock.Invalid), unchanged.transaction() as tx:  # noqa: PT012
        tx.write(tx.read("here"), 2)
        tx.delete(tx.read("nowhere"))
