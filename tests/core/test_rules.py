"""Rules as values: every kind has its words and its check."""

from __future__ import annotations

import pytest

from interlock.core import rules
from interlock.core.rules import KINDS, Rule

MAKERS = {
    "guarded": rules.guarded(),
    "merged": rules.merged("union"),
    "private": rules.private(),
    "leased": rules.leased(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_rule_has_its_words(kind: str) -> None:
    about = MAKERS[kind].about
    assert all(about), about
    assert "{reducer}" not in about.how


def test_only_kinds_with_words_can_be_declared() -> None:
    assert set(MAKERS) == set(KINDS)
    for kind, rule in MAKERS.items():
        assert rules.check({"agent/{agent}/x": rule}) is None, kind
    assert rules.check({"x": Rule("shared")}) is not None


def test_a_merged_rule_names_its_reducer() -> None:
    assert rules.merged("union").about.how == "space.append(); the value is their union"
