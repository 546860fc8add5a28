"""Claude: the memory tool of the `anthropic` SDK, the session store of the Claude Agent SDK, and
hooks of Claude Code, over a space that several agents, processes and hosts share.

Names are imported when they are first used: the hooks need no other package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.extras import later

if TYPE_CHECKING:
    from interlock.adapters.claude.hooks import FileHooks
    from interlock.adapters.claude.memory import AsyncMemoryTool, MemoryTool
    from interlock.adapters.claude.sessions import SessionStore

__all__ = ["AsyncMemoryTool", "FileHooks", "MemoryTool", "SessionStore"]

__getattr__ = later(
    __name__,
    {"hooks": "FileHooks", "memory": "AsyncMemoryTool MemoryTool", "sessions": "SessionStore"},
)
