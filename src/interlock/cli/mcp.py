"""`interlock mcp`: serves a space to clients of the Model Context Protocol."""

from __future__ import annotations

import asyncio
import re
import signal

import click

from interlock.cli.common import INTERRUPTED, check_is_kept, cipher_of, cipher_option, reported
from interlock.cli.rules import read_rules
from interlock.extras import needs

_LOCAL = ("127.0.0.1", "localhost", "::1")
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # as RFC 6750 has it


@click.command()
@click.argument("url", envvar="INTERLOCK_STORE")
@click.option("--space", envvar="INTERLOCK_SPACE", default="default", show_default=True)
@click.option("--agent", envvar="INTERLOCK_AGENT", help="Name that all connections write under.")
@cipher_option
@click.option("--exclusive", is_flag=True, help="Take the names over from other processes.")
@click.option("--read-only", is_flag=True, help="Only the tools that read.")
@click.option(
    "--profile",
    type=click.Choice(["space", "memory"]),
    default="space",
    show_default=True,
    help="The tools: of keys and records, or of the reference memory server.",
)
@click.option("--rules", metavar="FILE", help="Rules to add: JSON, or module:NAME.")
@click.option("--http", metavar="HOST:PORT", help="Serve over HTTP, not standard input and output.")
@click.option(
    "--token",
    "tokens",
    envvar="INTERLOCK_MCP_TOKEN",
    multiple=True,
    metavar="[AGENT:]TOKEN",
    help="Access token that HTTP clients must send, and whose name it is.",
)
@click.option("--allow-host", multiple=True, help="Host name that HTTP clients may call it by.")
def mcp(
    url: str,
    space: str,
    agent: str | None,
    cipher: str | None,
    exclusive: bool,
    read_only: bool,
    profile: str,
    rules: str | None,
    http: str | None,
    tokens: tuple[str, ...],
    allow_host: tuple[str, ...],
) -> None:
    """Serve the store at URL to a client of the Model Context Protocol (MCP).

    The client is the one on standard input and output; with --http, any number of them.
    """
    with reported(False):
        check_is_kept(url)
        names = _names(tokens)
        given = any(name is not None for name in names.values())
        if exclusive and agent is None and not given:
            raise click.UsageError("--exclusive needs a name: --agent NAME, or --token NAME:TOKEN.")
        if http is None and (names or allow_host):
            raise click.UsageError("--token and --allow-host need --http.")
        address = None if http is None else _address(http, bool(names))
        declared = None if rules is None else read_rules(rules)
        unlocking = cipher_of(cipher)
        with needs("The MCP SDK", "mcp"):  # its import takes a second: what is wrong is told before
            from interlock.server.mcp.agents import opened
            from interlock.server.mcp.server import make_server, serve_http, serve_stdio

        async def serve() -> signal.Signals | None:
            async with opened(
                url,
                space,
                agent,
                names=[name for name in names.values() if name],
                exclusive=exclusive,
                rules=declared,
                create=not read_only,
                cipher=unlocking,
            ) as agents:
                server = make_server(agents, read_only, profile)
                if address is None:
                    return await serve_stdio(server)
                return await serve_http(
                    server, *address, tokens=names, allowed_hosts=allow_host, told=_tell
                )

        if asyncio.run(serve()) == signal.SIGINT:
            raise SystemExit(INTERRUPTED)


def _names(tokens: tuple[str, ...]) -> dict[str, str | None]:
    """Return the name that each token stands for, None where it has none."""
    found: dict[str, str | None] = {}
    for given in tokens:
        name, colon, token = given.rpartition(":")
        if not _TOKEN.fullmatch(token) or (colon and not name):
            raise click.UsageError(
                "A token has only letters, digits and -._~+/. For one agent, write NAME:TOKEN."
            )
        if token in found:
            raise click.UsageError("A token is given twice. Each agent needs its own.")
        found[token] = name or None
    return found


def _address(text: str, tokens: bool) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"--http {text!r} is not HOST:PORT. Example: 127.0.0.1:8765")
    if host not in _LOCAL and not tokens:
        raise click.UsageError(f"Others can reach {host}: pass a --token (INTERLOCK_MCP_TOKEN).")
    return host, int(port)


def _tell(url: str) -> None:
    click.echo(f"serving at {url}", err=True)
