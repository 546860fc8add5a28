"""The PostgreSQL backend: requests in, answers out, through the store that its spaces share."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from interlock.backends.contract import being_imported, no_space, not_empty, other_source
from interlock.backends.joined import JoinedBackend
from interlock.backends.postgres import calls
from interlock.backends.postgres.calls import Call
from interlock.backends.postgres.connect import prepare
from interlock.backends.postgres.erase import REMAINS, UNVACUUMED, vacuum
from interlock.backends.postgres.joined import PostgresJoined
from interlock.backends.postgres.lender import Lender
from interlock.backends.postgres.store import Store
from interlock.backends.refusal_log import KEPT
from interlock.backends.registry import Registry
from interlock.backends.remote import Known, RemoteBackend, ServerOptions, check_options
from interlock.core.conflict_report import RefusalNote
from interlock.core.plan import Plan
from interlock.core.requests import Request, Scrub, Scrubbed, T
from interlock.core.transfer import Importing

_STORES: Registry[Store] = Registry()


class PostgresBackend(RemoteBackend[Call[object]]):
    """One space in one PostgreSQL database."""

    def __init__(
        self,
        url: str | Lender,
        name: str,
        options: ServerOptions | None = None,
        create: bool = True,
        importing: Importing | None = None,
    ) -> None:
        options = options or ServerOptions()
        check_options(options)
        self._durable = options.durability == "full"
        patience = options.busy_timeout
        self._key = (url if isinstance(url, str) else url.given, patience)
        self._store = _STORES.borrow(self._key, lambda: _store(url, patience, create))
        super().__init__(name, self._store.target.place, options)
        try:
            self._space, self.uid = self._find(create, importing)
        except BaseException:
            self.close()
            raise

    def perform(self, request: Request[object]) -> Any:
        """Answer one request."""
        answer = super().perform(request)
        return self._scrubbed(request) if isinstance(request, Scrub) else answer

    async def perform_async(self, request: Request[object]) -> Any:
        """Answer one request without blocking the event loop."""
        answer = await super().perform_async(request)
        if isinstance(request, Scrub):
            return await asyncio.to_thread(self._scrubbed, request)
        return answer

    def _scrubbed(self, request: Scrub) -> Scrubbed:
        if request.vacuum:
            vacuum(self._store.target, self._options.busy_timeout)
            return Scrubbed(0, ("the tables were rewritten (VACUUM FULL)",), REMAINS)
        return Scrubbed(0, (), (UNVACUUMED, *REMAINS))

    def _find(self, create: bool, importing: Importing | None) -> tuple[int, str]:
        if importing is not None:
            space, uid, why = self._first(calls.begin_import(self.name, importing))
            if why is not None:
                refuse = not_empty if why == "full" else other_source
                raise refuse(self.place, self.name)
            return space, uid
        found = self._first(Call("open_space", (self.name, create), lambda rows: rows))
        if not found:
            raise no_space(self.place, self.name)
        space, uid, unfinished = found[0]
        if unfinished:
            raise being_imported(self.place, self.name)
        return space, uid

    def join(self, connection: object) -> JoinedBackend:
        """Return the space inside a transaction of the caller's."""
        self._check_open()
        return PostgresJoined(self, connection, self.place, self._space)

    def _connect(self) -> None:
        if self._store.process != os.getpid():  # a forked child
            self._store = _STORES.borrow(self._key, self._store.anew)
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._over = threading.Event()

    def _call(self, request: Request[object]) -> Call[object]:
        return calls.call_of(request, self._space, self.uid, self._known, self._durable)

    def _commit_call(self, plans: Sequence[Plan], known: Known) -> Call[object]:
        return calls.commit(plans, self._space, self.uid, known, self._durable)

    def _notes_call(self, notes: Sequence[RefusalNote]) -> Call[object]:
        return calls.add_refusals(notes, self._space, KEPT)

    def _send(self, call: Call[T]) -> T:
        return self._store.send(call)

    async def _send_async(self, call: Call[T]) -> T:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops.add(loop)
            self._store.join(loop)
        return await self._store.send_async(call)

    def _await_news(self, position: int, seconds: float) -> None:
        self._store.news.wait(self._space, position, seconds, self._over)

    async def _await_news_async(self, position: int, seconds: float) -> None:
        await self._store.news.wait_async(self._space, position, seconds, self._over)

    def _connections(self) -> object:
        return self._store

    def _disconnect(self) -> None:
        self._over.set()
        if hasattr(self, "_space"):
            self._store.news.wake(self._space)
        if _STORES.give_back(self._key, self._store):
            self._store.close()

    async def _disconnect_async(self) -> None:
        loop = asyncio.get_running_loop()
        if loop in self._loops:
            self._loops.discard(loop)
            await self._store.leave(loop)


def _store(source: str | Lender, busy_timeout: float, create: bool) -> Store:
    """Return a store at a URL, or one over connections of the application's."""
    if isinstance(source, str):
        return Store(prepare(source, busy_timeout, create), busy_timeout)
    return Store(source.prepare(busy_timeout, create), busy_timeout, source)
