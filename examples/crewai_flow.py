"""Five kickoffs of one CrewAI flow at once: with CrewAI's own persistence, then with Interlock's.

    python examples/crewai_flow.py [sqlite:///crewai.db]

Nothing here calls a model.  The agents run the same code each time, and kick off again where they
are told that somebody was faster.  CrewAI's own persistence tells nobody.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true", CREWAI_DISABLE_TRACKING="true", OTEL_SDK_DISABLED="true"
)

from crewai.flow.flow import Flow, start
from crewai.flow.persistence import FlowPersistence, SQLiteFlowPersistence, persist

import interlock
from interlock.adapters.crewai import Persistence

AGENTS = ("flights", "hotels", "museums", "trains", "weather")
TRIP = "trip-to-rome"


def research(persistence: FlowPersistence, in_turn: bool = False) -> dict[str, Any]:
    """Have five agents add a finding to one trip; return what is kept, and how often they thought.

    `in_turn`: each waits for its turn before it thinks.
    """
    thoughts = []
    gate = threading.Barrier(len(AGENTS))

    @persist(persistence)
    class Research(Flow[dict[str, Any]]):
        suppress_flow_events: bool = True

        @start()
        def find(self) -> None:
            before = list(self.state.get("findings", []))
            thoughts.append(self.state["agent"])
            time.sleep(0.2)  # here an agent thinks
            self.state["findings"] = [*before, self.state["agent"]]

    def work(agent: str) -> None:
        gate.wait(60)
        while True:
            try:
                Research().kickoff(inputs={"id": TRIP, "agent": agent})
                return
            except RuntimeError as problem:  # what CrewAI makes of any error of a persistence
                if not isinstance(problem.__cause__, interlock.Conflict):
                    raise

    def work_in_turn(agent: str) -> None:
        with persistence.run(TRIP) as run:
            Research().kickoff(inputs={**run.inputs, "agent": agent})

    with ThreadPoolExecutor(len(AGENTS)) as pool:
        list(pool.map(work_in_turn if in_turn else work, AGENTS))
    saved = persistence.load_state(TRIP)
    assert saved is not None
    return {"findings": sorted(saved["findings"]), "thoughts": len(thoughts)}


def main(url: str) -> dict[str, dict[str, Any]]:
    """Research three times; return what was kept of each."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        persistence: FlowPersistence = SQLiteFlowPersistence(f"{folder}/flows.db")
        found["CrewAI's own"] = research(persistence)
    for name, in_turn in (("Interlock, told", False), ("Interlock, in turn", True)):
        # A space of its own for each time that the example runs.
        with interlock.open(url, space=uuid.uuid4().hex, agent="crew") as space:
            persistence = Persistence(space)  # the line that changes
            found[name] = research(persistence, in_turn)
    for name, each in found.items():
        print(f"{name}: {len(each['findings'])} of 5 kept, {each['thoughts']} thoughts")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///crewai.db"])
