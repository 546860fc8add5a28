"""Runs the agents of one pattern: starts them, releases them at once, collects what they report."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from interlock.verify.simulate.patterns import PATTERNS, GaveUp
from interlock.verify.simulate.results import Result, Thought

_START_LIMIT = 120.0  # seconds that all agents together may take to start


class Settings(NamedTuple):
    """What to simulate.  `think` is a range in seconds.

    `arrivals` lets agents come one after the other, at that multiple of the rate at which one key
    can be served; None starts all at once.
    """

    agents: int = 100
    think: tuple[float, float] = (0.02, 0.06)
    keys: int = 1
    writes: int = 1
    seed: int = 1
    arrivals: float | None = None
    threads: bool = False

    def key_of(self, agent: int) -> str:
        """The key that an agent writes."""
        return f"document/{agent % self.keys}"

    def think_time(self, agent: int, write: int) -> float:
        """Seconds that an agent thinks about one contribution; the same in every pattern."""
        return random.Random(f"{self.seed}/{agent}/{write}").uniform(*self.think)

    def arrival(self, agent: int) -> float:
        """Seconds after the start at which an agent begins."""
        mean = sum(self.think) / 2
        return 0.0 if self.arrivals is None else agent * mean / self.arrivals / self.keys

    def lower_bound(self) -> float:
        """Seconds that the busiest key needs with its agents one after the other, one thought each."""
        busy: dict[str, float] = defaultdict(float)
        for agent in range(self.agents):
            for write in range(self.writes):
                busy[self.key_of(agent)] += self.think_time(agent, write)
        return max(max(busy.values()), self.arrival(self.agents - 1))


class _Report(NamedTuple):
    agent: int
    acknowledged: list[str]
    thoughts: list[tuple[str, float, float, bool]]
    error: str | None
    over: float


def run(
    name: str,
    settings: Settings,
    store: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Run pattern `name` and return its result.  `progress` is told how many agents are done.

    The store lies in a temporary folder, unless `store` names one (Interlock's patterns only).
    """
    pattern = PATTERNS[name]
    keys = sorted({settings.key_of(agent) for agent in range(settings.agents)})
    with tempfile.TemporaryDirectory(prefix="interlock-simulate-") as folder:
        place = store or pattern.store_in(Path(folder))
        pattern.prepare(place, keys)
        reports, seconds = _run_agents(name, place, settings, progress)
        kept = pattern.kept(place, keys)
    return _result(name, settings, reports, seconds, kept)


def _result(
    name: str, settings: Settings, reports: list[_Report], seconds: float, kept: set[str]
) -> Result:
    acknowledged = {item for report in reports for item in report.acknowledged}
    timeline = [
        Thought(report.agent, began, over, _ending(item, final, acknowledged, kept))
        for report in reports
        for item, began, over, final in report.thoughts
    ]
    return Result(
        pattern=name,
        agents=settings.agents,
        acknowledged=len(acknowledged),
        kept=len(acknowledged & kept),
        lost=len(acknowledged - kept),
        failed=sum(report.error is not None for report in reports),
        thoughts=len(timeline) / settings.agents,
        seconds=seconds,
        lower_bound=settings.lower_bound(),
        timeline=tuple(timeline),
        errors=Counter(report.error for report in reports if report.error is not None),
    )


def _ending(item: str, final: bool, acknowledged: set[str], kept: set[str]) -> str:
    if not final or item not in acknowledged:
        return "wasted"
    return "kept" if item in kept else "lost"


def _agent(
    name: str, store: str, settings: Settings, number: int, go: Any, report: Connection
) -> None:
    """One agent: connect, wait for the start, contribute, report."""
    acknowledged: list[str] = []
    thoughts: list[list[Any]] = []
    error = None
    try:
        agent = PATTERNS[name].connect(store, f"agent-{number}")
        try:
            report.send("ready")
            go.wait()
            start = time.monotonic()
            time.sleep(settings.arrival(number))
            for write in range(settings.writes):
                item = f"{number}:{write}"
                seconds = settings.think_time(number, write)

                def think(items: list[str], item: str = item, length: float = seconds) -> list[str]:
                    began = time.monotonic()
                    time.sleep(length)
                    thoughts.append([item, began - start, time.monotonic() - start, False])
                    return [*items, item]

                agent.contribute(settings.key_of(number), think)
                acknowledged.append(item)
                thoughts[-1][3] = True
        finally:
            agent.close()
    except GaveUp as problem:
        error = str(problem)
    except KeyboardInterrupt:
        error = "interrupted"
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    rows = [(item, began, over, final) for item, began, over, final in thoughts]
    report.send(_Report(number, acknowledged, rows, error, time.monotonic()))
    report.close()


def _run_agents(
    name: str, store: str, settings: Settings, progress: Callable[[int], None]
) -> tuple[list[_Report], float]:
    context = _context()
    go = threading.Event() if settings.threads else context.Event()
    with _started(context, name, store, settings, go) as pipes:
        deadline = time.monotonic() + _START_LIMIT
        for pipe in pipes.values():
            if pipe.poll(max(deadline - time.monotonic(), 0)):
                _receive(pipe)
        start = time.monotonic()
        go.set()
        reports: dict[int, _Report] = {}
        left = dict(pipes)
        while left:
            for pipe in wait(list(left.values())):
                assert isinstance(pipe, Connection)
                number = next(n for n, p in left.items() if p is pipe)
                message = _receive(pipe)
                if message == "ready":
                    continue
                reports[number] = message or _Report(number, [], [], "died", time.monotonic())
                del left[number]
                progress(len(reports))
    seconds = max(report.over for report in reports.values()) - start
    return [reports[number] for number in sorted(reports)], seconds


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        return None


@contextmanager
def _started(
    context: Any, name: str, store: str, settings: Settings, go: Any
) -> Iterator[dict[int, Connection]]:
    """Start every agent; whatever happens, none is left running."""
    pipes: dict[int, Connection] = {}
    running: list[Any] = []
    try:
        for number in range(settings.agents):
            mine, theirs = context.Pipe(duplex=False)
            arguments = (name, store, settings, number, go, theirs)
            if settings.threads:
                started: Any = threading.Thread(target=_agent, args=arguments, daemon=True)
            else:
                started = context.Process(target=_agent, args=arguments, daemon=True)
            started.start()
            if not settings.threads:
                theirs.close()
            pipes[number] = mine
            running.append(started)
        yield pipes
    except BaseException:
        for started in running if not settings.threads else ():
            started.kill()
        raise
    finally:
        go.set()
        for started in running:
            started.join()
        for pipe in pipes.values():
            pipe.close()


def _context() -> Any:
    """Processes are forked from a small server that has the library loaded and nothing open."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context
