"""Encrypted values: read as they were written with the cipher, and by nobody without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.cipher import SQLiteKeys, SubjectCipher
from interlock.core.plan import Write
from interlock.core.requests import Commit, Load, Trim
from tests.facades import Facades

SECRET = "alice@example.com"
RULES = {"found/*": interlock.merged("append"), "n": interlock.merged("counter")}


@dataclass(frozen=True)
class Found:
    text: str


def subject_of(key: str) -> str:
    return "alice" if "alice" in key else "others"


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[SQLiteKeys]:
    kept = SQLiteKeys(tmp_path / "keys.db")
    yield kept
    kept.close()


@pytest.fixture
def cipher(keys: SQLiteKeys) -> SubjectCipher:
    return SubjectCipher(keys, subject_of)


@pytest.fixture
def space(facades: Facades, cipher: SubjectCipher) -> Any:
    return facades.open(agent="ann", cipher=cipher, rules=RULES)


def exported(facades: Facades) -> list[str]:
    """All that the store holds of the space, as it holds it."""
    with interlock.Store(facades.url) as store:
        return [*store.export(facades.space)]


def test_values_read_as_they_were_written(facades: Facades, space: Any) -> None:
    made = space.create("alice/1", {"mail": SECRET, "n": 1})
    assert space.read("alice/1").value == made.value == {"mail": SECRET, "n": 1}
    assert space.update("alice/1", lambda v: {**v, "n": 2}).version == 2
    assert space.patch("alice/1", {"n": 3}).value == {"mail": SECRET, "n": 3}
    space.append_many("found/alice", [SECRET, "b"])
    space.append("n", 2)
    space.append("n", 3)

    def pay(tx: Any) -> None:
        record = tx.read("alice/1")
        assert tx.read("found/alice").value == [SECRET, "b"]
        tx.write(record, {**record.value, "n": 4})
        tx.create("alice/2", SECRET)

    if facades.kind == "sync":
        with space.transaction() as tx:
            pay(tx)
    else:
        space.transact(pay)
    assert {key: record.value for key, record in space.scan().items()} == {
        "alice/1": {"mail": SECRET, "n": 4},
        "alice/2": SECRET,
        "found/alice": [SECRET, "b"],
        "n": 5,
    }
    assert [e.value["n"] for e in space.history("alice/1")] == [1, 2, 3, 4]
    assert space.at(position=made.position).read("alice/1").value == made.value
    assert next(space.watch("alice/", after=0)).value == made.value
    with pytest.raises(interlock.Conflict) as refused:
        space.write(made, 0)
    assert refused.value.record.value == {"mail": SECRET, "n": 4}
    with space.lease("alice/2", ttl=60) as lease:
        assert lease.record.value == SECRET
    (got, *_) = space.group("g", prefix="alice/", consumer="one").take(1)
    assert got.entry.value == made.value
    assert SECRET not in "".join(exported(facades))


def test_an_operation_that_is_sent_again_is_the_same_one(space: Any) -> None:
    made = space.create("alice/1", SECRET, op_id="once")
    assert space.create("alice/1", SECRET, op_id="once") == made
    with pytest.raises(interlock.Invalid, match="once"):
        space.create("alice/1", "other", op_id="once")
    assert space.write(made, SECRET, touch=False) == made


def test_runs_go_on_and_leave_no_plaintext(facades: Facades, space: Any) -> None:
    asked = []

    def ask() -> str:
        asked.append(SECRET)
        return SECRET

    for n in range(2):
        with suppress(KeyError), space.run("r", input=SECRET) as run:
            run.result = run.step("ask", ask)
            if not n:
                raise KeyError(SECRET)
    shown = space.runs.show("r")
    assert (shown.input, shown.result, asked) == (SECRET, SECRET, [SECRET])
    assert SECRET not in "".join(exported(facades))


def test_a_projection_is_folded_and_not_kept(
    facades: Facades, space: Any, keys: SQLiteKeys
) -> None:
    space.create("alice/1", SECRET)
    with pytest.raises(interlock.Invalid, match="not kept under a name"):
        space.projection(lambda n, e: [*n, e.value], initial=[], name="view").refresh()
    view = space.projection(lambda n, e: [*n, e.value], initial=[])
    assert view.refresh() == [SECRET]
    keys.destroy("alice")
    assert view.refresh() == [SECRET]  # in the memory of who folded it
    assert space.projection(lambda n, e: [*n, e.value], initial=[]).refresh() == [None]


def test_a_coordinator_merges_and_rejects_what_is_encrypted(facades: Facades, space: Any) -> None:
    for text in (SECRET, f"bad {SECRET}"):
        space.append("found/alice", text)
    boss = space.coordinator(
        "alice/report",
        source="found/",
        merge="append",
        dedupe="content",
        validate=lambda text: f"{text} is bad" if text.startswith("bad") else None,
        initial=[],
    )
    progress = boss.catch_up()
    assert (progress.merged, progress.rejected) == (1, 1)
    assert space.read("alice/report").value == [SECRET]
    (rejected,) = space.scan(boss.rejected).values()
    assert rejected.value["contribution"] == f"bad {SECRET}"
    assert SECRET not in "".join(exported(facades))


def test_a_group_deals_out_what_is_encrypted(
    facades: Facades, space: Any, keys: SQLiteKeys
) -> None:
    space.create("alice/1", SECRET)
    space.create("bob/1", "kept")
    group = space.group("g", prefix="", consumer="one")
    values = {each.entry.key: each.entry.value for each in group.take()}
    assert (values["alice/1"], values["bob/1"]) == (SECRET, "kept")
    assert SECRET not in "".join(exported(facades))
    group.close()
    keys.destroy("alice")
    dealt = {each.entry.key: each.entry for each in space.group("g", consumer="two").take()}
    assert (dealt["alice/1"].value, dealt["alice/1"].erased) == (None, True)
    assert dealt["bob/1"].value == "kept"


def test_a_run_waits_for_what_is_encrypted(sync_facades: Facades, cipher: SubjectCipher) -> None:
    space = sync_facades.open(agent="ann", cipher=cipher)
    space.runs.start("r", "p", SECRET)
    space.runs.send("r", "answer", SECRET)
    with space.run("r") as run:
        assert run.wait_for("answer") == run.input == SECRET
        assert run.effect("mail", lambda key: SECRET) == SECRET
    assert space.runs.show("r").steps[1].result == SECRET
    assert SECRET not in "".join(exported(sync_facades))


def test_events_are_replayed_and_a_destroyed_key_leaves_them_out(
    space: Any, keys: SQLiteKeys
) -> None:
    stream = space.events("found/alice", Found)
    stream.append_many([Found(SECRET), Found("b")])
    assert list(stream.replay()) == [Found(SECRET), Found("b")]
    assert keys.destroy("alice")
    assert list(stream.replay()) == []


def test_a_destroyed_key_erases(space: Any, keys: SQLiteKeys) -> None:
    space.create("alice/1", SECRET)
    space.create("bob/1", "kept")
    space.append("found/alice", SECRET)
    position = space.position()
    assert keys.destroy("alice")
    for record in (space.read("alice/1"), space.at(position=position).read("alice/1")):
        assert (record.value, record.exists, record.erased, record.version) == (
            *(None, False, True),
            1,
        )
    assert space.read("found/alice").erased
    assert [(e.value, e.erased) for e in space.log() if not e.key.startswith("$")] == [
        (None, True),
        ("kept", False),
        (None, True),
    ]
    assert [r.value for r in space.scan().values() if r.exists] == ["kept"]
    with pytest.raises(interlock.KeyDestroyed, match="alice"):
        space.create("alice/2", 1)
    assert space.position() == position


def test_another_key_or_another_place_is_refused(
    facades: Facades, space: Any, tmp_path: Path
) -> None:
    space.create("bob/1", SECRET)
    others = SQLiteKeys(tmp_path / "other.db")
    wrong = facades.open(agent="eve", cipher=SubjectCipher(others, subject_of))
    with pytest.raises(interlock.Corrupt, match="'bob/1' cannot be decrypted"):
        wrong.read("bob/1")
    wrong.create("bob/2", 1)
    with pytest.raises(interlock.Corrupt, match="another key"):
        wrong.scan()
    others.close()
    raw = facades.peer("raw").session.unread()
    stored = raw.driver.answer(Load(("bob/1",))).records["bob/1"].body
    moved = raw.writer.plan("moved", writes=(Write("put", "bob/3", stored),))
    raw.driver.answer(Commit(moved))
    with pytest.raises(interlock.Corrupt, match="'bob/3'"):
        space.read("bob/3")


READS: list[Callable[[Any], object]] = [
    lambda space: space.read("alice/1"),
    lambda space: space.read("found/alice"),
    lambda space: space.scan(),
    lambda space: [*space.log()],
    lambda space: [*space.history("alice/1")],
    lambda space: space.at(position=3).read("alice/1"),
    lambda space: space.create("alice/1", 1),
    lambda space: space.update("alice/1", lambda value: value),
    lambda space: space.lease("alice/1", ttl=60).acquire(),
    lambda space: space.group("g", prefix="alice/", consumer="one").take(1),
]


def test_nobody_reads_without_the_cipher(facades: Facades, space: Any) -> None:
    space.create("alice/1", SECRET)
    space.append("found/alice", SECRET)
    blind = facades.open(agent="eve")
    for call in READS:
        with pytest.raises(interlock.Invalid, match=r"encrypted\. Open the space with"):
            call(blind)
    assert blind.create("plain", 1).value == 1  # beside them it may work
    with space.lease("alice/1", ttl=60, wait=0):
        pass  # the lease that could not be read was given back
    with pytest.raises(interlock.Invalid, match="cipher"):
        blind.create("fake", {"$cipher": "AAAA"})
    assert blind.erase("alice/1").removed["log"] == 1  # it looks into no value
    assert space.read("plain").value == 1
    assert not space.read("alice/1").exists


@pytest.mark.interlock_needs("spaces")
def test_a_copy_carries_ciphertexts(
    facades: Facades, cipher: SubjectCipher, space: Any, tmp_path: Path
) -> None:
    space.append_many("found/alice", [SECRET, "b"])
    space.append_many("n", [1, 2])
    space.create("alice/1", SECRET)
    mine = interlock.open(facades.url, facades.space, agent="ann", cipher=cipher)
    with mine:
        folds = {key: json.dumps(mine.read(key).value) for key in ("found/alice", "n")}
        cut = mine.session.driver.answer(Trim(mine.position(), tuple(folds.items())))
    assert cut.position > 0
    space.append("found/alice", "c")
    lines = exported(facades)
    assert SECRET not in "".join(lines)
    url = f"sqlite:///{tmp_path / 'copy.db'}"
    with interlock.Store(url, create=True) as store:
        store.load(lines, "copy")
    with interlock.open(url, "copy", agent="ann", cipher=cipher) as copy:
        assert copy.read("found/alice").value == [SECRET, "b", "c"]
        assert (copy.read("n").value, copy.read("alice/1").value) == (3, SECRET)


def test_a_fold_of_ciphertexts_is_refused(facades: Facades, space: Any, tmp_path: Path) -> None:
    space.append("found/alice", SECRET)
    with (
        interlock.Store(facades.url) as store,
        pytest.raises(interlock.Invalid, match="'found/alice' is encrypted"),
    ):
        store.copy(facades.space, f"sqlite:///{tmp_path / 'heads.db'}", heads_only=True)


@pytest.mark.any_store
@pytest.mark.parametrize("wrong", ["secret", SubjectCipher, object()])
def test_what_is_no_cipher_is_refused(facades: Facades, wrong: Any) -> None:
    with pytest.raises(interlock.Invalid, match="encrypt"):
        facades.open(cipher=wrong)
