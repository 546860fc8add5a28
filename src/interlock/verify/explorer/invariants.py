"""What must hold in every state of a space: the view that an invariant gets, and those always on.

An invariant is a plain function of a `View`.  It says that it is broken by raising AssertionError,
by returning the reason as text, or by returning False.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from interlock import Json, Space
from interlock.core.records import Committed, Entry, Record

Invariant = Callable[["View"], object]


class View:
    """One state of a store, and what each agent knows of it.

    `acknowledged` holds the commits whose answers an agent has received, by agent's name.
    `results` holds what each agent that ended returned, or the `Refused` that ended it.
    `crashed` names the agents that died.
    """

    def __init__(
        self,
        space: Callable[[], Space],
        log: Callable[[], list[Entry]],
        acknowledged: Mapping[str, tuple[Committed, ...]],
        results: Mapping[str, Any],
        crashed: frozenset[str],
    ) -> None:
        self.acknowledged = acknowledged
        self.results = results
        self.crashed = crashed
        self._space = space
        self._log = log

    def read(self, key: str) -> Record:
        """Return the record of `key`; one that was never written has version 0."""
        return self._space().read(key)

    def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys`."""
        return self._space().read_many(keys)

    def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records whose keys begin with `prefix`, by key."""
        return self._space().scan(prefix)

    def log(self, prefix: str = "") -> list[Entry]:
        """Return the entries whose keys begin with `prefix`, in commit order."""
        return [entry for entry in self._log() if entry.key.startswith(prefix)]

    def folded(self, key: str) -> Json:
        """Return what the contributions to a merged key fold to, one after the other."""
        reducer = self._space().session.writer.book.rules.reducer(key)
        items: list[Json] = []
        for entry in self.log(key):
            if entry.key == key:
                items = [] if entry.kind == "delete" else [*items, entry.value]
        return None if reducer is None else reducer.fold(items)


def positions_are_gapless(view: View) -> str | None:
    """The log's positions are 1, 2, 3 without a gap."""
    for place, entry in enumerate(view.log(), start=1):
        if entry.position != place:
            return f"the log's entry number {place} has position {entry.position}"
    return None


def versions_count_up_by_one(view: View) -> str | None:
    """The versions of each key are 1, 2, 3 in the order of the log."""
    versions: dict[str, int] = {}
    for entry in view.log():
        due = versions.get(entry.key, 0) + 1
        if entry.version != due:
            return f"{entry.key!r} got version {entry.version} where {due} was due"
        versions[entry.key] = entry.version
    return None


def records_are_the_fold_of_the_log(view: View) -> str | None:
    """Every record is what the last entry of its key says, and there are no others."""
    entries = [entry for entry in view.log() if not entry.key.startswith("$")]
    last = {entry.key: entry for entry in entries}
    records = view.read_many(last)
    for key, entry in last.items():
        record = records[key]
        value = view.folded(key) if entry.kind == "append" else entry.value
        stands = (record.version, record.position, record.value, record.exists)
        said = (entry.version, entry.position, value, entry.kind != "delete")
        if stands != said:
            return (
                f"(version, position, value, exists) of {key!r} is {stands}, "
                f"but its entries say {said}"
            )
        if record.epoch < entry.epoch:
            return f"the epoch of {key!r} fell from {entry.epoch} to {record.epoch}"
    live = {key for key, entry in last.items() if entry.kind != "delete"}
    if view.scan().keys() != live:
        return f"a scan returns {sorted(view.scan())}, but the log says {sorted(live)}"
    return None


def operations_are_applied_once(view: View) -> str | None:
    """The entries of an operation id are those of one commit: together, each key once."""
    places: dict[str, list[Entry]] = {}
    for entry in view.log():
        places.setdefault(entry.op_id, []).append(entry)
    for op_id, entries in places.items():
        positions = [entry.position for entry in entries]
        together = positions[-1] - positions[0] == len(positions) - 1
        written = [entry.key for entry in entries if entry.kind != "append"]
        if not together or len(set(written)) < len(written):
            where = ", ".join(map(str, positions))
            return f"operation {op_id!r} was applied more than once: positions {where}"
    return None


def acknowledged_commits_are_kept(view: View) -> str | None:
    """Whatever an agent was told to be committed stands in the log."""
    log = {entry.position: entry for entry in view.log()}
    for agent, commits in view.acknowledged.items():
        for written in (written for commit in commits for written in commit.writes):
            entry = log.get(written.position)
            if entry is None or (entry.key, entry.version) != (written.key, written.version):
                return (
                    f"{agent} was told that version {written.version} of {written.key!r} is "
                    f"committed at position {written.position}, but the log does not have it"
                )
    return None


ALWAYS: tuple[Invariant, ...] = (
    positions_are_gapless,
    versions_count_up_by_one,
    records_are_the_fold_of_the_log,
    operations_are_applied_once,
    acknowledged_commits_are_kept,
)

OF_STORE = ALWAYS[:-1]
"""Those that look at nothing but the store: what holds of a content holds whoever knows it."""


def name_of(invariant: Invariant) -> str:
    """Return the name of an invariant in words."""
    name = getattr(invariant, "__name__", None) or repr(invariant)
    return name.replace("_", " ")


def broken(invariant: Invariant, view: View) -> str | None:
    """Return in words why an invariant does not hold, or None where it does."""
    try:
        answer = invariant(view)
    except AssertionError as problem:
        return str(problem) or "its assertion failed"
    if isinstance(answer, str):
        return answer or "it returned an empty text"
    return "it returned False" if answer is False else None
