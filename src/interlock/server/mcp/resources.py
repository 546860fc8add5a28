"""Keys as resources of the protocol, and changes of them as notifications.

`interlock://SPACE/KEY` is the record of a key.  A URI that ends in `/` lists the keys below it, and
whoever subscribes to it hears of each of them.  Changes come from the log of the space, so that it
does not matter which process made them.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextvars import Context
from typing import Any, Protocol
from urllib.parse import quote, unquote

import mcp_types as types
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
)

import interlock
from interlock import Entry, InterlockError
from interlock.server.mcp.agents import Agent, Agents
from interlock.server.mcp.calls import key_answer, visible
from interlock.settings import is_reserved

_log = logging.getLogger("interlock.mcp")
_PAGE = 200  # resources in one answer
_LISTED = 1000  # keys in the resource of a prefix
_MOST_SESSIONS = 10_000
_PATIENCE = 10.0  # seconds for a client to take a notification
_PAUSE = 1.0  # seconds until the store is asked again

_Context = ServerRequestContext[Any, Any]


class Resources(Protocol):
    """What a server offers as resources."""

    @property
    def templates(self) -> list[types.ResourceTemplate]:
        """The templates of URIs."""
        ...

    async def page(self, agent: Agent, cursor: str | None) -> types.ListResourcesResult:
        """Return the next resources after a cursor."""
        ...

    async def read(self, agent: Agent, uri: str) -> str | None:
        """Return a resource as JSON text, None if there is none.  Raises a fault."""
        ...

    def events(self, entry: Entry) -> Sequence[ServerEvent]:
        """Return what has changed by an entry of the log."""
        ...


class KeyResources:
    """The keys of a space."""

    def __init__(self, space: str) -> None:
        self._base = f"interlock://{quote(space, safe='')}/"

    @property
    def templates(self) -> list[types.ResourceTemplate]:
        """The templates of URIs."""
        return [
            types.ResourceTemplate(
                name="record",
                title="A record, or the keys below a path that ends in '/'",
                uri_template=f"{self._base}{{+key}}",
                description="Its value, version, epoch, writer and time.",
                mime_type="application/json",
            )
        ]

    async def page(self, agent: Agent, cursor: str | None) -> types.ListResourcesResult:
        """Return the next keys after one."""
        found = await visible(agent, "", cursor, _PAGE + 1)
        shown = found[:_PAGE]
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    name=each.key,
                    uri=self._base + quote(each.key),
                    description=f"Version {each.version}, written by {each.writer}.",
                    mime_type="application/json",
                )
                for each in shown
            ],
            next_cursor=shown[-1].key if len(found) > _PAGE else None,
        )

    async def read(self, agent: Agent, uri: str) -> str | None:
        """Return the record of a key, or the keys below a prefix, as JSON text."""
        if not uri.startswith(self._base):
            return None
        key = unquote(uri.removeprefix(self._base))
        if not key or key.endswith("/"):
            found = await visible(agent, key, None, _LISTED + 1)
            keys = [key_answer(each) for each in found[:_LISTED]]
            return _text({"prefix": key, "keys": keys, "more": len(found) > _LISTED})
        if is_reserved(key):
            return None
        record = await agent.space.read(key)
        return _text(record.to_dict()) if record.exists else None

    def events(self, entry: Entry) -> Sequence[ServerEvent]:
        """Return that a key has changed, and what lists it."""
        if entry.key.startswith("$") or is_reserved(entry.key):
            return ()
        parts = quote(entry.key).split("/")
        above = ["".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts))]
        uris = ["/".join(parts), *above]
        made = entry.version == 1 or entry.kind == "delete"
        listed = [ResourcesListChanged()] if made else []
        return [*(ResourceUpdated(self._base + uri) for uri in uris), *listed]


def _text(answer: object) -> str:
    return json.dumps(answer, ensure_ascii=False)


class Changes:
    """Tells clients what has changed: those that listen (revision 2026-07-28 of the protocol), and
    those that subscribed before."""

    def __init__(self, agents: Agents, resources: Resources) -> None:
        self._agents = agents
        self._resources = resources
        self._bus = InMemorySubscriptionBus()
        self._listening = ListenHandler(self._bus)
        self._sessions: OrderedDict[str, tuple[ServerSession, set[str]]] = OrderedDict()
        self._beginning = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def listen(
        self, ctx: _Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """Send what a client asks for, as long as it listens."""
        await self._begin()
        return await self._listening(ctx, params)

    async def subscribe(
        self, ctx: _Context, params: types.SubscribeRequestParams
    ) -> types.EmptyResult:
        """Send a session what has changed of a resource, from now on."""
        await self._begin()
        name = _session_of(ctx)
        _, uris = self._sessions.pop(name, (None, set[str]()))
        self._sessions[name] = ctx.session, uris | {str(params.uri)}
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return types.EmptyResult()

    async def unsubscribe(
        self, ctx: _Context, params: types.UnsubscribeRequestParams
    ) -> types.EmptyResult:
        """Send no more of it."""
        name = _session_of(ctx)
        if name in self._sessions:
            self._sessions[name][1].discard(str(params.uri))
            if not self._sessions[name][1]:
                del self._sessions[name]
        return types.EmptyResult()

    async def _begin(self) -> None:
        """Follow the log from now on.  Raises MCPError."""
        async with self._beginning:
            if self._following is not None:
                return
            space = self._agents.unread
            try:
                after = await space.position()
            except InterlockError as problem:
                raise MCPError(types.INTERNAL_ERROR, str(problem)) from problem
            # It outlives this call, whose context it must not have.
            self._following = asyncio.create_task(self._follow(after), context=Context())
            self._agents.background.add(self._following)

    async def _follow(self, after: int) -> None:
        space = self._agents.unread
        while True:
            try:
                async for entry in space.watch(after=after):
                    after = entry.position
                    for event in self._resources.events(entry):
                        await self._publish(event)
            except interlock.Pruned as cut:
                after = cut.oldest - 1
            except Exception:  # the store is away, perhaps; nothing is missed meanwhile
                _log.warning("can't follow changes; trying again", exc_info=True)
                await asyncio.sleep(_PAUSE)

    async def _publish(self, event: ServerEvent) -> None:
        await self._bus.publish(event)
        if not isinstance(event, ResourceUpdated):
            return
        for name, (session, uris) in list(self._sessions.items()):
            if event.uri in uris:
                try:
                    async with asyncio.timeout(_PATIENCE):
                        await session.send_resource_updated(event.uri)
                except Exception:  # it has left, or takes nothing
                    self._sessions.pop(name, None)


def _session_of(ctx: _Context) -> str:
    """Return what tells the sessions of a server apart; there is one on standard input."""
    return "" if ctx.request is None else str(ctx.request.headers.get("mcp-session-id", ""))
