"""LangGraph: a checkpointer and a store that are guarded, reducers, and a check of a graph's state.

Names are imported when they are first used: each needs other parts of LangGraph.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from interlock.extras import needs

if TYPE_CHECKING:
    from interlock.adapters.langgraph.checkpoints import Overtaken
    from interlock.adapters.langgraph.reducers import (
        append,
        counter,
        deep_merge,
        last_writer,
        maximum,
        minimum,
        union,
    )
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

_HOMES = {
    "AlreadyDone": "run",
    "Overtaken": "checkpoints",
    "Problem": "state",
    "Saver": "saver",
    "StateReport": "state",
    "Store": "store",
    "ThreadRun": "run",
    "append": "reducers",
    "check_state": "state",
    "counter": "reducers",
    "deep_merge": "reducers",
    "last_writer": "reducers",
    "maximum": "reducers",
    "minimum": "reducers",
    "union": "reducers",
}


def __getattr__(name: str) -> object:
    """Import a public name."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needs("LangGraph", "langgraph"):
        return getattr(import_module(f"{__name__}.{home}"), name)
