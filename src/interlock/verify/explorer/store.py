"""The store of an exploration: every content that it was seen with, and what it answered to whom.

The rows of a content are put back, one request is performed on the real backend, and the new rows
are compared with all earlier ones; so two schedules that lead to the same content meet.  The tables
stay: SQLite would have to prepare every statement again for new ones.  What a request does to a
content is found out once.  Who asks what, and when, is not decided here.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from interlock import Space
from interlock.backends.drive import SyncDriver
from interlock.backends.sqlite import SQLiteBackend
from interlock.core.records import Entry
from interlock.core.refusals import Refusal
from interlock.core.requests import Request
from interlock.core.rules import RuleBook
from interlock.core.struct import Struct
from interlock.core.writer import Writer
from interlock.observe.observer import Observer
from interlock.session import Session
from interlock.settings import make_writer

SPACE = "explore"
_START_US = 1_767_225_600_000_000  # 2026-01-01, the logical clock's first moment
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
_QUEUES = ("tickets", "leases")

Rows = tuple[tuple[object, ...], ...]
Content = tuple[Rows, ...]
"""The rows of each table."""


class StillDriver(SyncDriver):
    """Renews nothing in the background: time stands still while anybody can move."""

    keeps_alive = False

    def __init__(self, backend: Any) -> None:
        super().__init__(backend, Observer(backend.name, quiet=True))


def explored_space(driver: StillDriver, writer: Writer) -> Space:
    """Return a space whose operation ids follow from the agent's name and a count."""
    count = itertools.count(1)
    return Space(Session(driver, writer, lambda: f"{writer.agent}-{next(count)}"))


class Raised:
    """An answer that was a fault: the agent's driver raises it."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem

    def __repr__(self) -> str:
        return f"failed ({type(self.problem).__name__}), {self.problem}"


def contents(value: object) -> str:
    """Return a text that two values have in common if they are equal in all: a record's own text is
    short."""
    return repr(_spelled_out(value))


def _spelled_out(value: object) -> object:
    if isinstance(value, tuple):
        return (type(value).__name__, *map(_spelled_out, value))
    if isinstance(value, Struct):
        return (type(value).__name__, *map(_spelled_out, vars(value).values()))
    if isinstance(value, Mapping):
        return {key: _spelled_out(each) for key, each in value.items()}
    return [*map(_spelled_out, value)] if isinstance(value, list) else value


class Answers:
    """Numbers answers by what they say, and hands out copies that an agent may change."""

    def __init__(self) -> None:
        self.refusals: set[int] = set()
        self._numbers: dict[str, int] = {}
        self._pickled: list[bytes] = []

    def number(self, answer: object) -> int:
        """Return the number of an answer; equal answers have the same one."""
        text = contents(answer)
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._pickled)
            self._pickled.append(pickle.dumps(answer))
            if isinstance(answer, Refusal):
                self.refusals.add(number)
        return number

    def __getitem__(self, number: int) -> object:
        return pickle.loads(self._pickled[number])


class Backend(SQLiteBackend):
    """The real backend, which also says whether a request brought what is there to the disk.

    A store in memory has none: it says so where one in a file would have synced it.
    """

    synced = False

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__("sqlite://", SPACE, clock=clock, keeps_refusals=False)
        with self._pool.writer() as connection:
            self.tables = [name for (name,) in connection.execute(_TABLES)]

    @property
    def changes(self) -> int:
        """How many rows have been changed; a change that was rolled back counts, too."""
        with self._pool.writer() as connection:
            return connection.total_changes

    def content(self) -> Content:
        """Return what the store holds."""
        with self._pool.writer() as connection:
            return tuple(
                tuple(connection.execute(f"SELECT * FROM {table}")) for table in self.tables
            )

    def replace(self, content: Content, by: Content) -> None:
        """Make the store, which holds `content`, hold another."""
        with self._pool.writer() as connection:
            connection.execute("BEGIN")
            for table, before, rows in zip(self.tables, content, by, strict=True):
                if rows is not before:
                    connection.execute(f"DELETE FROM {table}")
                    if rows:
                        values = ", ".join("?" * len(rows[0]))
                        connection.executemany(f"INSERT INTO {table} VALUES ({values})", rows)
            connection.execute("COMMIT")

    def perform(self, request: Request[object]) -> Any:
        """Answer one request."""
        self.synced = False
        return super().perform(request)

    def _write(
        self, work: Any, request: Any, durable: bool = True, *more: Any, **options: Any
    ) -> Any:
        with self._pool.writer() as connection:
            before = connection.total_changes
        answer = super()._write(work, request, durable, *more, **options)
        with self._pool.writer() as connection:
            changed = connection.total_changes != before
        self.synced = self.synced or (changed and durable)
        return answer

    def _sync(self) -> None:
        self.synced = True


class Stores:
    """Contents of one store in memory, by number, and the transitions between them."""

    def __init__(self) -> None:
        self._now = _START_US
        self.backend = Backend(lambda: self._now)
        self.answers = Answers()
        self.requests: list[Request[object]] = []
        self._request_numbers: dict[tuple[type, Request[object]], int] = {}
        self._rows: dict[Rows, Rows] = {}  # equal rows are one object
        self._contents: list[Content] = []
        self._numbers: dict[Content, int] = {}
        self._queues: list[bool] = []
        self._transitions: dict[tuple[int, int, int], tuple[int, int, bool]] = {}
        self._logs: dict[int, list[Entry]] = {}
        self._book = RuleBook()
        self._reader: Space | None = None
        self._loaded, self._changes = -1, -1  # the content that is there, and `changes` then

    def close(self) -> None:
        """Give back the connection."""
        self.backend.close()

    def __len__(self) -> int:
        return len(self._contents)

    def space(self, agent: str) -> Space:
        """Return a space on the content that is loaded."""
        return explored_space(StillDriver(self.backend), self.writer(agent))

    def given(self, driver: StillDriver, agent: str) -> Any:
        """Return what an agent is given: a space."""
        return explored_space(driver, self.writer(agent))

    def reader(self, store: int) -> Space:
        """Return a space on a content, for invariants."""
        self.load(store)
        self._reader = self._reader or self.space("invariant")
        self._reader.session.writer.book = self._book.knowing({})  # it has read other contents
        return self._reader

    def log(self, store: int) -> list[Entry]:
        """Return the whole log of a content."""
        if store not in self._logs:
            self._logs[store] = list(self.reader(store).log())
        return self._logs[store]

    def writer(self, agent: str) -> Writer:
        """Return who writes as `agent`, with the rules that stood after the setup."""
        writer = make_writer(self.backend.uid, SPACE, agent, None)
        writer.book = self._book.knowing({})
        return writer

    def set_up(self, setup: Callable[[Space], object]) -> None:
        """Run the setup, and remember its rules."""
        space = self.space("setup")
        setup(space)
        self._book = space.session.writer.book

    def request_number(self, request: Request[object]) -> int:
        """Return the number of a request; the same request has the same one."""
        key = (type(request), request)
        number = self._request_numbers.get(key)
        if number is None:
            number = self._request_numbers[key] = len(self.requests)
            self.requests.append(request)
        return number

    def has_queue(self, store: int) -> bool:
        """Whether somebody stands in a queue or has a lease, so that time matters."""
        return self._queues[store]

    def perform(self, store: int, clock_us: int, request: int) -> tuple[int, int, bool]:
        """Perform a request on a content; return the numbers of the answer and of the new content,
        and whether that has reached the disk.

        `clock_us` is the store's time, in microseconds since the exploration's first moment.
        """
        key = (store, clock_us, request)
        found = self._transitions.get(key)
        if found is None:
            self.load(store)
            self._now = _START_US + clock_us
            try:
                answer = self.backend.perform(self.requests[request])
            except Exception as problem:
                answer = Raised(problem)
            number = self.answers.number(answer)
            found = self._transitions[key] = (number, self.current(), self.backend.synced)
        return found

    def load(self, store: int) -> None:
        """Bring the store back to a content."""
        if (loaded := self.current()) != store:
            self.backend.replace(self._contents[loaded], self._contents[store])
            self._loaded, self._changes = store, self.backend.changes

    def current(self) -> int:
        """Return the number of the content that the store has now."""
        if (changes := self.backend.changes) != self._changes:
            rows = self._rows
            content = tuple(rows.setdefault(table, table) for table in self.backend.content())
            number = self._numbers.setdefault(content, len(self._contents))
            if number == len(self._contents):
                self._contents.append(content)
                tables = zip(self.backend.tables, content, strict=True)
                self._queues.append(any(rows for name, rows in tables if name in _QUEUES))
            self._loaded, self._changes = number, changes
        return self._loaded
