"""Who writes: each MCP connection is bound to one agent, whose name its client cannot choose.

A name is given by whoever starts the server, for all connections or with each access token.
Where it is not, it is made of what the client calls itself and of an ending that the client has no
say in.

An agent holds its leases under ids that only whoever took them knows.  A language model forgets to
give a lease up, so each has an end that was asked for.  Until then it is renewed every few seconds:
if this process dies, others wait no longer than `TTL`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from interlock import AsyncLease, AsyncSpace, Invalid, Record, Rule, open_async
from interlock._async.open import under

if TYPE_CHECKING:
    from interlock.cipher import Cipher

TTL = 30.0  # seconds
LONGEST_LEASE = 3600.0  # seconds
LONGEST_WAIT = 30.0  # seconds in the queue: MCP clients give up on an answer after a minute or so

# The session that calls: None where there is only one connection, "" where it is not known.
calling: ContextVar[str | None] = ContextVar("interlock_mcp_session", default="")


@dataclass
class Hold:
    """A lease that is held until `ends`, in the time of the event loop."""

    id: str
    lease: AsyncLease
    named: str | None
    session: str | None = ""
    ends: float = 0.0
    ending: asyncio.Task[None] | None = None

    @property
    def record(self) -> Record:
        """The record of its key, as the holder knows it."""
        return self.lease.record

    @property
    def seconds(self) -> float:
        """Seconds until it is given up."""
        return max(self.ends - asyncio.get_running_loop().time(), 0.0)


class Leases:
    """The leases of one agent."""

    def __init__(self, space: AsyncSpace) -> None:
        self._space = space
        self._held: dict[str, Hold] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __getitem__(self, lease_id: str) -> Hold:
        """Return a lease that is held.  Raises Invalid."""
        try:
            return self._held[lease_id]
        except KeyError:
            raise Invalid(
                f"You hold no lease with lease_id {lease_id!r}: it was never yours, was released, "
                "or has expired."
            ) from None

    def of_key(self, lease_id: str, key: str) -> Hold:
        """Return the lease of `key` that is held under this id.  Raises Invalid."""
        hold = self[lease_id]
        if hold.lease.key != key:
            raise Invalid(f"lease_id {lease_id!r} is for {hold.lease.key!r}, not for {key!r}.")
        return hold

    async def take(self, key: str, seconds: float, wait: float, named: str | None) -> Hold:
        """Take the lease of `key`; the one that was taken under the same name is returned again.

        Raises Held, Fenced, Invalid.
        """
        session = calling.get()
        for hold in self._held.values():
            if named is not None and (hold.named, hold.lease.key) == (named, key):
                return hold
        for hold in self._held.values() if wait and session != "" else ():
            if (hold.session, hold.lease.key) == (session, key) and not hold.lease.lost:
                raise Invalid(
                    f"You hold the lease of {key!r} and would wait for yourself. Pass the lease_id "
                    "that take_lease returned, or release it first."
                )
        lease = self._space.lease(key, ttl=TTL, wait=wait)
        # It outlives this call, whose context does not hold it.
        await asyncio.create_task(lease.acquire(), context=Context())
        hold = Hold(secrets.token_hex(8), lease, named, session)
        self._held[hold.id] = hold
        self._end_after(hold, seconds)
        return hold

    async def renew(self, lease_id: str, seconds: float) -> Hold:
        """Hold a lease for `seconds` from now.  Raises Fenced where it was taken away, Invalid."""
        hold = self[lease_id]
        await hold.lease.renew()
        self._end_after(hold, seconds)
        return hold

    async def release(self, lease_id: str) -> Hold:
        """Give a lease up.  Raises Invalid where it is not held."""
        hold = self[lease_id]
        del self._held[lease_id]
        if hold.ending is not None:
            hold.ending.cancel()
        await hold.lease.release()
        return hold

    async def release_all(self) -> None:
        """Give all of them up."""
        await asyncio.gather(*map(self.release, list(self._held)), return_exceptions=True)

    def _end_after(self, hold: Hold, seconds: float) -> None:
        if hold.ending is not None:
            hold.ending.cancel()
        hold.ends = asyncio.get_running_loop().time() + seconds
        hold.ending = asyncio.create_task(self._end(hold, seconds))

    async def _end(self, hold: Hold, seconds: float) -> None:
        await asyncio.sleep(seconds)
        hold.ending = None  # `release` is not to cancel the task that it runs in
        if hold.id in self._held:
            await self.release(hold.id)


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
        self.background: set[asyncio.Task[None]] = set()  # ended with the last connection
        self._base = base
        self._name = name
        self._exclusive = exclusive
        self._ending = secrets.token_hex(6)
        self._fixed: dict[str, Agent] = {}
        self._sessions: OrderedDict[str, Agent] = OrderedDict()
        self._opening = asyncio.Lock()

    @property
    def unread(self) -> AsyncSpace:
        """The space for what looks into no value, so that it needs no cipher."""
        return AsyncSpace(self._base.session.unread())

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
        """Give up all leases, and end what runs in the background."""
        for task in self.background:
            task.cancel()
        await asyncio.gather(*self.background, return_exceptions=True)
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
    cipher: Cipher | None = None,
) -> AsyncIterator[Agents]:
    """Open a space for the connections of an MCP server.

    `name`: under which all of them write; `names`: those that access tokens stand for.  `exclusive`
    takes these names over from other processes.  `create`, `cipher` and what is raised, as for
    `interlock.open_async`.
    """
    async with open_async(url, space, rules=rules, create=create, cipher=cipher) as base:
        agents = Agents(base, space, name, exclusive)
        for each in {*names, *([] if name is None else [name])}:
            await agents.fixed(each)
        try:
            yield agents
        finally:
            await agents.close()
