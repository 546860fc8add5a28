"""Serializability of transactions: looks for cycles of dependencies, and names what they are."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, product
from typing import NamedTuple

from interlock.verify.histories.cycles import components, in_order, shortest_cycle
from interlock.verify.histories.dependencies import Edge, Graph
from interlock.verify.histories.operations import Operation
from interlock.verify.histories.verdicts import Anomaly, Dependency, Verdict
from interlock.verify.histories.versions import Versions

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
