"""What the stores of all three databases have in common as a whole: see `core/spaces.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal, cast

from interlock.core.requests import Request, T
from interlock.core.spaces import (
    CreateSpace,
    DropSpace,
    Examine,
    Finding,
    FindSpace,
    ListSpaces,
    NameSpaces,
    RenameSpace,
    SpaceInfo,
)


class WholeStore(ABC):
    """All spaces of one store.  It has no space of its own, so no unique id and no name."""

    uid = ""
    name = ""

    def perform(self, request: Request[T]) -> T:
        """Answer one request."""
        answer: object
        match request:
            case ListSpaces():
                answer = self._list(request)
            case NameSpaces():
                answer = tuple(self._named())
            case FindSpace():
                answer = self._find(request)
            case CreateSpace():
                answer = self._create(request)
            case DropSpace():
                answer = self._drop(request)
            case RenameSpace():
                answer = self._rename(request)
            case Examine():
                answer = self._examine(request)
            case _:
                raise KeyError(type(request))
        return cast(T, answer)

    async def perform_async(self, request: Request[T]) -> T:
        """Answer one request without blocking the event loop."""
        import asyncio  # few ask so

        return await asyncio.to_thread(self.perform, request)

    @abstractmethod
    def close(self) -> None:
        """Give back the connections."""

    async def close_async(self) -> None:
        """The same without blocking the event loop."""
        import asyncio

        await asyncio.to_thread(self.close)

    @abstractmethod
    def _list(self, request: ListSpaces) -> tuple[SpaceInfo, ...]: ...

    @abstractmethod
    def _named(self) -> Iterable[str]:
        """Answer a NameSpaces."""

    @abstractmethod
    def _find(self, request: FindSpace) -> str | None: ...

    @abstractmethod
    def _create(self, request: CreateSpace) -> bool: ...

    @abstractmethod
    def _drop(self, request: DropSpace) -> None: ...

    @abstractmethod
    def _rename(self, request: RenameSpace) -> Literal["done", "taken", "gone"]: ...

    @abstractmethod
    def _examine(self, request: Examine) -> tuple[Finding, ...]: ...
