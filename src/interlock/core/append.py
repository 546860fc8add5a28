"""Contributions to merged keys: planned without reading the key, and committed one or many.

Whoever adds one in so many folds the key, so that nobody who reads it finds a long tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

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
Contribution = Callable[[Writer, str, Json], Write | Refusal]


def contribution(writer: Writer, key: str, item: Json) -> Write | Refusal:
    """Return one contribution to a merged key, whatever that holds, or why it can't be one."""
    write = write_to(writer, APPEND, key, item)
    if isinstance(write, Invalid):
        return write
    return forbidden_by_rule(writer, absent(key, writer.space), write) or write


def add(
    writer: Writer,
    key: str,
    items: Sequence[Json],
    op_id: str,
    of: Contribution = contribution,
    *,
    exact: bool = True,
    together: bool = False,
) -> Steps[Committed | Refusal]:
    """Protocol: add contributions in one commit, in their order.

    `exact` is that of `append`.  `together`: they are a transaction, whose size says nothing.
    """

    def decision() -> Decision:
        writes: list[Write] = []
        for item in items:
            write = of(writer, key, item)
            if isinstance(write, Refusal):
                return write
            writes.append(write)
        return writer.plan(op_id, writes=writes, transaction=together)

    return (yield from commit(writer, decision, exact, shared=not exact))


def append_many(
    writer: Writer, key: str, items: Iterable[Json], op_id: str
) -> Steps[list[Entry] | Refusal]:
    """Add contributions to a merged key in one commit, in their order.  Returns their entries."""
    contributions = list(items)
    if not contributions:
        return []
    outcome = yield from add(writer, key, contributions, op_id, together=True)
    if not isinstance(outcome, Committed):
        return outcome
    yield from _keep_fold(writer, outcome)
    return [_entry(outcome, done, op_id, {}) for done in outcome.writes]


def append(
    writer: Writer, key: str, item: Json, op_id: str, exact: bool = True
) -> Steps[Entry | Refusal]:
    """Add one contribution to a merged key; not `exact`: whoever adds it, it is added once."""
    outcome = yield from add(writer, key, (item,), op_id, exact=exact)
    if not isinstance(outcome, Committed):
        return outcome
    yield from _keep_fold(writer, outcome)
    return _entry(outcome, outcome.writes[0], op_id, None)


def _keep_fold(writer: Writer, outcome: Committed) -> Steps[None]:
    """Protocol: fold a merged key after so many contributions, so that nobody finds a long tail."""
    first, last = outcome.writes[0], outcome.writes[-1]
    if last.version // FOLD_EVERY > (first.version - 1) // FOLD_EVERY and not outcome.replayed:
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
