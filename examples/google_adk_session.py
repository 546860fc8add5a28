"""Five requests of one customer reach five hosts at once, which share a session of Google ADK.

    python examples/google_adk_session.py [sqlite:///adk.db]

First with ADK's own SQLite service: what others stored meanwhile makes a run fail after its model
was asked, and the customer's points, which all sessions share, are counted once.  Then with one
line changed.  The model needs no network.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.errors import StaleSessionError
from google.adk.events import Event, EventActions
from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.sessions.sqlite_session_service import SqliteSessionService
from google.genai import types

from interlock.adapters.adk import SessionService

WHO: dict[str, Any] = {"app_name": "shop", "user_id": "ann"}


class ThinkingModel(BaseLlm):
    """A model that takes its time, as real ones do."""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Think, then answer."""
        await asyncio.sleep(0.2)
        answer = types.Content(role="model", parts=[types.Part(text="done")])
        usage = types.GenerateContentResponseUsageMetadata(total_token_count=1)
        yield LlmResponse(content=answer, usage_metadata=usage)


async def ask(service: Any, text: str) -> None:
    """Have one request answered."""
    agent = LlmAgent(name="support", model=ThinkingModel(model="thinking"))
    runner = Runner(app_name="shop", agent=agent, session_service=service)
    message = types.Content(role="user", parts=[types.Part(text=text)])
    async for _ in runner.run_async(user_id="ann", session_id="talk", new_message=message):
        pass


async def add_point(service: Any, session_id: str) -> None:
    """Give the customer a point; read again, where somebody else came first."""
    while True:
        session = await service.get_session(**WHO, session_id=session_id)
        await asyncio.sleep(0.1)  # a model decides whether it is deserved
        delta = {"user:points": session.state.get("user:points", 0) + 1}
        try:
            event = Event(author="support", actions=EventActions(state_delta=delta))
            await service.append_event(session, event)
            return
        except StaleSessionError:
            continue


async def story(service: Any) -> dict[str, int]:
    """Tell it with one service; return what was kept."""
    for session_id in ("talk", *map(str, range(5))):
        await service.create_session(**WHO, session_id=session_id)
    await asyncio.gather(*(ask(service, f"m{n}") for n in range(5)), return_exceptions=True)
    await asyncio.gather(*(add_point(service, str(n)) for n in range(5)))
    session = await service.get_session(**WHO, session_id="talk")
    answers = [event for event in session.events if event.author == "support"]
    return {"answers": len(answers), "points": session.state["user:points"]}


async def compare(url: str) -> dict[str, Any]:
    """Tell it with ADK's service, and with ours."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = await story(SqliteSessionService(str(Path(folder) / "adk.db")))
    async with SessionService(url, space=uuid.uuid4().hex) as service:  # the line that changes
        ours = await story(service)
    return {"theirs": theirs, "ours": ours}


def main(url: str) -> dict[str, Any]:
    """Compare, print and return what was kept."""
    found = asyncio.run(compare(url))
    for name, kept in found.items():
        print(f"{name}: {kept['answers']} of 5 answers, {kept['points']} of 5 points")
    return found


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///adk.db")
