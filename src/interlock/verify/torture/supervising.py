"""Starts the workers, lets the faults of the plan strike, and starts again whoever died of them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from interlock.errors import Fault, Unavailable
from interlock.verify.torture.board import Board
from interlock.verify.torture.durable import Durable
from interlock.verify.torture.plan import Fault as Planned
from interlock.verify.torture.plan import faults
from interlock.verify.torture.proxy import Cut, Proxy
from interlock.verify.torture.settings import (
    CLOCK,
    CUT,
    DURABLE,
    KILL,
    LOST,
    RESTART,
    STOP,
    Settings,
    is_file,
)
from interlock.verify.torture.worker import CLOSED, orders

_TICK = 0.02  # seconds
_PATIENCE = 120.0  # seconds without any answer
_MOST_CRASHES = 20
_COMMIT = b"op-"  # in every request that commits


class Ran(NamedTuple):
    """What happened while the workers ran: faults by kind, and crashes that nobody ordered.

    `ended` is when, by the monotonic clock; `said` the end of what the workers printed.
    """

    faults: Counter[str]
    crashes: int
    seconds: float
    ended: float
    said: str


class Crew:
    """The workers of one run."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        proxied_url: str,
        proxy: Proxy | None,
        restart: Callable[[], None] | None,
        durable: Durable,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.proxied_url = proxied_url
        self.proxy = proxy
        self.restart = restart
        self.board = Board(folder / "board", settings.workers)
        self.struck: Counter[str] = Counter()
        self.crashes = 0
        self.durable = durable
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._waking: dict[int, float] = {}
        self._killed: set[int] = set()
        self._ordered: tuple[str, Cut] | None = None

    def run(self, progress: Callable[[int], None]) -> Ran:
        """Run the plan to its end.

        Raises Unavailable where the store stays away, or where workers crash again and again.
        """
        began = time.monotonic()
        due = faults(self.settings)
        for worker in range(self.settings.workers):
            self._start(worker)
        answered, since = 0, time.monotonic()
        while self._processes:
            now, before = time.monotonic(), answered
            answered = self.board.answered()
            progress(answered)
            since = now if answered != before else since
            if now - since > _PATIENCE:
                raise Unavailable(f"no operation was answered for {_PATIENCE:g} s; {self._said()}")
            self._wake(now)
            self._reap()
            self._count_cut()
            while due and due[0].after <= answered and self._strike(due[0]):
                del due[0]
            time.sleep(_TICK)
        ended = time.monotonic()
        return Ran(self.struck, self.crashes, ended - began, ended, self._said())

    def stop(self) -> None:
        """Leave no worker running."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        self.board.close()

    def _start(self, worker: int) -> None:
        # A process group of its own: Ctrl-C is for this process only, and a worker that is stopped
        # when this process dies is woken and hung up by the system.
        with self._log().open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "interlock.verify.torture.worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self._processes[worker] = process
        told: IO[bytes] | None = process.stdin
        assert told is not None, "it was asked for"
        with suppress(BrokenPipeError), told:  # one that died at once is seen by `_reap`
            # Every other worker: the proxy takes as much of a processor as a worker does.
            url = self.settings.url if worker % 2 else self.proxied_url
            told.write(orders(self.settings, self.folder, worker, url))

    def _reap(self) -> None:
        for worker, process in list(self._processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self._processes[worker]
            self._waking.pop(worker, None)
            if code == 0:
                continue
            if self.board.dies(worker):
                self.board.set_dies(worker, False)
                self.struck[LOST] += worker not in self._killed
            elif worker not in self._killed and code != CLOSED:
                self.crashes += 1
                if self.crashes > _MOST_CRASHES:
                    raise Unavailable(f"workers crashed {self.crashes} times; {self._said()}")
            self._killed.discard(worker)
            self._start(worker)

    def _wake(self, now: float) -> None:
        for worker, then in list(self._waking.items()):
            if then <= now:
                del self._waking[worker]
                self._signal(worker, signal.SIGCONT)

    def _strike(self, fault: Planned) -> bool:
        """Let a fault happen; False where it cannot now."""
        running = sorted(self._processes)
        worker = min((w for w in running if w >= fault.worker), default=running[0])
        if fault.kind in (CUT, LOST) and self.proxy is not None:
            return self._strike_network(fault, self.proxy)
        if fault.kind == KILL:
            self._killed.add(worker)
            self._signal(worker, signal.SIGKILL)
        elif fault.kind == STOP:
            self._signal(worker, signal.SIGSTOP)
            self._waking[worker] = time.monotonic() + fault.amount
        elif fault.kind == CLOCK:
            # On a file the clock of the host is the store's: all see it jump.
            every = range(self.settings.workers) if is_file(self.settings.url) else (worker,)
            offset = int(fault.amount * 1e6)
            for each in every:
                self.board.set_offset(each, 0 if self.board.offset(each) else offset)
        elif fault.kind == LOST:
            if self.board.dies(worker):
                return False
            self.board.set_dies(worker, True)
            return True  # counted when it has died
        elif fault.kind == RESTART and self.restart is not None:
            self.restart()
        elif fault.kind == DURABLE and self.restart is not None:
            return self._strike_durable(self.restart)
        self.struck[fault.kind] += 1
        return True

    def _strike_durable(self, restart: Callable[[], None]) -> bool:
        """Kill the server while nobody else commits, who would flush its log for all."""
        stopped = [worker for worker in self._processes if worker not in self._waking]
        for worker in stopped:
            self._signal(worker, signal.SIGSTOP)
        try:
            self.durable.promise()
            restart()
        except Fault:
            return False
        finally:
            for worker in stopped:
                self._signal(worker, signal.SIGCONT)
        self.struck[DURABLE] += 1
        return True

    def _strike_network(self, fault: Planned, proxy: Proxy) -> bool:
        if fault.kind == CUT and fault.amount:
            proxy.cut_all()
            self.struck[CUT] += 1
        elif self._ordered is not None:
            return False
        elif fault.kind == CUT:
            self._ordered = CUT, proxy.cut_before_next(_COMMIT)
        else:
            self._ordered = LOST, proxy.cut_after_next(_COMMIT)
        return True

    def _count_cut(self) -> None:
        """Count the cut that was ordered, once a commit has met it."""
        if self._ordered is not None and self._ordered[1].happened:
            self.struck[self._ordered[0]] += 1
            self._ordered = None

    def _signal(self, worker: int, number: int) -> None:
        self._processes[worker].send_signal(number)

    def _log(self) -> Path:
        return self.folder / "workers.log"

    def _said(self) -> str:
        said = self._log().read_text("utf-8", "replace").strip()[-1000:]
        return f"the workers said: {said}" if said else "the workers said nothing"
