"""A space that is being opened: `interlock.open_async`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, NoReturn

from interlock import cancellation
from interlock._async.space import AsyncSpace
from interlock.backends.drive_async import AsyncDriver
from interlock.backends.seal import Cipher, Seal
from interlock.backends.shared import Shared, source
from interlock.backends.urls import open_backend
from interlock.core.keys import check_name
from interlock.core.rules import Rule
from interlock.core.writer import Writer
from interlock.errors import Invalid, raise_refused
from interlock.observe.observer import SLOW_COMMIT, Observer
from interlock.session import AsyncSession
from interlock.settings import check_cipher, check_slow_commit, make_writer

_NOT_OPENED = (
    "what interlock.open_async returns {}: write `space = await interlock.open_async(...)` or "
    "`async with interlock.open_async(...) as space`"
)


def open_async(
    url: str | None = None,
    space: str = "default",
    agent: str | None = None,
    *,
    connection: object = None,
    rules: Mapping[str, Rule] | None = None,
    exclusive: bool = False,
    create: bool = True,
    durability: str | None = None,
    busy_timeout: float | None = None,
    max_value_bytes: int | None = None,
    slow_commit: float | None = SLOW_COMMIT,
    cipher: Cipher | None = None,
) -> Opening:
    """Open a space for asyncio: `await open_async(...)`, or `async with open_async(...) as space`.

    The arguments and what is raised are those of `interlock.open`.
    """
    check_slow_commit(slow_commit)
    check_cipher(cipher)
    make_writer("", space, agent, max_value_bytes)

    def opened(where: str | Shared) -> AsyncSpace:
        backend = open_backend(
            where, space, create, durability=durability, busy_timeout=busy_timeout
        )
        writer = make_writer(backend.uid, space, agent, max_value_bytes)
        observer = Observer(backend.name, slow_commit)
        return AsyncSpace(AsyncSession(AsyncDriver(backend, observer, Seal(cipher)), writer))

    def located() -> str | Shared:
        return source(url, connection, asyncio.get_running_loop())

    return Opening(located, opened, exclusive, rules)


async def under(space: AsyncSpace, agent: str, exclusive: bool = False) -> AsyncSpace:
    """Return the space under another agent's name, over the same connections.

    For a server that stands between: it may not let a client choose its name, so it hands out
    spaces that it opened here.  They share the rules that `space` knows, and the code that those
    were declared with.  `exclusive` takes the name over, as `interlock.open_async` does.  Only the
    space that was opened is to be closed.  Raises Invalid, or a fault.
    """
    raise_refused(check_name("agent", agent))
    ours = space.session.writer
    session = space.session.under(Writer(ours.space, agent, ours.max_value_bytes, ours.book))
    await session.run(session.entering(exclusive, None))
    return AsyncSpace(session)


class NotOpened(Invalid, AttributeError):
    """A space that is not open yet was used.  `hasattr` takes it for an AttributeError."""


class Opening:
    """An AsyncSpace that is being opened: await it, or enter it."""

    if not TYPE_CHECKING:  # type checkers know better that there is no such attribute

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("__") or not hasattr(AsyncSpace, name):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            raise NotOpened(_NOT_OPENED.format(f"has no {name!r} before it is open"))

        def __enter__(self) -> NoReturn:
            raise NotOpened(_NOT_OPENED.format("cannot be entered by a plain `with`"))

        def __exit__(self, *_: object) -> None:
            """Is never reached."""

    def __init__(
        self,
        located: Callable[[], str | Shared],
        opened: Callable[[str | Shared], AsyncSpace],
        exclusive: bool,
        rules: Mapping[str, Rule] | None,
    ) -> None:
        self._located = located
        self._opened = opened
        self._exclusive = exclusive
        self._rules = rules
        self._space: AsyncSpace | None = None

    def __await__(self) -> Generator[object, None, AsyncSpace]:
        return self._open().__await__()

    async def _open(self) -> AsyncSpace:
        opening = asyncio.to_thread(self._opened, self._located())
        space = await cancellation.obtain(opening, AsyncSpace.close)
        try:
            await space.session.run(space.session.entering(self._exclusive, self._rules))
        except BaseException:
            await space.close()
            raise
        return space

    async def __aenter__(self) -> AsyncSpace:
        self._space = await self
        return self._space

    async def __aexit__(self, *_: object) -> None:
        if self._space is not None:
            await self._space.close()
