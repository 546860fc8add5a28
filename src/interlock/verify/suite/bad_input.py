"""Bad input gets the typed error and changes nothing, on both façades."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from tests.contract.facades import Facades

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
}


@pytest.fixture
def unchanged(facades: Facades) -> Any:
    """A space with one record in it, of which nothing may have changed at the end."""
    space = facades.open()
    record = space.create("here", {"n": 1})
    yield space
    assert space.position() == 1
    assert space.scan() == {"here": record}


@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_malformed_keys(unchanged: Any, key: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: unchanged.read(key),
        lambda: unchanged.create(key, 1),
        lambda: unchanged.update(key, lambda _: 1),
        lambda: list(unchanged.history(key)),
        lambda: unchanged.at(position=1).read(key),
        lambda: unchanged.write(unchanged.read("here")._replace(key=key), 1),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid):
            call()


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_values_that_are_not_json(unchanged: Any, value: Any) -> None:
    record = unchanged.read("here")
    calls: list[Callable[[], Any]] = [
        lambda: unchanged.create("new", value),
        lambda: unchanged.write(record, value),
        lambda: unchanged.update("here", lambda _: value),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid):
            call()


def test_the_limit_of_a_value_can_be_set(facades: Facades) -> None:
    small = facades.open(max_value_bytes=10)
    assert small.create("k", "x" * 8).version == 1
    with pytest.raises(interlock.Invalid, match="max_value_bytes"):
        small.create("long", "x" * 9)
    with pytest.raises(interlock.Invalid, match="max_value_bytes"):
        small.create("umlaut", "é" * 5)
    assert small.position() == 1


@pytest.mark.parametrize("record", [None, "here", {"key": "here"}, ("here", 1)])
def test_what_is_not_a_record_cannot_be_written_over(unchanged: Any, record: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: unchanged.write(record, 1),
        lambda: unchanged.delete(record),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid, match="Record"):
            call()


@pytest.mark.parametrize("bad", [{"after": -1}, {"after": 1.5}, {"after": "1"}, {"prefix": "a*"}])
def test_pages_that_cannot_be_read(unchanged: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(interlock.Invalid):
        list(unchanged.log(**bad))
    with pytest.raises(interlock.Invalid):
        next(iter(unchanged.watch(**bad)))


@pytest.mark.parametrize("position", [-1, 2, 1.0, "1", True, 2**70])
def test_moments_that_are_none(unchanged: Any, position: Any) -> None:
    with pytest.raises(interlock.Invalid):
        unchanged.at(position=position).read("here")


@pytest.mark.parametrize("op_id", ["", "x" * 200, 7, "a\n"])
def test_operation_ids_that_are_none(unchanged: Any, op_id: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: unchanged.create("k", 1, op_id=op_id),
        lambda: unchanged.update("k", lambda _: 1, op_id=op_id),
        lambda: unchanged.transact(lambda tx: tx.create("k", 1), op_id=op_id),
        lambda: unchanged.transaction(op_id=op_id),
        lambda: unchanged.outcome(op_id),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid):
            call()


@pytest.mark.parametrize(
    "options",
    [
        {"agent": ""},
        {"agent": 7},
        {"space": ""},
        {"space": "x" * 200},
        {"durability": "maybe"},
        {"busy_timeout": -1},
        {"busy_timeout": "soon"},
        {"max_value_bytes": 0},
        {"max_value_bytes": 1.5},
        {"url": "team.db"},
        {"url": "mysql://host/db"},
        {"url": "sqlite://host/team.db"},
        {"url": "sqlite:///team.db?mode=rx"},
        {"url": "sqlite:///team.db?cache=shared"},
        {"url": 7},
    ],
    ids=str,
)
def test_opening_with_what_has_no_meaning(
    facades: Facades, options: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(interlock.Invalid):
        facades.open(**options)
    assert list(tmp_path.glob("team.db*")) == []


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
