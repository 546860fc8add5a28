"""The patterns: how an agent adds its contribution to a shared document.  Each one really runs.

A document is a JSON list.  A contribution reads it, thinks, and writes.  To add a pattern, subclass
`RawPattern` or `InterlockPattern` with a name, a sentence about it and the class of its agents, and
put it into `PATTERNS`.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import ClassVar, Protocol

import interlock

_BUSY = 60.0  # seconds that a plain statement waits for another one to finish
_PATIENCE = 600.0  # seconds that an agent waits for the lock


class GaveUp(Exception):
    """The agent stopped without having written; its contribution was never acknowledged."""


class Think(Protocol):
    """Thinks about one contribution: sleeps, and returns the items with `item` added."""

    item: str

    def __call__(self, items: list[str], /) -> list[str]: ...


class Agent(Protocol):
    """One agent's connection to the store."""

    def contribute(self, key: str, think: Think) -> None:
        """Add to the document of `key`.  Returning acknowledges; raises GaveUp otherwise."""
        ...

    def close(self) -> None:
        """Give back the connection."""
        ...


class Pattern:
    """One way of sharing: prepares a store, connects agents to it, and reads what was kept.

    `about` says in a few words what an agent does.  A pattern is pickled to reach the agents.
    """

    name: str
    about: str
    takes_store: ClassVar[bool] = False  # whether it runs on a store that a URL names

    def prepare(self, store: str, keys: Iterable[str]) -> None:
        """Make the store with an empty document for each key."""
        raise NotImplementedError

    def connect(self, store: str, agent: str) -> Agent:
        """Connect one agent, in its own process or thread."""
        raise NotImplementedError

    def kept(self, store: str, keys: Iterable[str]) -> set[str]:
        """Return every item that the documents hold in the end."""
        raise NotImplementedError

    def store_in(self, folder: Path) -> str:
        """Return where the store is, in a folder of its own."""
        return str(folder / f"{self.name}.db")


class RawPattern(Pattern):
    """A table of documents in plain SQLite: write-ahead logging, every commit synchronous."""

    agent: ClassVar[type[RawAgent]]

    def prepare(self, store: str, keys: Iterable[str]) -> None:
        with closing(connect(store)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE doc (key TEXT PRIMARY KEY, value TEXT, version INTEGER)")
            db.executemany("INSERT INTO doc VALUES (?, '[]', 0)", [(key,) for key in keys])

    def connect(self, store: str, agent: str) -> Agent:
        return self.agent(connect(store))

    def kept(self, store: str, keys: Iterable[str]) -> set[str]:
        with closing(connect(store)) as db:
            rows = db.execute("SELECT value FROM doc").fetchall()
        return {item for (value,) in rows for item in json.loads(value)}


class RawAgent:
    """An agent on plain SQLite: reads, and writes if the version has not moved."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def contribute(self, key: str, think: Think) -> None:
        raise NotImplementedError

    def read(self, key: str) -> tuple[list[str], int]:
        """Return the document and its version."""
        value, version = self.db.execute(
            "SELECT value, version FROM doc WHERE key = ?", (key,)
        ).fetchone()
        return json.loads(value), version

    def write_if(self, key: str, items: list[str], version: int) -> bool:
        """Write the document if it is at `version`, and say whether it was."""
        done = self.db.execute(
            "UPDATE doc SET value = ?, version = version + 1 WHERE key = ? AND version = ?",
            (json.dumps(items), key, version),
        )
        return done.rowcount == 1

    def close(self) -> None:
        self.db.close()


class _GetModifySet(RawAgent):
    def contribute(self, key: str, think: Think) -> None:
        items, _ = self.read(key)
        changed = json.dumps(think(items))
        self.db.execute("UPDATE doc SET value = ? WHERE key = ?", (changed, key))


class LastWriteWins(RawPattern):
    """Get, modify, set."""

    name = "last-write-wins"
    about = "read, think, write over whatever is there"
    agent = _GetModifySet


class _ResubmitStale(RawAgent):
    def contribute(self, key: str, think: Think) -> None:
        items, version = self.read(key)
        changed = think(items)
        while not self.write_if(key, changed, version):
            _, version = self.read(key)  # the fresh version, with the old data


class StaleRetry(RawPattern):
    """A version check whose retry sends the old data with the fresh version."""

    name = "stale-retry"
    about = "check the version; when it moved, send the old data with the new version"
    agent = _ResubmitStale


class _ThreeTries(RawAgent):
    def contribute(self, key: str, think: Think) -> None:
        for _ in range(3):
            items, version = self.read(key)
            if self.write_if(key, think(items), version):
                return
        raise GaveUp("gave up after three tries")


class OptimisticThreeTries(RawPattern):
    """A version check that reads and thinks again, three times at most."""

    name = "optimistic-3-tries"
    about = "check the version; when it moved, read and think again, three times at most"
    agent = _ThreeTries


class _LockWhileThinking(RawAgent):
    def contribute(self, key: str, think: Think) -> None:
        self._lock()
        try:
            items, version = self.read(key)
            self.write_if(key, think(items), version)
            self.db.execute("COMMIT")
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    def _lock(self) -> None:
        # SQLite's own waiting looks every 100 ms, for all in step when all began at once; that
        # alone would take longer than the thinking.  Random pauses are kinder to this pattern.
        self.db.execute("PRAGMA busy_timeout=0")
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.db.execute("BEGIN EXCLUSIVE")
                return
            except sqlite3.OperationalError as problem:
                if problem.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > deadline:
                    raise GaveUp(f"gave up after {_PATIENCE:g} s of waiting for the lock") from None
            time.sleep(random.uniform(0.01, 0.05))


class LockWhileThinking(RawPattern):
    """One exclusive lock on the store, held while thinking."""

    name = "lock"
    about = "hold one exclusive lock from before the read until after the write"
    agent = _LockWhileThinking


class SpaceAgent:
    """An agent on a space."""

    def __init__(self, space: interlock.Space) -> None:
        self.space = space

    def contribute(self, key: str, think: Think) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.space.close()


class InterlockPattern(Pattern):
    """Keys of a space named like the pattern, so that patterns can share a store."""

    agent: ClassVar[type[SpaceAgent]]
    takes_store = True

    def prepare(self, store: str, keys: Iterable[str]) -> None:
        interlock.open(store, space=self.name).close()

    def connect(self, store: str, agent: str) -> Agent:
        return self.agent(interlock.open(store, space=self.name, agent=agent))

    def kept(self, store: str, keys: Iterable[str]) -> set[str]:
        with interlock.open(store, space=self.name) as space:
            records = space.read_many(keys)
        return {item for record in records.values() for item in record.value or []}

    def store_in(self, folder: Path) -> str:
        return f"sqlite:///{super().store_in(folder)}"


class _Updating(SpaceAgent):
    def contribute(self, key: str, think: Think) -> None:
        self.space.update(key, think, default=[])


class InterlockUpdate(InterlockPattern):
    """`space.update(key, fn)`."""

    name = "interlock-update"
    about = "space.update(key, think): optimistic once, then takes its turn"
    agent = _Updating


class _Appending(SpaceAgent):
    def contribute(self, key: str, think: Think) -> None:
        for item in think([]):
            self.space.append(key, item)


class InterlockAppend(InterlockPattern):
    """`space.append(key, item)`."""

    name = "interlock-append"
    about = "space.append(key, item): a contribution to a merged key, which needs no read"
    agent = _Appending

    def prepare(self, store: str, keys: Iterable[str]) -> None:
        rules = {key: interlock.merged("append") for key in keys}
        interlock.open(store, space=self.name, rules=rules).close()


def connect(store: str) -> sqlite3.Connection:
    """Open one durable connection."""
    db = sqlite3.connect(store, timeout=_BUSY, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous=FULL")
    return db


_ALL: tuple[type[Pattern], ...] = (
    LastWriteWins,
    StaleRetry,
    OptimisticThreeTries,
    LockWhileThinking,
    InterlockUpdate,
    InterlockAppend,
)
PATTERNS: dict[str, Pattern] = {pattern.name: pattern() for pattern in _ALL}
