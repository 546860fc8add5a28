"""What all spaces of a process share that are on one Redis server or cluster: its connections.

They do not cross a fork: a child borrows a store of its own.
"""

from __future__ import annotations

import asyncio
import threading
import weakref

from interlock.backends.redis.client import AsyncClientWire, BridgedWire, ClientWire
from interlock.backends.redis.options import Target
from interlock.backends.redis.wire import AsyncWire, Wire
from interlock.backends.registry import Registry
from interlock.errors import Invalid

WATCHING = 8  # connections that wait for news; whoever comes then asks now and then


class Store:
    """The wires of one server: one for threads, one for each event loop that uses it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._wires: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = (
            weakref.WeakKeyDictionary()
        )
        # A connection of the application's is never kept: who watches asks now and then.
        self.watching = threading.Semaphore(WATCHING if target.client is None else 0)

    def wire(self) -> Wire:
        """Return the wire of threads."""
        wire = self._wire
        if wire is None:
            with self._lock:
                wire = self._wire = self._wire or self._new_wire()
        return wire

    def borrow_wire(self) -> AsyncWire:
        """Return the wire of this event loop to a space that has not got it yet."""
        loop = asyncio.get_running_loop()
        with self._lock:
            shared = self._wires.get(loop)
            if shared is None:
                shared = self._wires[loop] = _Shared(self._new_async_wire(loop))
            shared.borrowed += 1
            return shared.wire

    async def give_back_wire(self) -> None:
        """Give back what `borrow_wire` gave; the last of the event loop closes it."""
        loop = asyncio.get_running_loop()
        with self._lock:
            shared = self._wires.get(loop)
            if shared is None:
                return
            shared.borrowed -= 1
            if shared.borrowed:
                return
            del self._wires[loop]
        await shared.wire.close()

    def _new_wire(self) -> Wire:
        if self._target.client is None:
            return Wire(self._target)
        if self._target.bridge is None:
            return ClientWire(self._target)
        return BridgedWire(self._target, AsyncClientWire(self._target))

    def _new_async_wire(self, loop: asyncio.AbstractEventLoop) -> AsyncWire:
        if self._target.client is None:
            return AsyncWire(self._target)
        if self._target.bridge is None or self._target.bridge.loop is not loop:
            raise Invalid("The client belongs to another event loop. Open the space in this one.")
        return AsyncClientWire(self._target)

    def close(self) -> None:
        """Close the connections of threads."""
        with self._lock:
            wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()


class _Shared:
    def __init__(self, wire: AsyncWire) -> None:
        self.wire = wire
        self.borrowed = 0


STORES: Registry[Store] = Registry()
