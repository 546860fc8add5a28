"""State machines: every way to write a bound key obeys the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import interlock
from tests.facades import Facades

RULES = {"booking/*": interlock.guarded(machine=interlock.BOOKING)}


@pytest.fixture
def bookings(facades: Facades) -> Any:
    return facades.open("desk", rules=RULES)


def paid(space: Any) -> Any:
    space.create("booking/1", {"status": "PENDING", "seat": "12A"})
    space.transition("booking/1", "PENDING_PAYMENT")
    return space.transition("booking/1", "COMPLETED", paid_by="stripe")


def test_a_transition_moves_the_state_and_changes_other_fields(bookings: Any) -> None:
    assert paid(bookings).value == {"status": "COMPLETED", "seat": "12A", "paid_by": "stripe"}
    assert [entry.value["status"] for entry in bookings.history("booking/1")] == [
        "PENDING",
        "PENDING_PAYMENT",
        "COMPLETED",
    ]


def test_a_paid_booking_cannot_be_set_back_however_it_is_written(bookings: Any) -> None:
    record = paid(bookings)
    back = {"status": "PENDING_PAYMENT"}
    changed_in_place = bookings.read("booking/1")
    changed_in_place.value["status"] = "PENDING"

    def in_transaction() -> None:
        with bookings.transaction() as tx:
            tx.write(tx.read("booking/1"), back)

    calls: list[Callable[[], Any]] = [
        lambda: bookings.write(record, back),
        lambda: bookings.write(changed_in_place, back),
        lambda: bookings.update("booking/1", lambda _: back),
        lambda: bookings.transition("booking/1", "PENDING_PAYMENT"),
        lambda: bookings.transition(record, "PENDING_PAYMENT"),
        lambda: bookings.delete(record),
        in_transaction,
    ]
    for call in calls:
        with pytest.raises(interlock.IllegalTransition) as refused:
            call()
        assert refused.value.before == "COMPLETED"
        assert refused.value.allowed == ("REFUND_PENDING",)
        assert "'COMPLETED'" in str(refused.value)
    assert bookings.read("booking/1") == record


def test_a_new_value_begins_in_an_initial_state(bookings: Any) -> None:
    with pytest.raises(interlock.IllegalTransition, match="start as"):
        bookings.create("booking/2", {"status": "COMPLETED"})
    with pytest.raises(interlock.Invalid, match="not a state of"):
        bookings.create("booking/2", {"status": "BOGUS"})
    with pytest.raises(interlock.Invalid, match="the field 'status'"):
        bookings.create("booking/2", {"seat": "12A"})
    with pytest.raises(interlock.Invalid, match="needs an object"):
        bookings.create("booking/2", "PENDING")
    assert bookings.read("booking/2").version == 0


def test_a_transaction_cannot_pass_through_a_state(bookings: Any) -> None:
    """The log would show a move that the machine does not have."""
    record = bookings.create("booking/1", {"status": "PENDING"})

    def both(tx: Any) -> None:
        tx.write(record, {"status": "PENDING_PAYMENT"})
        tx.write(record, {"status": "COMPLETED"})

    with pytest.raises(interlock.IllegalTransition, match="from 'PENDING' to 'COMPLETED'"):
        bookings.transact(both)
    assert bookings.read("booking/1") == record


def test_other_fields_change_while_the_state_stays(bookings: Any) -> None:
    record = bookings.create("booking/1", {"status": "PENDING"})
    record = bookings.write(record, {"status": "PENDING", "seat": "1A"})
    assert record.version == 2
    with pytest.raises(interlock.IllegalTransition):
        bookings.transition("booking/1", "PENDING")


def test_a_key_is_deleted_only_in_a_final_state(bookings: Any) -> None:
    bookings.create("booking/1", {"status": "PENDING"})
    with pytest.raises(interlock.IllegalTransition, match="be deleted in state"):
        bookings.delete(bookings.read("booking/1"))
    cancelled = bookings.transition("booking/1", "CANCELLED")
    assert not bookings.delete(cancelled).exists
    assert bookings.create("booking/1", {"status": "PENDING"}).version == 4


def test_a_transition_follows_a_record_that_moved_and_a_record_in_hand_does_not(
    facades: Facades, bookings: Any
) -> None:
    stale = bookings.create("booking/1", {"status": "PENDING"})
    bookings.write(stale, {"status": "PENDING", "seat": "2B"})
    with pytest.raises(interlock.Conflict):
        bookings.transition(stale, "PENDING_PAYMENT")
    moved = bookings.transition("booking/1", "PENDING_PAYMENT")
    assert moved.value == {"status": "PENDING_PAYMENT", "seat": "2B"}


def test_transitions_that_name_nothing(bookings: Any) -> None:
    bookings.create("plain", 1)
    with pytest.raises(interlock.Invalid, match="has no state machine"):
        bookings.transition("plain", "PENDING")
    with pytest.raises(interlock.Invalid, match="not a state"):
        bookings.transition("booking/1", "BOGUS")


def test_guards_see_old_new_and_agent_and_are_code(facades: Facades) -> None:
    def enough(old: Any, new: Any, agent: str) -> bool | str:
        if agent != "cashier":
            return f"{agent} is no cashier"
        return bool(new["paid"] >= old["price"])

    machine = interlock.Machine(
        "sale",
        "state",
        "open",
        {"open": ["paid", "dropped"]},
        guards={("open", "paid"): enough},
    )
    rules = {"sale/*": interlock.guarded(machine=machine)}
    cashier = facades.open("cashier", rules=rules)
    cashier.create("sale/1", {"state": "open", "price": 10})
    with pytest.raises(interlock.IllegalTransition, match="guard 'enough' refused"):
        cashier.transition("sale/1", "paid", paid=9)
    with pytest.raises(interlock.IllegalTransition, match="guest is no cashier"):
        facades.open("guest", rules=rules).transition("sale/1", "paid", paid=10)
    with pytest.raises(interlock.IllegalTransition, match="does not know its guard"):
        facades.open("stranger").transition("sale/1", "paid", paid=10)
    assert cashier.transition("sale/1", "paid", paid=10).version == 2
