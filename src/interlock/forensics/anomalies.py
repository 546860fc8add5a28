"""Finds the four anomalies in a trace, and the level that each session of it holds.

Definitions of S. Khan, arXiv 2606.17182.  Time is near-linear in the length of the trace: writes
are indexed per key by time, and cascades are found by one walk over the dependencies.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from interlock import Json
from interlock.forensics.operations import BadTrace, Operation
from interlock.forensics.stale import Texts, Uses

STALE = "stale generation"
CASCADE = "causal cascade"
REORDERING = "tool-effect reordering"
PHANTOM = "phantom tool"
# Each level excludes one more: L1 the first, L4 all.
LADDER = (STALE, CASCADE, REORDERING, PHANTOM)
_LONGEST = 60  # characters of a value in a sentence


class Anomaly(NamedTuple):
    """One anomaly.  `kind` is one of the four, `operations` the ids, the guilty one first.

    `agents` made them.  `read_time` and `write_time` are those of the first operation, `other_time`
    is the write time of the second.  `shown` are JSON texts: the value read and the one
    written in between, or the effects as intended and as committed.  `through` is the predecessor
    by which an operation depends on an aborted one, where it is another.  `more` counts further
    writes of other agents that made the same read stale.
    """

    kind: str
    session: str
    operations: tuple[str, ...]
    agents: tuple[str, ...]
    read_time: float
    write_time: float
    key: str | None = None
    tool: str | None = None
    other_time: float | None = None
    shown: tuple[str, ...] = ()
    through: str | None = None
    more: int = 0

    @property
    def sentence(self) -> str:
        """The anomaly in words."""
        who = f"{self.operations[0]!r} of agent {self.agents[0]!r}"
        span = f"read at {self.read_time}", f"wrote at {self.write_time}"
        shown = [text if len(text) <= _LONGEST else f"{text[:57]}..." for text in self.shown]
        if self.kind == STALE:
            other = f"{self.operations[1]!r} of agent {self.agents[1]!r}"
            more = f", and {self.more} more wrote it meanwhile" if self.more else ""
            return (
                f"{who} read {self.key!r} as {shown[0]} (it {span[0]}) and {span[1]}, but {other} "
                f"wrote {shown[1]} to it at {self.other_time}{more}"
            )
        if self.kind == CASCADE:
            other = f"{self.operations[1]!r} of agent {self.agents[1]!r}"
            through = f", through {self.through!r}" if self.through is not None else ""
            return f"{who} stands, but depends on {other}, which was aborted{through}"
        if self.kind == PHANTOM:
            return (
                f"{who} planned to call {self.tool!r}, which it saw when it {span[0]} and which "
                f"was gone when it {span[1]}"
            )
        return f"{who} committed its effects as {shown[1]}, but intended {shown[0]}"

    def to_json(self) -> dict[str, Json]:
        """Return the anomaly as an object; what does not apply is left out."""
        shown = {name: value for name, value in self._asdict().items() if value not in (None, ())}
        if not self.more:
            del shown["more"]
        return shown | {"sentence": self.sentence}


class SessionReport(NamedTuple):
    """What was found in one session: how many of each kind, and its level, 0 to 4.

    `unseen` are the kinds for which the session recorded nothing that could have shown them.
    """

    session: str
    operations: int
    level: int
    found: dict[str, int]
    unseen: tuple[str, ...]


class Report(NamedTuple):
    """What was found in a trace: its sessions in order, and the anomalies, session by session."""

    operations: int
    sessions: tuple[SessionReport, ...]
    anomalies: tuple[Anomaly, ...]


def find_anomalies(operations: Iterable[Operation], name: str = "trace") -> Report:
    """Find every anomaly of a trace.

    A stale read is reported once per operation and key, with the first write that made it stale
    and the number of others; an operation that stands on an aborted one is reported once, with the
    nearest.  `name` is what errors call the trace.

    Raises BadTrace where two operations of a session have one id, or a predecessor is not there.
    """
    sessions: dict[str, _Session] = {}
    count = 0
    for count, operation in enumerate(operations, 1):
        session = sessions.get(operation.session)
        if session is None:
            session = sessions[operation.session] = _Session(operation.session, name)
        session.add(operation, count)
    anomalies: list[Anomaly] = []
    reports = []
    for session in sessions.values():
        found = [each for _, each in sorted(session.found(), key=lambda pair: pair[0])]
        anomalies += found
        reports.append(session.report(Counter(each.kind for each in found)))
    return Report(count, tuple(reports), tuple(anomalies))


class _Session:
    """One session's operations, as far as the detectors need them."""

    def __init__(self, name: str, trace: str) -> None:
        self._name = name
        self._trace = trace
        self._ids: dict[str, int] = {}
        self._lines = array("q")
        self._agents: list[str] = []
        self._times: list[tuple[float, float]] = []
        self._texts = Texts()
        self._uses: dict[str, Uses] = {}
        self._edges: tuple[array[int], array[int]] = (array("q"), array("q"))
        self._pending: list[tuple[int, str]] = []  # predecessors that may come later in the trace
        self._aborted: list[int] = []
        self._local: list[tuple[int, Anomaly]] = []  # phantom tools and reorderings
        self._seen: set[str] = set()

    def add(self, operation: Operation, line: int) -> None:
        """Take in the next operation, `line` being its place in the trace."""
        at = len(self._agents)
        if self._ids.setdefault(operation.id, at) != at:
            first = self._lines[self._ids[operation.id]]
            step = f"line {first} has it too; give each operation of a session its own"
            problem = f"is there twice in session {self._name!r}"
            raise BadTrace(self._trace, line, "id", operation.id, problem, step)
        self._lines.append(line)
        self._agents.append(self._texts.same(operation.agent))
        self._times.append((operation.read_time, operation.write_time))
        for key, value in operation.read_set.items():
            self._use(key).read(at, self._texts.of(value), operation.read_times.get(key))
        for key, value in operation.write_set.items():
            self._use(key).wrote(at, self._texts.of(value))
        self._depend(at, operation)
        self._tools(at, operation)
        self._effects(at, operation)
        if operation.read_set:
            self._seen.add(STALE)

    def found(self) -> Iterator[tuple[tuple[int, int, str], Anomaly]]:
        """Yield each anomaly with its place in the report."""
        places = {kind: place for place, kind in enumerate(LADDER)}
        for at, anomaly in (*self._local, *self._stale(), *self._cascades()):
            yield (at, places[anomaly.kind], anomaly.key or anomaly.tool or ""), anomaly

    def report(self, found: Counter[str]) -> SessionReport:
        """Return the session's report, given how many anomalies of each kind it has."""
        level = next((at for at, kind in enumerate(LADDER) if found[kind]), len(LADDER))
        unseen = tuple(kind for kind in LADDER if kind not in self._seen)
        return SessionReport(self._name, len(self._agents), level, dict(found), unseen)

    def _use(self, key: str) -> Uses:
        uses = self._uses.get(key)
        if uses is None:
            uses = self._uses[key] = Uses()
        return uses

    def _depend(self, at: int, operation: Operation) -> None:
        if operation.aborted:
            self._aborted.append(at)
        for id in operation.predecessors:
            before = self._ids.get(id)
            if before is None:
                self._pending.append((at, id))
            else:
                self._edges[0].append(before)
                self._edges[1].append(at)
            self._seen.add(CASCADE)

    def _tools(self, at: int, operation: Operation) -> None:
        if not operation.planned_tools:
            return
        self._seen.add(PHANTOM)
        gone = set(operation.tools_at_read).difference(operation.tools_at_write)
        for tool in dict.fromkeys(operation.planned_tools):
            if tool in gone:
                self._local.append((at, self._anomaly(PHANTOM, operation, tool=tool)))

    def _effects(self, at: int, operation: Operation) -> None:
        intended = [self._texts.of(effect) for effect in operation.intended_effects]
        if len(intended) < 2:
            return
        self._seen.add(REORDERING)
        committed = [self._texts.of(effect) for effect in operation.committed_effects]
        if intended != committed and sorted(intended) == sorted(committed):
            shown = tuple(f"[{', '.join(effects)}]" for effects in (intended, committed))
            self._local.append((at, self._anomaly(REORDERING, operation, shown=shown)))

    def _anomaly(self, kind: str, operation: Operation, **details: Any) -> Anomaly:
        return Anomaly(
            kind,
            self._name,
            (operation.id,),
            (operation.agent,),
            operation.read_time,
            operation.write_time,
            **details,
        )

    def _stale(self) -> Iterator[tuple[int, Anomaly]]:
        ids = list(self._ids)
        for key, uses in self._uses.items():
            for stale in uses.stale(self._times, self._agents):
                at, other = stale.reader, stale.writer
                yield (
                    at,
                    Anomaly(
                        STALE,
                        self._name,
                        (ids[at], ids[other]),
                        (self._agents[at], self._agents[other]),
                        stale.read_time,
                        self._times[at][1],
                        key=key,
                        other_time=self._times[other][1],
                        shown=(stale.value_read, stale.value_written),
                        more=stale.writes - 1,
                    ),
                )

    def _cascades(self) -> Iterator[tuple[int, Anomaly]]:
        """Walk from all aborted operations at once, so that each meets its nearest one first."""
        for at, id in self._pending:
            if id not in self._ids:
                step = f"name an operation of session {self._name!r}, or leave it out"
                problem = "names an operation that is not in the trace"
                raise BadTrace(self._trace, self._lines[at], "predecessors", id, problem, step)
        after: dict[int, list[int]] = {}
        for before, at in (*zip(*self._edges, strict=True), *self._later()):
            after.setdefault(before, []).append(at)
        ids = list(self._ids)
        nearest = {at: at for at in self._aborted}
        walk = deque(self._aborted)
        while walk:
            before = walk.popleft()
            for at in after.get(before, ()):
                if at in nearest:
                    continue
                root = nearest[at] = nearest[before]
                walk.append(at)
                yield (
                    at,
                    Anomaly(
                        CASCADE,
                        self._name,
                        (ids[at], ids[root]),
                        (self._agents[at], self._agents[root]),
                        *self._times[at],
                        other_time=self._times[root][1],
                        through=None if before == root else ids[before],
                    ),
                )

    def _later(self) -> Iterator[tuple[int, int]]:
        return ((self._ids[id], at) for at, id in self._pending)
