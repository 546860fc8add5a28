"""Events: typed values appended to a merged key, and read again in the order of the log.

An event is stored as JSON whose field `$type` is the name of its class (see `core/types.py`, also
for how old versions of a class are lifted).  What is no event of the stream is never written, and
never guessed at when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Union, get_args, get_origin

from interlock.core import append, log
from interlock.core.keys import check_key, decode
from interlock.core.plan import DELETE, Write
from interlock.core.records import Committed, Entry, Written, as_datetime
from interlock.core.refusals import Forbidden, Refusal
from interlock.core.requests import LogPage, Steps, ValuePage
from interlock.core.rules import MERGED, UnknownRule
from interlock.core.struct import Json
from interlock.core.types import TYPE, Misfit, tagged
from interlock.core.writer import Writer
from interlock.errors import Invalid, accepted, raise_refused
from interlock.streams.projection import Page

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    E_co = TypeVar("E_co", default=Any, covariant=True)
    E = TypeVar("E", default=Any)
else:
    from typing import TypeVar

    E_co = TypeVar("E_co", covariant=True)
    E = TypeVar("E")


class EventEntry(NamedTuple, Generic[E_co]):
    """One event of a stream: where it stands in the log of the space, and who appended it."""

    position: int
    event: E_co
    agent: str
    time_us: int
    op_id: str

    @property
    def at(self) -> datetime:
        """When the store committed it (store's clock, UTC)."""
        return as_datetime(self.time_us)


class Stream(Generic[E]):
    """A merged key that holds events of some classes.  `only` leaves out those of others.

    Raises Invalid.
    """

    def __init__(self, key: str, types: Iterable[Any], only: bool = False) -> None:
        raise_refused(check_key(key))
        self.key = key
        self.types = tuple(dict.fromkeys(each for form in types for each in _classes(form)))
        self._tags = frozenset(getattr(each, "__name__", "") for each in self.types)
        self._only = only
        self._shape = accepted(tagged(*self.types))

    def of(self, types: Any) -> Stream[Any]:
        """Return the stream without the events that are not of `types` (None: with all)."""
        if types is None:
            return self
        forms = types if isinstance(types, list | tuple) else (types,)
        for each in (each for form in forms for each in _classes(form)):
            if each not in self.types:
                known = ", ".join(sorted(self._tags))
                raise Invalid(f"{each!r:.80} is not a type of the stream {self.key!r}: {known}.")
        return Stream(self.key, forms, only=True)

    def encode(self, event: E) -> Json:
        """Return an event as it is stored.  Raises Invalid where it is none of the stream."""
        try:
            return self._shape.encode(event)
        except Misfit as problem:
            raise Invalid(f"{event!r:.80} is no event of {self.key!r}: {problem}.") from problem

    def entries(self, entries: Sequence[Entry]) -> Iterable[EventEntry[E]]:
        """Yield those entries of the key that are events, decoded in one pass if all of them fit.

        Raises Invalid, which names position and type, where one is no event of the stream.
        """
        found = [each for each in entries if self._has(each)]
        try:
            events = self._shape.decode_many([each.value for each in found])
        except Misfit:
            return map(self._event, found)  # up to the first one that does not fit
        return map(_entry, found, events)

    def page(self, after: int | None) -> Steps[Page[E] | Refusal]:
        """Protocol: read the next page of the events alone after a position (None: all kept).

        Raises Invalid, as `entries`.
        """
        page = yield from log.values_after(self.key, after)
        if not isinstance(page, ValuePage):
            return page
        try:
            events = self._shape.decode_lines(page.lines, self._only)
        except Misfit:
            found = yield from self._one_by_one(after, page.upto)
            if isinstance(found, Refusal):
                return found
            events = found
        return Page(events, page.upto, page.head, page.erasures)

    def _one_by_one(self, after: int | None, upto: int) -> Steps[list[E] | Refusal]:
        asked, found, reached = log.Choice(key=self.key), list[E](), -1
        while reached < upto:
            page = yield from log.page_after(asked, after)
            if not isinstance(page, LogPage):
                return page
            entries = [entry for entry in page.entries if entry.position <= upto]
            found += [each.event for each in self.entries(entries)]
            after = reached = page.upto
        return found

    def append(
        self, writer: Writer, events: Sequence[E], op_id: str, exact: bool, together: bool
    ) -> Steps[list[EventEntry[E]] | Refusal]:
        """Protocol: append events as `append.add` does.  They are never folded: a stream is read
        from the log, and may be long."""
        bodies = [self.encode(event) for event in events]
        outcome = yield from append.add(
            writer, self.key, bodies, op_id, contribution, exact=exact, together=together
        )
        if not isinstance(outcome, Committed):
            return outcome
        if outcome.replayed:  # the same id may have been there, with another event
            given = zip(outcome.writes, bodies, events, strict=True)
            events = [
                event if done.erased or decode(done.body) == body else self._stored(done)
                for done, body, event in given
            ]
        agent, time_us = outcome.agent, outcome.time_us
        return [
            EventEntry(done.position, event, agent, time_us, op_id)
            for done, event in zip(outcome.writes, events, strict=True)
        ]

    def _stored(self, done: Written) -> E:
        return self._object(decode(done.body), done.position)

    def _has(self, entry: Entry) -> bool:
        """Whether an entry of the key is an event of these types: no deletion, nothing erased."""
        if entry.kind == DELETE or entry.erased:
            return False
        tag = _tag(entry.value)
        return not self._only or (isinstance(tag, str) and tag in self._tags)

    def _event(self, entry: Entry) -> EventEntry[E]:
        return _entry(entry, self._object(entry.value, entry.position))

    def _object(self, value: Json, position: int) -> E:
        try:
            found: E = self._shape.decode(value)
        except Misfit as problem:
            raise Invalid(
                f"The event of {self.key!r} at position {position} ({TYPE} "
                f"{_tag(value)!r:.60}) can't be read: {problem}."
            ) from problem
        return found


def contribution(writer: Writer, key: str, item: Json) -> Write | Refusal:
    """Return an event as a contribution to a stream, whose key must be declared as one."""
    pattern, rule = writer.book.rules.match(key)
    if not isinstance(rule, UnknownRule) and (rule.kind, rule.reducer) != (MERGED, "append"):
        how = f"merged with {rule.reducer!r}" if rule.kind == MERGED else rule.kind
        return Forbidden(
            f"{key!r} is not a stream of events: it is {how}. Open the space with "
            f'rules={{{key!r}: interlock.merged("append")}}; one pattern can stand for many keys.',
            key,
            pattern,
            rule.kind,
        )
    return append.contribution(writer, key, item)


def _entry(entry: Entry, event: E) -> EventEntry[E]:
    return EventEntry(entry.position, event, entry.agent, entry.time_us, entry.op_id)


def _tag(value: Json) -> Json:
    return value.get(TYPE) if isinstance(value, dict) else None


def _classes(form: Any) -> tuple[Any, ...]:
    """Return the classes of a union, or a class as it is."""
    return get_args(form) if get_origin(form) in (Union, UnionType) else (form,)
