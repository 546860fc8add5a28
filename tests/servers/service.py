"""`interlock serve` in a process of its own, and requests to it without any library."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from tests.servers.process import Server

INTERLOCK = str(Path(sys.executable).parent / "interlock")


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What the body holds."""
        return json.loads(self.body)

    @property
    def etag(self) -> str:
        """What names the record that was answered."""
        return self.headers["etag"]


class Service(Server):
    """A service over one SQLite file, or over the stores that are named."""

    def __init__(self, folder: Path, stores: tuple[str, ...], options: tuple[str, ...]) -> None:
        super().__init__(folder)
        self.stores = stores or (f"sqlite:///{folder / 'store.db'}",)
        self.options = options

    @classmethod
    def start(cls, folder: Path, *options: str, stores: tuple[str, ...] = ()) -> Service:
        """Start a new one, with options of `interlock serve`."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, stores, options).start_first()

    def command(self) -> list[str]:
        """Return the command that runs it."""
        place = f"{self.host}:{self.port}"
        return [INTERLOCK, "serve", *self.stores, "--bind", place, *self.options]

    def is_ready(self) -> bool:
        """Say whether it answers, and not somebody else on its port."""
        try:
            return "serving at" in self.log_since_start() and self.ask("GET", "/healthz").json["ok"]
        except OSError:
            return False

    def url(self, token: str = "") -> str:
        """Return its address, for `interlock.open`."""
        return f"http://{f':{token}@' if token else ''}{self.host}:{self.port}"

    def ask(
        self, method: str, path: str, value: Any = None, token: str = "", **more: str
    ) -> Answer:
        """Send one request on a connection of its own.  `more`: headers, with _ for -."""
        body = value if isinstance(value, bytes | None) else json.dumps(value).encode()
        headers = {name.replace("_", "-"): each for name, each in more.items()}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body, headers)
            found = connection.getresponse()
            named = {name.lower(): each for name, each in found.headers.items()}
            return Answer(found.status, named, found.read())
        finally:
            connection.close()

    def space(self, name: str, token: str = "") -> SpaceOf:
        """Make a space, and return what asks for things in it."""
        made = self.ask("PUT", f"/v1/spaces/{quote(name, safe='')}", token=token)
        assert made.status == 201, made
        return SpaceOf(self, name, token)


class SpaceOf:
    """Requests about one space, with one token."""

    def __init__(self, service: Service, name: str, token: str = "") -> None:
        self.service, self.name, self.token = service, name, token
        self.root = f"/v1/spaces/{quote(name, safe='')}"

    def ask(self, method: str, path: str, value: Any = None, **headers: str) -> Answer:
        """Send one request about the space."""
        return self.service.ask(method, f"{self.root}/{path}", value, self.token, **headers)

    def create(self, key: str, value: Any) -> Answer:
        """Create a key, and return its record."""
        made = self.ask("PUT", f"records/{key}", value, If_None_Match="*")
        assert made.status == 201, made
        return made

    def under(self, token: str) -> SpaceOf:
        """Return the same for another caller."""
        return SpaceOf(self.service, self.name, token)

    @contextmanager
    def watching(self, query: str = "", **headers: str) -> Iterator[Iterator[tuple[str, Any]]]:
        """Watch the space: yields the events, as their ids and data, as they come."""
        connection = http.client.HTTPConnection(self.service.host, self.service.port, timeout=30)
        named = {name.replace("_", "-"): each for name, each in headers.items()}
        if self.token:
            named["Authorization"] = f"Bearer {self.token}"
        connection.request("GET", f"{self.root}/watch{query}", headers=named)
        found = connection.getresponse()
        assert found.status == 200, found.read()
        try:
            yield _events(found)
        finally:
            found.close()
            connection.close()


def _events(found: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    fields: dict[str, str] = {}
    while line := found.readline():
        name, _, text = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = text
        elif "data" in fields:
            yield fields.get("id", fields["event"]), json.loads(fields["data"])
            fields = {}
