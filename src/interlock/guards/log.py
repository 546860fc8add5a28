"""The log of a guard: what is written outside, as entries of a space, and the leases of it.

**One key for each.**  What a guard of `name` writes to `key` is logged under `log_key(name, key)`.
The newest entry there says what was last known to be outside (`state`), so whoever looks next can
tell whether somebody has written around the guards since.

**In the same atomic step** where the place can have an entry of the space in it (`is_one_with`):
then data and log cannot disagree.  Elsewhere an entry `in doubt` comes before the write, and
another one after it.  Whoever is killed in between leaves the doubt, which the next one to look
resolves by what is there.

**The epoch of a lease** is that of the log's key, and an entry is a commit like any other: so it is
refused where the lease was lost, and the write with it; elsewhere before the write.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any, NamedTuple
from urllib.parse import quote

from interlock.backends.drive import new_op_id
from interlock.core.fold import ask
from interlock.core.keys import MAX_KEY_BYTES, check_key, decode, encode
from interlock.core.plan import PUT, Expect, Plan, Write
from interlock.core.records import Committed, Leaseholder, Record, Snapshot, absent
from interlock.core.refusals import Conflict, Invalid, Outcome, Outdated, Refusal
from interlock.core.requests import Load, Steps
from interlock.core.struct import Json
from interlock.core.write import Decision, commit, forbidden_by_rule
from interlock.guards.place import (
    ABSENT,
    OVERTAKEN,
    Answers,
    Change,
    Changed,
    Found,
    Place,
    Repeated,
    Stopped,
    Together,
)
from interlock.session import AsyncSession, Session

STALE = 30.0  # seconds after which nobody who lives is still writing what is in doubt
_ROOM = 64 * 1024  # bytes of an entry beside the value
_MOST = 500  # times that others log the same key meanwhile

AnySession = Session | AsyncSession
Object = dict[str, Json]


def log_key(name: str, key: str) -> str:
    """Return the key of a space under which the guard `name` logs what it writes to `key`."""
    return space_key(f"guard/{quote(name, safe='')}/", key)


def space_key(prefix: str, key: str) -> str:
    """Return a key of a space that stands for one outside, whatever characters that has."""
    plain = prefix + key
    if "%" not in key and check_key(plain) is None:
        return plain
    text = prefix + quote(key, safe="").replace(".", "%2E")
    if len(text) > MAX_KEY_BYTES:
        text = f"{text[: MAX_KEY_BYTES - 33]}%{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return text


class Asked(NamedTuple):
    """What a guarded write demands of the log's key: this epoch (None: any), or its lease."""

    epoch: int | None
    leased: bool


class Last(NamedTuple):
    """What the log says of a key: its newest entry, the state that is known, the open doubts."""

    record: Record
    state: Object | None
    doubts: list[Object]
    lease: Leaseholder | None
    time_us: int

    def knows(self, found: Found) -> bool:
        """Whether that is what was last known to be outside, or nothing was known."""
        return self.state is None or self.state["digest"] == digest_of(found)

    def without(self, op_id: str) -> list[Object]:
        """The doubts but those of an operation."""
        return [each for each in self.doubts if each["op_id"] != op_id]


class Log:
    """The log of one guard.

    `values`: whether entries have the values that were written.  `fenced`: whether writes are
    compared with the epochs of leases.
    """

    def __init__(self, session: AnySession, place: Place, values: bool, fenced: bool) -> None:
        self.session = session
        self.place = place
        self.fenced = fenced
        self._values = values
        self._limit = session.writer.max_value_bytes + _ROOM
        self._together: Together | None = None

    @property
    def agent(self) -> str:
        """The name that entries are made under."""
        return self.session.writer.agent

    def key(self, key: str) -> str:
        """Return the key of the space for one of the place."""
        return log_key(self.place.name, key)

    # Looking

    async def look(self, key: str, asked: Asked | None = None) -> tuple[Last, Found]:
        """Read what is outside, and log what was written around the guards, or is resolved now.

        `asked`: what a write demands that looks first, perhaps with the lease of the key.
        """
        if self.place.in_callers_transaction():  # what is there may be rolled back
            return await self.last(key, self.session), await self.place.load(key)
        for _ in range(_MOST):
            last = await self.last(key, self.session)
            found = await self.place.load(key)
            entry = self.noticed(last, found)
            if entry is None:
                break
            writes = [self.write(last, entry, asked)]
            outcome = await self.commit(writes, new_op_id(), self.session)
            if isinstance(outcome, Committed) and asked is not None:
                continue  # what is to be written follows on that entry
            if not isinstance(outcome, Conflict):
                break  # logged; or somebody has the lease, and notices it himself
        return last, found

    async def last(self, key: str, session: AnySession) -> Last:
        """Return what the log says of a key."""
        (found,) = (await self.last_of([key], session))[0]
        return found

    async def last_of(
        self, keys: Iterable[str], session: AnySession, op_id: str | None = None
    ) -> tuple[list[Last], Committed | None]:
        """The same of several keys, of one moment, and what `op_id` has committed."""
        names = [self.key(key) for key in keys]
        snapshot: Snapshot = await self._run(
            ask(session.writer, Load((*names,), (), op_id)), session
        )
        return [_last(snapshot, name) for name in names], snapshot.applied

    def noticed(self, last: Last, found: Found) -> Object | None:
        """Return the entry that is due after looking; None where all is as it was known."""
        stale = last.time_us - STALE * 1e6
        fresh = [each for each in last.doubts if float(str(each["time_us"])) > stale]
        if last.knows(found):
            if len(fresh) == len(last.doubts):
                return None
            over: Json = [each for each in last.doubts if each not in fresh]
            return self.entry("not written", last, doubts=fresh, resolved=over)
        digest = digest_of(found)
        done = next((each for each in last.doubts if each["digest"] == digest), None)
        if done is not None:
            rest = [each for each in last.doubts if each is not done]
            return self.entry(
                "written", last, found, doubts=rest, resolved=[done], writer=done["agent"]
            )
        more: Object = {"perhaps": [*last.doubts]} if last.doubts else {}
        return self.entry("changed outside", last, found, doubts=fresh, **more)

    # Writing

    async def replace(
        self, changes: Sequence[Change], asked: Sequence[Asked], op_id: str
    ) -> Answers | Changed | Refusal:
        """Write outside, and log it.  Returns the answers of the place, or why nothing is."""
        together = await self._how()
        if together is Together.INSIDE:
            return await Inside(self, changes, asked, op_id).replace()
        if together is Together.SCRIPT:
            return await Scripted(self, changes, asked, op_id).replace()
        return await Apart(self, changes, asked, op_id).replace()

    async def has_receipts(self) -> bool:
        """Whether a write that is sent again is known by its entry to have been applied."""
        return await self._how() is not Together.NOT

    async def _how(self) -> Together:
        if self._together is None:
            self._together = await self.place.is_one_with(self.session)
        return self._together

    async def refused(self, key: str, refusal: str, message: str, op_id: str = "") -> None:
        """Log a write that was refused."""

        def entry(last: Last) -> Object:
            rest = last.without(op_id)
            return self.entry("refused", last, doubts=rest, refusal=refusal, message=message)

        async with self._using() as session:
            await self.note(key, entry, session)

    async def note(
        self,
        key: str,
        entry: Callable[[Last], Object | None],
        session: AnySession,
        asked: Asked | None = None,
    ) -> None:
        """Log what `entry` makes of what the log says, and again if that has moved."""
        for _ in range(_MOST):
            last = await self.last(key, session)
            made = entry(last)
            if made is None:
                return
            writes = [self.write(last, made, asked)]
            outcome = await self.commit(writes, new_op_id(), session)
            if isinstance(outcome, Conflict):
                continue
            if isinstance(outcome, Committed) or asked is None:
                return  # it is logged; or another has the lease, and nobody else writes meanwhile
            asked = None  # the lease was lost

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[AnySession]:
        """The space, inside the caller's transaction if there is one that has locked it."""
        inside = self.place.in_callers_transaction()
        if inside and await self._how() is Together.INSIDE:
            async with self.place.within() as connection, self.joined(connection) as session:
                yield session
        else:
            yield self.session

    @asynccontextmanager
    async def joined(self, connection: object) -> AsyncIterator[AnySession]:
        """The space inside the transaction of a connection."""
        answer: Any = self.session.joined(connection, nested=True)
        session: AnySession = await answer if isawaitable(answer) else answer
        try:
            yield session
        finally:
            closed = session.close()
            if isawaitable(closed):
                await closed

    def written(
        self, last: Last, change: Change, was: Found, found: Found, rest: list[Object]
    ) -> Object:
        """Return the entry of a write that is done: it was over `was`, and made `found`."""
        event = "created" if change.tag is ABSENT else "written"
        event = "appended" if change.appended else event
        event = "deleted" if found.value is ABSENT else event
        made = self.entry(event, last, found, doubts=rest)
        return made if last.state or was.value is ABSENT else {**made, "before": _state(was)}

    def entry(
        self,
        event: str,
        last: Last,
        found: Found | None = None,
        *,
        doubts: list[Object] | None = None,
        **more: Json,
    ) -> Object:
        """Return an entry; `found` is outside now (None: what was known still is)."""
        made: Object = {"event": event, **more}
        made["state"] = last.state if found is None else _state(found)
        if found is not None:
            made["before"] = last.state
            if self._values and found.value is not ABSENT:
                made["value"] = found.value
        open_ = last.doubts if doubts is None else doubts
        return {**made, "in_doubt": [*open_]} if open_ else made

    def write(self, last: Last, entry: Object, asked: Asked | None) -> tuple[Expect, Write, bool]:
        """Return an entry as a part of a commit: it must follow on `last`."""
        body = encode(entry, self._limit)
        if isinstance(body, Invalid):  # `perhaps` and the like never fill it: it is the value
            body = encode({**entry, "value": None}, self._limit)
        assert isinstance(body, str)
        epoch, leased = asked or Asked(None, False)
        expected = Expect(last.record.key, last.record.version, epoch)
        return expected, Write(PUT, expected.key, body), leased

    async def commit(
        self, writes: Sequence[tuple[Expect, Write, bool]], op_id: str, session: AnySession
    ) -> Outcome:
        """Commit entries."""

        def decision() -> Decision:
            return plan_of(writes, op_id, session)

        outcome: Outcome = await self._run(commit(session.writer, decision, False), session)
        return outcome

    async def _run(self, steps: Steps[Any], session: AnySession) -> Any:
        """Run a protocol in the space; a refusal is returned."""
        answer: Any = session.run(_returned(steps))
        (found,) = await answer if isawaitable(answer) else answer
        return found


class Writing:
    """A write of one or more keys, with its entries."""

    def __init__(
        self, log: Log, changes: Sequence[Change], asked: Sequence[Asked], op_id: str
    ) -> None:
        self.log = log
        self.changes = changes
        self.op_id = op_id
        self._asked = asked
        self._written = [
            (change, what)
            for change, what in zip(changes, asked, strict=True)
            if not change.compared_only
        ]

    def done(
        self, lasts: Sequence[Last], before: Sequence[Found], answers: Answers
    ) -> list[tuple[Expect, Write, bool]]:
        """Return an entry for each write that is done over `before`."""
        return [
            self.log.write(
                last,
                self.log.written(last, change, was, found_of(change, was, answer), last.doubts),
                what,
            )
            for last, (change, what), was, answer in zip(
                lasts, self._written, before, answers, strict=True
            )
        ]

    @property
    def keys(self) -> list[str]:
        """The keys that are written."""
        return [change.key for change, _ in self._written]


class Inside(Writing):
    """The entries are made inside the transaction that writes the data."""

    async def replace(self) -> Answers | Changed | Refusal:
        """Write, and log, or neither."""
        try:
            return await self.log.place.replace_all(self.changes, self)
        except Stopped as stopped:
            return stopped.refusal

    async def logged(
        self, connection: object, before: Sequence[Found], answers: Answers | Changed
    ) -> Answers | Changed:
        """Log, in the transaction, what was written in it.  Raises Stopped, Repeated.

        `before` is what was there.  Where nothing could be written, but this operation was sent
        before, what that has written is returned.
        """
        log = self.log
        async with log.joined(connection) as session:
            if isinstance(answers, Changed):
                again = any(change.again for change in self.changes)
                return await self._sent_before(session) if again else answers
            there, made = zip(
                *(
                    (was, answer)
                    for change, was, answer in zip(self.changes, before, answers, strict=True)
                    if not change.compared_only
                ),
                strict=True,
            )
            for _ in range(_MOST):
                lasts, _ = await log.last_of(self.keys, session)
                due = [
                    log.write(last, entry, what)
                    for last, (_, what), was in zip(lasts, self._written, there, strict=True)
                    if (entry := log.noticed(last, was)) is not None
                ]
                writes = due or self.done(lasts, there, made)
                op_id = new_op_id() if due else self.op_id
                outcome = await log.commit(writes, op_id, session)
                if isinstance(outcome, Committed) and not due:
                    if outcome.replayed:
                        raise Repeated([_overtaken(change) for change in self.changes])
                    return answers
                if not isinstance(outcome, Committed | Conflict):
                    raise Stopped(outcome)
        raise Stopped(_contended(self.keys[0]))

    async def _sent_before(self, session: AnySession) -> Answers | Changed:
        _, applied = await self.log.last_of(self.keys, session, self.op_id)
        if applied is None:
            return Changed()
        return [_overtaken(change) for change in self.changes]


class Scripted(Writing):
    """The entries are made by the script that writes the data."""

    plan: Plan

    @property
    def session(self) -> AnySession:
        """The space."""
        return self.log.session

    async def replace(self) -> Answers | Changed | Refusal:
        """Write, and log, or neither."""
        log = self.log
        for _ in range(_MOST):
            looked = [await log.look(change.key, what) for change, what in self._written]
            entries = self.done(
                [last for last, _ in looked],
                [found for _, found in looked],
                [None] * len(looked),
            )
            plan = plan_of(entries, self.op_id, log.session)
            if isinstance(plan, Refusal):
                return plan
            self.plan = plan
            try:
                return await log.place.replace_all(self.changes, self)
            except Stopped as stopped:
                refusal = stopped.refusal
            if isinstance(refusal, Outdated):
                log.session.writer.book.load(refusal.record.version, refusal.record.value)
            elif not isinstance(refusal, Conflict):
                return refusal
        return _contended(self.keys[0])

    def closed(self) -> Plan:
        """Return the commit of the entries, as the store is to have it."""
        seal = self.log.session.driver.seal
        if seal is None:
            return self.plan
        from interlock.core.requests import Commit

        request: Any = seal.closed(Commit(self.plan))
        plan: Plan = request.plan
        return plan


class Apart(Writing):
    """The space is somewhere else: an entry before the write, and one after it."""

    async def replace(self) -> Answers | Changed | Refusal:
        """Write, between two entries."""
        seen = await self._doubted()
        if isinstance(seen, Refusal):
            return seen
        place, log = self.log.place, self.log
        if len(self.changes) == 1:
            answer = await place.replace(self.changes[0])
            answers: Answers | Changed = [answer]
            if isinstance(answer, Changed):
                answers = answer._replace(key=self.changes[0].key)
        else:
            answers = await place.replace_all(self.changes, None)
        if place.in_callers_transaction():
            return answers  # it may be rolled back: whoever looks next sees what has become of it
        if isinstance(answers, Changed):
            for key in self.keys:
                if key != answers.key:  # that one is logged by who refuses it
                    await log.note(key, self._undoubted, log.session)
            return answers
        now = {
            change.key: found_of(change, seen[change.key], answer)
            for change, answer in zip(self.changes, answers, strict=True)
            if not change.compared_only
        }
        for change, what in self._written:

            def settled(last: Last, change: Change = change) -> Object | None:
                rest = last.without(self.op_id)
                if len(rest) == len(last.doubts):
                    return None  # somebody has looked before
                return log.written(last, change, seen[change.key], now[change.key], rest)

            await log.note(change.key, settled, log.session, what)
        return answers

    async def _doubted(self) -> dict[str, Found] | Refusal:
        """Log that it may be written from now on; return what it is written over."""
        log = self.log
        for _ in range(_MOST):
            looked = {
                change.key: await log.look(change.key, what) for change, what in self._written
            }
            seen = {key: found for key, (_, found) in looked.items()}
            lasts = [last for last, _ in looked.values()]
            if all(len(last.without(self.op_id)) < len(last.doubts) for last in lasts):
                return seen  # it is sent again

            doubts = [
                log.write(last, self._doubt(last, change, seen[change.key]), what)
                for last, (change, what) in zip(lasts, self._written, strict=True)
            ]
            outcome = await log.commit(doubts, new_op_id(), log.session)
            if isinstance(outcome, Committed):
                return seen
            if not isinstance(outcome, Conflict):
                return outcome
        return _contended(self.keys[0])

    def _undoubted(self, last: Last) -> Object | None:
        rest = last.without(self.op_id)
        mine: Json = [each for each in last.doubts if each not in rest]
        return self.log.entry("not written", last, doubts=rest, resolved=mine) if mine else None

    def _doubt(self, last: Last, change: Change, was: Found) -> Object:
        doubt: Object = {
            "op_id": self.op_id,
            "agent": self.log.agent,
            "digest": digest_of(found_of(change, was, None)),
            "time_us": last.time_us,
        }
        return self.log.entry("in doubt", last, doubts=[*last.doubts, doubt])


def plan_of(
    writes: Sequence[tuple[Expect, Write, bool]], op_id: str, session: AnySession
) -> Decision:
    """Plan a commit of entries."""
    writer = session.writer
    for _, write, leased in writes:
        refusal = forbidden_by_rule(writer, absent(write.key, writer.space), write, leased)
        if refusal is not None:
            return refusal
    return writer.plan(
        op_id,
        expects=[expected for expected, _, _ in writes],
        writes=[write for _, write, _ in writes],
        leased=tuple(write.key for _, write, leased in writes if leased),
    )


def found_of(change: Change, was: Found, answer: object) -> Found:
    """Return what is there after a change of `was`, as far as that is known."""
    if isinstance(answer, Found):
        return answer
    if change.appended:
        items = [] if was.value is ABSENT else was.value
        return Found(None, [*items, decode(change.body)])
    value: Any = ABSENT if change.body is None else decode(change.body)
    return Found(answer, value)


def digest_of(found: Found) -> str | None:
    """Return what tells a value from others; None for nothing."""
    if found.value is ABSENT:
        return None
    text = json.dumps(found.value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _state(found: Found) -> Object:
    value = found.value
    carried = value.get("_version") if isinstance(value, dict) else None
    version = found.version or (carried if isinstance(carried, int) else 0)
    return {"exists": value is not ABSENT, "digest": digest_of(found), "version": version}


def _last(snapshot: Snapshot, name: str) -> Last:
    record, lease = snapshot.records[name], snapshot.leases.get(name)
    value = record.value if isinstance(record.value, dict) else {}
    state, doubts = value.get("state"), value.get("in_doubt")
    known = {"position": record.position, **state} if isinstance(state, dict) else None
    return Last(record, known, [*doubts] if doubts else [], lease, snapshot.time_us)


def _overtaken(change: Change) -> Found:
    return found_of(change, Found(None, ABSENT), None)._replace(tag=OVERTAKEN)


def _contended(key: str) -> Refusal:
    from interlock.core.refusals import Contended

    text = f"Others have logged {key!r} {_MOST} times meanwhile. Nothing was written"
    return Contended(text, key, _MOST)


def _returned(steps: Steps[Any]) -> Steps[Any]:
    """Protocol: what a protocol returns, so that a refusal is not raised."""
    return ((yield from steps),)
