"""The command line: thin commands over the façades.  Each command is imported when it is used."""

from __future__ import annotations

import importlib
from typing import Any

import click

import interlock
from interlock.cli.terminal import escaping

_COMMANDS = {
    "append": "write",
    "at": "read",
    "breakers": "breakers",
    "check": "histories",
    "check-store": "store_check",
    "conflicts": "conflicts",
    "consume": "streams",
    "coordinate": "streams",
    "delete": "write",
    "detect": "detect",
    "export-trace": "detect",
    "files": "files",
    "get": "read",
    "groups": "streams",
    "history": "read",
    "init": "write",
    "keys": "read",
    "log": "read",
    "machine": "rules",
    "mcp": "mcp",
    "put": "write",
    "reclaim": "write",
    "rules": "rules",
    "runs": "runs",
    "simulate": "simulate",
    "torture": "torture",
    "transition": "write",
    "trim": "trim",
    "watch": "read",
    "worker": "worker",
}


class _Lazy(click.Group):
    def main(self, *args: Any, **options: Any) -> Any:
        with escaping():
            return super().main(*args, **options)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module: Any = importlib.import_module(f"interlock.cli.{_COMMANDS[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command


@click.group(cls=_Lazy)
@click.version_option(interlock.__version__, prog_name="interlock")
def main() -> None:
    """Many agents share state without silently destroying each other's work.

    The store is named by --store or INTERLOCK_STORE, such as sqlite:///team.db.

    \b
    Exit codes: 0 done; 1 the store is broken or away, or an extra is not installed;
    2 the call is wrong;
    3 refused, trying again may help (a conflict); 4 no such key;
    5 refused for good; 6 a check found anomalies; 7 a check is undecided;
    130 interrupted.
    """
