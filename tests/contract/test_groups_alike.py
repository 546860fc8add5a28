"""Consumer groups answer the same in every store, whatever is asked: SQLite says what is right."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.core.group import END, Deliveries, GroupInfo
from interlock.core.requests import AckGroup, DropGroup, GroupState, ListGroups, ReadGroup, Trim

KEYS = ("a", "b", "ä/1", "ä/2", "x y")
CONSUMERS = ("one", "one two", "ünï", "z")
PREFIXES = {"all": "", "some": "ä/", "late": ""}
LONG = 1000.0  # seconds

pytestmark = pytest.mark.slow


@pytest.fixture
def stores(tmp_path: Path, postgres_url: str, redis_url: str) -> Iterator[list[interlock.Space]]:
    """A space in a store of each kind; the first is the reference."""
    urls = (f"sqlite:///{tmp_path / 'alike.db'}", postgres_url, redis_url)
    name = f"alike-{os.getpid()}-{tmp_path.name}"
    with ExitStack() as stack:
        yield [
            stack.enter_context(interlock.open(url, space=name, agent="w", durability="off"))
            for url in urls
        ]


def seen(answer: Any) -> Any:
    """Return an answer without what may differ from store to store: times, and how soon a group
    writes down that it has passed over entries which no consumer gets."""
    if isinstance(answer, Deliveries):
        items = [(d.entry.position, d.entry.key, d.entry.value, d.deliveries) for d in answer.items]
        return items, "" if answer.prefix else answer.upto, answer.head, answer.prefix
    if isinstance(answer, GroupInfo):
        cursor = 0 if answer.prefix else answer.cursor
        consumers = [consumer._replace(time_us=0) for consumer in answer.consumers]
        return answer._replace(cursor=cursor, consumers=tuple(consumers))
    return answer


class Asking:
    """Draws requests: mostly sensible ones, some sent twice, some of the dead and the unknown."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._sent: list[Any] = []
        self._given = [(1, 1)]  # positions, and how often they were delivered

    def told(self, answer: Any) -> None:
        """Remember what was given, so that it is acknowledged some time."""
        if isinstance(answer, Deliveries):
            self._given += [(each.entry.position, each.deliveries) for each in answer.items]

    def next(self) -> Any:
        """Return a request."""
        chance = self._chance
        group, consumer = chance.choice([*PREFIXES]), chance.choice(CONSUMERS)
        what = chance.random()
        if what < 0.12 and self._sent:
            return chance.choice(self._sent[-8:])
        if what < 0.40:
            done = chance.choices(self._given[-12:], k=chance.randint(1, 6))
            late = chance.random() < 0.1
            found: Any = AckGroup(
                group,
                consumer=consumer,
                positions=tuple(p for p, _ in done),
                deliveries=tuple(n - late for _, n in done),
            )
        elif what < 0.52:  # it closes: others may claim what it has
            found = ReadGroup(
                group,
                consumer=consumer,
                prefix=PREFIXES[group],
                ttl=0.0,
            )
        elif what < 0.54:
            found = ReadGroup(
                group,
                consumer=consumer,
                prefix=PREFIXES[group],
                ttl=LONG,
            )
        elif what < 0.55:
            found = DropGroup(group)
        elif what < 0.57:
            found = ReadGroup(
                group,
                consumer=consumer,
                prefix="other/",
                limit=chance.randint(0, 2),
                ttl=LONG,
                name="n",
            )
        else:
            start = {"late": END, "some": 10_000}.get(group, 2)
            limit = chance.choice((1, 1, 2, 3, 5, 9, 1000))
            resume, name = chance.random() < 0.15, f"n{len(self._sent)}"
            found = ReadGroup(
                group,
                consumer=consumer,
                prefix=PREFIXES[group],
                start=start,
                limit=limit,
                ttl=LONG,
                resume=resume,
                name=name,
            )
        self._sent.append(found)
        return found


@pytest.mark.parametrize("seed", range(8))
def test_every_store_answers_the_same(stores: list[interlock.Space], seed: int) -> None:
    chance = random.Random(seed)
    asking = Asking(chance)
    for step in range(150):
        if chance.random() < 0.4:
            written = chance.choices(KEYS, weights=(5, 1, 1, 1, 1), k=chance.randint(1, 4))
            for space in stores:
                for key in written:
                    space.update(key, lambda n: n + 1, default=0)
        request = asking.next()
        if chance.random() < 0.06 and "some" not in stores[0].groups():  # see `seen`
            request = Trim(chance.randint(0, stores[0].position()), ())
        answers = [space.session.driver.backend.perform(request) for space in stores]
        asking.told(answers[0])
        looks = [GroupState(group) for group in PREFIXES]
        for asked in (ListGroups(), *looks):
            found = [seen(space.session.driver.backend.perform(asked)) for space in stores]
            assert found == found[:1] * len(stores), f"{asked} after {request}, step {step}"
        found = [seen(answer) for answer in answers]
        assert found == found[:1] * len(stores), f"{request}, step {step}"
