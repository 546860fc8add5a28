"""The Redis backend: requests in, answers out, each by one call of a script."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any, NoReturn

from interlock.backends.contract import being_imported, no_space, not_empty, other_source
from interlock.backends.joined import Elsewhere
from interlock.backends.redis import calls, erase
from interlock.backends.redis.calls import Call, Command, Keys
from interlock.backends.redis.client import AsyncClientWire, BridgedWire, ClientWire
from interlock.backends.redis.faults import fault_of, must_wait
from interlock.backends.redis.server import check_server
from interlock.backends.redis.wire import AsyncWire, Target, Wire, state_key, target_of
from interlock.backends.refusal_log import KEPT
from interlock.backends.registry import Registry
from interlock.backends.remote import Known, RemoteBackend, ServerOptions, check_options, next_look
from interlock.core.conflict_report import RefusalNote
from interlock.core.plan import Plan
from interlock.core.refusals import Outcome
from interlock.core.requests import Request, Scrub, Scrubbed, T
from interlock.core.transfer import Importing
from interlock.errors import IncompatibleStore, Invalid, Unconfirmed

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


SCHEMA_VERSION = 2
_LONGEST_WAIT = 5.0  # seconds of one blocking read; below the socket's own timeout
_SHORTEST, _LONGEST = 0.005, 0.25  # seconds between attempts while a server is not ready


class RedisBackend(RemoteBackend[Call[Any]]):
    """One space in one Redis or Valkey server, or one cluster."""

    uid = ""  # until it is open

    def __init__(
        self,
        url: str | Target,
        name: str,
        options: ServerOptions | None = None,
        create: bool = True,
        importing: Importing | None = None,
    ) -> None:
        options = options or ServerOptions()
        check_options(options)
        self._target = target_of(url) if isinstance(url, str) else url
        self._keys = Keys(state_key(name))
        self._mark = calls.mark(self._keys)
        super().__init__(name, self._target.place, options)
        try:
            run_id = check_server(self._threads_wire(), self._target)
            self.uid = self._open(create) if importing is None else self._import(importing)
        except BaseException:
            self.close()
            raise
        # Where commits are to wait for replicas, they can't be part of another script.
        self.server_id = run_id if self._waiting() is None else ""
        self.state_key = self._keys.state

    def inlined(self, plan: Plan) -> calls.Inlined:
        """Return a commit as a part of a script that writes something else on this server, too."""
        return calls.inlined(plan, self._keys, self.uid)

    def join(self, connection: object) -> NoReturn:
        """Redis has no transaction that could be joined: always raises Invalid."""
        raise Elsewhere(
            "Redis has no transaction that can be joined: MULTI only queues commands, and carries "
            "out the others where one is refused. Write with the space, and let whoever needs more "
            "follow its log; or keep both in PostgreSQL or SQLite."
        )

    def _connect(self) -> None:
        self._store = STORES.borrow(self._target, lambda: Store(self._target))
        self._wires: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncWire] = (
            weakref.WeakKeyDictionary()
        )

    def _call(self, request: Request[object]) -> Call[Any]:
        return calls.call_of(request, self._keys, self.uid, self._known)

    def _commit_call(self, plans: Sequence[Plan], known: Known) -> Call[list[Outcome]]:
        return calls.commit(plans, self._keys, self.uid, known)

    def _notes_call(self, notes: Sequence[RefusalNote]) -> Call[None]:
        return calls.add_refusals(notes, self._keys, KEPT)

    def perform(self, request: Request[object]) -> Any:
        """Answer one request."""
        answer = super().perform(request)
        return self._scrubbed(request, answer) if isinstance(request, Scrub) else answer

    async def perform_async(self, request: Request[object]) -> Any:
        """Answer one request without blocking the event loop."""
        answer = await super().perform_async(request)
        if isinstance(request, Scrub):
            return await asyncio.to_thread(self._scrubbed, request, answer)
        return answer

    def _scrubbed(self, request: Scrub, answer: Scrubbed) -> Scrubbed:
        if answer.left or not request.vacuum:
            return answer._replace(remains=(erase.UNWRITTEN, *erase.REMAINS))
        done = erase.rewrite(self._threads_wire(), self._keys.state, self.place)
        return answer._replace(done=done, remains=erase.REMAINS)

    # Calls

    def _send(self, call: Call[T]) -> T:
        deadline = time.monotonic() + self._options.busy_timeout
        commands, last = self._commands(call)
        pause = _SHORTEST
        while True:
            replies = self._threads_wire().send(
                commands, last, self._keys.state, self._options.busy_timeout
            )
            if _is_ready(replies) or time.monotonic() >= deadline:
                break
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST)
        answer = self._answer(call, replies, last)
        return self._send(call._replace(waits=True)) if self._must_wait(call, answer) else answer

    async def _send_async(self, call: Call[T]) -> T:
        deadline = time.monotonic() + self._options.busy_timeout
        commands, last = self._commands(call)
        pause = _SHORTEST
        while True:
            replies = await self._loops_wire().send(
                commands, last, self._keys.state, self._options.busy_timeout
            )
            if _is_ready(replies) or time.monotonic() >= deadline:
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST)
        answer = self._answer(call, replies, last)
        if self._must_wait(call, answer):
            return await self._send_async(call._replace(waits=True))
        return answer

    def _commands(self, call: Call[T]) -> tuple[Sequence[Command], Command | None]:
        """The commands of a call, and the one that waits for replicas and files after them.

        WAIT is about what its own connection wrote, and the answer may be about what another one
        wrote before: so this one writes, too, whatever the call did.
        """
        last = self._waiting() if call.waits else None
        commands = call.commands if last is None else [*call.commands, self._mark]
        return [self._of_space(command) for command in commands], last

    def _of_space(self, command: Command) -> Command:
        """Tell a script which space it is about: see common.lua."""
        return (*command, self.uid) if command[0] == "EVALSHA" else command

    def _must_wait(self, call: Call[T], answer: T) -> bool:
        """Whether a call that only read told of something that its answer must wait for."""
        if call.waits or call.claims is None or self._waiting() is None:
            return False
        return call.claims(answer)

    def _answer(self, call: Call[T], replies: list[object], last: Command | None) -> T:
        waited = [] if last is None else [replies.pop(), replies.pop()]
        for reply in replies:
            if isinstance(reply, Exception):
                raise fault_of(reply, self.place, sent=True) from reply
        answer = call.parse(replies)
        if waited and (call.claims is None or call.claims(answer)):
            self._check_copies(*waited)
        return answer

    def _waiting(self) -> Command | None:
        """The command that waits for replicas and files."""
        target = self._target
        milliseconds = int(target.wait_timeout * 1000)
        if target.wait_aof:
            return ("WAITAOF", 1, target.wait_replicas, milliseconds)
        return ("WAIT", target.wait_replicas, milliseconds) if target.wait_replicas else None

    def _check_copies(self, reply: Any, marked: object) -> None:
        """Compare how many copies were confirmed.  The commit stands; whether it lasts is open, so
        the driver sends it again, which waits again."""
        for each in (marked, reply):
            if isinstance(each, Exception):
                raise Unconfirmed(f"applied, but not confirmed by replicas: {each}") from each
        local, replicas = reply if isinstance(reply, list) else (1, reply)
        wanted = self._target.wait_replicas
        if replicas < wanted or (self._target.wait_aof and local < 1):
            raise Unconfirmed(
                f"applied, but only {replicas} of {wanted} replicas confirmed it within "
                f"{self._target.wait_timeout:g} s"
            )

    def _threads_wire(self) -> Wire:
        return self._store.wire()

    def _loops_wire(self) -> AsyncWire:
        loop = asyncio.get_running_loop()
        wire = self._wires.get(loop)
        if wire is None:
            wire = self._wires[loop] = self._store.borrow_wire()
        return wire

    def _connections(self) -> object:
        return self._store, self._wires

    def _disconnect(self) -> None:
        if STORES.give_back(self._target, self._store):
            self._store.close()

    async def _disconnect_async(self) -> None:
        if self._wires.pop(asyncio.get_running_loop(), None) is not None:
            await self._store.give_back_wire()

    # Opening

    def _open(self, create: bool) -> str:
        new = os.urandom(8).hex() if create else ""
        command = calls.script("open", self._keys.fixed, new, SCHEMA_VERSION)
        uid, version, source = self._first(Call((command,), lambda replies: replies[0]))
        if not uid:
            raise no_space(self.place, self.name)
        if source:
            raise being_imported(self.place, self.name)
        if version > SCHEMA_VERSION:
            raise IncompatibleStore(
                f"Space {self.name!r} in {self.place} was made by a newer Interlock (schema "
                f"{version}; this one knows {SCHEMA_VERSION}): upgrade it with "
                "`pip install -U interlock`."
            )
        return str(uid)

    def _import(self, importing: Importing) -> str:
        uid, why = self._first(calls.begin_import(self._keys, importing, SCHEMA_VERSION))
        if why:
            raise (not_empty if why == "full" else other_source)(self.place, self.name)
        return str(uid)

    # News

    def _await_news(self, position: int, seconds: float) -> None:
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0.001:
            wire, key = self._threads_wire(), self._keys.state
            if self._store.watching.acquire(blocking=False):
                try:
                    found = wire.send_at_once([self._read_news(position, left)], None, key)
                finally:
                    self._store.watching.release()
                pause = 0.0
            else:
                patience = self._options.busy_timeout
                found = wire.send([self._read_news(position)], None, key, patience)
                pause = next_look(time.monotonic() - began)
            if found[0]:
                return
            time.sleep(min(pause, left))

    async def _await_news_async(self, position: int, seconds: float) -> None:
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0.001:
            wire, key = self._loops_wire(), self._keys.state
            if self._store.watching.acquire(blocking=False):
                try:
                    found = await wire.send_at_once([self._read_news(position, left)], None, key)
                finally:
                    self._store.watching.release()
                pause = 0.0
            else:
                patience = self._options.busy_timeout
                found = await wire.send([self._read_news(position)], None, key, patience)
                pause = next_look(time.monotonic() - began)
            if found[0]:
                return
            await asyncio.sleep(min(pause, left))

    def _read_news(self, position: int, seconds: float = 0) -> Command:
        """The command that reads an entry after a position, waiting for it so many seconds."""
        milliseconds = max(1, int(min(seconds, _LONGEST_WAIT) * 1000))
        wait = ("BLOCK", milliseconds) if seconds else ()
        return ("XREAD", "COUNT", 1, *wait, "STREAMS", self._keys.log, f"{position}-0")


def _is_ready(replies: list[object]) -> bool:
    """Whether the server could carry out the commands: it is not loading or moving the slot."""
    return not any(isinstance(reply, Exception) and must_wait(reply) for reply in replies)
