"""Every store answers the same to the same requests: SQLite says what PostgreSQL and Redis must."""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from interlock.backends.postgres.backend import PostgresBackend
from interlock.backends.redis.backend import RedisBackend
from interlock.backends.remote import ServerOptions
from interlock.backends.sqlite.backend import SQLiteBackend
from interlock.core.keys import MAX_DEPTH, MAX_KEY_BYTES, encode
from interlock.core.plan import APPEND, PUT, Plan, Write
from interlock.core.requests import Commit, Load, LoadAt, Place, ReadLog, ReadRefusals, SaveFold
from interlock.core.rules import RULES_KEY
from interlock.core.writer import Writer
from tests.contract.drawn_requests import KEYS, Drawing, Group, LoadAtTimeOf, Seen

STEPS = 60
_numbers = itertools.count()


def plain(value: Any) -> Any:
    """Return an answer without the space's id, times, and the exact seconds that are left."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (type(value).__name__, *map(_field, value._fields, value))
    if is_dataclass(value):
        names = [each.name for each in fields(value)]
        return (type(value).__name__, *(_field(name, getattr(value, name)) for name in names))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else repr(value)


def _field(name: str, value: Any) -> Any:
    if name in ("space", "time_us"):
        return None
    if name in ("seconds", "expires_us"):
        return value > 0
    if name == "behind_us":
        return value is None
    if name == "message":
        return re.sub(r"for [\d.]+ s|\([\d.]+ s left|at \d{4}-[\d.: -]+ UTC", "", value)
    return plain(value)


def apart(right: Any, other: Any) -> str:
    """Say where two answers differ first."""
    if isinstance(right, dict) and isinstance(other, dict) and right.keys() == other.keys():
        return next(f"{k!r} {apart(v, other[k])}" for k, v in right.items() if v != other[k])
    pairs = isinstance(right, (list, tuple)) and type(right) is type(other)
    if pairs and right and len(right) == len(other):
        both = enumerate(zip(right, other, strict=True))
        return f"{right[0]!s:.20} " + next(f"[{n}] {apart(a, b)}" for n, (a, b) in both if a != b)
    return f"is {other}, but {right} in SQLite"


def asked(backend: Any, request: Any) -> Any:
    """Return what a backend answers; a fault by its name."""
    try:
        if isinstance(request, Group):
            return backend._apply(request.plans)
        if isinstance(request, LoadAtTimeOf):
            entry = backend.perform(ReadLog(after=request.position - 1, limit=1)).entries[0]
            moment = entry.time_us + request.more_us
            request = LoadAt(
                position=None, time_us=moment, keys=request.keys, prefixes=request.prefixes
            )
        return backend.perform(request)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"


class Tickets:
    """The numbers that a store gives to tickets, by those of SQLite: only their order means
    anything."""

    def __init__(self) -> None:
        self._theirs: dict[int, int] = {}

    def sent(self, request: Any) -> Any:
        """Return a request with the numbers of this store."""
        if isinstance(request, Group):
            return request._replace(plans=tuple(map(self._named, request.plans)))
        if isinstance(request, Commit):
            return Commit(self._named(request.plan))
        return self._named(request)

    def _named(self, request: Any) -> Any:
        ticket = getattr(request, "ticket", 0)
        if not ticket:
            return request
        replace = request._replace if isinstance(request, Plan) else request.replace
        return replace(ticket=self._theirs.get(ticket, 1 << 40))

    def told(self, right: Any, answer: Any) -> Any:
        """Return an answer with the numbers of SQLite, whose answer is `right`."""
        if not isinstance(right, Place) or not isinstance(answer, Place):
            return answer
        if not right.ticket or not answer.ticket:
            return answer
        if right.ticket not in self._theirs and answer.ticket > max(
            self._theirs.values(), default=0
        ):
            self._theirs[right.ticket] = answer.ticket
        same = self._theirs.get(right.ticket) == answer.ticket
        return answer._replace(ticket=right.ticket) if same else answer


@contextmanager
def opened(urls: tuple[str, str]) -> Iterator[list[Any]]:
    """A new space in a store of each kind."""
    name = f"agree {{%s}} 'ü\" {os.getpid()} {next(_numbers)}"
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(backend))
            for backend in (
                SQLiteBackend("sqlite://", name),
                PostgresBackend(urls[0], name, ServerOptions(durability="off")),
                RedisBackend(urls[1], name),
            )
        ]


def difference(urls: tuple[str, str], numbers: Sequence[int]) -> tuple[int, str] | None:
    """Return after how many numbers the answers differ, and all that was asked until then."""
    asks: list[str] = []
    with opened(urls) as backends:
        seen = Seen()
        tickets = [Tickets() for _ in backends]

        def differing(request: Any) -> list[str]:
            answers = [
                asked(backend, each.sent(request) if n else request)
                for n, (backend, each) in enumerate(zip(backends, tickets, strict=True))
            ]
            first = answers[0]
            right, *others = (
                plain(each.told(first, answer))
                for each, answer in zip(tickets, answers, strict=True)
            )
            seen.told(request, first)
            asks.append(repr(request))
            names = ("PostgreSQL", "Redis")
            return [
                f"{n}: {apart(right, o)}" for n, o in zip(names, others, strict=True) if right != o
            ]

        for n, number in enumerate(numbers, 1):
            seen.look(backends[0])
            if found := differing(Drawing(number, seen).request()):
                return n, "\n".join([*asks, *found])
        keys, end = (*KEYS, RULES_KEY), seen.position + 9
        moments = [
            LoadAt(position=position, time_us=None, keys=keys, prefixes=("",))
            for position in range(0, end, 5)
        ]
        for request in (
            Load(keys, ("",)),
            *moments,
            ReadLog(after=-1, limit=9999),
            ReadRefusals(999),
        ):
            if found := differing(request):
                return len(numbers), "\n".join([*asks, *found])
    return None


def shortest(urls: tuple[str, str], numbers: Sequence[int]) -> str | None:
    """Return the requests of a short sequence that is answered differently, if this one is."""
    found = difference(urls, numbers)
    if found is None:
        return None
    left, told = [*numbers[: found[0]]], found[1]
    size = len(left)
    while size:
        at = 0
        while at < len(left):
            fewer = left[:at] + left[at + size :]
            found = difference(urls, fewer) if fewer else None
            if found is None:
                at += size
            else:
                left, told = fewer[: found[0]], found[1]
        size //= 2
    return told


def sequence(seed: int) -> list[int]:
    """Return the numbers of a sequence."""
    chance = random.Random(seed)
    return [chance.randrange(1 << 32) for _ in range(STEPS)]


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 13])
def test_every_store_answers_the_same(first: int, postgres_url: str, redis_url: str) -> None:
    for seed in range(first, first + 13):
        told = shortest((postgres_url, redis_url), sequence(seed))
        assert told is None, f"seed {seed}:\n{told}"


def nested(depth: int) -> Any:
    value: Any = {"a": []}
    for n in range(depth):
        value = [value] if n % 2 else {"": value}
    return value


HUGE: dict[str, Any] = {
    "the largest value": 'é\\"' * (1024 * 1024 // 6 - 1),
    "the deepest value": nested(MAX_DEPTH - 2),
    "many members": {f"{n}\0": [n, -(2**64) - n, n / 7] for n in range(3_000)},
}


@pytest.mark.slow
@pytest.mark.parametrize("value", HUGE.values(), ids=HUGE.keys())
def test_huge_values_come_back_as_they_went_in(
    value: Any, postgres_url: str, redis_url: str
) -> None:
    body = encode(value)
    assert isinstance(body, str)
    put, append = Write(PUT, "k" * MAX_KEY_BYTES, body), Write(APPEND, "ü" * 256, body)
    name = "'\"\\ {%s" + "ü" * 60
    plan = Writer("", name, 0).plan(name, writes=(put, append, append))
    with opened((postgres_url, redis_url)) as backends:
        for request in (
            Commit(plan),
            Commit(plan),
            Group((plan, plan._replace(op_id="other", writes=(put,)))),
            SaveFold(append.key, position=2, body=body, rules=0),
            Load((put.key, append.key), ("",), name),
            LoadAt(position=4, time_us=None, keys=(put.key, append.key), prefixes=("",)),
            ReadLog(after=0, limit=100),
        ):
            right, *others = (plain(asked(backend, request)) for backend in backends)
            assert [right] * 2 == others
        assert backends[0].perform(Load((put.key,))).records[put.key].value == value
