"""Transactions without a store: what they see, what they name in their plan, how they run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.core import refusals, transact
from interlock.core.plan import Expect, Plan, Scanned, Write
from interlock.core.records import Record, Snapshot, absent
from interlock.core.refusals import Conflict, Contended, Forbidden, Invalid, Refusal
from interlock.core.requests import LeaveTurn, Load, TakeTurn
from interlock.core.rules import leased, merged
from interlock.core.transact import Stopped, Transaction, commit_transaction
from interlock.core.turn import TICKET_TTL
from interlock.core.update import Limits
from interlock.core.writer import Writer
from tests.core.test_update import (
    ABSENT,
    AUTO,
    HELD,
    HELD_LEASE,
    NEVER,
    OP,
    SPACE,
    TICKET,
    Script,
    conflict,
    done,
    place,
    rec,
    run_fn,
    snap,
    writer,
)


class World(NamedTuple):
    """What a store would answer: these records, at this position."""

    position: int
    records: tuple[Record, ...] = ()

    def answer(self, load: Load) -> Snapshot:
        known = {record.key: record for record in self.records}
        live = [known[key] for key in sorted(known) if known[key].exists]
        return Snapshot(
            self.position,
            0,
            {key: known.get(key, absent(key, SPACE)) for key in load.keys},
            {p: tuple(r for r in live if r.key.startswith(p)) for p in load.prefixes},
            {},
        )


def load(tx: Transaction, *worlds: World, keys: str = "", scan: str | None = None) -> Any:
    """Read keys (parted by white space) and a prefix, each request answered by the next world."""
    script = Script(*(world.answer for world in worlds))
    outcome = script.play(tx.load(tuple(keys.split()), () if scan is None else (scan,)))
    return outcome, script.requests


def begun(*records: Record, keys: str = "", scan: str | None = None) -> Transaction:
    tx = Transaction(writer())
    if keys or scan is not None:
        assert load(tx, World(5, records), keys=keys, scan=scan)[0] is None
    return tx


def values(tx: Transaction, prefix: str = "") -> dict[str, Any]:
    return {key: record.value for key, record in tx.view_scan(prefix).items()}


def tombstone(key: str, version: int) -> Record:
    return rec(None, version, key)._replace(exists=False, body=None)


ONE, TWO = rec(1, 3, "a/1"), rec(2, 4, "a/2", epoch=6)


def test_a_transaction_reads_its_own_writes_at_the_version_that_it_read() -> None:
    tx = begun(ONE, keys="a/1")
    assert tx.view("a/1") == ONE
    assert tx.write(ONE, [1]) is None
    seen = tx.view("a/1")
    assert (seen.value, seen.exists, seen.version, seen.epoch) == ([1], True, 3, 0)
    assert tx.write(seen, [2]) is None
    assert tx.view("a/1").value == [2]
    assert tx.plan(OP).expects == (Expect("a/1", 3, 0),)
    assert tx.plan(OP).writes == (Write("put", "a/1", "[2]"),)


def test_a_value_changed_after_the_write_is_not_written() -> None:
    tx, value = begun(ONE, keys="a/1"), [1]
    tx.write(ONE, value)
    value.append(2)
    tx.view("a/1").value.append(3)
    assert tx.view("a/1").value == [1]
    assert tx.plan(OP).writes[0].body == "[1]"


def test_a_scan_shows_own_writes_in_the_order_of_keys_and_no_others() -> None:
    tx = begun(ONE, TWO, keys="b/1", scan="a/")
    tx.write(TWO, "two")
    tx.create("a/0", "zero")
    tx.create("b/1", "elsewhere")
    assert list(values(tx, "a/").items()) == [("a/0", "zero"), ("a/1", 1), ("a/2", "two")]
    tx.delete(ONE)
    assert values(tx, "a/") == {"a/0": "zero", "a/2": "two"}


def test_a_write_after_a_create_is_still_a_create() -> None:
    tx = begun()
    assert tx.create("k", 1) is None
    assert load(tx, World(5, (tombstone("k", 2),)), keys="k")[0] is None
    assert tx.view("k").value == 1
    assert tx.write(tx.view("k"), 2) is None
    assert tx.plan(OP).expects == (Expect("k", None, None),)
    assert tx.plan(OP).writes == (Write("put", "k", "2"),)


def test_a_create_after_a_delete_is_one_write_over_the_record_that_was_deleted() -> None:
    for tx in (begun(ONE, keys="a/1"), begun()):
        assert tx.delete(ONE) is None
        if "a/1" in tx.read_records:
            assert (tx.view("a/1").exists, tx.view("a/1").value) == (False, None)
        assert tx.create("a/1", "new") is None
        assert tx.plan(OP).expects == (Expect("a/1", 3, 0),)
        assert tx.plan(OP).writes == (Write("put", "a/1", '"new"'),)


def test_a_delete_after_a_delete_and_of_what_is_not_there_is_invalid() -> None:
    tx = begun(ONE, keys="a/1 b")
    assert isinstance(tx.delete(tx.view("b")), Invalid)
    assert tx.delete(ONE) is None
    assert isinstance(tx.delete(tx.view("a/1")), Invalid)
    assert [write.kind for write in tx.plan(OP).writes] == ["delete"]


def test_a_create_of_what_was_read_dooms_even_where_it_is_ones_own() -> None:
    for tx in (begun(ONE, keys="a/1"), begun(keys="a/1")):
        tx.write(tx.view("a/1"), "mine")
        refusal = tx.create("a/1", 2)
        assert isinstance(refusal, Conflict)
        assert (tx.doomed, refusal.expected) == (refusal, None)
        assert Script().play(commit_transaction(tx, OP)) == refusal


@pytest.mark.parametrize("value", [{1}, "x" * 1000, float("nan")])
def test_a_refused_write_leaves_no_trace(value: Any) -> None:
    tx = begun(ONE, keys="a/1 k")
    foreign: Any = ONE._replace(space="another")
    for refusal in (
        *(tx.write(ONE, value), tx.create("k", value), tx.create("a//b", 1)),
        *(tx.write(foreign, 1), tx.delete(foreign), tx.append("k", value)),
    ):
        assert isinstance(refusal, Invalid | Forbidden)
    assert (tx.changes, tx.doomed) == (False, None)
    assert tx.plan(OP).expects == (Expect("a/1", 3, 0), Expect("k", 0, 0))


def test_a_rule_that_forbids_a_write_is_found_before_the_plan() -> None:
    tx = Transaction(writer({"k": leased(), "log": merged("append")}))
    assert tx.append("log", 1) is None
    assert isinstance(tx.decision(OP), Plan)
    assert tx.append("k", 1) is None, "decided at the commit, under the rules of then"
    assert isinstance(tx.decision(OP), Forbidden)
    tx.write(ABSENT, 1)
    assert isinstance(tx.decision(OP), Forbidden)


def test_contributions_show_in_views_and_scans_and_are_written_one_by_one() -> None:
    tx = Transaction(writer({"log/*": merged("append")}))
    load(tx, World(5, (rec(["old"], 2, "log/1"),)), keys="log/1", scan="log/")
    for item in ("a", "b"):
        assert tx.append("log/1", item) is None
        assert tx.append("log/2", item) is None
    assert tx.view("log/1").value == ["old", "a", "b"]
    assert values(tx, "log/") == {"log/1": ["old", "a", "b"], "log/2": ["a", "b"]}
    assert [(w.kind, w.key, w.body) for w in tx.plan(OP).writes] == [
        ("append", f"log/{n}", f'"{item}"') for item in "ab" for n in (1, 2)
    ]


def test_what_was_read_is_not_asked_for_again() -> None:
    tx = begun(ONE, keys="a/1", scan="a/")
    assert load(tx, keys="a/1", scan="a/") == (None, [])
    assert load(tx, World(5, (ONE, TWO)), keys="a/1 a/2")[1] == [Load(("a/2",), ())]
    for keys, scan in (("a//b", None), ("", "a*")):
        refusal, requests = load(tx, keys=keys, scan=scan)
        assert isinstance(refusal, Invalid)
        assert requests == []


def test_a_moment_moves_on_while_nothing_that_was_read_has_changed() -> None:
    tx = begun(ONE, keys="a/1", scan="a/")
    other = rec("other", 1, "b")
    later, latest = World(6, (ONE, other)), World(7, (ONE, other._replace(version=2)))
    refusal, requests = load(tx, later, latest, keys="b")
    assert refusal is None
    assert requests == [Load(("b",), ()), Load(("a/1", "b"), ("a/",))]
    assert (tx.position, tx.view("b").version) == (7, 2)


MOVES: list[tuple[str, str | None, World, str, str | None]] = [
    ("a/1", None, World(6, (rec(9, 4, "a/1"), TWO)), "a/1", None),
    ("a/1", None, World(6, (ONE._replace(epoch=1), TWO)), "a/1", None),
    ("a/1", None, World(6, (tombstone("a/1", 4), TWO)), "a/1", None),
    ("k", None, World(6, (ONE, rec(1, 1))), "k", None),
    ("", "a/", World(6, (ONE, TWO, rec(0, 1, "a/3"))), "a/3", "a/"),
    ("", "a/", World(6, (ONE,)), "a/2", "a/"),
    ("", "a/", World(6, (ONE, TWO._replace(version=5))), "a/2", "a/"),
    ("", "a/", World(6, (ONE, TWO._replace(epoch=7))), "a/2", "a/"),
]


@pytest.mark.parametrize(("keys", "scan", "moved", "key", "prefix"), MOVES)
def test_a_read_that_finds_an_earlier_one_moved_dooms_the_transaction(
    keys: str, scan: str | None, moved: World, key: str, prefix: str | None
) -> None:
    tx = begun(ONE, TWO, keys=keys, scan=scan)
    refusal, _ = load(tx, moved, moved, keys="fresh")
    assert isinstance(refusal, Conflict)
    assert (refusal.key, refusal.prefix) == (key, prefix)
    assert tx.doomed == refusal
    assert "fresh" not in tx.read_records
    tx.create("mine", 1)
    assert Script().play(commit_transaction(tx, OP)) == refusal


def test_the_plan_names_everything_that_was_read() -> None:
    me = Writer(SPACE, "me", 1000, incarnation=4)
    me.book.load(7, {})
    tx = Transaction(me)
    load(tx, World(5, (ONE, TWO, rec(1, 8, "read", epoch=2))), keys="read gone a/1", scan="a/")
    tx.write(TWO, 0)
    tx.write(rec("outside", 6, "outside", epoch=1), 1)
    tx.create("new", 1)
    plan = tx.plan(OP)
    assert set(plan.expects) == {
        *(Expect("read", 8, 2), Expect("gone", 0, 0), Expect("a/2", 4, 6)),
        *(Expect("outside", 6, 1), Expect("new", None, None)),
    }  # a/1 stands in the scan
    assert plan.scans == (Scanned("a/", (("a/1", 3, 0), ("a/2", 4, 6))),)
    assert [write.key for write in plan.writes] == ["a/2", "new", "outside"]
    assert (plan.op_id, plan.agent, plan.rules, plan.incarnation) == (OP, "me", 7, 4)


KEYS = ["a/1", "a/2", "a/3", "b/1", "b"]
actions = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 9), st.booleans()), max_size=9)


@given(st.sets(st.sampled_from(KEYS)), actions, st.sets(st.sampled_from(["", "a/", "b"])))
def test_views_are_those_of_a_dictionary_and_the_plan_makes_it(
    there: set[str], actions: list[tuple[str, int, bool]], prefixes: set[str]
) -> None:
    model: dict[str, Any] = {key: key for key in there}
    world = World(5, tuple(rec(key, version + 1, key) for version, key in enumerate(sorted(there))))
    tx = Transaction(writer())
    for prefix in prefixes:
        load(tx, world, scan=prefix)
    for key, number, deletes in actions:
        scan = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
        if scan is None and key not in tx.read_records:
            load(tx, world, keys=key)
        record = tx.view(key) if scan is None else tx.view_scan(scan).get(key)
        if key not in model or record is None:
            refusal: Refusal | None = tx.create(key, number)
        elif deletes:
            refusal = tx.delete(record)
        else:
            refusal = tx.write(record, number)
        assert refusal is None
        model.pop(key, None) if deletes and key in model else model.update({key: number})
        assert {k: tx.view(k).value for k in tx.read_records if tx.view(k).exists} == {
            k: model[k] for k in tx.read_records if k in model
        }
    for prefix in prefixes:
        assert values(tx, prefix) == {k: model[k] for k in sorted(model) if k.startswith(prefix)}
    plan, after = tx.plan(OP), {key: f'"{key}"' for key in there}
    for write in plan.writes:
        after.pop(write.key, None)
        if write.body is not None:
            after[write.key] = write.body
    assert after == {k: f'"{v}"' if isinstance(v, str) else str(v) for k, v in model.items()}
    named = {e.key for e in plan.expects} | {k for scan in plan.scans for k, _, _ in scan.members}
    assert tx.read_records.keys() <= named
    assert {scan.prefix for scan in plan.scans} == prefixes


def transacted(limits: Limits, fn: Callable[[Transaction], Any]) -> Any:
    return transact.transact(writer(), lambda state: state, fn, limits, OP, False)


def think(tx: Transaction) -> str:
    tx.write(rec(0, 1, "j"), 1)
    tx.write(rec(0, 1, "k"), 1)
    return "answer"


EMPTY, MOVED = snap(), conflict(rec(0, 2), 1)
QUEUED = [run_fn, MOVED, place(rec(0, 2))]  # what is answered until the turn has come


def test_transact_thinks_and_commits_without_a_turn() -> None:
    script = Script(run_fn, done("1"))
    assert script.play(transacted(AUTO, think)) == "answer"
    assert (script.kinds, script.requests[0].renew) == (["Think", "Commit"], None)
    plan = script.requests[1].plan
    assert (plan.ticket, plan.gives_way, [w.key for w in plan.writes]) == (0, True, ["j", "k"])
    script = Script(run_fn, MOVED, run_fn, done("1"))
    assert script.play(transacted(NEVER, think)) == "answer"
    assert script.plans == [(0, 1, False)] * 2


def test_after_a_conflict_transact_thinks_in_the_turn_of_that_key() -> None:
    script = Script(*QUEUED, run_fn, MOVED, place(rec(0, 3)), run_fn, done("1"))
    assert script.play(transacted(AUTO, think)) == "answer"
    renew = TakeTurn(("k",), name="op/1", agent="me", ttl=TICKET_TTL, ticket=TICKET)
    assert script.requests[2] == TakeTurn(("k",), name="op/1", agent="me", ttl=TICKET_TTL, ticket=0)
    assert (script.requests[3].renew, script.requests[5]) == (renew, renew.replace(firm=True))
    assert [ticket for ticket, _, _ in script.plans] == [0, TICKET, TICKET]


@pytest.mark.parametrize(
    ("refusal", "between", "keys"),
    [
        (conflict(rec(0, 2, "j"), 1), [None], ("j", "k")),  # leaves, then queues for both
        (HELD, [None], ("k",)),
        (MOVED, [place(ticket=0)], ("k",)),  # the renewal finds the turn lost
    ],
)
def test_transact_that_lost_its_turn_joins_again(
    refusal: Refusal, between: list[Any], keys: tuple[str, ...]
) -> None:
    script = Script(*QUEUED, run_fn, refusal, *between, place(ticket=8), run_fn, done("1"))
    assert script.play(transacted(AUTO, think)) == "answer"
    left = [request for request in script.requests if isinstance(request, LeaveTurn)]
    assert left == [LeaveTurn(TICKET)] * (between == [None])
    assert script.requests[-3] == TakeTurn(keys, name="op/2", agent="me", ttl=TICKET_TTL, ticket=0)
    assert script.plans[-1][0] == 8


CREATED = refusals.conflict(Expect("k", None, None), rec(0, 2))


@pytest.mark.parametrize("refusal", [MOVED, HELD, HELD_LEASE, CREATED])
def test_transact_that_ends_in_a_refusal_leaves_the_queue(refusal: Refusal) -> None:
    for attempts, before in ((1, []), (2, QUEUED)):
        leaving = [None] if attempts == 2 else []
        script = Script(*before, run_fn, refusal, *leaving)
        stopped = script.play(transacted(Limits(attempts, None, "auto"), think))
        assert isinstance(stopped, Stopped)
        if refusal in (MOVED, HELD):
            assert isinstance(stopped.refusal, Contended)
            assert (stopped.refusal.attempts, stopped.refusal.last) == (attempts, refusal)
        else:
            assert stopped.refusal == refusal
        assert script.requests[len(before) + 2 :] == [LeaveTurn(TICKET)] * len(leaving)


def test_what_fn_raises_ends_transact_after_leaving_the_queue_but_not_where_it_is_dropped() -> None:
    raised, dropped = KeyboardInterrupt(), GeneratorExit()
    for before, end, left in (([], raised, 0), (QUEUED, raised, 1), (QUEUED, dropped, 0)):
        script = Script(*before, end, *[None] * left)
        with pytest.raises(type(end)):
            script.play(transacted(AUTO, think))
        assert script.requests[len(before) + 1 :] == [LeaveTurn(TICKET)] * left


@pytest.mark.parametrize("end", ["answer", ValueError()])
def test_a_doomed_thought_is_thought_again_whatever_it_returns_or_raises(end: Any) -> None:
    def doom(tx: Transaction) -> Any:
        tx.write(ABSENT, 1)
        load(tx, World(5), keys="k")
        load(tx, *[World(6, (rec(0, 2),))] * 2, keys="j")
        return end  # run_fn has it thrown where it is an exception

    thoughts = iter([doom, think])
    script = Script(run_fn, place(), run_fn, done("1"))
    assert script.play(transacted(AUTO, lambda tx: next(thoughts)(tx))) == "answer"
    assert script.kinds == ["Think", "TakeTurn", "Think", "Commit"]


def test_a_thought_that_writes_nothing_leaves_the_queue_without_a_commit() -> None:
    assert Script("seen").play(transacted(AUTO, think)) == "seen"
    script = Script(*QUEUED, "seen", None)
    assert script.play(transacted(AUTO, think)) == "seen"
    assert script.requests[-1] == LeaveTurn(TICKET)


def test_transact_whose_patience_is_over_leaves_the_queue() -> None:
    began, late = EMPTY._replace(time_us=1_000_000), EMPTY._replace(time_us=2_500_000)
    script = Script(began, run_fn, MOVED, late, place(ahead=1, time_us=3_000_000), None)
    stopped = script.play(transacted(Limits(9, 2.0, "auto"), think))
    assert script.requests[4].most == 0.5, "as long as it may wait without a ticket"
    assert isinstance(stopped.refusal, Contended)
    assert stopped.refusal.attempts == 1
    assert script.requests[-1] == LeaveTurn(TICKET)
