"""The command line: thin commands over the API.  Each command is imported when it is used."""

from __future__ import annotations

import importlib
from keyword import iskeyword
from typing import Any

import click

import interlock
from interlock.cli.common import escaping

_COMMANDS = {
    "adopt": "adopt",
    "append": "keys",
    "at": "keys",
    "audit": "audit",
    "breakers": "runs",
    "check": "checks",
    "check-store": "checks",
    "conflicts": "checks",
    "consume": "streams",
    "coordinate": "streams",
    "copy": "spaces",
    "curator": "streams",
    "delete": "keys",
    "detect": "checks",
    "doctor": "spaces",
    "erase": "erasure",
    "export": "spaces",
    "export-trace": "checks",
    "files": "files",
    "forensics": "forensics",
    "get": "keys",
    "groups": "streams",
    "guard": "guard",
    "history": "keys",
    "hook": "hook",
    "import": "spaces",
    "init": "spaces",
    "keys": "keys",
    "log": "keys",
    "machine": "rules",
    "mcp": "mcp",
    "monitor": "monitor",
    "patch": "keys",
    "put": "keys",
    "reclaim": "keys",
    "record": "monitor",
    "restore": "forensics",
    "rules": "rules",
    "runs": "runs",
    "serve": "serve",
    "simulate": "simulate",
    "spaces": "spaces",
    "tokens": "serve",
    "torture": "torture",
    "transition": "keys",
    "trim": "streams",
    "update-fields": "keys",
    "watch": "keys",
    "worker": "runs",
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
        module = importlib.import_module(f"interlock.cli.{_COMMANDS[name]}")
        attribute = name.replace("-", "_")
        command: click.Command = getattr(module, attribute + "_" * iskeyword(attribute))
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
