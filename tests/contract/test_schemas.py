"""Rules with a schema: every writer's values fit it, whether it knows the type or not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import interlock
from interlock.core.schema import _validator
from tests.facades import Facades


@dataclass(frozen=True)
class Seat:
    row: int


@dataclass(frozen=True)
class Booking:
    seats: tuple[Seat, ...] = ()
    status: str = "PENDING"


MACHINE = interlock.Machine("booking", "status", "PENDING", {"PENDING": ["PAID"]})
RULES = {
    "booking/*": interlock.guarded(machine=MACHINE, schema=Booking, on_conflict="rebase"),
    "seats": interlock.merged("append", schema=Seat),
    "plan": interlock.leased(schema={"title": "Plan", "type": "object", "required": ["title"]}),
    "agent/{agent}/seat": interlock.private(schema=Seat),
    "front": interlock.owned(by="us", schema=Seat),
}
WRONG: dict[str, Any] = {"seats": [{"row": 1}, {"row": "x"}]}
PATH = r"does not fit Booking \(rule 'booking/\*'\): 'x' is not .* at \$\.seats\[1\]\.row"


def test_every_way_to_write_obeys_the_schema(facades: Facades) -> None:
    plain = facades.open("us")  # came before the rules, and does not know the type
    facades.open("them", rules=RULES)
    record = plain.create("booking/1", {"seats": [{"row": 1}], "status": "PENDING"})
    at = plain.position()
    writes: list[Callable[[], Any]] = [
        lambda: plain.write(record, WRONG),
        lambda: plain.create("booking/2", WRONG),
        lambda: plain.update("booking/1", lambda _: WRONG),
        lambda: plain.transact(lambda tx: tx.create("booking/2", WRONG)),
        lambda: plain.transition("booking/1", "PAID", seats=WRONG["seats"]),
        lambda: plain.write_many([(record, WRONG)]),
        lambda: plain.create_many({"booking/2": WRONG}),
        lambda: plain.patch("booking/1", WRONG),
        lambda: plain.update_fields(record, WRONG),
    ]
    for write in writes:
        with pytest.raises(interlock.Invalid, match=PATH) as refused:
            write()
        assert not refused.value.retryable
    lease = plain.lease("plan")
    lease.acquire()
    others: list[Callable[[], Any]] = [
        lambda: plain.append("seats", {"row": "x"}),
        lambda: plain.append_many("seats", [{"row": 1}, {"row": "x"}]),
        lambda: plain.transact(lambda tx: tx.append("seats", {})),
        lambda: plain.create("agent/us/seat", 3),
        lambda: plain.create("front", {"row": None}),
        lambda: lease.write({}),
    ]
    for write in others:
        with pytest.raises(interlock.Invalid, match=r"does not fit (Seat|Plan)"):
            write()
    assert plain.position() == at
    lease.write({"title": "x"})
    lease.release()
    assert plain.append("seats", Seat(1)).value == {"row": 1}
    assert plain.transition("booking/1", "PAID", seats=[]).value["status"] == "PAID"
    assert plain.position() == at + 3


def test_a_process_without_the_library_writes_nothing_unchecked(
    facades: Facades, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {"only/here": interlock.guarded(schema={"title": "not checked before"})}
    facades.open("them", rules={"no/schema": interlock.guarded()}).create("only/here", 1)
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    space = facades.open("us")
    with pytest.raises(interlock.NotInstalled, match=r"'interlock\[schema\]'"):
        facades.open("them", rules=rules)
    with pytest.raises(interlock.NotInstalled, match=r"'interlock\[schema\]'"):
        space.apply_rules(rules)
    monkeypatch.delitem(sys.modules, "jsonschema")
    facades.open("them", rules=rules)
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    _validator.cache_clear()
    with pytest.raises(interlock.Forbidden, match=r"can only be read.* 'interlock\[schema\]'"):
        space.update("only/here", lambda _: 2)
    assert space.read("only/here").value == 1
    space.create("no/schema", 1)


def test_a_schema_that_values_break_is_not_stored(facades: Facades) -> None:
    space = facades.open("us")
    record = space.create("booking/1", WRONG)
    space.create("booking/2", {"seats": []})
    rules = {"booking/*": interlock.guarded(schema=Booking)}
    with pytest.raises(interlock.Invalid, match=r"1 value breaks them. 'booking/1' does not fit"):
        space.apply_rules(rules)
    assert space.rules == {}
    space.delete(record)
    assert space.apply_rules(rules, dry_run=True) == {}
    space.apply_rules(rules)
    assert space.rules["booking/*"] == rules["booking/*"]
    wider = interlock.guarded(schema={"type": "object", "required": ["status"]})
    with pytest.raises(interlock.Invalid, match="'booking/2' does not fit schema: 'status'"):
        space.apply_rules({"booking/*": wider})
    with pytest.raises(interlock.Invalid, match="The space has guarded"):
        facades.open("them", rules={"booking/*": wider})
    space.apply_rules({})
    space.create("booking/3", WRONG)


def test_contributions_that_were_not_checked_stay_without_a_schema(facades: Facades) -> None:
    space = facades.open("us", rules={"seats": interlock.merged("append")})
    space.append("seats", 3)
    with pytest.raises(interlock.Invalid, match="has contributions, which were not checked"):
        space.apply_rules({"seats": interlock.merged("append", schema=Seat)})


def test_a_malformed_schema_is_refused_and_changes_nothing(facades: Facades) -> None:
    space = facades.open("us")
    for schema in ({"type": "nope"}, object, 3):
        with pytest.raises(interlock.Invalid, match=r"'k': schema=:"):
            space.apply_rules({"k": interlock.guarded(schema=schema)})
    assert space.position() == 0
