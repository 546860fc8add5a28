"""Programs of durable runs that the tests start in worker processes.

`run.input["notes"]` is a file that every call adds a line to: what the outside sees.  A step whose
number is `run.input["gate_at"]` does not end before the file `run.input["gate"]` exists.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import interlock

STEPS = 4


def note(run: interlock.Run, line: str) -> None:
    """Add a line to the notes, which no two processes can tear."""
    file = os.open(run.input["notes"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{run.id} {line}\n".encode())
    os.close(file)


def notes(path: Path) -> list[str]:
    """Return the lines so far."""
    return path.read_text().splitlines() if path.exists() else []


def four_steps(run: interlock.Run) -> str:
    """Write `done/ID/N` in each of four steps."""

    def work(n: int) -> int:
        note(run, f"step {n}")
        if run.input.get("gate_at") == n:
            while not os.path.exists(run.input["gate"]):
                threading.Event().wait(0.005)
        run.tx.create(f"done/{run.id}/{n}", n)
        return n

    for n in range(STEPS):
        run.step("work", work, n)
    return "all done"


def kills_its_worker(run: interlock.Run) -> None:
    """Die in the second step, whoever runs it."""
    run.step("harmless", lambda: 1)

    def die() -> None:
        note(run, "dies")
        os.kill(os.getpid(), signal.SIGKILL)

    run.step("deadly", die)


def fails(run: interlock.Run) -> str:
    """Fail while `run.input["broken"]` exists."""
    note(run, "tried")
    if os.path.exists(run.input["broken"]):
        raise ValueError("it is broken")
    return "mended"


async def four_awaited(run: Any) -> str:
    """Write `done/ID/N` in each of four steps, awaited."""

    async def work(n: int) -> int:
        note(run, f"step {n}")
        await run.tx.create(f"done/{run.id}/{n}", n)
        return n

    for n in range(STEPS):
        await run.step("work", work, n)
    return "all done"
