"""The graph of dependencies between transactions: who must come before whom, and why.

Its edges are those of Adya ("Weak Consistency: A Generalized Theory", 1999): `ww`, `wr` and `rw`;
and `rt` for real time.  That a history of which the versions are known is serializable exactly
where the graph has no cycle is due to him, too; to look for cycles in what clients recorded, to
Elle (Kingsbury and Alvaro, 2020).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from interlock.verify.histories.operations import OK
from interlock.verify.histories.versions import Versions


class Edge(NamedTuple):
    """One dependency of a transaction on the transaction `after`, both by number."""

    after: int
    kind: str
    key: str
    scan: str | None = None


class Graph:
    """The dependencies of a history.  `strict` adds real time.

    `following` holds the numbers that follow each number.  For real time there is a further
    number for each completion, in the order of time: it follows what completed, and the next
    completion and what was invoked later follow it.  So n transactions need few edges.
    """

    def __init__(self, versions: Versions, strict: bool) -> None:
        self.versions = versions
        self.strict = strict
        self.size = len(versions.nodes)
        self.following = [list({e.after for e in self.edges(n)}) for n in range(self.size)]
        if strict:
            self._add_time()

    def edges(self, node: int) -> Iterator[Edge]:
        """Yield the dependencies by what `node` wrote and read."""
        versions = self.versions
        for line, version in versions.writes[node]:
            for following in line.after.get(version, ()):
                if (writer := line.writer[following]) != node:
                    yield Edge(writer, "ww", line.name)
            for reader in line.readers.get(version, ()):
                if reader != node:
                    yield Edge(reader, "wr", line.name)
        for line, version, scan in versions.reads[node]:
            for following in line.after.get(version, ()):
                if (writer := line.writer[following]) != node:
                    yield Edge(writer, "rw", line.name, scan)

    def precedes(self, node: int, other: int) -> bool:
        """Say whether a transaction had completed before another one was invoked."""
        operation = self.versions.nodes[node]
        if not self.strict or operation.outcome != OK or operation.completed is None:
            return False
        return operation.completed < self.versions.nodes[other].invoked

    def _add_time(self) -> None:
        ended = []
        for node, operation in enumerate(self.versions.nodes):
            if operation.outcome == OK and operation.completed is not None:
                ended.append((operation.completed, node))
        ended.sort()
        times = [time for time, _ in ended]
        for at, (_, node) in enumerate(ended):
            self.following[node].append(self.size + at)
            self.following.append([self.size + at + 1] if at + 1 < len(ended) else [])
        for node, operation in enumerate(self.versions.nodes):
            before = bisect_left(times, operation.invoked)
            if before:
                self.following[self.size + before - 1].append(node)
