"""`get` and `set` that destroy nothing unread, with and without asyncio."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import interlock
from interlock import Conflict, Invalid
from interlock.adapters.kv import KeyValue
from tests.adapters.spaces import FACADES, opened
from tests.processes.writers import Place


@pytest.fixture
def space() -> Iterator[interlock.Space]:
    with interlock.open("sqlite://", agent="a") as found:
        yield found


def test_what_was_got_can_be_set_changed_in_place_or_copied(space: interlock.Space) -> None:
    kv = KeyValue(space)
    kv.set("list", [1])
    kv.set("object", {"n": 1})
    kv.set("text", "one")
    notes = kv.get("list")
    for number in (2, 3):
        notes.append(number)
        kv.set("list", notes)  # once more: it carries the version that it was written as
    kv.set("object", copy.copy(kv.get("object")) | {"n": 2})
    kv.set("text", "two", base=pickle.loads(pickle.dumps(kv.get("text"))))
    assert [kv.get(name) for name in ("list", "object", "text")] == [[1, 2, 3], {"n": 2}, "two"]


@pytest.mark.parametrize("value", [{"n": 1}, [1], "text"])
def test_a_set_from_an_old_read_conflicts(space: interlock.Space, value: object) -> None:
    kv = KeyValue(space)
    kv.set("k", value)
    old, new = kv.get("k"), kv.get("k")
    kv.set("k", "newer", base=new)
    for stale in (lambda: kv.set("k", 0, base=old), lambda: kv.delete("k", base=old)):
        with pytest.raises(Conflict) as refused:
            stale()
        assert refused.value.record.value == "newer"
    assert kv.get("k") == "newer"


def test_what_was_not_read_is_not_destroyed(space: interlock.Space) -> None:
    kv = KeyValue(space)
    kv.set("k", [1])
    for value in ([2], [1], None):  # the same value, too: it may be a second increment
        with pytest.raises(Conflict, match="or use update"):
            kv.set("k", value)
    with pytest.raises(Conflict):
        kv.delete("k")
    with pytest.raises(Conflict):
        kv.set("k", [2], base=None)  # computed from nothing
    assert kv.get("k") == [1]


def test_a_number_is_named_as_the_base(space: interlock.Space) -> None:
    kv = KeyValue(space)
    n = kv.get("n", 0)
    kv.set("n", n + 1, base=None)
    kv.set("n", 2, base=1)
    with pytest.raises(Conflict):
        kv.set("n", 2, base=1)
    assert kv.update("n", lambda n: n + 1) == 3
    assert kv.delete("n", base=3)
    with pytest.raises(Conflict):
        kv.set("n", 4, base=3)  # deleted meanwhile
    with pytest.raises(Invalid, match="no value"):
        kv.set("never", 4, base=3)


def test_unread_values_may_be_overwritten_if_asked_for(space: interlock.Space) -> None:
    kv = KeyValue(space, unread="overwrite")
    kv.set("k", 1)
    kv.set("k", [2])
    old = kv.get("k")
    kv.set("k", [3])
    with pytest.raises(Conflict):
        kv.set("k", old)  # this one is known to be old
    assert (kv.delete("k"), kv.delete("k"), kv.get("k", "none")) == (True, False, "none")
    with pytest.raises(Invalid, match="unread="):
        KeyValue(space, unread="sometimes")  # type: ignore[arg-type]  # that is the test


def test_merging_keeps_other_fields_and_refuses_the_same_one(space: interlock.Space) -> None:
    kv = KeyValue(space, merge=True)
    kv.set("k", {"a": 1, "b": {"c": 1, "d": 1}, "e": 1})
    mine, theirs = kv.get("k"), kv.get("k")
    theirs["b"]["c"] = 2
    theirs["e"] = 2
    kv.set("k", theirs)
    mine["b"]["d"] = 3
    del mine["a"]
    kv.set("k", mine)
    assert kv.get("k") == {"b": {"c": 2, "d": 3}, "e": 2}
    kv.set("k", {"new": 1})  # nothing was read, and nothing is taken away
    assert kv.get("k") == {"b": {"c": 2, "d": 3}, "e": 2, "new": 1}
    one, other = kv.get("k"), kv.get("k")
    one["e"] += 1
    other["e"] += 1
    kv.set("k", one)
    with pytest.raises(Conflict):
        kv.set("k", other)  # two increments to the same number are two
    assert kv.get("k")["e"] == 3


def test_merging_refuses_what_the_log_no_longer_has(space: interlock.Space) -> None:
    kv = KeyValue(space, merge=True)
    kv.set("k", {"a": 1})
    old = kv.get("k")
    kv.set("k", kv.get("k") | {"b": 2})
    space.erase(prefix="kv/", where=lambda entry: entry.version == 1)
    old["c"] = 3
    with pytest.raises(Conflict):
        kv.set("k", old)


def test_values_expire(space: interlock.Space) -> None:
    kv = KeyValue(space)
    kv.set("k", 1, expires=0.001)
    until = space.scan("kv/")
    while until:
        until = space.scan("kv/")
    assert kv.get("k", "gone") == "gone"
    kv.set("k", 2)


def test_stores_and_names_are_kept_apart(space: interlock.Space) -> None:
    for n, name in enumerate(["a", "a/b", "", "ä" * 500, "."]):
        KeyValue(space).set(name, n)
        KeyValue(space, "other").set(name, -n)
        assert (KeyValue(space).get(name), KeyValue(space, "other").get(name)) == (n, -n)


def test_a_url_is_opened_and_closed(tmp_path: Path) -> None:
    with KeyValue(f"sqlite:///{tmp_path / 'kv.db'}", agent="a") as kv:
        kv.set("k", 1)
    with pytest.raises(interlock.Closed):
        kv.get("k")


@pytest.mark.parametrize("facade", FACADES)
async def test_each_method_has_a_twin_for_asyncio(facade: str, tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path / 'kv.db'}", "s")
    async with opened(facade, place, "app") as space:
        kv = KeyValue(space, merge=True)
        await kv.aset("k", {"n": 1})
        old = await kv.aget("k")
        assert await kv.aupdate("k", lambda value: {"n": value["n"] + 1}) == {"n": 2}
        await kv.aset("k", old | {"m": 1})
        assert await kv.aget("k") == {"n": 2, "m": 1}
        with pytest.raises(Conflict):
            await kv.adelete("k", base=old)
        assert await kv.adelete("k", base=await kv.aget("k"))
        if facade == "async":
            with pytest.raises(Invalid, match="asynchronous methods"):
                kv.get("k")
