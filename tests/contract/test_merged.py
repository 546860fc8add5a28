"""Merged keys: anyone adds, nobody conflicts, the value is the fold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import interlock
from interlock.core.append import FOLD_EVERY
from interlock.core.fold import SAVE_AFTER
from interlock.core.requests import Load
from tests.facades import Facades

RULES = {
    "findings": interlock.merged("append"),
    "tags": interlock.merged("union"),
    "tokens": interlock.merged("counter"),
    "high": interlock.merged("maximum"),
    "low": interlock.merged("minimum"),
    "last": interlock.merged("last_writer"),
    "memory": interlock.merged("deep_merge"),
}


@pytest.fixture
def team(facades: Facades) -> Any:
    return facades.open("ann", rules=RULES)


def test_each_reducer_folds_its_contributions(team: Any) -> None:
    for item in (3, 1, 2, 2):
        for key in ("findings", "tags", "tokens", "high", "low", "last"):
            entry = team.append(key, item)
            assert (entry.key, entry.kind, entry.value) == (key, "append", item)
    team.append("memory", {"plan": {"a": 1}, "n": 1})
    team.append("memory", {"plan": {"b": 2}, "n": 2})
    values = {key: record.value for key, record in team.scan().items()}
    assert values == {
        "findings": [3, 1, 2, 2],
        "tags": [1, 2, 3],
        "tokens": 8,
        "high": 3,
        "low": 1,
        "last": 2,
        "memory": {"plan": {"a": 1, "b": 2}, "n": 2},
    }
    assert team.read("tokens").version == 4


def test_adding_needs_no_read_and_never_conflicts(facades: Facades, team: Any) -> None:
    others = [facades.open(name) for name in ("ben", "cleo")]
    for number in range(5):
        for space in (team, *others):
            space.append("findings", f"{space.agent} {number}")
    record = team.read("findings")
    assert (len(record.value), record.version, record.writer) == (15, 15, "cleo")
    assert [entry.value for entry in team.history("findings")] == record.value


def test_the_same_id_is_one_contribution(team: Any) -> None:
    first = team.append("findings", "a", id="source-1")
    again = team.append("findings", "something else", id="source-1")
    assert again.position == first.position
    assert again.value == "a"
    team.append("tokens", 1, id="source-1")  # an id is the key's own
    assert (team.read("findings").value, team.read("tokens").value) == (["a"], 1)


def test_content_is_the_id_where_duplicates_are_not_wanted(team: Any) -> None:
    for item in ({"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": 1}):
        team.append("findings", item, dedupe=True)
    team.append("findings", {"x": 1})
    assert team.read("findings").value == [{"x": 1, "y": 2}, {"x": 1}, {"x": 1}]


def test_merged_keys_take_contributions_only(team: Any) -> None:
    team.append("tokens", 5)
    record = team.read("tokens")
    calls: list[Callable[[], Any]] = [
        lambda: team.write(record, 1),
        lambda: team.create("findings", []),
        lambda: team.update("tokens", lambda n: n + 1),
        lambda: team.append("elsewhere", 1),
    ]
    for call in calls:
        with pytest.raises(interlock.Forbidden, match="append"):
            call()
    for key, item in (("tokens", "five"), ("tokens", True), ("high", None), ("memory", [1])):
        with pytest.raises(interlock.Invalid, match="merged with"):
            team.append(key, item)
    for arguments in ({"id": ""}, {"id": 7}):
        with pytest.raises(interlock.Invalid, match="contribution id"):
            team.append("tokens", 1, **arguments)
    assert team.read("tokens") == record


def test_a_transaction_adds_and_sees_what_it_adds(team: Any) -> None:
    team.append("findings", 1)

    def both(tx: Any) -> Any:
        tx.append("findings", 2)
        tx.append("findings", 3)
        tx.append("tokens", 7)
        tx.create("plain", 1)
        return tx.read("findings").value

    assert team.transact(both) == [1, 2, 3]
    assert team.read("findings").value == [1, 2, 3]
    assert len({entry.op_id for entry in team.log(after=2)}) == 1
    with pytest.raises(interlock.Forbidden):
        team.transact(lambda tx: tx.append("plain", 1))


def test_a_merged_key_that_was_read_is_checked(team: Any) -> None:
    team.append("tokens", 99)
    with pytest.raises(interlock.Conflict) as refused, team.transaction() as tx:  # noqa: PT012  # at the end
        assert tx.read("tokens").value == 99
        team.append("tokens", 1)
        tx.create("decision", "there is room for one more")
    assert refused.value.record.value == 100


def test_a_deleted_merged_key_begins_anew(team: Any) -> None:
    team.append("findings", 1)
    team.append("findings", 2)
    deleted = team.delete(team.read("findings"))
    assert (deleted.exists, team.read("findings").value) == (False, None)
    team.append("findings", 3)
    assert (team.read("findings").value, team.read("findings").version) == ([3], 4)
    with pytest.raises(interlock.Conflict):
        team.delete(deleted._replace(exists=True))


def test_any_moment_of_a_merged_key_can_be_read_again(team: Any) -> None:
    for number in range(1, 4):
        team.append("findings", number)
    team.delete(team.read("findings"))
    team.append("findings", 9)
    values = [team.at(position=p).read("findings").value for p in range(1, 7)]
    assert values == [None, [1], [1, 2], [1, 2, 3], None, [9]]
    assert team.at(position=4).scan("find")["findings"].value == [1, 2, 3]


def test_a_long_tail_is_folded_once(facades: Facades, team: Any) -> None:
    """Reading costs what came since the last fold was kept, and the fold changes no version."""
    count = SAVE_AFTER + 50
    team.transact(lambda tx: [tx.append("findings", n) for n in range(count - 1)][-1])
    team.append("findings", count - 1)
    assert team.read("findings").value == list(range(count))
    position = team.position()
    other = facades.peer()
    tail = other.session.driver.backend.perform(Load(("findings",))).records["findings"].value
    assert (tail.length, tail.base is not None) == (0, True)
    other.append("findings", count)
    assert other.read("findings").value == list(range(count + 1))
    assert other.at(position=position - 1).read("findings").value == list(range(count - 1))
    assert (team.position(), team.read("findings").version) == (position + 1, count + 1)
    team.delete(team.read("findings"))
    team.append("findings", "new")
    assert other.read("findings").value == ["new"]
    other.close()


def test_whoever_adds_keeps_the_fold_now_and_then(facades: Facades, team: Any) -> None:
    """So that nobody who reads finds a long tail."""
    team.transact(lambda tx: [tx.append("tokens", 1) for _ in range(FOLD_EVERY - 1)][-1])
    team.append("tokens", 1)
    team.append("tokens", 1)
    other = facades.peer()
    tail = other.session.driver.backend.perform(Load(("tokens",))).records["tokens"].value
    assert (tail.base, tail.length) == (str(FOLD_EVERY), 1)
    assert other.read("tokens").value == FOLD_EVERY + 1
    other.close()


def longest(value: str, item: str) -> str:
    return max(value, item, key=lambda text: (len(text), text))


def test_a_reducer_of_ones_own(facades: Facades) -> None:
    mine = interlock.Reducer("longest", longest, initial="")
    space = facades.open("ann", rules={"title": interlock.merged(mine)})
    for item in ("bb", "ccc", "a"):
        space.append("title", item)
    assert space.read("title").value == "ccc"
    stranger = facades.open("ben")
    calls: list[Callable[[], Any]] = [
        lambda: stranger.read("title"),
        lambda: stranger.scan(),
        lambda: stranger.append("title", "dddd"),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid, match="'longest', which this process does not know"):
            call()


def test_claims_that_were_not_checked_are_refused(facades: Facades) -> None:
    mine = interlock.Reducer("longest", longest, initial="", claims=("commutative",))
    with pytest.raises(interlock.Invalid, match=r"verify\.laws"):
        facades.open("ann", rules={"title": interlock.merged(mine)})
    stolen = interlock.Reducer("append", longest)
    with pytest.raises(interlock.Invalid, match="Interlock has its own reducer"):
        facades.open("ann", rules={"title": interlock.merged(stolen)})


def test_a_reducer_that_returns_none_is_named(facades: Facades) -> None:
    forgets = interlock.Reducer("forgets", lambda value, item: value.append(item), [])
    space = facades.open(rules={"list": interlock.merged(forgets)})
    space.append("list", 1)
    with pytest.raises(interlock.Invalid, match="'forgets' raised TypeError: it returned None"):
        space.read("list")
