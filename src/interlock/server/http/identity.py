"""Who calls: tokens, and what each may do.

A token is shown once, when it is made.  What is kept is its digest, under its id, in a space of the
service's own, where making and revoking one are entries of the log like any other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import interlock
from interlock import AsyncSpace, Invalid, Json, Record, Space
from interlock.core.keys import check_name, check_pattern, matches
from interlock.errors import raise_refused
from interlock.server.http.problem import Problem, forbidden

SERVICE_SPACE = "interlock-service"
ROLES = ("reader", "writer", "operator", "admin")
AUDIT = "audit"
SERVICE_RULES = {AUDIT: interlock.merged("append")}
ANY_AGENT = "*"  # of a token: of a gateway that says itself for whom it calls
_PREFIX = "token/"
_OF_QUEUE = "$lease/"
_LONGEST = 512  # characters of a token that is looked at
_REMEMBERED = 1.0  # seconds for which a token is not looked up again
_MOST = 10_000  # tokens that are remembered


@dataclass(frozen=True)
class Identity:
    """What a caller may do.  `agent` None: whoever it says it is, as on a service without tokens.

    `spaces` are names, or `team-*`; `keys` are patterns, of which `**` is every key.
    """

    agent: str | None = None
    role: str = "admin"
    spaces: tuple[str, ...] = ("*",)
    keys: tuple[str, ...] = ("**",)
    token: str = ""

    @property
    def sees_all(self) -> bool:
        """Whether every key is its."""
        return "**" in self.keys

    def need(self, role: str) -> None:
        """Raise Problem where its role is below this one."""
        if ROLES.index(self.role) < ROLES.index(role):
            raise forbidden(f"This needs the role {role!r}; the token has {self.role!r}.")

    def may_space(self, name: str) -> bool:
        """Whether a space is its."""
        return any(
            name == each or (each.endswith("*") and name.startswith(each[:-1]))
            for each in self.spaces
        )

    def may_key(self, key: str) -> bool:
        """Whether a key, or the queue for one, is its."""
        if self.sees_all:
            return True
        key = key.removeprefix(_OF_QUEUE)
        return any(matches(self._own(pattern), key) for pattern in self.keys)

    def may_prefix(self, prefix: str) -> bool:
        """Whether every key that begins so is its."""
        return self.sees_all or any(_covers(self._own(each), prefix) for each in self.keys)

    def need_key(self, key: str) -> None:
        """Raise Problem where a key is not its."""
        if not self.may_key(key):
            raise forbidden(f"The token does not include the key {key!r}.", key=key)

    def need_prefix(self, prefix: str) -> None:
        """Raise Problem where not every key of a prefix is its."""
        if not self.may_prefix(prefix):
            raise forbidden(f"The token does not include all keys that begin with {prefix!r}.")

    def need_all(self) -> None:
        """Raise Problem where not every key is its."""
        if not self.sees_all:
            raise forbidden("This needs a token of all keys ('**').")

    def need_agent(self, agent: str) -> None:
        """Raise Problem where it is another agent."""
        if self.agent is not None and agent != self.agent:
            raise forbidden(
                f"The token is agent {self.agent!r}, not {agent!r}: "
                f"open the space with agent={self.agent!r}."
            )

    def _own(self, pattern: str) -> str:
        return pattern.replace("{agent}", self.agent or "")


def _covers(pattern: str, prefix: str) -> bool:
    *base, last = pattern.split("/")
    parts = prefix.split("/")
    return last == "**" and len(parts) > len(base) and matches("/".join([*base, "**"]), prefix)


ANYBODY = Identity()


def make_token(
    agent: str,
    role: str = "writer",
    spaces: Sequence[str] = ("*",),
    keys: Sequence[str] = ("**",),
) -> tuple[str, str, dict[str, Json]]:
    """Return a new token, its key in the service's space, and what is kept there.

    Raises Invalid.
    """
    raise_refused(check_name("agent", agent))
    if role not in ROLES:
        raise Invalid(f"role={role!r:.40} must be one of {', '.join(ROLES)}.")
    for pattern in keys:
        raise_refused(check_pattern(pattern.removeprefix("$")))
    for space in spaces:
        raise_refused(check_name("space", space))
    if not keys or not spaces:
        raise Invalid("A token needs at least one space and one pattern of keys.")
    name, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    text = f"ilk_{name}_{secret}"
    kept: dict[str, Json] = {
        "agent": agent,
        "role": role,
        "spaces": list(spaces),
        "keys": list(keys),
        "digest": _digest(text),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return text, _PREFIX + name, kept


def create_token(
    space: Space, agent: str, expires: float | None = None, **options: Any
) -> tuple[str, Record]:
    """Make a token that the service knows, and return it: it is not kept.  Raises Invalid.

    `expires`: seconds, by the store's clock.  The options are those of `make_token`.
    """
    text, key, kept = make_token(agent, **options)
    return text, space.create(key, kept, expires=expires)


def revoke_token(space: Space, name: str) -> None:
    """Have the service refuse a token from now on.  Raises Invalid."""
    record = space.read(_PREFIX + name)
    if not record.exists:
        raise Invalid(f"There is no token {name!r}. `interlock tokens list` shows them.")
    space.delete(record)


def list_tokens(space: Space) -> list[dict[str, Json]]:
    """Return what is known of each token that is neither revoked nor expired."""
    found = []
    for record in space.scan(_PREFIX).values():
        shown = {name: each for name, each in record.value.items() if name != "digest"}
        expires = record.expires_at
        shown["expires_at"] = None if expires is None else expires.isoformat(timespec="seconds")
        found.append({"token": record.key.removeprefix(_PREFIX), **shown})
    return found


def _digest(text: str) -> str:
    """A token has 256 random bits, so its digest needs no salt and no slow function."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


class Tokens:
    """The tokens of a service: looked up in its space, and remembered for a second."""

    def __init__(self, space: AsyncSpace, remembered: float = _REMEMBERED) -> None:
        self._space = space
        self._remembered = remembered
        self._known: dict[str, tuple[float, Identity]] = {}

    async def identity(self, text: str) -> Identity:
        """Return whom a token stands for.  Raises Problem: unknown, revoked and expired are one."""
        digest = _digest(text)
        since, found = self._known.get(digest, (0.0, None))
        if found is not None and time.monotonic() - since < self._remembered:
            return found
        self._known.pop(digest, None)
        name = text.split("_")[1] if text.count("_") >= 2 and len(text) <= _LONGEST else ""
        record = await self._space.read(_PREFIX + name) if name.isalnum() else None
        kept = record.value if record is not None and record.exists else None
        if kept is None or not hmac.compare_digest(kept["digest"], digest):
            raise unauthorized("The token is unknown, revoked or expired.")
        found = _identity(kept, name)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[digest] = (time.monotonic(), found)
        return found

    async def note(self, agent: str | None, what: str, space: str, **details: Json) -> None:
        """Keep what an operator did."""
        line = {"agent": agent, "did": what, "space": space, **details}
        await self._space.append(AUDIT, line)


def _identity(kept: Mapping[str, Json], name: str) -> Identity:
    agent = None if kept["agent"] == ANY_AGENT else kept["agent"]
    return Identity(agent, kept["role"], tuple(kept["spaces"]), tuple(kept["keys"]), token=name)


def unauthorized(why: str) -> Problem:
    """Return the problem of a caller that nobody knows."""
    headers = {"WWW-Authenticate": 'Bearer realm="interlock"'}
    return Problem(401, "Unauthorized", why, headers=headers)
