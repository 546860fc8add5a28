"""Serializability of transactions: looks for cycles of dependencies, and names what they are.

The graph says who must come before whom, and why.  Its edges are those of Adya ("Weak Consistency:
A Generalized Theory", 1999): `ww`, `wr` and `rw`; and `rt` for real time.  That a history of which
the versions are known is serializable exactly where the graph has no cycle is due to him, too; to
look for cycles in what clients recorded, to Elle (Kingsbury and Alvaro, 2020).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from itertools import count, islice, product
from typing import NamedTuple

from interlock.verify.histories.history import OK, Anomaly, Dependency, Operation, Verdict
from interlock.verify.histories.versions import Versions

Following = Sequence[Sequence[int]]


def components(following: Following) -> list[list[int]]:
    """Return the strongly connected components of more than one node, by Tarjan's algorithm.

    `following` holds the nodes that follow each node.  Source: Tarjan, "Depth-First Search and
    Linear Graph Algorithms" (1972), here without recursion.
    """
    unseen, closed = 0, len(following) + 1
    found: list[list[int]] = []
    # The order in which a node was met, then the least such number that it leads back to.
    low = [unseen] * len(following)
    numbers = count(1)
    for root in range(len(following)):
        if low[root]:
            continue
        low[root] = number = next(numbers)
        waiting = [root]
        walk = [(root, number, iter(following[root]))]
        while walk:
            node, met, rest = walk[-1]
            for other in rest:
                if low[other] == unseen:
                    low[other] = number = next(numbers)
                    waiting.append(other)
                    walk.append((other, number, iter(following[other])))
                    break
                if low[other] < low[node]:
                    low[node] = low[other]
            else:
                walk.pop()
                if walk and low[node] < low[walk[-1][0]]:
                    low[walk[-1][0]] = low[node]
                if low[node] == met:
                    at = len(waiting) - 1
                    while waiting[at] != node:
                        at -= 1
                    component = waiting[at:]
                    del waiting[at:]
                    for each in component:
                        low[each] = closed
                    if len(component) > 1:
                        found.append(component)
    return found


def shortest_cycle(following: Following, start: int, within: set[int], free: int) -> list[int]:
    """Return a shortest cycle through `start` that stays `within` a set, empty if there is none.

    Nodes from `free` on cost nothing and are left out of the cycle that is returned.
    """
    came: dict[int, int] = {}
    cost = {start: 0}
    todo = deque([start])
    settled = set[int]()
    while todo:
        node = todo.popleft()
        if node in settled:
            continue
        settled.add(node)
        for other in following[node]:
            if other not in within:
                continue
            if other == start:
                path = [node]
                while path[-1] != start:
                    path.append(came[path[-1]])
                return [each for each in reversed(path) if each < free]
            further = cost[node] + (other < free)
            if further < cost.get(other, further + 1):
                cost[other] = further
                came[other] = node
                if other < free:
                    todo.append(other)
                else:
                    todo.appendleft(other)
    return []


def in_order(following: Following, priority: Sequence[float]) -> list[int]:
    """Return the nodes of a graph without cycles in an order of it, those of low priority first."""
    waits = [0] * len(following)
    for others in following:
        for other in others:
            waits[other] += 1
    ready = [(priority[node], node) for node, number in enumerate(waits) if not number]
    heapify(ready)
    order = []
    while ready:
        _, node = heappop(ready)
        order.append(node)
        for other in following[node]:
            waits[other] -= 1
            if not waits[other]:
                heappush(ready, (priority[other], other))
    return order


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


# What each name means; of several that a cycle could have, the first.
NAMES = {
    "dirty write": "each overwrote the other",
    "cyclic information flow": "each saw, or overwrote, what the other did",
    "lost update": "a write was overwritten by one that had not seen it",
    "read skew": "one read a state from before the other, and comes after it all the same",
    "write skew": "each read what another one then overwrote",
    "phantom": "a scan did not show a key that another one made",
    "stale read": "a read did not show what had been completed before it",
    "real-time violation": "the order of effects is not that of real time",
}
_RANKS = {name: rank for rank, name in enumerate(NAMES)}
_SEARCHES = 1_000  # for cycles, in one history; each component has one at least
_COMBINATIONS = 200  # of reasons, tried for the name of one cycle


def check_serializable(
    history: Iterable[Operation], *, strict: bool = False, limit: int = 10
) -> Verdict:
    """Check that the operations could have run one after the other, each as one step.

    Works on recorded versions: whoever wrote a version comes before whoever read it and before
    whoever wrote the next one; whoever read a version comes before whoever wrote the next one.
    The history is serializable exactly where nobody comes before himself.  With `strict`, who
    completed comes before who was invoked later, too (strict serializability).

    Reads and writes of single keys count as transactions of one operation.  One that failed must
    not be read from; one whose outcome is unknown counts if what it wrote was read.  Where
    versions were not recorded, values stand for them if each is written once and after reading
    the one before; where that is not enough, the key is in `undecided`.

    At most `limit` anomalies are returned, the shortest first.  Names: `dirty read`,
    `intermediate read`, `garbage read`, `duplicate version`, and those of cycles: `dirty write`,
    `cyclic information flow`, `lost update`, `read skew`, `write skew`, `phantom`, and with
    `strict` also `stale read` and `real-time violation`.  Raises ValueError for a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    history = list(history)
    versions = Versions(history)
    graph = Graph(versions, strict)
    cyclic = components(graph.following)
    anomalies = versions.anomalies + _cycles(graph, cyclic)
    undecided = list(versions.undecided)
    if not anomalies and not _scans_fit(graph):
        keys = ", ".join(sorted({unsure.line.name for unsure in versions.unsure})[:3])
        undecided.append(
            f"{keys}: deleted at one time, and a scan without it does not say at which version"
        )
    anomalies.sort(key=lambda found: (len(found.operations), _RANKS.get(found.name, -1)))
    model = "strictly serializable" if strict else "serializable"
    shown = tuple(anomalies[:limit])
    return Verdict(model, len(history), shown, tuple(undecided), len(anomalies))


def _cycles(graph: Graph, cyclic: list[list[int]]) -> list[Anomaly]:
    """Return a short cycle through each transaction that is on one, where others do not show it."""
    found: list[Anomaly] = []
    searches = 0
    for component in cyclic:
        within = set(component)
        transactions = [node for node in component if node < graph.size]
        reasons = _Reasons(graph, within)
        covered = set[int]()
        for node in transactions:
            if node in covered or (covered and searches > _SEARCHES):
                continue
            searches += 1
            nodes = shortest_cycle(graph.following, node, within, graph.size)
            # One that shares two with another cycle is mostly that cycle with a detour.
            if nodes and len(covered.intersection(nodes)) < 2:
                found.append(_anomaly(graph, reasons.named(nodes)))
            covered.update(nodes)
    return found


class _Cycle(NamedTuple):
    """A cycle of transactions, why each precedes the next one (the last: the first), its name."""

    nodes: tuple[int, ...]
    edges: tuple[Edge, ...]
    name: str


class _Reasons:
    """Why one transaction comes before another one, within a component."""

    def __init__(self, graph: Graph, within: set[int]) -> None:
        self.graph = graph
        self.within = within
        self.known: dict[int, dict[int, list[Edge]]] = {}

    def after(self, node: int) -> dict[int, list[Edge]]:
        """Return the dependencies on `node` by what was read and written, by transaction."""
        if node not in self.known:
            grouped: dict[int, list[Edge]] = {}
            for edge in self.graph.edges(node):
                if edge.after in self.within:
                    grouped.setdefault(edge.after, []).append(edge)
            self.known[node] = grouped
        return self.known[node]

    def between(self, node: int, other: int) -> list[Edge]:
        """Return why `node` comes before `other`."""
        edges = self.after(node).get(other, [])
        return edges or ([Edge(other, "rt", "")] if self.graph.precedes(node, other) else [])

    def named(self, nodes: list[int]) -> _Cycle:
        """Return a cycle with the reasons that give it the first of the names it could have."""
        steps = zip(nodes, [*nodes[1:], nodes[0]], strict=True)
        reasons = [self.between(node, other) for node, other in steps]
        best = min(islice(product(*reasons), _COMBINATIONS), key=lambda edges: _RANKS[_name(edges)])
        return _Cycle(tuple(nodes), best, _name(best))


def _name(edges: tuple[Edge, ...]) -> str:
    kinds = [edge.kind for edge in edges]
    reads_before = kinds.count("rw")
    if "rt" in kinds:
        return "stale read" if reads_before == 1 and len(edges) == 2 else "real-time violation"
    if any(edge.scan is not None for edge in edges):
        return "phantom"
    if not reads_before:
        return "cyclic information flow" if "wr" in kinds else "dirty write"
    if "wr" not in kinds and len({edge.key for edge in edges}) == 1:
        return "lost update"
    return "read skew" if reads_before == 1 else "write skew"


def _anomaly(graph: Graph, cycle: _Cycle) -> Anomaly:
    """Return a cycle as it is reported: from the operation that was invoked first."""
    operations = [graph.versions.nodes[node] for node in cycle.nodes]
    first = min(
        range(len(operations)), key=lambda at: (operations[at].invoked, operations[at].line)
    )
    operations = operations[first:] + operations[:first]
    edges = cycle.edges[first:] + cycle.edges[:first]
    steps = zip(edges, operations, [*operations[1:], operations[0]], strict=True)
    dependencies = tuple(
        Dependency(edge.kind, edge.key, before, after, edge.scan) for edge, before, after in steps
    )
    keys = tuple(dict.fromkeys(edge.key for edge in edges if edge.key))
    return Anomaly(cycle.name, keys, tuple(operations), dependencies, NAMES[cycle.name])


def _scans_fit(graph: Graph) -> bool:
    """Say whether scans without a deleted key fit an order of the transactions that is found.

    Where the order does not fit, another one might.
    """
    unsure: dict[int, list[tuple[str, frozenset[int]]]] = {}
    for reader, line, allowed in graph.versions.unsure:
        unsure.setdefault(reader, []).append((line.name, allowed))
    if not unsure:
        return True
    nodes = graph.versions.nodes
    times = [node.invoked if node.completed is None else node.completed for node in nodes]
    times += [min(times)] * (len(graph.following) - len(nodes))
    now: dict[str, int] = {}
    for node in in_order(graph.following, times):
        if node < graph.size:
            if any(now.get(key, 0) not in allowed for key, allowed in unsure.get(node, ())):
                return False
            now.update({line.name: version for line, version in graph.versions.writes[node]})
    return True
