"""Compares what the workers were told with the log, commit by commit, and makes a history of it."""

from __future__ import annotations

import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from interlock.verify.histories.operations import ABSENT, OK, TXN, Operation, State, States
from interlock.verify.torture.acting import NOT_NOTED
from interlock.verify.torture.findings import LOST_WRITE, REFUSED_WRITE, TWICE, Findings
from interlock.verify.torture.logged import Line
from interlock.verify.torture.plan import op_id, parse_op_id
from interlock.verify.torture.recording import (
    ACKNOWLEDGED,
    REFUSED,
    UNAVAILABLE,
    UNKNOWN,
    Done,
    Piece,
    Seen,
)
from interlock.verify.torture.worker import UNEXPECTED

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
        tally.kinds[done.kind] += 1
        tally.outcomes[done.outcome] += 1
        if done.outcome == ACKNOWLEDGED:
            tally.acknowledged.append(done.completed or 0.0)
        else:
            tally.reasons[done.reason.partition(":")[0].removeprefix(UNEXPECTED)] += 1
        if done.reason.startswith(UNEXPECTED):
            text = f"{_told(done)}: {done.reason.removeprefix(UNEXPECTED)}"
            self.findings.add("unexpected error", text)
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
