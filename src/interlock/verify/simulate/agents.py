"""One simulated agent: connects, waits for the start, contributes, tells everything as it happens.

It reports at once, not at the end: what an agent was told before it died still counts.  Starting
agents and listening to them lives in `runner`; how they write lives in `patterns`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from typing import NamedTuple

from interlock.core.showing import described
from interlock.verify.simulate.patterns import Agent, GaveUp, Pattern
from interlock.verify.simulate.results import Acknowledged, Ended, Ready, Thought
from interlock.verify.simulate.settings import Settings


class Task(NamedTuple):
    """What an agent is to do.  `run` makes its items differ from those of an earlier run."""

    pattern: Pattern
    store: str
    settings: Settings
    number: int
    arrival: float
    run: str

    @property
    def name(self) -> str:
        """The agent's name."""
        return f"agent-{self.number}"


class Stopped(BaseException):
    """The simulation was interrupted.  A BaseException, so that no pattern takes it for a fault."""


def live(
    task: Task,
    start: Connection,
    report: Connection,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Live one agent's life.  `start` yields a byte per agent at the start, or its end.

    `sleep` may raise Stopped.
    """
    error: str | None = None
    with report, suppress(BrokenPipeError, Stopped):  # the pipe breaks when nobody listens any more
        try:
            with closing(task.pattern.connect(task.store, task.name)) as agent:
                report.send(Ready(task.number))
                if not os.read(start.fileno(), 1):
                    return
                sleep(task.arrival)
                _contribute(task, agent, report, sleep)
        except GaveUp as problem:
            error = str(problem)
        except Exception as problem:
            error = described(problem)
        report.send(Ended(task.number, error, time.monotonic()))


def _contribute(
    task: Task, agent: Agent, report: Connection, sleep: Callable[[float], None]
) -> None:
    for write in range(task.settings.writes):
        item = f"{task.run}/{task.name}/{write}"
        length = task.settings.think_time(task.number, write)

        def think(items: list[str], item: str = item, length: float = length) -> list[str]:
            began = time.monotonic()
            sleep(length)
            report.send(Thought(task.number, began, time.monotonic()))
            return [*items, item]

        agent.contribute(task.settings.key_of(task.number), think)
        report.send(Acknowledged(task.number, item, time.monotonic()))
