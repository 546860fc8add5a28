"""The log: positions, history, any moment again, and news as it comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any

import pytest

import interlock
from interlock.core.requests import PAGE_BYTES, PAGE_SPAN, ReadLog, ReadValues
from interlock.settings import PAGE
from tests.facades import Facades


def test_positions_are_gapless_and_in_commit_order(space: Any) -> None:
    for n in range(5):
        space.update(f"k{n % 2}", lambda _, n=n: n)
    entries = list(space.log())
    assert [e.position for e in entries] == [1, 2, 3, 4, 5]
    assert [e.value for e in entries] == [0, 1, 2, 3, 4]
    assert [e.version for e in entries] == [1, 1, 2, 2, 3]
    assert all(a.at <= b.at for a, b in pairwise(entries))


def test_a_refused_write_leaves_no_gap(space: Any) -> None:
    record = space.read("k")
    space.write(record, 1)
    with pytest.raises(interlock.Conflict):
        space.write(record, 2)
    assert space.write(space.read("k"), 3).position == 2


def test_the_log_resumes_after_a_position_and_keeps_to_a_prefix(space: Any) -> None:
    for key in ("a/1", "b/1", "a/2"):
        space.create(key, key)
    assert [e.key for e in space.log(after=1)] == ["b/1", "a/2"]
    assert [e.key for e in space.log(prefix="a/")] == ["a/1", "a/2"]
    assert [e.key for e in space.log(after=1, prefix="a/")] == ["a/2"]
    assert list(space.log(after=3)) == []


def test_the_log_is_read_in_pages_without_loss(facades: Facades) -> None:
    space = facades.open(durability="off")
    count = PAGE + 5
    with space.transaction() as tx:
        for n in range(count):
            tx.create(f"k/{n}", n)
    assert [e.position for e in space.log()] == list(range(1, count + 1))
    assert [e.value for e in space.log(prefix="k/")] == [e.value for e in space.log()]


def test_a_page_of_the_log_ends_where_its_values_are_many_bytes(facades: Facades) -> None:
    """A thousand values of a megabyte would not fit into the memory."""
    space = facades.open(durability="off")
    with space.transaction() as tx:
        tx.create("small", 1)
    for n in range(7):
        space.update("long", lambda _, n=n: str(n) * (PAGE_BYTES // 5))
    space.create("small again", 1)
    for prefix, key, count in (("", None, 9), ("long", None, 7), ("", "long", 7)):
        position, found = 0, []
        for _ in range(20):
            page = space.session.driver.backend.perform(
                ReadLog(after=position, prefix=prefix, key=key, limit=PAGE)
            )
            assert sum(len(str(entry.value)) for entry in page.entries[:-1]) < PAGE_BYTES
            found += page.entries
            position = page.upto
            if position == page.head == 9:
                break
        assert position == 9
        assert [entry.version for entry in found if entry.key == "long"] == list(range(1, 8))
        assert len(found) == count
    assert len(list(space.log())) == 9
    assert len(list(space.history("long"))) == 7
    position, lines = 0, list[str]()
    while position < 9:
        request = ReadValues(after=position, key="long", limit=PAGE)
        page = space.session.driver.backend.perform(request)
        read = page.lines.split("\n") if page.lines else []
        assert sum(map(len, read[:-1])) < PAGE_BYTES
        lines, position = lines + read, page.upto
    assert [line[1] for line in lines] == [str(n) for n in range(7)]


def test_a_page_of_a_prefix_ends_where_too_many_others_are(sync_facades: Facades) -> None:
    space = sync_facades.open(durability="off", rules={"many": interlock.merged("append")})
    space.create("few/1", 1)
    while left := PAGE_SPAN - 1 - space.position():
        space.append_many("many", [0] * min(left, 9000))
    space.create("few/2", 2)
    space.create("few/3", 3)
    perform = space.session.driver.backend.perform
    page = perform(ReadLog(after=0, prefix="few/", limit=10))
    assert page.upto <= PAGE_SPAN, "it looked at everything"
    assert [entry.value for entry in page.entries] == [1, 2][: len(page.entries)]
    assert [entry.value for entry in space.log(prefix="few/")] == [1, 2, 3]
    assert [e.value for e in space.log(prefix="few/", newest_first=True)] == [3, 2, 1]


def test_an_entry_says_who_when_and_what_the_commit_was_computed_from(space: Any) -> None:
    space.create("price", 10)
    with space.transaction() as tx:
        price = tx.read("price").value
        tx.scan("order/")
        tx.create("order/1", {"total": price})
    entry = next(iter(space.history("order/1")))
    assert (entry.agent, entry.kind, entry.version) == ("tester", "put", 1)
    assert entry.reads == {"price": 1, "order/*": {}}


def test_history_is_one_keys_entries_with_its_deletion(space: Any) -> None:
    record = space.create("k", 1)
    space.create("other", 0)
    space.delete(space.write(record, 2))
    assert [(e.kind, e.value) for e in space.history("k")] == [
        ("put", 1),
        ("put", 2),
        ("delete", None),
    ]
    assert [e.version for e in space.history("k", after=1)] == [2, 3]


def test_any_moment_can_be_read_again(space: Any) -> None:
    first = space.create("k/1", 1)
    second = space.write(first, 2)
    space.create("k/2", 1)
    space.delete(second)
    assert not space.at(position=0).read("k/1").exists
    assert space.at(position=1).read("k/1") == first
    assert space.at(position=2).read("k/1") == second
    assert list(space.at(position=3).scan("k/")) == ["k/1", "k/2"]
    assert list(space.at(position=4).scan("k/")) == ["k/2"]
    assert space.at(position=4).read_many(["k/1"])["k/1"].version == 3
    assert space.at(time=datetime.now(UTC) + timedelta(hours=1)).position() == 4
    assert space.at(time=first.at - timedelta(seconds=1)).position() == 0
    assert space.at(time=first.at).read("k/1").exists


def test_a_moment_that_has_not_come_is_invalid(space: Any) -> None:
    with pytest.raises(interlock.Invalid, match="ends at 0"):
        space.at(position=1).read("k")


def test_watch_yields_what_is_there_and_what_comes(facades: Facades) -> None:
    space, other = facades.open(), facades.peer("other")
    other.create("a/1", 1)
    news = iter(space.watch("a/", after=0))
    assert next(news).key == "a/1"
    other.create("b/1", 1)
    other.create("a/2", 2)
    entry = next(news)
    assert (entry.key, entry.agent, entry.position) == ("a/2", "other", 3)
    other.close()


def test_watch_from_now_skips_the_past(space: Any) -> None:
    space.create("k", 1)
    resumed = space.watch(after=space.position())
    space.create("k2", 2)
    assert [e.key for e in islice(resumed, 1)] == ["k2"]


@pytest.mark.any_store
@pytest.mark.parametrize(
    "when",
    [
        {},
        {"position": 1, "time": 1.0},
        {"time": datetime(2026, 1, 1)},  # no time zone is what is refused
        {"time": "now"},
    ],
)
def test_a_moment_must_be_named_once_and_exactly(space: Any, when: dict[str, Any]) -> None:
    with pytest.raises(interlock.Invalid):
        space.at(**when)


def test_a_position_inside_a_commit_is_read_as_of_its_end(space: Any) -> None:
    space.create("before", 1)
    with space.transaction() as tx:
        for n in range(5):
            tx.create(f"account/{n}", n)
    space.delete(space.read("account/3"))
    whole = {f"account/{n}": n for n in range(5)}
    for position in range(2, 7):
        moment = space.at(position=position)
        assert {k: r.value for k, r in moment.scan("account/").items()} == whole
        assert (moment.position(), moment.read("account/4").value) == (6, 4)
    assert space.at(position=1).scan("account/") == {}
    assert not space.at(position=7).read("account/3").exists
    with pytest.raises(interlock.Invalid, match="before position"):
        space.at(position=8).position()
