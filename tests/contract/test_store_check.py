"""`check-store` on every store: what is sound passes, and edits by hand are noticed."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import redis
from click.testing import CliRunner

import interlock
from interlock.cli import main
from interlock.core.requests import Trim
from interlock.verify import StoreReport, check_store

RULES = {"notes": interlock.merged("append")}
Edit = Callable[[Any], None]


def fill(space: interlock.Space) -> None:
    """Commits of every kind: versions, a transaction that read, contributions, a deleted key."""
    a = space.create("a", {"seat": None}, op_id="first")
    a = space.write(a, {"seat": "12A"}, op_id="second")
    space.create("b", 1)
    with space.transaction() as tx:
        tx.write(tx.read("b"), tx.read("a").version)
    space.reclaim("a")
    space.write(space.read("a"), {"seat": "14C"}, op_id="last")
    for n in range(201):
        space.append("notes", n)
    space.read("notes")  # which keeps the fold
    space.append("notes", "not in it")
    space.delete(space.create("gone", 1))


class Store(NamedTuple):
    url: str
    name: str

    def edit_sql(self, statement: str) -> None:
        """Run SQL on the store; `{log}` and the like are its tables."""
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as raw:
                assert raw.execute(
                    statement.format(log="log", heads="heads", folds="folds")
                ).rowcount
                raw.commit()
        else:
            where = f"(SELECT space FROM interlock.spaces WHERE name = '{self.name}')"
            names = {each: f"interlock.{each}" for each in ("log", "heads", "folds")}
            with psycopg.connect(self.url, autocommit=True) as raw_:
                text = f"{statement.format(**names)} AND space = {where}"
                assert raw_.execute(text.encode()).rowcount

    def edit_redis(self, edit: Callable[[Any, str], object]) -> None:
        with closing(redis.Redis.from_url(self.url)) as raw:
            assert edit(raw, f"interlock:{{{self.name}}}")


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    name = f"checked-{uuid.uuid4().hex[:12]}"
    file = f"sqlite:///{tmp_path / 'checked.db'}"
    url = file if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_url")
    with interlock.open(url, space=name, agent="a", rules=RULES) as space:
        fill(space)
    return Store(url, name)


def checked(store: Store, against: Any = None) -> StoreReport:
    with interlock.open(store.url, space=store.name, agent="checker", rules=RULES) as space:
        return check_store(space, against)


SQL = {
    "an entry is gone": "DELETE FROM {log} WHERE op = 'second'",
    "a version is another": "UPDATE {log} SET version = 7 WHERE op = 'second'",
    "an epoch fell": "UPDATE {log} SET epoch = 9 WHERE op = 'second'",
    "an operation id is another's": "UPDATE {log} SET op = 'first' WHERE op = 'last'",
    "a time fell": "UPDATE {log} SET time = 1 WHERE op = 'last'",
    "a key is gone": "DELETE FROM {heads} WHERE key = 'b'",
    "a deleted key is back": "UPDATE {heads} SET live = 1 WHERE key = 'gone'",
    "a fold is another": "UPDATE {folds} SET body = '[1]' WHERE key = 'notes'",
}
# PostgreSQL refuses the first, and reads the others from the log alone.
ONLY_SQLITE = {
    "a body is no JSON": "UPDATE {log} SET body = '{{\"seat\"' WHERE op = 'second'",
    "a key's version is another": "UPDATE {heads} SET version = version + 1 WHERE key = 'a'",
    "a key's epoch fell": "UPDATE {heads} SET epoch = 0 WHERE key = 'a'",
}
ONLY_BY_DIGEST = {
    "a value is another": "UPDATE {log} SET body = '{{\"seat\": \"1A\"}}' WHERE op = 'second'",
    "a writer is another": "UPDATE {log} SET agent = 'mallory' WHERE op = 'second'",
}


def second(raw: Any, state: str) -> Any:
    """The stream entry of operation `second`."""
    log = next(key for key in raw.scan_iter(f"{state}*") if raw.type(key) == b"stream")
    return log, next(id for id, fields in raw.xrange(log) if fields[b"o"] == b"second")


def list_of(raw: Any, state: str) -> Any:
    return next(key for key in raw.scan_iter(f"{state}*") if raw.type(key) == b"list")


REDIS: dict[str, Callable[[Any, str], object]] = {
    "an entry is gone": lambda raw, state: raw.xdel(*second(raw, state)),
    "the last position is another": lambda raw, state: raw.hincrby(state, "p", 3),
    "a key's head is another's": lambda raw, state: (
        raw.hset(state, "h:a", raw.hget(state, "h:b")) == 0
    ),
    "a key's body is another": lambda raw, state: raw.hset(state, "b:a", '{"seat": "1A"}') == 0,
    "a key is gone": lambda raw, state: raw.hdel(state, "h:b"),
    "an operation is gone": lambda raw, state: raw.hdel(state, "o:second"),
    "a contribution is gone": lambda raw, state: raw.rpop(list_of(raw, state)),
}


def test_a_sound_store_passes(store: Store) -> None:
    report = checked(store)
    assert (report.found, report.undecided, report.problems) == (0, (), ())
    assert report.position > 200
    again = checked(store, json.loads(json.dumps(report.to_json())))
    assert again.ok
    assert again.digest == report.digest


@pytest.mark.parametrize("edit", [*SQL, *ONLY_BY_DIGEST])
@pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)
def test_an_edit_by_hand_is_noticed(store: Store, edit: str) -> None:
    before = checked(store).to_json()
    store.edit_sql({**SQL, **ONLY_BY_DIGEST}[edit])
    assert checked(store, before if edit in ONLY_BY_DIGEST else None).found


@pytest.mark.parametrize("edit", ONLY_SQLITE)
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_an_edit_by_hand_is_noticed_in_sqlite(store: Store, edit: str) -> None:
    store.edit_sql(ONLY_SQLITE[edit])
    assert checked(store).found


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_postgres_refuses_a_body_that_is_no_json(store: Store) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        store.edit_sql(ONLY_SQLITE["a body is no JSON"])


@pytest.mark.parametrize("edit", REDIS)
@pytest.mark.parametrize("store", ["redis"], indirect=True)
def test_an_edit_by_hand_is_noticed_in_redis(store: Store, edit: str) -> None:
    store.edit_redis(REDIS[edit])
    try:
        found = checked(store).found
    except interlock.Corrupt:
        return  # opening it says so already
    assert found


def test_a_trimmed_store_passes_and_an_earlier_digest_is_undecided(store: Store) -> None:
    before = checked(store).to_json()
    with interlock.open(store.url, space=store.name, agent="a", rules=RULES) as space:
        entries = list(space.log())
        space.session.driver.answer(Trim(entries[1].position, ()))
    report = checked(store)
    assert (report.found, report.undecided) == (0, ())
    assert report.first == entries[2].position
    assert checked(store, before).undecided


def test_the_command_line_checks_and_compares(store: Store, tmp_path: Path) -> None:
    def call(*arguments: str) -> Any:
        where = ["--store", store.url, "--space", store.name]
        return CliRunner().invoke(main, ["check-store", *where, *arguments])

    first = call("--json")
    assert first.exit_code == 0, first.output
    kept = tmp_path / "report.json"
    kept.write_text(first.stdout)
    assert call("--against", str(kept)).exit_code == 0
    changed = json.loads(first.stdout) | {"digest": "0" * 64}
    kept.write_text(json.dumps(changed))
    told = call("--against", str(kept))
    assert (told.exit_code, "changed since the earlier report" in told.output) == (6, True)
    kept.write_text(json.dumps(changed | {"space": "another"}))
    assert call("--against", str(kept)).exit_code == 2
