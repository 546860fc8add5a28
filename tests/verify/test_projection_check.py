"""The check of a projection's fold, against folds that are broken in each way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

import interlock
from interlock.verify import FoldBroken, check_projection


@pytest.fixture
def space() -> Iterator[interlock.Space]:
    """Thirty entries, ten of them of each key; the rules are an entry, too."""
    rules = {"found/*": interlock.merged("append")}
    with interlock.open("sqlite://", agent="ann", rules=rules) as opened:
        for n in range(10):
            opened.update("a", lambda found: {"n": found["n"] + 1}, default={"n": 0})
            opened.append("found/x", {"n": n})
            record = opened.read("b")
            if record.exists:
                opened.delete(record)
            else:
                opened.create("b", n)
        yield opened


def counts(value: Any, entry: interlock.Entry) -> Any:
    """Pure, though it changes the value that it is given."""
    value[entry.key] = value.get(entry.key, 0) + 1
    return value


def test_a_pure_fold(space: interlock.Space) -> None:
    initial: dict[str, int] = {}
    assert check_projection(space, counts, initial=initial) == 30
    assert check_projection(space, counts, prefix="found/", initial=initial) == 10
    assert check_projection(list(space.log()), counts, prefix="a", initial=initial, at=[5]) == 10
    assert check_projection([], counts, initial=initial, at=[0, 99]) == 0
    assert initial == {}


@pytest.mark.parametrize("at", [None, [12], [1], range(100)])
def test_a_fold_that_draws_numbers(space: interlock.Space, at: Any) -> None:
    numbers = itertools.count()

    def draws(value: Any, entry: interlock.Entry) -> Any:
        return next(numbers)

    with pytest.raises(FoldBroken, match="depends on more"):
        check_projection(space, draws, at=at)


class Counted(dict[str, int]):
    """A dict that knows more than its JSON."""

    count = 0


def test_a_fold_that_remembers_what_no_snapshot_holds(space: interlock.Space) -> None:
    def remembers(value: dict[str, int], entry: interlock.Entry) -> Counted:
        found = value if isinstance(value, Counted) else Counted(value)
        found.count += 1
        if entry.position > 14:
            found["n"] = found.count
        return found

    with pytest.raises(FoldBroken, match="from a snapshot at position 11") as broken:
        check_projection(space, remembers, initial={}, at=[11])
    assert broken.value.entry.position == 15
    assert check_projection(space, remembers, initial={}, at=[31]) == 30


def test_a_fold_that_changes_the_entry(space: interlock.Space) -> None:
    def changes(value: Any, entry: interlock.Entry) -> Any:
        if entry.key == "found/x" and entry.value["n"] == 3:
            entry.value["n"] = 0
        return value

    with pytest.raises(FoldBroken, match="changes the value of the entry") as broken:
        check_projection(space, changes)
    assert broken.value.entry.key == "found/x"


@pytest.mark.parametrize(
    ("made", "told"),
    [((1, 2), "tuple"), ({1: 2}, "JSON keys"), ({1, 2}, "no JSON"), (float("nan"), "no JSON")],
)
def test_a_fold_that_makes_no_json(space: interlock.Space, made: Any, told: str) -> None:
    with pytest.raises(FoldBroken, match=told) as broken:
        check_projection(space, lambda value, entry: made if entry.position > 9 else 1, at=[10])
    assert broken.value.entry.position == 10
    with pytest.raises(interlock.InterlockError, match="initial"):
        check_projection(space, counts, initial=made if told != "tuple" else {1})
