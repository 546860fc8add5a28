"""Whole spaces: made, dropped, renamed, exported, imported and copied, the same in every store."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.urls import open_backend
from interlock.core import trim as core_trim
from interlock.core.group import Deliveries
from interlock.core.requests import ReadGroup, TakeLease
from interlock.core.transfer import Finish, Importing, Mark, Parts, Restore, Row
from tests.facades import Facades

pytestmark = pytest.mark.interlock_needs("spaces")
RULES = {"found/*": interlock.merged("append"), "count": interlock.merged("counter")}


@pytest.fixture
def name() -> str:
    return f"whole-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def store(sync_facades: Facades, name: str) -> Iterator[interlock.Store]:
    with interlock.Store(sync_facades.url, create=True) as found:
        yield found
        for each in found.spaces():
            if each.name.startswith(name):
                found.drop(each.name)


def opened(store: interlock.Store, name: str, agent: str = "a", **options: Any) -> interlock.Space:
    return interlock.open(store.url, space=name, agent=agent, **options)


def put(space: interlock.Space, key: str, value: Any) -> None:
    space.update(key, lambda _: value)


def fill(store: interlock.Store, name: str) -> None:
    """Make a space with something of everything."""
    with opened(store, name, rules=RULES) as space:
        for n in range(70):  # more than a block of positions in Redis
            put(space, "a", {"n": n, "big": 12345678901234567890123, "float": 1e22})
        for n in range(5):
            space.append("found/x", {"n": n, "text": "ü\u2028\0"}, id=f"id-{n}")
        space.append("count", 3)
        space.delete(space.create("gone/ä", [1]))
        space.create("null", None)
        with space.transaction() as tx:
            tx.write(tx.read("b"), tx.read("null").value)
            tx.write(tx.read("c"), [])
        space.delete(space.create("again", 1))
        space.create("again", 2)
        view = space.projection(lambda n, entry: n + 1, initial=0, name="view", snapshot_every=10)
        assert view.refresh() > 80
        assert len(space.group("g", prefix="found/", consumer="one").take(3)) == 3
        space.lease("held", ttl=1000).acquire()
        space.lease("b", ttl=1000).acquire()
        opened(store, name, agent="only", exclusive=True).close()


def held(records: dict[str, interlock.Record]) -> list[Any]:
    """What records hold, but their epochs: those of leased keys are raised on the way."""
    return [(r.key, r.value, r.version, r.writer, r.at, r.position) for r in records.values()]


def body(lines: list[str]) -> list[str]:
    return lines[1:]


def test_spaces_are_made_listed_renamed_and_dropped(store: interlock.Store, name: str) -> None:
    store.create(name)
    with pytest.raises(interlock.Invalid, match="already"):
        store.create(name)
    for n in range(3):
        with opened(store, name) as space:
            put(space, "k", n)
    (found,) = (each for each in store.spaces() if each.name == name)
    with opened(store, name) as space:
        last = space.read("k")
    assert (found.keys, found.entries, found.position, found.at) == (1, 3, 3, last.at)
    assert found.size > 0
    assert not found.importing
    assert store.names() == [each.name for each in store.spaces() if not each.importing]
    assert name in store.names()
    store.drop(name)
    assert name not in store.names()
    assert name not in {each.name for each in store.spaces()}
    for wrong in (store.drop, lambda missing: store.rename(missing, "x")):
        with pytest.raises(interlock.Invalid, match="no space"):
            wrong(name)


CALLS: list[Callable[[interlock.Space], object]] = [
    lambda space: space.read("k"),
    lambda space: space.create("new", 1),
    lambda space: space.append("found/x", 1),
    lambda space: space.update("k", lambda value: value),
    lambda space: list(space.log()),
    lambda space: space.list_keys(),
    lambda space: space.scan(),
    lambda space: space.groups(),
    lambda space: space.group("g").info(),
    lambda space: space.group("g").take(1),
    lambda space: space.lease("k", wait=0).acquire(),
    lambda space: space.at(position=1).read("k"),
    lambda space: space.trim(),
    lambda space: space.conflicts(),
    lambda space: space.reclaim("k"),
]


@pytest.mark.parametrize("again", [False, True], ids=["dropped", "made again"])
def test_who_has_a_dropped_space_open_is_told(
    store: interlock.Store, name: str, again: bool
) -> None:
    with opened(store, name, rules=RULES) as space, opened(store, name, agent="b") as idle:
        space.create("k", 1)
        record = space.read("k")
        store.drop(name)
        if again:
            store.create(name)
        for call in CALLS:
            for each in (space, idle):  # one knows of a commit, the other one of none
                with pytest.raises(interlock.Dropped, match="dropped or renamed"):
                    call(each)
        with pytest.raises(interlock.Dropped):
            space.write(record, 2)
        if not again:
            assert name not in {each.name for each in store.spaces()}
            store.create(name)
    with opened(store, name, create=False) as fresh:
        assert (fresh.position(), fresh.scan(), fresh.rules) == (0, {}, {})


def test_who_has_a_renamed_space_open_makes_no_new_one(store: interlock.Store, name: str) -> None:
    to = f"{name}-to"
    with opened(store, name, rules=RULES) as space:
        space.append("found/x", 1)
        store.create(f"{name}-taken")
        with pytest.raises(interlock.Invalid, match="already"):
            store.rename(name, f"{name}-taken")
        store.rename(name, to)
        if store.url.startswith("redis"):
            with pytest.raises(interlock.Dropped):
                space.create("k", 1)
        else:
            space.create("k", 1)
    assert name not in {each.name for each in store.spaces()}
    with opened(store, to, create=False) as renamed:
        assert renamed.read("found/x").value == [1]
        assert renamed.read("k").exists != store.url.startswith("redis")
        renamed.append("found/x", 2)


def test_an_import_is_the_same_space(store: interlock.Store, name: str) -> None:
    fill(store, name)
    lines = list(store.export(name))
    header, trailer = json.loads(lines[0]), json.loads(lines[-1])
    assert header["space"] == name
    assert trailer["end"]["lines"] == len(lines) - 2
    to = f"{name}-to"
    done = store.load((line + "\n" for line in lines), to)
    assert (done.space, done.position, done.entries) == (to, header["position"], header["position"])
    assert body(list(store.export(to))) == body(lines)
    with opened(store, name) as old, opened(store, to, agent="z", rules=RULES) as new:
        assert list(new.log()) == list(old.log())
        assert held(new.scan()) == held(old.scan())
        for position in (10, 71, 75, old.position()):
            was, found = (each.at(position=position).scan() for each in (old, new))
            assert held(found) == held(was)
        entry = new.append("found/x", {"n": 1, "text": "ü\u2028\0"}, id="id-1")
        assert entry.position < done.position  # its id is known
        assert new.append("found/x", "more").version == 6
        assert [e["n"] for e in new.read("found/x").value[:5]] == [0, 1, 2, 3, 4]
        stale = old.read("b")
        with pytest.raises(interlock.Fenced):  # whoever had the lease
            new.write(stale._replace(space=new.read("b").space), 1)
        assert new.projection(lambda n, e: n + 1, initial=0, name="view").refresh() > 80
        taken = new.group("g", prefix="found/", consumer="two").take(10)
        assert [d.deliveries for d in taken[:3]] == [2, 2, 2]
        assert [d.entry.value for d in taken][-1] == "more"
    with opened(store, to, agent="only") as plain:
        plain.session.writer.incarnation = 0
        with pytest.raises(interlock.Fenced):  # incarnations travel
            plain.create("x", 1)


@pytest.mark.parametrize("heads_only", [False, True], ids=["history", "heads only"])
def test_what_was_trimmed_travels_as_it_was_left(
    store: interlock.Store, name: str, heads_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_trim, "KEPT_AT_LEAST", 0.0)
    fill(store, name)
    with opened(store, name) as space:
        space.group("g", prefix="found/").drop()
        assert space.trim(keep=0, before=78).oldest > 70
        space.append("found/x", "after")
        space.update("a", lambda _: "after")
    lines = list(store.export(name, heads_only=heads_only))
    to = f"{name}-to"
    store.load(lines, to)
    assert body(list(store.export(to))) == body(lines)
    with opened(store, name) as old, opened(store, to, agent="z") as new:
        assert list(new.log()) == ([] if heads_only else list(old.log()))
        assert new.position() == old.position()
        assert held(new.scan()) == held(old.scan())
        assert new.read("gone/ä").version == old.read("gone/ä").version == 2
        end = old.position()
        assert held(new.at(position=end).scan()) == held(old.at(position=end).scan())
        for n in range(70):  # over the edge of a block
            put(new, "a", n)
        new.append("found/x", "more")
        assert [e.value for e in new.history("a")][-70:] == list(range(70))
        assert new.read("found/x").value == [*old.read("found/x").value, "more"]
        assert new.trim(keep=0).cut > 0
        assert new.read("found/x").value[-1] == "more"


@pytest.mark.parametrize("heads_only", [False, True], ids=["history", "heads only"])
@pytest.mark.parametrize("trimmed", [False, True], ids=["whole", "trimmed"])
def test_what_was_erased_stays_erased(
    store: interlock.Store,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    heads_only: bool,
    trimmed: bool,
) -> None:
    monkeypatch.setattr(core_trim, "KEPT_AT_LEAST", 0.0)
    with opened(store, name, rules=RULES) as space:
        put(space, "a", "secret")
        for item in ("secret", "b"):
            space.append("found/x", item)
        space.create("null", None)
        if trimmed:
            space.trim(keep=0, before=space.create("last", 1).position)
        space.erase(where=lambda entry: entry.value == "secret")
    lines, to = list(store.export(name, heads_only=heads_only)), f"{name}-to"
    assert not any("secret" in line for line in lines)
    store.load(lines, to)
    assert body(list(store.export(to, heads_only=heads_only))) == body(lines)
    store.copy(name, store.url, to=f"{name}-copy", heads_only=heads_only)
    assert body(list(store.export(f"{name}-copy"))) == body(lines)
    with opened(store, name) as old, opened(store, to, agent="z") as new:
        assert held(new.scan()) == held(old.scan())
        assert new.read("found/x").value == ["b"]
        assert list(new.log()) == ([] if heads_only else list(old.log()))
        assert new.read("null").exists


def test_an_export_is_of_one_moment(store: interlock.Store, name: str) -> None:
    with opened(store, name) as space:
        for n in range(3):
            space.create(f"k{n}", n)
        lines = store.export(name)
        first = [next(lines)]
        space.create("later", 1)
        found = [*first, *lines]
    assert sum('{"entry"' in line for line in found) == 3
    store.load(found, f"{name}-to")


def test_only_a_new_or_empty_space_is_imported_into(store: interlock.Store, name: str) -> None:
    fill(store, name)
    lines = list(store.export(name))
    with pytest.raises(interlock.Invalid, match="not empty"):
        store.load(lines)
    assert body(list(store.export(name))) == body(lines)
    with opened(store, f"{name}-empty") as before:
        store.load(lines, f"{name}-empty")
        with pytest.raises(interlock.Dropped):  # it does not write into what was imported
            before.create("x", 1)
    assert body(list(store.export(f"{name}-empty"))) == body(lines)


def test_nobody_opens_a_space_that_is_being_imported(store: interlock.Store, name: str) -> None:
    fill(store, name)
    lines, to = list(store.export(name)), f"{name}-to"
    with pytest.raises(interlock.Invalid, match="cut short"):
        store.load(lines[:50], to)
    assert {each.name: each.importing for each in store.spaces()}[to]
    assert to not in store.names()
    for create in (True, False):
        with pytest.raises(interlock.Unavailable, match="being imported"):
            opened(store, to, create=create)
    with pytest.raises(interlock.Unavailable, match="being imported"):
        list(store.export(to))
    found = [each for each in store.doctor() if to in each.check and each.level == "wrong"]
    assert "not finished" in found[0].found
    other = [lines[0].replace(f'"{name}"', '"another"'), *lines[1:]]
    with pytest.raises(interlock.Invalid, match="Another import"):
        store.load(other, to)
    done = store.load(lines, to)
    assert done.entries == done.position - 48
    assert body(list(store.export(to))) == body(lines)


def test_an_import_that_fails_leaves_what_another_one_has_finished(
    store: interlock.Store, name: str
) -> None:
    fill(store, name)
    lines, to = list(store.export(name)), f"{name}-to"

    def late(last: str) -> Iterator[str]:
        yield from lines[:50]
        store.load(lines, to)
        with opened(store, to, create=False) as space:
            space.update("live", lambda n: (n or 0) + 1)
        yield last

    with pytest.raises(interlock.Invalid, match="malformed"):
        store.load(late("garbage"), to)
    with opened(store, to, create=False) as space:
        assert space.read("live").value == 1
    with pytest.raises(interlock.Invalid, match="malformed"):
        store.load([*lines[:50], "garbage"], f"{name}-bad")  # nobody has finished this one
    assert f"{name}-bad" not in {each.name for each in store.spaces()}


def test_an_import_that_fails_leaves_the_empty_space_that_was_there(
    store: interlock.Store, name: str
) -> None:
    fill(store, name)
    lines, to = list(store.export(name)), f"{name}-to"
    store.create(to)
    with pytest.raises(interlock.Invalid, match="malformed"):
        store.load([*lines[:50], "garbage"], to)
    with opened(store, to, create=False) as space:
        assert space.position() == 0
    with pytest.raises(interlock.Invalid, match="cut short"):
        store.load(lines[:50], to)
    store.load(lines, to)
    with opened(store, to, create=False) as space:
        assert space.position() > 0


@pytest.mark.parametrize("extra", ["again", "garbage"])
def test_an_import_refuses_lines_behind_the_last_one(
    store: interlock.Store, name: str, extra: str
) -> None:
    fill(store, name)
    lines = list(store.export(name))
    store.load([*lines, "", " "], f"{name}-to")
    with pytest.raises(interlock.Invalid, match="behind its last line"):
        store.load([*lines, *(lines if extra == "again" else [extra])], f"{name}-bad")
    assert f"{name}-bad" not in {each.name for each in store.spaces()}


def test_an_import_of_what_is_no_text_is_refused(
    store: interlock.Store, name: str, tmp_path: Path
) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\xd0\n")
    file = (tmp_path / "binary").open(encoding="utf-8")
    with file, pytest.raises(interlock.Invalid, match="not UTF-8"):
        store.load(file, f"{name}-to")
    lines: Any = [b"{}"]
    with pytest.raises(interlock.Invalid, match="lines of text, not bytes"):
        store.load(lines, f"{name}-to")


ROW = Row(1, "k", 1, 0, "put", "1", "a", 5, "op")


def test_rows_are_written_only_into_an_import_and_only_where_they_follow(
    store: interlock.Store, name: str
) -> None:
    opened(store, name).close()
    plain = open_backend(store.url, name, create=False)
    assert plain.perform(Restore(position=0, rows=(ROW,))) == 0
    plain.close()
    importing = open_backend(store.url, f"{name}-to", importing=Importing("test", 0))
    perform = importing.perform
    assert perform(Restore(position=3, rows=(ROW._replace(position=4),))) == 0
    assert perform(Restore(position=0, rows=(ROW._replace(version=2),))) == 0
    assert perform(Restore(position=0, rows=(ROW, ROW._replace(position=3, version=2)))) == 0
    assert perform(Restore(position=0, base=(ROW,))) == 0
    for _ in range(2):  # sent twice
        assert perform(Restore(position=0, rows=(ROW,))) == 1
    assert perform(Mark()) == (1, 0)
    assert not perform(Finish(position=2, parts=Parts()))
    for _ in range(2):
        assert perform(Finish(position=1, parts=Parts(epochs=(("k", 4),))))
    assert perform(Restore(position=1, rows=(ROW._replace(position=2, version=2),))) == 1
    importing.close()
    with opened(store, f"{name}-to", create=False) as space:
        (entry,) = space.log()
        assert (entry.time_us, entry.op_id, entry.agent) == (5, "op", "a")
        record = space.read("k")
        assert (record.version, record.epoch, record.value) == (1, 4, 1)


def test_a_copy_follows_until_it_is_told_to_stop(store: interlock.Store, name: str) -> None:
    to = f"{name}-to"
    with opened(store, name) as space:
        space.create("k", 0)
        rounds = iter(range(1, 4))

        def follow() -> bool:
            number = next(rounds, None)
            if number is not None:
                space.update("k", lambda _: number)
            return number is not None

        done = store.copy(name, store.url, to=to, follow=follow)
    assert (done.position, done.entries) == (4, 4)
    assert body(list(store.export(to))) == body(list(store.export(name)))
    with pytest.raises(interlock.Invalid, match="not empty"):
        store.copy(name, store.url, to=to)


@pytest.mark.parametrize("heads_only", [False, True], ids=["history", "heads only"])
def test_an_interrupted_copy_goes_on(store: interlock.Store, name: str, heads_only: bool) -> None:
    to = f"{name}-to"
    with opened(store, name, rules=RULES) as space:
        for n in range(5):
            space.append("found/x", n)

        def stop() -> bool:
            space.append("found/x", "later")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.copy(name, store.url, to=to, heads_only=heads_only, follow=stop)
        with pytest.raises(interlock.Unavailable, match="being imported"):
            opened(store, to)
        done = store.copy(name, store.url, to=to, heads_only=heads_only)
        assert (done.position, done.entries) == (7, 1)
        with opened(store, to, agent="z") as copied:
            assert copied.read("found/x").value == space.read("found/x").value
            assert len(list(copied.log())) == (1 if heads_only else 7)


def test_the_doctor_finds_what_the_dead_left(
    store: interlock.Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interlock.core.health.HANGS_AFTER", 0.0)
    with opened(store, name, agent="ann") as space:
        space.create("k", 1)
        backend = open_backend(store.url, name, create=False)
        for key, ttl in (("k", 1e-6), ("l", 1000.0)):
            taken = TakeLease(
                keys=(key,), name=f"n-{key}", agent="ann", incarnation=0, ttl=ttl, epoch=0
            )
            assert backend.perform(taken).granted
        read = ReadGroup(group="g", consumer="one", prefix="", ttl=1e-6, start=0, limit=5, name="r")
        answer = backend.perform(read)
        assert isinstance(answer, Deliveries)
        assert len(answer.items) == 1
        backend.close()
    found = [each for each in store.doctor() if name in each.check]
    assert [each.level for each in found] == ["wrong", "wrong", "ok"]
    lease, group, rest = (each.found for each in found)
    assert "'k'" in lease
    assert "'ann' did not give it up" in lease
    assert group == "group 'g' has 1 entries pending with dead consumers"
    assert rest.startswith("1 entries up to position 1, 1 leases, ")


async def test_the_same_with_asyncio(store: interlock.Store, name: str) -> None:
    async with interlock.AsyncStore(store.url) as other:
        await other.create(name)
        async with interlock.open_async(store.url, space=name, agent="a") as space:
            await space.create("k", 1)
        lines = [line async for line in other.export(name)]
        assert (await other.load(lines, f"{name}-to")).position == 1
        assert (await other.copy(name, store.url, to=f"{name}-copy")).entries == 1
        names = {each.name for each in await other.spaces()}
        assert {name, f"{name}-to", f"{name}-copy"} <= names
        assert any(each.check == "server" for each in await other.doctor())
        await other.drop(f"{name}-to")
        assert list(islice(store.export(f"{name}-copy"), 1, None)) == body(lines)


def test_a_cluster_has_all_of_it_but_other_names(redis_cluster_url: str, name: str) -> None:
    with interlock.Store(redis_cluster_url) as store:
        fill(store, name)
        lines = list(store.export(name))
        with pytest.raises(interlock.Invalid, match="cluster"):
            store.rename(name, f"{name}-to")
        store.load(lines, f"{name}-to")
        assert body(list(store.export(f"{name}-to"))) == body(lines)
        assert {name, f"{name}-to"} <= {each.name for each in store.spaces()}
        for each in (name, f"{name}-to"):
            store.drop(each)


@pytest.mark.parametrize("heads_only", [False, True], ids=["history", "heads only"])
def test_what_expires_travels_with_when(
    store: interlock.Store, name: str, heads_only: bool
) -> None:
    with opened(store, name) as space:
        long = space.create("long", 1, expires=1000)
        stays = space.write(space.create("stays", 1, expires=500), 2)
        short = space.create("short", {"n": 1}, expires=0.05)
        assert short.expires_at is not None
        while space.time() <= short.expires_at:
            pass
    lines, to = list(store.export(name, heads_only=heads_only)), f"{name}-to"
    assert sum("expires_us" in line for line in lines) == (2 if heads_only else 3)
    store.load(lines, to)
    assert body(list(store.export(to, heads_only=heads_only))) == body(lines)
    with opened(store, to, agent="z") as new:
        assert new.read("long").expires_at == long.expires_at
        assert new.read("stays").value == stays.value
        assert new.read("short").expired
        assert not new.at(time=new.time()).read("short").exists
        assert [*new.scan()] == ["long", "stays"]
        assert (new.trim().expired, new.read("short").version) == (1, 2)
