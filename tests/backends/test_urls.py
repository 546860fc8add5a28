"""URLs of stores: no password is ever shown, whatever the URL looks like."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import interlock
from interlock.backends.postgres.connect import Target as PostgresTarget
from interlock.backends.redis.wire import target_of
from interlock.cli import main

PASSWORD = "s3cr3tPW"
NOT_UNDERSTOOD = [
    "mysql://u:PW@h/db",
    "mongodb://u:PW@h/db",
    "mysql://u:PW",
    "u:PW@h/db",
    "u:PW",
    "host=h password=PW",
    "postgresql://u:PW@[::1/db",
    "redis://u:PW@[::1/0",
    "postgresql://u:p@PW:w/rd@h",
    "redis://u:p@ss:PW/rd@h",
    "postgresql://u:PWa/b@h/db",
    "postgresql://u:PW?x@h/db",
    "postgresql://u:PW#x@h/db",
    "postgresql:///db?host=PW@",
    "postgresql://h/db?password=PW&bogus=1",
    "postgresql+asyncpg://u:PW%zz@h/db",
    "redis://h/0?bogus=PW",
    "redis://h/0?socket_timeout=PW",
    "redis://h:PW/0",
    "redis+cluster://:PW?x@h",
    "sqlite://u:PW@h/x",
]
NOT_THERE = [
    "postgresql+psycopg://u:PW@127.0.0.1:1/db",
    "postgresql://127.0.0.1:1/db?password=PW",
    "redis://:PW@127.0.0.1:1/0",
]


def _check_hidden(problem: BaseException) -> None:
    every: BaseException | None = problem
    while every is not None:
        assert PASSWORD not in repr(every)
        assert PASSWORD not in str(every)
        every = every.__cause__ or (None if every.__suppress_context__ else every.__context__)
    assert PASSWORD not in "".join(traceback.format_exception(problem))


@pytest.mark.parametrize("url", NOT_UNDERSTOOD)
def test_a_url_that_is_not_understood_shows_no_password(url: str) -> None:
    with pytest.raises(interlock.Invalid) as refused:
        interlock.open(url.replace("PW", PASSWORD), busy_timeout=0.1)
    _check_hidden(refused.value)


@pytest.mark.parametrize("url", NOT_THERE)
def test_a_store_that_is_away_shows_no_password(url: str) -> None:
    with pytest.raises(interlock.Unavailable, match=r"127\.0\.0\.1") as away:
        interlock.open(url.replace("PW", PASSWORD), busy_timeout=0.1)
    _check_hidden(away.value)


@pytest.mark.parametrize("url", NOT_UNDERSTOOD)
def test_the_command_line_shows_no_password(url: str) -> None:
    for command in (["get", "k"], ["simulate", "--agents", "2"], ["machine", "draw", "x"]):
        arguments = [*command, "--store", url.replace("PW", PASSWORD)]
        told = CliRunner().invoke(main, arguments)
        assert told.exit_code
        assert PASSWORD not in told.output


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("postgresql://u:PW@db.example.com:5432/team", "postgresql://***@db.example.com:5432/team"),
        ("redis://cache/0", "redis://cache/0"),
        ("redis://:PW@a:1,b:2/0?x=PW", "redis://***@a:1,b:2/0?..."),
        ("sqlite:////data/a@b.db", "sqlite:////data/a@b.db"),
        ("postgresql://u:PW@[::1]:5432/db", "postgresql://***@[::1]:5432/db"),
        (b"PW", "<bytes>"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: Any, safe: str) -> None:
    assert interlock.redact_url(url) == safe


def test_what_holds_a_password_does_not_show_it() -> None:
    targets = [
        target_of(f"redis://:{PASSWORD}@h/0"),
        PostgresTarget(f"postgresql://u:{PASSWORD}@h/db", "postgresql://h:5432/db", True),
    ]
    for target in targets:
        assert PASSWORD not in repr(target)
        assert target.place in repr(target)


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+asyncpg", "postgres"])
def test_the_spellings_of_sqlalchemy_are_understood(scheme: str, postgres_url: str) -> None:
    url = f"{scheme}://{postgres_url.partition('://')[2]}"
    with interlock.open(url, space="spellings", agent="a") as space:
        assert space.position() >= 0


def test_an_option_of_a_redis_url_that_is_not_known_is_invalid() -> None:
    with pytest.raises(interlock.Invalid, match=r"bogus.*wait_replicas"):
        interlock.open("redis://127.0.0.1:1/0?bogus=1", busy_timeout=0.1)


def test_a_wrong_redis_password_is_told_apart_from_none(redis_url: str) -> None:
    import redis

    client: Any = redis.Redis.from_url(redis_url)
    client.execute_command("ACL", "SETUSER", "guarded", "on", ">right", "~*", "+@all")
    try:
        url = redis_url.replace("redis://", "redis://guarded:wrong@")
        with pytest.raises(interlock.Unavailable, match="refused the user or password") as refused:
            interlock.open(url, busy_timeout=0.1)
        assert "put it into the URL" not in str(refused.value)
    finally:
        client.execute_command("ACL", "DELUSER", "guarded")
        client.close()


def test_a_missing_extra_is_typed_and_says_what_to_install(tmp_path: Path) -> None:
    import subprocess
    import sys

    hidden = (
        "import sys; sys.modules.update(dict.fromkeys(['redis', 'psycopg', 'matplotlib', 'mcp']))\n"
        "from interlock.cli import main; main()"
    )
    for arguments, extra in (
        (["get", "k", "--store", "redis://h"], "redis"),
        (["get", "k", "--store", "postgresql://h"], "postgres"),
        (["mcp", f"sqlite:///{tmp_path}/a.db"], "mcp"),
    ):
        told = subprocess.run(
            [sys.executable, "-c", hidden, *arguments], capture_output=True, text=True, check=False
        )
        assert (told.returncode, f"pip install 'interlock[{extra}]'" in told.stderr) == (1, True)
