"""The log in pages: which entries are asked for, forwards and backwards.

A store reads forwards.  Backwards is a window of positions at a time, the last one first: it holds
about a page, grows where few of its entries are asked for, and shrinks where they are large.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from interlock.core.keys import check_key, check_name, check_prefix
from interlock.core.plan import APPEND, DELETE, PUT
from interlock.core.read import check_after, check_position
from interlock.core.records import Entry
from interlock.core.refusals import Invalid, Pruned
from interlock.core.requests import LogPage, ReadLog, ReadValues, Steps, ValuePage

KINDS = (PUT, APPEND, DELETE)
PAGE = 1000  # entries
VALUES = 5000  # the same, where only values are read
_OLDEST = -1  # after this position: from the oldest that is kept


@dataclass(frozen=True)
class Choice:
    """The entries that are asked for: of `key`, or under `prefix`; of `agent`; of some kinds;
    before a position."""

    prefix: str = ""
    key: str | None = None
    agent: str | None = None
    kinds: tuple[str, ...] = ()
    limit: int | None = None
    before: int | None = None

    def of(self, page: list[Entry]) -> list[Entry]:
        """Return those of a page that are asked for, whose key was asked of the store."""
        if self.agent is not None:
            page = [entry for entry in page if entry.agent == self.agent]
        if self.before is not None:
            page = [entry for entry in page if entry.position < self.before]
        return [entry for entry in page if entry.kind in self.kinds] if self.kinds else page


@dataclass
class Window:
    """What is still to be read backwards: what comes after `floor`, up to `upto`.

    `step` is how many positions are read at a time.  `fixed`: the floor is the caller's, so what is
    trimmed above it is missing.
    """

    floor: int
    upto: int
    fixed: bool
    step: int = PAGE


def choice(
    prefix: object = "",
    key: object = None,
    agent: object = None,
    kinds: str | Iterable[str] | None = None,
    limit: object = None,
    before: object = None,
) -> Choice | Invalid:
    """Return which entries are asked for, or what is malformed."""
    wrong = check_prefix(prefix) if key is None else check_key(key)
    wrong = wrong or (None if agent is None else check_name("agent", agent))
    wrong = wrong or (None if before is None else check_position("before", before))
    if wrong is not None:
        return wrong
    if isinstance(kinds, str):
        kinds = (kinds,)
    elif kinds is not None and not isinstance(kinds, Iterable):
        return Invalid(f"kinds={kinds!r:.60} must be some of: {', '.join(KINDS)}.")
    asked = None if kinds is None else tuple(kinds)
    if asked is not None and (not asked or any(each not in KINDS for each in asked)):
        return Invalid(f"kinds={asked!r:.60} must be some of: {', '.join(KINDS)}.")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        return Invalid(f"limit={limit!r:.40} must be a whole number from 1.")
    assert isinstance(prefix, str)
    assert key is None or isinstance(key, str)
    assert agent is None or isinstance(agent, str)
    assert before is None or isinstance(before, int)
    return Choice(prefix, key, agent, asked or (), limit, before)


def page_after(asked: Choice, after: int | None) -> Steps[LogPage | Invalid | Pruned]:
    """Protocol: read the next page after a position (None: from the oldest that is kept)."""
    wrong = check_after(after)
    if wrong is not None:
        return wrong
    few = asked.limit is not None and asked.agent is None and not asked.kinds
    limit = min(PAGE, asked.limit or PAGE) if few else PAGE
    start = _OLDEST if after is None else after
    if asked.before is not None and after is not None:
        limit = min(limit, max(asked.before - 1 - after, 1))
    return (yield from ReadLog(after=start, limit=limit, prefix=asked.prefix, key=asked.key))


def values_after(key: str, after: int | None) -> Steps[ValuePage | Invalid | Pruned]:
    """Protocol: read the next page of the values of a key after a position, as `page_after`."""
    wrong = check_key(key) or check_after(after)
    if wrong is not None:
        return wrong
    return (yield from ReadValues(after=_OLDEST if after is None else after, limit=VALUES, key=key))


def window(asked: Choice, after: int | None) -> Steps[Window | Invalid | Pruned]:
    """Protocol: begin to read backwards, from the end of the log as it is now, or `before`."""
    wrong = check_after(after)
    if wrong is not None:
        return wrong
    page = yield from ReadLog(after=_OLDEST if after is None else after, limit=1)
    if isinstance(page, Pruned):
        return page
    oldest = page.entries[0].position if page.entries else page.head + 1
    upto = page.head if asked.before is None else min(page.head, asked.before - 1)
    return Window(oldest - 1 if after is None else after, upto, after is not None)


def page_before(asked: Choice, view: Window) -> Steps[list[Entry] | Pruned]:
    """Protocol: read the next page backwards, the newest entry first; an empty one is the end."""
    while view.upto > view.floor:
        start = max(view.upto - view.step, view.floor)
        limit = min(view.upto - start, PAGE)
        page = yield from ReadLog(after=start, limit=limit, prefix=asked.prefix, key=asked.key)
        if isinstance(page, Pruned):
            if view.fixed:
                return page
            view.floor = page.oldest - 1  # it was trimmed meanwhile
            continue
        if page.upto < view.upto:
            view.step = page.upto - start  # which made a page
            continue
        found = [each for each in reversed(page.entries) if each.position <= view.upto]
        view.upto = start
        if len(found) < PAGE // 2:
            view.step *= 2
        if found:
            return found
    return []
