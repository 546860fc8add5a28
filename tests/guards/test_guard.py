"""What every guard promises, whatever the place: the verbs, and never over what was not seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock import guards
from interlock.errors import AnswerLost
from tests.guards.conftest import Outside


@dataclass
class Seat:
    """A part of what is stored."""

    row: int
    status: str = "PENDING"


def test_verbs_do_to_data_outside_what_a_space_does_to_keys(outside: Outside) -> None:
    guard, key = outside.guard(), outside.key
    absent = guard.read(key)
    assert (absent.exists, absent.value, absent.version) == (False, None, 0)
    made = guard.create(key, {"row": 1, "tags": ["a"]})
    assert outside.look() == made.value == {"row": 1, "tags": ["a"]}
    written = guard.write(made, {"row": 2, "tags": ["a"], "note": None})
    assert guard.read(key)[:2] == written[:2]
    assert guard.update(key, lambda value: {**value, "row": value["row"] + 1}).value["row"] == 3
    assert guard.patch(key, {"note": None, "more": {"deep": 1}}).value["more"] == {"deep": 1}
    guard.update_fields(key, {"row": None}, remove=["more"])
    assert outside.look() == {"row": None, "tags": ["a"]}
    gone = guard.delete(guard.read(key))
    assert (gone.exists, outside.look()) == (False, None)
    assert guard.create(key, [1]).exists


def test_a_write_over_what_somebody_outside_wrote_conflicts_and_names_no_version(
    outside: Outside,
) -> None:
    guard, key = outside.guard(), outside.key
    record = guard.create(key, {"row": 1})
    outside.overwrite({"row": 2})
    writes: list[Callable[[], Any]] = [
        lambda: guard.write(record, {"row": 3}),
        lambda: guard.delete(record),
        lambda: guard.patch(record, {"row": 3}),
    ]
    for write in writes:
        with pytest.raises(interlock.Conflict) as caught:
            write()
        assert "was changed by a writer outside. Re-read" in str(caught.value)
        assert caught.value.record.value == outside.look() == {"row": 2}
    assert guard.write(caught.value.record, {"row": 4}).value == outside.look() == {"row": 4}


def test_create_refuses_what_exists(outside: Outside) -> None:
    outside.overwrite({"row": 2})
    with pytest.raises(interlock.Conflict, match="already exists"):
        outside.guard().create(outside.key, {"row": 1})
    assert outside.look() == {"row": 2}


def test_update_thinks_again_on_what_somebody_outside_wrote(outside: Outside) -> None:
    outside.overwrite({"row": 1})
    given = []

    def think(value: Any) -> Any:
        given.append(value["row"])
        if len(given) == 1:
            outside.overwrite({"row": 10})
        return {"row": value["row"] + 1}

    assert outside.guard().update(outside.key, think).value == {"row": 11}
    assert given == [1, 10]


def test_update_gives_up_after_its_attempts(outside: Outside) -> None:
    outside.overwrite({"row": 0})

    def think(value: Any) -> Any:
        outside.overwrite({"row": value["row"] + 1})
        return {"row": -1}

    with pytest.raises(interlock.Contended, match="after 2 attempts"):
        outside.guard().update(outside.key, think, attempts=2, turns="never")
    assert outside.look() == {"row": 2}


def test_a_patch_of_a_record_goes_through_where_other_fields_changed(outside: Outside) -> None:
    guard = outside.guard()
    record = guard.create(outside.key, {"row": 1, "note": "a"})
    outside.overwrite({"row": 2, "note": "a"})
    assert guard.patch(record, {"note": "b"}).value == outside.look() == {"row": 2, "note": "b"}


def test_machine_and_schema_bind_writes_through_the_guard(outside: Outside) -> None:
    guard = outside.guard(machine=interlock.BOOKING, schema=Seat)
    key = outside.key
    with pytest.raises(interlock.IllegalTransition):
        guard.create(key, {"row": 1, "status": "COMPLETED"})
    guard.create(key, {"row": 1, "status": "PENDING_PAYMENT"})
    paid = guard.transition(key, "COMPLETED", row=2)
    assert outside.look() == paid.value == {"row": 2, "status": "COMPLETED"}
    with pytest.raises(interlock.IllegalTransition, match="'REFUND_PENDING'"):
        guard.write(paid, {"row": 2, "status": "PENDING"})
    with pytest.raises(interlock.IllegalTransition, match="can't be deleted"):
        guard.delete(paid)
    with pytest.raises(interlock.Invalid, match="row"):
        guard.patch(key, {"row": "first"})
    assert outside.look() == {"row": 2, "status": "COMPLETED"}
    with pytest.raises(interlock.Invalid, match="give it machine="):
        outside.guard().transition(key, "CANCELLED")


def test_rebase_merges_what_was_changed_in_other_places(outside: Outside) -> None:
    guard = outside.guard(on_conflict="rebase")
    record = guard.create(outside.key, {"row": 1, "note": "a"})
    outside.overwrite({"row": 2, "note": "a"})
    assert guard.write(record, {"row": 1, "note": "b"}).value == {"row": 2, "note": "b"}
    with pytest.raises(interlock.Conflict, match="both changed row"):
        guard.write(record, {"row": 3, "note": "a"})
    assert outside.look() == {"row": 2, "note": "b"}


def test_types_are_read_and_unknown_fields_stay(outside: Outside) -> None:
    outside.overwrite({"row": 1, "status": "PENDING", "theirs": True})
    guard = outside.guard()
    assert guard.read(outside.key, Seat).value == Seat(1)
    guard.update(outside.key, lambda seat: Seat(seat.row + 1), Seat)
    assert outside.look() == {"row": 2, "status": "PENDING", "theirs": True}


def test_a_version_in_the_value_is_raised_and_says_who_wrote(outside: Outside) -> None:
    outside.overwrite({"row": 1, "_version": 7, "_last_writer": "old"})
    guard = outside.guard(agent="planner")
    read = guard.read(outside.key)
    assert (read.version, read.writer) == (7, "old")
    written = guard.update_fields(read, {"row": 2})
    assert written.version == 8
    assert outside.look() == {"row": 2, "_version": 8, "_last_writer": "planner"}
    newer = outside.guard(agent="second").update_fields(outside.key, {"row": 3, "_updated_at": ""})
    with pytest.raises(interlock.Conflict, match="read version 7, 'second' wrote version 9"):
        guard.write(read, {})
    assert newer.at == guard.read(outside.key).at


def test_a_version_that_a_blind_writer_put_back_is_not_trusted(outside: Outside) -> None:
    outside.overwrite({"row": 1, "_version": 7})
    guard = outside.guard()
    read = guard.read(outside.key)
    outside.overwrite({"row": 2, "_version": 7})
    with pytest.raises(interlock.Conflict, match="changed by a writer outside"):
        guard.write(read, {"row": 3})
    assert outside.look() == {"row": 2, "_version": 7}


def test_metadata_is_kept_where_it_is_asked_for_and_nowhere_else(outside: Outside) -> None:
    kept = outside.guard(metadata=True, agent="planner").create(outside.key, {"row": 1})
    stored = outside.look()
    assert (stored["_version"], stored["_last_writer"], kept.version) == (1, "planner", 1)
    assert stored["_updated_at"] == pytest.approx(kept.time_us / 1e6)
    with pytest.raises(interlock.Invalid, match="needs an object"):
        outside.guard(metadata=True).write(outside.guard().read(outside.key), [1])
    outside.guard(metadata=False).update(outside.key, lambda value: {"row": 2})
    assert outside.look() == {"row": 2}


def test_what_is_not_json_and_what_is_no_key_are_refused(outside: Outside) -> None:
    guard = outside.guard()
    calls: list[Callable[[], Any]] = [
        lambda: guard.create(outside.key, {1, 2}),
        lambda: guard.read(""),
        lambda: guard.read(7),
        lambda: guard.update("$rules", lambda value: 1),
        lambda: guard.create("k" * 20_000, 1),
        lambda: guard.update(outside.key, lambda value: None),
        lambda: guard.update(outside.key, lambda value: 1, turns="some"),
        lambda: outside.guard(max_value_bytes=10).create(outside.key, "a long text"),
        lambda: outside.guard(turns=7),
        lambda: outside.guard(on_conflict="maybe"),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid):
            call()
    assert outside.look() is None


def test_keys_may_be_what_a_space_would_not_take(outside: Outside) -> None:
    guard = outside.guard()
    for key in outside.odd_keys:
        key = f"{key}{outside.key}"
        guard.create(key, {"n": 1})
        assert guard.patch(key, {"n": 2}).value == {"n": 2}


def test_a_record_of_another_guard_is_refused(outside: Outside) -> None:
    outside.overwrite(1)
    record = outside.guard(name="other").read(outside.key)
    with pytest.raises(interlock.Invalid, match="another space"):
        outside.guard().write(record, 2)


def test_nothing_is_written_where_nothing_changes(outside: Outside) -> None:
    outside.overwrite({"row": 1, "_version": 3})
    guard = outside.guard()
    assert guard.update(outside.key, lambda value: value).version == 3
    assert guard.write(guard.read(outside.key), {"row": 1, "_version": 3}).version == 3
    assert guard.patch(outside.key, {"row": 1}).version == 3
    assert outside.look() == {"row": 1, "_version": 3}


@pytest.mark.parametrize("kind", ["row", "file"])
def test_a_create_whose_answer_was_lost_does_not_bring_back_what_others_deleted(
    kind: str, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE booking (id TEXT PRIMARY KEY, seat TEXT)")
        guard = guards.file(tmp_path) if kind == "file" else guards.table(connection, "booking")
        key = "1.json" if kind == "file" else "1"
        backend: Any = guard.session.driver.backend
        place = backend.place
        send, sent = place.replace, []

        async def lose(change: Any) -> None:
            sent.append(await send(change))
            other = guards.file(tmp_path) if kind == "file" else guards.table(connection, "booking")
            other.delete(other.read(key))
            raise AnswerLost("cut")

        place.replace = lose
        with pytest.raises(interlock.Unknown, match="answer to the create of"):
            guard.create(key, {"id": "1", "seat": "12A"})
        assert len(sent) == 1
        assert not guard.read(key).exists


def test_what_was_lost_is_still_known_after_the_store_was_away(tmp_path: Path) -> None:
    guard, again = guards.file(tmp_path), []
    record = guard.create("1.json", {"n": 1})
    backend: Any = guard.session.driver.backend
    place = backend.place
    send, problems = place.replace, [AnswerLost("cut"), interlock.Unavailable("away")]

    async def replace(change: Any) -> Any:
        again.append(change.again)
        if problems:
            raise problems.pop(0)
        return await send(change)

    place.replace = replace
    assert guard.write(record, {"n": 2}).value == {"n": 2}
    assert again == [False, True, True]
