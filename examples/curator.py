"""Three workers remember what they learn: straight into the shared memory, and through a curator.

    python examples/curator.py [sqlite:///memory.db]

Straight: each reads the list, thinks, and writes it back, so that most of it is lost, and what is
left holds guesses and repetitions.  Through the curator: workers only emit events; a model (here a
function that stands for one) judges each once, and every memory is kept once, in its scope.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import interlock

Event = dict[str, Any]
LEARNED: dict[str, list[Event]] = {
    "ann": [
        {"scope": "project", "text": "deploys on Fridays fail"},
        {"scope": "user/kim", "text": "likes short answers"},
    ],
    "ben": [
        {"scope": "project", "text": "deploys on Fridays fail"},
        {"scope": "project", "text": "maybe the database is Oracle"},
    ],
    "cat": [
        {"scope": "agent", "text": "run the tests before a commit"},
        {"scope": "project"},  # malformed
    ],
}


def judge(event: Event) -> str | None:
    """Say why an event is not worth keeping: this stands for a call of a language model."""
    return "it is a guess" if event["text"].startswith("maybe") else None


def straight(path: Path) -> list[Event]:
    """Let the workers write to one memory file, as many do; return what is in it at the end."""
    path.write_text("[]")
    all_have_read = threading.Barrier(len(LEARNED))

    def work(name: str) -> None:
        for event in LEARNED[name]:
            memory = json.loads(path.read_text())
            all_have_read.wait(60)  # all of them think
            new = path.with_suffix(f".{name}")
            new.write_text(json.dumps([*memory, event]))
            new.replace(path)
            all_have_read.wait(60)

    with ThreadPoolExecutor() as pool:
        list(pool.map(work, LEARNED))
    found: list[Event] = json.loads(path.read_text())
    return found


def curated(url: str) -> dict[str, Any]:
    """Let the workers emit events; return what a curator made of them."""
    name = uuid.uuid4().hex  # a space of its own for each time that the example runs
    with interlock.open(url, name, rules={"events/*": interlock.merged("append")}) as space:

        def work(worker: str) -> None:
            for event in LEARNED[worker]:
                space.append(f"events/{worker}", event)

        with ThreadPoolExecutor() as pool:
            list(pool.map(work, LEARNED))
        curator = space.curator("events/", validate=judge, effect=True)
        curator.catch_up()  # a process of its own would say: for progress in curator: ...
        memories = {key: record.value for key, record in space.scan("memory/").items()}
        rejected = [record.value["reason"] for record in space.scan(curator.rejected).values()]
        try:
            space.update("memory/project", lambda memory: [*memory, {"text": "pollution"}])
        except interlock.Forbidden as refused:
            return {"memories": memories, "rejected": rejected, "refused": str(refused)}
    raise AssertionError("a worker wrote to the curator's memory")


def main(url: str) -> dict[str, Any]:
    """Show both; return what is remembered."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"straight": straight(Path(folder) / "memory.json"), "curated": curated(url)}
    events = sum(map(len, LEARNED.values()))
    print(f"straight: {len(found['straight'])} of {events} events are left: {found['straight']}")
    print(f"curated: {json.dumps(found['curated'], indent=2)}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///memory.db"])
