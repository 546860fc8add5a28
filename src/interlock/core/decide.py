"""Decisions: from a command and what it was computed from to a plan, or to a refusal.

Pure functions.  The wording of refusals that the backends find (a moved version, a held turn)
is made here too, so that every backend says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

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
from interlock.core.rules import LEASED, MERGED, PRIVATE, Rule, RuleBook
from interlock.core.showing import described, seconds_left
from interlock.core.struct import Json
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


def put(writer: Writer, record: Record, value: Json, op_id: str, leased: bool = False) -> Decision:
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


def create(writer: Writer, key: str, value: Json, op_id: str) -> Decision:
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


def append(writer: Writer, key: str, item: Json, op_id: str) -> Decision:
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
    writer: Writer, record: Record, to: str, changes: Mapping[str, Json], op_id: str
) -> Decision:
    """Plan moving the machine of `record`'s key to state `to`, with `changes` of other fields."""
    machine = writer.book.rules.match(record.key)[1].machine
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
    return put(writer, record, {**old, **changes, machine.field: to}, op_id)


def write_of(writer: Writer, kind: str, key: str, value: Json) -> Write | Invalid:
    """Return one write of a plan, its value as JSON text; Invalid where that cannot be."""
    body = encode(value, writer.max_value_bytes)
    return body if isinstance(body, Invalid) else Write(kind, key, body)


def allowed(
    writer: Writer, base: Record, write: Write, leased: bool = False, item: Json = None
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
        why = f"Only {owner!r} may write {key!r} (private); this is {writer.agent!r}."
        return Forbidden(why, key, pattern, rule.kind)
    if rule.kind == LEASED and not leased:
        why = f"Writing {key!r} needs its lease: use space.lease({key!r})."
        return Forbidden(why, key, pattern, rule.kind)
    if write.kind == APPEND:
        return _not_appendable(writer, key, pattern, rule, item)
    if rule.kind == MERGED and write.kind == PUT:
        why = f"{key!r} is a merged key: use append()."
        return Forbidden(why, key, pattern, rule.kind)
    if rule.machine is None:
        return None
    # What was stored, whatever a transaction's view of it says.
    exists, old = base.body is not None, decode(base.body)
    if write.kind == DELETE:
        return check_delete(rule.machine, key, old)
    return check_move(rule.machine, key, old, exists, decode(write.body), writer.agent)


def _not_appendable(
    writer: Writer, key: str, pattern: str, rule: Rule, item: Json
) -> Refusal | None:
    if rule.kind != MERGED:
        why = f"{key!r} is not a merged key. To append, declare it with interlock.merged(...)."
        return Forbidden(why, key, pattern, rule.kind)
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
        f"{key!r} is merged with {rule.reducer!r}, which this process does not know. "
        "Open the space with its rules=.",
        key,
        by_rules=True,
    )


def pruned(position: int, floor: int) -> Pruned:
    """The refusal of reading what was cut off; the log is kept after position `floor`."""
    return Pruned(
        f"The log after position {position} was trimmed. Its oldest entry is {floor + 1}: "
        "start there.",
        position,
        floor + 1,
    )


def not_foldable(key: str, reducer: str, problem: Exception) -> Invalid:
    """The refusal of reading a merged key whose reducer fails on its contributions."""
    return Invalid(
        f"Can't merge the contributions to {key!r}: reducer {reducer!r} raised "
        f"{described(problem)}",
        key,
    )


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
            f"Expected a Record, got {type(record).__name__}. "
            "Pass the record that space.read() returned."
        )
    if record.space != writer.space:
        return Invalid(f"The record of {record.key!r} was read from another space.", record.key)
    return check_key(record.key)


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
        f"op_id {op_id!r} already belongs to another operation. Use a new one.",
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
        f"op_id {op_id!r} already belongs to an operation of {outcome.agent!r}. Use a new one.",
        outcome.writes[0].key,
    )


def conflict(expected: Expect, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a record that has moved."""
    if expected.version is None:
        message = f"{record.key!r} already exists (version {record.version}, by {record.writer!r})"
    else:
        read = f"you read version {expected.version}" if expected.version else "you read no value"
        now = "it was never written"
        if record.version:
            did = "wrote" if record.exists else "deleted it as"
            at = f"{as_datetime(record.time_us):%Y-%m-%d %H:%M:%S.%f} UTC"
            now = f"{record.writer!r} {did} version {record.version} at {at}"
        message = f"{record.key!r} changed: {read}, {now}"
    return Conflict(message, record.key, expected.version, record.version, record)


def scan_conflict(prefix: str, expected: int | None, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a scan which would now return something else."""
    was = f"had version {expected}" if expected else "didn't exist"
    now = f"has version {record.version} now" if record.exists else "is gone"
    message = f"The scan of {prefix!r} changed: {record.key!r} {was} and {now}"
    return Conflict(message, record.key, expected or 0, record.version, record, prefix)


def fenced(key: str, held: int, current: int) -> Fenced:
    """The refusal of a writer that was replaced."""
    return Fenced(
        f"Another writer took over {key!r} (epoch {current}; you have {held})", key, held, current
    )


def replaced(agent: str, held: int, current: int) -> Fenced:
    """The refusal of a process whose agent name was taken over by another one."""
    return Fenced(
        f"Another process took over agent {agent!r} (incarnation {current}; this one is {held})",
        "",
        held,
        current,
    )


def outdated(known: int, record: Record) -> Outdated:
    """The refusal of a plan that was decided under other rules than those in force."""
    return Outdated(
        f"The rules changed: version {record.version} is in force, the plan used {known}",
        record,
    )


def held(key: str, holder: str, seconds: float) -> Held:
    """The refusal of a plan that gives way to the agent whose turn it is."""
    return Held(
        f"{holder!r} has the turn for {key!r} ({seconds_left(seconds)})",
        key,
        holder,
        seconds,
    )


def leased_to(key: str, holder: str, seconds: float) -> Held:
    """The refusal of a write to a key that another agent has the lease of."""
    return Held(
        f"{holder!r} holds the lease of {key!r} ({seconds_left(seconds)})",
        key,
        holder,
        seconds,
        lease=True,
    )


def deadlock(cycle: tuple[Wait, ...]) -> Deadlock:
    """The refusal of a wait that closed a cycle."""
    cycle = tuple(wait._replace(key=wait.key.removeprefix(QUEUE)) for wait in cycle)
    first, *others = cycle
    waits = [f"{first.agent!r} waits for {first.holder!r} ({first.key!r})"]
    waits += [f"{agent!r} for {holder!r} ({key!r})" for agent, key, holder in others]
    return Deadlock(f"Deadlock: {', and '.join(waits)}", first.key, cycle)


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
