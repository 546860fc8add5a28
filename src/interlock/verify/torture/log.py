"""The log of a run, read once, and what is found wrong with it.

Its order is checked, and it is dealt out to the windows of the plan.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import interlock
from interlock import Json
from interlock.verify.torture import plan
from interlock.verify.torture.plan import Settings, parse_op_id
from interlock.verify.torture.worker import MACHINE, counted_by, is_on, stamp

_EXAMPLES = 3  # of each name

LOST_WRITE = "acknowledged and lost"
TWICE = "applied twice"
REFUSED_WRITE = "refused and applied"


class Findings:
    """Anomalies by name, each with a few examples; and what could not be decided."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.undecided: list[str] = []

    def add(self, name: str, example: str, count: int = 1) -> None:
        """Count an anomaly."""
        self.counts[name] += count
        shown = self.examples.setdefault(name, [])
        if len(shown) < _EXAMPLES:
            shown.append(example)


_BUFFERED = 2000  # lines of a window
_OWN = "$"  # begins the keys that the library keeps for itself


class Line(NamedTuple):
    """An entry of the log as the check of a window sees it; `name` is the commit's operation id."""

    position: int
    key: str
    version: int
    epoch: int
    name: str
    deleted: bool
    reads: dict[str, Json] | None


class Log:
    """The log of a run, read once from the first entry to the last."""

    def __init__(self, settings: Settings, folder: Path, findings: Findings) -> None:
        self.settings = settings
        self.folder = folder
        self.findings = findings
        self.length = 0
        self.stamps = array("Q", [0])  # sums of the stamps of the entries up to each position
        self.totals: dict[str, list[int]] = {}  # of each sum, at each version
        self.jobs: dict[int, str] = {}  # keys that the group is about, by position
        self.versions: dict[str, int] = {}
        self.values: dict[str, Json] = {}
        self._epochs: dict[str, int] = {}
        self._time_us = 0
        self._buffers: dict[int, list[str]] = defaultdict(list)

    def read(self, entries: Iterable[interlock.Entry]) -> None:
        """Read the log."""
        for entry in entries:
            self._take(entry)
        for window in list(self._buffers):
            self._flush(window)

    def window(self, window: int) -> list[Line]:
        """Return the entries of a window."""
        path = self._path(window)
        if not path.exists():
            return []
        with path.open(encoding="utf-8") as lines:
            return [Line(*json.loads(line)) for line in lines]

    def _take(self, entry: interlock.Entry) -> None:
        found = self.findings
        self.length += 1
        if entry.position != self.length:
            found.add("gap in the log", f"{entry.position} stands where {self.length} should")
            while self.length < entry.position:
                self.stamps.append(self.stamps[-1])
                self.length += 1
        self.stamps.append(self.stamps[-1] + stamp(entry))
        if entry.time_us < self._time_us:
            found.add("time falls", f"position {entry.position} is older than the one before")
        self._time_us = max(self._time_us, entry.time_us)
        if entry.key.startswith(_OWN):
            return
        expected = self.versions.get(entry.key, 0) + 1
        if entry.version != expected:
            found.add("version jumps", f"{_told(entry)}, and should be version {expected}")
        if entry.epoch < self._epochs.get(entry.key, 0):
            found.add("epoch falls", _told(entry))
        self._epochs[entry.key] = entry.epoch
        self._look_inside(entry)
        self.versions[entry.key] = entry.version
        name = _name(entry)
        parsed = parse_op_id(name)
        if parsed is None:
            found.add("entry of nobody", _told(entry))
            return
        window = parsed[1] // self.settings.window
        line = Line(
            *(entry.position, entry.key, entry.version, entry.epoch, name),
            entry.kind == "delete",
            dict(entry.reads) if entry.reads else None,
        )
        self._buffers[window].append(json.dumps(line))
        if len(self._buffers[window]) >= _BUFFERED:
            self._flush(window)

    def _look_inside(self, entry: interlock.Entry) -> None:
        """Check what values must keep, and go on from them."""
        family, _, rest = entry.key.partition("/")
        before = self.values.get(entry.key)
        if family == "lists":
            self.values.setdefault(entry.key, []).append(entry.value)
            return
        if family == "sums":
            self.values[entry.key] = (before or 0) + entry.value
            self.totals.setdefault(entry.key, [0]).append(self.values[entry.key])
            return
        self.values[entry.key] = entry.value
        if family == "jobs":
            self.jobs[entry.position] = entry.key
            state = entry.value["status"]
            allowed = MACHINE.initial if before is None else MACHINE.targets(before["status"])
            if state not in allowed:
                was = "nothing" if before is None else before["status"]
                self.findings.add("illegal transition", f"{_told(entry)}: from {was} to {state}")
        elif family == "duties":
            group = entry.key.rpartition("/")[0]
            names = [f"{group}/{n}" for n in range(plan.ON_CALL)]
            if not any(is_on(self.values.get(name)) for name in names):
                self.findings.add("nobody on duty", _told(entry))
        elif family == "rosters":
            roster = f"members of {rest.rpartition('/')[0]}"
            self.values[roster] = self.values.get(roster, 0) + 1
            if self.values[roster] > plan.PLACES:
                self.findings.add("too many on a roster", _told(entry))

    def _flush(self, window: int) -> None:
        with self._path(window).open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in self._buffers.pop(window))

    def _path(self, window: int) -> Path:
        return self.folder / f"log-{window}.jsonl"


def check_records(log: Log, records: dict[str, interlock.Record]) -> None:
    """Check that the records of the space, at the end, are what the log says."""
    seen = {}
    for key, value in log.values.items():
        if "/" in key and value is not None and not key.startswith("members"):
            seen[key] = log.versions[key], value
    there = {key: (record.version, record.value) for key, record in records.items()}
    for key in sorted(seen.keys() | there.keys()):
        if seen.get(key) != there.get(key):
            text = f"{key}: log {seen.get(key)!r:.80}, record {there.get(key)!r:.80}"
            log.findings.add("record is not what the log says", text)
    for window in range(log.settings.windows):
        names = [f"accounts/{window}/{n}" for n in range(plan.ACCOUNTS)]
        funds = sum((log.values.get(name) or {"funds": plan.FUNDS})["funds"] for name in names)
        if funds != plan.ACCOUNTS * plan.FUNDS:
            log.findings.add("money appears or disappears", f"window {window}: {funds} in all")


def _name(entry: interlock.Entry) -> str:
    """Return the operation id of the commit that made an entry, as its worker knows it."""
    if entry.kind == "append":
        item = entry.value
        return counted_by(item) if isinstance(item, int) else str(item)
    return str(entry.value["by"]) if entry.kind == "put" else entry.op_id


def _told(entry: interlock.Entry) -> str:
    return f"position {entry.position}: {entry.key} version {entry.version} by {entry.op_id}"
