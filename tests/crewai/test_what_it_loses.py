"""What CrewAI's own flow persistence loses, kickoff by kickoff acknowledged; ours keeps it all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crewai.flow.flow import Flow, start
from crewai.flow.persistence import SQLiteFlowPersistence, persist

import interlock
from interlock.adapters.crewai import Persistence
from interlock.verify.frameworks import Report, check_flow_persistence


def counts(report: Report) -> dict[str, tuple[int, int]]:
    """Return expected and kept, by case."""
    return {each.case: (each.expected, each.kept) for each in report.results}


def test_crewai_loses_kickoffs_of_one_flow_and_pays_twice(tmp_path: Path) -> None:
    report = check_flow_persistence(lambda: SQLiteFlowPersistence(str(tmp_path / "flows.db")))
    assert counts(report) == {
        "parallel_kickoffs": (6, 2),
        "answer_twice": (1, 2),
        "zombie_kickoff": (3, 2),
    }
    assert report.failed == ("parallel_kickoffs", "answer_twice", "zombie_kickoff")


def test_four_start_methods_at_once_lose_three(tmp_path: Path) -> None:
    both, names = threading.Barrier(4), ("flights", "hotels", "museums", "weather")

    def method(name: str) -> object:
        def note(self: object) -> None:
            before = list(self.state.get("notes", []))  # type: ignore[attr-defined]  # a flow
            both.wait(60)
            self.state["notes"] = [*before, name]  # type: ignore[attr-defined]  # a flow

        note.__name__ = name
        return start()(note)

    persistence = SQLiteFlowPersistence(str(tmp_path / "flows.db"))
    flow = persist(persistence)(type("Research", (Flow,), {name: method(name) for name in names}))
    flow().kickoff(inputs={"id": "trip"})
    saved = persistence.load_state("trip")
    assert saved is not None
    assert len(saved["notes"]) == 1


def test_our_persistence_keeps_them(url: str, name: str) -> None:
    @contextmanager
    def make() -> Iterator[Persistence]:
        with interlock.open(url, space=name, agent="crew") as space:
            yield Persistence(space)

    report = check_flow_persistence(
        make, run=lambda persistence, id: persistence.run(id), patience=0.5
    )
    assert counts(report) == {
        "parallel_kickoffs": (6, 6),
        "answer_twice": (1, 1),
        "zombie_kickoff": (3, 3),
    }
    assert report.passed, report


def test_without_runs_it_refuses_what_it_cannot_keep(local: interlock.Space) -> None:
    report = check_flow_persistence(lambda: Persistence(local))
    assert report.passed, report
    assert counts(report)["parallel_kickoffs"] == (2, 2)  # four were told
