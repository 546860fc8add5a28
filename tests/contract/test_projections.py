"""Projections: what is folded, what is kept of it, and that neither is ever out of step."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

import interlock
from interlock.core import trim
from interlock.core.requests import (
    PROJECTIONS,
    DropProjection,
    Floor,
    Kept,
    LoadProjection,
    SaveProjection,
    Trim,
)
from interlock.streams import projection
from tests.facades import Facades

RULES = {"found/*": interlock.merged("append")}
pytestmark = [
    pytest.mark.usefixtures("small_pages"),
    pytest.mark.interlock_space(agent="ann", rules=RULES),
]
SEATS = PROJECTIONS + "seats/1"
trims = pytest.mark.interlock_needs("trimming")


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operation ids need not be known for a day, and pages are small."""
    monkeypatch.setattr(trim, "KEPT_AT_LEAST", 0.0)
    monkeypatch.setattr(projection, "PAGE", 7)


def seats(value: Any, entry: interlock.Entry) -> Any:
    """The last value of each key; how many entries; what was contributed."""
    if entry.kind == "append":
        value["found"].append(entry.value)
    elif entry.kind == "delete":
        del value["keys"][entry.key]
    else:
        value["keys"][entry.key] = entry.value
    value["entries"] += 1
    return value


EMPTY: Any = {"keys": {}, "found": [], "entries": 0}


def view(space: Any, **options: Any) -> Any:
    """A projection that is kept every ten positions."""
    return space.projection(
        seats, **{"initial": EMPTY, "name": "seats", "snapshot_every": 10, **options}
    )


def put(space: Any, *keys: str) -> None:
    for key in keys:
        space.update(key, lambda n: (n or 0) + 1)


def from_zero(space: Any, prefix: str = "") -> Any:
    """What the log says, folded here."""
    value: Any = {"keys": {}, "found": [], "entries": 0}
    for entry in space.log(prefix=prefix):
        if not entry.key.startswith("$"):
            value = seats(value, entry)
    return value


def backend_of(facades: Facades) -> Any:
    backend: Any = facades.peer().session.driver.backend
    return backend


def test_it_is_what_the_log_says(space: Any) -> None:
    put(space, "a", "b", "a", "seat/1", "seat/2")
    space.delete(space.read("b"))
    space.append("found/x", {"n": 1})
    everything, some = view(space, name=None), view(space, name=None, prefix="seat/")
    keys = {"a": 2, "seat/1": 1, "seat/2": 1}
    assert everything.refresh() == {"keys": keys, "found": [{"n": 1}], "entries": 7}
    assert some.refresh() == {"keys": {"seat/1": 1, "seat/2": 1}, "found": [], "entries": 2}
    assert everything.value == from_zero(space)
    assert everything.position == some.position == space.position()
    put(space, *"xyz" * 8)
    assert everything.refresh() == from_zero(space)
    assert everything.refresh() == from_zero(space), "once each"
    assert EMPTY == {"keys": {}, "found": [], "entries": 0}, "the initial value is copied"


def test_nothing_is_known_before_it_is_read(space: Any) -> None:
    fresh = view(space)
    for look in ("value", "position"):
        with pytest.raises(interlock.Invalid, match="refresh"):
            getattr(fresh, look)
    assert fresh.refresh() == EMPTY == fresh.value
    assert fresh.position == space.position()


def test_it_is_kept_current(space: Any, other: Any) -> None:
    put(space, "a")
    values = iter(view(space))
    assert next(values)["keys"] == {"a": 1}
    later = threading.Timer(0.05, put, (other, "b"))
    later.start()
    assert next(values)["keys"] == {"a": 1, "b": 1}
    later.join()


def test_what_is_kept_is_not_folded_again(space: Any) -> None:
    folded: list[int] = []

    def counting(value: Any, entry: interlock.Entry) -> Any:
        folded.append(entry.position)
        return seats(value, entry)

    def opened(**options: Any) -> Any:
        folded.clear()
        return space.projection(
            counting, initial=EMPTY, name="seats", snapshot_every=10, **options
        ).refresh()

    put(space, *"abcdefgh" * 6)
    end = space.position()
    assert opened() == from_zero(space)
    assert len(folded) == 48
    put(space, "z")
    assert opened() == from_zero(space)
    assert folded[-1] == end + 1
    assert len(folded) <= 11, "what came since"
    assert opened(version=2) == from_zero(space)
    assert len(folded) == 49, "another version has not been kept"
    assert space.position() == end + 1, "nothing was written to the log"


def test_a_kept_projection_is_of_one_shape(space: Any) -> None:
    put(space, "a")
    view(space, prefix="a").refresh()
    with pytest.raises(interlock.Invalid, match="version"):
        view(space, prefix="b").refresh()
    with pytest.raises(interlock.Invalid, match="version"):
        view(space, prefix="a", initial={**EMPTY, "entries": 1}).refresh()
    assert view(space, prefix="b", version=2).refresh() == EMPTY
    assert view(space, prefix="b", name="others").refresh() == EMPTY


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_same_however_it_was_opened(space: Any, seed: int) -> None:
    """Views that stay, views that die, snapshots at random places, others that write."""
    chance, stays = random.Random(seed), view(space)
    for _ in range(12):
        for _ in range(chance.randint(0, 25)):
            key = chance.choice(("a", "b", "found/x"))
            record = space.read(key)
            if key == "found/x":
                space.append(key, chance.randint(0, 9))
            elif record.exists and chance.random() < 0.2:
                space.delete(record)
            else:
                space.write(record, chance.randint(0, 9))
        every = chance.choice((1, 5, 10, 1000))
        assert view(space, snapshot_every=every).refresh() == from_zero(space)
        if chance.random() < 0.5:
            assert stays.refresh() == from_zero(space)
        if chance.random() < 0.1:
            view(space).drop()


def test_a_fold_that_fails_leaves_nothing_half_done(space: Any) -> None:
    put(space, *"abc" * 5)
    broken = [True]

    def fold(value: Any, entry: interlock.Entry) -> Any:
        value["entries"] += 1000  # what it began with is changed already
        if broken[0] and entry.key == "z":
            raise ArithmeticError("z")
        value["entries"] -= 1000
        return seats(value, entry)

    projection = space.projection(fold, initial=EMPTY, name="seats", snapshot_every=10)
    projection.refresh()
    put(space, "a", "z")
    for _ in range(2):
        with pytest.raises(ArithmeticError) as problem:
            projection.refresh()
        position = space.read("z").position
        assert problem.value.__notes__[-1].endswith(f"folded 'z', position {position}")
        with pytest.raises(interlock.Invalid):
            projection.value  # noqa: B018  # reading it raises
    broken[0] = False
    assert projection.refresh() == from_zero(space)


def test_what_cannot_be_read_is_not_used(space: Any, facades: Facades) -> None:
    put(space, *"abc" * 5)
    backend, end = backend_of(facades), space.position()
    for body in ("", "{", "null", '{"value": 1}', '{"prefix":"","initial":{},"value":'):
        backend.perform(DropProjection(SEATS))
        backend.perform(SaveProjection(SEATS, end, body))
        assert view(space).refresh() == from_zero(space)


def test_the_later_of_two_that_are_kept_at_once_stays(space: Any, facades: Facades) -> None:
    put(space, *"abc" * 5)
    backend, end = backend_of(facades), space.position()
    for position in (end - 3, end - 1, end - 2):
        backend.perform(SaveProjection(SEATS, position, f"{position}"))
    assert backend.perform(LoadProjection(SEATS)) == Kept(end - 1, f"{end - 1}")
    backend.perform(SaveProjection(SEATS, end + 1, "ahead"))
    assert backend.perform(LoadProjection(SEATS)) == Kept(end - 1, f"{end - 1}")
    assert backend.perform(LoadProjection(PROJECTIONS + "seats/2")) is None
    backend.perform(DropProjection(SEATS))
    assert backend.perform(LoadProjection(SEATS)) is None
    backend.perform(SaveProjection(SEATS, 0, "anew"))
    assert backend.perform(LoadProjection(SEATS)) == Kept(0, "anew")


def test_views_at_once(space: Any, facades: Facades) -> None:
    """Two writers and three views that keep what they have, in threads."""
    facades.capabilities.need("shared")
    problems: list[BaseException] = []
    done = threading.Event()

    def writes(mine: Any) -> None:
        put(mine, *(mine.agent, "shared") * 30)

    def looks(mine: Any) -> None:
        projection = view(mine, snapshot_every=3)
        while not done.is_set():
            value = projection.refresh()
            assert value["entries"] == sum(value["keys"].values())
        assert projection.refresh() == from_zero(mine)

    def thread(work: Any, agent: str) -> threading.Thread:
        def run() -> None:
            try:
                with facades.peer(agent) as mine:
                    work(mine)
            except BaseException as problem:  # what ends a thread must fail the test
                problems.append(problem)

        return threading.Thread(target=run)

    writers = [thread(writes, f"w{n}") for n in range(2)]
    views = [thread(looks, f"v{n}") for n in range(3)]
    for each in (*writers, *views):
        each.start()
    for each in writers:
        each.join()
    done.set()
    for each in views:
        each.join()
    assert not problems
    assert view(space).refresh()["entries"] == 120


@trims
def test_what_a_projection_needs_is_not_cut(space: Any) -> None:
    start = space.position()
    projection = view(space, prefix="a")
    projection.refresh()
    put(space, *"abc" * 6)
    done = space.trim(keep=0)
    assert (done.oldest, done.held) == (
        1,
        "projection 'seats' (version 1) has no snapshot that includes it",
    )
    projection.refresh()
    assert space.trim(keep=0).oldest > start + 10
    assert view(space, prefix="a").refresh() == projection.value
    put(space, "a")
    assert space.trim(keep=0).oldest <= space.position()
    projection.drop()
    assert space.trim(keep=0).oldest == space.position() + 1
    for late in (projection, view(space), view(space, name=None)):
        with pytest.raises(interlock.Pruned):
            late.refresh()


@trims
def test_the_store_itself_keeps_what_a_projection_needs(space: Any, facades: Facades) -> None:
    """As where it was kept while somebody was about to cut, or had cut just before."""
    put(space, "a", "b", "c")
    backend, end = backend_of(facades), space.position()
    backend.perform(SaveProjection(SEATS, end - 2, "x"))
    assert backend.perform(Trim(end - 1, ())) == Floor(0, end - 1, SEATS, 0)
    assert backend.perform(Trim(end - 2, ())) == Floor(end - 2, end - 1, SEATS, end - 2)
    backend.perform(DropProjection(SEATS))
    assert backend.perform(Trim(end, ())) == Floor(end, cut=2)
    backend.perform(SaveProjection(SEATS, end - 1, "x"))
    assert backend.perform(LoadProjection(SEATS)) is None, "the log after it is not whole"
    backend.perform(SaveProjection(SEATS, end, "x"))
    assert backend.perform(LoadProjection(SEATS)) == Kept(end, "x")


@trims
def test_one_that_lags_behind_goes_on_from_what_is_kept(space: Any) -> None:
    lags, unnamed = view(space), view(space, name=None)
    put(space, *"ab")
    lags.refresh()
    unnamed.refresh()
    put(space, *"abc" * 7)
    whole = from_zero(space)
    view(space, snapshot_every=1).refresh()
    assert space.trim(keep=0).oldest > 15
    put(space, "z")
    assert lags.refresh()["entries"] == whole["entries"] + 1
    assert lags.value["keys"] == {**whole["keys"], "z": 1}
    for _ in range(2):
        with pytest.raises(interlock.Pruned):
            unnamed.refresh()
    with pytest.raises(interlock.Invalid, match="refresh"):
        unnamed.value  # noqa: B018  # reading it raises


def test_values_of_any_size_and_kind(space: Any, facades: Facades) -> None:
    put(space, *"abc" * 5)
    small = facades.open("small", max_value_bytes=100)

    def long(value: str, entry: interlock.Entry) -> str:
        return value + "ü\n\x00" * 50_000

    first = small.projection(long, initial="", name="long", snapshot_every=1)
    assert len(first.refresh()) == 15 * 150_000
    again = space.projection(long, initial="", name="long", snapshot_every=1)
    assert again.refresh() == first.value

    def keys(value: Any, entry: interlock.Entry) -> Any:
        return value | {entry.key}

    assert space.projection(keys, initial=frozenset()).refresh() == {"a", "b", "c"}
    with pytest.raises(interlock.Invalid, match="JSON"):
        space.projection(keys, initial=frozenset(), name="keys")
    for fold, told in ((lambda v, e: {1: 2}, "JSON keys"), (lambda v, e: (1,), "tuple")):
        with pytest.raises(interlock.Invalid, match=told):
            space.projection(fold, name="wrong", snapshot_every=1).refresh()


async def _later(value: Any, entry: interlock.Entry) -> Any:
    return value


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"fold": None}, "fold=None"),
        ({"fold": _later}, "fold="),
        ({"prefix": "a*"}, "a\\*"),
        ({"name": ""}, "empty"),
        ({"name": "$x"}, "\\$"),
        ({"version": 0}, "version=0"),
        ({"version": "2"}, "version='2'"),
        ({"snapshot_every": 0}, "snapshot_every=0"),
        ({"snapshot_every": True}, "snapshot_every=True"),
    ],
)
def test_malformed_projections(space: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(interlock.Invalid, match=told):
        space.projection(**{"fold": seats, "initial": EMPTY, **options})


def test_only_what_has_a_name_can_be_dropped(space: Any) -> None:
    with pytest.raises(interlock.Invalid, match="name"):
        view(space, name=None).drop()
    view(space).drop()
    assert view(space).refresh() == EMPTY


def test_a_projection_refuses_a_fold_that_returns_none(space: Any) -> None:
    space.create("a", 1)
    forgets = space.projection(lambda seen, entry: seen.append(entry.key), initial=[])
    with pytest.raises(interlock.Invalid, match=r"position \d+ returned None"):
        forgets.refresh()
    last = space.projection(lambda seen, entry: entry.value, initial=None)
    space.write(space.read("a"), None)
    assert last.refresh() is None
