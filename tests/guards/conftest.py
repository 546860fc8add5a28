"""Guards of each place that has one, with both APIs, and a writer that knows nothing of them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import redis.asyncio

from interlock import guards
from tests.facades import Bridge
from tests.guards.logged import APART, TOGETHER, Logged, made
from tests.guards.shelf import Shelf

PLACES = ("custom", "redis", "file")


class Outside(NamedTuple):
    """Data outside: how to guard it, and how others see and overwrite it."""

    guard: Callable[..., Any]  # options of the guard -> it, as if it were synchronous
    key: str
    look: Callable[[], Any]  # the value that is stored, None for nothing
    overwrite: Callable[[Any], object]  # blindly
    odd_keys: tuple[str, ...] = ("{user:1}:cart", "a//b/", "files/../x*", "ключ")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop for the asyncio clients of one test."""
    found = asyncio.new_event_loop()
    yield found
    found.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the application's."""
    with redis.Redis.from_url(redis_url) as found:
        yield found


@pytest.fixture(params=[f"{place}{mode}" for place in PLACES for mode in ("", "-async")])
def outside(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Outside]:
    """Each place, with each API."""
    kind, _, mode = request.param.partition("-")
    key = f"booking:{uuid.uuid4().hex}"

    def shown(guard: Any) -> Any:
        return Bridge(guard, loop) if mode else guard

    if kind == "custom":
        shelf = Shelf()
        functions: Any = (shelf.load, shelf.replace)
        if mode:
            functions = (shelf.load_async, shelf.replace_async)

        def guard(**options: Any) -> Any:
            return shown(guards.custom(*functions, **options))

        yield Outside(
            guard,
            key,
            lambda: shelf.there.get(key, (None, None))[1],
            lambda value: shelf.put(key, value),
        )
        return
    if kind == "file":
        folder = request.getfixturevalue("tmp_path")
        path = folder / f"{key}.json"

        def put(value: Any) -> None:
            (folder / "new").write_text(json.dumps(value))
            (folder / "new").rename(path)

        make: Any = guards.file_async if mode else guards.file
        yield Outside(
            lambda **options: shown(make(folder, **options)),
            path.name,
            lambda: json.loads(path.read_bytes()) if path.exists() else None,
            put,
            ("deep/er/", "ключ {1} "),
        )
        return
    url = request.getfixturevalue("redis_url")
    with redis.Redis.from_url(url) as plain:
        used: Any = redis.asyncio.Redis.from_url(url) if mode else plain
        yield Outside(
            lambda **options: shown(guards.redis(used, **options)),
            key,
            lambda: json.loads(plain.get(key) or "null"),
            lambda value: plain.set(key, json.dumps(value)),
        )
        if mode:
            loop.run_until_complete(used.aclose())


@pytest.fixture(params=[*TOGETHER, *APART])
def logged(
    request: pytest.FixtureRequest, tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> Iterator[Logged]:
    """Each place that has its log in the same step, and some that have it apart."""
    with ExitStack() as stack:
        yield made(request.param, request.getfixturevalue, tmp_path, loop, stack)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def together(
    request: pytest.FixtureRequest, tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> Iterator[Logged]:
    """One place of each store that has the log in the same step."""
    with ExitStack() as stack:
        yield made(request.param, request.getfixturevalue, tmp_path, loop, stack)
