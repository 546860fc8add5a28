"""One worker process: `python -m interlock.verify.torture.worker`, which reads its orders.

It goes on with the plan where the worker before it left off, and ends when the plan does, or when
whoever started it is gone.  What it writes names the operation (`by`), so that the log tells who
wrote what.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import interlock
from interlock import Json
from interlock.verify.torture import plan
from interlock.verify.torture.plan import Op, Settings, operation
from interlock.verify.torture.record import (
    ACKNOWLEDGED,
    REFUSED,
    UNAVAILABLE,
    UNKNOWN,
    Board,
    Facts,
    Piece,
    Recorder,
    Seen,
)

MACHINE = interlock.Machine(
    "torture-job",
    field="status",
    initial="IDLE",
    transitions={
        "IDLE": ["RUNNING"],
        "RUNNING": ["DONE", "FAILED"],
        "DONE": ["IDLE"],
        "FAILED": ["IDLE", "RUNNING"],
    },
)
RULES = {
    "lists/**": interlock.merged("append"),
    "sums/**": interlock.merged("counter"),
    "jobs/**": interlock.guarded(machine=MACHINE),
}
Records = Mapping[str, interlock.Record]
Values = dict[str, dict[str, Json]]  # what a decision writes, by key

NOT_NOTED = "?"  # in the place of a writer that a read did not tell
_STATES = tuple(MACHINE.states)
_PER_WORKER = 10_000_000
_THOUGHTS = 5  # of one update or transaction, at most
_PATIENCE = 0.3  # seconds


def amount(op: Op) -> int:
    """Return what an operation counts: a number that no other operation has."""
    return (op.worker + 1) * _PER_WORKER + op.number


def counted_by(item: int) -> str:
    """Return the id of the operation that counted `item`."""
    worker, number = divmod(item, _PER_WORKER)
    return plan.op_id(worker - 1, number)


def writer_of(value: Json) -> str | None:
    """Return what a value says of its writer; None where the key is absent."""
    if value is None:
        return None
    return str(value["by"]) if isinstance(value, dict) else NOT_NOTED


def seen(record: interlock.Record) -> Seen:
    """Return what is noted of a record."""
    value = record.value
    if isinstance(value, list):
        return record.version, value[-1] if value else None
    return record.version, writer_of(value)


class Noted:
    """What is noted of one operation while it runs; `record` puts facts down at once."""

    def __init__(self, record: Callable[[Facts], None]) -> None:
        self.record = record
        self.pieces: list[Piece] = []
        self.facts: Facts = {}

    def read(self, began: float, records: Records) -> None:
        """Note a reading of one moment."""
        found = {key: seen(record) for key, record in records.items()}
        self.pieces.append(Piece(began, time.monotonic(), "", found, {}, {}))

    def commit(
        self,
        began: float,
        name: str,
        reads: dict[str, Seen],
        writes: dict[str, Seen],
        scans: dict[str, dict[str, Seen]] | None = None,
    ) -> None:
        """Note a commit that was acknowledged."""
        self.pieces.append(Piece(began, time.monotonic(), name, reads, writes, scans or {}))


class Actor:
    """Performs operations on keys.  `perform` notes what happened and raises what the store did."""

    def __init__(self, space: interlock.AsyncSpace) -> None:
        self.space = space
        self.ways: dict[str, Callable[[Op, Noted], Awaitable[None]]] = {
            "write": self.write,
            "update": self.update,
            "queued": self.update,
            "again": self.update,
            "churn": self.churn,
            "read": self.read,
            "append": self.append,
            "count": self.count,
            "tally": self.tally,
            "transfer": self.transfer,
            "audit": self.audit,
            "duty": self.duty,
            "roster": self.roster,
            "intrude": self.write,
            "step": self.step,
        }

    async def perform(self, op: Op, noted: Noted) -> None:
        """Perform one operation."""
        await self.ways[op.kind](op, noted)

    async def write(self, op: Op, noted: Noted) -> None:
        """Read, think, write over what was read."""
        key = op.key("hot", plan.HOT) if op.kind == "write" else op.key("leases", plan.LEASED)
        record = await self._read_one(key, noted)
        await asyncio.sleep(0)
        began = time.monotonic()
        with _conflicts(noted, began):
            made = await self.space.write(record, {"by": op.id}, op_id=op.id)
            noted.commit(began, op.id, {key: seen(record)}, {key: seen(made)})

    async def update(self, op: Op, noted: Noted) -> None:
        """Update a key; with turns where it is `queued`, twice with one id where it is `again`."""
        turns = "auto" if op.kind == "queued" else "never"
        key = op.key("queues" if op.kind == "queued" else "hot", plan.HOT)
        before: str | None = None

        async def think(value: Json) -> Json:
            nonlocal before
            before = writer_of(value)
            return {"by": op.id}

        async def send() -> interlock.Record:
            return await self.space.update(
                key, think, attempts=_THOUGHTS, patience=_PATIENCE, turns=turns, op_id=op.id
            )

        began = time.monotonic()
        made = await send()
        read: Seen = (0, None) if before is None else (None, before)
        noted.commit(began, op.id, {key: read}, {key: seen(made)})
        if op.kind == "again":
            noted.facts["same"] = seen(await send()) == seen(made)

    async def churn(self, op: Op, noted: Noted) -> None:
        """Create a key that is not there; delete or write one that is."""
        key = op.key("churned", plan.CHURNED)
        record = await self._read_one(key, noted)
        await asyncio.sleep(0)
        began = time.monotonic()
        with _conflicts(noted, began):
            if not record.exists:
                made = await self.space.create(key, {"by": op.id}, op_id=op.id)
            elif op.b % 3:
                made = await self.space.delete(record, op_id=op.id)
            else:
                made = await self.space.write(record, {"by": op.id}, op_id=op.id)
            before = seen(record) if record.exists else (made.version - 1, None)
            noted.commit(began, op.id, {key: before}, {key: seen(made)})

    async def read(self, op: Op, noted: Noted) -> None:
        """Read one to three keys as of one moment."""
        keys = {f"hot/{op.window}/{n % plan.HOT}" for n in (op.a, op.b, op.c)[: 1 + op.c % 3]}
        await self._read_many(sorted(keys), noted)

    async def append(self, op: Op, noted: Noted) -> None:
        """Append to a list."""
        key, began = op.key("lists", plan.LISTS), time.monotonic()
        entry = await self.space.append(key, op.id)
        noted.commit(began, op.id, {}, {key: (entry.version, op.id)})

    async def count(self, op: Op, noted: Noted) -> None:
        """Count; sent twice at times, with one contribution id."""
        key, began = op.key("sums", plan.SUMS), time.monotonic()
        entry = await self.space.append(key, amount(op), id=op.id)
        noted.commit(began, op.id, {}, {key: (entry.version, op.id)})
        if op.b % 8 == 0:
            again = await self.space.append(key, amount(op), id=op.id)
            noted.facts["same"] = again.version == entry.version

    async def tally(self, op: Op, noted: Noted) -> None:
        """Read a list and a sum."""
        names = [op.key("lists", plan.LISTS), op.key("sums", plan.SUMS)]
        records = await self._read_many(names, noted)
        items, total = (records[name] for name in names)
        noted.facts["items"] = (items.key, items.version, len(items.value or []))
        noted.facts["total"] = (total.key, total.version, total.value or 0)

    async def transfer(self, op: Op, noted: Noted) -> None:
        """Move money from one account to another."""
        source = op.a % plan.ACCOUNTS
        target = (source + 1 + op.b % (plan.ACCOUNTS - 1)) % plan.ACCOUNTS
        names = [f"accounts/{op.window}/{n}" for n in (source, target)]

        def move(records: Records) -> Values:
            moved = 1 + op.c % 9
            return {
                name: {"by": op.id, "funds": _funds(records[name]) + sign * moved}
                for name, sign in zip(names, (-1, 1), strict=True)
            }

        await self._transact(op, noted, names, move)

    async def audit(self, op: Op, noted: Noted) -> None:
        """Read all accounts: in a transaction, or as one reading."""
        names = [f"accounts/{op.window}/{n}" for n in range(plan.ACCOUNTS)]
        if op.b % 2:
            records = await self._read_many(names, noted)
            noted.facts["funds"] = sum(map(_funds, records.values()))
            return

        def look(records: Records) -> Values:
            noted.facts["funds"] = sum(map(_funds, records.values()))
            return {}

        await self._transact(op, noted, names, look)

    async def duty(self, op: Op, noted: Noted) -> None:
        """Leave the duty where somebody else is on it, else take it: one is always on."""
        prefix = op.key("duties", plan.DUTIES)
        names = [f"{prefix}/{n}" for n in range(plan.ON_CALL)]

        def decide(records: Records) -> Values:
            on = [name for name in names if is_on(records[name].value)]
            off = [name for name in names if name not in on]
            leaves = len(on) > 1 and (op.b % 3 > 0 or not off)
            among = on if leaves else off
            name = among[op.c % len(among)]
            return {name: {"by": op.id, "on": not leaves}}

        await self._transact(op, noted, names, decide)

    async def roster(self, op: Op, noted: Noted) -> None:
        """Join a roster that has a place left."""
        prefix = op.key("rosters", plan.ROSTERS) + "/"
        scans: dict[str, dict[str, Seen]] = {}
        writes: dict[str, Seen] = {}

        async def join(tx: interlock.AsyncTx) -> None:
            writes.clear()
            there = await tx.scan(prefix)
            scans[prefix] = {key: seen(record) for key, record in there.items()}
            await asyncio.sleep(0)
            if len(there) < plan.PLACES:
                tx.create(f"{prefix}{op.id}", {"by": op.id})
                writes[f"{prefix}{op.id}"] = 1, op.id

        began = time.monotonic()
        await self.space.transact(join, attempts=_THOUGHTS, turns="never", op_id=op.id)
        noted.commit(began, op.id if writes else "", {}, writes, scans)

    async def step(self, op: Op, noted: Noted) -> None:
        """Move a machine; sometimes where it may not go."""
        key = op.key("jobs", plan.JOBS)
        record = await self._read_one(key, noted)
        began = time.monotonic()
        with _conflicts(noted, began):
            if not record.exists:
                made = await self.space.create(key, {"status": "IDLE", "by": op.id}, op_id=op.id)
            else:
                targets = MACHINE.targets(record.value["status"]) if op.b % 4 else _STATES
                to = targets[op.c % len(targets)]
                made = await self.space.transition(record if op.a % 2 else key, to, by=op.id)
            noted.commit(began, op.id, {key: (made.version - 1, NOT_NOTED)}, {key: seen(made)})

    async def _transact(
        self, op: Op, noted: Noted, names: list[str], decide: Callable[[Records], Values]
    ) -> None:
        """Run a transaction that reads keys, one half of them after the other, and decides."""
        reads: dict[str, Seen] = {}
        writes: dict[str, Seen] = {}
        half = len(names) // 2

        async def run(tx: interlock.AsyncTx) -> None:
            reads.clear()
            writes.clear()
            records = dict(await tx.read_many(names[:half]))
            await asyncio.sleep(0)
            records |= await tx.read_many(names[half:])
            reads.update({key: seen(record) for key, record in records.items()})
            for name, value in decide(records).items():
                tx.write(records[name], value)
                writes[name] = records[name].version + 1, op.id

        began = time.monotonic()
        await self.space.transact(run, attempts=_THOUGHTS, turns="never", op_id=op.id)
        noted.commit(began, op.id if writes else "", reads, writes)

    async def _read_one(self, key: str, noted: Noted) -> interlock.Record:
        return (await self._read_many([key], noted))[key]

    async def _read_many(self, keys: list[str], noted: Noted) -> dict[str, interlock.Record]:
        began = time.monotonic()
        records = await self.space.read_many(keys)
        noted.read(began, records)
        return records


class _conflicts:  # a context manager, read as a phrase
    """Notes the fresh record that a Conflict brings: it was read when the write was refused."""

    def __init__(self, noted: Noted, began: float) -> None:
        self.noted = noted
        self.began = began

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, problem: BaseException | None, traceback: object) -> None:
        if isinstance(problem, interlock.Conflict):
            self.noted.read(self.began, {problem.key: problem.record})


def is_on(value: Json) -> bool:
    """Say whether somebody is on duty; all are at the beginning."""
    return value is None or bool(value["on"])


def _funds(record: interlock.Record) -> int:
    return int(record.value["funds"]) if record.exists else plan.FUNDS


GROUP = "workers"
GROUP_PREFIX = "jobs/"
_WAIT = 0.3  # seconds for a lease
_WORK = 0.02  # seconds with a lease in hand, at most
_FOLLOWED = 1000  # entries at once
_TAKEN = 20


def stamp(entry: interlock.Entry) -> int:
    """Return a number that stands for an entry; those of a stretch of the log are summed up."""
    text = f"{entry.position} {entry.key} {entry.version} {entry.op_id}"
    return zlib.crc32(text.encode())


class Worker(Actor):
    """Performs all operations."""

    def __init__(self, space: interlock.AsyncSpace) -> None:
        super().__init__(space)
        self.ways |= {
            "lease": self.lease,
            "reclaim": self.reclaim,
            "follow": self.follow,
            "consume": self.consume,
        }
        self._position = 0
        self._following = asyncio.Lock()
        self._consuming = asyncio.Lock()
        self._group = space.group(GROUP, prefix=GROUP_PREFIX, ttl=plan.GROUP_TTL)

    async def lease(self, op: Op, noted: Noted) -> None:
        """Take a lease, write a few times with some work in between, give it up."""
        key = op.key("leases", plan.LEASED)
        lease = self.space.lease(key, ttl=plan.LEASE_TTL, wait=_WAIT)
        began = time.monotonic()
        async with lease:
            noted.facts["grant"] = (key, lease.epoch, began, time.monotonic())
            noted.read(began, {key: lease.record})
            for turn in range(1 + op.b % 3):
                await asyncio.sleep(_WORK * (op.c % 16) / 16)
                name, before, began = f"{op.id}.{turn}", lease.record, time.monotonic()
                made = await lease.write({"by": name}, op_id=name)
                noted.commit(began, name, {key: seen(before)}, {key: seen(made)})

    async def reclaim(self, op: Op, noted: Noted) -> None:
        """Take a lease away from whoever has it."""
        key, began = op.key("leases", plan.LEASED), time.monotonic()
        record = await self.space.reclaim(key)
        noted.facts["grant"] = (key, record.epoch, began, time.monotonic())

    async def follow(self, op: Op, noted: Noted) -> None:
        """Read the log on from where this worker was."""
        async with self._following:
            after, total = self._position, 0
            entries = self.space.log(after=after)
            async for entry in entries:
                self._position += 1
                if entry.position != self._position:
                    noted.facts["gap"] = (self._position, entry.position)
                    self._position = entry.position
                total += stamp(entry)
                if self._position - after >= _FOLLOWED:
                    break
            noted.facts["log"] = (after, self._position, total)

    async def consume(self, op: Op, noted: Noted) -> None:
        """Take entries of the group and acknowledge them; sometimes give them back instead."""
        async with self._consuming:
            began = time.monotonic()
            taken = await self._group.take(_TAKEN)
            # Who dies between the acknowledgement and its answer was given them all the same.
            noted.record({"taken": (began, [each.entry.position for each in taken])})
            if op.c % 8 == 0:
                await self._group.close()
            elif taken:
                began = time.monotonic()
                done = await self._group.ack(*taken)
                noted.facts["acked"] = (began, time.monotonic(), done)

    async def close(self) -> None:
        """Give back what was taken of the group and not acknowledged."""
        with suppress(interlock.InterlockError):  # what stays away is claimed by others in time
            await self._group.close()


CLOSED = 3  # the exit code where the store lost commits, or is damaged; that is recorded
UNEXPECTED = "!"  # begins the reason of an error that must not happen
_PAUSE = 0.25  # seconds after the store was away
_LOOKS_EVERY = 1.0


class Performer(Protocol):
    """What performs operations."""

    async def perform(self, op: Op, noted: Noted) -> None:
        """Perform one; note what happened, and raise what the store did."""
        ...


class Life:
    """What one worker process shares between its tasks."""

    def __init__(self, settings: Settings, folder: Path, number: int) -> None:
        self.settings = settings
        self.number = number
        self.board = Board(folder / "board", settings.processes)
        self.recorder = Recorder(folder, number)
        self.next = self.board.begun(number)

    async def work(self, worker: Performer) -> None:
        """Perform one operation after the other, until there are no more."""
        while self.next < self.settings.share:
            op = operation(self.settings, self.number, self.next)
            self.next += 1
            # Both before the store is asked: what was sent is on record, and who comes after a
            # process that was killed never sends it again.
            self.recorder.begin(op, time.monotonic())
            self.board.set_begun(self.number, self.next)
            noted = Noted(partial(self.recorder.note, op))
            outcome, reason, fatal = ACKNOWLEDGED, "", None
            try:
                await worker.perform(op, noted)
            except interlock.Refused as problem:
                outcome, reason = REFUSED, type(problem).__name__
            except interlock.Unavailable:
                outcome, reason = UNAVAILABLE, "Unavailable"
            except interlock.Unknown:
                outcome, reason = UNKNOWN, "Unknown"
            except Exception as problem:  # an anomaly, which the checker reports
                outcome, reason = UNKNOWN, f"{UNEXPECTED}{type(problem).__name__}: {problem}"
                fatal = problem if isinstance(problem, interlock.Corrupt) else None
            if noted.pieces and noted.pieces[-1].commit and self.board.dies(self.number):
                os.kill(os.getpid(), signal.SIGKILL)  # the reply is lost
            now = time.monotonic()
            self.recorder.end(op, now, outcome, reason, noted.pieces, noted.facts)
            self.board.add_answered(self.number)
            if fatal is not None:
                raise fatal
            if outcome == UNAVAILABLE:
                await asyncio.sleep(_PAUSE)


def wrong_clock(board: Board, number: int) -> None:
    """Let this process's clock be wrong by what the board says."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + board.offset(number) / 1e6
    time.time_ns = lambda: now_ns() + board.offset(number) * 1000


async def _open(url: str, settings: Settings, number: int) -> interlock.AsyncSpace:
    while True:
        try:
            name = f"worker-{number}"
            return await interlock.open_async(url, settings.space, name, rules=RULES)
        except interlock.Unavailable:
            await asyncio.sleep(_PAUSE)


async def die_with_parent() -> None:
    """Kill this process as soon as whoever started it is gone."""
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(_LOOKS_EVERY)
    os.kill(os.getpid(), signal.SIGKILL)


async def live(settings: Settings, folder: Path, number: int, url: str) -> None:
    """Live the life of one worker."""
    life = Life(settings, folder, number)
    wrong_clock(life.board, number)
    watching = asyncio.create_task(die_with_parent())
    async with await _open(url, settings, number) as space:
        worker = Worker(space)
        await asyncio.gather(*(life.work(worker) for _ in range(settings.tasks)))
        await worker.close()
    watching.cancel()


def orders(settings: Settings, folder: Path, number: int, url: str) -> bytes:
    """Return what a worker reads from its standard input: a URL may hold a password."""
    return json.dumps([settings.to_json(), str(folder), number, url]).encode()


def main() -> None:
    """Run a worker."""
    settings, folder, number, url = json.load(sys.stdin)
    try:
        asyncio.run(live(Settings.from_json(settings), Path(folder), number, url))
    except interlock.Corrupt:
        raise SystemExit(CLOSED) from None


if __name__ == "__main__":
    main()
