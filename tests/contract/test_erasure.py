"""Erasing: values are gone from everything that can be read, and everything else stays."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest

import interlock
from interlock.core import trim as core_trim
from interlock.core.requests import (
    Commit,
    LoadProjection,
    Redact,
    SaveFold,
    SaveProjection,
    Trim,
)
from tests.contract.test_projections import backend_of
from tests.facades import Facades, elsewhere

RULES = {
    "found/*": interlock.merged("append"),
    "n": interlock.merged("counter"),
    "agent/{agent}/**": interlock.private(),
}
pytestmark = [
    pytest.mark.interlock_space(agent="ann", rules=RULES),
]
SECRET = "alice@example.com"


def holds(value: Any) -> bool:
    """Look through records and entries as well, whose `repr` is short."""
    if isinstance(value, dict):
        return any(map(holds, [*value, *value.values()]))
    return any(map(holds, value)) if isinstance(value, list | tuple) else SECRET in str(value)


def chosen(entry: interlock.Entry) -> bool:
    return holds(entry.value)


def plain(space: Any, after: int | None = None) -> list[tuple[Any, ...]]:
    """What stays of entries: all but their values."""
    return [(*entry[:5], *entry[6:10]) for entry in space.log(after)]


def readable(space: Any) -> list[Any]:
    """Everything that the API shows of a space, at each moment."""
    end = space.position()
    moments = [space.at(position=position) for position in range(end + 1)]
    return [
        *[moment.scan() for moment in moments],
        *[moment.scan("$") for moment in moments],
        *[space.scan(prefix) for prefix in ("", "$")],
        [*space.log()],
    ]


def test_only_the_values_of_the_entries_go(space: Any) -> None:
    first = space.create("customer/1", {"mail": SECRET})
    second = space.write(first, {"mail": f"x{SECRET}"})
    other = space.create("customer/2", {"mail": "bob"})
    before = plain(space)
    done = space.erase("customer/1")
    assert (done.dry_run, done.keys, done.looked_at) == (False, ("customer/1",), 2)
    assert done.removed == {"log": 2, "heads": 1, "folds": 0, "projections": 0}
    assert done.upto == other.position
    assert any("backup" in each for each in done.remains)
    assert plain(space)[: len(before)] == before
    history = [*space.history("customer/1")]
    assert [(e.version, e.kind, e.value, e.erased) for e in history] == [
        (1, "put", None, True),
        (2, "put", None, True),
        (3, "delete", None, False),
    ]
    record = space.read("customer/1")
    assert (record.exists, record.value, record.version) == (False, None, 3)
    then = space.at(position=second.position).read("customer/1")
    assert (then.exists, then.value, then.version, then.erased) == (False, None, 2, True)
    assert "customer/1" not in space.at(position=second.position).scan()
    assert space.read("customer/2") == other
    assert [e.position for e in space.log()] == [*range(1, space.position() + 1)]
    assert not holds(readable(space))


def test_the_log_says_who_erased_what(space: Any) -> None:
    space.create("customer/1", SECRET)
    done = space.erase(prefix="customer/", where=chosen)
    begun, ended = space.log(prefix="$erasures/")
    assert begun.key == ended.key == f"$erasures/{done.name}"
    assert (begun.agent, begun.value) == (
        "ann",
        {"prefix": "customer/", "where": True, "state": "begun", "entries": 1},
    )
    assert ended.value["state"] == "done"
    assert ended.value["removed"] == done.removed


def test_what_was_computed_from_an_erased_value_is_not_committed(
    space: Any, facades: Facades
) -> None:
    record = space.create("customer/1", SECRET)
    space.append("found/x", SECRET)
    stale = facades.open("bob")

    def summarise() -> None:
        with stale.transaction() as tx:
            tx.create("summary", str(tx.read("found/x").value))
            space.erase("found/x", where=chosen)

    with pytest.raises((interlock.Conflict, interlock.Fenced)):
        summarise()
    space.erase("customer/1")
    with pytest.raises(interlock.Conflict):
        stale.write(record, f"{record.value} again")
    assert space.create("customer/1", "new").version == 3


@pytest.mark.parametrize("contributions", [3, 250])
def test_single_contributions_go_out_of_a_fold(
    space: Any, facades: Facades, contributions: int
) -> None:
    for n in range(contributions):
        space.append("found/x", SECRET if n % 3 == 0 else n)
    left = [n for n in range(contributions) if n % 3]
    space.read("found/x")  # which keeps a long fold
    between = space.position()
    space.append("found/x", "last")
    done = space.erase("found/x", where=chosen)
    assert done.removed["log"] == contributions - len(left)
    assert done.removed["folds"] == (contributions == 250)
    assert space.read("found/x").value == [*left, "last"]
    assert facades.open("bob").read("found/x").value == [*left, "last"]
    assert space.at(position=between).read("found/x").value == left
    space.append("found/x", "after")
    assert space.read("found/x").value == [*left, "last", "after"]
    assert not holds(readable(space)[-1])
    assert [entry.erased for entry in space.history("found/x")][-2:] == [True, False]


def test_a_whole_merged_key_begins_anew(space: Any) -> None:
    for n in range(3):
        space.append("n", n)
    space.erase("n")
    assert not space.read("n").exists
    space.append("n", 7)
    assert space.read("n").value == 7
    assert space.at(position=2).read("n").value in (0, None)


def test_no_cache_brings_an_erased_value_back(space: Any, facades: Facades) -> None:
    space.append("found/x", SECRET)
    position = space.append("found/x", "b").position
    rules = space.session.writer.book.rules.version
    backend = backend_of(facades)
    space.erase("found/x", where=chosen)
    for at in (position, space.position()):
        backend.perform(
            SaveFold("found/x", position=at, body=f'["{SECRET}"]', rules=rules, erasures=0)
        )
    assert space.read("found/x").value == ["b"]
    backend.perform(SaveProjection("$projection/p/1", position, SECRET, erasures=0))
    assert backend.perform(LoadProjection("$projection/p/1")) is None
    floor = backend.perform(Trim(0, ()))
    assert floor.erasures > 0
    cut = backend.perform(Trim(position, (("found/x", f'["{SECRET}"]'),), erasures=0))
    assert (cut.position, cut.cut) == (0, 0)


def test_projections_are_folded_again(space: Any, facades: Facades) -> None:
    def seen(value: list[Any], entry: interlock.Entry) -> list[Any]:
        return [*value, "erased" if entry.erased else entry.value]

    space.create("a", SECRET)
    space.create("b", 2)
    kept = space.projection(seen, initial=[], name="kept", snapshot_every=1)
    live = facades.open("bob").projection(seen, initial=[])
    assert kept.refresh() == live.refresh() == [SECRET, 2]
    done = space.erase("a")
    assert done.projections == ("$projection/kept/1",)
    assert live.refresh() == kept.refresh() == ["erased", 2, None]
    anew = facades.open("eve").projection(seen, initial=[], name="kept", snapshot_every=1)
    assert anew.refresh() == ["erased", 2, None]


def test_what_keys_were_where_the_log_is_cut_goes_too(
    space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_trim, "KEPT_AT_LEAST", 0.0)
    space.create("customer/1", SECRET)
    space.create("customer/2", {"mail": SECRET, "n": 2})
    for item in ("a", SECRET, "b"):
        space.append("found/x", item)
    end = space.create("last", 1).position
    space.trim(keep=0, before=end)
    record = space.create("later", 1)
    done = space.erase(prefix="", where=chosen)
    assert (done.keys, done.removed["log"]) == (("customer/1", "customer/2", "found/x"), 3)
    assert space.read("found/x").value == ["a", "b"]
    assert space.at(position=record.position).read("found/x").value == ["a", "b"]
    assert space.at(position=record.position).read("customer/1").erased
    assert not space.read("customer/2").exists
    space.append("found/x", "c")
    assert space.read("found/x").value == ["a", "b", "c"]
    assert space.erase(prefix="", where=chosen).keys == ()


def test_consumers_get_entries_that_say_so(space: Any) -> None:
    for n in range(3):
        space.create(f"job/{n}", SECRET)
    group = space.group("g")
    assert [holds(d.entry.value) for d in group.take(1)] == [True]
    space.erase(prefix="job/")
    again = space.group("g", consumer="ann")  # what was delivered and not acknowledged comes again
    taken = [*again.take(3)]
    assert [(d.entry.key, d.entry.value, d.entry.erased) for d in taken] == [
        ("job/0", None, True),
        ("job/1", None, True),
        ("job/2", None, True),
    ]


def test_sending_an_erased_write_again_applies_nothing(space: Any) -> None:
    record = space.create("customer/1", SECRET, op_id="once")
    space.append("found/x", SECRET, id="first")
    space.erase(where=chosen)
    end = space.position()
    again = space.create("customer/1", SECRET, op_id="once")
    assert (again.version, again.exists, again.erased, again.value) == (
        record.version,
        False,
        True,
        None,
    )
    entry = space.append("found/x", SECRET, id="first")
    assert (entry.value, entry.erased) == (None, True)
    assert space.position() == end
    assert space.outcome("once").writes[0].erased


def test_a_rejected_contribution_goes_with_its_original(space: Any) -> None:
    def refuse(contribution: Any) -> str | None:
        return "no" if holds(contribution) else None

    space.append("found/x", {"text": SECRET})
    space.append("found/x", {"text": "b"})
    boss = space.coordinator("report", source="found/", merge="append", validate=refuse)
    boss.catch_up()
    assert holds(space.scan("report/rejected/"))
    done = space.erase("found/x", where=chosen)
    assert len(done.keys) == 2
    assert space.scan("report/rejected/") == {}
    assert not holds(readable(space))
    space.append("found/x", {"text": "c"})
    assert boss.catch_up().rejected == 1
    assert space.read("report").value == [{"text": "b"}, {"text": "c"}]


def test_a_coordinator_passes_over_what_was_erased(space: Any) -> None:
    for text in ("a", SECRET, "b"):
        space.append("found/x", text)
    space.erase("found/x", where=chosen)
    boss = space.coordinator("report", source="found/", merge="append")
    boss.catch_up()
    assert space.read("report").value == ["a", "b"]


def test_what_a_finished_run_recorded_goes_and_its_steps_stay(space: Any) -> None:
    with space.run("order-7", input={"mail": SECRET}) as run:
        run.step("look", lambda: SECRET)
        with pytest.raises(interlock.Invalid, match="order-7"):
            space.erase(where=chosen)
        run.result = SECRET
    space.erase(where=chosen)
    info = space.runs.show("order-7")
    assert (info.state, info.input, info.result) == ("Completed", None, None)
    assert [(step.name, step.state, step.result) for step in info.steps] == [
        ("look", "finished", None)
    ]
    assert not holds(readable(space))
    assert not holds([*space.runs.replay("order-7")])
    assert space.erase(where=chosen).keys == ()


def test_a_dry_run_changes_nothing(space: Any) -> None:
    space.create("customer/1", SECRET)
    end = space.position()
    would = space.erase("customer/1", dry_run=True)
    assert (would.dry_run, would.name, would.keys) == (True, "", ("customer/1",))
    assert would.removed == {"log": 1, "heads": 1}
    assert (space.position(), space.read("customer/1").value) == (end, SECRET)


@pytest.mark.any_store
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"prefix": ""},
        {"key": "a", "prefix": "b"},
        {"key": ""},
        {"key": "$rules"},
        {"prefix": "a*"},
        {"key": "a", "where": "yes"},
        {"key": "a", "progress": 3},
    ],
)
def test_what_is_malformed_erases_nothing(space: Any, arguments: dict[str, Any]) -> None:
    space.create("a", SECRET)
    with pytest.raises(interlock.Invalid):
        space.erase(**arguments)
    assert space.read("a").value == SECRET


def test_an_erasure_says_how_far_it_is(space: Any) -> None:
    space.create_many({f"customer/{n}": SECRET for n in range(3)})
    space.create("other", 1)
    end, reports = space.position(), list[tuple[int, int]]()
    space.erase(prefix="customer/", progress=lambda *report: reports.append(report))
    assert reports == [(end, end), (end, end + 3), (end + 3, end + 3)]


def test_what_the_library_needs_is_not_erased(space: Any) -> None:
    before = [*space.log()]
    assert space.erase(prefix="$").keys == ()
    assert space.erase(where=lambda entry: True, dry_run=True).keys == ()
    assert [*space.log()] == before


def test_a_lease_holds_an_erasure_back(space: Any, facades: Facades) -> None:
    space.create("a", SECRET)
    with facades.peer("bob").lease("a"), pytest.raises(interlock.Held):
        space.erase("a")
    assert space.read("a").value == SECRET
    space.erase("a")


def test_rules_do_not_keep_a_value(space: Any, facades: Facades) -> None:
    facades.peer("bob").create("agent/bob/notes", SECRET)
    space.erase("agent/bob/notes")
    assert not holds(readable(space))


class _Killed:
    """Stands for a backend of a process that is killed before it sends its `at`-th request."""

    def __init__(self, backend: Any, at: int) -> None:
        self.uid, self.name = backend.uid, backend.name
        self.kinds: list[str] = []
        self._backend = backend
        self._at = at

    def _count(self, request: Any) -> None:
        self.kinds.append(type(request).__name__)
        if len(self.kinds) == self._at:
            raise interlock.Unavailable("killed")

    def perform(self, request: Any) -> Any:
        self._count(request)
        return self._backend.perform(request)

    async def perform_async(self, request: Any) -> Any:
        self._count(request)
        return await self._backend.perform_async(request)


@pytest.mark.parametrize("key", ["found/x", "c/1"], ids=["merged", "guarded"])
def test_what_is_added_before_everybody_notices_goes_too(
    space: Any, facades: Facades, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    other = facades.peer("bob")
    driver = space.session.driver
    if key == "c/1":
        space.create(key, SECRET)
    else:
        space.append(key, SECRET)

    class Between(_Killed):
        def _count(self, request: Any) -> None:
            if isinstance(request, Commit) and not self.kinds:
                self.kinds.append("Commit")
                if key == "c/1":
                    other.update(key, lambda value: f"{value} again")
                else:
                    other.append(key, f"{SECRET} again")

    with monkeypatch.context() as patched:
        patched.setattr(driver, "backend", Between(driver.backend, 0))
        space.erase(where=chosen)
    assert not holds(readable(space))
    assert space.read(key).value in (None, [])


def test_what_is_read_while_values_are_taken_away_is_not_committed(
    space: Any, facades: Facades, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the commit that everybody notices, the fold can still be read for a moment."""
    space.append("found/x", SECRET)
    stale = facades.peer("bob")
    read: list[interlock.Tx] = []
    driver = space.session.driver

    class Between(_Killed):
        def _count(self, request: Any) -> None:
            if isinstance(request, Redact) and not read:
                read.append(stale.transaction().__enter__())
                assert read[0].read("found/x").value == [SECRET]

    with monkeypatch.context() as patched:
        patched.setattr(driver, "backend", Between(driver.backend, 0))
        space.erase("found/x", where=chosen)
    read[0].create("summary", SECRET)
    with pytest.raises((interlock.Conflict, interlock.Fenced)):
        read[0].__exit__(None, None, None)


def test_an_erasure_that_was_interrupted_is_finished_by_the_next(
    space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = space.session.driver
    for at in range(1, 40):
        for text in ("ok", SECRET, SECRET):
            space.append("found/x", text)
        space.create(f"c/{at}", SECRET)
        killed = _Killed(driver.backend, at)
        with monkeypatch.context() as patched:
            patched.setattr(driver, "backend", killed)
            with suppress(interlock.Unavailable):
                space.erase(where=chosen)
        positions = [entry.position for entry in space.log()]
        assert positions == [*range(1, len(positions) + 1)]
        space.erase(where=chosen)
        assert not holds([*space.log()])
        assert space.read("found/x").value == ["ok"] * at
        assert not space.read(f"c/{at}").exists
        if len(killed.kinds) < at:  # it came to its end
            break
    assert {"Commit", "Redact", "Scrub"} <= {*killed.kinds}
    assert len(killed.kinds) < at


def test_erasing_among_writers_loses_nothing_else(space: Any, facades: Facades) -> None:
    over = threading.Event()
    counts = [0, 0]

    def append(which: int) -> None:
        mine = facades.peer(f"w{which}")
        while not over.is_set():
            mine.append("found/x", SECRET if counts[which] % 2 else f"{which}")
            mine.update("n1", lambda n: (n or 0) + 1)
            counts[which] += 1

    writers = [threading.Thread(target=append, args=(which,)) for which in (0, 1)]
    for each in writers:
        each.start()
    try:
        reader = facades.peer("reader")
        for _ in range(3):
            elsewhere(reader.erase, "found/x", where=chosen)
            reader.read("found/x")
    finally:
        over.set()
        for each in writers:
            each.join()
    space.erase("found/x", where=chosen)
    value = space.read("found/x").value
    assert [value.count(f"{which}") for which in (0, 1)] == [(n + 1) // 2 for n in counts]
    assert not holds(value)
    assert space.read("n1").value == sum(counts)
    assert [e.position for e in space.log()] == [*range(1, space.position() + 1)]


def test_a_value_is_taken_from_its_own_key_only(space: Any, facades: Facades) -> None:
    first, second = space.create("a", 1), space.create("b", 2)
    done = backend_of(facades).perform(Redact(("a",), (first.position, second.position)))
    assert done.entries == 1
    assert [entry.value for entry in space.log(first.position - 1)] == [None, 2]
    assert space.read("b").value == 2
    assert (space.read("a").exists, space.read("a").erased) == (False, True)
