"""Six requests of one conversation come at once, each to a team that loads and saves its state.

    python examples/autogen_teams.py [sqlite:///teams.db]

First as the documentation of AutoGen does it, with a file: most of what was said is gone, and every
request reported success.  Then with one line changed.  The agent needs no model.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken

import interlock
from interlock.adapters.autogen import team_state

REQUESTS = 6


class Clerk(BaseChatAgent):
    """An agent that takes its time, and confirms."""

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        """It writes text."""
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        """Confirm the request."""
        await asyncio.sleep(0.05)
        text = f"noted: {messages[-1].to_text()}"
        return Response(chat_message=TextMessage(content=text, source=self.name))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        """It remembers nothing itself."""


def new_team() -> RoundRobinGroupChat:
    """A team of one clerk."""
    return RoundRobinGroupChat(
        [Clerk("clerk", "confirms")], termination_condition=MaxMessageTermination(2)
    )


@asynccontextmanager
async def file_state(path: Path, team: RoundRobinGroupChat) -> AsyncIterator[None]:
    """Load the state of a team from a file, and save it there afterwards."""
    if path.exists():
        await team.load_state(json.loads(path.read_text()))
    yield
    path.write_text(json.dumps(await team.save_state()))


State = Callable[[RoundRobinGroupChat], AbstractAsyncContextManager[Any]]


async def story(state: State) -> int:
    """Handle all requests at once; return how many messages the conversation has then."""

    async def handle(number: int) -> None:
        team = new_team()
        async with state(team):
            await team.run(task=f"request {number}")

    await asyncio.gather(*(handle(number) for number in range(REQUESTS)))
    team = new_team()
    async with state(team):
        saved = await team.save_state()
    return sum(len(each.get("message_thread", ())) for each in saved["agent_states"].values())


async def compare(url: str) -> dict[str, int]:
    """Do it with a file, and with a space."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.json"
        theirs = await story(lambda team: file_state(file, team))
    async with interlock.open_async(url, space=uuid.uuid4().hex, agent="office") as space:
        ours = await story(lambda team: team_state(space, "talk", team))  # the line that changes
    return {"theirs": theirs, "ours": ours}


def main(url: str) -> dict[str, int]:
    """Compare, print and return how many messages were kept."""
    found = asyncio.run(compare(url))
    for name, kept in found.items():
        print(f"{name}: {kept} of {2 * REQUESTS} messages kept")
    return found


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///teams.db")
