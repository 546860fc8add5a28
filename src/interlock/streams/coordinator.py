"""The protocol of a coordinator, written once: contributions from the log into one shared value.

The position up to which the log is handled is committed in the same plan as the value, by the
holder of a lease and at its epoch.  So every contribution counts once, whoever dies, and a holder
that was replaced writes nothing.

One contribution that cannot be merged does not stop the others: it is kept with the reason, and
passed by.  What is not its fault (the store is away, a service does not answer) is raised.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from interlock.core.fold import ask
from interlock.core.keys import MAX_KEY_BYTES, check_key, check_prefix, decode, encode
from interlock.core.merge import REDUCERS, Reducer
from interlock.core.plan import DELETE, PUT, Write, expect
from interlock.core.records import Committed, Entry, Record, Snapshot, absent
from interlock.core.refusals import (
    Conflict,
    Fenced,
    Held,
    IllegalTransition,
    Invalid,
    Pruned,
    Refusal,
    described,
    shortened,
    text_of,
)
from interlock.core.requests import Load, Pause, ReadLog, Steps, T, Think
from interlock.core.struct import Json
from interlock.core.trim import register
from interlock.core.write import (
    Decision,
    commit,
    forbidden_by_rule,
    forgot_return,
    records_of,
    write_of,
)
from interlock.core.writer import Writer
from interlock.errors import InterlockError, raise_refusal

BATCH = 100  # entries of one commit
_LONGEST_PAUSE = 0.25  # seconds
_short = partial(shortened, most=2000)  # characters of a reason
DEDUPE = ("id", "content")
ON_ERROR = (REJECT, STOP) = ("reject", "stop")
# What a function raises that is not the fault of the contribution that it was given.
_OUTSIDE = (InterlockError, OSError, MemoryError, NameError, ImportError)


class Progress(NamedTuple):
    """How far a coordinator is: the log is handled up to position `cursor`, and ends at `head`.

    The others count contributions since it first ran: merged, rejected, and seen before.
    """

    cursor: int
    head: int
    merged: int = 0
    rejected: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class Job:
    """What a coordinator does: contributions under `source` are merged into the key `into`.

    A curator has `targets`, the protocol that says by `route` which keys one is merged into; `into`
    is their prefix then.  `batch`: how many contributions one commit merges, at most.  `by_entry`:
    `validate` is given the entry of the log.
    """

    name: str
    into: str
    source: str
    merge: Callable[[Json, Json], Json] | Reducer
    validate: Callable[[Any], Json] | None
    dedupe: str | Callable[[Json], Json] | None
    initial: Json
    stops: bool
    kind: str = "coordinator"
    route: Callable[[Json], Any] | None = None
    targets: Callable[[Json], Steps[tuple[str, ...]]] | None = None
    batch: int = BATCH
    by_entry: bool = False

    @property
    def state(self) -> str:
        """The key that is leased, and holds how far the coordinator is."""
        return f"{self.name}/coordinator"

    def rejected(self, position: int) -> str:
        """The key that a rejected contribution is kept under."""
        return f"{self.name}/rejected/{position:012}"

    def seen(self, identity: str) -> str:
        """The key that says that a contribution was handled."""
        import hashlib  # at run time only where it is used: importing it takes long

        return f"$coordinator/{self.name}/{hashlib.sha256(identity.encode()).hexdigest()[:32]}"


class State(NamedTuple):
    """Where a coordinator stands: the record of its state, and how far it has read the log."""

    record: Record
    progress: Progress


def job(
    into: str,
    source: str,
    merge: object,
    validate: object,
    dedupe: object,
    initial: Json,
    name: str | None,
    on_error: object,
) -> Job | Invalid:
    """Return what a coordinator is to do, or what is malformed."""
    wrong = check_key(into) or check_prefix(source) or (name is not None and check_key(name))
    if wrong:
        return wrong
    named = into if name is None else name
    if isinstance(merge, str) and merge not in REDUCERS:
        return Invalid(f"merge={merge!r} must be a function or one of {', '.join(REDUCERS)}.")
    reducer = REDUCERS[merge] if isinstance(merge, str) else merge
    if not isinstance(reducer, Reducer) and not callable(reducer):
        return Invalid(f"merge={merge!r:.60} must be a function or the name of a reducer.")
    if validate is not None and not callable(validate):
        return Invalid(f"validate={validate!r:.60} must be a function of a contribution.")
    if dedupe is not None and dedupe not in DEDUPE and not callable(dedupe):
        return Invalid(f"dedupe={dedupe!r:.60} must be 'id', 'content', None or a function.")
    if on_error not in ON_ERROR:
        return Invalid(f"on_error={on_error!r:.60} must be {REJECT!r} or {STOP!r}.")
    own = f"{named}/"
    for key in (into, own):
        if key.startswith(source) or source.startswith(own):
            return Invalid(
                f"The coordinator reads {source!r}, so it would read its own {key!r}. "
                "Keep contributions under their own prefix, such as 'contrib/'."
            )
    if isinstance(reducer, Reducer) and initial is None:
        initial = reducer.initial
    found = Job(named, into, source, reducer, validate, dedupe, initial, on_error == STOP)
    longest = MAX_KEY_BYTES - len(found.seen("")) + len(named)
    if len(named.encode()) > longest:
        return Invalid(
            f"{named!r:.60} is too long for a coordinator: the limit is {longest} bytes."
        )
    return found


def begin(job: Job, record: Record) -> State | Invalid:
    """Return where to go on, from the record of the leased key."""
    if not record.exists:
        return State(record, Progress(0, 0))
    value = record.value
    if not isinstance(value, dict) or not {"from", "into", "cursor"} <= value.keys():
        return Invalid(
            f"{job.state!r} is not a {job.kind}'s. Give the {job.kind} another name.", job.state
        )
    if (value["from"], value["into"]) != (job.source, job.into):
        who = f"{job.kind.capitalize()} {job.name!r}"
        return Invalid(
            f"{who} merges {value['from']!r} into {value['into']!r}, not "
            f"{job.source!r} into {job.into!r}. Give the new one another name.",
            job.state,
        )
    counts = (value.get(count, 0) for count in ("merged", "rejected", "duplicates"))
    return State(record, Progress(value["cursor"], 0, *counts))


def start(writer: Writer, job: Job, record: Record, op_id: str) -> Steps[State | Refusal]:
    """Have the log kept for the coordinator.  Returns the State to go on from, or a Refusal."""
    state = begin(job, record)
    if isinstance(state, Invalid):
        return state
    refused = yield from register(writer, job.state, job.source, op_id)
    return state if refused is None else refused


def look(writer: Writer, job: Job) -> Steps[Progress | Invalid]:
    """Return the Progress of a coordinator, without its lease, or Invalid."""
    snapshot = yield from ask(writer, Load((job.state,)))
    state = begin(job, snapshot.records[job.state])
    if isinstance(state, Invalid):
        return state
    return state.progress._replace(head=snapshot.position)


def advance(
    writer: Writer, job: Job, state: State, op_id: Callable[[], str]
) -> Steps[State | Refusal]:
    """Merge the next contributions in one commit.  Returns the new State, or a Refusal.

    The record of the state is the same where there was nothing to merge.
    """
    page = yield from ReadLog(after=state.progress.cursor, prefix=job.source, limit=job.batch)
    if isinstance(page, Pruned):  # nothing that a coordinator needs was cut: see core.trim
        page = yield from ReadLog(after=page.oldest - 1, prefix=job.source, limit=job.batch)
        if isinstance(page, Pruned):
            return page
    found = state.progress._replace(cursor=page.upto, head=page.head)
    entries = [entry for entry in page.entries if entry.kind != DELETE and not entry.erased]
    if not entries:
        return State(state.record, found)
    batch = _Batch(job, entries)
    yield from batch.examine(writer)
    while True:
        snapshot = yield from ask(writer, Load((*batch.targets, *batch.seen_keys)))
        leases = [snapshot.leases[key] for key in batch.targets if key in snapshot.leases]
        if leases:
            yield Pause(min(leases[0].seconds, _LONGEST_PAUSE))
            continue
        done = yield from batch.merge(writer, snapshot)
        progress = found._replace(
            cursor=found.cursor if done.upto is None else done.upto,
            merged=found.merged + len(done.merged),
            rejected=found.rejected + len(done.rejected),
            duplicates=found.duplicates + len(done.duplicates),
        )
        plan = partial(_plan, writer, job, state, progress, snapshot, done, op_id())
        outcome = yield from commit(writer, plan)
        if isinstance(outcome, Committed):
            _log(job, done)
            return State(records_of(outcome, writer.space)[0], progress)
        if isinstance(outcome, Held):
            yield Pause(min(outcome.seconds, _LONGEST_PAUSE))
        elif isinstance(outcome, Invalid | IllegalTransition) and not batch.each_checked:
            batch.each_checked = True  # to find the contribution that does not fit
        elif not isinstance(outcome, Conflict | Fenced) or outcome.key not in batch.targets:
            return outcome


class _Done(NamedTuple):
    """What became of a batch, up to position `upto` (None: all of it), and the new values."""

    merged: list[Entry]
    rejected: list[tuple[Entry, str]]
    duplicates: list[Entry]
    seen: dict[str, int]
    values: dict[str, Json]
    upto: int | None = None


class _Batch:
    """Contributions that are merged in one commit; each is examined once, merged as often as a
    shared value moves meanwhile."""

    def __init__(self, job: Job, entries: list[Entry]) -> None:
        self._job = job
        self._entries = entries
        self._keys: dict[int, str] = {}  # by position, where a contribution can come twice
        self._reasons: dict[int, str] = {}
        self._targets: dict[int, tuple[str, ...]] = {}
        self.each_checked = False  # whether the value is checked after each contribution

    @property
    def seen_keys(self) -> tuple[str, ...]:
        """The keys that say which contributions were handled before."""
        return tuple(dict.fromkeys(self._keys.values()))

    @property
    def targets(self) -> tuple[str, ...]:
        """The keys that are merged into."""
        return tuple(dict.fromkeys(key for keys in self._targets.values() for key in keys))

    def examine(self, writer: Writer) -> Steps[None]:
        """Protocol: find each contribution's identity, what is wrong with it, where it goes."""
        for entry in self._entries:
            yield from self._unless_at_fault(entry, self._examine(writer, entry))

    def _examine(self, writer: Writer, entry: Entry) -> Steps[None]:
        job, position = self._job, entry.position
        identity = yield from identity_of(job, entry.value)
        if identity is not None:
            key = self._keys[position] = job.seen(identity)
            if job.by_entry and (yield from ask(writer, Load((key,)))).records[key].exists:
                return  # a duplicate, which costs no call
        reason = yield from _reason(job, entry)
        if reason is not None:
            self._reasons[position] = _short(reason)
        elif job.targets is None:
            self._targets[position] = (job.into,)
        else:
            self._targets[position] = yield from job.targets(entry.value)

    def merge(self, writer: Writer, snapshot: Snapshot) -> Steps[_Done]:
        """Protocol: merge into the values that were read.  Returns what was done.

        Where a contribution turns out to be at fault, a value may be changed already: begin again.
        """
        while True:
            done = yield from self._merge(writer, snapshot)
            if done is not None:
                return done

    def _merge(self, writer: Writer, snapshot: Snapshot) -> Steps[_Done | None]:
        records = {key: snapshot.records[key] for key in self.targets}
        values = {key: self._value(record) for key, record in records.items()}
        done, before = _Done([], [], [], {}, {}), None
        bodies: dict[str, str | Refusal] = {}  # as they are once each contribution was checked
        for entry in self._entries:
            key, reason = self._keys.get(entry.position), self._reasons.get(entry.position)
            if key is not None and (key in done.seen or snapshot.records[key].exists):
                done.duplicates.append(entry)
            elif reason is not None:
                done.rejected.append((entry, reason))
            else:
                targets = self._targets[entry.position]
                for target in targets:
                    merging = _merged(self._job, values[target], entry)
                    values[target] = yield from self._unless_at_fault(entry, merging)
                    if entry.position in self._reasons:
                        return None
                to_check = targets if self.each_checked else ()
                checked = {each: _checked(writer, records[each], values[each]) for each in to_check}
                unfit = next((each for each in checked.values() if isinstance(each, Refusal)), None)
                if unfit is not None:
                    if not done.merged:
                        self._blame(entry, unfit.message, None)
                        return None
                    # It may fit once what comes before it is committed.
                    whole = {each: decode(str(body)) for each, body in bodies.items()}
                    return done._replace(values=whole, upto=before)
                bodies |= checked
                done.merged.append(entry)
                done.values.update((each, values[each]) for each in targets)
            if key is not None:
                done.seen.setdefault(key, entry.position)
            before = entry.position
        return done

    def _value(self, record: Record) -> Json:
        return decode(record.body) if record.exists else deepcopy(self._job.initial)

    def _unless_at_fault(self, entry: Entry, steps: Steps[T]) -> Steps[T | None]:
        """Protocol: what `steps` return; None where the contribution is at fault, which is noted.

        Raises Invalid where that stops the coordinator, and what is not the contribution's fault.
        """
        try:
            return (yield from steps)
        except _OUTSIDE as problem:
            problem.add_note(f"in {self._job.kind} {self._job.name!r}, for {_named(entry)}")
            raise
        except ValueError as problem:  # how a function rejects
            self._reasons[entry.position] = _short(text_of(problem) or type(problem).__name__)
        except Exception as problem:
            self._blame(entry, described(problem), problem)
        return None

    def _blame(self, entry: Entry, reason: str, problem: Exception | None) -> None:
        if self._job.stops:
            who = f"{self._job.kind} {self._job.name!r}"
            said = f"{who} cannot merge {_named(entry)}: {_short(reason)}"
            try:
                raise_refusal(Invalid(said, entry.key))
            except InterlockError as stopped:
                raise stopped from problem
        self._reasons[entry.position] = _short(reason)
        # Not the contribution's own verdict: once the function is mended, it may be sent again.
        self._keys.pop(entry.position, None)


def identity_of(job: Job, contribution: Json) -> Steps[str | None]:
    """Protocol: what stands for a contribution that must count once; None where each counts."""
    if job.dedupe == "content":
        return json.dumps(["content", contribution], sort_keys=True)
    if job.dedupe == "id":
        named = isinstance(contribution, dict) and contribution.get("id") is not None
        return json.dumps(["id", contribution["id"]]) if named else None
    if callable(job.dedupe):
        found = yield Think(job.dedupe, (contribution,))
        return None if found is None else json.dumps(["own", found], sort_keys=True)
    return None


def _reason(job: Job, entry: Entry) -> Steps[str | None]:
    """Protocol: why a contribution is rejected, or None."""
    if isinstance(job.merge, Reducer) and job.merge.accepts is not None:
        wrong = job.merge.accepts(entry.value)
        if wrong is not None:
            return wrong
    if job.validate is None:
        return None
    return verdict((yield Think(job.validate, (entry if job.by_entry else entry.value,))))


def verdict(said: Json) -> str | None:
    """Return why a contribution is rejected, from what `validate` returned, or None."""
    if isinstance(said, str):
        return said
    return "it is not valid" if said is False else None


def _merged(job: Job, value: Json, entry: Entry) -> Steps[Json]:
    """Protocol: the value with one more contribution.  Raises TypeError for None."""
    if isinstance(job.merge, Reducer):
        return job.merge.fold([entry.value], value, started=True)
    merged = yield Think(job.merge, (value, entry.value))
    if merged is None:
        raise TypeError(forgot_return("merge"))
    return merged


def _checked(writer: Writer, target: Record, value: Json) -> str | Refusal:
    """Return a new shared value as JSON, or the refusal of writing it."""
    body = encode(value, writer.max_value_bytes)
    if isinstance(body, Invalid):
        return body
    refused = forbidden_by_rule(writer, target, Write(PUT, target.key, body))
    return refused if isinstance(refused, Invalid | IllegalTransition) else body


def _named(entry: Entry) -> str:
    return f"contribution {entry.key!r} at position {entry.position}"


def _log(job: Job, done: _Done) -> None:
    if done.rejected:
        import logging  # at run time only where it is used

        log = logging.getLogger("interlock.coordinator")
        for entry, reason in done.rejected:
            log.warning("%s %r rejected %s: %r", job.kind, job.name, _named(entry), reason)


def _plan(
    writer: Writer,
    job: Job,
    state: State,
    progress: Progress,
    snapshot: Snapshot,
    done: _Done,
    op_id: str,
) -> Decision:
    """Plan the commit of a batch: the state, the values, what was rejected, what was seen."""
    payload = {"from": job.source, "into": job.into, **progress._asdict()}
    del payload["head"]
    values: list[tuple[Record, Json]] = [(state.record, payload)]
    values += [(snapshot.records[key], value) for key, value in done.values.items()]
    for entry, reason in done.rejected:
        rejected = {"reason": reason, "contribution": entry.value, "key": entry.key}
        rejected |= {"agent": entry.agent, "position": entry.position}
        if isinstance(encode(rejected, writer.max_value_bytes), Invalid):
            rejected["contribution"] = None  # as large as a value may be; the log has it
        values.append((absent(job.rejected(entry.position), writer.space), rejected))
    writes = []
    for record, content in values:
        write = write_of(writer, PUT, record.key, content)
        if isinstance(write, Invalid):
            return Invalid(f"{record.key!r}: {write.message}", record.key)
        refused = forbidden_by_rule(writer, record, write, leased=record is state.record)
        if refused is not None:
            return refused
        writes.append(write)
    writes += [Write(PUT, key, str(position)) for key, position in done.seen.items()]
    expected = [state.record, *(snapshot.records[key] for key in (*done.seen, *done.values))]
    return writer.plan(op_id, expects=map(expect, expected), writes=writes, leased=(job.state,))
