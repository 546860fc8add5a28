"""Strands: sessions of agents that many runs, processes and hosts may share.

A message goes where no other is, and the state of an agent over what its manager has read: a second
agent on one session is refused instead of overwriting the first one's messages.  Below `strands/`
are `sessions/<session>`, `agents/<session>/<agent>`, `messages/<session>/<agent>/<number>`,
`groups/<session>/<group>`, and `turns/<session>`, whose lease a turn has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from interlock import Conflict, Fenced, Invalid, Json, Lease, Record, Space
from interlock.adapters.kv import unread_record
from interlock.adapters.space import as_written, quoted, raised_as, synchronous
from interlock.extras import needs

with needs("Strands", "strands"):
    from strands.session import RepositorySessionManager, SessionRepository
    from strands.types.exceptions import SessionException
    from strands.types.session import Session, SessionAgent, SessionMessage

__all__ = ["SessionConflict", "SessionFenced", "SessionInvalid", "SessionManager", "turn"]

_LONGEST = 128  # characters of a name in a key
_DIGITS = 12  # of a message's number, so that keys are in order


class SessionConflict(Conflict, SessionException):
    """Another agent was here first.  Make the agent anew, which reads the session, and run it."""


class SessionFenced(Fenced, SessionException):
    """The session was taken away from this turn.  Nothing was stored; it must stop."""


class SessionInvalid(Invalid, SessionException):
    """What cannot be stored: the message names it, and the limit."""


class SessionManager(RepositorySessionManager, SessionRepository):
    """A session manager in a space from `interlock.open`.  Make one for each agent.

    `Agent(session_manager=SessionManager("customer-17", space))` refuses what would overwrite
    messages or state of others; within a `turn` others wait.
    """

    def __init__(self, session_id: str, space: Space, *, lease: Lease | None = None) -> None:
        self._space = synchronous(space, "SessionManager")
        self._lease = lease
        self._known: dict[str, Record] = {}
        super().__init__(session_id=session_id, session_repository=self)

    def create_session(self, session: Session, **kwargs: Any) -> Session:
        """Create a session; one that another process has just made is as good."""
        key = _key("sessions", session.session_id)
        try:
            self._write(self._space.read(key), session.to_dict())
        except SessionConflict as made:
            return Session.from_dict(made.record.value)
        return session

    def read_session(self, session_id: str, **kwargs: Any) -> Session | None:
        """Return a session."""
        found = self._space.read(_key("sessions", session_id))
        return Session.from_dict(found.value) if found.exists else None

    def delete_session(self, session_id: str, **kwargs: Any) -> None:
        """Delete a session with all that belongs to it.  Raises SessionException."""
        if self.read_session(session_id) is None:
            raise SessionException(f"Session {session_id} does not exist")
        for kind in ("messages", "agents", "groups"):
            for record in self._space.scan(f"{_key(kind, session_id)}/").values():
                self._delete(record)
        self._delete(self._space.read(_key("sessions", session_id)))

    def create_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Create an agent.  Raises SessionConflict if there is one."""
        self._create(_key("agents", session_id, session_agent.agent_id), session_agent.to_dict())

    def read_agent(self, session_id: str, agent_id: str, **kwargs: Any) -> SessionAgent | None:
        """Return an agent; an update goes over this."""
        found = self._read(_key("agents", session_id, agent_id))
        return SessionAgent.from_dict(found.value) if found.exists else None

    def update_agent(self, session_id: str, session_agent: SessionAgent, **kwargs: Any) -> None:
        """Store an agent over what was read.  Raises SessionConflict, SessionException."""
        self._update(_key("agents", session_id, session_agent.agent_id), session_agent.to_dict())

    def create_message(
        self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any
    ) -> None:
        """Add a message under its number.  Raises SessionConflict if another one has it."""
        key = _message_key(session_id, agent_id, session_message.message_id)
        self._create(key, session_message.to_dict())

    def read_message(
        self, session_id: str, agent_id: str, message_id: int, **kwargs: Any
    ) -> SessionMessage | None:
        """Return a message."""
        found = self._read(_message_key(session_id, agent_id, message_id))
        return SessionMessage.from_dict(found.value) if found.exists else None

    def update_message(
        self, session_id: str, agent_id: str, session_message: SessionMessage, **kwargs: Any
    ) -> None:
        """Redact a message.  Raises SessionConflict, SessionException."""
        key = _message_key(session_id, agent_id, session_message.message_id)
        self._update(key, session_message.to_dict())

    def list_messages(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, **_: Any
    ) -> list[SessionMessage]:
        """Return the messages of an agent, in order."""
        found = self._space.scan(f"{_key('messages', session_id, agent_id)}/")
        self._known.update(found)
        records = sorted(found.values(), key=lambda record: record.key)[offset:]
        return [SessionMessage.from_dict(record.value) for record in records[:limit]]

    def create_multi_agent(self, session_id: str, multi_agent: Any, **kwargs: Any) -> None:
        """Create the state of a group.  Raises SessionConflict if there is one."""
        self._create(_key("groups", session_id, multi_agent.id), multi_agent.serialize_state())

    def read_multi_agent(
        self, session_id: str, multi_agent_id: str, **kwargs: Any
    ) -> dict[str, Any] | None:
        """Return the state of a group; an update goes over this."""
        found = self._read(_key("groups", session_id, multi_agent_id))
        return found.value if found.exists else None

    def update_multi_agent(self, session_id: str, multi_agent: Any, **kwargs: Any) -> None:
        """Store the state of a group over what was read.  Raises SessionConflict."""
        self._update(_key("groups", session_id, multi_agent.id), multi_agent.serialize_state())

    def _read(self, key: str) -> Record:
        self._known[key] = self._space.read(key)
        return self._known[key]

    def _create(self, key: str, value: Json) -> None:
        fresh = self._space.read(key)
        self._write(unread_record(fresh) if fresh.exists else fresh, value)

    def _update(self, key: str, value: Json) -> None:
        fresh = self._space.read(key)
        if not fresh.exists:
            raise SessionException(f"{key} does not exist")
        kept = {name: fresh.value[name] for name in _KEPT if name in fresh.value}
        self._write(self._known.get(key, unread_record(fresh)), {**value, **kept})

    def _write(self, base: Record, value: Json) -> None:
        with _translated():
            with self._space.transaction() as tx:
                if self._lease is not None:
                    tx.expect(self._lease.record)  # fenced if it was taken away
                tx.write(base, value)
            assert tx.committed is not None  # a block that did not raise was committed
            self._known[base.key] = as_written(base, value, tx.committed)

    def _delete(self, record: Record) -> None:
        with _translated():
            self._space.delete(record)


@contextmanager
def turn(
    space: Space, session_id: str, *, wait: float | None = None, ttl: float = 30.0
) -> Iterator[SessionManager]:
    """Have a session to oneself: `with turn(space, "customer-17") as manager:`, make the agent, run
    it.

    Takes the lease of the session (`ttl` seconds, renewed; `wait` seconds in a first-come queue,
    None: without limit).  Raises Held if `wait` has passed; whatever the agent stores raises
    SessionFenced if the lease was taken away.
    """
    found = synchronous(space, "turn")
    with found.lease(_key("turns", session_id), ttl, wait=wait) as lease:
        yield SessionManager(session_id, found, lease=lease)


_KEPT = ("created_at",)  # of what is updated


def _key(kind: str, *names: str) -> str:
    return "/".join(["strands", kind, *(quoted(name, _LONGEST) for name in names)])


def _message_key(session_id: str, agent_id: str, message_id: int) -> str:
    if not isinstance(message_id, int):
        raise ValueError(f"message_id=<{message_id}> | message id must be an integer")
    return f"{_key('messages', session_id, agent_id)}/{message_id:0{_DIGITS}}"


def _translated() -> AbstractContextManager[None]:
    """Raise refusals as exceptions of Strands."""
    return raised_as(SessionConflict, SessionFenced, SessionInvalid)
