"""A place as a backend: it answers the requests of the core's protocols with `load` and `replace`.

So a guard decides and retries by the very code that a space does.  Turns are those of a space that
the caller named.  Without one, who lost a thought waits for a moment, a random one that grows.

**Never over what was not seen.**  A plan names the tag of the record that it was computed from, and
the place compares it.  Where the value carries `_version`, that is not what is compared: whoever
writes blindly may put back an old number.  It is raised by each guarded write, for those readers
and writers that go by it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from interlock.backends.contract import Backend
from interlock.core import refusals
from interlock.core.keys import check_key, decode, encode
from interlock.core.plan import APPEND, Expect, Plan, Write
from interlock.core.records import (
    Committed,
    Leaseholder,
    Record,
    Snapshot,
    Written,
    absent,
    as_datetime,
)
from interlock.core.refusals import QUEUE, Conflict, Invalid, Outcome, Refusal
from interlock.core.requests import (
    Commit,
    DropLease,
    Grant,
    LeaveTurn,
    Load,
    Noted,
    Pause,
    Request,
    TakeLease,
    TakeTurn,
)
from interlock.core.requests import (
    Place as InQueue,
)
from interlock.core.rules import RULES_KEY
from interlock.core.struct import Json
from interlock.core.writer import Writer
from interlock.errors import AnswerLost, Fault, Unknown
from interlock.errors import Invalid as InvalidError
from interlock.guards.log import Asked, Log
from interlock.guards.place import (
    ABSENT,
    OVERTAKEN,
    Absent,
    Answers,
    Change,
    Changed,
    Found,
    Place,
)

T = TypeVar("T")

VERSION, WRITER, UPDATED = "_version", "_last_writer", "_updated_at"
MAX_KEY_BYTES = 16 * 1024
_tickets = itertools.count(1)
_FIRST_WAIT, _LONGEST_WAIT = 0.01, 2.0  # seconds
_MOST_LOST = 1000
_LONGEST_QUEUE = 400  # bytes of a key in the name of its queue


class OutsideWriter(Writer):
    """Who writes outside: a key is what the place says that it is."""

    place: Place

    def check_key(self, key: object) -> Invalid | None:
        """Return why `key` is not a key of the place, or None when it is one."""
        if not isinstance(key, str) or not key or len(key) > MAX_KEY_BYTES:
            return check_key(key) or Invalid(f"A key of {len(key)} characters is too long.")  # type: ignore[arg-type]  # it is a str
        why = f"{key!r} is a reserved key." if key == RULES_KEY else self.place.check_key(key)
        return None if why is None else Invalid(why, key)

    def is_document(self, key: str) -> bool:
        """Nothing here is shown as a file."""
        return False


class _Stamped(NamedTuple):
    """A value as it is to be stored (None: nothing), its version (0: none), and the time of it."""

    body: str | None
    version: int
    time_us: int


class Outside:
    """The backend of a guard."""

    def __init__(
        self,
        place: Place,
        uid: str,
        metadata: bool | None,
        limit: int,
        turns: Backend | None,
        log: Log | None = None,
    ) -> None:
        self.place = place
        self.log = log
        self.uid = uid if turns is None else turns.uid  # waits there and here may be one cycle
        self.name = place.name
        self._space = uid
        self._metadata = metadata
        self._limit = limit
        self._turns = turns
        # Whose answers were lost, by operation: the plan, and what was sent for it.
        self._lost: dict[str, tuple[Plan, list[_Stamped], list[Change]]] = {}
        self._granted: dict[int, int] = {}  # tickets, and how often each was beaten

    def perform(self, request: Request[T]) -> T:
        """Answer one request."""
        answer: T = at_once(self._answer(request))
        return answer

    async def perform_async(self, request: Request[T]) -> T:
        """Answer one request without blocking the event loop."""
        answer: T = await self._answer(request)
        return answer

    def close(self) -> None:
        """Close nothing: the client is the caller's."""

    async def close_async(self) -> None:
        """Close nothing: the client is the caller's."""

    def _answer(self, request: Request[Any]) -> Coroutine[Any, Any, Any]:
        if isinstance(request, Load):
            return self._load(request)
        if isinstance(request, Commit):
            return self._commit(request.plan)
        if isinstance(request, TakeTurn):
            return self._take_turn(request)
        if isinstance(request, LeaveTurn):
            return self._leave_turn(request)
        if isinstance(request, Pause):
            return self._ask_turns(request) if self._turns else self._sleep(request.seconds)
        if isinstance(request, Noted):
            return self._note(request)
        if isinstance(request, TakeLease):
            return self._take_lease(request)
        if isinstance(request, DropLease):
            return self._drop_lease(request)
        raise InvalidError(f"{self.name} can't answer {type(request).__name__}.")

    async def _note(self, request: Noted) -> None:
        """Log what was refused without looking; without a log it is noted nowhere."""
        key = getattr(request.refusal, "key", None)
        if self.log is not None and key:
            with suppress(AnswerLost, Fault):
                refusal = request.refusal
                await self.log.refused(key, type(refusal).__name__, refusal.message)

    async def _load(self, request: Load) -> Snapshot:
        if request.prefixes:
            raise InvalidError(f"{self.name} can't be scanned: name the keys.")
        queued, time_us = {}, time.time_ns() // 1000
        if self._turns is not None:
            names = {self._queue(key): key for key in request.keys}
            there: Snapshot = await self._ask_turns(Load((*names,)))
            queued = {names[name]: count for name, count in there.queued.items()}
            time_us = there.time_us
        records, leases = {}, {}
        for key in request.keys:
            records[key], lease = await self._looked(key)
            if lease is not None:
                leases[key] = lease
        return Snapshot(0, time_us, records, {}, queued, leases=leases)

    async def _record(self, key: str) -> Record:
        return (await self._looked(key))[0]

    async def _looked(self, key: str) -> tuple[Record, Leaseholder | None]:
        """Return what is outside, and who has the lease of it."""
        if key == RULES_KEY:
            return absent(key, self._space), None  # a guard's rules are its own
        if self.log is None:
            return self._record_of(key, await self.place.load(key)), None
        last, found = await self.log.look(key)
        record = self._record_of(key, found)
        if not self.log.fenced:
            return record, None
        return record._replace(epoch=last.record.epoch), last.lease

    def _record_of(self, key: str, found: Found) -> Record:
        if isinstance(found.value, Absent):
            nothing: Json = None
            return Record(key, nothing, 0, 0, None, 0, 0, False, self._space, tag=found.tag)
        body = encode(found.value, self._limit)
        if isinstance(body, Invalid):
            raise InvalidError(f"{key!r} can't be read here: {body.message}")
        value = found.value
        carried = value if isinstance(value, dict) else {}
        version, writer, updated = (carried.get(name) for name in (VERSION, WRITER, UPDATED))
        version = _number(version, self.place.texts)
        return Record(
            key=key,
            value=value,
            version=found.version or (version if self._metadata is not False else 0),
            epoch=0,
            writer=writer if isinstance(writer, str) else None,
            time_us=_time_us(updated, self.place.texts),
            position=0,
            exists=True,
            space=self._space,
            body=body,
            tag=found.tag,
        )

    async def _commit(self, plan: Plan) -> Outcome:
        expects = {each.key: each for each in plan.expects}
        lost = self._lost.get(plan.op_id)
        if lost is not None and lost[0] == plan:  # what is sent again is what was sent
            stamps, changes = lost[1], [each._replace(again=True) for each in lost[2]]
            await self._check_created(changes, plan.op_id)
        else:
            stamps, changes = [], []
            for write in plan.writes:
                if write.ttl_us:
                    return Invalid("A guard can't let values expire: expires= is for spaces.")
                if write.kind == APPEND:
                    stamps.append(_Stamped(write.body, 1, time.time_ns() // 1000))
                    changes.append(Change(write.key, None, write.body, plan.op_id, appended=True))
                    continue
                stamped = self._stamped(write.body, expects[write.key], plan.agent)
                if isinstance(stamped, Invalid):
                    return stamped
                stamps.append(stamped)
                tag = _tag(expects[write.key])
                changes.append(Change(write.key, tag, stamped.body, plan.op_id))
            written = {change.key for change in changes}
            changes += [
                Change(key, _tag(each), None, plan.op_id, compared_only=True)
                for key, each in expects.items()
                if key not in written
            ]
        try:
            answers = await self._replace(plan, changes, expects)
        except AnswerLost:
            while len(self._lost) >= _MOST_LOST:  # their callers gave up
                del self._lost[next(iter(self._lost))]
            self._lost[plan.op_id] = plan, stamps, changes
            raise
        if lost is not None:
            del self._lost[plan.op_id]
        if isinstance(answers, Refusal):
            names = {} if self.log is None else {self.log.key(key): key for key in expects}
            return _about(answers, names)
        if isinstance(answers, Changed):
            return await self._conflict(plan, changes, expects, answers)
        if plan.ticket:
            with suppress(AnswerLost, Fault):  # else it expires
                await self._leave_turn(LeaveTurn(plan.ticket))
        done = [
            self._written(write, expects.get(write.key), stamped, answer)
            for write, stamped, answer in zip(plan.writes, stamps, answers, strict=False)
        ]
        return Committed(0, stamps[0].time_us if stamps else 0, plan.agent, tuple(done))

    async def _check_created(self, changes: list[Change], op_id: str) -> None:
        """Raise Unknown where something was to be created and it can't be known whether it was:
        others may have deleted it since, and sent again it would be there again."""
        for change in changes:
            if change.tag is not ABSENT or change.compared_only:
                continue
            known = self.place.has_receipts(change.key)
            if not known and (self.log is None or not await self.log.has_receipts()):
                raise Unknown(
                    f"The answer to the create of {change.key!r} was lost: it may be applied or "
                    "not. Read it, and create it again if nothing is there.",
                    op_id,
                )

    async def _replace(
        self, plan: Plan, changes: list[Change], expects: Mapping[str, Expect]
    ) -> Answers | Changed | Refusal:
        for each in changes:
            if each.tag is OVERTAKEN:
                return Changed(key=each.key)
        if self.log is not None:
            fenced = self.log.fenced
            asked = [
                Asked(
                    expects[each.key].epoch if fenced and each.key in expects else None,
                    each.key in plan.leased,
                )
                for each in changes
            ]
            return await self.log.replace(changes, asked, plan.op_id)
        if len(changes) > 1:
            return await self.place.replace_all(changes, None)
        answer = await self.place.replace(changes[0])
        return answer if isinstance(answer, Changed) else [answer]

    async def _conflict(
        self, plan: Plan, changes: list[Change], expects: Mapping[str, Expect], answer: Changed
    ) -> Conflict:
        key = changes[0].key if answer.key is None else answer.key
        if self.log is None:
            found = answer.found or await self.place.load(key)
            return conflict(expects[key], self._record_of(key, found))
        why = "already exists" if expects[key].version is None else "has changed since it was read"
        await self.log.refused(key, "Conflict", f"{key!r} {why}", plan.op_id)
        return conflict(expects[key], await self._record(key))

    def _written(
        self, write: Write, expected: Expect | None, stamped: _Stamped, answer: object
    ) -> Written:
        body, version = stamped.body, stamped.version
        if isinstance(answer, Found):
            record = self._record_of(write.key, answer)
            body, version, answer = record.body, record.version, record.tag
        if write.kind == APPEND and isinstance(answer, int):
            version = answer or 1  # 0: it was applied before
        epoch = (expected.epoch if expected else None) or 0
        return Written(write.key, write.kind, version, epoch, 0, body, tag=answer)

    # Leases

    async def _take_lease(self, request: TakeLease) -> Grant:
        if self.log is None or not self.log.fenced:
            raise InvalidError("This guard has no leases: give it lease=, a space.")
        log = self.log
        names = {log.key(key): key for key in request.keys}
        grant: Grant = await self._ask_turns(request.replace(keys=(*names,)))
        if not grant.granted:
            about = grant.refusal and _about(grant.refusal, names)
            return grant._replace(key=names.get(grant.key, grant.key), refusal=about)
        if request.epoch:  # it is only renewed
            return grant
        records = []
        for granted in grant.records:
            record = await self._record(names[granted.key])
            records.append(record._replace(epoch=granted.epoch))
        return grant._replace(records=tuple(records))

    async def _drop_lease(self, request: DropLease) -> None:
        if self.log is not None and self.log.fenced:
            await self._ask_turns(request.replace(key=self.log.key(request.key)))

    def _stamped(self, body: str | None, expected: Expect, agent: str) -> _Stamped | Invalid:
        """Return what is to be stored: with the fields that say who wrote it."""
        now_us, before = time.time_ns() // 1000, expected.version or 0
        if body is None or not (before if self._metadata is None else self._metadata):
            return _Stamped(body, 0, now_us)
        value = decode(body)
        if not isinstance(value, dict):
            return Invalid(
                f"{expected.key!r} needs an object: it carries {VERSION}. Pass metadata=False to "
                "keep other values.",
                expected.key,
            )
        as_text = isinstance(carried := value.get(UPDATED), str) and not _is_number(carried)
        updated = as_datetime(now_us).isoformat() if as_text else now_us / 1e6
        stamps: dict[str, Json] = {VERSION: before + 1, WRITER: agent, UPDATED: updated}
        if self.place.texts:
            stamps = {name: str(each) for name, each in stamps.items()}
        if not self._metadata:  # what the value does not carry its readers do not need
            stamps = {n: each for n, each in stamps.items() if n == VERSION or n in value}
        text = encode({**value, **stamps}, self._limit)
        return text if isinstance(text, Invalid) else _Stamped(text, before + 1, now_us)

    # Turns

    def _queue(self, key: str) -> str:
        """Return the name of a key's queue in the space that turns are taken through."""
        return f"$guard/{self.name}/{key}"[:_LONGEST_QUEUE]  # some may share one

    async def _take_turn(self, request: TakeTurn) -> InQueue:
        if self.log is not None and request.keys[0].startswith(QUEUE):
            names = (QUEUE + self.log.key(key.removeprefix(QUEUE)) for key in request.keys)
            place: InQueue = await self._ask_turns(request.replace(keys=(*names,)))
            return place
        if self._turns is None:
            ticket = request.ticket or next(_tickets)
            beaten = self._granted.setdefault(ticket, 0)
            if not request.ticket or request.firm:
                self._granted[ticket] = beaten + 1
                await self._sleep(random.uniform(0, min(_FIRST_WAIT * 2**beaten, _LONGEST_WAIT)))
            found = InQueue(ticket, 0, Snapshot(0, time.time_ns() // 1000, {}, {}, {}))
        else:
            queues = tuple(map(self._queue, request.keys))
            found = await self._ask_turns(request.replace(keys=queues))
        if not found.ticket or found.ahead:
            return found._replace(snapshot=found.snapshot._replace(records={}, queued={}))
        if request.ticket in self._granted and not request.firm and request.ticket:
            return found  # it is only kept alive
        records = {key: await self._record(key) for key in request.keys}
        self._granted.setdefault(found.ticket, 0)
        return found._replace(snapshot=found.snapshot._replace(records=records, queued={}))

    async def _leave_turn(self, request: LeaveTurn) -> None:
        self._granted.pop(request.ticket, None)
        if self._turns is not None:
            await self._ask_turns(request)

    async def _ask_turns(self, request: Request[T]) -> T:
        assert self._turns is not None
        if self.place.asynchronous:
            return await self._turns.perform_async(request)
        return self._turns.perform(request)

    async def _sleep(self, seconds: float) -> None:
        if self.place.asynchronous:
            await asyncio.sleep(seconds)
        else:
            time.sleep(seconds)


def at_once(steps: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that awaits nothing that blocks, as those of a place over a client that does
    not need an event loop: it ends at once."""
    try:
        steps.send(None)
    except StopIteration as end:
        answer: T = end.value
        return answer
    steps.close()
    raise TypeError("it awaits something, but was made for threads")


def _about(refusal: Refusal, names: Mapping[str, str]) -> Refusal:
    """Return what a space has refused of its keys, said of those outside."""
    name: Any = getattr(refusal, "key", None)
    if name not in names:
        return refusal
    message = refusal.message.replace(repr(name), repr(names[name]))
    return refusal.replace(message=message, key=names[name])


def _tag(expected: Expect) -> object:
    return ABSENT if expected.version is None else expected.tag


def conflict(expected: Expect, record: Record) -> Conflict:
    """The refusal of a write that was computed from what is not there any more.

    A version says who wrote it, if it was raised; else it was somebody outside.
    """
    key = record.key
    if expected.version is None:
        message = f"{key!r} already exists"
    elif record.version > expected.version and record.writer is not None and record.time_us:
        return refusals.conflict(expected, record)
    elif record.exists:
        message = f"{key!r} was changed by a writer outside"
    else:
        message = f"{key!r} was deleted by a writer outside"
    return Conflict(message, key, expected.version, record.version, record)


def _number(version: Json, texts: bool) -> int:
    """Return what `_version` says, 0 where it says nothing."""
    if texts and isinstance(version, str) and version.isdecimal():
        return int(version)
    known = isinstance(version, int) and not isinstance(version, bool) and version > 0
    return int(version) if known else 0


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def _time_us(updated: Json, texts: bool) -> int:
    """Return what `_updated_at` says, in microseconds; 0 where it says nothing."""
    if texts and isinstance(updated, str) and _is_number(updated):
        updated = float(updated)
    if isinstance(updated, str):
        try:
            when = datetime.fromisoformat(updated)
        except ValueError:
            return 0
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        return (aware - as_datetime(0)) // timedelta(microseconds=1)
    number = isinstance(updated, int | float) and not isinstance(updated, bool)
    return round(updated * 1e6) if number and 0 < updated < 1e11 else 0
