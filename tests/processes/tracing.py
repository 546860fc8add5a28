"""Short runs of real processes on one key, recorded: what is checked against the spec.

Each agent is a process of its own, forked by a worker that has no connections and no threads.  It
does a few steps drawn from a seed: reads, thinks and writes, takes the lease, takes it away.  One
agent dies around a commit, as by `kill -9`, and another process goes on under its name with the
same operation id; another one's answer, or request, is lost on its way.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import interlock
from interlock.backends import urls
from interlock.core.requests import Commit
from interlock.errors import AnswerLost, Refused
from tests.facades import Facades
from tests.processes.writers import FORKSERVER

AGENTS, STEPS = 3, 6
KEY = "report"
LOST, DOOMED = 1, 0  # which agent's answer is lost, and which agent dies
KINDS = ("write", "write", "write", "update", "lease", "lease", "reclaim", "delete", "create")
_THINKS_UPTO = 0.003  # seconds
# What the agents need, imported once, before they are forked.
_IMPORTED = ("trace", "postgres", "redis", "sqlite")


class Run(NamedTuple):
    """One trace: the store, as the agents reach it and as it is reached directly, and the seed.

    `broken` switches a guard of SQLite off in the agents: `version`, `epoch` or `operation`.
    """

    url: str
    direct: str
    folder: str
    seed: int
    broken: str = ""

    @property
    def space(self) -> str:
        """The name of the space of this run."""
        return f"trace-{self.seed}"

    @property
    def lost(self) -> str:
        """What the commit whose answer or request is lost holds."""
        return f"lost-in-{self.space}."

    @property
    def lost_after(self) -> bool:
        """Whether that commit is applied before its answer is lost."""
        return self.seed % 3 != 0

    @property
    def somebody_dies(self) -> bool:
        """Whether an agent is killed around a commit."""
        return self.seed % 4 == 0


class Faulty:
    """A backend that loses an answer, or in which the process dies, around one operation."""

    def __init__(self, backend: Any, run: Run, dies: str, loses: str) -> None:
        self._backend = backend
        self._run = run
        self._dies, self._loses = dies, loses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def perform(self, request: Any) -> Any:
        self._before(request)
        answer = self._backend.perform(request)
        self._after(request)
        return answer

    async def perform_async(self, request: Any) -> Any:
        self._before(request)
        answer = await self._backend.perform_async(request)
        self._after(request)
        return answer

    def _before(self, request: Any) -> None:
        self._strike(request, self._run.seed % 8 == 0, not self._run.lost_after)

    def _after(self, request: Any) -> None:
        self._strike(request, self._run.seed % 8 != 0, self._run.lost_after)

    def _strike(self, request: Any, dies: bool, loses: bool) -> None:
        op_id = request.plan.op_id if isinstance(request, Commit) else ""
        if dies and op_id and op_id == self._dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if loses and op_id and op_id == self._loses:
            self._loses = ""
            raise AnswerLost("lost by the test")


class Agent:
    """What one process of a run does."""

    def __init__(self, run: Run, number: int, space: Any) -> None:
        self._run = run
        self._number = number
        self._space = space
        self._chance = random.Random(f"{run.seed}/{number}")

    def work(self, after: int) -> None:
        """Do the steps after step `after`."""
        for step in range(STEPS):
            kind = self._chance.choice(KINDS)
            pause = self._chance.uniform(0, _THINKS_UPTO)
            if step == struck(self._run, self._number):
                kind = "update" if self._number == DOOMED else "marked"
            if step > after:
                with suppress(Refused):
                    self._step(kind, pause, f"{self._run.space}/{self._number}/{step}")

    def _step(self, kind: str, pause: float, op_id: str) -> None:
        space = self._space
        if kind == "update":
            turns = "never" if self._run.somebody_dies else "auto"  # the dead hold their turn long
            space.update(KEY, lambda _: _think(pause, op_id), attempts=4, turns=turns, op_id=op_id)
        elif kind == "lease":
            with space.lease(KEY, 30, wait=0) as lease:
                for number in range(2):
                    _think(pause, None)
                    lease.write(f"{op_id}/{number}")
        elif kind == "reclaim":
            _think(pause, None)
            space.reclaim(KEY)
        elif kind == "create":
            space.create(KEY, op_id, op_id=op_id)
        else:
            record = space.read(KEY)
            _think(pause, None)
            if kind == "delete" and record.exists:
                space.delete(record, op_id=op_id)
            else:
                value = self._run.lost if kind == "marked" else op_id
                space.write(record, value, op_id=op_id)


def struck(run: Run, number: int) -> int:
    """Return the step of an agent in which a fault strikes, -1 for none."""
    if number == LOST:
        return run.seed % STEPS
    return run.seed // 4 % STEPS if number == DOOMED and run.somebody_dies else -1


def _think(pause: float, value: Any) -> Any:
    threading.Event().wait(pause)
    return value


def _be_agent(run: Run, number: int, after: int, dies: bool) -> None:
    """Be agent `number`, whose first steps a process before it has done."""
    os.environ["INTERLOCK_RECORD"] = run.folder
    step = struck(run, number)
    op_id = f"{run.space}/{number}/{step}"
    doomed = op_id if number == DOOMED and step >= 0 and dies else ""
    loses = op_id if number == LOST and run.url == run.direct else ""
    opened = urls._opened
    urls._opened = lambda *a, **options: Faulty(opened(*a, **options), run, doomed, loses)
    _break(run.broken)
    facade = "async" if (run.seed + number) % 2 else "sync"
    with Facades(facade, run.url, run.space) as facades:
        Agent(run, number, facades.open(f"a{number}")).work(after)


def _break(guard: str) -> None:
    """Switch a guard of SQLite's atomic step off in this process."""
    from interlock.backends.sqlite.commit import Step

    if guard == "version":
        Step._moved = lambda *_: None  # type: ignore[method-assign]  # a mutant
    elif guard == "epoch":
        Step._fenced = lambda *_: None  # type: ignore[method-assign]  # a mutant
    elif guard == "operation":
        Step._applied = lambda *_: None  # type: ignore[method-assign]  # a mutant


def _forked(target: Callable[..., None], *arguments: Any) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        target(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _read_log(run: Run) -> None:
    """Read the log when all is over: what was applied without anybody being told is only there."""
    os.environ["INTERLOCK_RECORD"] = run.folder
    with interlock.open(run.direct, run.space, "observer") as space:
        assert list(space.log())


def _carry_out(run: Run) -> None:
    agents = [_forked(_be_agent, run, number, -1, True) for number in range(AGENTS)]
    first = _ended(agents[DOOMED])
    if run.somebody_dies and first == -signal.SIGKILL:
        step = struck(run, DOOMED)
        first = _ended(_forked(_be_agent, run, DOOMED, step - 1, False))
    codes = [first, *map(_ended, agents[1:]), _ended(_forked(_read_log, run))]
    if any(codes):
        raise RuntimeError(f"{run}: the processes ended with {codes}")


def carry_out_all(orders: Connection) -> None:
    """Carry out the runs that come, one after the other; say how each ended."""
    for name in _IMPORTED:
        import_module(f"interlock.backends.{name}")
    for name in interlock.__all__:
        getattr(interlock, name)
    gc.freeze()  # so that the forked share more
    while (run := orders.recv()) is not None:
        try:
            _carry_out(run)
            orders.send(None)
        except RuntimeError as problem:
            orders.send(problem)


class Crew:
    """A worker process that carries out runs."""

    def __init__(self) -> None:
        self._orders, theirs = FORKSERVER.Pipe()
        self._worker = FORKSERVER.Process(target=carry_out_all, args=(theirs,))
        self._worker.start()
        theirs.close()

    def carry_out(self, run: Run) -> None:
        """Carry out one run.  Raises RuntimeError where a process of it failed."""
        self._orders.send(run)
        problem = self._orders.recv()
        if problem is not None:
            raise problem

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._orders.send(None)
        self._worker.join()
