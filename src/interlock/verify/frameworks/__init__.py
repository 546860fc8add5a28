"""A concurrency conformance kit for the stores of agent frameworks, whoever wrote them.

`check_saver` and `check_store` are for LangGraph, `check_session` for OpenAI Agents,
`check_flow_persistence` for CrewAI, `check_cache_store` and `check_team_state` for AutoGen,
`check_session_state` for FastMCP, `check_session_service` for Google ADK, `check_memory_tool` and
`check_transcript_store` for Claude, `check_key_value` for whatever has a `get` and a `set`.  Each
takes a function that opens the store under test as one more process would, makes agents meet where
work gets lost, and returns a `Report`.  Names, and the frameworks, are imported when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.extras import later

if TYPE_CHECKING:
    from interlock.verify.frameworks.adk import check_session_service
    from interlock.verify.frameworks.agents import Report, Result
    from interlock.verify.frameworks.caches import check_cache_store, check_team_state
    from interlock.verify.frameworks.claude import check_memory_tool, check_transcript_store
    from interlock.verify.frameworks.fastmcp import check_session_state
    from interlock.verify.frameworks.flows import check_flow_persistence
    from interlock.verify.frameworks.keyvalues import check_key_value
    from interlock.verify.frameworks.langgraph import check_saver, check_store
    from interlock.verify.frameworks.sessions import check_session

__all__ = [
    "Report",
    "Result",
    "check_cache_store",
    "check_flow_persistence",
    "check_key_value",
    "check_memory_tool",
    "check_saver",
    "check_session",
    "check_session_service",
    "check_session_state",
    "check_store",
    "check_team_state",
    "check_transcript_store",
]

__getattr__ = later(
    __name__,
    {
        "adk": "check_session_service",
        "agents": "Report Result",
        "caches": "check_cache_store check_team_state",
        "claude": "check_memory_tool check_transcript_store",
        "fastmcp": "check_session_state",
        "flows": "check_flow_persistence",
        "keyvalues": "check_key_value",
        "langgraph": "check_saver check_store",
        "sessions": "check_session",
    },
)
