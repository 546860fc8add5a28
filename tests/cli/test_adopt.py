"""`interlock adopt`: keys of Redis and rows of a table into a space, and back."""

from __future__ import annotations

import json
import sqlite3
import uuid
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main


def run(*words: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(main, ["adopt", *words])


def test_keys_of_redis_go_into_a_space_and_back(redis_url: str, tmp_path: Path) -> None:
    tag, store = f"b{uuid.uuid4().hex[:8]}", f"sqlite:///{tmp_path}/team.db"
    words = (redis_url, "--keys", f"{tag}:*", "--to", store)
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{tag}:1", '{"seat": "1A"}')
        dry = run(*words, "--dry-run")
        assert (dry.exit_code, (tmp_path / "team.db").exists()) == (1, False)
        assert run(*words).output == "1 copied, 0 the same\n"
        cut = run(*words, "--cut-over", "--json")
        assert json.loads(cut.output) == {"copied": [], "same": [f"{tag}:1"], "differs": []}
        with interlock.open(store) as space:
            space.update(f"{tag}:1", lambda value: {"seat": "2B"})
        assert run(*words, "--back", "--dry-run").output == "1 would be copied, 0 the same\n"
        assert run(*words, "--back").exit_code == 0
        assert client.get(f"{tag}:1") == b'{"seat":"2B"}'
        client.set(f"{tag}:1", "3")
        with interlock.open(store) as space:
            space.update(f"{tag}:1", lambda value: 4)
        left = run(*words)
        assert (left.exit_code, "left as it is" in left.output) == (3, True)


def test_rows_go_into_a_space(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    connection.execute("CREATE TABLE bookings (id INTEGER PRIMARY KEY, seat TEXT)")
    connection.execute("INSERT INTO bookings VALUES (17, '1A')")
    connection.close()
    store = f"sqlite:///{tmp_path}/team.db"
    words = (f"sqlite:///{tmp_path}/app.db", "--table", "bookings", "--to", store)
    assert run(*words).output == "1 copied, 0 the same\n"
    with interlock.open(store) as space:
        assert space.read("bookings/17").value == {"id": 17, "seat": "1A"}


@pytest.mark.parametrize(
    "words",
    [
        ("mysql://host",),
        ("sqlite:///app.db",),
        ("redis://host", "--table", "bookings"),
        ("redis://host", "--cut-over", "--back"),
        ("redis://host:port",),
        ("redis://host", "--kind", "set"),
    ],
)
def test_bad_words_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*words, "--to", f"sqlite:///{tmp_path}/team.db", "--json")
    assert done.exit_code == 2, done.output
    assert not (tmp_path / "team.db").exists()
