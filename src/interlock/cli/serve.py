"""`interlock serve`: the HTTP service over stores; `interlock tokens`: who may call it."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click
from rich.console import Console

import interlock
from interlock.cli.common import INTERRUPTED, check_is_kept, compact, host_and_port, reported
from interlock.cli.table import DataTable
from interlock.extras import needs

_LOCAL = ("127.0.0.1", "localhost", "::1")
_EXISTING = click.Path(exists=True, dir_okay=False)


@click.command()
@click.argument("urls", nargs=-1, required=True, metavar="URL...", envvar="INTERLOCK_STORE")
@click.option("--bind", default="127.0.0.1:8700", show_default=True, metavar="HOST:PORT")
@click.option("--tokens/--no-tokens", default=None, help="Ask for tokens (interlock tokens).")
@click.option(
    "--issuer",
    "issuers",
    type=_EXISTING,
    multiple=True,
    help="TOML file about whose JWTs are taken, too.",
)
@click.option("--tls-cert", type=_EXISTING, help="Certificate, with which it speaks HTTPS.")
@click.option("--tls-key", type=_EXISTING, help="Private key of the certificate.")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front of it speaks HTTPS.")
@click.option("--allow-host", multiple=True, help="Host name that clients may call it by.")
@click.option(
    "--max-body",
    type=click.IntRange(1024),
    default=8 << 20,
    show_default=True,
    help="Bytes of one request.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2000.0,
    show_default=True,
    help="Requests a second of one token.",
)
@click.option("--no-create", is_flag=True, help="Make no store and no space.")
def serve(
    urls: tuple[str, ...],
    bind: str,
    tokens: bool | None,
    issuers: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    behind_proxy: bool,
    allow_host: tuple[str, ...],
    max_body: int,
    rate: float,
    no_create: bool,
) -> None:
    """Serve the spaces of the stores at URL... over HTTP.

    Tokens are kept in the first store. Without them, whoever reaches it may do everything.
    """
    with reported(False):
        for url in urls:
            check_is_kept(url)
        host, port = host_and_port("--bind", bind)
        public = host not in _LOCAL
        if issuers and tokens is False:
            raise click.UsageError("--issuer asks for tokens: leave --no-tokens out.")
        if (tls_cert is None) != (tls_key is None):
            raise click.UsageError("--tls-cert and --tls-key go together.")
        if public and tokens is False:
            raise click.UsageError(f"Others can reach {host}: leave --no-tokens out.")
        if public and tls_cert is None and not behind_proxy:
            raise click.UsageError(
                f"Others can reach {host}, and tokens need HTTPS: pass --tls-cert and --tls-key, "
                "or --behind-proxy."
            )
        asks = public or behind_proxy or bool(issuers) if tokens is None else tokens
        if behind_proxy and not asks:
            raise click.UsageError("A proxy lets others in: leave --no-tokens out.")
        with needs("The HTTP service", "server"):
            from interlock.server.http.app import serve as run
            from interlock.server.http.issuer import read_issuer
            from interlock.server.http.service import Bounds, Service
        names = [host if ":" not in host else f"[{host}]", *allow_host]
        bounds = Bounds(body=max_body, rate=rate)
        trusted = [read_issuer(Path(each)) for each in issuers]

        async def serving() -> signal.Signals | None:
            service = Service(
                urls,
                tokens=asks,
                issuers=trusted,
                create=not no_create,
                allowed_hosts=names,
                bounds=bounds,
            )
            tls = None if tls_cert is None or tls_key is None else (tls_cert, tls_key)
            return await run(service, host, port, told=_tell, tls=tls, behind_proxy=behind_proxy)

        if asyncio.run(serving()) == signal.SIGINT:
            raise SystemExit(INTERRUPTED)


def _tell(url: str) -> None:
    click.echo(f"serving at {url}", err=True)


@click.group()
def tokens() -> None:
    """Who may call `interlock serve`: tokens, kept as digests in the store."""


_url = click.argument("url", envvar="INTERLOCK_STORE")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _service(url: str, create: bool) -> interlock.Space:
    check_is_kept(url)
    with needs("The HTTP service", "server"):
        from interlock.server.http.identity import SERVICE_RULES, SERVICE_SPACE
    return interlock.open(
        url,
        SERVICE_SPACE,
        "interlock-tokens",
        rules=SERVICE_RULES if create else None,
        create=create,
    )


@tokens.command("create")
@_url
@click.option("--agent", required=True, help="Name that it writes under; '*' for any name.")
@click.option(
    "--role",
    type=click.Choice(["reader", "writer", "operator", "admin"]),
    default="writer",
    show_default=True,
)
@click.option(
    "--space",
    "spaces",
    multiple=True,
    default=["*"],
    show_default=True,
    help="Space that it may open: a name, or team-*.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    default=["**"],
    show_default=True,
    help="Pattern of the keys that it may read and write.",
)
@click.option("--expires", type=click.FloatRange(min=0, min_open=True), metavar="DAYS")
@_json
def create_token(
    url: str,
    agent: str,
    role: str,
    spaces: tuple[str, ...],
    keys: tuple[str, ...],
    expires: float | None,
    as_json: bool,
) -> None:
    """Make a token for an agent, and print it: it is shown only now."""
    with reported(as_json), _service(url, create=True) as space:
        from interlock.server.http import identity

        text, record = identity.create_token(
            space,
            agent,
            None if expires is None else expires * 86400,
            role=role,
            spaces=spaces,
            keys=keys,
        )
        name = record.key.rpartition("/")[2]
        click.echo(compact({"token": name, "secret": text}) if as_json else text)


@tokens.command("revoke")
@_url
@click.argument("name")
@_json
def revoke(url: str, name: str, as_json: bool) -> None:
    """Refuse the token NAME from now on; `interlock tokens list` shows the names."""
    with reported(as_json), _service(url, create=False) as space:
        from interlock.server.http import identity

        identity.revoke_token(space, name)
        click.echo(compact({"revoked": name}) if as_json else f"{name}: revoked")


@tokens.command("list")
@_url
@_json
def list_(url: str, as_json: bool) -> None:
    """List the tokens that are neither revoked nor expired."""
    with reported(as_json), _service(url, create=False) as space:
        from interlock.server.http import identity

        found = identity.list_tokens(space)
        if as_json:
            click.echo(compact(found))
            return
        table = DataTable("token", "agent", "role", "spaces", "keys", "expires")
        for each in found:
            spaces, keys = " ".join(each["spaces"]), " ".join(each["keys"])
            expires = each["expires_at"] or "never"
            table.add_row(each["token"], each["agent"], each["role"], spaces, keys, expires)
        Console().print(table)
