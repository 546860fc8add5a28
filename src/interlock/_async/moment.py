"""The space as it was at one moment."""

from __future__ import annotations

from collections.abc import Iterable

from interlock.core import read
from interlock.core.records import Record, Snapshot
from interlock.session import AsyncSession
from interlock.settings import distinct


class AsyncMoment:
    """The space as it was at one moment: reads only."""

    def __init__(self, session: AsyncSession, position: int | None, time_us: int | None) -> None:
        self._session = session
        self._position = position
        self._time_us = time_us

    async def read(self, key: str) -> Record:
        """Return the record of `key` as it was."""
        records = await self.read_many([key])
        return records[key]

    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys` as they were."""
        return dict((await self._load(distinct(keys))).records)

    async def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the records that existed under `prefix`."""
        snapshot = await self._load((), (prefix,))
        return {record.key: record for record in snapshot.scans[prefix]}

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
