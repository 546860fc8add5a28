"""What all spaces of a process share that are in one SQLite file: its connections and threads.

They do not cross a fork: a child borrows a store of its own.
"""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING, NamedTuple

from interlock.backends.contract import no_space
from interlock.backends.registry import Registry
from interlock.backends.sqlite import location
from interlock.backends.sqlite.connect import SQLiteOptions, check_guest, connect, prepare
from interlock.backends.sqlite.faults import translated
from interlock.backends.sqlite.health import LOG_LIMIT, health_of, log_size
from interlock.backends.sqlite.pool import Pool

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_LOOK_EVERY = 256  # writes
_THREADS = 16  # for asyncio; of them, one commits at a time


class Key(NamedTuple):
    """Which store: `identity` tells the file from one that has its name later."""

    place: location.Location
    options: SQLiteOptions
    identity: tuple[int, int] | None


class Store:
    """The connections to one file, or to one database in memory."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None
        self._writes = 0
        self._warned = LOG_LIMIT  # bytes of the write-ahead log
        self.pool = Pool(key.place, lambda: connect(key.place, key.options), key.identity)

    def threads(self) -> ThreadPoolExecutor:
        """Return the threads that carry requests of asyncio."""
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="interlock-sqlite")
            return self._threads

    def prepare(self, create: bool, guest: bool) -> None:
        """Make or migrate the schema, if need be (`guest`) beside tables of an application's."""
        with self.pool.reader() as connection, translated(str(self._key.place)):
            if guest:
                check_guest(connection, self._key.place, create)
            prepare(connection, self._key.place, self._key.options, guest=guest)

    def watch_log(self, connection: sqlite3.Connection) -> None:
        """Say so in the log of the program, now and then, where somebody lets the write-ahead log
        grow.  To be called after a commit, by the only one who writes."""
        looks = (
            self._writes % _LOOK_EVERY == 0
        )  # at the first one, too: many processes live shortly
        self._writes += 1
        path = self._key.place.path
        if not looks or path is None or log_size(path) < self._warned:
            return
        health = health_of(connection, path)
        if health.problem:
            import logging  # where it is needed: importing it takes long

            logging.getLogger("interlock").warning("%s: %s", path, health.problem)
            self._warned = 2 * health.size

    def close(self) -> None:
        """End the threads and close the connections."""
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        self.pool.close()


_STORES: Registry[Store] = Registry()


def borrow(
    place: location.Location, options: SQLiteOptions, create: bool, guest: bool = False
) -> tuple[Key, Store]:
    """Return the store of a place, opened where the process has none.  Raises the faults."""
    identity = None
    if place.path is not None:
        if not create and not (place.path.is_file() and place.path.stat().st_size):
            raise no_space(str(place))
        location.check(place)
        location.make(place)
        if place.path.exists():  # otherwise the connection says why it cannot be made
            identity = location.identity(place.path)
    key = Key(place, options, identity)
    if place.path is None:  # each has its own
        return key, _prepared(key, create, guest)
    return key, _STORES.borrow(key, lambda: _prepared(key, create, guest))


def borrow_in_child(key: Key, store: Store) -> Store:
    """Return what stands for a store in a forked child; one in memory stays with the parent."""
    return store if key.place.path is None else _STORES.borrow(key, lambda: Store(key))


def give_back(key: Key, store: Store) -> None:
    """Close the store where no space uses it any more."""
    if key.place.path is None or _STORES.give_back(key, store):
        store.close()


def _prepared(key: Key, create: bool, guest: bool) -> Store:
    store = Store(key)
    try:
        store.prepare(create, guest)
    except BaseException:
        store.close()
        raise
    return store
