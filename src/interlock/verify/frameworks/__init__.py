"""A concurrency conformance kit for the stores of agent frameworks, whoever wrote them.

`check_saver` and `check_store` are for LangGraph, `check_session` for OpenAI Agents,
`check_flow_persistence` for CrewAI, `check_cache_store` and `check_team_state` for AutoGen.  Each
takes a function that opens the store under test as one more process would, makes agents meet where
work gets lost, and returns a `Report`.  Names, and the frameworks, are imported when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interlock.verify.frameworks.agents import Report, Result
    from interlock.verify.frameworks.caches import check_cache_store, check_team_state
    from interlock.verify.frameworks.flows import check_flow_persistence
    from interlock.verify.frameworks.savers import check_saver
    from interlock.verify.frameworks.sessions import check_session
    from interlock.verify.frameworks.stores import check_store

__all__ = [
    "Report",
    "Result",
    "check_cache_store",
    "check_flow_persistence",
    "check_saver",
    "check_session",
    "check_store",
    "check_team_state",
]

_HOMES = {
    "Report": "agents",
    "Result": "agents",
    "check_cache_store": "caches",
    "check_flow_persistence": "flows",
    "check_saver": "savers",
    "check_session": "sessions",
    "check_store": "stores",
    "check_team_state": "caches",
}


def __getattr__(name: str) -> object:
    """Import a public name."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
