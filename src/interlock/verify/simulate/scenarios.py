"""Scenarios: three ways in which shared state breaks, the losing way beside Interlock's.

A scenario is a pair of patterns that the runner runs like any other; `Scenario.settings` puts the
agents into pairs, or lets each write several times.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import ClassVar, NamedTuple

import interlock
from interlock import Json
from interlock.verify.simulate.patterns import (
    PATTERNS,
    Agent,
    GaveUp,
    InterlockPattern,
    Pattern,
    RawAgent,
    RawPattern,
    SpaceAgent,
    Think,
    connect,
)
from interlock.verify.simulate.settings import Settings

_CLAIM = 0.15  # seconds that a claim lasts
_TTL = 30.0  # of a lease: its renewal must not hold the store when its process is stopped
_UNPAID = {"status": "PENDING_PAYMENT", "seat": None, "seat_by": None, "paid_by": None}


class Scenario(NamedTuple):
    """`settings` adapts what was asked for; `processes` says that threads would not do."""

    about: str
    patterns: tuple[Pattern, ...]
    settings: Callable[[Settings], Settings]
    processes: bool = False


def in_pairs(settings: Settings) -> Settings:
    """Give every key two agents: number n, and number n + keys."""
    pairs = max(settings.agents // 2, 1)
    return settings._replace(agents=2 * pairs, keys=pairs, writes=1)


def five_each(settings: Settings) -> Settings:
    """Let every agent write five times."""
    return settings._replace(writes=max(settings.writes, 5))


def is_first(agent: str, keys: int) -> bool:
    """Whether an agent is the first of its pair."""
    return int(agent.rpartition("-")[2]) < keys


# The paid booking that is set back to unpaid


class _RawPair(RawPattern):
    first: ClassVar[type[RawAgent]]
    second: ClassVar[type[RawAgent]]
    start: ClassVar[Json] = _UNPAID

    def prepare(self, store: str, keys: Iterable[str]) -> None:
        super().prepare(store, keys)
        with closing(connect(store)) as db:
            db.execute("UPDATE doc SET value = ?", (json.dumps(self.start),))
            db.execute("CREATE TABLE claim (key TEXT PRIMARY KEY, pid INTEGER, until REAL)")

    def connect(self, store: str, agent: str) -> Agent:
        db = connect(store)
        keys = db.execute("SELECT COUNT(*) FROM doc").fetchone()[0]
        return (self.first if is_first(agent, keys) else self.second)(db)


class _RawBookingAgent(RawAgent):
    def booking(self, key: str) -> dict[str, Json]:
        row = self.db.execute("SELECT value FROM doc WHERE key = ?", (key,)).fetchone()
        booking: dict[str, Json] = json.loads(row[0])
        return booking

    def put(self, key: str, booking: Json) -> None:
        self.db.execute("UPDATE doc SET value = ? WHERE key = ?", (json.dumps(booking), key))


class _RawCashier(_RawBookingAgent):
    def contribute(self, key: str, think: Think) -> None:
        booking = self.booking(key)
        (item,) = think([])
        self.put(key, {**booking, "status": "COMPLETED", "paid_by": item})


class _RawSeatChooser(_RawBookingAgent):
    def contribute(self, key: str, think: Think) -> None:
        booking = self.booking(key)
        (item,) = think([])
        self.put(key, {**booking, "seat": "12A", "seat_by": item})


def _intact(bookings: Iterable[dict[str, Json]]) -> set[str]:
    """What a booking still shows of its payment (only if it counts as paid) and of its seat."""
    kept = set()
    for booking in bookings:
        paid = booking["status"] == "COMPLETED"
        kept |= {booking["seat_by"], booking["paid_by"] if paid else None}
    return kept - {None}


class BookingLastWriteWins(_RawPair):
    """A payment and a seat, each written over the whole booking."""

    name = "booking-overwrite"
    about = "cashier and seat chooser each read the booking, think, and write all of it back"
    first, second = _RawCashier, _RawSeatChooser

    def kept(self, store: str, keys: Iterable[str]) -> set[str]:
        with closing(connect(store)) as db:
            return _intact(json.loads(row[0]) for row in db.execute("SELECT value FROM doc"))


class _Cashier(SpaceAgent):
    def contribute(self, key: str, think: Think) -> None:
        (item,) = think([])
        self.space.transition(key, "COMPLETED", paid_by=item)


class _SeatChooser(SpaceAgent):
    def contribute(self, key: str, think: Think) -> None:
        remembered = self.space.read(key).value

        def from_memory(booking: Json) -> Json:
            (item,) = think([])
            return {**remembered, "seat": "12A", "seat_by": item}  # status and all, as it was

        def from_the_record(booking: Json) -> Json:
            (item,) = think([])
            return {**booking, "seat": "12A", "seat_by": item}

        try:
            self.space.update(key, from_memory)
        except interlock.IllegalTransition:  # paid meanwhile: the machine does not go back
            self.space.update(key, from_the_record)


class BookingInterlock(InterlockPattern):
    """The same, on keys that are bound to the booking machine."""

    name = "booking-interlock"
    about = "the same two agents; the booking machine refuses to set a paid booking back"
    agent = SpaceAgent

    def prepare(self, store: str, keys: Iterable[str]) -> None:
        rules = {"document/*": interlock.guarded(machine=interlock.BOOKING)}
        with interlock.open(store, space=self.name, rules=rules) as space:
            for key in keys:
                space.create(key, _UNPAID)

    def connect(self, store: str, agent: str) -> Agent:
        space = interlock.open(store, space=self.name, agent=agent)
        return (_Cashier if is_first(agent, len(space.scan())) else _SeatChooser)(space)

    def kept(self, store: str, keys: Iterable[str]) -> set[str]:
        with interlock.open(store, space=self.name) as space:
            return _intact(record.value for record in space.scan("document/").values())


# The zombie: stopped, replaced, woken


def _sleep_as_a_zombie() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)  # until the replacement wakes this process


def _wake(pid: int) -> None:
    """Wake a process that stops, once it has: woken before, it would sleep forever."""
    while not _stopped(pid):
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _stopped(pid: int) -> bool:
    """Whether a process is stopped, or gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        told = subprocess.run(
            ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        state = told.stdout.strip() or "gone"
    return state[0] in "TtZg"


class _RawWorker(_RawBookingAgent):
    """Claims the job with an expiry, checks the version, and is stopped in between."""

    def contribute(self, key: str, think: Think) -> None:
        _, version = self.read(key)
        values = (key, os.getpid(), time.time() + _CLAIM)
        self.db.execute("INSERT OR REPLACE INTO claim VALUES (?, ?, ?)", values)
        changed = think([])
        _sleep_as_a_zombie()
        if not self.write_if(key, changed, version):
            raise GaveUp("the version had moved")


class _RawReplacement(_RawBookingAgent):
    """Takes the expired claim over, and works; it writes last, and believes itself alone."""

    def contribute(self, key: str, think: Think) -> None:
        while True:
            row = self.db.execute("SELECT pid, until FROM claim WHERE key = ?", (key,)).fetchone()
            if row is not None and row[1] < time.time():
                break
            time.sleep(0.01)
        self.read(key)
        _wake(row[0])
        self.put(key, think([]))


class ZombieVersionCheck(_RawPair):
    """A claim with an expiry and a version check: the version has not moved when it wakes."""

    name = "zombie-version-check"
    about = "a worker claims a job, is stopped, is replaced, wakes, and passes the version check"
    first, second = _RawWorker, _RawReplacement
    start = ()


class _Worker(SpaceAgent):
    def contribute(self, key: str, think: Think) -> None:
        lease = self.space.lease(key, ttl=_TTL)
        with lease:
            self.space.create(f"pid/{key}", os.getpid())
            changed = think([])
            _sleep_as_a_zombie()
            try:
                lease.write(changed)
            except interlock.Fenced:
                raise GaveUp("fenced: it was replaced while it slept") from None


class _Replacement(SpaceAgent):
    def contribute(self, key: str, think: Think) -> None:
        while not (pid := self.space.read(f"pid/{key}")).exists:
            time.sleep(0.01)
        self.space.reclaim(key)
        with self.space.lease(key, ttl=_TTL) as lease:
            _wake(pid.value)
            lease.write([*(lease.value or []), *think([])])


class ZombieInterlock(InterlockPattern):
    """The same with a lease: its epoch is checked in the same step as the version."""

    name = "zombie-interlock"
    about = "the same with space.lease(): whoever was replaced is fenced by the epoch"
    agent = SpaceAgent

    def prepare(self, store: str, keys: Iterable[str]) -> None:
        with interlock.open(store, space=self.name) as space:
            space.create("pairs", len(list(keys)))

    def connect(self, store: str, agent: str) -> Agent:
        space = interlock.open(store, space=self.name, agent=agent)
        return (_Worker if is_first(agent, space.read("pairs").value) else _Replacement)(space)


SCENARIOS: dict[str, Scenario] = {
    "booking": Scenario(
        "a paid booking set back to unpaid by an agent that remembers it unpaid",
        (BookingLastWriteWins(), BookingInterlock()),
        in_pairs,
    ),
    "zombie": Scenario(
        "a worker that is stopped (SIGSTOP), replaced, and woken (SIGCONT) in its job",
        (ZombieVersionCheck(), ZombieInterlock()),
        in_pairs,
        processes=True,
    ),
    "memory": Scenario(
        "agents that add findings to a team's memory, five each",
        (PATTERNS["last-write-wins"], PATTERNS["interlock-append"]),
        five_each,
    ),
}
