"""What the calling context holds, and which of a process's waiters asks."""

from __future__ import annotations

import contextvars
import threading

from interlock.backends.holder import HeldRight, with_held
from interlock.backends.waiters import Waiters, pause
from interlock.core.records import Committed, Snapshot
from interlock.core.requests import Commit, LeaveTurn, Pause, Place, TakeTurn
from interlock.core.writer import Writer

JOIN = TakeTurn(("k",), name="turn", agent="me", ttl=6.0)
NOTHING = Snapshot(0, 0, {}, {}, {})


def holding(uid: str = "uid") -> tuple[str, ...]:
    return with_held(uid, JOIN).holding


def test_a_wait_says_what_its_caller_holds() -> None:
    lease = HeldRight("uid", "x", "lease")
    elsewhere = HeldRight("another space", "x", "other")
    assert holding() == ("lease",)
    renewed = JOIN.replace(ticket=7)
    assert with_held("uid", renewed) is renewed, "the store knows it by the ticket"
    inherited = contextvars.copy_context()
    assert inherited.run(holding) == ("lease",)
    lease.release()
    assert holding() == inherited.run(holding) == (), "wherever it was given up"
    elsewhere.release()


def test_a_thread_holds_nothing_of_another_one() -> None:
    lease, found = HeldRight("uid", "x", "lease"), []
    thread = threading.Thread(target=lambda: found.append(holding()))
    thread.start()
    thread.join()
    lease.release()
    assert found == [()]


def test_what_runs_out_by_itself_is_not_held() -> None:
    renewed = [True]
    lease = HeldRight("uid", "x", "lease", "me", lambda: renewed[0])
    assert holding() == ("lease",)
    renewed.clear()
    renewed.append(False)
    assert holding() == ()
    lease.release()


def join(waiters: Waiters, *tickets: int, keys: tuple[str, ...] = ("k",)) -> None:
    for ticket in tickets:
        asked = TakeTurn(keys, name=f"turn {ticket}", agent="me", ttl=6.0)
        waiters.answered("uid", asked, Place(ticket, ticket, NOTHING))


def behind(waiters: Waiters, ticket: int) -> tuple[int, list[int]]:
    woken: list[int] = []
    return waiters.behind("uid", ticket, lambda: woken.append(ticket)), woken


def test_the_next_of_a_process_is_woken_when_the_first_has_gone() -> None:
    waiters = Waiters()
    join(waiters, 5, 3, 9)
    join(waiters, 4, keys=("other",))
    assert behind(waiters, 3) == (0, []), "it asks the store"
    (second, woken), (third, still) = behind(waiters, 5), behind(waiters, 9)
    assert (second, third) == (1, 2)
    plan = Writer("", "me", 0).plan("op", writes=(), ticket=3)
    waiters.answered("uid", Commit(plan), Committed(1, 1, "me", ()))
    assert (woken, still) == ([5], [])
    waiters.answered("uid", LeaveTurn(5), None)
    assert still == [9]


def test_whoever_waits_for_two_keys_is_first_only_where_it_is_first_for_both() -> None:
    waiters = Waiters()
    join(waiters, 1, keys=("x",))
    join(waiters, 2, keys=("y",))
    join(waiters, 3, keys=("x", "y"))
    assert behind(waiters, 3)[0] == 1
    waiters.answered("uid", LeaveTurn(1), None)
    assert behind(waiters, 3)[0] == 1
    waiters.answered("uid", LeaveTurn(2), None)
    assert behind(waiters, 3)[0] == 0


def test_those_who_vanished_are_forgotten_once_the_store_has_passed_them() -> None:
    waiters = Waiters()
    join(waiters, 1, 2, 3)
    asked = TakeTurn(("k",), name="", agent="me", ttl=6.0, ticket=3)
    waiters.answered("uid", asked, Place(3, 0, NOTHING))
    assert behind(waiters, 3)[0] == 0


def test_a_ticket_that_expired_waits_here_under_its_new_number() -> None:
    waiters = Waiters()
    join(waiters, 1, 2)
    waiters.answered(
        "uid", TakeTurn(("k",), name="", agent="me", ttl=6.0, ticket=1), Place(0, 0, NOTHING)
    )
    assert behind(waiters, 2)[0] == 0


def test_a_pause_of_the_first_is_the_stores() -> None:
    assert not pause("nobody waits here", Pause(seconds=0.0, position=None, ticket=7, most=0.0))
