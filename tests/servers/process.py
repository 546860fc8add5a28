"""What the test servers share: where they live, as whom they run, how they start and end."""

from __future__ import annotations

import atexit
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Self

from tests.servers import guard

# Below the ports that the system gives to clients: a client of a server that is down could get the
# server's own port, and then even connect to itself.  A Redis cluster adds 10,000 to each.
_PORTS = range(10_000, 22_000)
_CLUSTER_BUS = 10_000
_STARTS_WITHIN = 60.0
_ASKS = 20  # to stop
_STOPS_WITHIN = 20.0


class Missing(RuntimeError):
    """A server that is not installed; says what to install."""


class Failed(RuntimeError):
    """A server that did not start or stop; carries the end of its log."""


def wait_until(condition: Callable[[], bool], what: str, within: float = _STARTS_WITHIN) -> None:
    """Wait until a condition holds.  Raises `TimeoutError`, saying what was awaited."""
    ends = time.monotonic() + within
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError(f"{what}: not within {within:g} s")
        threading.Event().wait(0.005)


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Raise `TimeoutError`, from where the main thread is by then, if a block takes longer."""

    def give_up(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise TimeoutError(f"{what}: not within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    # Again and again: a signal that comes just before a wait begins does not interrupt it.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def free_port() -> int:
    """Return a port that nobody listens on, nor on the one that a Redis cluster adds to it."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        if all(_is_free(each) for each in (port, port + _CLUSTER_BUS)):
            return port
    raise Failed(f"none of 200 ports in {_PORTS} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


# PostgreSQL and PgBouncer refuse to run as root, so root runs them as somebody else.


@cache
def account() -> tuple[int, int] | None:
    """Return the user and group that servers run as, or None: as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as problem:
        raise Missing("root cannot run PostgreSQL: add the user `nobody`") from problem
    return entry.pw_uid, entry.pw_gid


def run_as_account(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as the user that servers run as."""
    uid, gid = account() or (None, None)
    return subprocess.run(
        [str(word) for word in command],
        user=uid,
        group=gid,
        extra_groups=None if uid is None else [],
        env=clean_environment(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def clean_environment() -> dict[str, str]:
    """Return the environment without what would change a server's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


@cache
def shared_folder() -> Path:
    """Return a folder of this process that any user can enter, removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="interlock-servers-"))
    folder.chmod(0o711)
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not in a forked child
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def own(folder: Path) -> Path:
    """Make a folder that the servers' user can write to: this one, or one in `shared_folder()`.

    The folders of pytest may be entered by nobody else, so root's servers cannot live there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    user = account()
    if user is None:
        return folder
    if run_as_account(["/bin/sh", "-c", 'cd "$0"', folder.resolve().parent]).returncode:
        folder = Path(tempfile.mkdtemp(dir=shared_folder()))
    os.chown(folder, *user)
    return folder


class Server:
    """A server process in a folder, on a port of 127.0.0.1, that dies with this process.

    `stop()` and `kill()` keep the folder, so that `start_again()` finds what was written.
    """

    stops_by = signal.SIGTERM
    unprivileged = False  # whether root runs it as another user

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.port = 0
        self.pid = 0
        self.log = folder / "server.log"
        self._began = 0  # where in the log
        self._guard: subprocess.Popen[str] | None = None

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Say whether the server answers."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._guard is not None and self._guard.poll() is None

    def start_first(self) -> Self:
        """Start on a free port.  Raises `Failed`."""
        for attempt in range(5):
            self.port = free_port()
            try:
                self.start_again()
            except Failed as problem:
                if attempt == 4 or "in use" not in str(problem):
                    raise
            else:
                break
        return self

    def start_again(self) -> None:
        """Start in the same folder, on the same port, and wait until it answers."""
        if self.running:
            raise Failed(f"{self} is running")
        self._began = self.log.stat().st_size if self.log.exists() else 0
        uid, gid = (account() if self.unprivileged else None) or (0, 0)
        guarded = [sys.executable, "-I", "-S", guard.__file__, str(uid), str(gid)]
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                [*guarded, str(shared_folder()), "--", *self.command()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd="/",
                env=clean_environment(),
                start_new_session=True,  # Ctrl-C is for the tests, which then stop their servers
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as said:
            self.pid = int(said.readline())
        try:
            wait_until(lambda: not self.running or self.is_ready(), f"{self} answers")
        except TimeoutError as problem:
            self.kill()
            raise Failed(f"{problem}\n{self.log_since_start()}") from problem
        if not self.running:
            self._forget()
            raise Failed(f"{self} ended at once\n{self.log_since_start()}")

    def stop(self) -> None:
        """End it as an operator would; do nothing if it is not running."""
        if not self.running:
            self._forget()
            return
        self.resume()
        for _ in range(_ASKS):  # a Redis that writes its first append-only file refuses to stop
            guard.send([self.pid], self.stops_by)
            with suppress(TimeoutError):
                wait_until(lambda: not self.running, f"{self} stops", _STOPS_WITHIN / _ASKS)
                break
        else:
            self.kill()
            raise Failed(f"{self} does not stop\n{self.log_since_start()}")
        self._forget()

    def kill(self) -> None:
        """End it, with all its children, as a crash would; return when all are dead."""
        if self.running:
            guard.kill_tree(self.pid)
        self._forget()

    def pause(self) -> None:
        """Stop all its processes where they are: connections stay, nothing is answered."""
        guard.pause_tree(self.pid)

    def resume(self) -> None:
        """Let its processes go on."""
        guard.send(guard.tree(self.pid), signal.SIGCONT)

    def _forget(self) -> None:
        if self._guard is not None:
            assert self._guard.stdin is not None
            self._guard.wait()
            self._guard.stdin.close()
            self._guard = None

    def log_since_start(self) -> str:
        """Return the end of what it has logged since it was started."""
        return self.log.read_bytes()[self._began :][-3000:].decode("utf-8", "replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __str__(self) -> str:
        return f"{type(self).__name__} at {self.host}:{self.port}"
