"""A real PgBouncer for the tests: a pool in front of a PostgreSQL, one transaction at a time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.servers.postgres import Postgres
from tests.servers.process import Missing, Server, own


class PgBouncer(Server):
    """A PgBouncer server; any user may connect, and becomes `postgres`."""

    unprivileged = True

    def __init__(
        self, folder: Path, target: Postgres, options: Mapping[str, object], binary: str
    ) -> None:
        super().__init__(folder)
        self.target = target
        self.options = options
        self.binary = binary

    @classmethod
    def start(
        cls, folder: Path, target: Postgres, options: Mapping[str, object] | None = None
    ) -> PgBouncer:
        """Start it in front of a server, with settings of one's own."""
        binary = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if binary is None:
            raise Missing("PgBouncer for the tests is not installed: apt-get install pgbouncer")
        return cls(own(folder), target, options or {}, binary).start_first()

    def command(self) -> list[str]:
        """Write the settings, and return the command that runs the server."""
        settings = {
            "listen_addr": self.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "max_client_conn": 500,
            "default_pool_size": 20,
            **self.options,
        }
        file = self.folder / "pgbouncer.ini"
        file.write_text(
            f"[databases]\n* = host={self.target.host} port={self.target.port} user=postgres\n"
            "[pgbouncer]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        file.chmod(0o644)
        return [self.binary, str(file)]

    def is_ready(self) -> bool:
        """Say whether it takes connections; its log says so."""
        return "process up" in self.log_since_start()

    def stop(self) -> None:
        """End it at once: it keeps nothing."""
        self.kill()

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """Return its address."""
        return self.target.url(database, user, port=self.port)
