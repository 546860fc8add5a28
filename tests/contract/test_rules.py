"""Rules: stored in the space, checked for every writer, changed by a guarded commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import interlock
from tests import newer
from tests.facades import Facades, elsewhere
from tests.newer import store_rules

PRIVATE = {"agent/{agent}/**": interlock.private()}


def test_only_its_owner_writes_a_private_key_and_everybody_reads_it(facades: Facades) -> None:
    ours, theirs = facades.open("ann", rules=PRIVATE), facades.open("ben")
    record = ours.create("agent/ann/notes", "mine")
    assert theirs.read("agent/ann/notes").value == "mine"
    calls: list[Callable[[], Any]] = [
        lambda: theirs.write(record, "theirs"),
        lambda: theirs.delete(record),
        lambda: theirs.create("agent/ann/plan", "theirs"),
        lambda: theirs.update("agent/ann/notes", lambda _: "theirs"),
        lambda: theirs.transact(lambda tx: tx.create("agent/ann/plan", "theirs")),
        lambda: theirs.lease("agent/ann/notes").acquire(),
        lambda: theirs.leases(["agent/ben/notes", "agent/ann/notes"]).acquire(),
    ]
    for call in calls:
        with pytest.raises(interlock.Forbidden, match="Only 'ann' may write") as refused:
            call()
        assert refused.value.pattern == "agent/{agent}/**"
        assert not refused.value.retryable
    assert ours.position() == 2  # the rules, and the note


def test_only_the_named_agent_writes_an_owned_key_and_everybody_reads_it(facades: Facades) -> None:
    rules = {"team/**": interlock.owned(by="curator")}
    theirs, ours = facades.open("ben", rules=rules), facades.open("curator")
    record = ours.create("team/goals", "ours")
    assert theirs.read("team/goals").value == "ours"
    calls: list[Callable[[], Any]] = [
        lambda: theirs.write(record, "theirs"),
        lambda: theirs.delete(record),
        lambda: theirs.create("team/plan", "theirs"),
        lambda: theirs.update("team/goals", lambda _: "theirs"),
        lambda: theirs.transact(lambda tx: tx.write(tx.read("team/goals"), "theirs")),
        lambda: theirs.lease("team/goals").acquire(),
    ]
    at = ours.position()
    for call in calls:
        with pytest.raises(interlock.Forbidden, match="Only 'curator' may write") as refused:
            call()
        assert (refused.value.rule, refused.value.pattern) == ("owned", "team/**")
        assert not refused.value.retryable
    assert ours.position() == at
    assert ours.update("team/goals", lambda _: "new").version == 2


def test_rules_hold_for_whoever_did_not_declare_them(facades: Facades) -> None:
    """A process that came before the rules decides again as soon as it writes."""
    early = facades.open("ben")
    record = early.create("agent/ann/notes", "before there were rules")
    facades.open("ann", rules=PRIVATE)
    with pytest.raises(interlock.Forbidden):
        early.write(record, "after")
    assert early.create("agent/ben/notes", "his own").version == 1
    assert list(early.rules) == ["agent/{agent}/**"]


def test_a_lease_is_of_those_who_may_write(facades: Facades) -> None:
    """Who does not know the rule yet has a lease that it can't use, and then none."""
    early = facades.open("ben")
    ours = facades.open("ann", rules={**PRIVATE, "team/**": interlock.owned(by="ann")})
    with pytest.raises(interlock.Forbidden), early.lease("team/goals") as lease:
        lease.write("theirs")
    for theirs in (early, facades.open("cleo")):
        for key in ("agent/ann/notes", "team/goals"):
            with pytest.raises(interlock.Forbidden, match="Only 'ann' may write"):
                theirs.lease(key, ttl=60).acquire()
            with ours.lease(key, ttl=60, wait=0) as lease:
                lease.write("ours")
    with early.lease("agent/ben/notes") as lease:
        lease.write("his own")


def test_a_writer_with_rules_that_were_relaxed_decides_again(facades: Facades) -> None:
    late = facades.open("ben", rules=PRIVATE)
    facades.open("ann").apply_rules({})
    assert late.create("agent/ann/notes", "allowed now").version == 1


def test_the_most_specific_rule_wins(facades: Facades) -> None:
    space = facades.open(
        "ann",
        rules={
            "**": interlock.guarded(),
            "team/**": interlock.merged("append"),
            "team/plan": interlock.guarded(),
            "team/{agent}/log": interlock.private(),
        },
    )
    assert space.create("team/plan", 1).version == 1
    assert space.append("team/findings", 1).version == 1
    assert space.create("team/ann/log", 1).version == 1
    with pytest.raises(interlock.Forbidden, match="append"):
        space.create("team/x", 1)


@pytest.mark.any_store
@pytest.mark.parametrize(
    "rules",
    [
        {"a/*": interlock.guarded(), "*/b": interlock.merged("append")},
        {"a/*": interlock.guarded(), "a/{agent}": interlock.private()},
        {"a/**/b": interlock.guarded()},
        {"a//b": interlock.guarded()},
        {"a/x*": interlock.guarded()},
        {"notes": interlock.private()},
        {"a": interlock.merged("no such reducer")},
        {"a": interlock.guarded(on_conflict="maybe")},
        {"a": interlock.guarded(keep=0)},
        {"a": interlock.owned(by="")},
        {"a": interlock.owned(by=None)},  # type: ignore[arg-type]  # on purpose
        {"a": interlock.owned(by=("x", "y"))},  # type: ignore[arg-type]  # on purpose
        {"a": "guarded"},
        {7: interlock.guarded()},
        "guarded",
    ],
)
def test_rules_that_cannot_be(facades: Facades, rules: Any) -> None:
    space = facades.open()
    with pytest.raises(interlock.Invalid):
        facades.open("other", rules=rules)
    with pytest.raises(interlock.Invalid):
        space.apply_rules(rules)
    assert (space.position(), space.rules) == (0, {})


def test_an_ambiguous_pair_is_named_with_a_key_that_both_match(facades: Facades) -> None:
    with pytest.raises(interlock.Invalid, match=r"'\*/b' and 'a/\*' both match 'a/b'"):
        facades.open(rules={"a/*": interlock.guarded(), "*/b": interlock.leased()})


def test_declaring_adds_and_contradicting_is_refused(facades: Facades) -> None:
    facades.open("one", rules={"a": interlock.merged("append")})
    two = facades.open("two", rules={"b": interlock.merged("counter")})
    assert sorted(two.rules) == ["a", "b"]
    facades.open("three", rules={"a": interlock.merged("append")})
    assert two.position() == 2, "declaring what is stored writes nothing"
    with pytest.raises(interlock.Invalid, match=r"has merged.'append'.*not merged"):
        facades.open("four", rules={"a": interlock.merged("counter")})
    with pytest.raises(interlock.Invalid, match="both match"):
        facades.open("five", rules={"*": interlock.guarded(), "{agent}": interlock.private()})
    assert [entry.key for entry in two.log()] == ["$rules", "$rules"]


def test_rules_that_existing_values_break_are_refused_with_a_report(facades: Facades) -> None:
    space = facades.open(rules={"findings": interlock.merged("append")})
    space.create("booking/1", {"status": "PENDING"})
    space.create("booking/2", {"status": "LOST"})
    space.create("booking/3", "no object")
    space.append("findings", 1)
    before = space.rules
    with pytest.raises(interlock.Invalid) as refused:
        space.apply_rules({"booking/*": interlock.guarded(machine=interlock.BOOKING)})
    text = str(refused.value)
    assert "3 values break them" in text
    assert "'booking/2'" in text
    assert "'LOST'" in text
    assert "'findings' has contributions" in text
    assert "'booking/1'" not in text
    with pytest.raises(interlock.Invalid, match="plain value"):
        space.apply_rules({**before, "booking/*": interlock.merged("append")})
    with pytest.raises(interlock.Invalid, match="contributions for 'append', not for 'counter'"):
        space.apply_rules({"findings": interlock.merged("counter")})
    assert space.rules == before
    space.delete(space.read("booking/2"))
    space.delete(space.read("booking/3"))
    changed = {**before, "booking/*": interlock.guarded(machine=interlock.BOOKING)}
    assert space.apply_rules(changed) == changed


def test_the_librarys_own_keys_cannot_be_written_or_seen(facades: Facades) -> None:
    space = facades.open(rules=PRIVATE)
    space.create("k", 1)
    assert list(space.scan()) == ["k"]
    with pytest.raises(interlock.Invalid, match="reserved"):
        space.read("$rules")
    with pytest.raises(interlock.Invalid, match="reserved"):
        space.create("$rules", {})


def test_a_transaction_decides_again_under_new_rules(facades: Facades) -> None:
    space = facades.open("ben")
    doomed = space.transaction()
    with pytest.raises(interlock.Forbidden), doomed as tx:
        tx.create("agent/ann/notes", facades.open("ann", rules=PRIVATE).position())
    with space.transaction() as tx:
        facades.open("ann").apply_rules({})
        tx.create("agent/ann/notes", 1)
    assert space.read("agent/ann/notes").value == 1


def test_update_of_a_key_that_raises_on_conflict_thinks_once(facades: Facades) -> None:
    space = facades.open(rules={"k": interlock.guarded(on_conflict="raise")})
    space.create("k", 0)
    thoughts = []
    other = facades.peer("other")

    def think(value: int) -> int:
        thoughts.append(value)
        elsewhere(lambda: other.write(other.read("k"), value + 10))
        return value + 1

    with pytest.raises(interlock.Conflict):
        space.update("k", think)
    other.close()
    assert (thoughts, space.read("k").value) == ([0], 10)


def test_keys_under_a_rule_of_a_newer_version_can_only_be_read(facades: Facades) -> None:
    peer = facades.peer("newer")
    peer.apply_rules({"sum/*": interlock.merged("counter")})
    peer.append("sum/a", 3)
    values = {
        "account/a": {"sum": 1},
        "booking/a": {"status": "PENDING"},
        "plan/a": 1,
    }
    records = {key: peer.create(key, value) for key, value in values.items()}
    old = facades.open("old")
    store_rules(peer, newer.RULES)
    writes: list[Callable[[str], Any]] = [
        lambda key: old.create(key + "b", 1),
        lambda key: old.update(key, lambda value: value),
        lambda key: old.append(key, 1),
        lambda key: old.transition(key, "CANCELLED"),
        lambda key: old.delete(old.read(key)),
        lambda key: old.transact(lambda tx: tx.write(tx.read(key), 1)),
        lambda key: old.write(records[key] if key in records else old.read(key), 1),
    ]
    at = old.position()
    for pattern, rule in newer.RULES.items():
        key = pattern.replace("*", "a")
        for write in writes:
            with pytest.raises(interlock.Forbidden, match="Upgrade Interlock") as refused:
                write(key)
            assert (refused.value.rule, refused.value.pattern) == (rule["rule"], pattern)
            assert repr(rule["rule"]) in str(refused.value)
            assert repr(pattern) in str(refused.value)
    assert old.position() == at
    assert {key: old.read(key).value for key in values} == values
    assert old.read("sum/a").value == 3
    assert old.create("other", 1).version == 1


def test_a_rule_of_a_newer_version_is_never_dropped_or_changed(facades: Facades) -> None:
    store_rules(facades.peer("newer"), newer.RULES)
    old = facades.open("old")
    added = {**old.rules, "x": interlock.merged("append")}
    assert old.apply_rules(added) == added
    facades.open("adds", rules={"account/*/x": interlock.guarded(), "**": interlock.guarded()})
    stored = {pattern: rule.to_json() for pattern, rule in old.rules.items()}
    assert {pattern: stored[pattern] for pattern in newer.RULES} == newer.RULES
    for rules in (
        {},
        {**old.rules, "account/*": interlock.guarded()},
        {**old.rules, "account/special": interlock.guarded()},
    ):
        with pytest.raises(interlock.Forbidden, match="Upgrade Interlock") as refused:
            old.apply_rules(rules)
        assert refused.value.pattern in newer.RULES
    with pytest.raises(interlock.Forbidden, match="Upgrade Interlock"):
        facades.open("contradicts", rules={"account/*": interlock.guarded()})
    with pytest.raises(interlock.Invalid, match="does not know rule 'escrow'"):
        old.apply_rules({**old.rules, "new/*": old.rules["account/*"]})
    assert {p: facades.open("reader").rules[p].to_json() for p in stored} == stored


def test_contributions_under_an_unknown_kind_of_rule_are_not_folded(facades: Facades) -> None:
    peer = facades.peer("newer")
    peer.apply_rules({"sum/*": interlock.merged("counter")})
    peer.append("sum/a", 1)
    store_rules(peer, {"sum/*": {"rule": "stream"}})
    old = facades.open("old")
    with pytest.raises(interlock.Invalid, match=r"does not know rule 'stream'.*Upgrade Interlock"):
        old.read("sum/a")
    assert old.apply_rules({**old.rules, "**": interlock.guarded()}), "it breaks nothing there"
