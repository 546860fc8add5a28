"""Patterns: what they match, which is narrower, where two are ambiguous.  And drawings."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import interlock
from interlock.core.keys import fixed_prefix, matches, narrower, owner, shared_key
from interlock.core.rules import RuleSet, check

segments = st.sampled_from(["a", "b", "*", "{agent}"])
some_patterns = st.builds(
    lambda parts, rest: "/".join([*parts, "**"] if rest else parts),
    st.lists(segments, min_size=1, max_size=3),
    st.booleans(),
).filter(lambda pattern: pattern.count("{agent}") <= 1)
KEYS = [
    "/".join(parts)
    for size in range(1, 5)
    for parts in itertools.product(["a", "b", "x"], repeat=size)
]


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("plan.md", ["plan.md"], ["plan", "plan.md/x"]),
        ("booking/*", ["booking/1"], ["booking", "booking/1/2"]),
        ("booking/**", ["booking/1", "booking/1/2"], ["booking", "bookings/1"]),
        ("agent/{agent}/**", ["agent/ann/notes", "agent/ann/a/b"], ["agent/ann"]),
        ("**", ["a", "a/b/c"], []),
        ("*/x", ["a/x"], ["x", "a/b/x"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, inside: list[str], outside: list[str]) -> None:
    assert [key for key in [*inside, *outside] if matches(pattern, key)] == inside


@given(some_patterns, some_patterns)
def test_narrower_and_shared_are_about_the_keys(one: str, other: str) -> None:
    first = {key for key in KEYS if matches(one, key)}
    second = {key for key in KEYS if matches(other, key)}
    assert narrower(one, other) == (first <= second)
    example = shared_key(one, other)
    assert (example is not None) == bool(first & second)
    if example is not None:
        assert matches(one, example)
        assert matches(other, example)
    assert all(key.startswith(fixed_prefix(one)) for key in first)


@given(st.sets(some_patterns, min_size=1, max_size=4))
def test_a_set_that_is_not_ambiguous_has_one_narrowest_rule_for_each_key(found: set[str]) -> None:
    declared = {pattern: interlock.guarded() for pattern in found}
    if check(declared) is not None:
        return
    rules = RuleSet(1, declared)
    for key in KEYS:
        matching = [pattern for pattern in found if matches(pattern, key)]
        best, _ = rules.match(key)
        assert best in matching or (not matching and best == "")
        assert all(narrower(best, pattern) for pattern in matching)


def test_the_owner_stands_in_the_key() -> None:
    assert owner("agent/{agent}/**", "agent/ann/notes") == "ann"
    assert owner("agent/*", "agent/ann") is None


def test_a_machine_is_drawn_from_its_table() -> None:
    def enough(old: object, new: object, agent: str) -> bool:
        return True

    machine = interlock.Machine(
        "sale <1>", "state", "open", {"open": ["paid", "dropped"]}, guards={"paid": enough}
    )
    assert interlock.draw_machine(machine) == (
        "sale <1>: field 'state'\n"
        "* open    -> paid [enough], dropped\n"
        "  paid    -> (final)\n"
        "  dropped -> (final)\n"
        "* a new value begins here"
    )
    mermaid = interlock.draw_machine(machine, "mermaid").splitlines()
    assert mermaid[0] == "stateDiagram-v2"
    assert sorted(line.strip() for line in mermaid[1:]) == [
        "[*] --> open",
        "dropped --> [*]",
        "open --> dropped",
        "open --> paid : enough",
        "paid --> [*]",
    ]
    assert '"sale <1>"' in interlock.draw_machine(machine, "dot").splitlines()[0]
    with pytest.raises(ValueError, match="no diagram of kind 'svg': use text, mermaid, dot"):
        interlock.draw_machine(machine, "svg")
