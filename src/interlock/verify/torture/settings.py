"""What to torture: which store, how many operations, which faults.  Pure."""

from __future__ import annotations

import json
from typing import NamedTuple
from urllib.parse import urlsplit

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

    `workers` are processes, `tasks` how many agents each of them is.
    """

    url: str
    space: str
    operations: int = 20_000
    seed: int = 1
    workers: int = 8
    tasks: int = 12
    faults: tuple[str, ...] = tuple(FAULTS)

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
    """Say whether a store is a file of SQLite."""
    return url.partition("://")[0] == "sqlite"


def can_be_proxied(url: str) -> bool:
    """Say whether connections to a store can be led through a proxy that cuts them."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    return parts.scheme in PROXIED and bool(parts.hostname) and "," not in hosts


def possible(url: str, restartable: bool) -> dict[str, str]:
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
    if not restartable:
        for kind in (RESTART, DURABLE):
            missing.setdefault(kind, "no --restart command says how")
    return missing
