"""Two requests of one customer reach two agents at once, which share a session.

    python examples/openai_agents_session.py [sqlite:///session.db]

First with the session of the framework: both models are asked with the same history, and what is
kept is a conversation that nobody had.  Meanwhile a summary replaces what it has not read.  Then
with one line changed.  The model needs no network.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents import Agent, RunConfig, Runner, SQLiteSession
from agents.exceptions import AgentsException
from agents.testing import ScriptedModel, assistant_message

import interlock
from interlock.adapters.openai_agents import Session

QUIET = RunConfig(tracing_disabled=True)


class ThinkingModel(ScriptedModel):
    """A scripted model that takes its time, as real ones do."""

    async def get_response(self, *args: Any, **named: Any) -> Any:
        """Think, then answer."""
        await asyncio.sleep(0.2)
        return await super().get_response(*args, **named)


def user(text: str) -> Any:
    """A message of the customer."""
    return {"role": "user", "content": text}


async def ask(session: Any, text: str) -> None:
    """Have one request answered."""
    model = ThinkingModel([[assistant_message(f"answer to: {text}")]])
    agent = Agent(name="assistant", model=model)
    await Runner.run(agent, text, session=session, run_config=QUIET)


async def summarise(session: Any) -> None:
    """Replace the history by a summary of it."""
    old = await session.get_items()
    await asyncio.sleep(0.2)  # the summary is written by a model
    await session.clear_session()
    await session.add_items([user(f"summary of {len(old)} items")])


async def story(session: Callable[[str], Any]) -> dict[str, Any]:
    """Tell both stories with one kind of session; return what was kept."""
    await asyncio.gather(ask(session("talk"), "first"), ask(session("talk"), "second"))
    talk = [str(item.get("role")) for item in await session("talk").get_items()]

    await session("long").add_items([user(str(n)) for n in range(3)])
    summary = asyncio.create_task(summarise(session("long")))
    await asyncio.sleep(0.1)
    await session("long").add_items([user("do not forget me")])
    try:
        await summary
        refused = ""
    except AgentsException as problem:
        refused = type(problem).__name__
    kept = [item["content"] for item in await session("long").get_items()]
    return {"talk": talk, "kept": "do not forget me" in kept, "refused": refused}


async def compare(url: str) -> dict[str, Any]:
    """Tell them with the framework's session, and with ours."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sessions.db"
        theirs = await story(lambda name: SQLiteSession(name, file))
    async with interlock.open_async(url, space=uuid.uuid4().hex, agent="support") as space:
        ours = await story(lambda name: Session(space, name, wait=None))  # the line that changes
    return {"theirs": theirs, "ours": ours}


def main(url: str) -> dict[str, Any]:
    """Compare, print and return what was kept."""
    found = asyncio.run(compare(url))
    for name, told in found.items():
        print(f"{name}: the conversation is {', '.join(told['talk'])};", end=" ")
        lost = f"kept ({told['refused']})" if told["kept"] else "lost, and nobody was told"
        print(f"the item that came while the summary was written is {lost}")
    return found


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///session.db")
