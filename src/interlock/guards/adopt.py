"""Moving keys from where they are into a space, and back, while others go on reading and writing.

**A mark for each key** says what both sides held when they were last the same, and which side is
read.  It is written in one commit with the value.  So a move that was interrupted goes on where it
was, and a key that both sides have changed since is left as it is, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from interlock._sync.guard import Guard
from interlock._sync.space import Space
from interlock.core.records import Record
from interlock.errors import Conflict, Invalid
from interlock.guards.log import digest_of, space_key
from interlock.guards.outside import Outside, at_once
from interlock.guards.place import ABSENT, Found

_MOST = 20  # times that somebody changes a key while it is moved

Progress = Callable[[int, int], object]


class Adopted(NamedTuple):
    """What became of the keys: `copied`, or the `same` already; those of `differs` were changed on
    both sides, or outside after the cut-over, and are left as they are."""

    copied: tuple[str, ...]
    same: tuple[str, ...]
    differs: tuple[str, ...]

    def to_dict(self) -> dict[str, list[str]]:
        """Return it as a dict of JSON values."""
        return {name: [*keys] for name, keys in self._asdict().items()}


class Adoption:
    """Keys of a guard's place that move into a space: each is `prefix` and the key there.

    `copy` may be called as often as you like, and copies what has changed outside since.  With
    `cut_over` the space is what is read from then on; `back` returns to the place.  Until then
    write outside only, and after it to the space only: what is written on the wrong side is never
    overwritten, but named.  `read` reads the right side.
    """

    def __init__(self, guard: Guard, space: Space, *, prefix: str = "") -> None:
        if not isinstance(guard, Guard) or not isinstance(space, Space):
            raise Invalid("An adoption needs an interlock.guards.Guard and an interlock.Space.")
        backend: Any = guard.session.driver.backend
        assert isinstance(backend, Outside)
        self._guard, self._space, self._prefix = guard, space, prefix
        self._place = backend.place

    def keys(self, pattern: str = "*") -> list[str]:
        """Return the keys that are outside, or were copied, and match a pattern such as
        `booking:*`.  Raises Invalid where the place can't list them."""
        from fnmatch import fnmatchcase

        found = dict.fromkeys(at_once(self._place.keys(pattern)))
        marks = self._space.scan(f"adopt/{space_key('', self._place.name)}/")
        copied = (record.value["key"] for record in marks.values())
        found |= dict.fromkeys(key for key in copied if fnmatchcase(key, pattern))
        return sorted(found)

    def target(self, key: str) -> str:
        """Return the key of the space that `key` becomes."""
        return space_key(self._prefix, key)

    def read(self, key: str) -> Record:
        """Return the record of `key`, of the side that is read now."""
        mark, there = self._there(key)
        return there if _is_moved(mark) else self._guard.read(key)

    def copy(
        self,
        keys: Iterable[str],
        *,
        cut_over: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Adopted:
        """Copy keys into the space.  `dry_run` only says what would be done.

        `progress` is called with how many keys are done and to do.  Raises Invalid, or a fault.
        """
        return self._each(keys, lambda key: self._copy(key, cut_over, dry_run), progress)

    def back(
        self, keys: Iterable[str], *, dry_run: bool = False, progress: Progress | None = None
    ) -> Adopted:
        """Copy keys out of the space, through the guard, and read them outside from then on."""
        return self._each(keys, lambda key: self._back(key, dry_run), progress)

    def _each(
        self, keys: Iterable[str], move: Callable[[str], str], progress: Progress | None
    ) -> Adopted:
        every = [keys] if isinstance(keys, str) else [*keys]
        done: dict[str, list[str]] = {"copied": [], "same": [], "differs": []}
        for number, key in enumerate(every, 1):
            done[move(key)].append(key)
            if progress is not None:
                progress(number, len(every))
        return Adopted(*map(tuple, done.values()))

    def _copy(self, key: str, cut_over: bool, dry_run: bool) -> str:
        said = "same"
        for _ in range(_MOST):
            here = self._guard.read(key)
            mark, there = self._there(key)
            now, was = _digest(here), _known(mark)
            if _is_moved(mark):
                return said if now == was else "differs"
            if now != _digest(there):
                if (mark.exists and now == was) or _digest(there) != was:
                    return "differs"
                said = "copied"
            if dry_run:
                return said
            if not self._marked(key, (mark, there), now, cut_over, here):
                continue
            if not cut_over or _digest(self._guard.read(key)) == now:
                return said
            mark, there = self._there(key)  # it was changed outside meanwhile: not yet
            self._marked(key, (mark, there), now, False, None)
        return "differs"

    def _back(self, key: str, dry_run: bool) -> str:
        said = "same"
        for _ in range(_MOST):
            here = self._guard.read(key)
            mark, there = self._there(key)
            if not mark.exists:
                return "differs" if there.exists else "same"
            now, new = _digest(here), _digest(there)
            if now != new:
                if now != _known(mark):
                    return "differs"
                if dry_run:
                    return "copied"
                said = "copied"
                try:
                    self._put(here, there)
                except Conflict:
                    continue
                self._marked(key, (mark,), new, _is_moved(mark), None)
            elif dry_run or self._marked(key, (mark, there), new, False, None):
                return said
        return "differs"

    def _put(self, here: Record, there: Record) -> None:
        """Write outside what the space has."""
        if not there.exists:
            self._guard.delete(here)
        elif here.exists:
            self._guard.write(here, there.value)
        else:
            self._guard.create(here.key, there.value)

    def _there(self, key: str) -> tuple[Record, Record]:
        """Return the mark, and what the space has, of one moment."""
        name, target = self._mark(key), self.target(key)
        records = self._space.read_many([name, target])
        return records[name], records[target]

    def _marked(
        self,
        key: str,
        seen: Sequence[Record],
        digest: str | None,
        moved: bool,
        here: Record | None,
    ) -> bool:
        """Write the mark, and what is `here`, if the space still is what was seen of it."""
        mark, value = seen[0], {"key": key, "digest": digest, "moved": moved}
        there = seen[-1] if len(seen) > 1 else None
        try:
            with self._space.transaction() as tx:
                for record in seen:
                    tx.expect(record)
                if mark.value != value:
                    tx.write(mark, value)
                if here is not None and there is not None and digest != _digest(there):
                    if here.exists:
                        tx.write(there, here.value)
                    else:
                        tx.delete(there)
        except Conflict:
            return False
        return True

    def _mark(self, key: str) -> str:
        return space_key(f"adopt/{space_key('', self._place.name)}/", key)


def adopt(guard: Guard, space: Space, *, prefix: str = "") -> Adoption:
    """Return what moves keys of a guard into a space, and back.  Raises Invalid."""
    return Adoption(guard, space, prefix=prefix)


def _digest(record: Record) -> str | None:
    return digest_of(Found(None, record.value if record.exists else ABSENT))


def _known(mark: Record) -> str | None:
    """What both sides held when they were last the same."""
    found: str | None = mark.value["digest"] if mark.exists else None
    return found


def _is_moved(mark: Record) -> bool:
    return bool(mark.exists and mark.value["moved"])
