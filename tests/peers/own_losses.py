"""What LangGraph's own savers and stores lose on SQLite and PostgreSQL, found by our kit.

Only `tests.peers` runs this file: its environment has those packages installed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from interlock.verify.frameworks import Report, check_saver, check_store

URL = os.environ["INTERLOCK_PEERS_URL"]
SAVERS = {
    "sqlite": ("checkpoint.sqlite", "SqliteSaver"),
    "sqlite-async": ("checkpoint.sqlite.aio", "AsyncSqliteSaver"),
    "postgres": ("checkpoint.postgres", "PostgresSaver"),
}
STORES = {
    "sqlite": ("store.sqlite", "SqliteStore"),
    "postgres": ("store.postgres", "PostgresStore"),
}


def maker(kind: str, home: tuple[str, str], tmp_path: Path) -> Callable[[], Any]:
    """Return what opens one of LangGraph's own as one more process would."""
    made = getattr(import_module(f"langgraph.{home[0]}"), home[1])
    postgres = URL.startswith("postgres")
    if postgres != (kind == "postgres"):
        pytest.skip(f"this run is on {'PostgreSQL' if postgres else 'SQLite'}")
    where = URL if postgres else str(tmp_path / f"{secrets.token_hex(4)}.db")
    if kind == "sqlite-async":
        return lambda: made.from_conn_string(where)

    @contextmanager
    def opened() -> Iterator[Any]:
        with made.from_conn_string(where) as subject:
            subject.setup()
            yield subject

    return opened


def counts(report: Report) -> dict[str, tuple[int, int]]:
    """Return expected and kept, by case."""
    return {each.case: (each.expected, each.kept) for each in report.results}


@pytest.mark.parametrize("kind", SAVERS)
def test_savers(kind: str, tmp_path: Path) -> None:
    found = counts(check_saver(maker(kind, SAVERS[kind], tmp_path)))
    assert found == {
        "runs_on_one_thread": (12, 4),
        "resume_twice": (1, 2),
        "crash_between_steps": (3, 3),
        "zombie_run": (6, 4),
    }


@pytest.mark.parametrize("kind", STORES)
def test_stores(kind: str, tmp_path: Path) -> None:
    found = counts(check_store(maker(kind, STORES[kind], tmp_path)))
    assert found["parallel_writers"] == (8, 1)
    assert found["zombie_writer"] == (2, 1)
