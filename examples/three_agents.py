"""Three agents share a report; what they do is logged, counted and traced.

    python examples/three_agents.py [sqlite:///report.db]

The researcher appends findings, the writer works them into the report, and the critic signs the
report off.  All are counted in `space.metrics()` and logged under `interlock`; where OpenTelemetry
is set up, a trace leads from each finding to the paragraph that the writer made of it.
"""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from typing import Any

import interlock

FINDINGS = ("demand grows", "margins shrink", "a rival merges")
RULES = {"findings": interlock.merged("append")}


def research(space: interlock.Space) -> None:
    """Append what was found."""
    for finding in FINDINGS:
        space.append("findings", finding)


def write(space: interlock.Space) -> None:
    """Work each finding into the report, as it comes."""
    with space.group("writers", prefix="findings") as group:
        for delivery in group:
            add_line(space, delivery.entry.value)
            group.ack(delivery)
            if delivery.entry.value == FINDINGS[-1]:
                return


def add_line(space: interlock.Space, text: str) -> None:
    """Add a line to the report."""
    space.update("report", lambda report: [*report, text], default=[])


def criticise(space: interlock.Space, writer: interlock.Space) -> None:
    """Sign the report off, although the writer adds a line while this agent thinks."""

    def sign(report: list[str]) -> list[str]:
        if "p.s." not in report:
            late = threading.Thread(target=add_line, args=(writer, "p.s."))
            late.start()
            late.join()
        return [*report, "signed"]

    space.update("report", sign)


def main(url: str) -> dict[str, Any]:
    """Have the three agents work; return the report and what was counted."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    name = uuid.uuid4().hex  # a space of its own for each time that the example runs
    with (
        interlock.open(url, name, "researcher", rules=RULES) as researcher,
        interlock.open(url, name, "writer") as writer,
        interlock.open(url, name, "critic") as critic,
    ):
        refusals: list[interlock.RefusalNotice] = []
        critic.on("conflict", refusals.append)
        research(researcher)
        write(writer)
        criticise(critic, writer)
        metrics = critic.metrics()
        report = critic.read("report").value
    for refusal in refusals:
        print(f"{refusal.agent} met {refusal.other} at {refusal.key!r}, and thought again")
    print(f"average attempts of the critic: {metrics.average_attempts}")
    return {"report": report, "metrics": metrics, "refusals": refusals}


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///report.db"])
