"""Consumer groups: every entry until it is acknowledged, the entries of one key in order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest

import interlock
from interlock.core.group import SCANNED
from interlock.core.requests import PAGE_BYTES, AckGroup, ReadGroup
from tests.contract.test_leases import elsewhere_while
from tests.facades import Facades

SHORT = 0.02  # seconds after which a consumer that gives no sign of life is dead


pytestmark = [pytest.mark.interlock_needs("groups")]


def keys(deliveries: Any) -> list[str]:
    return [delivery.entry.key for delivery in deliveries]


def values(deliveries: Any) -> list[Any]:
    return [delivery.entry.value for delivery in deliveries]


def add(space: Any, *names: str) -> None:
    """Write each key once more; its value counts the writes of the space."""
    for name in names:
        number = space.position() + 1
        space.update(name, lambda _, number=number: number)


def dying(space: Any, name: str, ttl: float = SHORT) -> Any:
    """Return a consumer that gives no sign of life between its requests."""
    group = space.group("g", consumer=name, ttl=ttl)
    group._keep = lambda: None
    return group


def taken(group: Any, limit: int = 10) -> list[Any]:
    """Take until there is something."""
    for _ in range(2000):
        if found := group.take(limit):
            return list(found)
        threading.Event().wait(0.005)
    raise AssertionError("nothing came")


def test_entries_are_delivered_in_order_and_once_while_their_consumer_lives(space: Any) -> None:
    add(space, "a", "b", "a")
    group = space.group("g")
    first = group.take(2)
    assert (keys(first), values(first)) == (["a", "b"], [1, 2])
    assert [delivery.deliveries for delivery in first] == [1, 1]
    assert first[0].entry == next(iter(space.log()))
    assert values(group.take(2)) == [3]
    assert group.take(2) == []
    assert (group.name, group.consumer) == ("g", "tester")


def test_what_is_acknowledged_is_done(space: Any) -> None:
    add(space, "a", "b", "c")
    group = space.group("g")
    a, b, c = group.take()
    assert group.ack(a, b) == 2
    assert [(p.key, p.consumer, p.deliveries) for p in group.pending()] == [("c", "tester", 1)]
    assert group.ack() == 0
    assert group.ack(c) == 1
    assert group.pending() == []
    assert space.group("g").take() == []


def test_taking_waits_as_long_as_it_is_told(facades: Facades, other: Any) -> None:
    group = facades.open().group("g")
    assert group.take(wait=0.03) == []
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(add, other, "a")
        assert keys(group.take(wait=30)) == ["a"]
        coming.result()


def test_a_consumer_that_comes_again_gets_its_own_first(facades: Facades) -> None:
    space = facades.open()
    add(space, "a", "b", "c", "d")
    before = space.group("g", consumer="w")
    first = before.take(3)
    assert before.ack(first[1]) == 1
    again = facades.open().group("g", consumer="w")
    found = again.take(2)
    assert [(d.entry.key, d.deliveries) for d in found] == [("a", 2), ("c", 2)]
    assert [(d.entry.key, d.deliveries) for d in again.take()] == [("d", 1)]


def test_the_loop_waits_for_what_comes(facades: Facades, other: Any) -> None:
    space = facades.open()
    add(other, "a")
    group = space.group("g")
    news = iter(group)
    first = next(news)
    assert group.ack(first) == 1
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(add, other, "b", "c")
        assert keys([next(news)]) == ["b"]
        coming.result()
    news.close()
    assert [(d.entry.key, d.deliveries) for d in islice(group, 2)] == [("b", 2), ("c", 1)]


def test_consumers_share_the_log(facades: Facades) -> None:
    space = facades.open()
    add(space, "a", "b", "c")
    one, two = space.group("g", consumer="one"), space.group("g", consumer="two")
    assert keys(one.take(1)) == ["a"]
    assert keys(two.take(1)) == ["b"]
    assert keys(one.take(5)) == ["c"]
    assert two.take(5) == []
    assert keys(space.group("another").take()) == ["a", "b", "c"], "each group has its own cursor"


def test_a_later_entry_of_a_key_follows_the_earlier_one(space: Any) -> None:
    add(space, "a")
    one, two = space.group("g", consumer="one"), space.group("g", consumer="two")
    (first,) = one.take()
    add(space, "a", "b", "a", "c")
    assert keys(two.take()) == ["b", "c"], "who holds no entry of the key goes on without it"
    assert two.take() == []
    assert values(one.take()) == [2, 4]
    assert one.ack(first) == 1
    add(space, "a")
    assert two.take() == [], "two earlier ones are still pending"
    assert one.ack(*one.take()) == 1
    assert values(space.group("g", consumer="one").take()) == [2, 4]


def test_a_key_whose_entries_are_done_is_free_for_anybody(space: Any) -> None:
    add(space, "a")
    one, two = space.group("g", consumer="one"), space.group("g", consumer="two")
    assert one.ack(*one.take()) == 1
    add(space, "a")
    assert values(two.take()) == [2]


def test_a_dead_consumers_entries_are_claimed_and_its_ack_does_not_count(space: Any) -> None:
    add(space, "a", "b")
    dead, heir = dying(space, "dead"), space.group("g", consumer="heir")
    lost = dead.take()
    found = taken(heir)
    assert [(d.entry.key, d.deliveries) for d in found] == [("a", 2), ("b", 2)]
    assert dead.ack(*lost) == 0
    assert len(heir.pending()) == 2
    assert dead.take() == [], "it has lost them, and nobody else died"
    assert heir.ack(*found) == 2


def test_a_dead_consumers_key_is_claimed_whole(space: Any) -> None:
    add(space, "a", "b", "a", "b", "a")
    dead, one, two = dying(space, "dead", 0.5), *(space.group("g", consumer=n) for n in "12")
    assert values(dead.take(2)) == [1, 2]
    assert two.take() == [], "the rest is dealt to who has the earlier ones, and waits there"
    assert values(taken(one, 1)) == [1]
    assert values(taken(two, 9)) == [2, 4], "all of b, and nothing of a"
    assert values(one.take(9)) == [3, 5]


def test_a_live_consumers_entries_are_not_claimed(facades: Facades, other: Any) -> None:
    """It gives signs of life in the background."""
    space = facades.open()
    add(space, "a")
    with space.group("g", consumer="one", ttl=0.3) as group:
        (delivery,) = group.take()
        rival = other.group("g", consumer="two")
        assert elsewhere_while(facades, lambda: rival.take(wait=0.5)) == []
        assert group.ack(delivery) == 1


def test_the_loop_keeps_its_consumer_alive(facades: Facades, other: Any) -> None:
    space = facades.open()
    add(space, "a")
    group = space.group("g", consumer="one", ttl=0.3)
    rival = other.group("g", consumer="two")
    news = iter(group)
    delivery = next(news)
    assert elsewhere_while(facades, lambda: rival.take(wait=0.5)) == []
    news.close()
    found = elsewhere_while(facades, lambda: taken(rival))
    assert keys(found) == ["a"], "a loop that has ended keeps nothing alive"
    assert group.ack(delivery) == 0


def test_a_consumer_that_expired_and_was_not_replaced_goes_on(space: Any) -> None:
    add(space, "a")
    group = dying(space, "late")
    (delivery,) = group.take()
    while group.info().consumers[0].alive:
        threading.Event().wait(0.005)
    assert group.ack(delivery) == 1


def test_an_ack_is_a_sign_of_life(space: Any) -> None:
    add(space, "a", "b")
    group = dying(space, "one")
    a, _ = group.take()
    while group.info().consumers[0].alive:
        threading.Event().wait(0.005)
    assert group.ack(a) == 1
    assert group.info().consumers[0].time_us > group.pending()[0].position
    before = group.info().consumers[0].at
    group.ack(a)
    assert group.info().consumers[0].at > before


def test_closing_gives_everything_back_at_once(space: Any) -> None:
    add(space, "a", "b")
    with space.group("g", consumer="one") as one:
        assert one.ack(one.take()[0]) == 1
    two = space.group("g", consumer="two")
    assert [(d.entry.key, d.deliveries) for d in two.take()] == [("b", 2)]


def test_a_request_sent_twice_gives_the_same(space: Any) -> None:
    add(space, "a", "b", "c")
    perform = space.session.driver.backend.perform
    asked = ReadGroup("g", consumer="one", prefix="", limit=2, ttl=30.0, resume=True, name="n1")
    answer = perform(asked)
    assert keys(answer.items) == ["a", "b"]
    assert perform(asked).items == answer.items
    more = perform(asked.replace(name="n2", resume=False))
    assert keys(more.items) == ["c"]
    assert perform(asked).items == perform(asked.replace(resume=False)).items == answer.items
    done = AckGroup("g", consumer="one", positions=(1, 3), deliveries=(1, 1))
    assert (perform(done), perform(done)) == (2, 2)
    assert perform(AckGroup("g", consumer="one", positions=(2, 3), deliveries=(1, 1))) == 2
    assert perform(AckGroup("g", consumer="two", positions=(1,), deliveries=(1,))) == 0
    assert space.group("g").pending() == []


def test_a_late_ack_leaves_what_is_being_handled_again(space: Any, facades: Facades) -> None:
    """A process that was replaced under its name has finished an entry, and says so too late."""
    add(space, "a", "a")
    one = space.group("g", consumer="one")
    (before,) = one.take(1)
    with facades.peer("heir").group("g", consumer="one") as heir:
        (again,) = heir.take(1)
        assert (again.entry, again.deliveries) == (before.entry, 2)
        assert one.ack(before) == 0
        assert [(p.position, p.consumer) for p in heir.pending()][:1] == [(1, "one")]
        assert facades.peer("other").group("g", consumer="two").take(1) == []
        assert (heir.ack(again), one.ack(before)) == (1, 1), "said twice, it counts as done"
    one.close()


def test_a_request_whose_entries_were_delivered_again_since_gets_what_is_next(space: Any) -> None:
    add(space, "a", "b", "c")
    perform = space.session.driver.backend.perform
    asked = ReadGroup("g", consumer="one", prefix="", limit=2, ttl=30.0, name="n1")
    assert keys(perform(asked).items) == ["a", "b"]
    assert keys(perform(asked.replace(name="n2", limit=1, resume=True)).items) == ["a"]
    assert keys(perform(asked).items) == ["b", "c"]


def test_a_request_whose_entries_were_claimed_gets_none_of_them(space: Any) -> None:
    add(space, "a", "a")
    perform = space.session.driver.backend.perform
    asked = ReadGroup("g", consumer="one", prefix="", limit=2, ttl=30.0, name="n1")
    assert values(perform(asked).items) == [1, 2]
    perform(asked.replace(limit=0, ttl=0.0, name=""))
    assert values(perform(asked.replace(consumer="two", limit=1, name="n2")).items) == [1]
    assert perform(asked).items == ()
    assert values(perform(asked.replace(consumer="two", name="n3")).items) == [2]


def test_the_prefix_and_the_start_are_those_of_the_first_reader(space: Any) -> None:
    space.apply_rules({"notes": interlock.merged("append")})
    add(space, "a/1", "b/1", "a/2")
    everything = space.group("everything").take()
    assert keys(everything) == ["a/1", "b/1", "a/2"], "the library's own keys are left out"
    assert keys(space.group("a", prefix="a/").take()) == ["a/1", "a/2"]
    assert keys(space.group("later", start=2).take()) == ["b/1", "a/2"]
    now = space.group("now", start="now", prefix="a/")
    assert now.take() == []
    add(space, "b/2", "a/3")
    assert keys(now.take()) == ["a/3"]
    assert now.info().prefix == "a/"
    assert keys(space.group("later", start="now", consumer="two").take()) == ["b/2", "a/3"]
    assert space.group("future", start=10_000).take() == []
    add(space, "c")
    assert keys(space.group("future").take()) == ["c"], "a start beyond the end is the end"
    with pytest.raises(interlock.Invalid, match=r"'now' reads keys under 'a/'.*prefix='a/'"):
        space.group("now", consumer="two").take()
    assert [consumer.name for consumer in now.info().consumers] == ["tester"], "nothing was done"


def test_deletions_and_contributions_are_entries_too(facades: Facades) -> None:
    space = facades.open(rules={"notes": interlock.merged("append")})
    space.delete(space.create("k", 1))
    space.append("notes", "first")
    found = space.group("g").take()
    assert [d.entry.kind for d in found] == ["put", "delete", "append"]
    assert values(found) == [1, None, "first"]


def test_one_read_looks_at_a_bounded_part_of_the_log(facades: Facades) -> None:
    space = facades.open(durability="off")
    with space.transaction() as tx:
        for n in range(2 * SCANNED + 10):
            tx.create(f"noise/{n}", n)
    add(space, "a")
    for number, upto in enumerate((SCANNED, 2 * SCANNED), start=1):
        asked = ReadGroup(
            "g",
            consumer="one",
            prefix="none/",
            limit=5,
            ttl=30.0,
            name=f"n{number}",
        )
        answer = space.session.driver.backend.perform(asked)
        assert (answer.items, answer.upto, answer.head) == ((), upto, 2 * SCANNED + 11)
    assert keys(space.group("h", prefix="a").take()) == ["a"]


def test_a_group_can_be_looked_at_and_forgotten(space: Any) -> None:
    assert space.groups() == []
    add(space, "a", "b", "a")
    group = space.group("g", consumer="one", prefix="a")
    with pytest.raises(interlock.Invalid, match=r"no group 'g'.*has none"):
        group.info()
    group.take(1)
    info = group.info()
    assert (info.name, info.prefix, info.cursor, info.head) == ("g", "a", 1, 3)
    (consumer,) = info.consumers
    assert (consumer.name, consumer.pending, consumer.alive) == ("one", 1, True)
    assert consumer.at.tzinfo is not None
    assert [tuple(pending) for pending in info.pending] == [(1, "a", "one", 1)]
    assert space.groups() == ["g"]
    group.drop()
    assert space.groups() == []
    with pytest.raises(interlock.Invalid, match="no group 'g'"):
        group.drop()
    space.group("h").take()
    with pytest.raises(interlock.Invalid, match="the space has 'h'"):
        space.group("g").info()


def test_a_sign_of_life_does_not_make_a_forgotten_group_anew(space: Any) -> None:
    add(space, "a")
    group = space.group("g")
    (delivery,) = group.take()
    space.group("g").drop()
    group.close()
    assert group.ack(delivery) == 0
    assert space.groups() == []
    assert keys(space.group("g").take()) == ["a"], "it begins anew"
    space.session.driver.backend.perform(
        ReadGroup(
            "g",
            consumer="late",
            prefix="",
            ttl=30.0,
        )
    )
    assert [consumer.name for consumer in group.info().consumers] == ["tester"]


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"name": ""}, "group"),
        ({"name": 7}, "group"),
        ({"name": "g" * 129}, "group"),
        ({"prefix": "a*"}, "prefix"),
        ({"prefix": None}, "prefix"),
        ({"start": "yesterday"}, "start='yesterday'"),
        ({"start": -1}, "start=-1"),
        ({"start": True}, "start=True"),
        ({"start": 1.5}, "start=1.5"),
        ({"consumer": ""}, "consumer"),
        ({"consumer": " w"}, "consumer"),
        ({"ttl": 0}, "ttl=0"),
        ({"ttl": 86_401}, "ttl=86401"),
        ({"ttl": "1"}, "ttl='1'"),
    ],
)
def test_a_malformed_group_is_invalid(space: Any, options: dict[str, Any], names: str) -> None:
    arguments = {"name": "g", **options}
    with pytest.raises(interlock.Invalid, match=f"(?i){names}"):
        space.group(arguments.pop("name"), **arguments)


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda group: group.take(0), "limit=0"),
        (lambda group: group.take(1001), "limit=1001"),
        (lambda group: group.take(True), "limit=True"),
        (lambda group: group.take("2"), "limit='2'"),
        (lambda group: group.take(wait=-1), "wait=-1"),
        (lambda group: group.take(wait="long"), "wait='long'"),
        (lambda group: group.ack(1), "1 is not a Delivery"),
    ],
)
def test_a_malformed_call_is_invalid_and_changes_nothing(space: Any, call: Any, names: str) -> None:
    add(space, "a")
    with pytest.raises(interlock.Invalid, match=f"(?i){names}"):
        call(space.group("g"))
    assert space.groups() == []


def test_what_is_taken_at_once_ends_where_its_values_are_many_bytes(facades: Facades) -> None:
    space = facades.open(durability="off")
    for number in range(7):
        space.update(f"k{number % 2}", lambda _, n=number: str(n) * (PAGE_BYTES // 5))
    group, found = space.group("g"), []
    for count in (5, 2, 0):
        deliveries = group.take(100)
        assert len(deliveries) == count
        found += deliveries
    assert [delivery.entry.position for delivery in found] == list(range(1, 8))
    assert group.ack(*found) == 7


@dataclass(frozen=True)
class Order:
    number: int


def test_a_consumer_gets_values_as_a_type(space: Any) -> None:
    space.delete(space.create("o/1", Order(7)))
    group = space.group("g", type=Order, prefix="o/")
    assert values(group.take()) == [Order(7), None]


def test_a_value_that_does_not_fit_stays_until_it_is_acknowledged_without_a_type(
    space: Any,
) -> None:
    space.create("o/1", {"number": "x"})
    space.create("o/2", Order(2))
    group = space.group("g", type=Order)
    for _ in range(2):
        with pytest.raises(interlock.Invalid, match=r"'o/1' .*got str at \$\.number"):
            group.take()
    plain = space.group("g")
    (wrong,) = plain.take(1)
    assert plain.ack(wrong) == 1
    assert values(group.take()) == [Order(2)]
