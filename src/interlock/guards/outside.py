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
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from interlock.backends.contract import Backend
from interlock.core import refusals
from interlock.core.keys import check_key, decode, encode
from interlock.core.plan import Expect, Plan
from interlock.core.records import Committed, Record, Snapshot, Written, absent, as_datetime
from interlock.core.refusals import Conflict, Invalid, Outcome
from interlock.core.requests import (
    Commit,
    LeaveTurn,
    Load,
    Noted,
    Pause,
    Request,
    TakeTurn,
)
from interlock.core.requests import (
    Place as InQueue,
)
from interlock.core.rules import RULES_KEY
from interlock.core.struct import Json
from interlock.core.writer import Writer
from interlock.errors import AnswerLost, Fault
from interlock.errors import Invalid as InvalidError
from interlock.guards.place import ABSENT, Absent, Change, Changed, Found, Place

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
        self, place: Place, uid: str, metadata: bool | None, limit: int, turns: Backend | None
    ) -> None:
        self.place = place
        self.uid = uid if turns is None else turns.uid  # waits there and here may be one cycle
        self.name = place.name
        self._space = uid
        self._metadata = metadata
        self._limit = limit
        self._turns = turns
        # Whose answers were lost, by operation: the plan, and what was sent for it.
        self._lost: dict[str, tuple[Plan, _Stamped, Change]] = {}
        self._granted: dict[int, int] = {}  # tickets, and how often each was beaten

    def perform(self, request: Request[T]) -> T:
        """Answer one request.  Nothing that it awaits blocks, so it ends at once."""
        steps = self._answer(request)
        try:
            steps.send(None)
        except StopIteration as end:
            answer: T = end.value
            return answer
        steps.close()
        raise TypeError(f"{self.name} awaits something, but was made for threads")

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
            return self._nothing()
        raise InvalidError(f"{self.name} can't answer {type(request).__name__}.")

    async def _nothing(self) -> None:
        """What was refused here is noted nowhere."""

    async def _load(self, request: Load) -> Snapshot:
        queued, time_us = {}, time.time_ns() // 1000
        if self._turns is not None:
            names = {self._queue(key): key for key in request.keys}
            there: Snapshot = await self._ask_turns(Load((*names,)))
            queued = {names[name]: count for name, count in there.queued.items()}
            time_us = there.time_us
        records = {key: await self._record(key) for key in request.keys}
        return Snapshot(0, time_us, records, {}, queued)

    async def _record(self, key: str) -> Record:
        if key == RULES_KEY:
            return absent(key, self._space)  # a guard's rules are its own
        return self._record_of(key, await self.place.load(key))

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
        (write,) = plan.writes
        expected = next(each for each in plan.expects if each.key == write.key)
        lost = self._lost.pop(plan.op_id, None)
        if lost is not None and lost[0] == plan:  # what is sent again is what was sent
            stamped, change = lost[1], lost[2]._replace(again=True)
        else:
            made = self._stamped(write.body, expected, plan.agent)
            if isinstance(made, Invalid):
                return made
            tag = ABSENT if expected.version is None else expected.tag
            stamped, change = made, Change(write.key, tag, made.body, plan.op_id)
        try:
            answer = await self.place.replace(change)
        except AnswerLost:
            while len(self._lost) >= _MOST_LOST:  # their callers gave up
                del self._lost[next(iter(self._lost))]
            self._lost[plan.op_id] = plan, stamped, change
            raise
        if isinstance(answer, Changed):
            found = answer.found or await self.place.load(write.key)
            return conflict(expected, self._record_of(write.key, found))
        if plan.ticket:
            with suppress(AnswerLost, Fault):  # else it expires
                await self._leave_turn(LeaveTurn(plan.ticket))
        body, version = stamped.body, stamped.version
        if isinstance(answer, Found):
            record = self._record_of(write.key, answer)
            body, version, answer = record.body, record.version, record.tag
        written = Written(write.key, write.kind, version, 0, 0, body, tag=answer)
        return Committed(0, stamped.time_us, plan.agent, (written,))

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
        return f"guard/{self.name}/{key}"[:_LONGEST_QUEUE]  # some may share one

    async def _take_turn(self, request: TakeTurn) -> InQueue:
        (key,) = request.keys
        if self._turns is None:
            ticket = request.ticket or next(_tickets)
            beaten = self._granted.setdefault(ticket, 0)
            if not request.ticket or request.firm:
                self._granted[ticket] = beaten + 1
                await self._sleep(random.uniform(0, min(_FIRST_WAIT * 2**beaten, _LONGEST_WAIT)))
            found = InQueue(ticket, 0, Snapshot(0, time.time_ns() // 1000, {}, {}, {}))
        else:
            found = await self._ask_turns(request.replace(keys=(self._queue(key),)))
        if not found.ticket or found.ahead:
            return found._replace(snapshot=found.snapshot._replace(records={}, queued={}))
        if request.ticket in self._granted and not request.firm and request.ticket:
            return found  # it is only kept alive
        records = {key: await self._record(key)}
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
