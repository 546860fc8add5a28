"""OpenAI Agents: sessions that several agents, processes and hosts may share.

A session is kept under `openai-agents/<session id>/`: `head` counts its items, `items/00000000`
and so on hold one item each, and `turn` is the key whose lease a run has.  The id is quoted, and
hashed if it is long.
"""

from __future__ import annotations

from interlock.extras import needs

with needs("OpenAI Agents", "openai-agents"):
    from interlock.adapters.openai_agents.session import Session
    from interlock.adapters.openai_agents.turn import (
        SessionConflict,
        SessionFenced,
        SessionHeld,
        SessionInvalid,
    )

__all__ = ["Session", "SessionConflict", "SessionFenced", "SessionHeld", "SessionInvalid"]
