"""Runs the torture of one store, from the first worker to the verdict.

The crew starts the workers, lets the faults of the plan strike, and starts again whoever died of
them.

The fault `durable`: a server dies right after it acknowledged what somebody else committed.  A
process that does not wait for the disk commits; one that does sends the same operation again, or
asks what became of it, and is told that it was applied.  Then the server is killed.  That happens
in a space of its own, so that the log of the workers is theirs alone.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, NamedTuple

import interlock
from interlock import Json
from interlock.errors import Fault, Invalid, Unavailable
from interlock.verify.torture.checks import Checked, check
from interlock.verify.torture.guard_place import place_at
from interlock.verify.torture.ledger import check_guarded
from interlock.verify.torture.log import LOST_WRITE, TWICE, Findings
from interlock.verify.torture.plan import (
    CLOCK,
    CUT,
    DURABLE,
    KILL,
    LOST,
    RESTART,
    STOP,
    Settings,
    faults,
    is_file,
    possible,
)
from interlock.verify.torture.plan import Fault as Planned
from interlock.verify.torture.proxy import Cut, Proxy, proxied
from interlock.verify.torture.record import Board
from interlock.verify.torture.worker import CLOSED, RULES, orders

LONG = 0.5  # seconds without an acknowledgement that count as unavailable


class Report(NamedTuple):
    """The figures and findings of one run.

    `anomalies` are counts by name, `examples` a few of each; `away` is the longest time without
    any acknowledgement, `away_in_all` the sum of those above half a second, in seconds.
    `missing` says which faults were not possible, and why.  Where guards are tortured (`guarded`),
    `blind` are the writes around them, and `blindly_destroyed` the guarded ones that were lost to
    these; `applied_again` are creates that were sent again, as an answer was lost, after somebody
    had deleted them: a table does not remember them.
    """

    seed: int
    space: str
    store: str
    operations: int
    workers: int
    kinds: dict[str, int]
    outcomes: dict[str, int]
    reasons: dict[str, int]
    commits: int
    doubtful: int
    doubtful_applied: int
    entries: int
    faults: dict[str, int]
    missing: dict[str, str]
    crashes: int
    away: float
    away_in_all: float
    seconds: float
    checked_in: float
    anomalies: dict[str, int]
    examples: dict[str, list[str]]
    undecided: list[str]
    guarded: bool = False
    blind: int = 0
    blindly_destroyed: int = 0
    applied_again: int = 0

    @property
    def verdict(self) -> str:
        """`ok`, `anomalies` or `undecided`, as of the checkers of histories."""
        return "anomalies" if self.anomalies else "undecided" if self.undecided else "ok"

    @property
    def rate(self) -> float:
        """Operations in a second."""
        return sum(self.outcomes.values()) / self.seconds

    def as_json(self) -> dict[str, Json]:
        """Return the object that `--json` prints."""
        return {**self._asdict(), "verdict": self.verdict, "rate": round(self.rate, 1)}

    def headline(self) -> str:
        """Return the verdict in a line."""
        count = sum(self.outcomes.values())
        faults = sum(self.faults.values())
        if self.verdict == "undecided":
            return f"UNDECIDED {count:,} operations, {faults:,} faults: {self.undecided[0]}"
        if self.verdict == "anomalies":
            found = sum(self.anomalies.values())
            return f"FAIL {count:,} operations, {faults:,} faults: {found:,} anomalies"
        if self.guarded:
            return (
                f"PASS {count:,} operations, {faults:,} faults, {self.blind:,} blind writes: "
                "0 acknowledged lost, 0 changes destroyed unseen by a guard"
            )
        lost, twice = self.anomalies.get(LOST_WRITE, 0), self.anomalies.get(TWICE, 0)
        return (
            f"PASS {count:,} operations, {faults:,} faults: 0 anomalies, "
            f"{lost} acknowledged lost, {twice} applied twice"
        )


def gaps(times: array[float]) -> tuple[float, float]:
    """Return the longest time without an acknowledgement, and the sum of those that are long."""
    ordered = sorted(times)
    between = [later - earlier for earlier, later in pairwise(ordered)]
    return max(between, default=0.0), sum(gap for gap in between if gap >= LONG)


_Way = Callable[[interlock.Space, str], object]
_AGENT = "durable"  # of both: an operation id belongs to an agent


def _create(space: interlock.Space, key: str) -> None:
    space.create(key, 1, op_id=key)


def _transact(space: interlock.Space, key: str) -> None:
    space.transact(lambda tx: tx.create(key, 1), op_id=key)


# How the first commits, and what the second asks, with the key, which is the operation id.
_WAYS: tuple[tuple[_Way, _Way], ...] = (
    (_create, lambda space, key: space.outcome(key)),
    (_create, _create),
    (_create, lambda space, key: space.update(key, lambda _: 1, op_id=key)),
    (_transact, _transact),
)


class Durable:
    """What was acknowledged before a crash, so that it must be there afterwards."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._space = settings.url, f"{settings.space}-durable"
        self._promised: list[str] = []

    def promise(self) -> None:
        """Have one more commit acknowledged, by somebody else than its writer.

        Raises the faults of a store that is away.
        """
        number = len(self._promised)
        key = f"durable-{number}"
        commit, ask = _WAYS[number % len(_WAYS)]
        with (
            interlock.open(self._url, self._space, _AGENT, durability="normal") as normal,
            interlock.open(self._url, self._space, _AGENT) as full,
        ):
            full.read(key)  # whatever opening it writes is flushed before, not after
            commit(normal, key)
            ask(full, key)
        self._promised.append(key)

    def check(self, findings: Findings) -> None:
        """Find what was promised and is gone."""
        if not self._promised:
            return
        with interlock.open(self._url, self._space, "checker") as space:
            there = space.scan("durable-")
        for key in self._promised:
            if key not in there:
                findings.add(LOST_WRITE, f"{key}: acknowledged again, before a crash")


_TICK = 0.02  # seconds
_ANSWERS_WITHIN = 120.0  # seconds without any answer
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
        durable: Durable | None,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.proxied_url = proxied_url
        self.proxy = proxy
        self.restart = restart
        self.board = Board(folder / "board", settings.processes)
        self.struck: Counter[str] = Counter()
        self.crashes = 0
        self.durable = durable
        self._module = "guard_worker" if settings.guarded else "worker"
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
        for worker in range(self.settings.processes):
            self._start(worker)
        answered, since = 0, time.monotonic()
        while self._processes:
            now, before = time.monotonic(), answered
            answered = self.board.answered()
            progress(answered)
            since = now if answered != before else since
            if now - since > _ANSWERS_WITHIN:
                raise Unavailable(
                    f"no operation was answered for {_ANSWERS_WITHIN:g} s; {self._said()}"
                )
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
                [sys.executable, "-m", f"interlock.verify.torture.{self._module}"],
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
            direct = worker % 2 or worker == self.settings.workers
            url = self.settings.url if direct else self.proxied_url
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
        running = [each for each in sorted(self._processes) if each < self.settings.workers]
        if not running:
            return True  # too late
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
        elif fault.kind == DURABLE and self.restart is not None and self.durable is not None:
            return self._strike_durable(self.restart, self.durable)
        self.struck[fault.kind] += 1
        return True

    def _strike_durable(self, restart: Callable[[], None], durable: Durable) -> bool:
        """Kill the server while nobody else commits, who would flush its log for all."""
        stopped = [worker for worker in self._processes if worker not in self._waking]
        for worker in stopped:
            self._signal(worker, signal.SIGSTOP)
        try:
            durable.promise()
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


_STARTS_WITHIN = 60.0  # seconds for a store that starts again

Progress = Callable[[str, int, int], None]


def run(
    settings: Settings,
    *,
    restart: Callable[[], None] | None = None,
    kept: Path | None = None,
    progress: Progress = lambda stage, done, of: None,
) -> Report:
    """Run the plan of `settings` on its store, check what happened, and return the report.

    `restart` kills or restarts the server and returns when it was told to start again; without
    it that fault is left out.  `kept` is a folder for the histories (docs/how-to/histories.md), one
    file for each window.  `progress` is told the stage, how much of it is done, and how much there
    is.

    Raises Invalid, and Unavailable where the store stays away.
    """
    if settings.operations < settings.workers or settings.workers < 1:
        raise Invalid("torture takes at least one worker, and an operation for each")
    missing = possible(settings.url, restart is not None, settings.guarded)
    faults = tuple(fault for fault in settings.faults if fault not in missing)
    asked = {fault: why for fault, why in missing.items() if fault in settings.faults}
    settings = settings._replace(faults=faults)
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="interlock-torture-") as name:
        folder = Path(name)
        if settings.guarded:
            place = place_at(settings.url, settings.space)
            place.prepare()
            ran = _work(settings, folder, restart, None, progress)
            began = time.monotonic()
            checked = check_guarded(settings, place, folder, kept, ran.ended)
            return _report(settings, asked, ran, checked, time.monotonic() - began)
        interlock.open(settings.url, settings.space, "torture", rules=RULES).close()
        durable = Durable(settings)
        ran = _work(settings, folder, restart, durable, progress)
        began = time.monotonic()
        with patiently(settings) as space:
            windows = settings.windows
            checked = check(
                *(settings, space, folder, kept, ran.ended),
                lambda done: progress("checking", done, windows),
            )
        durable.check(checked.findings)
    return _report(settings, asked, ran, checked, time.monotonic() - began)


def new_space(seed: int) -> str:
    """Return the name of a space that nobody has."""
    return f"torture-{seed}-{secrets.token_hex(4)}"


def patiently(settings: Settings) -> interlock.Space:
    """Open the space as soon as the store lets us.  Raises Unavailable."""
    ends = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            return interlock.open(settings.url, settings.space, "checker", rules=RULES)
        except Unavailable:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)


def _work(
    settings: Settings,
    folder: Path,
    restart: Callable[[], None] | None,
    durable: Durable | None,
    progress: Progress,
) -> Ran:
    with proxied(settings.url) as (url, proxy):
        crew = Crew(settings, folder, url, proxy, restart, durable)
        try:
            return crew.run(lambda done: progress("working", done, settings.operations))
        finally:
            crew.stop()


def _report(
    settings: Settings, missing: dict[str, str], ran: Ran, checked: Checked, seconds: float
) -> Report:
    tally, findings = checked.tally, checked.findings
    longest, in_all = gaps(tally.acknowledged)
    if ran.crashes:
        findings.add("worker crashed", ran.said, ran.crashes)
    return Report(
        seed=settings.seed,
        space=settings.space,
        store=settings.url.partition("://")[0],
        operations=settings.operations,
        workers=settings.workers,
        kinds=dict(tally.kinds.most_common()),
        outcomes=dict(tally.outcomes.most_common()),
        reasons=dict(tally.reasons.most_common()),
        commits=tally.commits,
        doubtful=len(tally.doubtful),
        doubtful_applied=tally.applied,
        entries=checked.entries,
        faults={fault: ran.faults[fault] for fault in settings.faults},
        missing=missing,
        crashes=ran.crashes,
        away=round(longest, 3),
        away_in_all=round(in_all, 3),
        seconds=round(ran.seconds, 3),
        checked_in=round(seconds, 3),
        anomalies=dict(findings.counts.most_common()),
        examples=findings.examples,
        undecided=findings.undecided,
        guarded=settings.guarded,
        blind=checked.blind,
        blindly_destroyed=checked.blindly_destroyed,
        applied_again=checked.again,
    )
