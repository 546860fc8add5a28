"""A TCP proxy that loses requests and replies when it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from interlock.verify.torture.plan import can_be_proxied

_CHUNK = 1 << 20
_REMEMBERED = 1024  # the longest that `matching` may be
_ANSWERS_WITHIN = 30.0


class Cut:
    """A cut that was ordered: of the next request that holds `matching`, on any connection."""

    def __init__(self, matching: bytes, after: bool) -> None:
        self.matching = matching
        self.after = after
        self._happened = threading.Event()

    @property
    def happened(self) -> bool:
        """Whether the request was thrown away, or the server is through with it.

        It is so before the client sees that it is disconnected.
        """
        return self._happened.is_set()

    def wait(self, within: float = 30.0) -> None:
        """Wait until it has happened.  Raises `TimeoutError`."""
        if not self._happened.wait(within):
            raise TimeoutError(f"nothing was cut within {within:g} s")

    def done(self) -> None:
        """Note that it has happened."""
        self._happened.set()


class Proxy:
    """Forwards connections from a port of 127.0.0.1 to a server, and fails on order.

    An order holds for every request that is sent after the call that gave it has returned.
    """

    def __init__(self, target_host: str, target_port: int, port: int = 0) -> None:
        """Listen on `port`, or on one that the system chooses."""
        self.target = (target_host, target_port)
        self.host, self.port = "127.0.0.1", port
        self.cuts = 0  # how many orders were carried out
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._ordered: Cut | None = None
        self._links: set[_Link] = set()
        self._closed = threading.Event()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        self.refuse(False)

    def cut_before_next(self, matching: bytes = b"") -> Cut:
        """Disconnect at the next request instead of forwarding it: the server never sees it."""
        return self._order(Cut(matching, after=False))

    def cut_after_next(self, matching: bytes = b"") -> Cut:
        """Forward the next request, throw its reply away, then disconnect: the lost reply.

        The client is disconnected once the server has done all of it.
        """
        return self._order(Cut(matching, after=True))

    def cut_all(self) -> None:
        """Close every connection now."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.close()

    def refuse(self, refused: bool) -> None:
        """Refuse new connections, as if nobody listened; or take them again."""
        if refused and self._listener is not None:
            listener, self._listener = self._listener, None
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
            if self._acceptor is not None:
                self._acceptor.join()
        elif not refused and self._listener is None:
            self._listener = socket.create_server((self.host, self.port), backlog=512)
            self.port = self._listener.getsockname()[1]
            self._acceptor = self._spawn(self._accept, self._listener)

    def delay(self, seconds: float) -> None:
        """Hold each request back that long before it is forwarded; replies go at once."""
        self.seconds = seconds

    def close(self) -> None:
        """Close every connection and stop listening."""
        self._closed.set()
        self.refuse(True)
        self.cut_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take_order(self, before: bytes, data: bytes) -> Cut | None:
        """Return the order that this data carries out, which is then given no more.

        What is looked for may have begun in the data before.
        """
        with self._lock:
            cut = self._ordered
            if cut is None:
                return None
            begun = len(before) - max(len(cut.matching) - 1, 0)
            if cut.matching not in before[max(begun, 0) :] + data:
                return None
            self._ordered = None
            return cut

    def carried_out(self, cut: Cut) -> None:
        """Count a cut and tell who waits for it."""
        with self._lock:
            self.cuts += 1
        cut.done()

    def hold_back(self) -> None:
        """Wait as long as `delay()` says."""
        if self.seconds:
            self._closed.wait(self.seconds)

    def forget(self, link: _Link) -> None:
        """Note that a connection is closed."""
        with self._lock:
            self._links.discard(link)

    def _order(self, cut: Cut) -> Cut:
        with self._lock:
            if self._ordered is not None:
                raise RuntimeError("a cut is ordered already, and has not happened yet")
            self._ordered = cut
        return cut

    def _spawn(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        with self._lock:
            self._threads = [*(each for each in self._threads if each.is_alive()), thread]
            thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(self.target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            link = _Link(self, client, server)
            with self._lock:
                self._links.add(link)
            self._spawn(link.send_requests)
            self._spawn(link.send_replies)


class _Link:
    """One connection of a client with its connection to the server, and a thread for each way."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        self.losing: Cut | None = None  # whose reply is thrown away
        self._lock = threading.Lock()
        self._ways = 2
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send_requests(self) -> None:
        """Forward what the client sends until it, or an order, ends the connection."""
        before = b""
        with suppress(OSError):
            while data := self.client.recv(_CHUNK):
                cut = self.proxy.take_order(before, data)
                before = (before + data)[-_REMEMBERED:]
                if cut is not None and not cut.after:
                    self.proxy.carried_out(cut)
                    self.close()
                    break
                if cut is not None:
                    self.losing = cut
                self.proxy.hold_back()
                self.server.sendall(data)
        if self.losing is None:
            self.close()
        self._leave()

    def send_replies(self) -> None:
        """Forward what the server sends, or throw it away."""
        with suppress(OSError):
            while data := self.server.recv(_CHUNK):
                if self.losing is not None:
                    self._lose_the_rest()
                    break
                self.client.sendall(data)
        if self.losing is not None:
            self.proxy.carried_out(self.losing)
        self.close()
        self._leave()

    def _lose_the_rest(self) -> None:
        # A reply may come in pieces, before the work is done.  A server that is told that nothing
        # more will be sent does what it was sent, then closes.
        self.server.settimeout(_ANSWERS_WITHIN)
        self.server.shutdown(socket.SHUT_WR)
        while self.server.recv(_CHUNK):
            pass

    def close(self) -> None:
        """Disconnect both sides; their threads see it and end."""
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _leave(self) -> None:
        with self._lock:
            self._ways -= 1
            last = not self._ways
        if last:
            self.client.close()
            self.server.close()
            self.proxy.forget(self)


_PORTS = {"postgresql": 5432, "postgres": 5432, "redis": 6379}


@contextmanager
def proxied(url: str) -> Iterator[tuple[str, Proxy | None]]:
    """Yield the URL that leads through a proxy, and the proxy; or the URL as it is, and None."""
    if not can_be_proxied(url):
        yield url, None
        return
    parts = urlsplit(url)
    assert parts.hostname is not None, "can_be_proxied looks for it"
    with Proxy(parts.hostname, parts.port or _PORTS[parts.scheme]) as proxy:
        user, at, _ = parts.netloc.rpartition("@")
        place = f"{user}{at}{proxy.host}:{proxy.port}"
        yield urlunsplit((parts.scheme, place, parts.path, parts.query, parts.fragment)), proxy
