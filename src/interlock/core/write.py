"""One write: from a command and the record that it was computed from to a commit.

`plan_put` and its like decide, as pure functions: the answer is a plan, or the refusal that the
key's rule demands.  `commit` sends the plan, and decides again if the rules have changed
meanwhile.  A backend compares the plan with what is stored, in one atomic step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from interlock.core.document import FILES, check_document, expected_place, misplaced
from interlock.core.fold import ask, fold_conflict, reload
from interlock.core.keys import decode, encode
from interlock.core.machine import check_delete, check_move, illegal, state_of
from interlock.core.merge import REMOVED, merge3
from interlock.core.plan import APPEND, DELETE, PUT, Expect, Plan, Write, expect
from interlock.core.records import Committed, Record, Written, absent
from interlock.core.refusals import (
    Conflict,
    Forbidden,
    IllegalTransition,
    Invalid,
    Outcome,
    Outdated,
    Refusal,
)
from interlock.core.requests import Commit, Load, Noted, Steps
from interlock.core.rules import (
    EXPIRES_WITHIN,
    LEASED,
    MERGED,
    UnknownRule,
    misfit,
    not_appendable,
    not_its_writer,
    not_understood,
    wrong_expiry,
)
from interlock.core.struct import Json
from interlock.core.types import to_json
from interlock.core.writer import Writer

_MOST_CHANGES = 100  # conflicts, before a change of a part, or a transition, gives up

Decision = Plan | Refusal


def plan_put(
    writer: Writer,
    record: Record,
    value: Json,
    op_id: str,
    leased: bool = False,
    expires: float | None = None,
) -> Decision:
    """Plan writing `value` over `record`."""
    write = write_over(writer, record, value, expires)
    if isinstance(write, Invalid):
        return write
    return forbidden_by_rule(writer, record, write, leased) or _single(
        writer, op_id, expect(record), write, leased, new=record.body is None
    )


def plan_create(
    writer: Writer, key: str, value: Json, op_id: str, expires: float | None = None
) -> Decision:
    """Plan writing `value` to a key that must not exist."""
    write = write_to(writer, PUT, key, value, expires)
    if isinstance(write, Invalid):
        return write
    return forbidden_by_rule(writer, absent(key, writer.space), write) or _single(
        writer, op_id, Expect(key, None, None), write, new=True
    )


def plan_delete(writer: Writer, record: Record, op_id: str, leased: bool = False) -> Decision:
    """Plan deleting the key of `record`, which must exist."""
    wrong = own_record(writer, record)
    if wrong is not None:
        return wrong
    if not record.exists:
        return nothing_to_delete(record.key)
    write = Write(DELETE, record.key, None)
    return forbidden_by_rule(writer, record, write, leased) or _single(
        writer, op_id, expect(record), write, leased
    )


def plan_transition(
    writer: Writer, record: Record, to: str, changes: Mapping[str, Json], op_id: str
) -> Decision:
    """Plan moving the machine of `record`'s key to state `to`, with `changes` of other fields."""
    pattern, rule = writer.book.rules.match(record.key)
    if isinstance(rule, UnknownRule):
        return not_understood(record.key, pattern, rule)
    machine = rule.machine
    if machine is None:
        return Invalid(
            f"{record.key!r} has no state machine. Declare one: "
            "rules={pattern: interlock.guarded(machine=...)}.",
            record.key,
            by_rules=True,
        )
    if to not in machine.transitions:
        return Invalid(
            f"{to!r:.80} is not a state of {machine.name!r}. States: {', '.join(machine.states)}.",
            record.key,
            by_rules=True,
        )
    old = decode(record.body) if record.exists else {}
    before = state_of(machine, record.key, old) if record.exists else None
    if isinstance(before, Invalid):
        return before
    if before == to and to not in machine.targets(to):
        return illegal(machine, record.key, before, to)
    return plan_put(writer, record, {**old, **changes, machine.field: to}, op_id)


def write_of(
    writer: Writer, kind: str, key: str, value: Json, expires: float | None = None
) -> Write | Invalid:
    """Return one write of a plan, its value as JSON text; Invalid if that cannot be.

    `expires`: seconds until the value expires (None: as the key's rule says).
    """
    body = encode(value, writer.max_value_bytes)
    if isinstance(body, Invalid):
        return body
    if expires is None:
        return Write(kind, key, body)
    if wrong_expiry(expires):
        return Invalid(f"expires={expires!r:.40} must be a number of seconds {EXPIRES_WITHIN}.")
    return Write(kind, key, body, round(expires * 1e6))


def write_to(
    writer: Writer, kind: str, key: str, value: Json, expires: float | None = None
) -> Write | Invalid:
    """The same for a key of the caller's, which may be malformed."""
    return writer.check_key(key) or write_of(writer, kind, key, value, expires)


def write_over(
    writer: Writer, record: Record, value: Json, expires: float | None = None
) -> Write | Invalid:
    """Return the write of `value` over a record of the caller's; Invalid if that cannot be."""
    return own_record(writer, record) or write_of(writer, PUT, record.key, value, expires)


def plan_values(
    writer: Writer, values: Sequence[tuple[Record, Json]], op_id: str
) -> Plan | Invalid:
    """Plan writing values over records of the library's own keys, which have no rules."""
    writes = []
    for record, value in values:
        write = write_of(writer, PUT, record.key, value)
        if isinstance(write, Invalid):
            return write
        writes.append(write)
    return writer.plan(op_id, expects=(expect(record) for record, _ in values), writes=writes)


def forbidden_by_rule(
    writer: Writer, base: Record, write: Write, leased: bool = False
) -> Refusal | None:
    """Return why the rule of the key forbids a write computed from `base`; None if it does not."""
    if writer.is_document(write.key) and write.kind != DELETE:
        value = decode(write.body) if write.kind == PUT else None
        wrong = check_document(write.key, value)  # contributions are none
        if wrong is not None:
            return wrong
    rules = writer.book.rules
    if not rules.rules and write.kind != APPEND:
        return None
    key = write.key
    pattern, rule = rules.match(key)
    if isinstance(rule, UnknownRule):
        return not_understood(key, pattern, rule)
    theirs = not_its_writer(writer.agent, key, pattern, rule)
    if theirs is not None:
        return theirs
    if rule.kind == LEASED and not leased:
        why = f"Writing {key!r} needs its lease: use space.lease({key!r})."
        return Forbidden(why, key, pattern, rule.kind)
    if write.kind == APPEND:
        return not_appendable(rules, key, pattern, rule, write.body)
    if rule.kind == MERGED and write.kind == PUT:
        why = f"{key!r} is a merged key: use append()."
        return Forbidden(why, key, pattern, rule.kind)
    if write.kind == PUT and rule.schema is not None:
        unfit = misfit(key, pattern, rule, decode(write.body))
        if unfit is not None:
            return unfit
    if rule.machine is None:
        return None
    # What was stored, whatever a transaction's view of it says.
    exists, old = base.body is not None, decode(base.body)
    if write.kind == DELETE:
        return check_delete(rule.machine, key, old)
    return check_move(rule.machine, key, old, exists, decode(write.body), writer.agent)


def forgot_return(what: str) -> str:
    """Say that a function (`what` names it) returned None instead of a value."""
    return f"{what} returned None: is a return missing?"


def forgot_write(key: str) -> Invalid:
    """The refusal of a transaction that would lose a change of what it had read."""
    return Invalid(
        f"The transaction changed the value of {key!r} but doesn't write it. "
        "Call tx.write(record, value), or change a copy.",
        key,
    )


def nothing_to_delete(key: str) -> Invalid:
    """The refusal of deleting a key that does not exist."""
    return Invalid(f"Nothing to delete: {key!r} does not exist.", key)


def own_record(writer: Writer, record: object) -> Invalid | None:
    """Return why `record` cannot be written here: not a record, or of another space."""
    if not isinstance(record, Record):
        return Invalid(
            f"Expected a Record, got {type(record).__name__}. "
            "Pass the record that space.read() returned."
        )
    if record.space != writer.space:
        return Invalid(f"The record of {record.key!r} was read from another space.", record.key)
    return writer.check_key(record.key)


def reads_beyond(plan: Plan) -> dict[str, Json] | None:
    """Return what the plan was computed from besides the keys it writes, as the log keeps it."""
    written = {write.key for write in plan.writes}
    reads: dict[str, Json] = {
        e.key: e.version for e in plan.expects if e.key not in written and e.version is not None
    }
    for scan in plan.scans:
        if scan.prefix.startswith(FILES) and scan.prefix[:-1] in written:
            continue  # the place of a new document: expected, but not read
        reads[scan.prefix + "*"] = {key: version for key, version, _ in scan.members}
    return reads if reads or plan.transaction else None


def records_of(outcome: Committed, space: str) -> list[Record]:
    """Return the records that a commit made."""
    return [
        Record(
            key=each.key,
            value=decode(each.body),
            version=each.version,
            epoch=each.epoch,
            writer=outcome.agent,
            time_us=outcome.time_us,
            position=each.position,
            exists=each.kind != DELETE and not each.erased,
            space=space,
            body=each.body,
            expires_us=each.expires_us,
            tag=each.tag,
            erased=each.erased,
        )
        for each in outcome.writes
    ]


def same_operation(plan: Plan, outcome: Outcome) -> Outcome:
    """Refuse a replayed answer that belongs to a plan with other values: one id, two operations."""
    if isinstance(outcome, Committed) and outcome.replayed:
        for asked, done in zip(plan.writes, outcome.writes, strict=True):
            if asked.body != done.body and not done.erased:
                return reused_operation(plan.op_id, asked.key)
    return outcome


def reused_operation(op_id: str, key: str) -> Invalid:
    """The refusal of an operation id that already stands for another operation."""
    return Invalid(
        f"op_id {op_id!r} already belongs to another operation. Use a new one.",
        key,
    )


def applied_before(writer: Writer, key: str, op_id: str, outcome: Committed) -> Record | Invalid:
    """Return the record of an operation that wrote exactly `key`, and is this writer's."""
    if len(outcome.writes) != 1 or outcome.writes[0].key != key:
        return reused_operation(op_id, key)
    return others_operation(writer, op_id, outcome) or records_of(outcome, writer.space)[0]


def others_operation(writer: Writer, op_id: str, outcome: Committed) -> Invalid | None:
    """Return why an operation that was applied before is not this writer's; None if it is."""
    if writer.is_own(outcome.agent):
        return None
    return Invalid(
        f"op_id {op_id!r} already belongs to an operation of {outcome.agent!r}. Use a new one.",
        outcome.writes[0].key,
    )


def _single(
    writer: Writer,
    op_id: str,
    expected: Expect,
    write: Write,
    leased: bool = False,
    new: bool = False,
) -> Plan:
    """The plan of one write, computed from the record that is expected; `new`: none exists."""
    document = new and writer.is_document(write.key)
    folders, inside = expected_place(write.key) if document else ((), ())
    return writer.plan(
        op_id,
        expects=(expected, *folders),
        scans=inside,
        writes=(write,),
        leased=(write.key,) if leased else (),
    )


def commit(
    writer: Writer,
    decision: Callable[[], Decision],
    exact: bool | Callable[[], bool] = True,
    ticket: int = 0,
    gives_way: bool = False,
    shared: bool = False,
    decided: Decision | None = None,
) -> Steps[Outcome]:
    """Decide and commit.  Returns Committed or a Refusal.

    `decision` is called again if the rules have changed meanwhile.  `exact`: an operation id that
    was already applied must have written the same values.  `ticket` and `gives_way` are those of
    the plan.  `shared`: the operation may have been applied by another agent.  `decided`: what
    `decision` has returned already.
    """
    while True:
        plan, decided = decision() if decided is None else decided, None
        if isinstance(plan, Refusal):
            forbidden = isinstance(plan, Forbidden | IllegalTransition)
            by_rules = forbidden or (isinstance(plan, Invalid) and plan.by_rules)
            if by_rules and (yield from reload(writer)):
                continue
            if forbidden:
                yield Noted(plan, writer.agent)
            return plan
        if ticket or gives_way:
            plan = plan._replace(ticket=ticket, gives_way=gives_way)
        outcome = yield from Commit(plan)
        if isinstance(outcome, Committed):
            if not outcome.replayed:
                return outcome
            other = None if shared else others_operation(writer, plan.op_id, outcome)
            if other is not None:
                return other
            same = exact() if callable(exact) else exact
            return same_operation(plan, outcome) if same else outcome
        if isinstance(outcome, Outdated):
            writer.book.load(outcome.record.version, outcome.record.value)
            continue
        if isinstance(outcome, Conflict):
            return misplaced(plan, outcome) or (yield from fold_conflict(writer, outcome))
        return outcome


def write_one(writer: Writer, decision: Callable[[], Decision]) -> Steps[Record | Refusal]:
    """Commit one planned write.  Returns its Record or a Refusal."""
    outcome = yield from commit(writer, decision)
    return records_of(outcome, writer.space)[0] if isinstance(outcome, Committed) else outcome


def write_record(
    writer: Writer,
    record: Record,
    value: Json,
    op_id: str,
    leased: bool = False,
    *,
    touch: bool = True,
    expires: float | None = None,
) -> Steps[Record | Refusal]:
    """Write `value` over `record`; rebase it if the key's rule says so."""

    def exact() -> bool:  # a merged value need not be the one that was asked for
        return not rebased(writer, record.key)

    outcome = yield from put(
        writer, record, value, op_id, leased, exact, touch=touch, expires=expires
    )
    return records_of(outcome, writer.space)[0] if isinstance(outcome, Committed) else outcome


def put(
    writer: Writer,
    record: Record,
    value: Json,
    op_id: str,
    leased: bool = False,
    exact: bool | Callable[[], bool] = False,
    ticket: int = 0,
    gives_way: bool = False,
    *,
    touch: bool = True,
    expires: float | None = None,
) -> Steps[Outcome]:
    """Commit `value` over `record`, merged with what came in between if the key's rule says so.

    `touch`: also where it is the value that the record has.  Returns Committed or a Refusal.
    """

    def decision() -> Decision:
        return plan_put(writer, record, value, op_id, leased, expires)

    while True:
        decided = decision()
        if not touch and _changes_nothing(decided, record):
            fresh = (yield from ask(writer, Load((record.key,)))).records[record.key]
            if expect(fresh) == expect(record):
                return _as_it_is(record)
        outcome = yield from commit(writer, decision, exact, ticket, gives_way, decided=decided)
        if not isinstance(outcome, Conflict) or not rebased(writer, record.key):
            return outcome
        merged = rebase(record, value, outcome)
        if isinstance(merged, Conflict):
            return merged
        record, value, exact = outcome.record, merged[0], False


def _changes_nothing(decided: Decision, record: Record) -> bool:
    """Whether a plan writes what the record has already.  A value that expires is written anew,
    and so is one that is to stay from now on."""
    if not isinstance(decided, Plan) or decided.writes[0].ttl_us or record.expires_us:
        return False
    return _is_value_of(decided, record)


def _is_value_of(decided: Decision, record: Record) -> bool:
    return isinstance(decided, Plan) and record.body == decided.writes[0].body is not None


def _as_it_is(record: Record) -> Committed:
    """What a commit that changes nothing returns: the one that made the record."""
    key, version, epoch, position = record.key, record.version, record.epoch, record.position
    write = Written(key, PUT, version, epoch, position, record.body, record.expires_us, record.tag)
    return Committed(record.position, record.time_us, record.writer or "", (write,))


def rebased(writer: Writer, key: str) -> bool:
    """Whether the rule of `key` is to merge what was changed elsewhere."""
    return writer.book.rules.match(key)[1].on_conflict == "rebase"


def rebase(base: Record, mine: Json, conflict: Conflict) -> tuple[Json] | Conflict:
    """Return my change made to the fresh record, or the conflict with the paths that clash."""
    theirs = conflict.record
    if not theirs.exists or conflict.prefix is not None:
        return conflict
    was = decode(base.body) if base.exists else REMOVED
    merged, clashes = merge3(was, to_json(mine), decode(theirs.body))
    if not clashes:
        return (merged,)
    first = clashes[0]
    where = "/".join(map(str, first.path)) or "the whole value"
    message = (
        f"{conflict.message}; both changed {where}: base {first.base!r:.80}, "
        f"mine {first.mine!r:.80}, theirs {first.theirs!r:.80}"
    )
    return conflict.replace(message=message, clashes=clashes)


def transition(
    writer: Writer, target: Record | str, to: str, changes: Mapping[str, Json], op_id: str
) -> Steps[Record | Refusal]:
    """Move the machine of a key, or of a record in hand, which is tried once."""

    def move(record: Record) -> Decision:
        return plan_transition(writer, record, to, changes, op_id)

    return (yield from change(writer, target, move, op_id))


def change(
    writer: Writer,
    target: Record | str,
    decide: Callable[[Record], Decision],
    op_id: str,
    still: Callable[[Record, Record], bool] | None = None,
    *,
    touch: bool = True,
) -> Steps[Record | Refusal]:
    """Protocol: commit what `decide(record)` makes of a key, and again of the fresh record if it
    has moved: nothing is thought about in between.

    A record in hand is tried once, or as long as `still(record, fresh)` says that what was decided
    from it holds for the fresh one.  `touch`: also where it changes nothing.
    """

    def was_asked(made: Record) -> Record | Refusal:
        """The record that an earlier sending made, unless the same change would change it again."""
        if still is None or _is_value_of(decide(made), made):
            return made
        return reused_operation(op_id, made.key)

    if isinstance(target, Record):
        wrong = own_record(writer, target)
        if wrong is not None:
            return wrong
        record = target
    else:
        wrong = writer.check_key(target)
        if wrong is not None:
            return wrong
        snapshot = yield from ask(writer, Load((target,), (), op_id))
        if snapshot.applied is not None:
            done = applied_before(writer, target, op_id, snapshot.applied)
            return was_asked(done) if isinstance(done, Record) else done
        record = snapshot.records[target]
    exact, read = still is None, record is not target
    for _ in range(_MOST_CHANGES):
        decided = decide(record)
        if read and not touch and _changes_nothing(decided, record):
            return record
        outcome = yield from commit(writer, partial(decide, record), exact, decided=decided)
        if isinstance(outcome, Committed):
            made = records_of(outcome, writer.space)[0]
            return was_asked(made) if outcome.replayed else made
        if not isinstance(outcome, Conflict) or outcome.prefix is not None:
            break
        if isinstance(target, Record) and not (still and still(target, outcome.record)):
            break
        record, read = outcome.record, True
    assert isinstance(outcome, Refusal)
    return outcome
