"""Trimming: what is cut says so, what is kept can still be read, what is needed is not cut."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import interlock
from interlock.core import trim as core_trim
from interlock.core.requests import Floor, Trim
from interlock.core.trim import _step
from tests.facades import Facades, elsewhere
from tests.newer import store_rules

RULES = {"found/*": interlock.merged("append"), "kept/*": interlock.guarded(keep=5)}
pytestmark = [
    pytest.mark.usefixtures("aged"),
    pytest.mark.interlock_needs("trimming"),
    pytest.mark.interlock_space(agent="ann", rules=RULES),
]
KEYS = ("a", "b", "c", "found/x", "found/y")


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operation ids need not be known for a day."""
    monkeypatch.setattr(core_trim, "KEPT_AT_LEAST", 0.0)


def put(space: Any, *keys: str) -> None:
    for key in keys:
        space.update(key, lambda n: (n or 0) + 1)


def test_what_is_cut_says_so(space: Any) -> None:
    started = space.position()
    put(space, "a", "b", "a", "a", "b")
    was = space.read("a")
    third = list(space.log())[started + 2]
    done = space.trim(keep=0, before=third.position)
    assert done[:3] == (
        third.position,
        third.position - 1,
        f"position {third.position} was to be kept",
    )
    assert [entry.position for entry in space.log()] == [third.position + n for n in range(3)]
    assert [entry.version for entry in space.history("a")] == [2, 3]
    for read in (
        lambda: list(space.log(after=0)),
        lambda: list(space.log(third.position - 2)),
        lambda: list(space.history("a", after=0)),
        lambda: space.at(position=third.position - 2).read("a"),
        lambda: space.at(time=0).read("a"),
        lambda: next(space.watch(after=0)),
    ):
        with pytest.raises(interlock.Pruned) as refused:
            read()
        assert refused.value.oldest == third.position
        assert not refused.value.retryable
        assert str(third.position) in str(refused.value)
    assert next(space.log(third.position - 1)) == third
    assert space.read("a") == was
    assert space.write(was, 9).version == 4
    assert space.outcome(third.op_id) is not None


def test_a_log_that_is_cut_to_its_end_goes_on(space: Any) -> None:
    put(space, "a", "b")
    space.append("found/x", 1)
    end, record, last = space.position(), space.read("a"), list(space.log())[-1]
    assert space.trim(keep=0)[:3] == (end + 1, end, "")
    assert list(space.log()) == []
    assert list(space.history("a")) == []
    assert space.trim(keep=0)[:3] == (end + 1, 0, "")
    assert space.at(position=end).read("a") == record == space.read("a")
    assert space.at(time=last.at).read("a") == record
    with pytest.raises(interlock.Pruned):
        space.at(time=last.at - timedelta(seconds=1)).read("a")
    stale = space.read("b")
    put(space, "b")
    with pytest.raises(interlock.Conflict):
        space.write(stale, 0)
    assert space.append("found/x", 2).position == end + 2
    assert space.read("found/x").value == [1, 2]
    assert [entry.position for entry in space.log()] == [end + 1, end + 2]


@pytest.mark.parametrize("seed", range(2))
def test_every_moment_that_is_kept_can_be_read_again(
    space: Any, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a model that remembers everything, whatever was cut, in steps of a few entries."""
    monkeypatch.setattr(core_trim, "PAGE", 7)
    chance = random.Random(seed)
    first = space.position()
    moments = {first: _seen(space)}
    for _ in range(6):
        for _ in range(chance.randint(3, 80)):
            _change(space, chance, chance.choice(KEYS))
            moments[space.position()] = _seen(space)
        oldest = space.trim(keep=0, before=chance.randint(0, space.position() + 2)).oldest
        assert _seen(space) == moments[space.position()]
        kept = [position for position in moments if position >= oldest - 1]
        for position in chance.sample(kept, min(len(kept), 12)):
            moment = space.at(position=position)
            assert _records(moment.read_many(KEYS)) == moments[position], (position, oldest)
            live = {key for key, (_, _, _, exists) in moments[position].items() if exists}
            assert moment.scan().keys() == live
        positions = [entry.position for entry in space.log()]
        assert positions == list(range(oldest, space.position() + 1))


def _change(space: Any, chance: random.Random, key: str) -> None:
    record = space.read(key)
    if record.exists and chance.random() < 0.15:
        space.delete(record)
    elif key.startswith("found/"):
        space.append(key, chance.randint(0, 99))
    else:
        space.write(record, chance.randint(0, 99))


def _seen(space: Any) -> dict[str, Any]:
    return _records(space.read_many(KEYS))


def _records(records: dict[str, interlock.Record]) -> dict[str, Any]:
    return {key: (r.value, r.version, r.writer, r.exists) for key, r in records.items()}


def test_many_versions_of_one_key(space: Any) -> None:
    for n in range(200):
        space.append("found/x", n)
        put(space, "a")
    end = space.position()
    values = {}
    for cut in (
        end - 300,
        end - 170,
        end - 143,
        end - 3,
    ):  # third: 128 versions are cut, two blocks
        oldest = space.trim(keep=0, before=cut).oldest
        assert oldest == cut
        for position in (oldest - 1, oldest, oldest + 1, end):
            moment = space.at(position=position)
            values[position] = (moment.read("found/x").value, moment.read("a").value)
            assert len(values[position][0]) + values[position][1] == 400 - (end - position)
        assert [e.position for e in space.history("a")] == [
            e.position for e in space.log() if e.key == "a"
        ]
    put(space, "a")
    assert space.read("a").value == 201
    assert space.read("found/x").value == list(range(200))


def test_of_a_commit_all_or_nothing_is_cut(space: Any) -> None:
    with space.transaction() as tx:
        for key in ("a", "b", "c"):
            tx.write(tx.read(key), 1)
    end = space.position()
    assert space.trim(keep=0, before=end).oldest == end - 2
    assert space.trim(keep=0, before=end - 1).oldest == end - 2
    assert space.trim(keep=0).oldest == end + 1


def test_a_commit_of_many_writes_is_larger_than_a_step(
    space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_trim, "PAGE", 2)
    asked: list[int] = []

    def trim(upto: int, folds: tuple[tuple[str, str], ...], erasures: int = 0) -> Trim:
        asked.append(upto)
        return Trim(upto, folds, erasures)

    monkeypatch.setattr(core_trim, "Trim", trim)
    start = space.position()
    for _ in range(2):
        with space.transaction() as tx:
            for key in ("a", "b", "c", "d", "e"):
                tx.write(tx.read(key), 1)
    assert space.trim(keep=0).oldest == start + 11
    assert {0, start + 5, start + 10} >= {*asked} - {start}, "a commit was cut in the middle"


def test_what_the_rules_keep(space: Any) -> None:
    start = space.position()
    put(space, "a", "kept/x", "b")
    assert space.trim()[:3] == (start + 1, start, "no rule says how long 'a' is kept (keep=)")
    assert space.trim(keep=0).held == "'kept/x' is kept for 5 days"
    assert space.trim(keep=0).oldest == start + 2
    assert space.trim(keep=0.5).cut == 0


def test_history_under_a_rule_of_a_newer_version_is_kept(facades: Facades) -> None:
    space = facades.open()
    put(space, "b", "a")
    store_rules(facades.peer("newer"), {"a": {"rule": "guarded", "keep": 0.1, "least": 3}})
    trimmed = space.trim(keep=0)
    assert (trimmed.oldest, "Upgrade Interlock" in trimmed.held) == (2, True)


def test_operation_ids_are_known_for_a_day(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_trim, "KEPT_AT_LEAST", 24 * 3600.0)
    record = space.create("a", 1, op_id="mine")
    assert space.trim(keep=0)[:3] == (1, 0, "entries younger than 24 h are kept for retries")
    assert space.create("a", 1, op_id="mine") == record


def test_of_an_operation_that_was_cut_nothing_is_known(space: Any) -> None:
    with space.transaction(op_id="mine") as tx:
        for key in ("a", "b"):
            tx.write(tx.read(key), 1)
    put(space, "a")
    assert [write.key for write in space.outcome("mine").writes] == ["a", "b"]
    assert space.trim(keep=0).oldest == space.position() + 1
    assert space.outcome("mine") is None
    with pytest.raises(interlock.Conflict):
        space.create("b", 1, op_id="mine")


def test_what_a_group_has_not_finished_is_kept(space: Any, facades: Facades) -> None:
    start = space.position()
    put(space, "a", "b", "a", "c")
    with space.group("g", consumer="w") as group:
        first, second = group.take(2)
        assert space.trim(keep=0).oldest == start + 1
        assert space.trim(keep=0).held == "group 'g' has not finished it"
        group.ack(second)
        assert space.trim(keep=0).oldest == start + 1
        group.ack(first)
        assert space.trim(keep=0).oldest == start + 3
        rest = group.take(9)
        assert [d.entry.position for d in rest] == [start + 3, start + 4]
        group.ack(*rest)
        assert space.trim(keep=0).oldest == start + 5
        put(space, "a")
        assert [d.entry.position for d in group.take(9)] == [start + 5]
    space.group("g").drop()
    assert space.trim(keep=0).oldest == start + 6


def test_the_store_itself_keeps_what_a_group_needs(space: Any, facades: Facades) -> None:
    """As where the group was made while somebody was about to cut."""
    start = space.position()
    put(space, "a", "b")
    (first,) = space.group("g", consumer="w").take(1)
    backend: Any = facades.peer().session.driver.backend
    for _ in range(2):
        assert backend.perform(Trim(start + 1, ())) == Floor(0, start + 1, "g")
    assert backend.perform(Trim(start, ())) == Floor(start, start + 1, "g", start)
    space.group("g", consumer="w").ack(first)
    assert backend.perform(Trim(start + 1, ())).position == start + 1
    assert backend.perform(Trim(start, ())).position == start + 1, "never back"
    assert space.read_many(["a", "b"])["a"].value == 1


def test_a_new_group_begins_with_what_is_kept(space: Any) -> None:
    put(space, "a", "b", "c")
    end = space.position()
    space.trim(keep=0, before=end)
    assert [d.entry.position for d in space.group("new").take(9)] == [end]
    with pytest.raises(interlock.Pruned) as refused:
        space.group("older", start=end - 2).take(9)
    assert refused.value.oldest == end
    assert space.groups() == ["new"]
    assert [d.entry.position for d in space.group("other", start=end - 1).take(9)] == [end]


def test_what_a_coordinator_has_not_merged_is_kept(space: Any) -> None:
    boss = space.coordinator(
        "report", source="found/", merge=lambda value, each: [*value, each["id"]], initial=[]
    )
    boss.catch_up()
    put(space, "a")
    start = space.position()
    space.append("found/x", {"id": 1})
    put(space, "a")
    done = space.trim(keep=0)
    assert done.oldest == start + 1
    assert done.held == "the coordinator of 'report/coordinator' has not merged it"
    assert boss.catch_up().merged == 1
    put(space, "a", "b")
    assert space.trim(keep=0).oldest == space.position() + 1
    assert boss.catch_up().merged == 1
    space.append("found/y", {"id": 2})
    assert boss.catch_up().merged == 2
    assert space.read("report").value == [1, 2]
    space.append("found/y", {"id": 3})
    space.delete(space.read("report/coordinator"))
    assert space.trim(keep=0).oldest == space.position() + 1, "a coordinator that was dropped"


def test_a_reducer_that_is_not_here_keeps_its_contributions(facades: Facades) -> None:
    total = interlock.Reducer("total", lambda a, b: a + b, 0)
    space = facades.open("ann", rules={"sum": interlock.merged(total)})
    space.append("sum", 1)
    start = space.position()
    put(space, "a")
    other = facades.open("bob")
    done = other.trim(keep=0)
    assert done.oldest == start
    assert "'total'" in done.held
    assert space.trim(keep=0).oldest == start + 2
    space.append("sum", 2)
    assert space.read("sum").value == 3


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"keep": -1}, "keep=-1"),
        ({"keep": "7d"}, "keep='7d'"),
        ({"keep": True}, "keep=True"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"before": -1}, "before=-1"),
        ({"before": 1.5}, "before=1.5"),
    ],
)
def test_malformed_trims(space: Any, options: dict[str, Any], told: str) -> None:
    put(space, "a")
    with pytest.raises(interlock.Invalid, match=told):
        space.trim(**options)
    assert next(space.log()).position == 1


def test_writers_followers_and_trimmers_at_once(
    space: Any, facades: Facades, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three writers, two who trim, one who follows the log through a group that misses nothing."""
    facades.capabilities.need("shared")
    monkeypatch.setattr(core_trim, "PAGE", 10)
    count, start = 120, space.position()
    over, problems, seen = threading.Event(), list[BaseException](), list[int]()

    def thread(work: Callable[[interlock.Space], None], agent: str) -> threading.Thread:
        def run() -> None:
            try:
                with facades.peer(agent) as mine:
                    work(mine)
            except BaseException as problem:  # what ends a thread must fail the test
                problems.append(problem)

        return threading.Thread(target=run)

    def write(mine: interlock.Space) -> None:
        for n in range(count):
            put(mine, f"{mine.agent}/{n % 3}")
            mine.append("found/all", n)

    def follow(mine: interlock.Space) -> None:
        with mine.group("follower") as group:
            while len(seen) < 6 * count:
                for delivery in group.take(7, wait=0.05):
                    seen.append(delivery.entry.position)
                    group.ack(delivery)

    def trim(mine: interlock.Space) -> None:
        while not over.is_set():
            mine.trim(keep=0)
            over.wait(0.002)

    assert space.group("follower").take(1) == []
    trimmers = [thread(trim, f"t{n}") for n in range(2)]
    others = [thread(write, f"w{n}") for n in range(3)] + [thread(follow, "ann")]
    for each in (*trimmers, *others):
        each.start()
    for each in others:
        each.join()
    over.set()
    for each in trimmers:
        each.join()
    assert not problems
    assert seen == list(range(start + 1, start + 6 * count + 1))
    assert sorted(space.read("found/all").value) == sorted([*range(count)] * 3)
    assert sum(r.value for key, r in space.scan("w").items()) == 3 * count
    assert space.trim(keep=0).oldest == space.position() + 1


def test_a_run_is_replayed_as_far_back_as_the_log_is_kept(space: Any) -> None:
    with space.run("r") as run:
        for n in range(4):
            run.step(f"step {n}", len, "ab")
    whole = space.runs.replay("r")
    assert [len(moment.run.steps) for moment in whole][-5:] == [1, 2, 3, 4, 4]
    cut = whole[-3]
    assert space.trim(keep=0, before=cut.position).oldest == cut.position
    assert space.runs.replay("r") == whole[-3:]
    space.trim(keep=0)
    with pytest.raises(interlock.Invalid, match="Nothing of a run 'r' is in the log"):
        space.runs.replay("r")
    assert len(space.runs.show("r").steps) == 4


def test_trims_at_the_same_time_report_what_each_has_cut(
    facades: Facades, space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one cuts first what the first one has already decided to cut."""
    monkeypatch.setattr(core_trim, "PAGE", 2)
    put(space, *"abcdefg")
    other, step = facades.peer(), _step
    reports: list[Any] = []

    def overtaken(*arguments: Any) -> Any:
        decided = yield from step(*arguments)
        if not reports:
            reports.append(None)  # once
            reports[0] = elsewhere(other.trim, keep=0)
        return decided

    monkeypatch.setattr(core_trim, "_step", overtaken)
    ours = space.trim(keep=0)
    theirs = reports[0]
    assert ours.oldest == theirs.oldest == space.position() + 1
    assert (ours.cut, theirs.cut) == (0, space.position())
