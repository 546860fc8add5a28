"""Contributions to merged keys: planned without reading the key, and committed one or many.

Whoever adds one in so many folds the key, so that nobody who reads it finds a long tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

from interlock.core.fold import Unfoldable, ask
from interlock.core.keys import decode
from interlock.core.plan import APPEND, Write
from interlock.core.records import Committed, Entry, Written, absent
from interlock.core.refusals import Invalid, Refusal
from interlock.core.requests import Load, Steps
from interlock.core.struct import Json
from interlock.core.write import Decision, commit, forbidden_by_rule, write_to
from interlock.core.writer import Writer

FOLD_EVERY = 500  # contributions, after which whoever added the last one folds them
AppendPlan = Callable[[Writer, str, Json, str], Decision]


def plan_append(writer: Writer, key: str, item: Json, op_id: str) -> Decision:
    """Plan adding one contribution to a merged key, whatever it holds."""
    write = write_to(writer, APPEND, key, item)
    if isinstance(write, Invalid):
        return write
    refused = forbidden_by_rule(writer, absent(key, writer.space), write)
    return refused or writer.plan(op_id, writes=(write,))


def append_many(
    writer: Writer,
    key: str,
    items: Iterable[Json],
    op_id: str,
    plan: AppendPlan = plan_append,
    fold_every: int = FOLD_EVERY,
) -> Steps[list[Entry] | Refusal]:
    """Add contributions to a merged key in one commit, in their order.  Returns their entries."""
    contributions = list(items)
    if not contributions:
        return []

    def decision() -> Decision:
        writes: list[Write] = []
        for item in contributions:
            decided = plan(writer, key, item, op_id)
            if isinstance(decided, Refusal):
                return decided
            writes += decided.writes
        return writer.plan(op_id, writes=writes, transaction=True)

    outcome = yield from commit(writer, decision)
    if not isinstance(outcome, Committed):
        return outcome
    yield from _keep_fold(writer, outcome, fold_every)
    return [_entry(outcome, done, op_id, {}) for done in outcome.writes]


def append(
    writer: Writer,
    key: str,
    item: Json,
    op_id: str,
    exact: bool = True,
    plan: AppendPlan = plan_append,
    fold_every: int = FOLD_EVERY,
) -> Steps[Entry | Refusal]:
    """Add one contribution to a merged key; not `exact`: whoever adds it, it is added once."""
    decision = partial(plan, writer, key, item, op_id)
    outcome = yield from commit(writer, decision, exact, shared=not exact)
    if not isinstance(outcome, Committed):
        return outcome
    yield from _keep_fold(writer, outcome, fold_every)
    return _entry(outcome, outcome.writes[0], op_id, None)


def _keep_fold(writer: Writer, outcome: Committed, every: int) -> Steps[None]:
    """Protocol: fold a merged key after so many contributions, so that nobody finds a long tail."""
    first, last = outcome.writes[0], outcome.writes[-1]
    if last.version // every > (first.version - 1) // every and not outcome.replayed:
        with suppress(Unfoldable):
            yield from ask(writer, Load((last.key,)))


def _entry(
    outcome: Committed, done: Written, op_id: str, reads: Mapping[str, Json] | None
) -> Entry:
    return Entry(
        done.position,
        done.key,
        done.version,
        done.epoch,
        done.kind,
        decode(done.body),
        outcome.agent,
        outcome.time_us,
        op_id,
        reads,
        erased=done.erased,
    )
