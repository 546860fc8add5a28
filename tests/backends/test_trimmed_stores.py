"""What trimming leaves in each store, looked at without Interlock."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

import interlock
from interlock.core import trim
from interlock.core.requests import Floor, Trim

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
LEFT = "SELECT key, kind, op FROM log WHERE space = (SELECT space FROM spaces WHERE name = {})"
BASES = [("$rules", "put", ""), ("found", "fold", ""), ("k", "put", "")]


@contextmanager
def trimmed(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A space with 600 entries of two keys, all of them cut; its name."""
    monkeypatch.setattr(trim, "KEPT_AT_LEAST", 0.0)
    name = f"trim-{uuid.uuid4().hex[:12]}"
    rules = {"found": interlock.merged("append")}
    with interlock.open(url, space=name, agent="a", durability="off", rules=rules) as space:
        record = space.create("k", -1)
        for n in range(299):
            record = space.write(record, n)
            space.append("found", n)
        space.append("found", 299)
        assert space.trim(keep=0)[:3] == (602, 601, "")
        yield name
        assert space.read("found").value == list(range(300))


def test_sqlite_keeps_one_row_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "store.db"
    with trimmed(f"sqlite:///{file}", monkeypatch) as name, closing(sqlite3.connect(file)) as raw:
        assert sorted(raw.execute(LEFT.format("?"), (name,)).fetchall()) == BASES


def test_postgres_keeps_one_row_a_key(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with trimmed(postgres_url, monkeypatch) as name, psycopg.connect(postgres_url) as raw:
        raw.execute("SET search_path = interlock")
        assert sorted(raw.execute(LEFT.format("%s"), (name,)).fetchall()) == BASES


def test_redis_keeps_one_field_a_key(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        trimmed(redis_url, monkeypatch) as name,
        closing(redis.Redis.from_url(redis_url)) as raw,
    ):
        state = f"interlock:{{{name}}}"
        assert raw.xlen(f"{state}:log") == 0
        assert raw.llen(f"{state}:m:found") == 0
        fields: Any = raw.hkeys(state)
        kinds = sorted(field[:2] for field in fields if field[1:2] == b":")
        assert [kind for kind in kinds if kind == b"z:"] == [b"z:"] * 3
        assert not {b"o:", b"j:"} & {*kinds}


def test_who_waits_for_another_that_trims_sees_what_it_cut(postgres_url: str) -> None:
    name = f"trim-{uuid.uuid4().hex[:12]}"
    with (
        interlock.open(postgres_url, space=name, agent="a") as space,
        psycopg.connect(postgres_url) as other,
        psycopg.connect(postgres_url, autocommit=True) as watcher,
        ThreadPoolExecutor(1) as thread,
    ):
        for key in ("a", "b", "c"):
            space.create(key, 1)
        backend: Any = space.session.driver.backend
        where = "FROM interlock.spaces WHERE name = %s"
        row: Any = other.execute(f"SELECT space {where} FOR UPDATE", (name,)).fetchone()
        waits = thread.submit(backend.perform, Trim(1, ()))
        while watcher.execute(WAITING).fetchone() == (0,):
            threading.Event().wait(0.01)
        other.execute("SELECT interlock.trim(%s, 2, '{}', '{}', 0)", row)
        other.commit()
        assert waits.result() == Floor(2)
        assert [entry.position for entry in space.log()] == [3]
