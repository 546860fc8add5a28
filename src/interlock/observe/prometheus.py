"""The metrics of every space of the process for Prometheus: `prometheus.register()`.

The labels are space, agent and kind (of refusal or fault).  They never hold keys: at most 100
spaces and 100 agents each are named, and the rest counts together as `(others)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from interlock.errors import Invalid
from interlock.extras import needs
from interlock.observe.counters import TOTALS
from interlock.observe.metrics import Distribution, Metrics, metrics_of

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

_COUNTERS = {
    "thoughts": "Calls of functions of updates, transactions and steps.",
    "thought_commits": "Updates, transactions and steps that were committed.",
    "busy_seconds": "Time in updates, transactions and steps.",
    "lost_seconds": "Of the busy time: thoughts that were refused, and waiting for turns.",
    "reclaims": "Leases that were taken away, and agent names that were taken over.",
    "reconnects": "Requests that were answered when they were sent again.",
}
_GAUGES = {
    "waiting": "Agents that wait for a turn or a lease now.",
    "leases": "Leases that are held now.",
    "lease_age": "Seconds for which the oldest of the leases is held.",
}
_HISTOGRAMS = {
    "commit_seconds": "How long commits took.",
    "thoughts_per_commit": "Calls of the function for each update, transaction or step.",
    "turn_seconds": "How long agents waited for their turns.",
    "queue_lengths": "How many were ahead of an agent that joined a queue.",
    "lease_seconds": "How long leases were held that have ended.",
}


class Collector:
    """Collects the metrics of all spaces of this process, those that are closed included."""

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        spaces = [metrics_of(name, counts) for name, counts in TOTALS.by_space().items()]
        yield from self._families(spaces)

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without what they count, for the registry to see their names."""
        yield from self._families([])

    @staticmethod
    def _families(spaces: list[Metrics]) -> Iterator[Metric]:
        with needs("prometheus-client", "prometheus"):
            from prometheus_client.core import (
                CounterMetricFamily,
                GaugeMetricFamily,
                HistogramMetricFamily,
            )
        commits = CounterMetricFamily("interlock_commits", "Commits.", labels=("space", "agent"))
        refusals = CounterMetricFamily(
            "interlock_refusals", "Refused commits.", labels=("space", "agent", "kind")
        )
        faults = CounterMetricFamily(
            "interlock_faults", "Faults of the store.", labels=("space", "kind")
        )
        for each in spaces:
            for agent, count in each.commits.items():
                commits.add_metric((each.space, agent), count)
            for agent, kinds in each.refusals.items():
                for kind, count in kinds.items():
                    refusals.add_metric((each.space, agent, kind), count)
            for kind, count in each.faults.items():
                faults.add_metric((each.space, kind), count)
        yield from (commits, refusals, faults)
        yield from _by_space(CounterMetricFamily, _COUNTERS, spaces)
        yield from _by_space(GaugeMetricFamily, _GAUGES, spaces)
        for name, text in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"interlock_{name}", text, labels=("space",))
            for each in spaces:
                found: Distribution = getattr(each, name)
                family.add_metric((each.space,), _buckets(found), found.sum)
            yield family


def register(registry: CollectorRegistry | None = None) -> Collector:
    """Add the metrics of every space of this process to a registry (None: the default one).

    `registry.unregister(collector)` takes them out again.  Raises Invalid if they are there
    already, NotInstalled.
    """
    with needs("prometheus-client", "prometheus"):
        from prometheus_client import REGISTRY
    collector = Collector()
    try:
        (REGISTRY if registry is None else registry).register(collector)
    except ValueError as problem:
        raise Invalid("Interlock's metrics are in this registry already.") from problem
    return collector


def _by_space(family: Any, names: dict[str, str], spaces: list[Metrics]) -> Iterator[Metric]:
    for name, text in names.items():
        metric = family(f"interlock_{name}", text, labels=("space",))
        for each in spaces:
            metric.add_metric((each.space,), getattr(each, name))
        yield metric


def _buckets(found: Distribution) -> list[tuple[str, float]]:
    """Return the numbers up to each bound, as Prometheus counts them."""
    buckets, upto = [], 0
    for bound, count in zip((*found.bounds, float("inf")), found.counts, strict=True):
        upto += count
        buckets.append(("+Inf" if bound == float("inf") else str(bound), float(upto)))
    return buckets
