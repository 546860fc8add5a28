"""The record of refusals: what collides with what, kept beside the path of a write."""

from __future__ import annotations

from typing import Any

import pytest

import interlock
from interlock.backends import refusal_log
from interlock.backends.refusal_log import KEPT
from interlock.core.conflict_report import RefusalNote, report
from interlock.core.refusals import Forbidden
from interlock.core.requests import Noted
from tests.facades import Facades, elsewhere

pytestmark = [
    pytest.mark.interlock_space(
        agent="us", rules={"booking/*": interlock.guarded(machine=interlock.BOOKING)}
    )
]


def test_refusals_are_counted_by_key(facades: Facades, space: Any) -> None:
    stale = space.read("k")
    other = facades.peer("other")
    other.create("k", 1)
    for _ in range(3):
        with pytest.raises(interlock.Conflict):
            space.write(stale, 2)
    space.create("booking/1", {"status": "PENDING"})
    with pytest.raises(interlock.IllegalTransition):
        space.transition("booking/1", "COMPLETED")
    report = space.conflicts()
    worst = report.keys[0]
    assert (worst.key, worst.refusals, worst.retries) == ("k", 3, 3)
    assert worst.reasons == {"Conflict": 3}
    assert worst.pairs == {("us", "other"): 3}
    assert 0 <= worst.close <= 3
    assert (report.keys[1].key, report.keys[1].retries) == ("booking/1", 0)
    newest = report.refusals[0]
    assert (newest.reason, newest.agent, newest.other) == ("IllegalTransition", "us", None)
    assert report.refusals[1].behind_us is not None
    assert [note.at for note in report.refusals] == sorted(
        (note.at for note in report.refusals), reverse=True
    )
    other.close()


def test_refusals_that_update_retries_are_counted_too(facades: Facades, space: Any) -> None:
    other = facades.peer("other")

    def think(value: Any) -> Any:
        if not value:
            elsewhere(other.create, "k", 1)
        return (value or 0) + 1

    assert space.update("k", think).value == 2
    (key,) = space.conflicts().keys
    assert (key.key, key.reasons, key.pairs) == ("k", {"Conflict": 1}, {("us", "other"): 1})
    other.close()


def test_refusals_reach_the_store_when_a_space_is_closed(facades: Facades, space: Any) -> None:
    passing = facades.peer("passing")
    passing.create("k", 1)
    with pytest.raises(interlock.Conflict):
        passing.create("k", 2)
    passing.close()
    assert [(note.key, note.agent) for note in space.conflicts().refusals] == [("k", "passing")]
    assert space.conflicts(limit=1).refusals[0].reason == "Conflict"
    with pytest.raises(interlock.Invalid):
        space.conflicts(limit=0)


def test_the_record_is_bounded(space: Any) -> None:
    note = space.session.driver.backend.perform
    for number in range(KEPT + 500):
        note(Noted(Forbidden("no", f"k/{number}", "k/*", "private()"), "us"))
        if number % 500 == 499:
            assert len(space.conflicts(limit=1).refusals) == 1, "what was noted is in the store"
    kept = space.conflicts(limit=2 * KEPT).refusals
    assert len(kept) == KEPT
    assert kept[0].key == f"k/{KEPT + 499}", "the oldest go first"


@pytest.mark.interlock_needs("here")
def test_refusals_that_come_too_fast_are_counted(
    space: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_log, "_WAITING", 3)
    monkeypatch.setattr(refusal_log, "_EVERY", 600.0)
    space.create("k", 1)
    for _ in range(5):
        with pytest.raises(interlock.Conflict):
            space.create("k", 2)
    report = space.conflicts()
    assert (len(report.refusals), report.keys[0].refusals, report.dropped) == (3, 3, 2)
    assert space.conflicts().dropped == 2


def test_refusals_of_a_store_that_was_away_are_counted() -> None:
    """Those that came during a flush are not mistaken for those that it has kept."""
    kept: list[RefusalNote] = []
    answers: list[Any] = [interlock.Unavailable("away"), False, True]

    def save(notes: Any) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer:
            kept.extend(notes)
        else:
            found.add(refused("while busy"))
        return bool(answer)

    def refused(key: str) -> RefusalNote:
        return RefusalNote(key, "us", "Conflict", None, None, 7, "op")

    found = refusal_log.RefusalLog(save)
    found._over.set()  # nothing is flushed in the background
    found.add(refused("away"))
    found.flush()
    found.add(refused("busy"))
    found.flush()
    found.flush()
    assert [note.key for note in kept] == ["", "busy", "while busy"]
    assert report(kept)[2] == 1
