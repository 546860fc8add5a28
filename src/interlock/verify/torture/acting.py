"""How a worker performs the operations of the plan on keys, and what it notes of each.

What it writes names the operation (`by`), so that the log tells who wrote what.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import interlock
from interlock.verify.torture import plan
from interlock.verify.torture.plan import Op
from interlock.verify.torture.recording import Piece, Seen

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
Values = dict[str, dict[str, Any]]  # what a decision writes, by key

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


def writer_of(value: Any) -> str | None:
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

    def __init__(self, record: Callable[[dict[str, Any]], None]) -> None:
        self.record = record
        self.pieces: list[Piece] = []
        self.facts: dict[str, Any] = {}

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

        async def think(value: Any) -> Any:
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
        noted.facts["list"] = [items.key, items.version, len(items.value or [])]
        noted.facts["total"] = [total.key, total.version, total.value or 0]

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
        self,
        op: Op,
        noted: Noted,
        names: list[str],
        decide: Callable[[Records], Values],
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

    def __exit__(self, kind: Any, problem: BaseException | None, traceback: Any) -> None:
        if isinstance(problem, interlock.Conflict):
            self.noted.read(self.began, {problem.key: problem.record})


def is_on(value: Any) -> bool:
    """Say whether somebody is on duty; all are at the beginning."""
    return value is None or bool(value["on"])


def _funds(record: interlock.Record) -> int:
    return int(record.value["funds"]) if record.exists else plan.FUNDS
