"""Two agents of Claude keep their memory in one file, and edit it in the same moment.

    python examples/claude_memory.py [sqlite:///memory.db]

First with the memory tool that comes with the `anthropic` package: each edit reads the file and
writes it back, and what the others wrote meanwhile is gone.  Then with one line changed.  The calls
are those that a model makes; no network is needed.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import uuid
from collections.abc import Callable
from typing import Any

from anthropic.lib.tools._beta_builtin_memory_tool import BetaAsyncLocalFilesystemMemoryTool

import interlock
from interlock.adapters.claude import AsyncMemoryTool

EDITS = 6
NOTES = "/memories/notes.md"


async def story(tool: Callable[[], Any]) -> tuple[int, int]:
    """Let two agents tick off a list; return how many edits were acknowledged, and kept."""
    agents = [tool(), tool()]
    lines = "".join(f"[ ] task {n}\n" for n in range(EDITS))
    await agents[0].call({"command": "create", "path": NOTES, "file_text": lines})
    edit = {"command": "str_replace", "path": NOTES}
    answers = await asyncio.gather(
        *(
            agents[n % 2].call({**edit, "old_str": f"[ ] task {n}\n", "new_str": f"[x] task {n}\n"})
            for n in range(EDITS)
        )
    )
    text = await tool().call({"command": "view", "path": NOTES})
    return sum("has been edited" in answer for answer in answers), text.count("[x]")


async def compare(url: str) -> dict[str, tuple[int, int]]:
    """Tell it with the tool of the SDK, and with ours."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = await story(lambda: BetaAsyncLocalFilesystemMemoryTool(folder))
    async with interlock.open_async(url, space=uuid.uuid4().hex, agent="claude") as space:
        ours = await story(lambda: AsyncMemoryTool(space))  # the line that changes
    return {"theirs": theirs, "ours": ours}


def main(url: str) -> dict[str, tuple[int, int]]:
    """Compare, print and return what was kept."""
    found = asyncio.run(compare(url))
    for name, (acknowledged, kept) in found.items():
        print(f"{name}: {acknowledged} edits were acknowledged, {kept} are in the file")
    return found


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///memory.db")
