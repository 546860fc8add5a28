"""A plugin of pytest: OpenAI Agents' own tests, with our session in the place of `SQLiteSession`.

Loaded with `-p` before the suite's conftest, so that every `from agents import SQLiteSession` of
the tests finds ours.  The space comes from `INTERLOCK_PEERS_URL`: one for each path of a database,
and a new one for each session in memory.
"""

from __future__ import annotations

import atexit
import os
import uuid
from pathlib import Path
from typing import Any

import agents
import agents.extensions.memory.encrypt_session  # the framework itself goes on telling them apart
import agents.memory
import agents.memory.sqlite_session

import interlock
from interlock.adapters.openai_agents import Session

URL = os.environ.get("INTERLOCK_PEERS_URL", "sqlite://")
_THIS_RUN = uuid.uuid4().hex[:12]  # a server keeps what earlier runs have stored
_spaces: dict[str, interlock.Space] = {}


def space_of(db_path: str | Path) -> interlock.Space:
    """Return the space that stands for a database."""
    path = str(db_path)
    name = uuid.uuid4().hex if path == ":memory:" else str(Path(path).expanduser().resolve())
    if name not in _spaces:
        made = uuid.uuid5(uuid.NAMESPACE_URL, _THIS_RUN + name).hex
        _spaces[name] = interlock.open(URL, space=made, agent="peers")
    return _spaces[name]


class PeerSession(Session):
    """Our session, made with the arguments of `SQLiteSession`."""

    def __init__(
        self,
        session_id: str,
        db_path: str | Path = ":memory:",
        sessions_table: str = "agent_sessions",
        messages_table: str = "agent_messages",
        session_settings: Any = None,
    ) -> None:
        tables = f"{sessions_table}/{messages_table}"
        kept = session_id if tables == "agent_sessions/agent_messages" else f"{tables}/{session_id}"
        super().__init__(
            space_of(db_path), kept, session_settings=session_settings, unread="overwrite"
        )
        self.session_id = session_id
        self.db_path = db_path

    def close(self) -> None:
        """Do nothing: a space may be shared, and is closed when the tests are over."""


def close_all() -> None:
    """Close what the tests have opened."""
    for space in _spaces.values():
        space.close()


atexit.register(close_all)
for module in (agents, agents.memory, agents.memory.sqlite_session):
    setattr(module, "SQLiteSession", PeerSession)  # noqa: B010  # a name of theirs, rebound
