"""Three agents on one space: one plans, several research, one writes.

    python examples/pipeline.py [sqlite:///pipeline.db]

Each agent is a worker with a program of its own, here in threads; they could be on three machines.
They hand over by runs: one starts the runs of another, which sends back what it has found.  Kill
any of them at any moment: the next worker of that program goes on.
"""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import interlock

# What would be calls of a model or of the web.
LIBRARY = {
    "leases": "who holds one may write, until it runs out",
    "fencing": "who lost one is refused, whatever its clock says",
    "logs": "what happened can be read again, in order",
}


def article(run: interlock.Run, space: interlock.Space) -> dict[str, Any]:
    """The planner: decide what is to be known, have it researched, have it written."""
    topics: list[str] = run.step("plan", lambda: sorted(run.input["topics"]))
    for topic in topics:
        ask(run, space, f"{run.id}.{topic}", "research", {"topic": topic})
    notes = {topic: run.wait_for(f"{run.id}.{topic}") for topic in topics}
    ask(run, space, f"{run.id}.text", "write", {"notes": notes})
    return {"text": run.wait_for(f"{run.id}.text")}


def ask(run: interlock.Run, space: interlock.Space, id: str, program: str, given: Any) -> None:
    """Start a run of another agent, once: one that is there already is the one that was meant."""

    def start() -> None:
        with suppress(interlock.Conflict):  # it was started before a crash
            space.runs.start(id, program, {**given, "asked_by": run.id})

    run.step(f"ask for {id}", start)


def answer(run: interlock.Run, space: interlock.Space, value: Any) -> None:
    """Give the run that asked what it waits for, once."""

    def send() -> None:
        with suppress(interlock.Conflict):  # it was sent before a crash
            space.runs.send(run.input["asked_by"], run.id, value)

    run.step("answer", send)


def research(run: interlock.Run, space: interlock.Space) -> str:
    """A researcher: find out about one topic, and keep it where all can read it."""
    topic: str = run.input["topic"]

    def find() -> str:
        run.tx.create(f"notes/{run.id}", LIBRARY[topic])
        return LIBRARY[topic]

    found: str = run.step("find", find)
    answer(run, space, found)
    return found


def write(run: interlock.Run, space: interlock.Space) -> str:
    """The writer: one text out of all notes."""
    notes: dict[str, str] = run.input["notes"]
    text: str = run.step(
        "write", lambda: "\n".join(f"{topic}: {note}" for topic, note in notes.items())
    )
    answer(run, space, text)
    return text


AGENTS: dict[str, tuple[str, Callable[[interlock.Run, interlock.Space], Any]]] = {
    "planner": ("article", article),
    "researcher": ("research", research),
    "writer": ("write", write),
}


def main(url: str) -> dict[str, Any]:
    """Have an article written; return it, and who worked on what."""
    name = uuid.uuid4().hex  # a space of its own for each time that the example runs
    spaces = {agent: interlock.open(url, space=name, agent=agent) for agent in AGENTS}
    workers = []
    for agent, (program, function) in AGENTS.items():
        space = spaces[agent]

        def call(run: interlock.Run, fn: Any = function, space: Any = space) -> Any:
            return fn(run, space)

        workers.append(space.worker({program: call}, poll=0.2))
    threads = [threading.Thread(target=worker.work) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        with interlock.open(url, space=name, agent="editor") as space:
            space.runs.start("article-1", "article", {"topics": list(LIBRARY)})
            for entry in space.watch("$runs/done/", after=0):
                run_id = entry.key.removeprefix("$runs/done/")
                print(f"{entry.agent} has finished {run_id}")
                if run_id == "article-1":
                    break
            text: str = space.runs.show("article-1").result["text"]
            print(text)
            return {
                "text": text,
                "agents": {info.id: info.agent for info in space.runs.list()},
                "notes": len(space.scan("notes/")),
            }
    finally:
        for worker, thread in zip(workers, threads, strict=True):
            worker.stop()
            thread.join()
        for each in spaces.values():
            each.close()


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///pipeline.db"])
