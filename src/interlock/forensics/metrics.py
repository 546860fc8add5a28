"""What a watcher has found, for Prometheus.  No label holds a key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from interlock.errors import Unavailable
from interlock.extras import needs
from interlock.forensics.monitor import KINDS, Watcher

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class WatcherCollector:
    """Collects the figures of a watcher."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        watcher = self._watcher
        for name, text, counts in (
            ("findings", "What was found, by kind.", watcher.found),
            ("alerts", "Alerts that were raised, by kind.", watcher.raised),
        ):
            family = CounterMetricFamily(f"interlock_monitor_{name}", text, labels=("kind",))
            for kind in KINDS:
                family.add_metric((kind,), counts[kind])
            yield family
        for name, text, value in (
            ("up", "Whether the source answers.", int(watcher.away is None)),
            ("longest_queue", "Agents in the longest queue now.", watcher.longest_queue),
            ("hanging_leases", "Leases that expired and were not given up.", watcher.hanging),
        ):
            yield GaugeMetricFamily(f"interlock_monitor_{name}", text, value=value)


@contextmanager
def serving_metrics(watcher: Watcher, host: str, port: int) -> Iterator[int]:
    """Serve the metrics of a watcher at `/metrics`; yields the port.

    Raises Unavailable, NotInstalled.
    """
    with needs("prometheus-client", "prometheus"):
        from prometheus_client import CollectorRegistry, start_http_server
    registry = CollectorRegistry()
    registry.register(WatcherCollector(watcher))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as problem:
        raise Unavailable(f"Can't listen on {host}:{port}: {problem.strerror}") from problem
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
