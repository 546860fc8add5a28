"""Claude: the memory tool of the `anthropic` SDK, over a space that several agents, processes and
hosts share.

Names are imported when they are first used: each needs another package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.extras import later

if TYPE_CHECKING:
    from interlock.adapters.claude.memory import AsyncMemoryTool, MemoryTool

__all__ = ["AsyncMemoryTool", "MemoryTool"]

__getattr__ = later(__name__, {"memory": "AsyncMemoryTool MemoryTool"})
