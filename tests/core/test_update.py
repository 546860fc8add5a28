"""The protocols of one key, driven by hand: what they ask for, in which order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from interlock.core import refusals, transact, update, write
from interlock.core.keys import encode
from interlock.core.lease import take_lease
from interlock.core.pace import Pace, pause_before
from interlock.core.plan import Expect
from interlock.core.records import Committed, Entry, Leaseholder, Record, Snapshot, Written, absent
from interlock.core.refusals import (
    QUEUE,
    Conflict,
    Contended,
    Deadlock,
    Fenced,
    Forbidden,
    Held,
    Invalid,
    Refusal,
    Wait,
)
from interlock.core.requests import (
    Commit,
    Grant,
    LeaveTurn,
    Load,
    LogPage,
    Noted,
    Pause,
    Place,
    ReadLog,
    TakeTurn,
    Think,
)
from interlock.core.rules import RULES_KEY, Rule, guarded, leased, private
from interlock.core.turn import TICKET_TTL, Progress
from interlock.core.update import Limits
from interlock.core.writer import Writer

SPACE, OP, TICKET = "uid", "op", 7
AUTO, ALWAYS, NEVER = (Limits(9, None, turns) for turns in ("auto", "always", "never"))
ABSENT = absent("k", SPACE)


def writer(rules: dict[str, Rule] | None = None) -> Writer:
    made = Writer(SPACE, "me", 1000)
    if rules:
        made.book.load(1, {pattern: rule.to_json() for pattern, rule in rules.items()})
    return made


def rec(value: Any, version: int, key: str = "k", epoch: int = 0) -> Record:
    body = encode(value)
    assert isinstance(body, str)
    return Record(key, value, version, epoch, "them", 5, version, True, SPACE, body)


def snap(*records: Record, time_us: int = 0, **rest: Any) -> Snapshot:
    return Snapshot(9, time_us, {r.key: r for r in records}, {}, rest.pop("queued", {}), **rest)


def place(*records: Record, ahead: int = 0, ticket: int = TICKET, **rest: Any) -> Place:
    return Place(ticket, ahead, snap(*records, **rest))


def done(body: str, version: int = 1, key: str = "k", replayed: bool = False) -> Committed:
    return Committed(1, 5, "me", (Written(key, "put", version, 0, 1, body),), replayed)


def conflict(fresh: Record, expected: int = 0) -> Conflict:
    return refusals.conflict(Expect(fresh.key, expected, 0), fresh)


HELD = refusals.held("k", "them", 1.0)
HELD_LEASE = refusals.leased_to("k", "them", 1.0)
FENCED = refusals.fenced("k", 0, 1)
REPLACED = refusals.replaced("me", 1, 2)


class Script:
    """A driver that gives canned answers: a value, an exception to throw, or a function that makes
    one of the request.  `requests` is what was asked for."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[Any] = []

    def play(self, steps: Any) -> Any:
        """Run a protocol to its end; it must use up every answer and ask for no more."""
        rest = iter(self.answers)
        try:
            request = next(steps)
            for answer in rest:
                self.requests.append(request)
                given = answer(request) if callable(answer) else answer
                thrown = isinstance(given, BaseException)
                request = steps.throw(given) if thrown else steps.send(given)
        except StopIteration as end:
            unused = list(rest)
            assert not unused, f"ended before {unused}"
            return end.value
        raise AssertionError(f"asks for more: {request}")

    @property
    def kinds(self) -> list[str]:
        return [type(request).__name__ for request in self.requests]

    @property
    def plans(self) -> list[tuple[int, int | None, bool]]:
        """Ticket, expected version and giving way, of each plan that was sent."""
        plans = [request.plan for request in self.requests if isinstance(request, Commit)]
        return [(p.ticket, p.expects[0].version, p.gives_way) for p in plans]


def run_fn(request: Think) -> Any:
    return request.fn(*request.args)


def add_one(value: Any) -> Any:
    return (value or 0) + 1


def updating(limits: Limits, fn: Callable[[Any], Any] = add_one, **rest: Any) -> Any:
    default, resumable = rest.pop("default", None), rest.pop("resumable", False)
    pace = rest.pop("pace", None)
    return update.update(writer(**rest), "k", fn, default, limits, OP, resumable, pace=pace)


JOINED: list[Any] = [place(rec(1, 1))]  # what turns="always" is answered first
RENEW = TakeTurn(("k",), name="op/0", agent="me", ttl=TICKET_TTL, ticket=TICKET)


# commit


def test_commit_sends_one_plan_and_returns_its_answer() -> None:
    me, script = writer(), Script(done("1"))
    plan = write.plan_put(me, ABSENT, 1, OP)
    assert script.play(write.commit(me, lambda: plan)) == done("1")
    assert script.requests == [Commit(plan)]  # type: ignore[arg-type]  # it is a plan


@pytest.mark.parametrize("refusal", [conflict(rec(1, 1)), HELD, FENCED, REPLACED, HELD_LEASE])
def test_commit_returns_a_refusal_as_it_is(refusal: Refusal) -> None:
    me, script = writer(), Script(refusal)
    assert script.play(write.commit(me, lambda: write.plan_put(me, ABSENT, 1, OP))) == refusal
    assert script.kinds == ["Commit"]


def test_commit_asks_for_nothing_where_the_value_is_malformed() -> None:
    me = writer()
    outcome = Script().play(write.commit(me, lambda: write.plan_put(me, ABSENT, {1}, OP)))
    assert isinstance(outcome, Invalid)


def test_a_rule_refuses_only_after_the_rules_were_looked_at_again() -> None:
    me = writer({"k": leased()})
    rules = rec(me.book.rules.to_json(), 1, RULES_KEY)
    script = Script(snap(rules), None)
    outcome = script.play(write.commit(me, lambda: write.plan_put(me, ABSENT, 1, OP)))
    assert isinstance(outcome, Forbidden)
    assert script.requests == [Load((RULES_KEY,)), Noted(outcome, "me")]

    script = Script(snap(rec({}, 2, RULES_KEY)), done("1"))
    outcome = script.play(write.commit(me, lambda: write.plan_put(me, ABSENT, 1, OP)))
    assert outcome == done("1")
    assert script.requests[1].plan.rules == 2


def test_a_plan_under_old_rules_is_decided_again_under_the_new_ones() -> None:
    me = writer()
    outdated = refusals.outdated(0, rec({"k": private().to_json()}, 3, RULES_KEY))
    script = Script(outdated, snap(rec({}, 4, RULES_KEY)), done("1"))
    outcome = script.play(write.commit(me, lambda: write.plan_put(me, ABSENT, 1, OP)))
    assert outcome == done("1")
    assert script.kinds == ["Commit", "Load", "Commit"]
    assert [script.requests[at].plan.rules for at in (0, 2)] == [0, 4]


def test_an_operation_id_replayed_with_another_body_is_invalid() -> None:
    me = writer()

    def sent(answer: Committed, exact: bool = True) -> Any:
        steps = write.commit(me, lambda: write.plan_put(me, ABSENT, 1, OP), exact)
        return Script(answer).play(steps)

    same, other = done("1", replayed=True), done("2", replayed=True)
    assert sent(same) == same
    outcome = sent(other)
    assert isinstance(outcome, Invalid)
    assert repr(OP) in outcome.message
    assert outcome.key == "k"
    assert sent(other, exact=False) == other


# update


@pytest.mark.parametrize(
    "limits",
    [
        *(Limits(0, None, "auto"), Limits(True, None, "auto"), Limits(1, None, "maybe")),
        *(Limits(1, -1.0, "auto"), Limits(1, float("nan"), "auto")),
    ],
)
def test_limits_without_meaning_ask_for_nothing(limits: Limits) -> None:
    assert isinstance(Script().play(updating(limits)), Invalid)


def test_a_malformed_key_asks_for_nothing() -> None:
    steps = update.update(writer(), "a//b", add_one, None, AUTO, OP, False)
    assert isinstance(Script().play(steps), Invalid)


def test_update_alone_reads_thinks_and_commits_without_a_turn() -> None:
    script = Script(snap(rec(4, 2)), run_fn, done("5", 3))
    record = script.play(updating(AUTO))
    assert (record.value, record.version, record.key) == (5, 3, "k")
    assert script.requests[:2] == [Load(("k",), (), None), Think(add_one, (4,), None)]
    assert script.requests[2].plan.writes[0].body == "5"
    assert script.plans == [(0, 2, True)]


@pytest.mark.parametrize(("found", "given"), [(ABSENT, "default"), (rec(None, 1), None)])
def test_update_gives_the_default_only_where_nothing_exists(found: Record, given: Any) -> None:
    script = Script(snap(found), 1, done("1"))
    script.play(updating(AUTO, default="default"))
    assert script.requests[1].args == (given,)


def test_update_of_an_applied_operation_returns_its_record_without_thinking() -> None:
    script = Script(snap(ABSENT, applied=done("5", 3)))
    assert script.play(updating(AUTO, resumable=True)).value == 5
    assert script.requests == [Load(("k",), (), OP)]
    two = done("5")._replace(writes=(*done("5").writes, *done("5", key="b").writes))
    for other in (done("5", key="b"), two):
        outcome = Script(snap(ABSENT, applied=other)).play(updating(AUTO, resumable=True))
        assert isinstance(outcome, Invalid)


def test_transact_of_an_applied_operation_does_not_think() -> None:
    entry = Entry(1, "k", 1, 0, "put", 1, "me", 5, OP, {})
    script = Script(snap(applied=done("1")), LogPage([entry], 1, 9))
    assert script.play(transact.transact(writer(), id, id, AUTO, OP, True)) is None
    assert script.requests == [Load((), (), OP), ReadLog(after=0, limit=1)]
    script = Script(snap(applied=done("1")), LogPage([entry._replace(reads=None)], 1, 9))
    assert script.play(transact.transact(writer(), id, id, AUTO, OP, True)).refusal == (
        write.reused_operation(OP, "k")
    )


def test_after_a_conflict_update_queues_and_thinks_on_the_record_of_its_turn() -> None:
    script = Script(
        *(snap(ABSENT), run_fn, conflict(rec(1, 1))),
        *(place(ahead=2), None, place(ahead=1), None, place(rec(8, 4)), run_fn, done("9", 5)),
    )
    assert script.play(updating(AUTO)).value == 9
    assert script.kinds[3:] == ["TakeTurn", "Pause"] * 2 + ["TakeTurn", "Think", "Commit"]
    turns = [request for request in script.requests if isinstance(request, TakeTurn)]
    assert [(turn.ticket, turn.name) for turn in turns] == [(0, "op/1")] + [(TICKET, "op/1")] * 2
    assert all(turn.keys == ("k",) and not turn.firm for turn in turns)
    assert all(request.position is None for request in script.requests if type(request) is Pause)
    assert script.requests[-2] == Think(add_one, (8,), RENEW.replace(name="op/1"))
    assert script.plans == [(0, 0, True), (TICKET, 4, True)]


def test_who_meets_a_queue_joins_it_before_thinking() -> None:
    script = Script(snap(ABSENT, queued={"k": 1}), place(rec(1, 1)), run_fn, done("2", 2))
    script.play(updating(AUTO))
    assert script.kinds == ["Load", "TakeTurn", "Think", "Commit"]
    script = Script(*JOINED, run_fn, done("2", 2))
    script.play(updating(ALWAYS))
    assert script.kinds == ["TakeTurn", "Think", "Commit"]
    script = Script(snap(ABSENT), *JOINED, run_fn, done("2", 2))
    script.play(updating(ALWAYS, resumable=True))
    assert script.kinds == ["Load", "TakeTurn", "Think", "Commit"]


def test_who_thinks_quickly_tries_again_before_it_queues_and_gives_way_to_nobody() -> None:
    quick = Pace(0.0)
    script = Script(
        *(snap(ABSENT, queued={"k": 1}), run_fn, conflict(rec(1, 1)), None),
        *(snap(rec(5, 2)), run_fn, HELD, None),
        *(snap(rec(6, 3)), run_fn, done("7", 4)),
    )
    assert script.play(updating(Limits(6, None, "auto"), pace=quick)).value == 7
    assert script.kinds == ["Load", *["Think", "Commit", "Pause", "Load"] * 2, "Think", "Commit"]
    assert script.plans == [(0, 0, False), (0, 2, False), (0, 3, False)]

    beaten = conflict(rec(1, 1))
    script = Script(snap(ABSENT), run_fn, beaten, place(rec(2, 2)), run_fn, done("3", 3))
    assert script.play(updating(Limits(3, None, "auto"), pace=quick)).value == 3
    assert script.kinds[3] == "TakeTurn", "half of the attempts are left"
    assert script.plans[1:] == [(TICKET, 2, True)]


def test_the_pause_of_who_thinks_quickly_is_its_own_and_grows() -> None:
    first, *_, last = pauses = [pause_before("a", attempts) for attempts in range(1, 100)]
    assert pauses == [pause_before("a", attempts) for attempts in range(1, 100)]
    assert 0 < first < 0.001
    assert 0.005 < max(pauses) < 0.01
    assert last != pause_before("b", 99)


def test_who_took_long_or_asks_for_turns_is_not_quick() -> None:
    for limits, pace in ((AUTO, Pace(1.0)), (AUTO, Pace()), (NEVER, Pace(0.0))):
        script = Script(snap(ABSENT, queued={}), run_fn, done("1"))
        script.play(updating(limits, pace=pace))
        assert script.plans == [(0, 0, limits is AUTO)]


def test_without_turns_update_thinks_again_at_once_and_gives_way_to_nobody() -> None:
    script = Script(
        snap(ABSENT, queued={"k": 1}), run_fn, conflict(rec(1, 1)), run_fn, done("2", 2)
    )
    assert script.play(updating(NEVER)).value == 2
    assert script.kinds == ["Load", "Think", "Commit", "Think", "Commit"]
    assert script.plans == [(0, 0, False), (0, 1, False)]


def test_a_turn_that_was_beaten_is_made_firm_and_thinks_on_the_fresh_record() -> None:
    beaten = conflict(rec(2, 2), 1)
    script = Script(*JOINED, run_fn, beaten, place(rec(3, 3)), run_fn, done("4", 4))
    assert script.play(updating(ALWAYS)).value == 4
    assert script.requests[3] == RENEW.replace(firm=True)
    assert script.plans == [(TICKET, 1, True), (TICKET, 3, True)]


@pytest.mark.parametrize("lost", [place(ticket=0), place(ahead=1)])
def test_a_turn_that_was_lost_is_taken_anew(lost: Place) -> None:
    again = place(rec(3, 3), ticket=8)
    script = Script(*JOINED, run_fn, conflict(rec(2, 2), 1), lost, again, run_fn, done("4", 4))
    assert script.play(updating(ALWAYS)).value == 4
    assert script.requests[4] == TakeTurn(("k",), name="op/1", agent="me", ttl=TICKET_TTL)
    assert script.plans[1] == (8, 3, True)


@pytest.mark.parametrize(
    ("limits", "before", "name"), [(AUTO, [snap(ABSENT)], "op/1"), (ALWAYS, JOINED, "op/1")]
)
def test_held_sends_update_into_the_queue(limits: Limits, before: list[Any], name: str) -> None:
    script = Script(*before, run_fn, HELD, place(rec(3, 3), ticket=8), run_fn, done("4", 4))
    assert script.play(updating(limits)).value == 4
    assert script.kinds[-4:] == ["Commit", "TakeTurn", "Think", "Commit"]
    assert (script.requests[-3].ticket, script.requests[-3].name) == (0, name)


def test_a_ticket_that_expired_in_the_queue_joins_again_at_its_end() -> None:
    script = Script(
        *(place(ahead=3), None, place(ticket=0), place(ticket=8, ahead=5), None),
        *(place(rec(1, 1), ticket=8), run_fn, done("2", 2)),
    )
    script.play(updating(ALWAYS))
    turns = [request.ticket for request in script.requests if isinstance(request, TakeTurn)]
    assert turns == [0, TICKET, 0, 8]
    assert script.plans == [(8, 1, True)]


def test_a_key_whose_epoch_moved_is_read_again() -> None:
    read = snap(rec(5, 5, epoch=1))
    script = Script(snap(ABSENT), run_fn, FENCED, read, run_fn, done("6", 6))
    assert script.play(updating(NEVER)).value == 6
    assert (script.requests[3], script.plans[1]) == (Load(("k",)), (0, 5, False))
    script = Script(*JOINED, run_fn, FENCED, read, place(rec(5, 5)), run_fn, done("6", 6))
    assert script.play(updating(ALWAYS)).value == 6
    assert script.requests[4] == RENEW.replace(firm=True)


ENDS: list[tuple[Any, Any, type[Refusal]]] = [  # what fn returns, the answer to the commit, the end
    ({1}, None, Invalid),
    (1, HELD_LEASE, Held),
    (1, REPLACED, Fenced),
    (1, Forbidden("no", "k", "k", "private"), Forbidden),
    (1, conflict(rec(2, 2), 1), Contended),
    (1, HELD, Contended),
    (1, FENCED, Contended),
]


@pytest.mark.parametrize(("value", "answer", "end"), ENDS)
@pytest.mark.parametrize("turns", ["auto", "always"])
def test_update_that_ends_in_a_refusal_leaves_the_queue(
    turns: str, value: Any, answer: Any, end: type[Refusal]
) -> None:
    before, leaving = (JOINED, [None]) if turns == "always" else ([snap(ABSENT)], [])
    sent = [] if answer is None else [answer]
    script = Script(*before, value, *sent, *leaving)
    outcome = script.play(updating(Limits(1, None, turns)))
    assert type(outcome) is end
    left = [request for request in script.requests if isinstance(request, LeaveTurn)]
    assert left == [LeaveTurn(TICKET)] * len(leaving)
    if isinstance(outcome, Contended):
        assert (outcome.attempts, outcome.last, outcome.key) == (1, answer, "k")


@pytest.mark.parametrize("problem", [ZeroDivisionError(), KeyboardInterrupt()])
def test_what_fn_raises_ends_update_after_leaving_the_queue(problem: BaseException) -> None:
    for limits, answers in ((AUTO, [snap(ABSENT), problem]), (ALWAYS, [*JOINED, problem, None])):
        script = Script(*answers)
        with pytest.raises(type(problem)):
            script.play(updating(limits))
        assert script.requests[2:] == [LeaveTurn(TICKET)] * (limits is ALWAYS)


def test_a_protocol_that_is_dropped_asks_for_nothing_more() -> None:
    steps = updating(ALWAYS)
    assert [next(steps), steps.send(JOINED[0])][-1].fn is add_one
    steps.close()  # RuntimeError if it yields


@pytest.mark.parametrize(("second", "waits"), [(1_999_999, True), (2_000_000, False)])
def test_update_whose_patience_is_over_leaves_the_queue(second: int, waits: bool) -> None:
    at = 1_000_000_000  # the store's clock when update began
    late = place(ahead=2, time_us=at + second)
    rest = [None, place(rec(1, 1), time_us=at + second), run_fn, done("2", 2)] if waits else [None]
    asked_first = snap(ABSENT, time_us=at), late
    in_line = (late._replace(waited=second / 1e6),)  # of its process, before the store was asked
    for answers, resumable in ((asked_first, True), (in_line, False)):
        script = Script(*answers, *rest)
        outcome = script.play(updating(Limits(9, 2.0, "always"), resumable=resumable))
        assert isinstance(outcome, Contended) != waits
        assert (LeaveTurn(TICKET) in script.requests) != waits


@pytest.mark.parametrize("before", [[], [snap(ABSENT)]])
def test_nobody_thinks_about_a_key_that_another_one_has_the_lease_of(before: list[Any]) -> None:
    leases = {"k": Leaseholder("them", 3, 9.0)}
    found = [place(ABSENT, leases=leases), None] if before else [snap(ABSENT, leases=leases)]
    script = Script(*before, *found)
    outcome = script.play(updating(ALWAYS if before else AUTO, resumable=bool(before)))
    assert isinstance(outcome, Held)
    assert (outcome.holder, outcome.seconds, outcome.lease) == ("them", 9.0, True)
    assert script.requests[2:] == [LeaveTurn(TICKET)] * len(before)


def test_a_key_whose_rule_is_to_raise_does_not_think_again() -> None:
    rules, beaten = {"k": guarded(on_conflict="raise")}, conflict(rec(2, 2), 1)
    assert Script(snap(ABSENT), run_fn, beaten).play(updating(AUTO, rules=rules)) == beaten
    script = Script(*JOINED, run_fn, beaten, None)
    assert script.play(updating(ALWAYS, rules=rules)) == beaten
    assert script.requests[-1] == LeaveTurn(TICKET)


CYCLE = (Wait("me", "k", "them"), Wait("them", "j", "me"))


def test_a_turn_that_closes_a_cycle_of_waits_is_refused() -> None:
    closes = place(ABSENT, ahead=1)._replace(cycle=CYCLE)
    script = Script(closes, None)
    found = script.play(updating(ALWAYS))
    assert isinstance(found, Deadlock)
    assert (found.key, found.cycle) == ("k", CYCLE)
    assert script.requests[-1] == LeaveTurn(TICKET)


def test_a_lease_that_closes_a_cycle_of_waits_is_refused() -> None:
    held = Grant(False, (ABSENT,), "them", 9.0, key="k")
    cycle = tuple(wait._replace(key=QUEUE + wait.key) for wait in CYCLE)
    for ahead, answers in ((1, []), (0, [held])):
        closes = place(ABSENT, ahead=ahead)._replace(cycle=cycle)
        script = Script(held, closes, *answers, None)
        found = script.play(take_lease(writer(), ("k",), 30.0, None, OP))
        assert isinstance(found, Deadlock)
        assert (found.key, found.cycle) == ("k", CYCLE), "it names keys, not their queues"
        assert script.requests[-1] == LeaveTurn(TICKET)


def test_who_is_far_back_asks_seldom_and_its_ticket_lives_longer() -> None:
    progress, asked = Progress(), []
    for second in (0, 2, 4, 10, 20):
        pause = progress.pause(place(ABSENT, ahead=5_000, time_us=second * 1_000_000))
        asked.append((pause.seconds, pause.most, progress.ttl))
    assert [most < ttl for _, most, ttl in asked] == [True] * 5, "it asks before its ticket expires"
    assert asked[0][0] < 0.01, "how fast the queue moves is not known yet"
    assert [ttl for *_, ttl in asked] == sorted(ttl for *_, ttl in asked)
    assert asked[-1][0] > 10
    near = progress.pause(place(ABSENT, ahead=1, time_us=21_000_000))
    assert near.seconds <= 0.25
    progress.pause(place(ABSENT, ahead=1, time_us=21_100_000))
    assert progress.ttl == TICKET_TTL, "once it is near, its death is noticed soon"
