"""Guards under the explorer: a place whose contents are restored, and writers who know of no guard.

Each value says who wrote it (`by`) and what it was computed from (`over`).  The ledger, a part
of each state, says what each write has really replaced.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import redis

from interlock import guards
from interlock.core.records import Committed, Snapshot
from interlock.core.requests import Commit, Request, Steps
from interlock.errors import AnswerLost, Refused, Unknown
from interlock.guards import Guard
from interlock.guards.outside import Outside
from interlock.guards.place import Change, Changed, Found
from interlock.guards.places.redis import receipts_of
from interlock.session import Session
from interlock.verify.explorer.agents import Agents, ProtocolAgent, protocol_agent
from interlock.verify.explorer.search import Exploration, Faults, Search
from interlock.verify.explorer.store import StillDriver, Stores
from tests.guards.tables import Bookings

FIRST = {"by": "first", "over": None}
Ledger = tuple[
    tuple[str, str | None, str | None], ...
]  # who, what was replaced, computed from what


class Kept(Protocol):
    """A place that can be brought back to a content."""

    key: str
    remembers: bool  # whether it knows what it has applied
    lost_replies: int

    def guard(self, agent: str) -> Guard:
        """Guard it."""
        ...

    def dump(self) -> Any:
        """Return all that is there."""
        ...

    def restore(self, content: Any) -> None:
        """Bring it back."""
        ...

    def overwrite(self, value: Any) -> None:
        """Write blindly (None: delete)."""
        ...


class RedisKey:
    """A string of Redis."""

    remembers, lost_replies = True, 1

    def __init__(self, client: redis.Redis, key: str, receipts: bool = True) -> None:
        self.client, self.key, self._kept = client, key, receipts
        self._receipts = receipts_of(key)

    def guard(self, agent: str) -> Guard:
        """Guard it."""
        return guards.redis(self.client, agent=agent, metadata=False, receipts=self._kept)

    def dump(self) -> Any:
        """Return its bytes, and whose receipts there are."""
        receipts: Any = self.client.zrange(self._receipts, 0, -1)
        return self.client.get(self.key), tuple(sorted(receipts))

    def restore(self, content: Any) -> None:
        """Bring it back."""
        value, receipts = content
        with self.client.pipeline() as pipe:
            pipe.delete(self.key, self._receipts)
            if value is not None:
                pipe.set(self.key, value)
            if receipts:
                pipe.zadd(self._receipts, dict.fromkeys(receipts, 1e15))  # they stay
            pipe.execute()

    def overwrite(self, value: Any) -> None:
        """Write blindly."""
        if value is None:
            self.client.delete(self.key)
        else:
            self.client.set(self.key, json.dumps(value, separators=(",", ":")))


class Row:
    """A row of SQLite."""

    key, remembers, lost_replies = "1", False, 1

    def __init__(self, bookings: Bookings, compare: str = "row") -> None:
        self.bookings, self._compare = bookings, compare

    def guard(self, agent: str) -> Guard:
        """Guard it."""
        made: Guard = self.bookings.guard(agent=agent, compare=self._compare)
        return made

    def dump(self) -> Any:
        """Return it."""
        return tuple(self.bookings.run("SELECT by, over, version FROM %t"))

    def restore(self, content: Any) -> None:
        """Bring it back."""
        self.bookings.run("DELETE FROM %t")
        for by, over, version in content:
            self.bookings.add(1, by=by, over=over, version=version)

    def overwrite(self, value: Any) -> None:
        """Write blindly; the version stays what it is."""
        if value is None:
            self.bookings.run("DELETE FROM %t")
            return
        self.bookings.run(
            "INSERT INTO %t (id, by, over) VALUES (1, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET by = excluded.by, over = excluded.over",
            *(value["by"], value["over"]),
        )


class OneFile:
    """A file."""

    key, remembers, lost_replies = "a.json", False, 0  # it has no answers to lose

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def guard(self, agent: str) -> Guard:
        """Guard it."""
        return guards.file(self.folder, agent=agent)

    def dump(self) -> Any:
        """Return what is in the folder."""
        files = sorted(path for path in self.folder.iterdir() if not path.name.endswith("-lock"))
        return tuple((path.name, path.read_bytes()) for path in files)

    def restore(self, content: Any) -> None:
        """Bring it back."""
        for path in self.folder.iterdir():
            path.unlink()
        for name, data in content:
            (self.folder / name).write_bytes(data)

    def overwrite(self, value: Any) -> None:
        """Write blindly: rename something over it."""
        if value is None:
            (self.folder / self.key).unlink(missing_ok=True)
            return
        (self.folder / "theirs").write_text(json.dumps(value))
        (self.folder / "theirs").rename(self.folder / self.key)


class Overwrite(Request[None]):
    """What somebody asks who knows of no guard; `value` is JSON, None deletes."""

    value: str | None


class Careless(NamedTuple):
    """A place that compares less than it must: `seems_same(what was read, what is there)`."""

    plain: Any
    seems_same: Callable[[Any, Any], bool]
    texts: bool = False

    async def load(self, key: str) -> Found:
        """The same."""
        found: Found = await self.plain.load(key)
        return found

    async def replace(self, change: Change) -> object | Changed:
        """Replace whatever seems to be the same."""
        there: Found = await self.plain.load(change.key)
        if self.seems_same(change.tag, there.tag):
            change = change._replace(tag=there.tag)
        answer: object = await self.plain.replace(change)
        return answer


class GuardedStores(Stores):
    """The contents of a place, and who has replaced what."""

    def __init__(self, place: Kept, seems_same: Callable[[Any, Any], bool] | None) -> None:
        super().__init__()
        self.place = place
        self.ledger: Ledger = ()
        self._dumped: list[tuple[Any, Ledger]] = []
        self._by_content: dict[str, int] = {}
        self._outside: Outside = place.guard("everybody").session.driver.backend  # type: ignore[assignment]  # it is the guard's own
        self._plain = self._outside.place
        self._shown = place.guard("reader")
        if seems_same is not None:
            self._outside.place = Careless(self._plain, seems_same)  # type: ignore[assignment]  # it is the guard's own
        self.backend.perform = self._perform  # type: ignore[method-assign]  # a place instead

    def given(self, driver: StillDriver, agent: str) -> Guard:
        """Return the guard that an agent is given."""
        guard, count = self.place.guard(agent), itertools.count(1)
        return Guard(Session(driver, guard.session.writer, lambda: f"{agent}-{next(count)}"))

    def reader(self, store: int) -> Any:
        """Return what invariants see of a content: the ledger, and what is there."""
        self.load(store)
        return self

    def scan(self, prefix: str = "") -> dict[str, Any]:
        """Return what is there."""
        record = self._shown.read(self.place.key)
        return {record.key: record}

    def has_queue(self, store: int) -> bool:
        """Time does not matter."""
        return False

    def load(self, store: int) -> None:
        """Bring the place back to a content."""
        content, self.ledger = self._dumped[store]
        self.place.restore(content)

    def current(self) -> int:
        """Return the number of the content that is there."""
        found = self.place.dump(), self.ledger
        number = self._by_content.setdefault(repr(found), len(self._dumped))
        if number == len(self._dumped):
            self._dumped.append(found)
        return number

    def _perform(self, request: Request[object]) -> Any:
        before, content = self._by(), self.place.dump()
        if isinstance(request, Overwrite):
            self.place.overwrite(json.loads(request.value or "null"))
            self.ledger = (*self.ledger, ("outside", before, before))
            return None
        answer = self._send(request)
        if isinstance(request, Commit) and self.place.dump() != content:
            value = json.loads(request.plan.writes[0].body or "null")
            self.ledger = (*self.ledger, (request.plan.op_id, before, value["over"]))
        timed = isinstance(answer, Committed | Snapshot)
        return answer._replace(time_us=0) if timed else answer

    def _send(self, request: Request[object]) -> Any:
        """Send a request; a write that was applied is sent again: its answer was lost."""
        self._outside._lost.clear()  # it is of another schedule
        if not isinstance(request, Commit) or not self._known(request.plan.op_id):
            return self._outside.perform(request)
        place: Any = self._outside.place
        deaf: Any = _Deaf(place)
        self._outside.place = deaf
        try:
            self._outside.perform(request)
        except AnswerLost:
            pass
        finally:
            self._outside.place = place
        try:
            return self._outside.perform(request)
        except AnswerLost as lost:  # the driver asks for some seconds
            raise Unknown(str(lost)) from None

    def _known(self, op_id: str) -> bool:
        return any(name == op_id for name, _, _ in self.ledger)

    def _by(self) -> str | None:
        value = self._shown.read(self.place.key).value
        return None if value is None else str(value["by"])


class _Deaf:
    """A place whose answers are lost before they are sent."""

    def __init__(self, place: Any) -> None:
        self.texts = getattr(place, "texts", False)

    async def replace(self, change: Change) -> object:
        """Lose it."""
        raise AnswerLost("the connection was closed")


def outside(*values: Any) -> ProtocolAgent:
    """An agent that writes blindly, one value after the other."""

    def steps(_: object) -> Steps[object]:
        for value in values:
            yield Overwrite(None if value is None else json.dumps(value))
        return None

    return protocol_agent(steps)


def explore_guard(
    place: Kept, agents: dict[str, Any], *, careless: Callable[[Any, Any], bool] | None = None
) -> tuple[Exploration, set[str]]:
    """Run every schedule of agents on a place, with a crash and a lost answer.

    Returns the figures, and how agents ended: the names of their results' types.
    """
    place.overwrite(FIRST)
    stores = GuardedStores(place, careless)
    ends: set[str] = set()

    def applied(agent: str) -> list[str]:
        return [who for who, _, _ in stores.ledger if who.startswith(f"{agent}-")]

    def a_write_replaced_what_it_was_computed_from(view: Any) -> str | None:
        view.scan()  # brings the ledger of this state
        for who, replaced, computed_from in stores.ledger:
            if replaced != computed_from:
                return f"{who} was computed from {computed_from!r} and replaced {replaced!r}"
        return None

    def a_write_is_applied_once(view: Any) -> bool:
        return all(len({*applied(agent)}) == len(applied(agent)) for agent in agents)

    def what_was_acknowledged_was_applied(view: Any) -> bool:
        return all(len(made) <= len(applied(name)) for name, made in view.acknowledged.items())

    def a_refusal_means_that_nothing_happened(view: Any) -> bool:
        ends.update(type(result).__name__ for result in view.results.values())
        refused = (name for name, end in view.results.items() if isinstance(end, Refused))
        return not any(map(applied, refused))

    try:
        search = Search(Agents(agents, stores), stores, max_states=50_000, horizon_us=60_000_000)
        search.invariants = (
            a_write_replaced_what_it_was_computed_from,
            *(a_write_is_applied_once,) * place.remembers,
            what_was_acknowledged_was_applied,
            a_refusal_means_that_nothing_happened,
        )
        return search.run(Faults(1, place.lost_replies, 0)), ends
    finally:
        stores.close()
