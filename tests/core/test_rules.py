"""Rules as values: every kind has its words and its check."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.core import rules
from interlock.core.fold import SAVE_AFTER, fold_record
from interlock.core.lease import take_lease
from interlock.core.records import Record, Tail
from interlock.core.refusals import Forbidden, Invalid
from interlock.core.requests import SaveFold
from interlock.core.rules import KINDS, Rule, UnknownRule
from interlock.core.writer import Writer
from tests import newer

MAKERS = {
    "guarded": rules.guarded(),
    "merged": rules.merged("union"),
    "private": rules.private(),
    "owned": rules.owned(by="curator"),
    "leased": rules.leased(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_rule_has_its_words(kind: str) -> None:
    about = MAKERS[kind].about
    assert all(about), about
    assert "{reducer}" not in about.how
    assert "{by}" not in about.who + about.tools


def test_only_kinds_with_words_can_be_declared() -> None:
    assert set(MAKERS) == set(KINDS)
    for kind, rule in MAKERS.items():
        assert rules.check({"agent/{agent}/x": rule}) is None, kind
    assert rules.check({"x": Rule("shared")}) is not None


def test_an_owned_rule_names_its_owner() -> None:
    rule = rules.owned(by="curator", keep=3)
    assert (rule.about.who, "agent curator" in rule.about.tools) == ("curator", True)
    assert rules.describe_rule(rule) == "owned(keep=3, by='curator')"
    assert rules.rule_from_json(rule.to_json(), {}) == rule


def test_a_merged_rule_names_its_reducer() -> None:
    assert rules.merged("union").about.how == "space.append(); the value is their union"


@pytest.mark.parametrize("pattern", newer.RULES)
def test_what_a_newer_version_stored_is_unknown_and_stays_as_it_is(pattern: str) -> None:
    stored = newer.RULES[pattern]
    rule = rules.rule_from_json(stored, {})
    assert isinstance(rule, UnknownRule)
    assert rule.to_json() == stored
    assert rules.plain(rule) == rule
    assert rule.about.kind == "unknown"
    assert "upgrade Interlock" in rules.describe_rule(rule)


@pytest.mark.parametrize(
    ("stored", "unknown"),
    [
        ({"rule": "escrow"}, "rule 'escrow'"),
        ({"rule": "guarded", "quorum": 2}, "field 'quorum' of rule 'guarded'"),
        ({"rule": "guarded", "on_conflict": "vote"}, "on_conflict='vote' of rule 'guarded'"),
        ({"rule": "guarded", "keep": {"versions": 3}}, "keep={'versions': 3} of rule 'guarded'"),
        ({"rule": "guarded", "machine": newer.BOOKING}, "unknown field 'timeouts'"),
        ({"rule": "leased", "machine": []}, "the machine of rule 'leased'"),
        ({"rule": "merged", "reducer": {"window": 3}}, "reducer={'window': 3} of rule 'merged'"),
        ({"rule": "owned", "by": ["a", "b"]}, "by=['a', 'b'] of rule 'owned'"),
        ({"rule": "private", "by": "a"}, "by='a' of rule 'private'"),
        ({"rule": ["merged"]}, "rule"),
        ({}, "rule 'None'"),
        ("guarded", "rule 'None'"),
    ],
)
def test_an_unknown_rule_names_what_is_not_known(stored: Any, unknown: str) -> None:
    rule = rules.rule_from_json(stored, {})
    assert isinstance(rule, UnknownRule)
    assert unknown in rule.unknown


def test_a_fold_under_a_rule_with_an_unknown_field_is_not_saved() -> None:
    """A newer version may fold it in another way."""
    writer = Writer("space", "old", 1000)
    for stored in (newer.RULES["sum/*"], {"rule": "merged", "reducer": "counter"}):
        writer.book.load(1, {"sum/*": stored})
        tail = Tail(None, str([1] * SAVE_AFTER), SAVE_AFTER, rules=1, erasures=0)
        steps = fold_record(writer, Record("sum/a", tail, 1, 0, "new", 0, 1, True, "space", None))
        saved = [type(request) for request in steps]
        assert saved == ([] if "last" in stored else [SaveFold])


def test_a_rule_owned_by_the_agent_of_the_key_is_private() -> None:
    wrong = rules.check({"notes/{agent}/*": rules.owned(by="{agent}")})
    assert isinstance(wrong, Invalid)
    assert "Use private()" in wrong.message


def test_a_lease_of_another_agents_key_is_not_even_asked_for() -> None:
    """Asking would raise its epoch, and so fence what its writer has read."""
    writer = Writer("space", "ben", 1000)
    writer.book.load(1, {"team/*": {"rule": "owned", "by": "ann"}})
    with pytest.raises(StopIteration) as end:
        next(take_lease(writer, ("team/goals",), 30.0, 0.0, "op"))
    assert isinstance(end.value.value, Forbidden)
