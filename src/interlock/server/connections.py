"""Connections of an HTTP server: how many there may be, how long each may keep us waiting, and
how the server stops.

Uvicorn has a limit for the time between two requests and none for the request itself: one that
begins and does not come to its end would stay forever.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from interlock import Unavailable

if TYPE_CHECKING:
    from starlette.applications import Starlette

_STOPS_WITHIN = 2  # seconds for answers under way and streams that clients keep open


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server, whoever it is."""

    request: float = 30.0  # seconds from the first byte of a request, or the connection, to the end
    idle: float = 30.0  # seconds between an answer and the next request
    unread: float = 60.0  # seconds in which a client takes nothing of its answer
    connections: int = 800  # below the usual limit of 1,024 open files


LIMITS = Limits()


def limited(limits: Limits) -> type[asyncio.Protocol]:
    """Return the protocol of connections that are within `limits`, for Uvicorn."""

    class Limited(_Connection):
        _limits = limits
        _waiting: ClassVar[dict[_Connection, None]] = {}

    return Limited


class _Connection(H11Protocol):
    _limits: ClassVar[Limits]
    _waiting: ClassVar[dict[_Connection, None]]  # what has not sent a whole request, oldest first

    _until_whole: asyncio.TimerHandle | None = None
    _until_read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", transport))
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # for a client that is gone without a word
            sock = transport.get_extra_info("socket")
            unread_ms = int(self._limits.unread * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
        if len(self.connections) > self._limits.connections and self._waiting:
            next(iter(self._waiting)).transport.abort()
        self._wait_for_request()

    def handle_events(self) -> None:
        super().handle_events()
        state = self.conn.their_state
        # Uvicorn's own timer runs between two requests.
        between = state is h11.IDLE and self.timeout_keep_alive_task is not None
        if state is h11.SEND_BODY or (state is h11.IDLE and not between):
            self._wait_for_request()
        else:
            self._request_is_whole()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_is_whole()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._until_read = self.loop.call_later(self._limits.unread, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting_for_reader()
        super().resume_writing()

    def _wait_for_request(self) -> None:
        if self._until_whole is None and not self.transport.is_closing():
            self._waiting[self] = None
            self._until_whole = self.loop.call_later(self._limits.request, self.transport.abort)

    def _request_is_whole(self) -> None:
        self._waiting.pop(self, None)
        if self._until_whole is not None:
            self._until_whole.cancel()
            self._until_whole = None

    def _stop_waiting_for_reader(self) -> None:
        if self._until_read is not None:
            self._until_read.cancel()
            self._until_read = None


async def serve_application(
    app: Starlette, listening: socket.socket, limits: Limits, **options: Any
) -> signal.Signals | None:
    """Serve until a signal comes, which is returned.  The options are those of Uvicorn."""
    config = uvicorn.Config(
        app,
        http=limited(limits),
        ws="none",
        log_level="error",
        access_log=False,
        timeout_keep_alive=limits.idle,  # type: ignore[arg-type]  # any number of seconds
        timeout_graceful_shutdown=_STOPS_WITHIN,
        limit_concurrency=limits.connections + 1,
        **options,
    )
    running = uvicorn.Server(config)

    def stop() -> None:
        running.should_exit = True

    with listening:
        return await until_stopped(running.serve([listening]), stop)


def address_of(listening: socket.socket, host: str) -> str:
    """Return what stands for a host and the port that it listens on in a URL."""
    return f"{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


async def until_stopped(
    serving: Coroutine[object, None, None], stop: Callable[[], None] | None
) -> signal.Signals | None:
    """Await a server that SIGTERM and Ctrl-C stop, or cancel where there is no other way."""
    came: list[signal.Signals] = []
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(serving)

    def handle(number: signal.Signals) -> None:
        came.append(number)
        (stop or task.cancel)()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, handle, each)
    try:
        await task
    except asyncio.CancelledError:
        if not came:
            raise
    finally:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
    return came[0] if came else None


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.  Raises Unavailable."""
    with ExitStack() as on_failure:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            made = on_failure.enter_context(socket.socket(family, kind, protocol))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(128)  # whoever is told the URL may call at once
        except (OSError, UnicodeError) as problem:
            raise Unavailable(f"Can't listen on {host}:{port}: {problem}") from problem
        on_failure.pop_all()
    return made
