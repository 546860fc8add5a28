"""LangGraph: a checkpointer that guards its threads."""

from __future__ import annotations

from interlock.adapters.extras import needs

with needs("LangGraph", "langgraph"):
    from interlock.adapters.langgraph.running import AlreadyDone, ThreadRun
    from interlock.adapters.langgraph.saver import Saver

__all__ = ["AlreadyDone", "Saver", "ThreadRun"]
