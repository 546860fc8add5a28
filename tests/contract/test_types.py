"""Typed values on every store: read and written as a type, refused where they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

import interlock
from tests.facades import Facades


@dataclass(frozen=True)
class Seat:
    row: int


@dataclass(frozen=True)
class Booking:
    seats: tuple[Seat, ...] = ()
    until: datetime | None = None


UNTIL = datetime(2026, 12, 1, tzinfo=UTC)
FIRST = Booking((Seat(12),), UNTIL)
WRONG = {"seats": [{"row": 1}, {"row": 2}, {"row": "x"}]}
PATH = r"booking/1.*does not fit Booking: Expected int, got str at \$\.seats\[2\]\.row"


def test_a_value_is_read_as_the_type_that_it_was_written_as(space: Any) -> None:
    written = space.write(space.read("booking/1", Booking), FIRST)
    json = {"seats": [{"row": 12}], "until": "2026-12-01T00:00:00Z"}
    assert written.value == space.read("booking/1").value == json
    assert space.read("booking/1", Booking) == written._replace(value=FIRST)
    assert space.read_many(["booking/1"], Booking)["booking/1"].value == FIRST
    assert space.scan("booking/", Booking)["booking/1"].value == FIRST
    assert space.at(position=1).read("booking/1", Booking).value == FIRST
    assert space.at(position=1).scan("booking/", Booking)["booking/1"].value == FIRST
    assert space.read("booking/2", Booking).value is None
    assert space.position() == 1


def test_entries_are_read_as_a_type(space: Any) -> None:
    record = space.create("booking/1", FIRST)
    space.delete(record)
    assert [entry.value for entry in space.history("booking/1", Booking)] == [FIRST, None]
    assert [entry.value for entry in space.log(prefix="booking/", type=Booking)] == [FIRST, None]
    watched = space.watch("booking/", after=0, type=Booking)
    assert next(watched).value == FIRST


def test_contributions_are_read_as_a_type(facades: Facades) -> None:
    space = facades.open("us", rules={"seats": interlock.merged("append")})
    assert space.append("seats", Seat(1)).value == {"row": 1}
    space.append("seats", Seat(2), dedupe=True)
    space.append("seats", Seat(2), dedupe=True)
    assert space.read("seats", list[Seat]).value == [Seat(1), Seat(2)]
    assert [entry.value for entry in space.history("seats", Seat)] == [Seat(1), Seat(2)]


def test_an_update_gets_the_type_and_returns_it(space: Any) -> None:
    given = []

    def move(booking: Booking) -> Booking:
        given.append(booking)
        return replace(booking, seats=(*booking.seats, Seat(13)))

    first = space.update("booking/1", move, Booking, default=FIRST)
    assert first.value == Booking((Seat(12), Seat(13)), UNTIL)
    assert space.update("booking/1", move, Booking).value.seats[2] == Seat(13)
    assert given == [FIRST, first.value]
    gone = space.update("booking/1", lambda _: interlock.DELETE, Booking)
    assert (gone.exists, gone.value) == (False, None)


def test_an_update_of_a_key_that_does_not_exist_needs_a_default_or_a_type_with_none(
    space: Any,
) -> None:
    with pytest.raises(interlock.Invalid, match=r"'n' does not exist. Pass default="):
        space.update("n", lambda n: n + 1, int)
    assert space.update("n", lambda n: (n or 0) + 1, int | None).value == 1
    assert space.update("m", lambda n: (n or 0) + 1, int, default=None).value == 1
    with pytest.raises(interlock.Invalid, match=r"Default= of 'o' does not fit int"):
        space.update("o", lambda n: n, int, default="1")
    assert space.position() == 2


def test_what_does_not_fit_is_refused_at_write_and_changes_nothing(space: Any) -> None:
    record = space.create("booking/1", FIRST)
    wrong = Booking((Seat(1), Seat(2), Seat("x")))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(interlock.Invalid, match=PATH):
        space.update("booking/1", lambda _: wrong, Booking)
    writes: list[Callable[[], Any]] = [
        lambda: space.write(record, wrong),
        lambda: space.create("booking/2", wrong),
        lambda: space.update("booking/1", lambda _: wrong),
    ]
    for write in writes:
        with pytest.raises(interlock.Invalid, match=r"does not fit Booking: .* \$\.seats\[2\]"):
            write()
    assert space.position() == 1


def test_what_does_not_fit_is_refused_at_read(space: Any) -> None:
    space.create("booking/1", WRONG)
    space.create("unrelated", 1)
    lease = space.lease("booking/1", wait=0)
    lease.acquire()
    reads: list[Callable[[], Any]] = [
        lambda: space.read("booking/1", Booking),
        lambda: space.read_many(["unrelated", "booking/1"], Booking),
        lambda: space.scan("booking/", Booking),
        lambda: space.at(position=1).read("booking/1", Booking),
        lambda: list(space.history("booking/1", Booking)),
        lambda: list(space.log(type=Booking)),
        lambda: next(space.watch(after=0, type=Booking)),
        lambda: lease.read(Booking),
    ]
    for read in reads:
        with pytest.raises(interlock.Invalid, match=r"does not fit Booking"):
            read()
    lease.release()
    with pytest.raises(interlock.Invalid, match=PATH):
        space.update("booking/1", lambda booking: booking, Booking)
    assert space.position() == 2


def test_a_type_that_no_value_can_have_is_refused_before_anything_is_done(space: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: space.read("k", object),
        lambda: space.update("k", lambda value: value, 3),
        lambda: space.history("k", object),
        lambda: space.watch(type=object),
        lambda: space.projection(lambda value, entry: value, type=object),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid, match="can't be the type of a value"):
            call()


def test_a_lease_reads_and_writes_the_type(space: Any) -> None:
    space.create("booking/1", FIRST)
    lease = space.lease("booking/1")
    lease.acquire()
    assert lease.read(Booking).value == FIRST
    lease.write(Booking())
    assert lease.read(Booking).value == Booking()
    assert lease.update(lambda booking: replace(booking, until=UNTIL), Booking).value.until == UNTIL
    with pytest.raises(interlock.Invalid, match="does not fit Booking"):
        lease.update(lambda booking: 3, Booking)
    lease.release()


def test_a_lease_of_a_key_that_does_not_exist_updates_a_type_that_allows_none(space: Any) -> None:
    lease = space.lease("n")
    lease.acquire()
    with pytest.raises(interlock.Invalid, match="'n' does not exist"):
        lease.update(lambda n: n + 1, int)
    assert lease.update(lambda n: (n or 0) + 1, int | None).value == 1
    lease.release()


def test_a_typed_update_that_changes_nothing_makes_no_entry(space: Any) -> None:
    space.create("booking/1", {"note": 1, "until": None, "seats": [{"row": 1}]})
    record = space.update("booking/1", lambda booking: booking, Booking)
    assert (record.version, space.position()) == (1, 1)
    space.write(space.update("booking/1", lambda _: FIRST, Booking), FIRST, touch=True)
    written = space.read("booking/1")
    assert space.write(written, FIRST).version == written.version


def test_every_other_way_to_write_takes_typed_values(facades: Facades) -> None:
    space = facades.open("us", rules={"seats": interlock.merged("append")})
    made = space.create_many({"a": FIRST, "b": {"first": Seat(1)}})
    space.write_many([(made["a"], Booking())])
    space.patch("b", {"second": Seat(2)})
    space.update_fields("b", {"third": Seat(3)})
    space.append_many("seats", [Seat(1), Seat(2)])
    assert space.read("a", Booking).value == Booking()
    assert space.read("b", dict[str, Seat]).value == {
        "first": Seat(1),
        "second": Seat(2),
        "third": Seat(3),
    }
    assert space.read("seats", list[Seat]).value == [Seat(1), Seat(2)]


def test_a_transaction_reads_and_writes_types(sync_facades: Facades) -> None:
    space = sync_facades.open("us")
    space.create("a", FIRST)
    with space.transaction() as tx:
        booking = tx.read("a", Booking)
        tx.write(booking, replace(booking.value, until=None))
        assert tx.read("a", Booking).value == Booking((Seat(12),))
        assert tx.scan("", Booking)["a"].value == Booking((Seat(12),))
        tx.create("b", Booking())
        tx.update("n", lambda n: n + 1, int, default=1)
    assert space.read("a", Booking).value == Booking((Seat(12),))
    assert space.read_many(["b", "n"]).keys() == {"b", "n"}
    assert space.read("n", int).value == 2
    wrong = Booking(("x",))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(interlock.Invalid, match=r"\$\.seats\[0\]"), space.transaction() as tx:
        tx.write(tx.read("a", Booking), wrong)
    with pytest.raises(interlock.Invalid, match="does not fit int"), space.transaction() as tx:
        tx.update("n", str, int)
    with pytest.raises(interlock.Invalid, match="None"), space.transaction() as tx:
        tx.update("n", print)
    assert space.position() == 4
    with space.transaction() as tx:
        tx.update("n", lambda _: interlock.DELETE)
    assert not space.read("n").exists


def test_a_typed_value_that_a_transaction_changed_and_did_not_write_is_noticed(
    sync_facades: Facades,
) -> None:
    space = sync_facades.open("us")
    space.create("seats", [Seat(1)])
    tx = space.transaction()
    tx.read("seats", list[Seat]).value.append(Seat(2))
    tx.create("other", 1)
    with pytest.raises(interlock.Invalid, match="changed the value of 'seats'"), tx:
        pass
    assert space.position() == 1


def test_fields_that_the_type_of_an_update_does_not_know_stay(space: Any) -> None:
    space.create("booking/1", {"seats": [{"row": 1, "view": "sea"}], "note": "window"})
    space.update("booking/1", lambda booking: replace(booking, until=UNTIL), Booking)
    assert space.read("booking/1").value == {
        "seats": [{"row": 1, "view": "sea"}],
        "until": "2026-12-01T00:00:00Z",
        "note": "window",
    }
    with pytest.raises(interlock.Invalid, match=r"would lose at \$\.seats\[0\]"):
        space.update("booking/1", lambda booking: replace(booking, seats=(Seat(2),)), Booking)
    assert space.position() == 2


def test_a_typed_write_is_rebased_as_a_plain_one_is(facades: Facades) -> None:
    rules = {"booking/*": interlock.guarded(on_conflict="rebase")}
    ours, theirs = facades.open("us", rules=rules), facades.open("them", rules=rules)
    record = ours.create("booking/1", FIRST)
    theirs.write(record, Booking((Seat(12),), None))
    merged = ours.write(record, Booking((Seat(1),), UNTIL))
    assert merged.value == {"seats": [{"row": 1}], "until": None}


def test_a_projection_folds_typed_values(space: Any) -> None:
    space.create("booking/1", FIRST)
    space.create("booking/2", Booking((Seat(1), Seat(2))))

    def count(seats: int, entry: interlock.Entry[Booking]) -> int:
        return seats + len(entry.value.seats)

    view = space.projection(count, prefix="booking/", initial=0, type=Booking)
    assert view.refresh() == 3
    space.create("booking/3", WRONG)
    with pytest.raises(interlock.Invalid, match="does not fit Booking"):
        view.refresh()


@dataclass(frozen=True)
class Place:
    """It was {"at": "Rome, Italy"} at first."""

    city: str
    country: str


def parted(fields: dict[str, Any]) -> dict[str, Any]:
    city, country = fields["at"].split(", ")
    return {"city": city, "country": country}


interlock.upcast(Place, 1, parted)
ROME = Place("Rome", "Italy")
OLD_ROME = {"at": "Rome, Italy"}
NEW_ROME = {"$version": 2, "city": "Rome", "country": "Italy"}


def test_old_objects_are_lifted_wherever_they_are_read(sync_facades: Facades) -> None:
    space = sync_facades.open("us")
    record = space.create("place/1", OLD_ROME)
    space.create("place/2", Place("Bonn", "Germany"))
    assert space.read("place/1", Place).value == ROME
    assert space.read_many(["place/1"], Place)["place/1"].value == ROME
    assert space.scan("place/1", Place)["place/1"].value == ROME
    assert next(space.watch("place/", after=0, type=Place)).value == ROME
    view = space.projection(
        lambda value, entry: [*value, entry.value], prefix="place/1", initial=[], type=Place
    )
    with space.transaction() as tx:
        assert tx.read("place/1", Place).value == ROME
        tx.update("place/1", lambda place: place, Place)
    assert space.read("place/1").value == NEW_ROME
    assert [entry.value for entry in space.history("place/1", Place)] == [ROME, ROME]
    assert view.refresh() == [ROME, ROME]
    assert space.at(position=record.position).read("place/1", Place).value == ROME
    assert space.at(position=record.position).read("place/1").value == OLD_ROME
    assert space.read("place/2").value["$version"] == 2


def test_an_update_stores_an_old_object_as_the_newest_version(space: Any) -> None:
    space.create("place/1", OLD_ROME)
    space.update("place/1", lambda place: replace(place, city="Roma"), Place)
    assert space.read("place/1").value == NEW_ROME | {"city": "Roma"}


def test_a_version_that_this_process_does_not_know_is_invalid_and_stays(space: Any) -> None:
    space.create("place/1", {"$version": 3, "where": 7})
    with pytest.raises(interlock.Invalid, match="Place has version 3"):
        space.read("place/1", Place)
    with pytest.raises(interlock.Invalid, match="Place has version 3"):
        space.update("place/1", lambda place: ROME, Place)
    assert space.position() == 1


def test_a_malformed_upcast_is_invalid() -> None:
    with pytest.raises(interlock.Invalid, match="can't have versions"):
        interlock.upcast(int, 1, parted)


def test_a_log_that_is_read_as_a_type_leaves_the_rules_out(facades: Facades) -> None:
    space = facades.open("us", rules={"seats": interlock.merged("append")})
    space.append("seats", Seat(1))
    space.append("seats", Seat(2))
    assert [entry.value for entry in space.log(type=Seat)] == [Seat(1), Seat(2)]
    newest = space.log(type=Seat, limit=2, newest_first=True)
    assert [entry.value for entry in newest] == [Seat(2), Seat(1)]
    assert [entry.value for entry in space.log(type=Seat, limit=1)] == [Seat(1)]
    assert next(space.watch(after=0, type=Seat)).value == Seat(1)
    assert [entry.key for entry in space.log(prefix="$", type=dict)] == ["$rules"]
    assert next(space.log()).key == "$rules"
