"""Refusals as both libraries know them: Interlock's type, and an AgentsException."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agents.exceptions import AgentsException, UserError

from interlock import Conflict, Fenced, Held, Invalid, Refused


class SessionConflict(Conflict, AgentsException):
    """The session has moved since this task read it.  Read again, and decide again."""


class SessionHeld(Held, AgentsException):
    """Another run has the session.  Nothing was stored, and no model was called; try later."""


class SessionFenced(Fenced, AgentsException):
    """The session was taken away from this run.  Nothing was stored; it must stop."""


class SessionInvalid(Invalid, UserError):
    """An item or an argument that cannot be stored: the message names it, and the limit."""


_KINDS: tuple[tuple[type[Refused], type[Refused]], ...] = (
    (Conflict, SessionConflict),
    (Held, SessionHeld),
    (Fenced, SessionFenced),
    (Invalid, SessionInvalid),
)


@contextmanager
def translated() -> Iterator[None]:
    """Raise a refusal as the one that users of OpenAI Agents catch, too."""
    try:
        yield
    except Refused as refused:
        for kind, ours in _KINDS:
            if isinstance(refused, kind) and not isinstance(refused, ours):
                raise ours(refused.outcome) from refused
        raise
