"""Reducers keep the laws that they claim; the three-way merge keeps its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interlock
from interlock.core.merge import REDUCERS, REMOVED, fold_items, merge3, same
from interlock.verify import LawBroken, laws

scalars = st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4)
    ),
    max_leaves=12,
)
documents = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)
numbers = st.integers(-5, 5)
CONTRIBUTIONS = {
    "counter": numbers,
    "maximum": numbers,
    "minimum": numbers,
    "deep_merge": documents,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REDUCERS))
def test_ready_made_reducers_keep_their_laws(name: str) -> None:
    reducer = REDUCERS[name]
    assert laws(reducer, CONTRIBUTIONS.get(name, values), examples=60) == reducer.digest()


@pytest.mark.parametrize("name", sorted(REDUCERS))
def test_folding_many_at_once_is_folding_one_by_one(name: str) -> None:
    reducer = REDUCERS[name]

    @settings(max_examples=40)
    @given(st.lists(CONTRIBUTIONS.get(name, values), max_size=6), st.integers(0, 6))
    def check(items: list[Any], cut: int) -> None:
        whole = reducer.fold(items)
        assert same(fold_items(reducer, items, None, False), whole)
        if cut and items[:cut]:
            start = fold_items(reducer, items[:cut], None, False)
            assert same(fold_items(reducer, items[cut:], start, True), whole)

    check()


@pytest.mark.parametrize(
    ("fn", "initial", "law"),
    [
        (lambda value, item: value - item, 0, "commutative"),
        (lambda value, item: [*value, item], [], "commutative"),
        (lambda value, item: value + item, 0, "idempotent"),
        (lambda value, item: item, None, "commutative"),
    ],
)
def test_a_law_that_does_not_hold_is_named_with_an_example(fn: Any, initial: Any, law: str) -> None:
    claims = ("commutative", "idempotent") if law == "idempotent" else ("commutative",)
    if law == "commutative" and initial == 0:
        fn = lambda value, item: 2 * value - item  # noqa: E731  # neighbours weigh differently
    with pytest.raises(LawBroken, match=f"is not {law}") as broken:
        laws(interlock.Reducer("mine", fn, initial, claims), numbers)
    assert broken.value.law == law
    assert 1 <= len(broken.value.items) <= 3


BREAKS_ONLY = {  # each law, and a reducer that keeps the others
    "associative": interlock.Reducer("m", lambda value, item: max(value, -item), 0),
    "commutative": interlock.Reducer("m", lambda value, item: item, None),
    "idempotent": interlock.Reducer("m", lambda value, item: value + item, 0),
}


@pytest.mark.parametrize("law", BREAKS_ONLY)
def test_a_reducer_that_breaks_one_law_is_refused_for_that_one_only(law: str) -> None:
    others = tuple(name for name in BREAKS_ONLY if name != law)
    kept = replace(BREAKS_ONLY[law], claims=others)
    assert laws(kept, numbers) == kept.digest()
    with pytest.raises(LawBroken, match=f"is not {law}") as broken:
        laws(replace(kept, claims=(*others, law)), numbers)
    assert broken.value.law == law


@pytest.mark.parametrize(
    "fn",
    [
        lambda value, item: item if value is None else (value + item) / 2,  # an average
        lambda value, item: (value or 0) - item,
        lambda value, item: [*(value or []), item],  # a value that is no contribution
        lambda value, item: sorted({*(value or ()), item}),  # one that cannot even be one
    ],
)
def test_a_reducer_that_cannot_be_regrouped_is_not_associative(fn: Any) -> None:
    mine = interlock.Reducer("mine", fn, None, ("associative",))
    with pytest.raises(LawBroken, match="is not associative") as broken:
        laws(mine, numbers)
    assert 1 <= len(broken.value.items) <= 3


def test_a_reducer_without_determinism_is_found() -> None:
    counts = iter(range(10_000))
    with pytest.raises(LawBroken, match="is not deterministic"):
        laws(interlock.Reducer("mine", lambda value, item: next(counts), None), numbers)


def test_a_reducer_that_changes_its_arguments_or_makes_no_json_is_found() -> None:
    def changes(value: list[Any], item: dict[str, Any]) -> list[Any]:
        item["seen"] = len(item)
        return [*value, 1]

    with pytest.raises(LawBroken, match="changes the contributions"):
        laws(interlock.Reducer("mine", changes, []), st.dictionaries(st.just("a"), numbers))
    with pytest.raises(LawBroken, match="not JSON"):
        laws(interlock.Reducer("mine", lambda value, item: {item}, None), numbers)


def longest(value: str, item: str) -> str:
    return max(value, item, key=lambda text: (len(text), text))


def test_what_was_checked_can_be_declared() -> None:
    claims = ("associative", "commutative", "idempotent")
    checked = laws(interlock.Reducer("longest", longest, "", claims), st.text(max_size=4))
    mine = interlock.Reducer("longest", longest, "", claims, checked)
    with interlock.open("sqlite://", rules={"title": interlock.merged(mine)}) as space:
        space.append("title", "abc")
        assert space.read("title").value == "abc"


@given(documents, documents)
def test_an_unchanged_side_takes_the_other(base: Any, changed: Any) -> None:
    assert merge3(base, base, changed) == (changed, ())
    assert merge3(base, changed, base) == (changed, ())


@pytest.mark.parametrize("both", ["PAID", True, None, {}, {"a": {"b": "c"}}])
def test_the_same_change_on_both_sides_is_one(both: Any) -> None:
    assert merge3({"k": "old"}, {"k": both}, {"k": both}) == ({"k": both}, ())
    assert merge3({}, {"k": both}, {"k": both}) == ({"k": both}, ())
    assert merge3({"k": 1}, {}, {}) == ({}, ())


@pytest.mark.parametrize("both", [3, 3.5, {"a": {"b": 3}}, [1]])
def test_the_same_change_of_a_number_may_be_two_increments(both: Any) -> None:
    for base in ({"k": 2}, {}):
        (clash,) = merge3(base, {"k": both}, {"k": both})[1]
        assert clash.path == ("k",)
    assert merge3({"l": [1]}, {"l": [1, 2]}, {"l": [1, 2]}) == ({"l": [1, 2, 2]}, ())


@given(documents, documents, documents)
def test_both_orders_clash_at_the_same_paths_and_agree_elsewhere(
    base: Any, mine: Any, theirs: Any
) -> None:
    one, clashes = merge3(base, mine, theirs)
    other, turned = merge3(base, theirs, mine)
    assert {clash.path for clash in clashes} == {clash.path for clash in turned}
    pairs = [(c, d) for c in clashes for d in turned if c.path == d.path]
    assert all(same_side(c.mine, d.theirs) for c, d in pairs)
    if not clashes and not lists_in(base):
        assert same(one, other)


def same_side(one: Any, other: Any) -> bool:
    assert (one is REMOVED) == (other is REMOVED)
    assert one is REMOVED or same(one, other)
    return True


def lists_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(lists_in, value.values()))
    return isinstance(value, list)


@given(documents, documents, documents)
def test_a_merge_without_clashes_has_both_changes(base: Any, mine: Any, theirs: Any) -> None:
    merged, clashes = merge3(base, mine, theirs)
    for key in {*base, *mine, *theirs} if not clashes else ():
        sides = [side.get(key, REMOVED) for side in (base, mine, theirs)]
        now = merged.get(key, REMOVED)
        if same(sides[0], sides[1]) or sides[0] is sides[1]:
            assert now is sides[2] or same(now, sides[2])
        elif same(sides[0], sides[2]) or sides[0] is sides[2]:
            assert now is sides[1] or same(now, sides[1])


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged", "clash"),
    [
        ({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 3}, {"a": 2, "b": 3}, None),
        ({"a": 1}, {}, {"a": 1, "b": 2}, {"b": 2}, None),
        ({"a": 1}, {}, {"a": 2}, None, ("a",)),
        ({"a": {"x": 1}}, {"a": {"x": 2}}, {"a": {"x": 3}}, None, ("a", "x")),
        ({"a": {"x": 1}}, {"a": {"x": 2}}, {"a": {"x": 1, "y": 1}}, {"a": {"x": 2, "y": 1}}, None),
        ({"l": [1]}, {"l": [1, 2]}, {"l": [1, 3]}, {"l": [1, 3, 2]}, None),
        ({"l": [1, 2]}, {"l": [1]}, {"l": [1, 2, 3]}, None, ("l",)),
        ({"l": [1, 2]}, {"l": [0, 2]}, {"l": [1, 0]}, None, ("l",)),
        (1, 2, 3, None, ()),
        ({"n": 1}, {"n": True}, {"n": 1.0}, None, ("n",)),
        ({}, {"n": 1}, {"n": 1.0}, None, ("n",)),
    ],
)
def test_three_way_merges(base: Any, mine: Any, theirs: Any, merged: Any, clash: Any) -> None:
    found, clashes = merge3(base, mine, theirs)
    if clash is None:
        assert (found, clashes) == (merged, ())
    else:
        assert [each.path for each in clashes] == [clash]
