"""A transaction: several keys, one decision."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from interlock._async import concurrency
from interlock._async.calls import AwaitsCalls, awaited
from interlock.core import transact
from interlock.core.records import Committed, Record
from interlock.core.refusals import Refusal
from interlock.core.requests import Steps
from interlock.core.transact import ENDED, Stopped, Transaction
from interlock.errors import raise_refused
from interlock.session import AsyncSession
from interlock.settings import distinct


class AsyncTx(AwaitsCalls):
    """One transaction: reads of one moment, and writes committed together or not at all.

    Reads are awaited: the block raises Invalid at its end if one was not.  Writes are made at
    the commit, so there is nothing to await yet.
    """

    def __init__(self, session: AsyncSession, state: Transaction, op_id: str) -> None:
        self._session = session
        self._state = state
        self._op_id = op_id
        self.committed: Committed | None = None

    @awaited
    async def read(self, key: str) -> Record:
        """Return the record of `key`, with this transaction's own write.

        Raises Conflict, Invalid.
        """
        records = await self.read_many([key])
        return records[key]

    @awaited
    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return the records of `keys`."""
        names = distinct(keys)
        self._session.check_read(*names)
        await self._load(names)
        return {key: self._state.view(key) for key in names}

    @awaited
    async def scan(self, prefix: str = "") -> dict[str, Record]:
        """Return the existing records under `prefix`; one that appears later is a conflict, too."""
        await self._load((), (prefix,))
        return self._state.view_scan(prefix)

    def expect(self, record: Record) -> concurrency.Buffered:
        """Refuse the commit if `record`, which was read outside the transaction, has changed.

        Nothing is read or written.  The commit raises Fenced if the epoch was raised, and Conflict
        if there is a new version.
        """
        self._check(getattr(record, "key", None))
        raise_refused(self._state.expect(record))
        return concurrency.BUFFERED

    def write(self, record: Record, value: Any) -> concurrency.Buffered:
        """Write `value` over `record` at the commit."""
        self._check(getattr(record, "key", None))
        raise_refused(self._state.write(record, value))
        return concurrency.BUFFERED

    def create(self, key: str, value: Any) -> concurrency.Buffered:
        """Write `value` to a key that must not exist at the commit."""
        self._check(key)
        raise_refused(self._state.create(key, value))
        return concurrency.BUFFERED

    def delete(self, record: Record) -> concurrency.Buffered:
        """Delete the key of `record` at the commit."""
        self._check(getattr(record, "key", None))
        raise_refused(self._state.delete(record))
        return concurrency.BUFFERED

    def append(self, key: str, item: Any) -> concurrency.Buffered:
        """Add a contribution to a merged key at the commit.

        Raises Forbidden, Invalid.
        """
        self._check(key)
        raise_refused(self._state.append(key, item))
        return concurrency.BUFFERED

    async def __aenter__(self) -> Self:
        raise_refused(ENDED if self._state.ended else None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state.ended = True
        unawaited = self._calls.unawaited()
        if kind is None:
            raise_refused(unawaited)
            steps = transact.commit_transaction(self._state, self._op_id)
            self.committed = await self._session.run(steps)

    def _check(self, key: object) -> None:
        self._session.check_write(key, own=self._state)

    async def _load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> None:
        await self._session.run(self._state.load(keys, prefixes))


def returned(steps: Steps[Any]) -> Steps[tuple[Any] | Refusal]:
    """Protocol: what the function of a transaction returned, which may be a refusal's value, in a
    tuple; or the refusal that stopped it."""
    answer = yield from steps
    return answer.refusal if isinstance(answer, Stopped) else (answer,)
