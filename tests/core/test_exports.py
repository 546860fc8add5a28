"""What is wrong with an export, or a name, is said before anything is left behind."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import interlock


@pytest.fixture
def store(tmp_path: Path) -> Iterator[interlock.Store]:
    """A store with a space of four keys."""
    url = f"sqlite:///{tmp_path / 'team.db'}"
    with interlock.open(url, space="here", agent="a") as space:
        for n in range(4):
            space.create(f"k{n}", n)
    with interlock.Store(url) as found:
        yield found


@pytest.mark.parametrize("bad", ["", " x", "x\n", "x" * 200, None])
def test_names_of_spaces_are_checked(store: interlock.Store, bad: Any) -> None:
    for call in (store.create, store.drop, lambda each: store.rename("here", each)):
        with pytest.raises(interlock.Invalid):
            call(bad)


@pytest.mark.parametrize("url", ["team.db", "mysql://x", None])
def test_what_is_no_store_is_refused(url: Any) -> None:
    with pytest.raises(interlock.Invalid, match="not a store URL"):
        interlock.Store(url).spaces()
    with pytest.raises(interlock.Invalid, match="not a store URL"):
        interlock.schema_sql(url)


def test_looking_at_a_store_makes_none(tmp_path: Path) -> None:
    store = interlock.Store(f"sqlite:///{tmp_path / 'none.db'}")
    for look in (store.spaces, store.doctor, lambda: list(store.export("x"))):
        with pytest.raises(interlock.Unavailable, match="No Interlock store"):
            look()
    assert list(tmp_path.iterdir()) == []


def edited(lines: list[str], number: int, change: Callable[[dict[str, Any]], object]) -> list[str]:
    told = json.loads(lines[number])
    change(told)
    return [*lines[:number], json.dumps(told), *lines[number + 1 :]]


WRONG: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "nothing": (lambda lines: [], "Line 1"),
    "no export": (lambda lines: ['{"a": 1}', *lines[1:]], "not an export"),
    "a newer format": (lambda lines: edited(lines, 0, lambda h: h.update(version=9)), "format 9"),
    "no JSON": (lambda lines: [*lines[:3], "{", *lines[4:]], "Line 4 of the export is malformed"),
    "an unknown line": (lambda lines: [*lines[:3], '{"x": {}}', *lines[3:]], "is called 'x'"),
    "a changed value": (
        lambda lines: edited(lines, 4, lambda e: e["entry"].update(value=9)),
        "changed or damaged",
    ),
    "an entry left out": (lambda lines: [*lines[:4], *lines[5:]], "don't follow"),
    "a wrong version": (
        lambda lines: edited(lines, 4, lambda e: e["entry"].update(version=9)),
        "don't follow",
    ),
    "a negative epoch": (
        lambda lines: edited(lines, 4, lambda e: e["entry"].update(epoch=-1)),
        "'epoch' is not a whole number",
    ),
    "a wrong kind": (
        lambda lines: edited(lines, 4, lambda e: e["entry"].update(kind="fold")),
        "its kind is 'fold'",
    ),
    "a header that lies": (
        lambda lines: edited(lines, 0, lambda h: h.update(position=99999)),
        "first line says",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_damaged_export_leaves_nothing_behind(store: interlock.Store, what: str) -> None:
    damage, message = WRONG[what]
    with pytest.raises(interlock.Invalid, match=message):
        store.load(damage(list(store.export("here"))), "to")
    assert "to" not in {each.name for each in store.spaces()}


def test_memory_does_not_grow_with_the_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interlock.core.transfer.LOG_PAGE", 5)
    monkeypatch.setattr("interlock.core.export.MOST_BYTES", 500_000)
    url, text = f"sqlite:///{tmp_path / 'large.db'}", "x" * 100_000
    with interlock.open(url, space="large", agent="a", durability="off") as space:
        for n in range(100):
            space.create(f"k{n}", text)
    file = tmp_path / "large.jsonl"
    tracemalloc.start()
    try:
        with interlock.Store(url) as store:
            with file.open("w") as out:
                for line in store.export("large"):
                    out.write(line + "\n")
            with file.open() as lines:
                store.load(lines, "again")
            store.copy("large", url, to="copied")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 10_000_000
    assert peak < 5_000_000, peak
