"""What the tests of faults share: writers that note what they were told, and the check afterwards.

A writer contributes items, each by one commit, until it is told to stop.  What became of each is
noted: acknowledged (must be there exactly once), refused or unavailable (must not be there),
doubtful (may be there, once).  The fault strikes after a number of acknowledgements, not at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import interlock
from interlock.errors import LostCommits, Refused, Unavailable, Unknown
from tests.processes.writers import disagreements
from tests.servers.process import wait_until

KEYS = [f"shared/{n}" for n in range(3)]
RULES = {"findings": interlock.merged("append")}
KINDS = ("update", "transaction", "create", "append", "write")
PATIENCE = 40.0  # seconds that a test waits for progress


class Ledger:
    """What became of each item."""

    def __init__(self) -> None:
        self.acknowledged: set[str] = set()
        self.refused: dict[str, Exception] = {}
        self.doubtful: dict[str, str] = {}  # item: operation id
        self.lost: list[LostCommits] = []
        self.strange: list[BaseException] = []
        self.over = threading.Event()

    @contextmanager
    def noting(self, item: str) -> Iterator[None]:
        """Note how contributing an item ends."""
        try:
            yield
        except Unknown as problem:
            self.doubtful[item] = problem.op_id
        except LostCommits as problem:
            self.doubtful[item] = ""
            self.lost.append(problem)
            raise
        except (Refused, Unavailable) as problem:
            self.refused[item] = problem
            self.over.wait(0.01)
        except BaseException as problem:
            self.strange.append(problem)
            raise
        else:
            self.acknowledged.add(item)

    def wait_for(self, more: int) -> None:
        """Wait until so many more items were acknowledged."""
        wanted = len(self.acknowledged) + more
        wait_until(
            lambda: len(self.acknowledged) >= wanted or bool(self.strange or self.lost),
            f"{more} more items; refused: {list(self.refused.values())[-1:]}",
            PATIENCE,
        )


def contribute(space: interlock.Space, chance: random.Random, item: str, turns: str) -> None:
    """Contribute one item in one commit; its name says how."""

    def add(items: list[str]) -> list[str]:
        return [*items, item][-20:]

    kind = item.rpartition(":")[2]
    if kind == "update":
        space.update(chance.choice(KEYS), add, default=[], attempts=1000, turns=turns)
    elif kind == "append":
        space.append("findings", item)
    elif kind == "create":
        space.create(f"own/{item}", item)
    elif kind == "write":
        space.write(space.read(f"own/{item}"), item)
    else:
        pair = chance.sample(KEYS, 2)

        def both(tx: interlock.Tx) -> None:
            for record in tx.read_many(pair).values():
                tx.write(record, add(record.value or []))

        space.transact(both, attempts=1000, turns=turns)
    assert kind in KINDS


async def contribute_async(
    space: interlock.AsyncSpace, chance: random.Random, item: str, turns: str
) -> None:
    """The same with the asyncio API."""

    def add(items: list[str]) -> list[str]:
        return [*items, item][-20:]

    kind = item.rpartition(":")[2]
    if kind == "update":
        await space.update(chance.choice(KEYS), add, default=[], attempts=1000, turns=turns)
    elif kind == "append":
        await space.append("findings", item)
    elif kind == "create":
        await space.create(f"own/{item}", item)
    elif kind == "write":
        await space.write(await space.read(f"own/{item}"), item)
    else:
        pair = chance.sample(KEYS, 2)

        async def both(tx: interlock.AsyncTx) -> None:
            for record in (await tx.read_many(pair)).values():
                tx.write(record, add(record.value or []))

        await space.transact(both, attempts=1000, turns=turns)


class Work(NamedTuple):
    """What the writers of a process do.

    `turns` as of `update`: a ticket whose owner could not give it up holds the others for seconds.
    """

    seed: int
    number: int = 4
    kinds: tuple[str, ...] = KINDS
    turns: str = "never"
    prefix: str = "w"

    def items_of(self, name: str, chance: random.Random) -> Iterator[str]:
        """Yield the names of a writer's items."""
        for number in itertools.count():
            yield f"{name}:{number}:{chance.choice(self.kinds)}"


def _threads(space: interlock.Space, ledger: Ledger, work: Work) -> None:
    def write(name: str) -> None:
        chance = random.Random(f"{work.seed}/{name}")
        try:
            for item in work.items_of(name, chance):
                if ledger.over.is_set():
                    return
                with ledger.noting(item):
                    contribute(space, chance, item, work.turns)
        except Exception:
            ledger.over.set()  # it is in the ledger

    threads = [
        threading.Thread(target=write, args=(f"{work.prefix}{n}",)) for n in range(work.number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def _tasks(space: interlock.AsyncSpace, ledger: Ledger, work: Work) -> None:
    async def write(name: str) -> None:
        chance = random.Random(f"{work.seed}/{name}")
        try:
            for item in work.items_of(name, chance):
                if ledger.over.is_set():
                    return
                with ledger.noting(item):
                    await contribute_async(space, chance, item, work.turns)
                await asyncio.sleep(0)
        except Exception:
            ledger.over.set()

    await asyncio.gather(*(write(f"{work.prefix}{n}") for n in range(work.number)))


def patiently(*arguments: Any, **options: Any) -> interlock.Space:
    """Open a space as soon as the store lets us."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            return interlock.open(*arguments, **options)
        except Unavailable:
            if time.monotonic() > ends:
                raise
            threading.Event().wait(0.02)


async def _patiently_async(*arguments: Any, **options: Any) -> interlock.AsyncSpace:
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            return await interlock.open_async(*arguments, **options)
        except Unavailable:
            if time.monotonic() > ends:
                raise
            await asyncio.to_thread(threading.Event().wait, 0.02)


@contextmanager
def writing(
    facade: str,
    url: str,
    space: str,
    work: Work,
    **options: Any,
) -> Iterator[Ledger]:
    """Let threads (`sync`) or tasks (`async`) of one process contribute while the body runs."""
    ledger = Ledger()
    opened = threading.Event()

    def run_sync() -> None:
        with patiently(url, space, "us", **options) as shared:
            opened.set()
            _threads(shared, ledger, work)

    async def run_async() -> None:
        async with await _patiently_async(url, space, "us", **options) as shared:
            opened.set()
            await _tasks(shared, ledger, work)

    def run() -> None:
        try:
            if facade == "sync":
                run_sync()
            else:
                asyncio.run(run_async())
        except Exception as problem:
            ledger.strange.append(problem)
        finally:
            opened.set()

    patiently(url, space, rules=RULES).close()
    runner = threading.Thread(target=run, daemon=True)
    runner.start()
    assert opened.wait(PATIENCE)
    try:
        yield ledger
    finally:
        ledger.over.set()
        runner.join(PATIENCE)
    assert not runner.is_alive(), "a writer hangs"


def check(url: str, space: str, *ledgers: Ledger) -> list[interlock.Entry]:
    """Check that the log is in order and holds what the ledgers say.  Returns the log."""
    with patiently(url, space, "checker") as opened:
        assert disagreements(opened) == []
        entries = [*opened.log()]
        for ledger in ledgers:
            for item, op_id in ledger.doubtful.items():
                done = opened.outcome(op_id) if op_id else None
                there = [entry.position for entry in entries if _item(entry) == item]
                assert not op_id or [w.position for w in (done.writes if done else ())] == there
    times = [entry.time_us for entry in entries]
    assert times == sorted(times), "times fall along the log"
    for ledger in ledgers:
        assert not ledger.strange, ledger.strange
        _check_items(entries, ledger)
    return entries


def _item(entry: interlock.Entry) -> Any:
    return entry.value[-1] if isinstance(entry.value, list) else entry.value


def _check_items(entries: list[interlock.Entry], ledger: Ledger) -> None:
    found: Counter[str] = Counter()
    operations: defaultdict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if isinstance(_item(entry), str) and ":" in _item(entry):
            found[_item(entry)] += 1
            operations[_item(entry)].add(entry.op_id)
    twice = {item: count for item, count in found.items() if count != _expected(item)}
    assert not twice, f"not exactly once: {twice}"
    assert all(len(each) == 1 for each in operations.values())
    missing = ledger.acknowledged - found.keys()
    assert not missing, f"acknowledged, and not there: {missing}"
    unwanted = {item: ledger.refused[item] for item in ledger.refused.keys() & found.keys()}
    assert not unwanted, f"refused, and there: {unwanted}"


def _expected(item: str) -> int:
    return 2 if item.endswith(":transaction") else 1
