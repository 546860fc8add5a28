"""An adapter that opens its own space: what `from_conn_string` of a framework's stores returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import interlock

A = TypeVar("A")


class Opened(Generic[A]):
    """An adapter with a space of its own, for a `with` or `async with` block, which closes it."""

    def __init__(
        self, adapter: Callable[[Any], A], url: str, space: str, agent: str | None
    ) -> None:
        self._adapter = adapter
        self._place = (url, space, agent)
        self._space: Any = None

    def __enter__(self) -> A:
        self._space = interlock.open(*self._place)
        try:
            return self._adapter(self._space)
        except BaseException:
            self._space.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._space.close()

    async def __aenter__(self) -> A:
        self._space = await interlock.open_async(*self._place)
        try:
            return self._adapter(self._space)
        except BaseException:
            await self._space.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._space.close()
