"""Agents that keep one plan in a file: first with `open`, then with one line changed.

    python examples/shared_files.py [sqlite:///shared.db]

Each agent reads the plan, thinks, and writes it with its own line.  With `open` whoever writes last
destroys what the others wrote.  With the files of a space nothing is lost, and `plan.md` is a plain
file all the same.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import interlock

AGENTS = 8
Think = Callable[[str], str]


def with_open(plan: Path, url: str, name: str, think: Think) -> None:
    """Add to the plan as programs do."""
    plan.parent.mkdir(exist_ok=True)
    text = plan.read_text() if plan.exists() else ""
    plan.write_text(think(text))


def with_interlock(plan: Path, url: str, name: str, think: Think) -> None:
    """Add to the plan as agents should."""
    with interlock.open(url, space=name) as space:
        space.files(plan.parent).update(plan.name, think)  # the one line


def agents(add: Callable[[Path, str, str, Think], None], plan: Path, url: str) -> list[str]:
    """Have all agents add a line at once; return the lines of the plan afterwards."""
    name = uuid.uuid4().hex  # a space of its own for each time that the example runs
    all_have_read = threading.Barrier(AGENTS)

    def work(agent: int) -> None:
        first = True

        def think(text: str) -> str:
            nonlocal first
            if first:  # the offline model: it takes as long as the slowest agent reads
                first = False
                all_have_read.wait()
            return f"{text}- step of agent {agent}\n"

        add(plan, url, name, think)

    threads = [threading.Thread(target=work, args=(agent,)) for agent in range(AGENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return plan.read_text().splitlines()


def main(url: str) -> dict[str, int]:
    """Run it both ways; return how many of the agents' lines are in the file."""
    with tempfile.TemporaryDirectory() as folder:
        lost = agents(with_open, Path(folder) / "open" / "plan.md", url)
        kept = agents(with_interlock, Path(folder) / "interlock" / "plan.md", url)
    print(f"with open: {len(lost)} of {AGENTS} lines are left")
    print(f"with space.files: {len(kept)} of {AGENTS}")
    return {"open": len(lost), "interlock": len(kept), "agents": len(set(kept))}


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///shared.db"])
