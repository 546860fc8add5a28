"""The protocols, each written once as a generator that yields requests and returns an outcome.

Drivers (`interlock.backends.drive`, the schedule explorer) send the answers.  A protocol never
yields while it is being closed, so a driver may drop it at any request.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

from interlock.core import commands, decide
from interlock.core.decide import Writer
from interlock.core.folding import Unfoldable, ask, fold_snapshot
from interlock.core.keys import check_all, check_key, check_prefix
from interlock.core.outcome import (
    Committed,
    Conflict,
    Contended,
    Fenced,
    Held,
    Invalid,
    Outcome,
    Pruned,
    Refusal,
)
from interlock.core.records import KeyInfo, Record, Snapshot
from interlock.core.requests import (
    LeaveTurn,
    ListKeys,
    Load,
    LoadAt,
    LogPage,
    Pause,
    Place,
    ReadLog,
    Steps,
    T,
    TakeTurn,
    Think,
)
from interlock.core.rules import RULES_KEY
from interlock.core.struct import Json
from interlock.core.transaction import Transaction
from interlock.core.turns import TICKET_TTL, Limits, Turn, giving_up, take_turn
from interlock.core.values import DELETE

_COMMIT_PAGE = 100  # entries of a commit whose end is looked for
MOST_LISTED = 10_000  # keys in one answer
_OLDEST = -1  # after this position: from the oldest that is kept


def load(
    writer: Writer, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()
) -> Steps[Snapshot | Invalid]:
    """Read records and scans of one moment.  Returns a Snapshot or Invalid."""
    wrong = check_all(keys, prefixes)
    if wrong is not None:
        return wrong
    return (yield from ask(writer, Load(keys, prefixes)))


def list_keys(prefix: str, after: str | None, limit: int) -> Steps[tuple[KeyInfo, ...] | Invalid]:
    """List existing keys, without their values.  Returns a tuple of KeyInfo, or Invalid."""
    wrong = check_all((), (prefix,)) or (None if after is None else check_key(after))
    if wrong is not None:
        return wrong
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        return Invalid(f"limit={limit!r:.60} must be a whole number above 0.")
    return (yield from ListKeys(prefix, after or "", min(limit, MOST_LISTED)))


def load_at(
    writer: Writer,
    position: int | None,
    time_us: int | None,
    keys: tuple[str, ...],
    prefixes: tuple[str, ...] = (),
) -> Steps[Snapshot | Invalid | Pruned]:
    """Read records and scans as of a position or a time.

    A position inside a commit is read as of the end of that commit: nothing else was ever there.
    Returns a Snapshot, Invalid or Pruned.
    """
    wrong = check_all(keys, prefixes)
    if wrong is not None:
        return wrong
    if position is not None:
        wrong = check_position("position", position)
        if wrong is not None:
            return wrong
        position = yield from _end_of_commit(position)
    snapshot = yield from LoadAt(
        position=position, time_us=time_us, keys=(*keys, RULES_KEY), prefixes=prefixes
    )
    if isinstance(snapshot, Pruned):
        return snapshot
    wrong = check_reached(position or 0, snapshot.position)
    if wrong is not None:
        return wrong
    records = dict(snapshot.records)
    rules, past = records.pop(RULES_KEY), writer.book.rules
    if rules.version != past.version:
        past = writer.book.read(rules.version, rules.value)
    return (yield from fold_snapshot(writer, snapshot._replace(records=records), past))


def _end_of_commit(position: int) -> Steps[int]:
    """Return the position of the last entry of the commit that the entry at `position` is of."""
    limit, op_id = 2, None
    while position:
        page = yield from ReadLog(after=position - 1, limit=limit)
        entries = [] if isinstance(page, Pruned) else page.entries
        for entry in entries:
            if op_id not in (None, entry.op_id):
                return position
            op_id, position = entry.op_id, entry.position
        if len(entries) < limit:
            break
        limit = _COMMIT_PAGE
    return position


def log_page(prefix: str, after: int | None, limit: int) -> Steps[LogPage | Invalid | Pruned]:
    """Read a page of the log after a position (None: from the oldest that is kept).

    Returns a LogPage, Invalid or Pruned.
    """
    wrong = check_prefix(prefix) or check_after(after)
    if wrong is not None:
        return wrong
    return (
        yield from ReadLog(after=_OLDEST if after is None else after, prefix=prefix, limit=limit)
    )


def history_page(key: str, after: int | None, limit: int) -> Steps[LogPage | Invalid | Pruned]:
    """Read a page of one key's entries, as `log_page` does."""
    wrong = check_key(key) or check_after(after)
    if wrong is not None:
        return wrong
    return (yield from ReadLog(after=_OLDEST if after is None else after, key=key, limit=limit))


def wait(seconds: float, position: int) -> Steps[None]:
    """Wait for news after `position`, at most `seconds`."""
    yield Pause(seconds, position)


def outcome(op_id: str) -> Steps[Committed | None]:
    """Ask what an operation id did.  Returns Committed or None."""
    return (yield from Load((), (), op_id)).applied


def commit_transaction(state: Transaction, op_id: str) -> Steps[Outcome]:
    """Commit a transaction once.  Returns Committed, or a Refusal."""
    if state.doomed is not None:
        return state.doomed
    if not state.changes:
        forgotten = state.changed_in_place()
        if forgotten is not None:
            return decide.forgot_write(forgotten)
        return Committed(state.position or 0, 0, state.writer.agent, ())
    return (yield from commands.commit(state.writer, lambda: state.decision(op_id)))


def update(
    writer: Writer,
    key: str,
    fn: Callable[[Any], Any],
    default: Json,
    limits: Limits,
    op_id: str,
    resumable: bool,
) -> Steps[Record | Refusal]:
    """Read, think, commit; think again on the fresh record.  Returns a Record or a Refusal.

    Optimistic once; after a conflict, or where a queue exists, in turn.  `resumable`: the caller
    chose `op_id`, so the operation may already have been applied.
    """
    wrong = check_key(key) or check_limits(limits)
    if wrong is not None:
        return wrong
    turn = Turn()
    return (
        yield from giving_up(
            turn, _update(writer, key, fn, default, limits, op_id, resumable, turn)
        )
    )


def _update(
    writer: Writer,
    key: str,
    fn: Callable[[Any], Any],
    default: Json,
    limits: Limits,
    op_id: str,
    resumable: bool,
    turn: Turn,
) -> Steps[Record | Refusal]:
    ticket = attempts = 0
    in_turn = limits.turns == "always"
    if resumable or not in_turn:  # who waits for its turn anyway reads the key then
        snapshot = yield from ask(writer, Load((key,), (), op_id if resumable else None))
        if snapshot.applied is not None:
            return decide.applied_before(writer, key, op_id, snapshot.applied)
        turn.began_us, record = snapshot.time_us, snapshot.records[key]
        held = _leased(key, snapshot)
        in_turn = in_turn or (limits.turns == "auto" and key in snapshot.queued)
    while True:
        if in_turn and not ticket:
            turn.name = f"{op_id}/{attempts}"
            place = yield from take_turn(writer, (key,), turn, limits, attempts)
            if isinstance(place, Refusal):
                return place
            ticket, record = place.ticket, place.snapshot.records[key]
            held = _leased(key, place.snapshot)
        if held is not None:
            if ticket:
                yield LeaveTurn(ticket)
            return held
        attempts += 1
        renew = _renewal(writer, (key,), turn, ticket) if ticket else None
        given = record.value if record.exists else deepcopy(default)  # `fn` may change it
        value = yield Think(fn, (given,), renew)
        outcome = yield from _commit_value(
            writer, record, value, op_id, ticket, limits.turns != "never"
        )
        if isinstance(outcome, Committed):
            return decide.applied_before(writer, key, op_id, outcome)
        give_up = _give_up(key, outcome, limits, attempts)
        if give_up is None and writer.book.rules.match(key)[1].on_conflict == "raise":
            give_up = outcome if isinstance(outcome, Conflict) else None
        if give_up is not None:
            if ticket:
                yield LeaveTurn(ticket)
            return give_up
        in_turn = limits.turns != "never"
        if isinstance(outcome, Conflict):
            record = outcome.record
        elif isinstance(outcome, Fenced):  # somebody had the key to himself meanwhile
            snapshot = yield from ask(writer, Load((key,)))
            record, held = snapshot.records[key], _leased(key, snapshot)
        if isinstance(outcome, Held):
            ticket = 0  # no turn yet, or lost by sleeping through it: join the queue
        elif ticket:
            place = yield from ask(writer, _renewal(writer, (key,), turn, ticket, firm=True))
            ticket, record = _kept(place, key, record)


def _commit_value(
    writer: Writer, record: Record, value: Json, op_id: str, ticket: int, yields: bool
) -> Steps[Outcome]:
    """Commit what the function of an update returned.  Returns Committed or a Refusal."""
    if value is None:
        what = f"The function for {record.key!r}"
        text = f"{decide.forgot_return(what)} To delete, return interlock.DELETE."
        return Invalid(text, record.key)
    if value is DELETE:
        decision = partial(decide.delete, writer, record, op_id)
        return (yield from commands.commit(writer, decision, False, ticket, yields))
    return (yield from commands.put(writer, record, value, op_id, ticket=ticket, yields=yields))


def transact(
    writer: Writer,
    begin: Callable[[Transaction], Any],
    fn: Callable[[Any], Any],
    limits: Limits,
    op_id: str,
    resumable: bool,
    new: Callable[[Writer], Transaction] = Transaction,
) -> Steps[Any]:
    """Run `fn` in a transaction and commit; run it again where what it read has moved.

    Returns what `fn` returned, or a Refusal wrapped in `Stopped`.  `begin` makes the object that
    `fn` is given out of the transaction's state, and `new` that state.
    """
    wrong = check_limits(limits)
    if wrong is not None:
        return Stopped(wrong)
    turn = Turn()
    steps = _transact(writer, begin, fn, limits, op_id, resumable, new, turn)
    try:
        return (yield from giving_up(turn, steps))
    except Unfoldable as problem:
        return Stopped(problem.refusal)


def _transact(
    writer: Writer,
    begin: Callable[[Transaction], Any],
    fn: Callable[[Any], Any],
    limits: Limits,
    op_id: str,
    resumable: bool,
    new: Callable[[Writer], Transaction],
    turn: Turn,
) -> Steps[Any]:
    if resumable or limits.patience is not None:
        snapshot = yield from Load((), (), op_id if resumable else None)
        if snapshot.applied is not None:
            return (yield from _transacted_before(writer, op_id, snapshot.applied))
        turn.began_us = snapshot.time_us
    queue: set[str] = set()
    ticket = attempts = 0
    while True:
        if queue and not ticket:
            turn.name, keys = f"{op_id}/{attempts}", tuple(sorted(queue))
            place = yield from take_turn(writer, keys, turn, limits, attempts)
            if isinstance(place, Refusal):
                return Stopped(place)
            ticket = place.ticket
        attempts += 1
        state = new(writer)
        state.turns = frozenset(queue)
        renew = _renewal(writer, tuple(sorted(queue)), turn, ticket) if ticket else None
        answer = None
        try:
            answer = yield Think(fn, (begin(state),), renew)
        except Exception:
            if state.doomed is None:
                raise  # otherwise it comes of a read that was refused: think again
        finally:
            state.ended = True
        outcome = state.doomed or (
            yield from _commit_thought(state, answer, op_id, ticket, limits.turns != "never")
        )
        if isinstance(outcome, Committed):
            if ticket and not outcome.writes:
                yield LeaveTurn(ticket)
            return answer if _is_ours(state, op_id, outcome) else None
        key = getattr(outcome, "key", "")
        give_up = outcome if state.is_over(outcome) else _give_up(key, outcome, limits, attempts)
        if give_up is not None:
            if ticket:
                yield LeaveTurn(ticket)
            return Stopped(give_up)
        assert isinstance(outcome, Conflict | Held | Fenced)
        if ticket and (outcome.key not in queue or isinstance(outcome, Held)):
            yield LeaveTurn(ticket)
            ticket = 0
        if ticket:
            place = yield from _renewal(writer, tuple(sorted(queue)), turn, ticket, firm=True)
            ticket, _ = _kept(place, outcome.key, None)
        elif limits.turns != "never":
            queue.add(outcome.key)


def _transacted_before(writer: Writer, op_id: str, applied: Committed) -> Steps[Stopped | None]:
    """Return None for what was applied under an operation id; Stopped where that is no transaction
    of this writer's."""
    other = decide.others_operation(writer, op_id, applied)
    if other is None and len(applied.writes) == 1:
        page = yield from ReadLog(after=applied.position - 1, limit=1)
        if isinstance(page, LogPage) and page.entries and page.entries[0].reads is None:
            other = decide.reused_operation(op_id, applied.writes[0].key)
    return None if other is None else Stopped(other)


class Stopped(NamedTuple):
    """A transaction that ended in a refusal; told apart from any value that `fn` may return."""

    refusal: Refusal


def check_limits(limits: Limits) -> Invalid | None:
    """Return what is wrong with the limits of an update or a transaction."""
    if limits.turns not in ("auto", "always", "never"):
        return Invalid(f"turns={limits.turns!r} must be 'auto', 'always' or 'never'.")
    if isinstance(limits.attempts, bool) or not isinstance(limits.attempts, int):
        return Invalid(f"attempts={limits.attempts!r} must be a whole number.")
    if limits.attempts < 1:
        return Invalid(f"attempts={limits.attempts!r} must be at least 1.")
    patience = 0 if limits.patience is None else limits.patience
    if not isinstance(patience, int | float) or not patience >= 0:
        return Invalid(f"patience={limits.patience!r} must be a number of seconds from 0.")
    return None


def check_position(name: str, position: object) -> Invalid | None:
    """Return why `position` is not a place in a log."""
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < 2**63:
        return Invalid(f"{name}={position!r} is not a position: a whole number from 0.")
    return None


def check_after(after: object) -> Invalid | None:
    """Return why one cannot read after `after`."""
    return None if after is None else check_position("after", after)


def check_reached(position: int, head: int) -> Invalid | None:
    """Return why nothing can be read as of `position`: the log has not come so far."""
    if position > head:
        return Invalid(f"The log ends at {head}, before position {position}.")
    return None


def _leased(key: str, snapshot: Snapshot) -> Held | None:
    """Return the refusal of thinking about a key that somebody has the lease of."""
    lease = snapshot.leases.get(key)
    return None if lease is None else decide.leased_to(key, lease.holder, lease.seconds)


def _commit_thought(
    state: Transaction, answer: Any, op_id: str, ticket: int, yields: bool
) -> Steps[Outcome]:
    if not state.changes:
        forgotten = state.changed_in_place() if answer is None else None
        if forgotten is not None:
            return decide.forgot_write(forgotten)
        return Committed(0, 0, state.writer.agent, ())
    decision = partial(state.decision, op_id)
    return (yield from commands.commit(state.writer, decision, False, ticket, yields))


def _is_ours(state: Transaction, op_id: str, outcome: Committed) -> bool:
    """Whether what was committed is this thought, and not another one under the same id."""
    if not outcome.replayed:
        return True
    bodies = [write.body for write in state.plan(op_id).writes]
    return bodies == [write.body for write in outcome.writes]


def _renewal(
    writer: Writer, keys: tuple[str, ...], turn: Turn, ticket: int, firm: bool = False
) -> TakeTurn:
    return TakeTurn(
        keys, name=turn.name, agent=writer.agent, ttl=TICKET_TTL, ticket=ticket, firm=firm
    )


def _kept(place: Place, key: str, record: T) -> tuple[int, Record | T]:
    """Return the ticket and the fresh record after a renewal; ticket 0 where the turn was lost."""
    if place.ticket and place.ahead == 0:
        return place.ticket, place.snapshot.records[key]
    return 0, record


def _give_up(key: str, outcome: Outcome, limits: Limits, attempts: int) -> Refusal | None:
    """Return the refusal to end with, or None where thinking again may help."""
    assert isinstance(outcome, Refusal)
    if isinstance(outcome, Fenced) and not outcome.key:
        return outcome  # this process was replaced, not only its reading
    if not isinstance(outcome, Conflict | Held | Fenced) or getattr(outcome, "lease", False):
        return outcome
    if isinstance(outcome, Conflict) and outcome.expected is None:
        return outcome  # `create` of a key that exists: thinking again meets it again
    if attempts >= limits.attempts:
        return Contended(
            f"Gave up on {key!r} after {attempts} attempt{'s' if attempts > 1 else ''}",
            key,
            attempts,
            outcome,
        )
    return None
