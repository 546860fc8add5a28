"""Eight parallel nodes of a LangGraph graph note something in one shared memory.

    python examples/langgraph_memory.py [sqlite:///memory.db]

Each reads the memory, thinks, and puts it back with its own note.  With LangGraph's store one note
is left, and every node reports success.  With one line changed, all eight are there.
"""

from __future__ import annotations

import operator
import sys
import threading
import uuid
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import RetryPolicy

import interlock
from interlock.adapters.langgraph import Store

NODES = 8
TEAM = ("team", "memory")


class State(TypedDict):
    """How many nodes have reported success."""

    done: Annotated[int, operator.add]


def run_graph(store: BaseStore) -> list[str]:
    """Run the graph with a store; return the notes that are left."""
    all_have_read = threading.Barrier(NODES)  # each thinks for so long that all others have read
    builder = StateGraph(State)

    def note_of(name: str) -> Any:
        attempts = iter(range(1000))

        def note(state: State, *, store: BaseStore) -> dict[str, int]:
            memory = store.get(TEAM, "notes")
            if next(attempts) == 0:
                all_have_read.wait(timeout=60)
            notes = [] if memory is None else memory.value["notes"]
            store.put(TEAM, "notes", {"notes": [*notes, f"from {name}"]})
            return {"done": 1}

        return note

    for number in range(NODES):
        name = f"agent-{number}"
        retry = RetryPolicy(max_attempts=NODES, initial_interval=0.01, max_interval=0.1)
        builder.add_node(name, note_of(name), retry_policy=retry)
        builder.add_edge(START, name)
    done = builder.compile(store=store).invoke({"done": 0}, {"max_concurrency": NODES})["done"]
    memory = store.get(TEAM, "notes")
    notes = [] if memory is None else sorted(memory.value["notes"])
    print(f"{type(store).__name__}: {done} nodes reported success, {len(notes)} notes are left")
    return notes


def main(url: str) -> dict[str, list[str]]:
    """Run it with LangGraph's own store and with Interlock's; return what each kept."""
    lost = run_graph(InMemoryStore())
    with interlock.open(url, space=uuid.uuid4().hex) as space:
        kept = run_graph(Store(space))  # the changed line
    return {"LangGraph": lost, "Interlock": kept}


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///memory.db"])
