"""What all spaces of a process share that are in one SQLite file: its connections (one that writes,
some that read) and threads.  They do not cross a fork: a child borrows a store of its own.

Connections are closed before a fork and opened again by whoever needs them next, in the parent
and in the child: SQLite keeps its file locks by process, and a child that went on with inherited
ones would believe that it holds locks which it does not.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from interlock.backends.contract import no_space
from interlock.backends.registry import Registry
from interlock.backends.sqlite import location
from interlock.backends.sqlite.connect import SQLiteOptions, check_guest, connect, prepare
from interlock.backends.sqlite.faults import translated
from interlock.backends.sqlite.health import LOG_LIMIT, health_of, log_size
from interlock.backends.sqlite.location import Location, identity
from interlock.errors import Closed, Unavailable

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


READERS = 16  # connections that read at once


class _Writing:
    """Lends the connection that writes.  Classes, because every commit goes through here."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __enter__(self) -> sqlite3.Connection:
        return self._pool.take_writer()

    def __exit__(self, *problem: object) -> None:
        self._pool.give_writer()


class _Reading:
    """Lends a connection that reads."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def __enter__(self) -> sqlite3.Connection:
        self._connection = self._pool.take_reader()
        return self._connection

    def __exit__(self, *problem: object) -> None:
        self._pool.give_reader(self._connection)


class Pool:
    """Hands out connections.

    `connect` opens one to the file that has an `identity`; a store in memory has only one for
    everything.
    """

    def __init__(
        self,
        place: Location,
        connect: Callable[[], sqlite3.Connection],
        identity: tuple[int, int] | None,
    ) -> None:
        self._place = place
        self._connect = connect
        self._closed = False
        self._lost = False
        self._identity = identity
        self._file = str(place)
        self._writer: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._writing = _Writing(self)
        self._reset_locks()
        _POOLS.add(self)

    def writer(self) -> _Writing:
        """The connection that writes, for one caller at a time."""
        return self._writing

    def reader(self) -> _Writing | _Reading:
        """A connection that reads, for the caller alone while it has it."""
        return self._writing if self._place.path is None else _Reading(self)

    def take_writer(self) -> sqlite3.Connection:
        """Wait for the connection that writes.  `writer` gives it back."""
        self._write_lock.acquire()
        try:
            self._check_open()
            if self._writer is None:
                self._writer = self._open()
                self._writer.execute("PRAGMA busy_timeout=0")  # begin_immediate does the waiting
            return self._writer
        except BaseException:
            self._write_lock.release()
            raise

    def give_writer(self) -> None:
        """Give back the connection that writes."""
        self._write_lock.release()

    def take_reader(self) -> sqlite3.Connection:
        """Take an idle connection that reads, or open one; wait where there are `READERS`."""
        with self._free:
            while self._paused or self._out >= READERS:
                self._waiting += 1
                self._free.wait()
                self._waiting -= 1
            self._check_open()
            connection: sqlite3.Connection | None = self._idle.pop() if self._idle else None
            self._out += 1
        if connection is not None:
            return connection
        try:
            return self._open()
        except BaseException:
            self.give_reader(None)
            raise

    def give_reader(self, connection: sqlite3.Connection | None) -> None:
        """Give back a connection that reads."""
        with self._free:
            self._out -= 1
            if connection is not None:
                if self._closed:
                    connection.close()
                else:
                    self._idle.append(connection)
            if self._paused:
                self._free.notify_all()
            elif self._waiting:
                self._free.notify()

    def close(self) -> None:
        """Close every connection, waiting for those in use."""
        self.pause()
        self._closed = True
        self._close_all()
        self.resume()
        _POOLS.discard(self)

    def pause(self) -> None:
        """Wait until no connection is in use, and let nobody have one."""
        self._write_lock.acquire()
        with self._free:
            self._paused = True
            while self._out:
                self._free.wait()

    def resume(self) -> None:
        """Hand out connections again."""
        with self._free:
            self._paused = False
            self._free.notify_all()
        self._write_lock.release()

    def before_fork(self) -> None:
        """Pause, with no connection open that the child would inherit."""
        self.pause()
        if self._place.path is not None:
            self._close_all()

    def after_fork_in_child(self) -> None:
        """Start anew in the child; a store in memory stays with the parent."""
        self._lost = self._place.path is None
        self._reset_locks()

    def _reset_locks(self) -> None:
        self._write_lock = threading.Lock()
        self._free = threading.Condition(threading.Lock())
        self._paused = False
        self._out = self._waiting = 0

    def _close_all(self) -> None:
        connections = [*self._idle, *([self._writer] if self._writer else [])]
        self._idle, self._writer = [], None
        for connection in connections:
            with suppress(sqlite3.Error):
                connection.close()

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            if self._place.path is not None:
                self._identity = identity(self._file, self._identity)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(f"The space in {self._place} is closed. Open it again to use it.")
        if self._lost:
            raise Unavailable(
                "A store in memory does not cross a fork. Use a file: sqlite:///team.db"
            )
        if self._identity is not None:
            identity(self._file, self._identity)


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()
_paused_for_fork: list[Pool] = []
_fork_lock = threading.Lock()


def _before_fork() -> None:
    _fork_lock.acquire()  # two forks that pause the same pools in two orders would wait forever
    for pool in list(_POOLS):
        pool.before_fork()
        _paused_for_fork.append(pool)


def _after_fork_in_parent() -> None:
    while _paused_for_fork:
        _paused_for_fork.pop().resume()
    _fork_lock.release()


def _after_fork_in_child() -> None:
    while _paused_for_fork:
        _paused_for_fork.pop().after_fork_in_child()
    _fork_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


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
