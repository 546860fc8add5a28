"""The service beside the store that it serves: the same calls through `interlock serve`."""

from __future__ import annotations

import asyncio
import http.client
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import interlock
from benchmarks.cases import VALUE, Row, alternating, seconds, spread

_TASKS = 32
_VIEWERS = 200
_SLOW = 10_000  # connections, or as many as there may be files
_NEVER_WHOLE = (
    b"",
    b"PUT /v1/spaces/main/records/k HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    b"PUT /v1/spaces/main/records/k HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n1",
)


class Served(NamedTuple):
    """A service: its address, and its process."""

    url: str
    pid: int

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def megabytes(self) -> float:
        """Return the resident memory of the process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def served(url: str) -> Iterator[Served]:
    """Serve a store from a process of its own."""
    interlock_ = str(Path(sys.executable).parent / "interlock")
    command = [interlock_, "serve", url, "--bind", "127.0.0.1:0", "--rate", "1000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            said = server.stderr.readline().strip().removeprefix("serving at ")
            # A server whose log nobody takes halts.
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield Served(said, server.pid)
        finally:
            server.terminate()
            server.wait()


def service(folder: Path, scale: int) -> list[Row]:
    """Reads, commits and appends through a service against those on its store, and its latency."""
    store = f"sqlite:///{folder / 'served.db'}"
    count = 3 * scale
    rules = {"found": interlock.merged("append")}
    with (
        served(store) as running,
        interlock.open(store, agent="direct", rules=rules) as direct,
        interlock.open(running.url, agent="served") as through,
    ):
        direct.create("k", VALUE)

        def reading(space: interlock.Space) -> Callable[[], object]:
            return lambda: [space.read("k") for _ in range(count)]

        def committing(space: interlock.Space) -> Callable[[], object]:
            def commit() -> None:
                record = space.read(space.agent)
                for _ in range(count):
                    record = space.write(record, VALUE, touch=True)

            return commit

        def appending(space: interlock.Space) -> Callable[[], object]:
            return lambda: [space.append("found", 1) for _ in range(count)]

        rows = []
        for what, one in (("read", reading), ("commit", committing), ("append", appending)):
            ratios = alternating(one(through), one(direct), 7)
            how = "rate through the service beside that of its SQLite file"
            rows.append(Row(f"{what} through a service", spread(ratios), "", how))
        late = watched(through, direct, min(count, 60))
        figure = f"{statistics.median(late) * 1e3:.1f} ms ({max(late) * 1e3:.1f} at most)"
        how = "from a commit on the store to its entry at a watcher of the service"
        rows.append(Row("watch latency through a service", figure, "under 50 ms", how))
        rate = asyncio.run(many(running.url, 2 * count))
        how = f"{_TASKS} tasks of one process, each with keys of its own"
        rows.append(Row("commits through one service", f"{rate:,.0f}/s", "", how))
    return rows


def watched(through: interlock.Space, direct: interlock.Space, count: int) -> list[float]:
    """Return how long after its commit each entry arrives."""
    sent: dict[str, float] = {}
    late: list[float] = []
    arrived = threading.Semaphore(0)

    def watch() -> None:
        for entry in through.watch("watched/", after=start):
            late.append(time.perf_counter() - sent[entry.key])
            arrived.release()
            if len(late) == count:
                return

    start = direct.position()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for n in range(count):
        sent[f"watched/{n}"] = time.perf_counter()
        direct.create(f"watched/{n}", n)
        arrived.acquire()
    watcher.join()
    return late


async def many(url: str, count: int) -> float:
    """Return the commits a second of many tasks."""
    async with interlock.open_async(url, agent="many") as space:

        async def one(name: str) -> None:
            record: Any = await space.read(name)
            for _ in range(max(count // _TASKS, 1)):
                record = await space.write(record, VALUE, touch=True)

        began = time.perf_counter()
        await asyncio.gather(*(one(f"many/{n}") for n in range(_TASKS)))
        return max(count // _TASKS, 1) * _TASKS / (time.perf_counter() - began)


def viewers(folder: Path, scale: int) -> list[Row]:
    """What 200 live viewers of the service cost whoever commits to its store."""
    store = f"sqlite:///{folder / 'viewed.db'}"
    with served(store) as running, interlock.open(store, "main", "direct") as direct:
        record = direct.create("k", VALUE)

        def commit() -> None:
            nonlocal record
            for _ in range(3 * scale):
                record = direct.write(record, VALUE, touch=True)

        ratios = []
        for _ in range(3):
            alone = seconds(commit)
            with viewing(running, _VIEWERS):
                ratios.append(alone / seconds(commit))
            asked(running.place)  # by now it knows that they are gone
    how = (
        f"rate of commits on the store with {_VIEWERS} viewers beside the rate without, one machine"
    )
    return [Row("commits while viewers watch", spread(ratios), "above 0.95x", how)]


@contextmanager
def viewing(running: Served, count: int) -> Iterator[None]:
    """Have viewers watch, from a process of their own."""
    watcher = [sys.executable, "-c", _VIEW, str(running.place[1]), str(count)]
    with subprocess.Popen(watcher, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"watching\n", "a viewer was turned away"
            yield
        finally:
            process.terminate()


_VIEW = """
import asyncio, sys
async def main(port, count):
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]
    for reader, writer in streams:
        writer.write(b"GET /v1/spaces/main/watch HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n")
        await reader.readuntil(b"watching")
    print("watching", flush=True)
    async def read(reader):
        while await reader.read(1 << 16):
            pass
    await asyncio.gather(*(read(reader) for reader, _ in streams))
asyncio.run(main(*map(int, sys.argv[1:])))
"""


def slow(folder: Path, scale: int) -> list[Row]:
    """What thousands of connections cost the service that never send a whole request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(_SLOW, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    with (
        served(f"sqlite:///{folder / 'slow.db'}") as running,
        interlock.open(running.url, "main", "us") as space,
        ExitStack() as held,
    ):
        space.create("k", VALUE)
        before, late = running.megabytes(), list[float]()
        for n in range(count):
            held.enter_context(slow_connection(running.place, _NEVER_WHOLE[n % 3]))
            if n % (count // 50) == 0:
                late.append(seconds(lambda: asked(running.place)))
        figure = f"{statistics.median(late) * 1e3:.1f} ms ({max(late) * 1e3:.0f} at most)"
        grown = running.megabytes() - before
    how = f"a read on a new connection, while {count:,} are opened that never send a whole request"
    return [
        Row("a read beside slow connections", figure, "", how),
        Row("memory of slow connections", f"{grown:.0f} MB", "", how),
    ]


def slow_connection(place: tuple[str, int], sent: bytes) -> socket.socket:
    """Return a connection on which so much was sent."""
    made = socket.create_connection(place, timeout=60)
    with suppress(ConnectionError):
        made.sendall(sent)
    return made


def asked(place: tuple[str, int]) -> None:
    """Read a record on a connection of its own."""
    connection = http.client.HTTPConnection(*place, timeout=60)
    connection.request("GET", "/v1/spaces/main/records/k")
    assert connection.getresponse().read()
    connection.close()


CASES = (service, viewers, slow)
