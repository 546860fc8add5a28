"""Reads and runs the blocks of a Markdown page: ```python and ```console, in the page's order.

All blocks of a page share one namespace and one working directory.  A comment on the line before a
block changes what happens: `<!-- not run: reason -->`, or `<!-- exit: N -->` for the exit code that
every command of the block must have.  The checks that use this are in `test_repository_docs.py`.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.repository import ROOT, text_of

_FENCE = re.compile(r"^\s*```(\w*)\s*$")
_NOT_RUN = re.compile(r"^<!--\s*not run\b:?\s*(.*?)\s*-->$")
_EXIT = re.compile(r"^<!--\s*exit:\s*(\d+)\s*-->$")
# Commands that change the machine or the clone; only that their target exists is checked.
_LEFT_ALONE = {"cd", "git", "pip", "uv"}
_HANGS_AFTER = 120  # seconds; keeps a command that waits forever from stopping the tests


class Block(NamedTuple):
    """A fenced block: its language, its text, the page's line of its first line, its comment."""

    language: str
    text: str
    line: int
    not_run: str | None = None
    exit_code: int = 0


class Broken(AssertionError):
    """A page whose blocks are malformed, or do not do what the page says."""


def blocks(text: str) -> list[Block]:
    """Return a page's fenced blocks.  Raises `Broken`."""
    found: list[Block] = []
    comment = ""
    opened: Block | None = None
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None and line.strip() == "```":
            found.append(opened._replace(text=textwrap.dedent("\n".join(body)) + "\n"))
            opened, comment, body = None, "", []
        elif opened is not None:
            body.append(line)
        elif fence:
            opened = _commented(Block(fence[1], "", number + 1), comment)
        elif line.strip():
            comment = line.strip()
    if opened is not None:
        raise Broken(f"line {opened.line - 1}: a block is never closed")
    return found


def _commented(block: Block, comment: str) -> Block:
    if not_run := _NOT_RUN.match(comment):
        if not not_run[1]:
            raise Broken(f"line {block.line - 1}: not run, and no reason: <!-- not run: reason -->")
        return block._replace(not_run=not_run[1])
    if code := _EXIT.match(comment):
        return block._replace(exit_code=int(code[1]))
    return block


def commands(block: Block) -> list[str]:
    """Return the commands of a console block, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    return [line[2:].strip() for line in joined.splitlines() if line.startswith("$ ")]


def make_targets(makefile: str) -> set[str]:
    """Return the names that a Makefile can make."""
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.M))


def run_page(text: str, name: str, fixture: Callable[[str], Any]) -> int:
    """Run a page's blocks in the working directory; return how many ran.  Raises what they raise.

    Functions named `test_...` are called, too, with `fixture(name)` for each parameter.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    tested: set[int] = set()
    ran = 0
    try:
        for block in blocks(text):
            if block.not_run is not None or block.language not in {"python", "console"}:
                continue
            ran += 1
            if block.language == "console":
                for command in commands(block):
                    run_command(command, f"{name}:{block.line}", block.exit_code)
                continue
            # Empty lines before it make tracebacks show the page's own line numbers.
            source = "\n" * (block.line - 1) + block.text
            # As it is for a reader: without the __future__ imports of this file.
            exec(compile(source, name, "exec", dont_inherit=True), namespace)
            for test in [namespace[each] for each in namespace if each.startswith("test_")]:
                if id(test) not in tested:
                    tested.add(id(test))
                    test(**{each: fixture(each) for each in inspect.signature(test).parameters})
    finally:
        for value in namespace.values():
            if callable(close := getattr(value, "close", None)) and not inspect.isclass(value):
                close()
    return ran


def run_command(command: str, where: str, exit_code: int = 0) -> None:
    """Run one console line as a reader would.  Raises `Broken` unless it exits as the page says."""
    program, *arguments = command.split()
    if program == "make":
        known = make_targets(text_of(ROOT / "Makefile"))
        if unknown := {each for each in arguments if "=" not in each} - known:
            raise Broken(f"{where}: the Makefile has no target {sorted(unknown)}: $ {command}")
    elif program == "interlock":
        _run_interlock(command, where, exit_code)
    elif program not in _LEFT_ALONE:
        raise Broken(f"{where}: say <!-- not run: reason --> before a block with: $ {command}")


def _run_interlock(command: str, where: str, exit_code: int) -> None:
    bare = {name: value for name, value in os.environ.items() if "INTERLOCK" not in name}
    path = os.pathsep.join([str(Path(sys.executable).parent), bare.get("PATH", "")])
    try:
        ran = subprocess.run(
            command,
            shell=True,
            env={**bare, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_HANGS_AFTER,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise Broken(f"{where}: not done after {_HANGS_AFTER} s: $ {command}") from problem
    if ran.returncode != exit_code:
        said = f"{ran.stdout}{ran.stderr}".strip()
        raise Broken(f"{where}: exit code {ran.returncode}, not {exit_code}: $ {command}\n{said}")
