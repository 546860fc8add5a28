"""The space as it was at one moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from interlock.core import read
from interlock.core.records import Record, Snapshot
from interlock.session import AsyncSession
from interlock.settings import distinct
from interlock.typed import Typed

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


class AsyncMoment:
    """The space as it was at one moment: reads only."""

    def __init__(self, session: AsyncSession, position: int | None, time_us: int | None) -> None:
        self._session = session
        self._position = position
        self._time_us = time_us

    @overload
    async def read(self, key: str) -> Record: ...
    @overload
    async def read(self, key: str, type: TypeForm[T]) -> Record[T]: ...
    async def read(self, key: str, type: Any = None) -> Record:
        """Return the record of `key` as it was.  `type` is that of `AsyncSpace.read`."""
        records = await self.read_many([key], type)
        return records[key]

    @overload
    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]: ...
    @overload
    async def read_many(self, keys: Iterable[str], type: TypeForm[T]) -> dict[str, Record[T]]: ...
    async def read_many(self, keys: Iterable[str], type: Any = None) -> dict[str, Record]:
        """Return the records of `keys` as they were."""
        view = Typed(type)
        return view.records((await self._load(distinct(keys))).records)

    @overload
    async def scan(self, prefix: str = "") -> dict[str, Record]: ...
    @overload
    async def scan(self, prefix: str, type: TypeForm[T]) -> dict[str, Record[T]]: ...
    async def scan(self, prefix: str = "", type: Any = None) -> dict[str, Record]:
        """Return the records that existed under `prefix`."""
        view = Typed(type)
        snapshot = await self._load((), (prefix,))
        return view.records({record.key: record for record in snapshot.scans[prefix]})

    async def position(self) -> int:
        """Return the log position of this moment."""
        return (await self._load(())).position

    async def _load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> Snapshot:
        snapshot = await self._session.run(
            read.load_at(self._session.writer, self._position, self._time_us, keys, prefixes)
        )
        if self._position is not None:
            self._position = snapshot.position  # the end of a commit from now on
        return snapshot
