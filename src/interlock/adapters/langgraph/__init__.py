"""LangGraph: a checkpointer and a store that are guarded, reducers, and a check of a graph's state.

Names are imported when they are first used: each needs other parts of LangGraph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.extras import later, needs

if TYPE_CHECKING:
    from interlock.adapters.langgraph.reducers import (
        append,
        counter,
        deep_merge,
        last_writer,
        maximum,
        minimum,
        union,
    )
    from interlock.adapters.langgraph.refusals import Overtaken
    from interlock.adapters.langgraph.run import AlreadyDone, ThreadRun
    from interlock.adapters.langgraph.saver import Saver
    from interlock.adapters.langgraph.state import Problem, StateReport, check_state
    from interlock.adapters.langgraph.store import Store

__all__ = [
    "AlreadyDone",
    "Overtaken",
    "Problem",
    "Saver",
    "StateReport",
    "Store",
    "ThreadRun",
    "append",
    "check_state",
    "counter",
    "deep_merge",
    "last_writer",
    "maximum",
    "minimum",
    "union",
]

_imported = later(
    __name__,
    {
        "reducers": "append counter deep_merge last_writer maximum minimum union",
        "refusals": "Overtaken",
        "run": "AlreadyDone ThreadRun",
        "saver": "Saver",
        "state": "Problem StateReport check_state",
        "store": "Store",
    },
)


def __getattr__(name: str) -> object:
    """Import a public name."""
    with needs("LangGraph", "langgraph"):
        return _imported(name)
