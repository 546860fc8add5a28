"""`create=False`, as every command that only reads opens a space: nothing is made."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from click.testing import CliRunner

import interlock
from interlock.cli import main

READING = (
    *(["get", "k"], ["keys"], ["log"], ["history", "k"], ["at", "k", "--position", "1"], ["watch"]),
    *(["rules", "show"], ["groups", "list"], ["conflicts"], ["runs", "list"], ["breakers", "list"]),
    *(["spaces"], ["export"], ["doctor"], ["check-store"], ["export-trace"], ["trim"]),
)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store with a space of another name."""
    file = f"sqlite:///{tmp_path / 'there.db'}"
    found = file if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_url")
    interlock.open(found, space="another", agent="a").close()
    return str(found)


def _open(url: str, name: str) -> None:
    interlock.open(url, space=name, agent="a", create=False).close()


async def _open_async(url: str, name: str) -> None:
    async with interlock.open_async(url, space=name, agent="a", create=False):
        pass


async def test_a_space_that_is_not_there_is_not_made(url: str) -> None:
    name = f"none-{uuid.uuid4().hex[:12]}"
    for _ in range(2):  # the first one has made nothing
        with pytest.raises(interlock.Unavailable, match=f"has no space '{name}'"):
            _open(url, name)
        with pytest.raises(interlock.Unavailable, match=f"has no space '{name}'"):
            await _open_async(url, name)
    interlock.open(url, space=name, agent="a").close()
    _open(url, name)
    await _open_async(url, name)


def test_commands_that_read_make_no_space(url: str) -> None:
    where: Any = ["--store", url, "--space", f"none-{uuid.uuid4().hex[:12]}"]
    for command in (["get", "k"], ["keys"], ["log"], ["rules", "show"], ["groups", "list"]):
        told = CliRunner().invoke(main, [*command, *where])
        assert (told.exit_code, "has no space" in told.stderr) == (1, True), command
    assert CliRunner().invoke(main, ["init", *where]).exit_code == 0
    assert CliRunner().invoke(main, ["get", "k", *where]).exit_code == 4


def test_reading_makes_no_schema_in_postgres(postgres_url: str) -> None:
    name = f"empty_{uuid.uuid4().hex[:12]}"
    url = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
    with psycopg.connect(postgres_url, autocommit=True) as raw:
        raw.execute(f"CREATE DATABASE {name}".encode())
        try:
            for command in READING:
                told = CliRunner().invoke(main, [*command, "--store", url])
                assert (told.exit_code, "No Interlock store" in told.stderr) == (1, True), command
            with psycopg.connect(url) as empty:
                found = empty.execute("SELECT to_regnamespace('interlock')").fetchone()
            assert found == (None,)
        finally:
            raw.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
