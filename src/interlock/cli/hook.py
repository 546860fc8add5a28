"""`interlock hook claude`: what Claude Code calls before and after its tools touch a file."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

import interlock
from interlock.cli.common import compact

_BLOCKS, _FAILED = 2, 1  # exit codes, as Claude Code takes them (a ClickException has 1)
_BUSY = 5.0  # seconds
_COMMAND = "interlock hook claude"


class _Hook(click.Command):
    """A command whose wrong options do not block every edit, unless it is to block."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asked = set(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as problem:
            if asked & {"--strict", "--install"}:
                raise
            raise click.ClickException(problem.format_message()) from problem


@click.group()
def hook() -> None:
    """Answer the hooks of agent programs, for their settings."""


@hook.command(cls=_Hook)
@click.option("--store", envvar=["INTERLOCK_URL", "INTERLOCK_STORE"],
              help="URL (default: .interlock/claude.db in the project).")  # fmt: skip
@click.option("--space", envvar="INTERLOCK_SPACE", default="default", show_default=True)
@click.option("--watch", multiple=True, metavar="PATTERN",
              help="Guard only these files: CLAUDE.md, docs/*.")  # fmt: skip
@click.option("--ttl", type=click.FloatRange(min=0.1), default=120.0, show_default=True,
              help="Seconds after which the claim of a dead session is void.")  # fmt: skip
@click.option("--wait", type=click.FloatRange(min=0), default=5.0, show_default=True,
              help="Seconds to wait for the claim of another session.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Block the tool if this hook itself fails.")
@click.option("--install", is_flag=True, help="Print what .claude/settings.json needs.")
@click.option("--write", type=click.Path(dir_okay=False), metavar="FILE",
              help="With --install: add it to this settings file.")  # fmt: skip
def claude(
    store: str | None,
    space: str,
    watch: tuple[str, ...],
    ttl: float,
    wait: float,
    strict: bool,
    install: bool,
    write: str | None,
) -> None:
    """Guard the files that sessions of Claude Code edit: answer the event on standard input.

    A write of a file that the session has not read as it is now is refused, with what it holds.
    """
    if write and not install:
        raise click.UsageError("--write needs --install.")
    if install:
        given = [f"--watch {shlex.quote(each)}" for each in watch] + ["--strict"] * strict
        given += [f"--ttl {ttl:g}"] * (ttl != 120) + [f"--wait {wait:g}"] * (wait != 5)
        _install(" ".join([_COMMAND, *given]), write)
        return
    event: Any = None
    try:
        event = json.load(sys.stdin)
        answer = _answer(event, store, space, watch=watch, ttl=ttl, wait=wait)
    except Exception as problem:  # whatever it is, it must not stop the session
        blocks = strict and (
            not isinstance(event, dict) or event.get("hook_event_name") == "PreToolUse"
        )
        click.echo(f"{_COMMAND} failed, nothing is guarded: {problem!r:.500}", err=True)
        raise SystemExit(_BLOCKS if blocks else _FAILED) from problem
    if answer is not None:
        click.echo(compact(answer))


def _answer(event: dict[str, Any], store: str | None, space: str, **options: Any) -> Any:
    from interlock.adapters.claude.hooks import ENDS, TOOLS, FileHooks

    if event["hook_event_name"] not in ENDS and event.get("tool_name") not in TOOLS.split("|"):
        return None
    project = os.environ.get("CLAUDE_PROJECT_DIR") or event.get("cwd") or os.getcwd()
    with interlock.open(
        store or _store_in(project), space, agent=_name(event), busy_timeout=_BUSY
    ) as opened:
        return FileHooks(opened, project, **options).answer(event)


def _store_in(project: str) -> str:
    """Return the URL of the project's own store, and make its folder, which git ignores."""
    folder = Path(project).resolve() / ".interlock"
    folder.mkdir(exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return f"sqlite:///{quote(str(folder / 'claude.db'))}"


def _name(event: dict[str, Any]) -> str:
    return f"claude-{str(event.get('session_id'))[:40]}"


def _install(command: str, write: str | None) -> None:
    """Print the settings, or add them to a file."""
    from interlock.adapters.claude.hooks import FileHooks

    run = {"hooks": [{"type": "command", "command": command, "timeout": 30}]}
    wanted = {
        event: {**({"matcher": matcher} if matcher else {}), **run}
        for event, matcher in FileHooks.events().items()
    }
    if write is None:
        click.echo(
            json.dumps({"hooks": {event: [each] for event, each in wanted.items()}}, indent=2)
        )
        return
    file = Path(write)
    try:
        settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        hooks = settings.setdefault("hooks", {})
        for event, each in wanted.items():
            others = [one for one in hooks.get(event, []) if not _is_ours(one)]
            hooks[event] = [*others, each]
    except (ValueError, AttributeError, TypeError) as problem:
        raise click.UsageError(f"{write} is no settings file of Claude Code: {problem}") from None
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(file)
    click.echo(f"added to {file}", err=True)


def _is_ours(entry: dict[str, Any]) -> bool:
    return any(_COMMAND in each.get("command", "") for each in entry.get("hooks", []))
