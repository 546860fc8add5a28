"""Runs the agents of one pattern: starts them, releases them at once, collects what they report."""

from __future__ import annotations

import functools
import multiprocessing
import os
import resource
import secrets
import selectors
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from interlock.core.refusals import described
from interlock.errors import Invalid
from interlock.verify.simulate.patterns import Agent, GaveUp, Pattern
from interlock.verify.simulate.results import (
    Acknowledged,
    Ended,
    Event,
    Ready,
    Result,
    Thought,
    score,
)
from interlock.verify.simulate.settings import Settings

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext


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
        think = _Thinking(task, write, report, sleep)
        agent.contribute(task.settings.key_of(task.number), think)
        report.send(Acknowledged(task.number, think.item, time.monotonic()))


class _Thinking:
    """What an agent calls to think about one of its contributions."""

    def __init__(
        self, task: Task, write: int, report: Connection, sleep: Callable[[float], None]
    ) -> None:
        self.item = f"{task.run}/{task.name}/{write}"
        self._length = task.settings.think_time(task.number, write)
        self._agent, self._report, self._sleep = task.number, report, sleep

    def __call__(self, items: list[str], /) -> list[str]:
        began = time.monotonic()
        self._sleep(self._length)
        self._report.send(Thought(self._agent, began, time.monotonic()))
        return [*items, self.item]


def run(
    pattern: Pattern,
    settings: Settings,
    store: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Result:
    """Run a pattern and return its result.  `progress` is told how many agents are done.

    The store lies in a temporary folder, unless `store` names one (Interlock's patterns only).
    An agent that raises or dies counts as failed.  Interrupted, it stops every agent first.
    Raises Invalid where the system cannot carry so many agents.
    """
    _allow_open_files(settings)
    keys = settings.used_keys()
    with tempfile.TemporaryDirectory(prefix="interlock-simulate-") as folder:
        place = store or pattern.store_in(Path(folder))
        pattern.prepare(place, keys)
        named = secrets.token_hex(4)
        arrivals = settings.arrival_times()
        crew = _Crew(settings.threads)
        try:
            for number in range(settings.agents):
                with _uninterrupted():  # an agent that is half started could not be stopped
                    crew.start(Task(pattern, place, settings, number, arrivals[number], named))
            events, released = _conduct(crew, settings.agents, progress)
            crew.join()
        finally:
            with _uninterrupted():
                crew.stop()
        kept = pattern.kept(place, keys)
    return score(pattern.name, settings, events, released, kept)


def _conduct(
    crew: _Crew, agents: int, progress: Callable[[int], None]
) -> tuple[list[Event], float]:
    """Release the agents when all are ready; return what they reported and the time of release."""
    events: list[Event] = []
    there: set[int] = set()
    done = 0
    released: float | None = None
    for event in crew.hear():
        events.append(event)
        there.add(event.agent)
        if isinstance(event, Ended):
            done += 1
            progress(done)
        if released is None and len(there) == agents:
            released = crew.release()
    return events, time.monotonic() if released is None else released


class _Crew:
    """The agents of one run, as processes or threads, each with a pipe that it reports on."""

    def __init__(self, threads: bool) -> None:
        self._context = None if threads else _forking_context()
        self._gate, self._starter = multiprocessing.Pipe(duplex=False)
        self._members: dict[int, Any] = {}
        self._pipes: dict[Connection, int] = {}
        self._stopped = threading.Event()  # seen by threads only; processes are killed

    def start(self, task: Task) -> None:
        """Start one agent.  It connects and then waits for the release."""
        pipe, report = multiprocessing.Pipe(duplex=False)
        self._pipes[pipe] = task.number
        if self._context is None:
            living = functools.partial(live, task, self._gate, report, self._sleep)
            member: Any = threading.Thread(target=living, daemon=True)
            member.start()
        else:
            member = self._context.Process(
                target=live, args=(task, self._gate, report), daemon=True
            )
            with report:  # the agent's copy must be the only one: its end is how a death is seen
                member.start()
        self._members[task.number] = member

    def release(self) -> float:
        """Let every agent begin, with one system call; return the time just before."""
        now = time.monotonic()
        os.write(self._starter.fileno(), b"." * len(self._members))
        return now

    def hear(self) -> Iterator[Event]:
        """Yield what the agents report, until each has ended."""
        with selectors.DefaultSelector() as selector:
            for pipe in self._pipes:
                selector.register(pipe, selectors.EVENT_READ, pipe)
            while self._pipes:
                for chosen, _ in selector.select():
                    event = self._receive(chosen.data)
                    if isinstance(event, Ended):
                        selector.unregister(chosen.fileobj)
                        del self._pipes[chosen.data]
                        chosen.data.close()
                    yield event

    def _receive(self, pipe: Connection) -> Event:
        try:
            event: Event = pipe.recv()
        except (EOFError, ConnectionResetError):
            number = self._pipes[pipe]
            event = Ended(number, self._death(number), time.monotonic())
        return event

    def join(self) -> None:
        """Wait until the agents that ended are gone."""
        for member in self._members.values():
            member.join()

    def stop(self) -> None:
        """Leave no agent running."""
        self._stopped.set()
        if self._context is not None:
            for member in self._members.values():
                member.kill()
        self._starter.close()  # those who still wait for the release go home
        for pipe in self._pipes:
            pipe.close()
        self.join()
        self._gate.close()

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise Stopped

    def _death(self, number: int) -> str:
        member = self._members[number]
        member.join()
        code = getattr(member, "exitcode", None)
        if code is not None and code < 0:
            return f"died: killed by {signal.Signals(-code).name}"
        return f"died with exit code {code}"


def _forking_context() -> ForkServerContext:
    """Return a context whose processes are forked from a small one with the library loaded.

    That makes starting a hundred cheap, and no open SQLite connection is ever forked.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        raise Invalid("this system cannot fork processes; simulate with threads (--threads)")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "interlock.cli"])
    # Ctrl-C goes to every process of the terminal.  Only this one is to act on it, so the others
    # are born with it blocked.  The tracker first: starting it unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM until the block is over."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for interrupt in came[:1]:
            signal.raise_signal(interrupt)


def _allow_open_files(settings: Settings) -> None:
    """Raise this process's own limit of open files where the agents need more.  Raises Invalid."""
    need = 100 + settings.agents * (12 if settings.threads else 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= need:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))
    except (ValueError, OSError) as problem:
        raise Invalid(
            f"{settings.agents} agents need {need} open files and this system allows {hard}; "
            "simulate fewer agents, or raise the limit (ulimit -n)"
        ) from problem
