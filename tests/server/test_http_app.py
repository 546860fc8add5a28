"""The service inside an application, and over HTTPS."""

from __future__ import annotations

import asyncio
import datetime
import re
import subprocess
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message

import interlock
from interlock.server import app
from interlock.server.http.app import application
from interlock.server.http.feed import Feed
from interlock.server.http.service import Service
from tests.servers.service import INTERLOCK


async def test_an_application_mounts_the_spaces_that_it_has_open() -> None:
    async with interlock.open_async("sqlite://", space="travel", agent="us") as space:
        await space.create("k", 1)
        outer = Starlette(routes=[Mount("/interlock", app(space, allowed_hosts=["team.example"]))])
        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://team.example/interlock"
        ) as client:
            assert (await client.get("/v1/spaces")).json() == {"spaces": ["travel"]}
            made = await client.put(
                "/v1/spaces/travel/records/n",
                json=2,
                headers={"If-None-Match": "*", "Interlock-Agent": "them"},
            )
            assert made.headers["location"] == "/interlock/v1/spaces/travel/records/n"
            assert (await client.put("/v1/spaces/other")).status_code == 404
            headers = {"Host": "evil.example"}
            assert (await client.get("/v1/spaces", headers=headers)).status_code == 421
        assert (await space.read("n")).writer == "them"


@pytest.mark.parametrize("path", ["log", "watch"])
async def test_a_stream_ends_when_its_client_goes_whatever_is_still_to_be_sent(
    path: str,
) -> None:
    gone, sent = asyncio.Event(), list[Message]()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:  # never waits, as where the buffers have room
        sent.append(message)
        if b"k/0" in message.get("body", b""):
            gone.set()

    async with interlock.open_async("sqlite://", space="travel", agent="us") as space:
        await space.create_many({f"k/{n}": n for n in range(300)})
        service = Service([space], tokens=False)
        await application(service)(
            {
                "type": "http",
                "method": "GET",
                "path": f"/v1/spaces/travel/{path}",
                "query_string": b"after=0",
                "headers": [(b"host", b"localhost"), (b"accept", b"application/x-ndjson")],
            },
            receive,
            send,
        )
        assert service.watching == 0
    assert len(sent) < 20


async def test_who_is_behind_gets_each_entry_once_and_in_order() -> None:
    got = list[str]()
    async with interlock.open_async("sqlite://", space="travel", agent="us") as space:
        await space.create("first", 1)
        async with aclosing(Feed(space).follow(0)) as followed:
            got += [entry.key for entry in await anext(followed)]
            await space.create_many({f"k/{n:03}": n for n in range(300)})
            while len(got) < 301:
                got += [entry.key for entry in await anext(followed)]
    assert got == ["first", *(f"k/{n:03}" for n in range(300))]


async def test_a_page_that_is_mounted_links_to_itself() -> None:
    async with interlock.open_async("sqlite://", space="travel") as space:
        await space.create("k", 1)
        outer = Starlette(routes=[Mount("/inside", app(space, allowed_hosts=["team.example"]))])
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(outer), base_url="http://team.example"
        ) as client:
            first = await client.get("/inside/")
            assert (first.status_code, first.headers["location"]) == (303, "/inside/ui/travel")
            links = set()
            for path in ("", "/keys", "/key/k"):
                shown = await client.get(f"/inside/ui/travel{path}")
                links |= {
                    *re.findall('(?:href|src|action|data-live|hx-get)="(/[^"?]*)', shown.text)
                }
            assert len(links) > 15
            assert all(each.startswith("/inside/") for each in links)


def test_what_can_not_be_served_is_refused() -> None:
    with pytest.raises(interlock.Invalid, match="at least one store"):
        app()
    with interlock.open("sqlite://") as space, pytest.raises(interlock.Invalid, match="AsyncSpace"):
        app(space)  # type: ignore[arg-type]  # that is the point


def test_a_service_speaks_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = _certificate(tmp_path)
    store = f"sqlite:///{tmp_path / 's.db'}"
    command = [INTERLOCK, "serve", store, "--bind", "localhost:0"]
    command += ["--tls-cert", str(cert), "--tls-key", str(key)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        try:
            url = service.stderr.readline().strip().removeprefix("serving at ")
            assert url.startswith("https://")
            with pytest.raises(interlock.Unavailable, match=r"(?i)certificate"):
                interlock.open(url, agent="a")
            monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            with interlock.open(url, agent="a") as space:
                assert space.create("k", 1).version == 1
        finally:
            service.terminate()


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of this machine that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, private
