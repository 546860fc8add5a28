"""The spaces that a service has: those of its stores, opened when they are asked for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from interlock import AsyncSpace, AsyncStore, Dropped, Invalid, open_async
from interlock._async.open import under
from interlock.server.http.identity import SERVICE_RULES, SERVICE_SPACE
from interlock.server.http.problem import Problem, not_found

_MOST_AGENTS = 1000  # of a space, whose names are remembered
_MOST_OPEN = 200  # spaces


class Hosted:
    """One space, under the name of each agent that asks."""

    def __init__(self, name: str, base: AsyncSpace, store: AsyncStore | None) -> None:
        self.name = name
        self.base = base
        self.store = store
        self._agents: OrderedDict[str, AsyncSpace] = OrderedDict()

    @property
    def uid(self) -> str:
        """The unique id of the space."""
        return self.base.session.writer.space

    async def under(self, agent: str) -> AsyncSpace:
        """Return the space under an agent's name.  Raises Invalid, or a fault."""
        found = self._agents.get(agent)
        if found is None:
            found = await under(self.base, agent)
            self._agents[agent] = found
            if len(self._agents) > _MOST_AGENTS:
                self._agents.popitem(last=False)
        self._agents.move_to_end(agent)
        return found


class Hosts:
    """The spaces of stores (URLs), and spaces that the application has open itself."""

    def __init__(self, sources: Sequence[str | AsyncSpace], create: bool = True) -> None:
        if not sources:
            raise Invalid("Name at least one store, or pass a space.")
        for each in sources:
            if not isinstance(each, str | AsyncSpace):
                name = type(each).__name__
                raise Invalid(f"A {name} can't be served: pass a URL or an AsyncSpace.")
        self._create = create
        self._stores = [
            AsyncStore(each, create=create) for each in sources if isinstance(each, str)
        ]
        self._given = {
            each.session.driver.backend.name: Hosted(each.session.driver.backend.name, each, None)
            for each in sources
            if isinstance(each, AsyncSpace)
        }
        self._open: OrderedDict[str, Hosted] = OrderedDict()
        self._opening = asyncio.Lock()
        self._service: AsyncSpace | None = None

    async def service(self) -> AsyncSpace:
        """Return the space that holds the service's tokens, made in the first store."""
        if self._service is None:
            if not self._stores:
                raise Invalid("Tokens are kept in a store: pass its URL, not only spaces.")
            async with self._opening:
                self._service = self._service or await open_async(
                    self._stores[0].url, SERVICE_SPACE, "interlock-serve", rules=SERVICE_RULES
                )
        return self._service

    async def names(self) -> list[str]:
        """Return the names of all spaces.  Raises a fault."""
        found = {*self._given}
        for store in self._stores:
            found |= {*await store.names()}
        return sorted(found - {SERVICE_SPACE})

    async def get(self, name: str) -> Hosted:
        """Return a space.  Raises Problem where there is none, or a fault."""
        hosted = self._given.get(name) or self._open.get(name)
        if hosted is None:
            async with self._opening:
                hosted = self._open.get(name) or await self._opened(name)
        return hosted

    async def create(self, name: str) -> Hosted:
        """Return a space, made in the first store where there is none.  Raises Invalid."""
        try:
            return await self.get(name)
        except Problem:
            if name == SERVICE_SPACE or not self._stores or not self._create:
                raise
        async with self._opening:
            return await self._open_in(self._stores[0], name)

    async def drop(self, name: str) -> None:
        """Drop a space with all that it holds.  Raises Problem, Invalid."""
        hosted = await self.get(name)
        if hosted.store is None:
            raise Invalid(f"Space {name!r} belongs to the application: drop it there.")
        await hosted.store.drop(name)
        await self.forget(hosted)

    async def forget(self, hosted: Hosted) -> None:
        """Open a space anew when it is asked for next: it was dropped or renamed."""
        if self._open.get(hosted.name) is hosted:
            del self._open[hosted.name]
            await hosted.base.close()

    async def close(self) -> None:
        """Close what was opened here."""
        opened, self._open = list(self._open.values()), OrderedDict()
        for hosted in opened:
            await hosted.base.close()
        service, self._service = self._service, None
        if service is not None:
            await service.close()
        for store in self._stores:
            await store.close()

    async def _opened(self, name: str) -> Hosted:
        if name != SERVICE_SPACE:
            for store in self._stores:
                if await store.exists(name):
                    return await self._open_in(store, name)
        raise not_found(f"There is no space {name!r}.")

    async def _open_in(self, store: AsyncStore, name: str) -> Hosted:
        try:
            base = await open_async(store.url, name, "interlock-serve")
        except Dropped:
            raise not_found(f"There is no space {name!r}.") from None
        hosted = self._open[name] = Hosted(name, base, store)
        if len(self._open) > _MOST_OPEN:
            _, oldest = self._open.popitem(last=False)
            await oldest.base.close()
        return hosted
