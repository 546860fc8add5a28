"""URLs of files, and a file that is locked: what the contract suite says of no other backend."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import interlock
from tests.facades import Facades


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """A new file for each test."""
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.mark.parametrize(
    "url",
    [
        "team.db",
        "mysql://host/db",
        "sqlite://host/team.db",
        "sqlite:///team.db?mode=rx",
        "sqlite:///team.db?cache=shared",
        7,
    ],
)
def test_urls_that_name_no_store(
    facades: Facades, url: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(interlock.Invalid):
        facades.open(url=url)
    assert list(tmp_path.glob("*.db*")) == []


@pytest.mark.parametrize("option", [{"space": ""}, {"agent": ""}, {"max_value_bytes": 0}], ids=str)
def test_what_has_no_meaning_makes_no_file(
    facades: Facades, option: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(interlock.Invalid):
        facades.open(**option)
    assert list(tmp_path.glob("*.db*")) == []


def test_a_record_of_refusals_that_cannot_be_kept_fails_no_write(facades: Facades) -> None:
    space = facades.open("us", busy_timeout=0.05)
    space.create("k", 0)
    path = facades.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for _ in range(3):
            with pytest.raises(interlock.Conflict):
                space.create("k", 1)
        other.execute("BEGIN IMMEDIATE")
        assert len(space.conflicts().refusals) <= 3, "busy: kept for later, and nobody waits"
        other.execute("ROLLBACK")
    assert len(space.conflicts().refusals) == 3


_OPENS_AND_CLOSES = """
import asyncio, gc, sys, threading, interlock
from interlock.cipher import SQLiteKeys

url = f"sqlite:///{sys.argv[1]}/store.db"
with interlock.open(url, rules={"b": interlock.merged("append")}) as space:
    space.create("a", 1)
    threads = [threading.Thread(target=space.append, args=("b", n)) for n in range(3)]
    [each.start() for each in threads], [each.join() for each in threads]
    list(space.log()), space.at(position=1).read("a")

async def again():
    async with interlock.open_async(url) as space:
        await space.update("a", lambda n: n + 1)

asyncio.run(again())
SQLiteKeys(f"{sys.argv[1]}/keys.db").close()
gc.collect()
"""


def test_a_space_leaves_no_connection_open(tmp_path: Path) -> None:
    """Python says so from 3.13 on, where a connection is collected before it was closed."""
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", _OPENS_AND_CLOSES]
    ran = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "unclosed" not in ran.stderr
