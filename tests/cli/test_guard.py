"""`interlock guard`: the verbs on files and Redis keys, exit codes, and what is refused."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

import interlock
from interlock import guards
from interlock.cli import main


def run(*words: str, code: int = 0, given: str | None = None) -> Result:
    """Run a command."""
    result = CliRunner().invoke(main, ["guard", *words], input=given)
    assert result.exit_code == code, result.output
    return result


def told(*words: str, code: int = 0) -> Any:
    """Run a command and return its JSON."""
    return json.loads(run(*words, "--json", code=code).output)


@pytest.fixture(params=["file", "redis"])
def at(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A place and a key there."""
    if request.param == "file":
        return str(request.getfixturevalue("tmp_path")), "a.json"
    return request.getfixturevalue("redis_url"), f"cli:{uuid.uuid4().hex}"


def test_values_are_put_read_and_changed(at: tuple[str, str]) -> None:
    place, key = at
    run(place, "get", key, code=4)
    run(place, "put", key, '{"n": 1}')
    assert json.loads(run(place, "get", key).output) == {"n": 1}
    before = told(place, "get", key)
    assert told(place, "update-fields", key, "--set", "n=2")["value"] == {"n": 2}
    run(place, "put", key, '{"n": 3}', code=3)
    refused = told(place, "put", key, '{"n": 3}', "--tag", before["tag"], code=3)
    assert refused["record"]["value"] == {"n": 2}
    run(place, "put", key, "-", "--tag", refused["record"]["tag"], given='{"n": 4}')
    run(place, "put", key, '{"n": 5}', "--force")
    assert told(place, "get", key)["value"] == {"n": 5}


def test_a_machine_and_metadata_are_options_of_the_guard(at: tuple[str, str]) -> None:
    place, key = at
    options = ("--machine", "booking", "--metadata", "--agent", "clerk", place)
    run(*options, "put", key, '{"status": "PENDING"}')
    made = told(*options, "transition", key, "CANCELLED", "--set", "why=1")
    assert (made["version"], made["writer"], made["value"]["why"]) == (2, "clerk", 1)
    run(*options, "transition", key, "PENDING", code=5)


def test_a_log_has_what_was_written_and_what_was_destroyed(
    at: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (place, key), url = at, f"sqlite:///{tmp_path_factory.mktemp('log')}/team.db"
    logged = ("--log", url, "--space", "travel", "--name", "app", "--agent", "clerk", place)
    run(*logged, "get", key, code=1)
    assert not Path(url.removeprefix("sqlite:///")).exists()
    run(*logged, "put", key, '{"n": 1}')
    run(place, "put", key, '{"n": 2}', "--force")
    assert told(*logged, "get", key)["value"] == {"n": 2}
    run(*logged, "put", key, '{"n": 3}', code=3)
    history = ["history", guards.log_key("app", key), "--store", url, "--space", "travel", "--json"]
    lines = CliRunner().invoke(main, history).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    events = [entry["value"]["event"] for entry in entries]
    assert [each for each in events if each != "in doubt"] == [
        "created",
        "changed outside",
        "refused",
    ]
    assert {entry["agent"] for entry in entries} == {"clerk"}


def test_a_lease_that_another_has_holds_writes_back(
    at: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    (place, key), url = at, f"sqlite:///{tmp_path_factory.mktemp('lease')}/team.db"
    fenced = ("--lease", url, "--agent", "clerk", place)
    run(*fenced, "put", key, '{"n": 1}')
    name = "redis" if place.startswith("redis") else "file"
    with interlock.open(url, agent="planner") as space, space.lease(guards.log_key(name, key)):
        assert "planner" in run(*fenced, "put", key, '{"n": 2}', "--force", code=3).output
    run("--log", "sqlite:///other.db", *fenced, "get", key, code=2)
    run("--log", "sqlite://", place, "get", key, code=2)
    run(*fenced, "put", key, '{"n": 3}', "--force")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    place = str(tmp_path)
    run("mongodb://user:secret@host", "get", "k", code=2)
    assert "secret" not in run("http://user:secret@host", "get", "k", code=2).output
    run(f"{place}/none/a.json", "get", "a.json", code=2)
    run("--kind", "yaml", place, "get", "a", code=2)
    run("--machine", "none", place, "get", "a", code=2)
    run(place, "put", "a.json", "1", "--force", "--tag", "x", code=2)
    run(place, "put", "a.json", "{", code=2)
    run(place, "put", "a.md", "some text", "--text")
    assert (tmp_path / "a.md").read_text() == "some text"


def test_a_hash_is_a_kind(redis_url: str) -> None:
    key = f"cli:{uuid.uuid4().hex}"
    run("--kind", "hash", redis_url, "put", key, '{"seat": "1A"}')
    with redis.Redis.from_url(redis_url) as client:
        assert client.hgetall(key) == {b"seat": b"1A"}
