"""The protocols of one write: decide, commit, and decide again where the rules have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from interlock.core import decide
from interlock.core.decide import Decision, Writer
from interlock.core.folding import Unfoldable, ask, fold_conflict, reload
from interlock.core.keys import check_key
from interlock.core.merges import REMOVED, merge3
from interlock.core.outcome import (
    Committed,
    Conflict,
    Forbidden,
    IllegalTransition,
    Invalid,
    Outcome,
    Outdated,
    Refusal,
)
from interlock.core.records import Entry, Record
from interlock.core.requests import Commit, Load, Noted, Steps
from interlock.core.values import decode

FOLD_EVERY = 500  # contributions, after which whoever added the last one folds them
_MOST_TRANSITIONS = 100  # conflicts, before a transition gives up


def commit(
    writer: Writer,
    decision: Callable[[], Decision],
    exact: bool | Callable[[], bool] = True,
    ticket: int = 0,
    yields: bool = False,
    shared: bool = False,
) -> Steps[Outcome]:
    """Decide and commit.  Returns Committed or a Refusal.

    `decision` is called again where the rules have changed meanwhile.  `exact`: an operation id
    that was already applied must have written the same values.  `ticket` and `yields` are those
    of the plan.  `shared`: the operation may have been applied by another agent.
    """
    while True:
        plan = decision()
        if isinstance(plan, Refusal):
            forbidden = isinstance(plan, Forbidden | IllegalTransition)
            by_rules = forbidden or (isinstance(plan, Invalid) and plan.by_rules)
            if by_rules and (yield from reload(writer)):
                continue
            if forbidden:
                yield Noted(plan, writer.agent)
            return plan
        if ticket or yields:
            plan = plan._replace(ticket=ticket, yields=yields)
        outcome = yield from Commit(plan)
        if isinstance(outcome, Committed):
            if not outcome.replayed:
                return outcome
            other = None if shared else decide.others_operation(writer, plan.op_id, outcome)
            if other is not None:
                return other
            same = exact() if callable(exact) else exact
            return decide.same_operation(plan, outcome) if same else outcome
        if isinstance(outcome, Outdated):
            writer.book.load(outcome.record.version, outcome.record.value)
            continue
        if isinstance(outcome, Conflict):
            misplaced = decide.misplaced(plan, outcome)
            return misplaced or (yield from fold_conflict(writer, outcome))
        return outcome


def write_one(writer: Writer, decision: Callable[[], Decision]) -> Steps[Record | Refusal]:
    """Commit one planned write.  Returns its Record or a Refusal."""
    outcome = yield from commit(writer, decision)
    return decide.result(outcome, writer.space)[0] if isinstance(outcome, Committed) else outcome


def write(
    writer: Writer, record: Record, value: Any, op_id: str, leased: bool = False
) -> Steps[Record | Refusal]:
    """Write `value` over `record`; rebase it where the key's rule says so."""

    def exact() -> bool:  # a merged value need not be the one that was asked for
        return not rebased(writer, record.key)

    outcome = yield from put(writer, record, value, op_id, leased, exact)
    return decide.result(outcome, writer.space)[0] if isinstance(outcome, Committed) else outcome


def put(
    writer: Writer,
    record: Record,
    value: Any,
    op_id: str,
    leased: bool = False,
    exact: bool | Callable[[], bool] = False,
    ticket: int = 0,
    yields: bool = False,
) -> Steps[Outcome]:
    """Commit `value` over `record`, merged with what came in between where the key's rule says so.

    Returns Committed or a Refusal.
    """

    def decision() -> Decision:
        return decide.put(writer, record, value, op_id, leased)

    while True:
        outcome = yield from commit(writer, decision, exact, ticket, yields)
        if not isinstance(outcome, Conflict) or not rebased(writer, record.key):
            return outcome
        merged = rebase(record, value, outcome)
        if isinstance(merged, Conflict):
            return merged
        record, value, exact = outcome.record, merged[0], False


def rebased(writer: Writer, key: str) -> bool:
    """Whether the rule of `key` is to merge what was changed elsewhere."""
    return writer.book.rules.match(key)[1].on_conflict == "rebase"


def rebase(base: Record, mine: Any, conflict: Conflict) -> tuple[Any] | Conflict:
    """Return my change made to the fresh record, or the conflict with the paths that clash."""
    theirs = conflict.record
    if not theirs.exists or conflict.prefix is not None:
        return conflict
    was = decode(base.body) if base.exists else REMOVED
    merged, clashes = merge3(was, mine, decode(theirs.body))
    if not clashes:
        return (merged,)
    first = clashes[0]
    where = "/".join(map(str, first.path)) or "the whole value"
    message = (
        f"{conflict.message}; both changed {where}: base {first.base!r:.80}, "
        f"mine {first.mine!r:.80}, theirs {first.theirs!r:.80}"
    )
    return conflict.replace(message=message, clashes=clashes)


def append(
    writer: Writer, key: str, item: Any, op_id: str, exact: bool = True
) -> Steps[Entry | Refusal]:
    """Add one contribution to a merged key; not `exact`: whoever adds it, it is added once.

    Returns its Entry or a Refusal.
    """
    outcome = yield from commit(
        writer, lambda: decide.append(writer, key, item, op_id), exact, shared=not exact
    )
    if not isinstance(outcome, Committed):
        return outcome
    done = outcome.writes[0]
    if done.version % FOLD_EVERY == 0 and not outcome.replayed:
        with suppress(Unfoldable):
            yield from ask(writer, Load((key,)))  # keeps the fold: nobody finds a long tail
    return Entry(
        done.position,
        key,
        done.version,
        done.epoch,
        done.kind,
        decode(done.body),
        outcome.agent,
        outcome.time_us,
        op_id,
        None,
    )


def transition(
    writer: Writer, target: Record | str, to: str, changes: Mapping[str, Any], op_id: str
) -> Steps[Record | Refusal]:
    """Move the machine of a key.  A record in hand is written once; a key is read first, and again
    where it moved: nothing is thought about in between."""
    if isinstance(target, Record):
        wrong = decide.own_record(writer, target)
        if wrong is not None:
            return wrong
        record = target
    else:
        wrong = check_key(target)
        if wrong is not None:
            return wrong
        snapshot = yield from ask(writer, Load((target,), (), op_id))
        if snapshot.applied is not None:
            return decide.applied_before(writer, target, op_id, snapshot.applied)
        record = snapshot.records[target]

    def move() -> Decision:
        return decide.transition(writer, record, to, changes, op_id)

    for _ in range(_MOST_TRANSITIONS):
        outcome = yield from write_one(writer, move)
        if target is record or not isinstance(outcome, Conflict):
            break
        record = outcome.record
    return outcome
