"""What is counted: whole over threads and closed spaces, bounded in names."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import interlock
from interlock.observe import counters
from interlock.observe.counters import OTHERS, Counters, Totals
from interlock.observe.metrics import metrics_of


def test_nothing_is_lost_between_threads_and_while_somebody_looks() -> None:
    counts = Counters()

    def work(agent: str) -> None:
        for n in range(2000):
            counts.committed(agent, 0.002)
            counts.thought(2, True, 1.0, 0.5)
            if n % 100 == 0:
                metrics_of("s", counts)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, ("a", "b", "a", "b")))
    found = metrics_of("s", counts)
    assert found.commits == {"a": 4000, "b": 4000}
    assert found.commit_seconds.count == found.thought_commits == 8000
    assert (found.average_attempts, found.throughput_impact) == (2.0, 0.5)


def test_more_agents_than_are_named_count_together() -> None:
    counts = Counters()
    for n in range(counters.AGENTS + 50):
        counts.committed(f"agent-{n}", 0.1)
        counts.refused(f"agent-{n}", "Conflict")
    found = metrics_of("s", counts)
    assert len(found.commits) == counters.AGENTS + 1
    assert found.commits[OTHERS] == 50
    assert found.refusals[OTHERS] == {"Conflict": 50}
    assert found.conflict_rate == 0.5


def test_the_totals_keep_what_closed_spaces_have_counted() -> None:
    totals = Totals()

    class Owner:
        pass

    owners = [Owner() for _ in range(3)]
    for owner in owners:
        counts = Counters()
        closed = totals.add(owner, "s", counts)
        counts.committed("us", 0.1)
    closed()
    closed()
    assert totals.by_space()["s"].commits == {"us": 3}
    owners.clear()  # nobody has closed the others
    del owner
    gc.collect()
    assert totals.by_space()["s"].commits == {"us": 3}
    assert len(totals._open) == 0


def test_more_spaces_than_are_named_count_together() -> None:
    totals = Totals()
    owner = test_more_spaces_than_are_named_count_together
    for n in range(counters.SPACES + 5):
        counts = Counters()
        totals.add(owner, f"space-{n}", counts)
        counts.committed("us", 0.1)
    found = totals.by_space()
    assert len(found) == counters.SPACES + 1
    assert found[OTHERS].commits == {"us": 5}


def test_metrics_of_a_space_that_did_nothing_are_zero() -> None:
    with interlock.open("sqlite://") as space:
        found = space.metrics()
    assert (found.conflict_rate, found.average_attempts, found.throughput_impact) == (0, 0, 0)
    assert found.commit_seconds.mean == 0
