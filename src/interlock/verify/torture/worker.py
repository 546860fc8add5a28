"""One worker process: `python -m interlock.verify.torture.worker`, which reads its orders.

It goes on with the plan where the worker before it left off, and ends when the plan does, or when
whoever started it is gone.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import interlock
from interlock.verify.torture.acting import RULES, Noted
from interlock.verify.torture.board import Board
from interlock.verify.torture.plan import operation
from interlock.verify.torture.recording import (
    ACKNOWLEDGED,
    REFUSED,
    UNAVAILABLE,
    UNKNOWN,
    Recorder,
)
from interlock.verify.torture.settings import Settings
from interlock.verify.torture.streaming import Worker

CLOSED = 3  # the exit code where the store lost commits, or is damaged; that is recorded
UNEXPECTED = "!"  # begins the reason of an error that must not happen
_PAUSE = 0.25  # seconds after the store was away
_LOOKS_EVERY = 1.0


class Life:
    """What one worker process shares between its tasks."""

    def __init__(self, settings: Settings, folder: Path, number: int) -> None:
        self.settings = settings
        self.number = number
        self.board = Board(folder / "board", settings.workers)
        self.recorder = Recorder(folder, number)
        self.next = self.board.begun(number)

    async def work(self, worker: Worker) -> None:
        """Perform one operation after the other, until there are no more."""
        while self.next < self.settings.share:
            op = operation(self.settings, self.number, self.next)
            self.next += 1
            # Both before the store is asked: what was sent is on record, and who comes after a
            # process that was killed never sends it again.
            self.recorder.begin(op, time.monotonic())
            self.board.set_begun(self.number, self.next)
            noted = Noted(partial(self.recorder.note, op))
            outcome, reason, fatal = ACKNOWLEDGED, "", None
            try:
                await worker.perform(op, noted)
            except interlock.Refused as problem:
                outcome, reason = REFUSED, type(problem).__name__
            except interlock.Unavailable:
                outcome, reason = UNAVAILABLE, "Unavailable"
            except interlock.Unknown:
                outcome, reason = UNKNOWN, "Unknown"
            except Exception as problem:  # an anomaly, which the checker reports
                outcome, reason = UNKNOWN, f"{UNEXPECTED}{type(problem).__name__}: {problem}"
                fatal = problem if isinstance(problem, interlock.Corrupt) else None
            if noted.pieces and noted.pieces[-1].commit and self.board.dies(self.number):
                os.kill(os.getpid(), signal.SIGKILL)  # the reply is lost
            now = time.monotonic()
            self.recorder.end(op, now, outcome, reason, noted.pieces, noted.facts)
            self.board.add_answered(self.number)
            if fatal is not None:
                raise fatal
            if outcome == UNAVAILABLE:
                await asyncio.sleep(_PAUSE)


def wrong_clock(board: Board, number: int) -> None:
    """Let this process's clock be wrong by what the board says."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + board.offset(number) / 1e6
    time.time_ns = lambda: now_ns() + board.offset(number) * 1000


async def _open(url: str, settings: Settings, number: int) -> interlock.AsyncSpace:
    while True:
        try:
            name = f"worker-{number}"
            return await interlock.open_async(url, settings.space, name, rules=RULES)
        except interlock.Unavailable:
            await asyncio.sleep(_PAUSE)


async def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        await asyncio.sleep(_LOOKS_EVERY)
    os.kill(os.getpid(), signal.SIGKILL)


async def live(settings: Settings, folder: Path, number: int, url: str) -> None:
    """Live the life of one worker."""
    life = Life(settings, folder, number)
    wrong_clock(life.board, number)
    watching = asyncio.create_task(_die_with(os.getppid()))
    async with await _open(url, settings, number) as space:
        worker = Worker(space)
        await asyncio.gather(*(life.work(worker) for _ in range(settings.tasks)))
        await worker.close()
    watching.cancel()


def orders(settings: Settings, folder: Path, number: int, url: str) -> bytes:
    """Return what a worker reads from its standard input: a URL may hold a password."""
    return json.dumps([settings.to_json(), str(folder), number, url]).encode()


def main() -> None:
    """Run a worker."""
    settings, folder, number, url = json.load(sys.stdin)
    try:
        asyncio.run(live(Settings.from_json(settings), Path(folder), number, url))
    except interlock.Corrupt:
        raise SystemExit(CLOSED) from None


if __name__ == "__main__":
    main()
