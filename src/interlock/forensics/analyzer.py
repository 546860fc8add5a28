"""Finds overlapping writes and lost updates in a history of keys, event by event.

A lost update is a write whose content lacks what an earlier one brought, and whose writer had not
read that one.  Where the source shows what the writer had read, this is `certain`.  Elsewhere it
is inferred from content: a value that looks as if the earlier write had never happened is
`likely`, or `possible` where it could as well be meant.

In memory are each key's current value, as JSON but for the keys that were written last, and what
the last writes changed, 200,000 in all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from interlock.core.merge import REMOVED, same
from interlock.forensics.changes import (
    FIELD,
    ITEMS,
    TEXT,
    Fact,
    applied,
    at,
    changes,
    kept,
    missing,
    undone,
)
from interlock.forensics.history import (
    ADD,
    CHANGE,
    DELETE,
    FIELDS,
    NOTHING,
    PUT,
    READ,
    REMOVE,
    Event,
)
from interlock.forensics.loss import (
    CERTAIN,
    FRESH,
    LIKELY,
    POSSIBLE,
    STALE,
    UNKNOWN,
    Loss,
    Overlap,
)

_REMEMBERED = 200_000  # changes of all keys
_INFERRED = 64  # writes of a key that one with an unknown read is compared with
_BLIND = "its writer had not read the key since its own last write, if at all"
_AT_WORK = 1000  # keys whose values are objects
_OPEN = 16  # losses of a key that a later write may restore


@dataclass(slots=True, eq=False)
class Write:
    """A write that a later one is compared with: `index` counts the writes of its key.

    `base` is the index of the one that it was computed from (None: not known), `earlier` the one
    before it, while that is in memory.  `facts` of a first write are None until the next one comes:
    all of its value.
    """

    index: int
    position: int
    time_us: int
    agent: str
    version: int | None
    facts: Sequence[Fact] | None
    value: Any  # where reads are recorded by value
    base: int | None
    earlier: Write | None


@dataclass(slots=True, eq=False)
class Key:
    """What is known of a key: its current value, its last writes, and what was found so far.

    `before_loss`: the value before the first loss (`REMOVED`: none yet).
    """

    name: str
    value: Any = NOTHING
    writes: int = 0
    agents: frozenset[str] = frozenset()
    first_us: int = 0
    last_us: int = 0
    overlaps: int = 0
    lost: dict[str, int] | None = None
    before_loss: Any = NOTHING
    before_position: int = 0
    size: int | None = None
    version: int = 0
    last: Write | None = None
    reads: dict[tuple[str, str | None], int] | None = None  # by agent, and field or None: all
    open: list[Loss] | None = None

    def recent(self) -> Iterator[Write]:
        """Yield the writes that are in memory, newest first."""
        write = self.last
        while write is not None:
            yield write
            write = write.earlier


class Analyzer:
    """Takes the events of a source in order and returns what each one shows.

    `window_us`: writes of different agents that are closer overlap.  `think_us`: the longest time
    between reading and writing that counts as `likely`.  `from_start`: the source shows a key's
    first write, so that a key begins empty.  `shows_reads`: it shows all reads, so that who is not
    seen to read has not.
    """

    def __init__(
        self,
        window_us: int = 100_000,
        think_us: int = 60_000_000,
        from_start: bool = True,
        shows_reads: bool = False,
    ) -> None:
        self.keys: dict[str, Key] = {}
        self._window = window_us
        self._think = think_us
        self._from_start = from_start
        self._shows_reads = shows_reads
        self._order: deque[Write] = deque()
        self._at_work: dict[str, Key] = {}  # written last, in that order
        self._names: dict[str, str] = {}
        self._by_value = False
        # Hosts of which a connection without a name has written what it had not read: it may be one
        # of a pool, and another one of it has read.
        self.pooled: set[str] = set()
        self._agents: dict[frozenset[str], frozenset[str]] = {}

    def see(self, event: Event) -> list[Loss | Overlap]:
        """Take in the next event."""
        key = self.keys.get(event.key)
        if key is None:
            key = self.keys[event.key] = Key(event.key, first_us=event.time_us)
        if event.kind == READ:
            if key.reads is None:
                key.reads = {}
            for field in event.value if type(event.value) is list else (None,):
                key.reads[event.agent, field] = key.writes
            return []
        if event.read_value is not NOTHING:
            self._by_value = True
        found: list[Loss | Overlap] = []
        base, whose = self._base(key, event)
        if event.kind in (PUT, FIELDS, DELETE) and key.last is not None:
            found += self._overlap(key, event, base)
        before = _object(key.value)
        if key.last is not None and key.last.facts is None:
            key.last.facts = () if before is NOTHING else tuple(changes(REMOVED, before))
        if event.kind in (PUT, CHANGE):
            new = event.value
        elif event.kind == DELETE:
            new = REMOVED
        else:
            new = applied(before, event.kind, event.value)
        facts: list[Fact] = []
        if new is NOTHING:
            found += self._shrunk(key, event)
        elif event.kind in (ADD, REMOVE):
            facts = _added(event, before)
        elif event.kind == CHANGE:
            facts = changes(REMOVED if before is NOTHING else before, new)
        else:
            facts = changes(REMOVED if before is NOTHING else before, new)
            if key.last is not None and before is not NOTHING and (new is not REMOVED or whose):
                losses, facts = self._losses(key, event, base, whose, before, new, facts)
                if losses and key.before_loss is NOTHING:
                    key.before_loss, key.before_position = before, key.last.position
                found += losses
        self._note(key, event, new, facts, base)
        return found

    def _base(self, key: Key, event: Event) -> tuple[int | None, str]:
        """Return the index of the write that a write was computed from (None: not known), and how
        that is known."""
        read = _last_read(key, event) if key.reads else None
        if event.base is not None:
            return _at_version(key, event.base), f"it was computed from version {event.base}"
        if event.read_value is not NOTHING:
            for write in key.recent():
                if write.value is not NOTHING and same(write.value, event.read_value):
                    return write.index, "the value that it had read is recorded"
            if event.read_value is None:
                return 0, "it had found no value"
        if event.read_us is not None:
            writes = key.recent()
            before = next((each for each in writes if each.time_us <= event.read_us), None)
            index = _oldest(key) if before is None else before.index
            return index, "the time of its read is recorded"
        if read is not None:
            return read, "its read is in the source"
        if event.version is not None and key.writes and event.version <= key.version:
            # Who counts versions in the data itself wrote one that was there already.
            why = f"it made version {event.version}, which was there already"
            return _at_version(key, event.version - 1), why
        if self._shows_reads and event.agent and event.kind == PUT:
            if key.writes and (host := host_of(event.agent)):
                self.pooled.add(host)
            own = (write.index for write in key.recent() if write.agent == event.agent)
            return next(own, 0), _BLIND
        return None, ""

    def _overlap(self, key: Key, event: Event, base: int | None) -> Iterator[Overlap]:
        for write in key.recent():
            stale = base is not None and write.index > base
            gap = event.time_us - write.time_us
            if not stale and gap > self._window:
                return
            if write.agent == event.agent and event.agent:
                if not stale:
                    return
                continue
            key.overlaps += 1
            read = UNKNOWN if base is None else STALE if stale else FRESH
            yield Overlap(
                key.name,
                event.position,
                event.time_us,
                event.agent,
                write.agent,
                write.position,
                gap,
                read,
            )
            return

    def _losses(
        self,
        key: Key,
        event: Event,
        base: int | None,
        whose: str,
        before: Any,
        new: Any,
        facts: list[Fact],
    ) -> tuple[list[Loss], list[Fact]]:
        """Return the losses, and of what has changed that which the writer itself has changed."""
        if base is None:
            if not any(_takes(fact) for fact in facts):
                return [], facts
            victims = self._unseen(key, event, before, new)
        else:
            victims = list(takewhile(lambda write: write.index > base, key.recent()))
        if not victims:
            return [], facts
        victims.reverse()
        first: dict[tuple[str | int, ...], Any] = {}
        found: list[tuple[Write, list[Fact], bool]] = []
        for write in victims:
            lost, raised = [], False
            for fact in write.facts or ():
                was = first.setdefault(fact.path, fact.old) if fact.kind == FIELD else fact.old
                if fact.kind == ITEMS:
                    part = _lost_items(fact, before, new)
                elif kept(fact, before) and not kept(fact, new):
                    part = fact._replace(old=was)
                else:
                    part = None
                    raised = raised or (
                        base is not None
                        and _wrote(event, fact)
                        and _same_raise(fact, was, new, before)
                    )
                part = part and _not_dropped(key, write, part)
                if part is not None:
                    lost.append(part)
            if lost or raised:
                found.append((write, lost, raised and not lost))
        own = _own(facts, [fact for _, lost, _ in found for fact in lost])
        losses = [
            self._loss(key, event, base, whose, write, lost, own, raised, (before, new))
            for write, lost, raised in found
        ]
        return losses, own

    def _unseen(self, key: Key, event: Event, before: Any, new: Any) -> list[Write]:
        """Return the last writes that a value looks as if they had never happened, newest first."""
        found: list[Write] = []
        for write in islice(key.recent(), _INFERRED):
            if write.agent == event.agent and event.agent:
                break
            if not write.facts:
                continue
            for fact in write.facts:
                if not undone(fact, new) and kept(fact, before):  # it was seen, or all is replaced
                    return found or [write] * _replaces(write, event, before, new)
            if any(kept(fact, before) for fact in write.facts):
                found.append(write)
        return found

    def _loss(
        self,
        key: Key,
        event: Event,
        base: int | None,
        whose: str,
        write: Write,
        lost: list[Fact],
        own: list[Fact],
        raised: bool,
        values: tuple[Any, Any],
    ) -> Loss:
        gap = event.time_us - write.time_us
        if raised:
            lost = [fact for fact in write.facts or () if _is_number(fact)]
            certainty, why = LIKELY, f"{whose}; both raised a number to the same value"
        elif base is not None:
            certainty, why = CERTAIN, whose
            if whose is _BLIND:
                certainty = LIKELY
            if not self._from_start and write.index == 1:
                certainty, why = LIKELY, f"{whose}; what was there before is not recorded"
        elif not own:
            certainty, why = POSSIBLE, "the value went back to an earlier one"
        elif gap > self._think:
            certainty, why = POSSIBLE, f"it was written {gap / 1e6:.0f} s later"
        elif _replaces(write, event, *values):
            certainty, why = POSSIBLE, "it has nothing of what another agent had written"
        elif all(fact.kind == FIELD and fact.old is not REMOVED for fact in lost):
            certainty, why = POSSIBLE, "fields went back to an earlier value"
        elif any(_only_takes(fact) for fact in own):
            certainty, why = POSSIBLE, "it takes out older parts, too"
        else:
            certainty = LIKELY
            why = "it adds to the value as it was before, and what was read is not recorded"
        based = None if base is None else _position(key, base)
        loss = Loss(
            key.name,
            event.position,
            event.time_us,
            event.agent,
            write.position,
            write.time_us,
            write.agent,
            tuple(lost),
            certainty,
            why,
            based,
            raised=raised,
        )
        _count(key, certainty)
        if lost and not raised and certainty != POSSIBLE:
            key.open = [*(key.open or ())[-_OPEN:], loss]
        return loss

    def _shrunk(self, key: Key, event: Event) -> Iterator[Loss]:
        """Where only sizes are known, one that falls after another agent's write."""
        last = key.last
        if last is None or None in (event.size, key.size) or (last.agent == event.agent):
            return
        if event.size < key.size and event.time_us - last.time_us <= self._think:  # type: ignore[operator]  # neither is None
            why = f"only sizes are recorded; it fell from {key.size} to {event.size}"
            whose = (event.position, event.time_us, event.agent)
            before = (last.position, last.time_us, last.agent)
            _count(key, POSSIBLE)
            yield Loss(key.name, *whose, *before, (), POSSIBLE, why)

    def _note(self, key: Key, event: Event, new: Any, facts: list[Fact], base: int | None) -> None:
        key.writes += 1
        key.last_us = event.time_us
        agent = self._names.setdefault(event.agent, event.agent)
        key.version = event.version if event.version is not None else key.version
        key.size = event.size
        if event.agent not in key.agents:
            agents = key.agents | {event.agent}
            key.agents = self._agents.setdefault(agents, agents)
        key.last = Write(
            key.writes,
            event.position,
            event.time_us,
            agent,
            event.version,
            None if key.last is None else tuple(facts),
            new if self._by_value else NOTHING,
            base,
            key.last,
        )
        if key.last.earlier is not None:
            self._order.append(key.last)
            if len(self._order) > _REMEMBERED:
                self._order.popleft().earlier = None
        if key.open and facts:
            for loss in key.open:
                if loss.position != event.position and _brings_back(facts, loss.facts, new):
                    loss.restored = event.position
            key.open = [loss for loss in key.open if loss.restored is None]
        key.value = new
        self._at_work.pop(key.name, None)  # most keys rest: as bytes they take a third
        self._at_work[key.name] = key
        if len(self._at_work) > _AT_WORK:
            resting = self._at_work.pop(next(iter(self._at_work)))
            resting.value = _packed(resting.value)


def host_of(agent: str) -> str | None:
    """Return the host of a connection that is known by its address only."""
    host, colon, port = agent.rpartition(":")
    return host if colon and port.isdigit() else None


def _count(key: Key, certainty: str) -> None:
    key.lost = key.lost or {}
    key.lost[certainty] = key.lost.get(certainty, 0) + 1


def _packed(value: Any) -> Any:
    if type(value) not in (dict, list):
        return value
    from msgspec.json import encode

    return encode(value)


def _object(value: Any) -> Any:
    if type(value) is not bytes:
        return value
    from msgspec.json import decode

    return decode(value)


def current(key: Key) -> Any:
    """Return a key's value after the last event, REMOVED where it has none."""
    return _object(key.value)


def _last_read(key: Key, event: Event) -> int | None:
    """Return the index of the write that an agent has last seen of what it writes now.

    Who writes all of a value has used up its read; who sets fields may set more of them.
    """
    assert key.reads is not None
    if event.kind != FIELDS or type(event.value) is not dict:
        return key.reads.pop((event.agent, None), None)
    whole = key.reads.get((event.agent, None), -1)
    seen = [max(key.reads.pop((event.agent, name), -1), whole) for name in event.value]
    return None if not seen or min(seen) < 0 else min(seen)


def _at_version(key: Key, version: int) -> int | None:
    if not version:
        return 0
    for write in key.recent():
        if write.version == version:
            return write.index
        if write.version is not None and write.version < version:
            return None
    return _oldest(key)


def _oldest(key: Key) -> int:
    """Return the index of the write before those that are in memory."""
    index = key.writes
    for write in key.recent():
        index = write.index - 1
    return index


def _position(key: Key, index: int) -> int:
    return next((write.position for write in key.recent() if write.index == index), 0)


def _added(event: Event, before: Any) -> list[Fact]:
    """Return what an atomic step of the store has brought."""
    if event.kind == ADD and type(event.value) is list:
        return [Fact((), ITEMS, (), tuple(event.value))]
    if event.kind == ADD and type(event.value) is not dict:
        old = before if type(before) in (int, float, str) else ""
        if type(event.value) is str:
            return [Fact((), TEXT, old, f"{old}{event.value}")]
    return []


def _lost_items(fact: Fact, before: Any, new: Any) -> Fact | None:
    """Return which items of a fact were there before and are not in the new value."""
    was, there = at(before, fact.path), at(new, fact.path)
    added = fact._replace(old=())
    gone = missing(added, there)
    if gone:
        had = missing(added, was)
        for item in had:
            if item in gone:
                gone.remove(item)
    back = []
    if fact.old and type(there) is list and type(was) is list:
        back = [item for item in fact.old if item not in was and item in there]
    return Fact(fact.path, ITEMS, tuple(back), tuple(gone)) if gone or back else None


def _not_dropped(key: Key, write: Write, lost: Fact) -> Fact | None:
    """Return what is lost of a write without what others have since taken out on purpose, and which
    only came back because somebody wrote an old value."""
    after = write.index if write.base is None else write.base
    for other in islice(key.recent(), _INFERRED):
        if other.index <= after:
            break
        for fact in other.facts or () if other is not write else ():
            if fact.path != lost.path or fact.kind != lost.kind:
                continue
            if fact.kind == ITEMS:
                left = [item for item in lost.new if item not in fact.old]
                lost = lost._replace(new=tuple(left))
            elif fact.kind == FIELD and same(fact.old, lost.new):
                return None
    return lost if lost.kind != ITEMS or lost.new or lost.old else None


def _is_number(fact: Fact) -> bool:
    numbers = (int, float)
    return fact.kind == FIELD and type(fact.old) in numbers and type(fact.new) in numbers


def _same_raise(fact: Fact, was: Any, new: Any, before: Any) -> bool:
    """Whether two writers raised a number from the same value to the same one."""
    return _is_number(fact) and was == fact.old and kept(fact, before) and kept(fact, new)


def _brings_back(facts: list[Fact], lost: tuple[Fact, ...], new: Any) -> bool:
    """Whether changes made all that is lost again, which is asked of every write."""
    first = lost[0]
    for fact in facts:
        if fact.path == first.path and (
            fact.kind != ITEMS or not first.new or first.new[0] in fact.new
        ):
            return all(kept(each, new) for each in lost)
    return False


def _wrote(event: Event, fact: Fact) -> bool:
    """Whether an event itself wrote what is at the path of a fact."""
    if event.kind == FIELDS and type(event.value) is dict:
        return bool(fact.path) and fact.path[0] in event.value
    return event.kind == PUT


def _takes(fact: Fact) -> bool:
    """Whether a change could undo an earlier one."""
    if fact.kind == ITEMS:
        return bool(fact.old)
    return fact.kind == FIELD or not fact.new.startswith(fact.old)


def _replaces(write: Write, event: Event, before: Any, new: Any) -> bool:
    """Whether an agent has replaced all fields that another one had written."""
    while type(before) is dict and type(new) is dict and before.keys() == new.keys():
        if len(before) != 1:
            break
        (before,), (new,) = before.values(), new.values()  # a row with one column
    return (
        "" != write.agent != event.agent != ""
        and type(before) is dict
        and type(new) is dict
        and len(before) > 1
        and not any(same(new.get(name, REMOVED), value) for name, value in before.items())
    )


def _only_takes(fact: Fact) -> bool:
    return bool(fact.old) and not fact.new if fact.kind == ITEMS else fact.new is REMOVED


def _own(facts: list[Fact], lost: list[Fact]) -> list[Fact]:
    """Return a write's changes without those that only undo what is lost."""
    if not lost:
        return facts
    by_path: dict[tuple[str | int, ...], list[Fact]] = {}
    for each in lost:
        by_path.setdefault(each.path, []).append(each)
    own = []
    for fact in facts:
        undoing = by_path.get(fact.path)
        if undoing is None:
            own.append(fact)
        elif fact.kind == ITEMS and undoing[0].kind == ITEMS:
            gone, back = list(fact.old), list(fact.new)
            for each in undoing:
                for item in each.new:
                    if item in gone:
                        gone.remove(item)
                for item in each.old:
                    if item in back:
                        back.remove(item)
            if gone or back:
                own.append(fact._replace(old=tuple(gone), new=tuple(back)))
        elif ITEMS not in (fact.kind, undoing[0].kind):
            own += changes(undoing[0].old, fact.new, fact.path)
    return own
