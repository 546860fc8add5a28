"""The metrics as Prometheus reads them, of the three agents of the example."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import interlock
from interlock.observe import observer, prometheus
from interlock.observe.counters import Totals
from tests.repository import ROOT


@pytest.fixture(autouse=True)
def _no_other_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many spaces are named, and other tests have opened more."""
    totals = Totals()
    monkeypatch.setattr(observer, "TOTALS", totals)
    monkeypatch.setattr(prometheus, "TOTALS", totals)


@pytest.fixture
def three_agents(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    yield importlib.import_module("three_agents")
    sys.modules.pop("three_agents")


def samples(registry: CollectorRegistry, space: str) -> dict[Any, float]:
    """Return the samples of a space by name and the other labels, from the text as it is served."""
    return {
        (
            sample.name,
            *(value for name, value in sorted(sample.labels.items()) if name != "space"),
        ): (sample.value)
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if sample.labels["space"] == space
    }


@pytest.mark.usefixtures("long_thoughts")
def test_the_three_agents_are_counted(three_agents: Any, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    prometheus.register(registry)
    found = three_agents.main(f"sqlite:///{tmp_path / 'store.db'}")
    read = samples(registry, found["metrics"].space)
    assert read["interlock_commits_total", "researcher"] == 3
    assert read["interlock_commits_total", "writer"] == 4
    assert read["interlock_commits_total", "critic"] == 1
    assert read["interlock_refusals_total", "critic", "Conflict"] == 1
    assert read["interlock_thoughts_total",] == 6
    assert read["interlock_thought_commits_total",] == 5
    assert read["interlock_commit_seconds_count",] == 8
    assert read["interlock_commit_seconds_bucket", "+Inf"] == 8
    assert read["interlock_thoughts_per_commit_bucket", "1.0"] == 4
    assert read["interlock_thoughts_per_commit_bucket", "2.0"] == 5
    assert read["interlock_turn_seconds_count",] == 1
    assert read["interlock_waiting",] == read["interlock_leases",] == 0
    assert 0 < read["interlock_lost_seconds_total",] < read["interlock_busy_seconds_total",]


def test_no_label_holds_a_key(three_agents: Any, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    collector = prometheus.register(registry)
    three_agents.main(f"sqlite:///{tmp_path / 'store.db'}")
    text = generate_latest(registry).decode()
    assert "report" not in text
    assert "findings" not in text
    registry.unregister(collector)
    assert generate_latest(registry) == b""


def test_a_registry_has_them_once() -> None:
    registry = CollectorRegistry()
    collector = prometheus.register(registry)
    with pytest.raises(interlock.Invalid, match="already"):
        prometheus.register(registry)
    registry.unregister(collector)
    prometheus.register(registry)


def test_a_lease_and_a_fault_are_shown_while_the_space_is_open() -> None:
    registry = CollectorRegistry()
    prometheus.register(registry)
    with interlock.open("sqlite://", space="leased-here") as space, space.lease("k"):
        space.session.driver.observer.failed("us", interlock.Unavailable("away"))
        read = samples(registry, "leased-here")
    assert read["interlock_leases",] == 1
    assert read["interlock_lease_age",] > 0
    assert read["interlock_faults_total", "Unavailable"] == 1
