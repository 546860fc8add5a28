"""Checks a run: the log as a whole, each window of the plan, and what spans the windows.

A window is checked by comparing what the workers were told with the log, commit by commit, and by
making a history of it.  What spans them is real time, leases, readers of the log, and the group.
"""

from __future__ import annotations

import json
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import interlock
from interlock.verify.histories.history import (
    ABSENT,
    OK,
    TXN,
    Operation,
    State,
    States,
    write_history,
)
from interlock.verify.histories.linear import check_linearizable
from interlock.verify.histories.serial import check_serializable
from interlock.verify.torture import plan
from interlock.verify.torture.log import (
    LOST_WRITE,
    REFUSED_WRITE,
    TWICE,
    Findings,
    Line,
    Log,
    check_records,
)
from interlock.verify.torture.plan import Settings, op_id, parse_op_id
from interlock.verify.torture.record import (
    ACKNOWLEDGED,
    REFUSED,
    UNAVAILABLE,
    UNKNOWN,
    Done,
    Piece,
    Seen,
    read_window,
)
from interlock.verify.torture.worker import GROUP, GROUP_PREFIX, NOT_NOTED, UNEXPECTED

Span = tuple[int, float, float]  # position, invoked, completed


class Grant(NamedTuple):
    """A lease that was granted, or taken away: the epoch that it raised the key to, and when."""

    epoch: int
    invoked: float
    completed: float
    by: str


class Taken(NamedTuple):
    """Entries that a member of the group was given."""

    invoked: float
    positions: list[int]


class Acked(NamedTuple):
    """Entries that a member of the group acknowledged, all of which counted."""

    invoked: float
    completed: float
    positions: list[int]


class Overall:
    """Collects facts of the operations; `check` then looks at all of them."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.grants: dict[str, list[Grant]] = defaultdict(list)
        self.leased: list[tuple[str, int, float, str]] = []  # key, epoch, invoked, name of commit
        self.stretches: list[tuple[int, int, int, str]] = []
        self.totals: list[tuple[str, int, int, str]] = []
        self.taken: list[Taken] = []
        self.acked: list[Acked] = []

    def take(self, done: Done) -> None:
        """Note what only one kind of operation has."""
        facts, by = done.facts, f"{done.kind} of worker {done.worker}, number {done.number}"
        add = self.findings.add
        if "grant" in facts:
            key, epoch, invoked, completed = facts["grant"]
            self.grants[key].append(Grant(epoch, invoked, completed, by))
            for piece in done.pieces:
                if piece.commit:
                    self.leased.append((key, epoch, piece.invoked, piece.commit))
        if facts.get("same") is False:
            add("answered differently the second time", by)
        if "gap" in facts:
            add("reader of the log missed entries", f"{by}: {facts['gap']}")
        if "log" in facts:
            after, upto, total = facts["log"]
            self.stretches.append((after, upto, total, by))
        if "total" in facts:
            self.totals.append((*facts["total"], by))
            key, version, length = facts["items"]
            if version != length:
                add("list is not what was appended", f"{by}: {key} version {version}: {length}")
        if "funds" in facts and done.outcome == ACKNOWLEDGED:
            self._funds(facts["funds"], by)
        if "taken" in facts:
            invoked, positions = facts["taken"]
            self.taken.append(Taken(invoked, positions))
            if "acked" in facts:
                invoked, completed, count = facts["acked"]
                if count == len(positions):
                    self.acked.append(Acked(invoked, completed, positions))

    def _funds(self, funds: int, by: str) -> None:
        if funds != plan.ACCOUNTS * plan.FUNDS:
            self.findings.add("money appears or disappears", f"{by} saw {funds} in all")

    def check(self, log: Log, spans: list[Span], epochs: dict[str, int]) -> None:
        """Check everything; `epochs` are those of the log's entries by the name of the commit."""
        self._check_time(spans)
        self._check_leases(epochs)
        self._check_readers(log)
        self._check_group(log)

    def _check_time(self, spans: list[Span]) -> None:
        """Who was answered before another one was sent comes before it in the log."""
        for position, at in _overtaken(spans):
            text = f"position {position} was answered before position {at} was sent"
            self.findings.add("order is not that of real time", text)

    def _check_leases(self, epochs: dict[str, int]) -> None:
        for key, grants in self.grants.items():
            grants.sort()
            for one, other in pairwise(grants):
                if one.epoch == other.epoch:
                    text = f"{key} epoch {one.epoch}: {one.by} and {other.by}"
                    self.findings.add("two have one lease", text)
        for key, epoch, invoked, name in self.leased:
            if epochs.get(name, epoch) != epoch:
                text = f"{name} wrote {key} with epoch {epoch}; the log has {epochs[name]}"
                self.findings.add("zombie wrote", text)
            for grant in reversed(self.grants[key]):
                if grant.epoch <= epoch:
                    break
                if grant.completed < invoked:
                    text = (
                        f"{name} wrote {key} with epoch {epoch} after {grant.by} had {grant.epoch}"
                    )
                    self.findings.add("zombie wrote", text)
                    break

    def _check_readers(self, log: Log) -> None:
        for after, upto, total, by in self.stretches:
            if upto > log.length or log.stamps[upto] - log.stamps[after] != total:
                text = f"{by}: entries {after + 1} to {upto}"
                self.findings.add("reader of the log saw another log", text)
        for key, version, total, by in self.totals:
            known = log.totals.get(key, [0])
            if version >= len(known) or known[version] != total:
                self.findings.add("sum is not what was counted", f"{by}: {key} version {version}")

    def _check_group(self, log: Log) -> None:
        delivered = {position for taken in self.taken for position in taken.positions}
        for position in sorted(log.jobs.keys() - delivered):
            self.findings.add("never delivered", f"position {position}: {log.jobs[position]}")
        by_key: dict[str, list[Span]] = defaultdict(list)
        done: dict[int, float] = {}
        for acked in self.acked:
            for position in acked.positions:
                if position in done:
                    self.findings.add("acknowledged twice", f"position {position}")
                done[position] = acked.completed
                key = log.jobs.get(position, "")
                by_key[key].append((position, acked.invoked, acked.completed))
        for taken in self.taken:
            for position in taken.positions:
                if done.get(position, float("inf")) < taken.invoked:
                    text = f"position {position}"
                    self.findings.add("delivered after it was acknowledged", text)
        for key, times in by_key.items():
            for position, at in _overtaken(times):
                text = f"{key}: position {position} was done before position {at}"
                self.findings.add("order of a key is not kept", text)


def _overtaken(spans: list[Span]) -> Iterator[tuple[int, int]]:
    """Yield each position that was completed before an earlier one was invoked, and that one."""
    latest, at = float("-inf"), 0
    for position, invoked, completed in sorted(spans):
        if completed < latest:
            yield position, at
        if invoked > latest:
            latest, at = invoked, position


# Kinds whose commits have an operation id that the library draws; their values tell whose they are.
DRAWN = ("append", "count", "step")


class Doubt(NamedTuple):
    """A commit that may have got no answer: its operation id, and how many entries it has."""

    name: str
    kind: str
    entries: int


class Tally:
    """What is counted over all windows."""

    def __init__(self, ended: float) -> None:
        self.ended = ended
        self.kinds: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.commits = 0
        self.doubtful: list[Doubt] = []
        self.applied = 0  # of the doubtful ones
        self.acknowledged = array("d")  # when
        self.spans: list[tuple[int, float, float]] = []  # position, invoked, completed of commits

    def take(self, done: Done, findings: Findings) -> None:
        """Count one operation."""
        self.kinds[done.kind] += 1
        self.outcomes[done.outcome] += 1
        if done.outcome == ACKNOWLEDGED:
            self.acknowledged.append(done.completed or 0.0)
        else:
            self.reasons[done.reason.partition(":")[0].removeprefix(UNEXPECTED)] += 1
        if done.reason.startswith(UNEXPECTED):
            text = f"{_told(done)}: {done.reason.removeprefix(UNEXPECTED)}"
            findings.add("unexpected error", text)


class Window:
    """The check of one window: its operations beside its entries of the log."""

    def __init__(self, lines: Iterable[Line], tally: Tally, findings: Findings) -> None:
        self.tally = tally
        self.findings = findings
        self.history: list[Operation] = []
        self._lines: dict[tuple[int, int], dict[str, list[Line]]] = defaultdict(dict)
        self._texts: dict[str, str] = {}
        for line in lines:
            parsed = parse_op_id(line.name)
            assert parsed is not None, "the log leaves out others"
            self._lines[parsed].setdefault(line.name, []).append(line)

    def take(self, done: Done) -> None:
        """Compare one operation with the log."""
        tally = self.tally
        tally.take(done, self.findings)
        found = self._lines.pop((done.worker, done.number), {})
        for piece in done.pieces:
            if piece.commit:
                piece = self._acknowledged(done, piece, found.pop(piece.commit, []))
            self._add(done, piece)
        for name, lines in found.items():
            self._not_acknowledged(done, name, lines)
        if done.outcome == UNKNOWN and not found and not done.pieces:
            tally.doubtful.append(Doubt(op_id(done.worker, done.number), done.kind, 0))

    def finish(self) -> None:
        """Look for entries that nobody asked for."""
        for by_name in self._lines.values():
            for lines in by_name.values():
                self.findings.add("nobody asked for it", _where(lines[0]))

    def _acknowledged(self, done: Done, piece: Piece, lines: list[Line]) -> Piece:
        """Compare a commit with its entries; return it with the versions that the log has."""
        self.tally.commits += 1
        writes = dict(piece.writes)
        keys = Counter(line.key for line in lines)
        for key, seen in piece.writes.items():
            if not keys[key]:
                text = f"{_told(done)}: {key} version {seen[0]} is not in the log"
                self.findings.add(LOST_WRITE, text)
        self._count_twice(done, keys)
        for line in lines:
            told = piece.writes.get(line.key)
            if told is None:
                self.findings.add("wrote more than it said", f"{_told(done)}: {_where(line)}")
            elif told[0] != line.version and keys[line.key] == 1:
                text = f"{_told(done)}: was told version {told[0]}; {_where(line)}"
                self.findings.add("answered another version", text)
                writes[line.key] = line.version, told[1]
        if lines:
            first = min(line.position for line in lines)
            self.tally.spans.append((first, piece.invoked, piece.completed))
        return piece._replace(writes=writes)

    def _not_acknowledged(self, done: Done, name: str, lines: list[Line]) -> None:
        where = f"{_told(done)}: {_where(lines[0])}"
        if done.outcome in (REFUSED, UNAVAILABLE):
            self.findings.add(REFUSED_WRITE, f"{where}; it was told {done.reason}")
            return
        if done.outcome == ACKNOWLEDGED:
            self.findings.add("wrote more than it said", where)
            return
        self.tally.doubtful.append(Doubt(name, done.kind, len(lines)))
        self.tally.applied += 1
        self._count_twice(done, Counter(line.key for line in lines))
        reads: dict[str, Seen] = {}
        for line in lines:
            reads[line.key] = line.version - 1, NOT_NOTED
        scans: dict[str, dict[str, Seen]] = {}
        for key, read in (lines[0].reads or {}).items():
            if isinstance(read, int):
                reads[key] = read, NOT_NOTED
            else:
                scans[key.removesuffix("*")] = {each: (n, NOT_NOTED) for each, n in read.items()}
        writes: dict[str, Seen] = {}
        for line in lines:
            writes[line.key] = line.version, None if line.deleted else name
        # It took effect at some time after it was sent: its entries are there.
        self._add(done, Piece(done.invoked, self.tally.ended, name, reads, writes, scans))
        self.tally.spans.append((lines[0].position, done.invoked, self.tally.ended))

    def _count_twice(self, done: Done, keys: Counter[str]) -> None:
        for key, count in keys.items():
            if count > 1:
                self.findings.add(TWICE, f"{_told(done)}: {count} entries of {key}")

    def _add(self, done: Done, piece: Piece) -> None:
        self.history.append(
            Operation(
                f"worker-{done.worker}",
                TXN,
                self._states(piece.reads),
                self._states(piece.writes),
                {
                    prefix: {key: states[0] for key, states in self._states(there).items()}
                    for prefix, there in piece.scans.items()
                },
                piece.invoked,
                piece.completed,
                OK,
                len(self.history) + 1,
                piece.commit,
            )
        )

    def _states(self, seen: dict[str, Seen]) -> dict[str, States]:
        return {key: (State(version, self._text(by)),) for key, (version, by) in seen.items()}

    def _text(self, by: str | None) -> str | None:
        if by is None:
            return ABSENT
        if by == NOT_NOTED:
            return None
        text = self._texts.get(by)
        if text is None:
            text = self._texts[by] = json.dumps(by)
        return text


def _told(done: Done) -> str:
    return f"{done.kind} {op_id(done.worker, done.number)}"


def _where(line: Line) -> str:
    return f"position {line.position} is {line.key} version {line.version} by {line.name}"


_DRAINED_WITHIN = 30.0  # seconds
_ALL = 1_000_000_000  # anomalies
_ASKED = 1000  # doubtful commits whose outcome the store is asked for


class Checked:
    """What the checks found."""

    def __init__(self, findings: Findings, tally: Tally, entries: int) -> None:
        self.findings = findings
        self.tally = tally
        self.entries = entries
        self.blind = self.blindly_destroyed = 0  # writes around a guard, and what they cost
        self.again = 0  # guarded creates that were applied again


def check(
    settings: Settings,
    space: interlock.Space,
    folder: Path,
    kept: Path | None,
    ended: float,
    progress: Callable[[int], None],
) -> Checked:
    """Check what the workers recorded in `folder` against the store.

    `kept` is a folder that the history of each window is written to.  `progress` is told how many
    windows are done.
    """
    findings = Findings()
    overall = Overall(findings)
    log = Log(settings, folder, findings)
    tally = Tally(ended)
    _drain(space, overall, findings)
    log.read(space.log())
    check_records(log, space.scan())
    epochs: dict[str, int] = {}
    for number in range(settings.windows):
        lines = log.window(number)
        epochs.update((line.name, line.epoch) for line in lines if line.key.startswith("leases/"))
        window = Window(lines, tally, findings)
        for done in read_window(folder, number, settings.workers):
            window.take(done)
            overall.take(done)
        window.finish()
        _check_history(window.history, number, findings)
        if kept is not None:
            write_history(kept / f"history-{number}.jsonl", window.history)
        progress(number + 1)
    overall.check(log, tally.spans, epochs)
    _check_doubtful(space, tally, findings)
    return Checked(findings, tally, log.length)


def _check_history(history: list[Operation], number: int, findings: Findings) -> None:
    verdicts = (
        check_linearizable(history, limit=_ALL),
        check_serializable(history, strict=True, limit=_ALL),
    )
    for verdict in verdicts:
        for anomaly in verdict.anomalies:
            findings.add(anomaly.name, f"window {number}: {anomaly}")
        findings.undecided += [f"window {number}: {reason}" for reason in verdict.undecided]


def _drain(space: interlock.Space, overall: Overall, findings: Findings) -> None:
    """Take what is left of the group, as one more member, until nothing is."""
    ends = time.monotonic() + _DRAINED_WITHIN
    with space.group(GROUP, prefix=GROUP_PREFIX, ttl=plan.GROUP_TTL) as group:
        while True:
            began = time.monotonic()
            taken = group.take(1000, wait=0.2)
            overall.taken.append(Taken(began, [each.entry.position for each in taken]))
            group.ack(*taken)
            info = group.info()
            if not taken and info.cursor >= info.head and not info.pending:
                return
            if time.monotonic() > ends:
                left = len(info.pending)
                findings.add("never delivered", f"the group still has {left} entries", left)
                return


def _check_doubtful(space: interlock.Space, tally: Tally, findings: Findings) -> None:
    """Ask the store what became of commits whose answer was lost, and compare with the log."""
    for doubt in tally.doubtful[:_ASKED]:
        outcome = space.outcome(doubt.name)
        told = len(outcome.writes) if outcome else 0
        if told != doubt.entries and doubt.kind not in DRAWN:
            text = f"{doubt.name}: {doubt.entries} entries in the log, outcome says {told}"
            findings.add("outcome is not what the log says", text)
