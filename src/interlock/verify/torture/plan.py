"""The plan of a run: what each worker does, and which fault strikes when.  Pure: all of a seed.

`Settings` say which store, how many operations and which faults.  Operation `n` of worker `w`
follows from the seed, `w` and `n` alone, so that a worker which was killed is replaced by one that
goes on with the rest of the same plan.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple
from urllib.parse import urlsplit

from interlock import Json

KILL, STOP, CLOCK, CUT, LOST, RESTART = "kill", "stop", "clock", "cut", "lost", "restart"
DURABLE = "durable"
FAULTS = {
    KILL: "a worker is killed (kill -9) and started again",
    STOP: "a worker is stopped for longer than its leases last (SIGSTOP), then wakes",
    CLOCK: "the clock of a worker jumps by hours or years",
    CUT: "connections are cut: those of every other worker, or one before a commit is sent",
    LOST: "a commit is applied and its reply is lost",
    RESTART: "the server is killed or restarted",
    DURABLE: "it is killed right after it acknowledged again what nobody had waited for",
}
# How many operations there are for each fault of a kind.
EVERY = {
    **dict.fromkeys((KILL, STOP, CLOCK), 10_000),
    **dict.fromkeys((CUT, LOST), 5_000),
    **dict.fromkeys((RESTART, DURABLE), 100_000),
}
WINDOW = 20_000  # operations that share keys, about; each window is checked as a whole
PROXIED = ("postgresql", "postgres", "redis")


class Settings(NamedTuple):
    """What a run does.  The plan follows from `operations`, `seed`, `workers` and `faults`.

    `workers` are processes, `tasks` how many agents each of them is.  `guarded`: it tortures guards
    of data outside, which `url` names, and one more process is `legacy` blind writers.
    """

    url: str
    space: str
    operations: int = 20_000
    seed: int = 1
    workers: int = 8
    tasks: int = 12
    faults: tuple[str, ...] = tuple(FAULTS)
    guarded: bool = False
    legacy: int = 10

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return self.workers + self.guarded

    @property
    def share(self) -> int:
        """How many operations each worker has."""
        return -(-self.operations // self.workers)

    @property
    def window(self) -> int:
        """How many operations of one worker share keys with those of the others."""
        windows = max(1, round(self.operations / WINDOW))
        return -(-self.share // windows)

    @property
    def windows(self) -> int:
        """How many windows there are."""
        return -(-self.share // self.window)

    def to_json(self) -> str:
        """Return what a worker is started with."""
        return json.dumps(self._asdict())

    @staticmethod
    def from_json(text: str) -> Settings:
        """Return the settings that `to_json` wrote."""
        fields = json.loads(text)
        return Settings(**fields | {"faults": tuple(fields["faults"])})


def is_file(url: str) -> bool:
    """Say whether a store is a file of SQLite, or a place is a folder."""
    return url.partition("://")[0] in ("sqlite", "file")


def can_be_proxied(url: str) -> bool:
    """Say whether connections to a store can be led through a proxy that cuts them."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    return parts.scheme in PROXIED and bool(parts.hostname) and "," not in hosts


def possible(url: str, restartable: bool, guarded: bool = False) -> dict[str, str]:
    """Return why some kinds of faults cannot be injected into a store, by kind."""
    missing = {}
    if is_file(url):
        missing = {
            CUT: "a file has no connections",
            RESTART: "a file has no server",
            DURABLE: "what is not synced is lost only when the machine dies",
        }
    elif not can_be_proxied(url):
        why = "only postgresql:// and redis:// with one host and port go through a proxy"
        missing = {CUT: why, LOST: why}
    if urlsplit(url).scheme.startswith("redis"):
        missing[DURABLE] = "how long a commit lasts is a setting of the server, not of a process"
    if guarded:
        missing[DURABLE] = "what is outside is as durable as its owner has set it up"
    if not restartable:
        for kind in (RESTART, DURABLE):
            missing.setdefault(kind, "no --restart command says how")
    return missing


# What an operation may be, and how often, in percent.
KINDS = {
    "write": 18,  # read a hot key, think, write over what was read
    "update": 12,  # the same by `update`, which thinks again
    "queued": 1,  # the same with turns
    "again": 2,  # an update sent a second time with its operation id
    "churn": 8,  # create, write or delete a key, by what is there
    "read": 12,
    "append": 9,
    "count": 9,
    "tally": 2,  # read what was appended and counted
    "transfer": 8,  # between two accounts, in a transaction
    "audit": 2,  # read all accounts in one transaction
    "duty": 5,  # a decision by several keys that writes one (prone to write skew)
    "roster": 3,  # a decision by a scan that makes a key (prone to phantoms)
    "lease": 2.5,
    "intrude": 1,  # write a leased key without its lease
    "reclaim": 0.5,
    "step": 3,  # move a machine
    "follow": 0.5,  # read the log from where this worker was
    "consume": 1,  # take entries as a member of a group, and acknowledge them
}
# The same where guards are tortured; blind writers do one more kind, all the time.
GUARDED_KINDS = {
    "update": 50,
    "write": 25,  # read, think, write over what was read
    "churn": 15,  # create, write or delete, by what is there
    "read": 10,
}
_OP_ID = re.compile(r"op-(\d+)-(\d+)(?:\.\d+)?$")
_DRAWN = 1 << 20
_JUMPS = (3600, -3600, 86_400, -86_400, 315_360_000, -315_360_000)  # seconds

GUARDED_HOT, GUARDED_CHURNED = 8, 4
HOT, CHURNED, ACCOUNTS, DUTIES, ROSTERS = 24, 24, 12, 8, 40  # keys of each window
LEASED, JOBS, LISTS, SUMS = 3, 8, 4, 3
ON_CALL = 4  # keys of each duty
PLACES = 3  # keys of each roster, at most
FUNDS = 100  # of each account, at the beginning
LEASE_TTL = 0.8  # seconds
GROUP_TTL = 1.0
STOPPED = (1.2, 2.0)  # seconds; longer than both


class Op(NamedTuple):
    """One operation of a worker: its number, kind, window, and three numbers that say which."""

    worker: int
    number: int
    kind: str
    window: int
    a: int
    b: int
    c: int

    @property
    def id(self) -> str:
        """The operation id, which is also what its writes are known by."""
        return op_id(self.worker, self.number)

    def key(self, family: str, among: int) -> str:
        """Return a key of the window, drawn by the first number."""
        return f"{family}/{self.window}/{self.a % among}"


def op_id(worker: int, number: int) -> str:
    """Return the operation id of an operation."""
    return f"op-{worker}-{number}"


def parse_op_id(text: str) -> tuple[int, int] | None:
    """Return worker and number out of an operation id, or of what was derived from one."""
    found = _OP_ID.match(text)
    return (int(found[1]), int(found[2])) if found else None


def operation(settings: Settings, worker: int, number: int) -> Op:
    """Return one operation of the plan."""
    chance = random.Random(f"{settings.seed}/{worker}/{number}")
    kinds = GUARDED_KINDS if settings.guarded else KINDS
    (kind,) = chance.choices(list(kinds), cum_weights=list(accumulate(kinds.values())))
    drawn = [chance.randrange(_DRAWN) for _ in range(3)]
    return Op(worker, number, kind, number // settings.window, *drawn)


class Fault(NamedTuple):
    """A fault: it strikes when so many operations were answered.

    `worker` is whom it strikes, where it is about one; `amount` are the seconds that it is stopped
    or that its clock is wrong, or which of two ways connections are cut.
    """

    after: int
    kind: str
    worker: int
    amount: float


def faults(settings: Settings) -> list[Fault]:
    """Return the faults of the plan, in order."""
    found = []
    for kind in settings.faults:
        chance = random.Random(f"{settings.seed}/{kind}")
        number = max(1, settings.operations // EVERY[kind])
        if kind != RESTART:  # which takes seconds
            number = max(2, number)
        for turn in range(number):
            low, high = (settings.operations * each / number for each in (turn, turn + 1))
            after = int(low + (high - low) * chance.uniform(0.1, 0.9))
            worker = chance.randrange(settings.workers)
            found.append(Fault(after, kind, worker, _amount(kind, chance, turn)))
    return sorted(found)


def _amount(kind: str, chance: random.Random, turn: int) -> float:
    if kind == STOP:
        return round(chance.uniform(*STOPPED), 3)
    if kind == CLOCK:
        return chance.choice(_JUMPS)
    return turn % 2 if kind == CUT else 0


def told(settings: Settings) -> Iterator[dict[str, Json]]:
    """Yield the whole plan as objects: faults first, then the operations of each worker."""
    for fault in faults(settings):
        yield {"fault": fault.kind, "after": fault.after} | {
            "worker": fault.worker,
            "amount": fault.amount,
        }
    for worker in range(settings.workers):
        for number in range(settings.share):
            op = operation(settings, worker, number)
            yield {"operation": op.id, "kind": op.kind, "numbers": [op.window, op.a, op.b, op.c]}
