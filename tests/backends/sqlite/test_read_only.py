"""`?mode=ro` on a file that cannot be written, in a folder where nothing can be made."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import interlock
from interlock.cli import main

NOBODY = 65534
READING = (
    *(["get", "k"], ["keys"], ["log"], ["history", "k"], ["at", "k", "--position", "1"]),
    *(["rules", "show"], ["groups", "list"], ["conflicts"], ["runs", "list"], ["breakers", "list"]),
    *(["spaces", "list"], ["export"], ["doctor"], ["check-store"], ["export-trace"]),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may look into: those of pytest are its user's alone."""
    found = Path(tempfile.mkdtemp(prefix="interlock-ro-"))
    yield found
    found.chmod(0o755)
    shutil.rmtree(found)


def failing(url: str) -> list[str]:
    """Run every command that reads, and return what those say that fail."""
    told = {}
    for command in READING:
        result = CliRunner().invoke(main, [*command, "--store", url])
        if result.exit_code:
            told[" ".join(command)] = result.output or repr(result.exception)
    return [f"{command}: {output}" for command, output in told.items()]


def as_somebody_else(url: str) -> str:
    """Do the same in a child that may not write here, and return what failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        try:
            if os.getuid() == 0:
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            os.write(writing, "\n".join(failing(url)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as told:
        found = told.read()
    os.waitpid(child, 0)
    return found


@pytest.mark.parametrize("in_use", [False, True], ids=["closed", "somebody writes"])
def test_every_command_that_reads_works_where_nothing_can_be_written(
    folder: Path, in_use: bool
) -> None:
    file = folder / "team.db"
    url = f"sqlite:///{file}"
    space = interlock.open(url, agent="a")
    space.create("k", 1)
    assert failing(url) == []  # and all modules are loaded, which the child may not read
    if not in_use:
        space.close()
        assert [each.name for each in folder.iterdir()] == ["team.db"]
    for each in folder.iterdir():
        each.chmod(0o444)
    folder.chmod(0o555)
    assert as_somebody_else(f"{url}?mode=ro") == ""
    space.close()
