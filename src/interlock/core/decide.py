"""Decisions: from a command and what it was computed from to a plan, or to a refusal.

Pure functions.  The wording of refusals that the backends find (a moved version, a held turn)
is made here too, so that every backend says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from interlock.core.documents import FILES, check_document, folders_of, in_the_way
from interlock.core.keys import check_key
from interlock.core.machines import check_delete, check_move, illegal, state_of
from interlock.core.outcome import (
    Committed,
    Conflict,
    Deadlock,
    Fenced,
    Forbidden,
    Held,
    Invalid,
    Outcome,
    Outdated,
    Pruned,
    Refusal,
    Wait,
)
from interlock.core.patterns import owner as owner_of
from interlock.core.plan import APPEND, DELETE, PUT, Expect, Plan, Scanned, Write
from interlock.core.records import Record, absent, as_datetime
from interlock.core.requests import QUEUE
from interlock.core.rules import LEASED, MERGED, PRIVATE, Rule, RuleBook, describe_rule
from interlock.core.showing import described
from interlock.core.values import decode, encode

Decision = Plan | Refusal
NOTHING_GONE: Mapping[str, Expect] = MappingProxyType({})


@dataclass(slots=True, eq=False)
class Writer:
    """Who asks: the space's unique id, the agent's name, and the limit of a value in bytes.

    `book` holds the rules as this writer knows them, `incarnation` that of the agent's name.
    `host` is set where the agent was given no name: it is then that of its host and process.
    """

    space: str
    agent: str
    max_value_bytes: int
    book: RuleBook = field(default_factory=RuleBook)
    incarnation: int = 0
    host: str = ""

    def plan(
        self,
        op_id: str,
        *,
        writes: Iterable[Write],
        expects: Iterable[Expect] = (),
        scans: Iterable[Scanned] = (),
        ticket: int = 0,
        yields: bool = False,
        leased: tuple[str, ...] = (),
        transaction: bool = False,
    ) -> Plan:
        """Make a plan, fenced by the writer's name, its incarnation and the rules it knows."""
        return Plan(
            op_id=op_id,
            agent=self.agent,
            expects=tuple(expects),
            scans=tuple(scans),
            writes=tuple(writes),
            ticket=ticket,
            yields=yields,
            rules=self.book.rules.version,
            incarnation=self.incarnation,
            leased=leased,
            transaction=transaction,
        )

    def is_own(self, agent: str) -> bool:
        """Whether an operation of `agent` is this writer's.  Who has no name is known by its host:
        another process may send its operation again."""
        host, _, process = agent.rpartition(":")
        unnamed = self.host != "" and host == self.host and process.isdigit()
        return agent == self.agent or unnamed


def put(writer: Writer, record: Record, value: Any, op_id: str, leased: bool = False) -> Decision:
    """Plan writing `value` over `record`."""
    wrong = own_record(writer, record)
    if wrong is not None:
        return wrong
    write = write_of(writer, PUT, record.key, value)
    if isinstance(write, Invalid):
        return write
    return allowed(writer, record, write, leased) or _single(
        writer, op_id, expect(record), write, leased, new=record.body is None
    )


def create(writer: Writer, key: str, value: Any, op_id: str) -> Decision:
    """Plan writing `value` to a key that must not exist."""
    wrong = check_key(key)
    if wrong is not None:
        return wrong
    write = write_of(writer, PUT, key, value)
    if isinstance(write, Invalid):
        return write
    return allowed(writer, absent(key, writer.space), write) or _single(
        writer, op_id, Expect(key, None, None), write, new=True
    )


def delete(writer: Writer, record: Record, op_id: str, leased: bool = False) -> Decision:
    """Plan deleting the key of `record`, which must exist."""
    wrong = own_record(writer, record)
    if wrong is not None:
        return wrong
    if not record.exists:
        return nothing_to_delete(record.key)
    write = Write(DELETE, record.key, None)
    return allowed(writer, record, write, leased) or _single(
        writer, op_id, expect(record), write, leased
    )


def append(writer: Writer, key: str, item: Any, op_id: str) -> Decision:
    """Plan adding one contribution to a merged key, whatever it holds."""
    wrong = check_key(key)
    if wrong is not None:
        return wrong
    write = write_of(writer, APPEND, key, item)
    if isinstance(write, Invalid):
        return write
    refused = allowed(writer, absent(key, writer.space), write, item=item)
    return refused or writer.plan(op_id, writes=(write,))


def transition(
    writer: Writer, record: Record, to: str, changes: Mapping[str, Any], op_id: str
) -> Decision:
    """Plan moving the machine of `record`'s key to state `to`, with `changes` of other fields."""
    machine = writer.book.rules.match(record.key)[1].machine
    if machine is None:
        return Invalid(
            f"{record.key!r} is not bound to a machine; declare one with "
            "rules={pattern: interlock.guarded(machine=...)}",
            record.key,
            by_rules=True,
        )
    if to not in machine.transitions:
        return Invalid(
            f"{to!r:.80} is not a state of machine {machine.name!r} ({', '.join(machine.states)})",
            record.key,
            by_rules=True,
        )
    old = decode(record.body) if record.exists else {}
    before = state_of(machine, record.key, old) if record.exists else None
    if isinstance(before, Invalid):
        return before
    if before == to and to not in machine.targets(to):
        return illegal(machine, record.key, before, to)
    return put(writer, record, {**old, **changes, machine.field: to}, op_id)


def write_of(writer: Writer, kind: str, key: str, value: Any) -> Write | Invalid:
    """Return one write of a plan, its value as JSON text; Invalid where that cannot be."""
    body = encode(value, writer.max_value_bytes)
    return body if isinstance(body, Invalid) else Write(kind, key, body)


def allowed(
    writer: Writer, base: Record, write: Write, leased: bool = False, item: Any = None
) -> Refusal | None:
    """Return what the rule of the key says against a write computed from `base`."""
    if write.key.startswith(FILES) and write.kind != DELETE:
        value = decode(write.body) if write.kind == PUT else None
        wrong = check_document(write.key, value)  # contributions are none
        if wrong is not None:
            return wrong
    rules = writer.book.rules
    if not rules.rules and write.kind != APPEND:
        return None
    key = write.key
    pattern, rule = rules.match(key)
    if rule.kind == PRIVATE and (owner := owner_of(pattern, key)) != writer.agent:
        return _forbidden(key, pattern, rule, f"only {owner!r} may write it, not {writer.agent!r}")
    if rule.kind == LEASED and not leased:
        return _forbidden(key, pattern, rule, "a write needs its lease: use space.lease(key)")
    if write.kind == APPEND:
        return _not_appendable(writer, key, pattern, rule, item)
    if rule.kind == MERGED and write.kind == PUT:
        return _forbidden(key, pattern, rule, "it is merged: use space.append(key, item)")
    if rule.machine is None:
        return None
    # What was stored, whatever a transaction's view of it says.
    exists, old = base.body is not None, decode(base.body)
    if write.kind == DELETE:
        return check_delete(rule.machine, key, old)
    return check_move(rule.machine, key, old, exists, decode(write.body), writer.agent)


def _not_appendable(
    writer: Writer, key: str, pattern: str, rule: Rule, item: Any
) -> Refusal | None:
    if rule.kind != MERGED:
        return _forbidden(
            key, pattern, rule, "append() needs a merged key: declare it with interlock.merged(...)"
        )
    reducer = writer.book.rules.reducer(key)
    if reducer is None:
        return unknown_reducer(key, rule)
    wrong = reducer.accepts(item) if reducer.accepts is not None else None
    if wrong is not None:
        return Invalid(f"{key!r} is merged with {reducer.name!r}: {wrong}", key, by_rules=True)
    return None


def unknown_reducer(key: str, rule: Rule) -> Invalid:
    """The refusal of a process that does not have the code of a key's reducer."""
    return Invalid(
        f"{key!r} is merged with the reducer {rule.reducer!r}, which this process does not know; "
        "open the space with rules= that hold it",
        key,
        by_rules=True,
    )


def pruned(position: int, floor: int) -> Pruned:
    """The refusal of reading what was cut off; the log is kept after position `floor`."""
    return Pruned(
        f"the log is kept from position {floor + 1} on; what is needed after position {position} "
        "was trimmed",
        position,
        floor + 1,
    )


def not_foldable(key: str, reducer: str, problem: Exception) -> Invalid:
    """The refusal of reading a merged key whose reducer fails on its contributions."""
    return Invalid(
        f"the contributions to {key!r} cannot be folded: the reducer {reducer!r} raised "
        f"{described(problem)}",
        key,
    )


def _forbidden(key: str, pattern: str, rule: Rule, why: str) -> Forbidden:
    where = (
        f"rule {describe_rule(rule)} of pattern {pattern!r}" if pattern else "no rule matches it"
    )
    return Forbidden(f"{key!r} may not be written so: {why} ({where})", key, pattern, rule.kind)


def forgot_return(what: str, key: str | None = None) -> Invalid:
    """The refusal of a function (`what` names it) that returned None instead of a value."""
    return Invalid(f"{what} returned None; did it forget its return?", key)


def forgot_write(key: str) -> Invalid:
    """The refusal of a transaction that would lose a change of what it had read."""
    return Invalid(
        f"the transaction changed the value of {key!r} that it had read, but does not write it; "
        "did it forget tx.write(record, value)? Otherwise change a copy",
        key,
    )


def nothing_to_delete(key: str) -> Invalid:
    """The refusal of deleting a key that does not exist."""
    return Invalid(f"{key!r} does not exist, so there is nothing to delete", key)


def expect(record: Record) -> Expect:
    """The expectation that `record` has not moved."""
    return Expect(record.key, record.version, record.epoch)


def scanned(prefix: str, records: tuple[Record, ...]) -> Scanned:
    """The expectation that a scan of `prefix` would return the same again."""
    return Scanned(prefix, tuple((r.key, r.version, r.epoch) for r in records))


def own_record(writer: Writer, record: object) -> Invalid | None:
    """Return why `record` cannot be written here: not a record, or of another space."""
    if not isinstance(record, Record):
        return Invalid(
            f"expected a Record as space.read() returns it, got {type(record).__name__}; "
            "a write names the record it was computed from"
        )
    if record.space != writer.space:
        return Invalid(f"the record of {record.key!r} was read from another space", record.key)
    return check_key(record.key)


def reads_beyond(plan: Plan) -> dict[str, Any] | None:
    """Return what the plan was computed from besides the keys it writes, as the log keeps it."""
    written = {write.key for write in plan.writes}
    reads: dict[str, Any] = {
        e.key: e.version for e in plan.expects if e.key not in written and e.version is not None
    }
    for scan in plan.scans:
        if scan.prefix.startswith(FILES) and scan.prefix[:-1] in written:
            continue  # the place of a new document: expected, but not read
        reads[scan.prefix + "*"] = {key: version for key, version, _ in scan.members}
    return reads if reads or plan.transaction else None


def result(outcome: Committed, space: str) -> list[Record]:
    """Return the records that a commit made."""
    agent, time_us = outcome.agent, outcome.time_us
    return [
        Record(
            key, decode(body), version, epoch, agent, time_us, position, kind != DELETE, space, body
        )
        for key, kind, version, epoch, position, body in outcome.writes
    ]


def same_operation(plan: Plan, outcome: Outcome) -> Outcome:
    """Refuse a replayed answer that belongs to a plan with other values: one id, two operations."""
    if isinstance(outcome, Committed) and outcome.replayed:
        for asked, done in zip(plan.writes, outcome.writes, strict=True):
            if asked.body != done.body:
                return reused_operation(plan.op_id, asked.key)
    return outcome


def reused_operation(op_id: str, key: str) -> Invalid:
    """The refusal of an operation id that already stands for another operation."""
    return Invalid(
        f"operation id {op_id!r} was already used for another operation; "
        "use a fresh id for each new operation",
        key,
    )


def applied_before(writer: Writer, key: str, op_id: str, outcome: Committed) -> Record | Invalid:
    """Return the record of an operation that wrote exactly `key`, and is this writer's."""
    if len(outcome.writes) != 1 or outcome.writes[0].key != key:
        return reused_operation(op_id, key)
    return others_operation(writer, op_id, outcome) or result(outcome, writer.space)[0]


def others_operation(writer: Writer, op_id: str, outcome: Committed) -> Invalid | None:
    """Return why an operation that was applied before is not this writer's; None where it is."""
    if writer.is_own(outcome.agent):
        return None
    return Invalid(
        f"operation id {op_id!r} was already used by agent {outcome.agent!r}, not by "
        f"{writer.agent!r}; use a fresh id for each new operation",
        outcome.writes[0].key,
    )


def conflict(expected: Expect, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a record that has moved."""
    if expected.version is None:
        wanted = "expected not to exist"
    elif expected.version == 0:
        wanted = "expected never to have been written"
    else:
        wanted = f"expected at version {expected.version}"
    state = (
        f"is at version {record.version}"
        if record.exists
        else (f"was deleted (version {record.version})" if record.version else "was never written")
    )
    by = f", written by {record.writer!r} at {as_datetime(record.time_us):%Y-%m-%d %H:%M:%S.%f} UTC"
    message = f"{record.key!r} was {wanted} but {state}{by if record.version else ''}"
    return Conflict(message, record.key, expected.version, record.version, record)


def scan_conflict(prefix: str, expected: int | None, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a scan which would now return something else."""
    was = "was not there" if not expected else f"was at version {expected}"
    now = f"is at version {record.version}" if record.exists else "is gone"
    message = f"the scan of {prefix!r} has changed: {record.key!r} {was} and {now}"
    return Conflict(message, record.key, expected or 0, record.version, record, prefix)


def fenced(key: str, held: int, current: int) -> Fenced:
    """The refusal of a writer that was replaced."""
    return Fenced(
        f"{key!r} was read at epoch {held}, but its epoch is now {current}", key, held, current
    )


def replaced(agent: str, held: int, current: int) -> Fenced:
    """The refusal of a process whose agent name was taken over by another one."""
    return Fenced(
        f"agent {agent!r} is this process's no more: it came in as incarnation {held}, "
        f"and another process has since taken over the name as incarnation {current}",
        "",
        held,
        current,
    )


def outdated(known: int, record: Record) -> Outdated:
    """The refusal of a plan that was decided under other rules than those in force."""
    return Outdated(
        f"the plan was decided under version {known} of the rules; version {record.version} is "
        "in force",
        record,
    )


def held(key: str, holder: str, seconds: float) -> Held:
    """The refusal of a plan that gives way to the agent whose turn it is."""
    return Held(
        f"it is {holder!r}'s turn to write {key!r}, for {seconds:.1f} s unless renewed",
        key,
        holder,
        seconds,
    )


def leased_to(key: str, holder: str, seconds: float) -> Held:
    """The refusal of a write to a key that another agent has the lease of."""
    return Held(
        f"{holder!r} has the lease of {key!r}, for {seconds:.1f} s unless renewed",
        key,
        holder,
        seconds,
        lease=True,
    )


def deadlock(cycle: tuple[Wait, ...]) -> Deadlock:
    """The refusal of a wait that closed a cycle."""
    cycle = tuple(wait._replace(key=wait.key.removeprefix(QUEUE)) for wait in cycle)
    waits = [f"{agent!r} waits for {key!r} behind {holder!r}" for agent, key, holder in cycle]
    return Deadlock(f"deadlock: {', and '.join(waits)}", cycle[0].key, cycle)


def place(
    key: str, gone: Mapping[str, Expect] = NOTHING_GONE
) -> tuple[tuple[Expect, ...], tuple[Scanned, ...]]:
    """What the commit of a new document expects of its place: no document where it needs a folder,
    and none below it, but for those that the same plan deletes (`gone`, as it expects them)."""
    if not key.startswith(FILES):
        return (), ()
    folders = tuple(Expect(each, None, None) for each in folders_of(key) if each not in gone)
    inside = f"{key}/"
    members = tuple(
        (each, expected.version or 0, expected.epoch or 0)
        for each, expected in sorted(gone.items())
        if each.startswith(inside)
    )
    return folders, (Scanned(inside, members),)


def misplaced(plan: Plan, conflict: Conflict) -> Invalid | None:
    """Return the refusal of a new document whose place was found taken at the commit."""
    for write in plan.writes:
        if conflict.expected is None and conflict.key in folders_of(write.key):
            return in_the_way(write.key, conflict.key)
        if conflict.prefix == f"{write.key}/" and conflict.record.exists:
            return in_the_way(conflict.key, write.key)
    return None


def first_difference(
    members: Mapping[str, tuple[int, int]], current: Mapping[str, tuple[int, int]]
) -> str | None:
    """Return the first key that differs between a scan as expected and as it is, or None."""
    for key in sorted(members.keys() | current.keys()):
        if members.get(key) != current.get(key):
            return key
    return None


def _single(
    writer: Writer,
    op_id: str,
    expected: Expect,
    write: Write,
    leased: bool = False,
    new: bool = False,
) -> Plan:
    """The plan of one write, computed from the record that is expected; `new`: none exists."""
    folders, inside = place(write.key) if new else ((), ())
    return writer.plan(
        op_id,
        expects=(expected, *folders),
        scans=inside,
        writes=(write,),
        leased=(write.key,) if leased else (),
    )
