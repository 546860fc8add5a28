"""Who writes: each MCP connection is bound to one agent, whose name its client cannot choose.

A name is given by whoever starts the server, for all connections or with each access token.
Where it is not, it is made of what the client calls itself and of an ending that the client has no
say in.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from interlock import AsyncSpace, Rule, open_async
from interlock._async.opening import under
from interlock.server.mcp_leases import Leases

_MOST_SESSIONS = 10_000  # remembered; as many as the SDK keeps open
_MOST_NAME = 64  # characters of what a client calls itself


class Agent:
    """An agent: its name, the space under this name, and the leases that it holds."""

    def __init__(self, name: str, space: AsyncSpace) -> None:
        self.name = name
        self.space = space
        self.leases = Leases(space)


@dataclass(frozen=True)
class Caller:
    """What is known of a connection: how its client calls itself, the id of its HTTP session (None
    where there is only this one connection), and the name that its access token stands for."""

    client: str
    session: str | None = None
    named: str | None = None


class Agents:
    """The agents of all connections to one space."""

    def __init__(self, base: AsyncSpace, space: str, name: str | None, exclusive: bool) -> None:
        self.space_name = space
        self._base = base
        self._name = name
        self._exclusive = exclusive
        self._ending = secrets.token_hex(6)
        self._fixed: dict[str, Agent] = {}
        self._sessions: OrderedDict[str, Agent] = OrderedDict()
        self._opening = asyncio.Lock()

    def knows(self, caller: Caller) -> bool:
        """Say whether the name of this caller was given by whoever started the server."""
        return (caller.named or self._name) is not None

    async def of(self, caller: Caller) -> Agent:
        """Return the agent of a connection.  Raises a fault."""
        name = caller.named or self._name
        async with self._opening:
            return await (self._session(caller) if name is None else self.fixed(name))

    async def fixed(self, name: str) -> Agent:
        """Return the agent of a name that the server was given.  Raises Invalid, or a fault."""
        if name not in self._fixed:
            self._fixed[name] = Agent(name, await under(self._base, name, self._exclusive))
        return self._fixed[name]

    async def _session(self, caller: Caller) -> Agent:
        name = self._made(caller)
        if name not in self._sessions:
            self._sessions[name] = Agent(name, await under(self._base, name))
        self._sessions.move_to_end(name)
        if len(self._sessions) > _MOST_SESSIONS:
            idle = next((each for each, agent in self._sessions.items() if not agent.leases), name)
            del self._sessions[idle]  # made again under the same name if it comes back
        return self._sessions[name]

    def _made(self, caller: Caller) -> str:
        ending = self._ending
        if caller.session is not None:  # the id is a secret of its session: only a digest is shown
            ending = hashlib.sha256(f"{ending}{caller.session}".encode()).hexdigest()[:12]
        called = re.sub(r"[^\w.@-]+", "-", caller.client)[:_MOST_NAME].encode()[:_MOST_NAME]
        return f"{called.decode(errors='ignore').strip('-') or 'client'}-{ending}"

    async def close(self) -> None:
        """Give up all leases."""
        everybody = [*self._fixed.values(), *self._sessions.values()]
        await asyncio.gather(*(agent.leases.release_all() for agent in everybody))


@asynccontextmanager
async def opened(
    url: str,
    space: str = "default",
    name: str | None = None,
    *,
    names: Iterable[str] = (),
    exclusive: bool = False,
    rules: Mapping[str, Rule] | None = None,
    create: bool = True,
) -> AsyncIterator[Agents]:
    """Open a space for the connections of an MCP server.

    `name`: under which all of them write; `names`: those that access tokens stand for.  `exclusive`
    takes these names over from other processes.  `create`, and what is raised, as for
    `interlock.open_async`.
    """
    async with open_async(url, space, rules=rules, create=create) as base:
        agents = Agents(base, space, name, exclusive)
        for each in {*names, *([] if name is None else [name])}:
            await agents.fixed(each)
        try:
            yield agents
        finally:
            await agents.close()
