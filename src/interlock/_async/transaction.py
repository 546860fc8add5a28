"""A transaction: several keys, one decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from copy import deepcopy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from interlock._async import concurrency
from interlock._async.calls import AwaitsCalls, awaited
from interlock.core import transact
from interlock.core.keys import DELETE, Deletion
from interlock.core.records import Committed, Record
from interlock.core.refusals import Refusal
from interlock.core.requests import Steps
from interlock.core.transact import ENDED, Stopped, Transaction
from interlock.core.write import forgot_return
from interlock.errors import Invalid, raise_refused
from interlock.session import AsyncSession
from interlock.settings import distinct
from interlock.typed import MISSING, Typed

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


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

    @overload
    async def read(self, key: str) -> Record: ...
    @overload
    async def read(self, key: str, type: TypeForm[T]) -> Record[T]: ...
    @awaited
    async def read(self, key: str, type: Any = None) -> Record:
        """Return the record of `key`, with this transaction's own write.

        `type` is that of `AsyncSpace.read`.  Raises Conflict, Invalid.
        """
        records = await self.read_many([key], type)
        return records[key]

    @overload
    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]: ...
    @overload
    async def read_many(self, keys: Iterable[str], type: TypeForm[T]) -> dict[str, Record[T]]: ...
    @awaited
    async def read_many(self, keys: Iterable[str], type: Any = None) -> dict[str, Record]:
        """Return the records of `keys`."""
        names, view = distinct(keys, self._session.writer.check_key), Typed(type)
        self._session.check_read(*names)
        await self._load(names)
        return self._shown(view, {key: self._state.view(key) for key in names})

    @overload
    async def scan(self, prefix: str = "") -> dict[str, Record]: ...
    @overload
    async def scan(self, prefix: str, type: TypeForm[T]) -> dict[str, Record[T]]: ...
    @awaited
    async def scan(self, prefix: str = "", type: Any = None) -> dict[str, Record]:
        """Return the existing records under `prefix`; one that appears later is a conflict, too."""
        view = Typed(type)
        await self._load((), (prefix,))
        return self._shown(view, self._state.view_scan(prefix))

    @overload
    async def update(self, key: str, fn: Callable[[Any], Any], *, default: Any = None) -> None: ...
    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[T | None], T | Deletion | Awaitable[T | Deletion]],
        type: TypeForm[T],
        *,
        default: None,
    ) -> None: ...
    @overload
    async def update(
        self,
        key: str,
        fn: Callable[[T], T | Deletion | Awaitable[T | Deletion]],
        type: TypeForm[T],
        *,
        default: T = ...,
    ) -> None: ...
    @awaited
    async def update(
        self, key: str, fn: Callable[[Any], Any], type: Any = None, *, default: Any = MISSING
    ) -> None:
        """Read `key`, call `fn(value)` once, and write at the commit what it returns.

        `type` and `default` are those of `AsyncSpace.update`; `interlock.DELETE` deletes the key.
        Raises Conflict, and Invalid if `fn` returns None.
        """
        concurrency.check_function(fn, "fn")
        view = Typed(type)
        given = view.default(default, key)
        record = await self.read(key)
        decide = view.deciding(fn, key, default)
        value = await self._session.call(decide, deepcopy(record.value) if record.exists else given)
        if value is None:
            raise Invalid(forgot_return(f"The function for {key!r}"))
        if value is DELETE:
            await self.delete(record)
        else:
            await self.write(record, value)

    def expect(self, record: Record) -> concurrency.Buffered:
        """Refuse the commit if `record`, which was read outside the transaction, has changed.

        Nothing is read or written.  The commit raises Fenced if the epoch was raised, and Conflict
        if there is a new version.
        """
        self._check(getattr(record, "key", None))
        raise_refused(self._state.expect(record))
        return concurrency.BUFFERED

    def write(
        self, record: Record, value: Any, *, expires: float | None = None
    ) -> concurrency.Buffered:
        """Write `value` over `record` at the commit.  `expires`: as in `AsyncSpace.write`."""
        self._check(getattr(record, "key", None))
        raise_refused(self._state.write(record, value, expires))
        return concurrency.BUFFERED

    def create(self, key: str, value: Any, *, expires: float | None = None) -> concurrency.Buffered:
        """Write `value` to a key that must not exist at the commit.  `expires`: as in
        `AsyncSpace.write`."""
        self._check(key)
        raise_refused(self._state.create(key, value, expires))
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

    def _shown(self, view: Typed[T], records: dict[str, Record]) -> dict[str, Record[T]]:
        """Return records as a type.  One that is changed in place and not written is noticed."""
        shown = view.records(records)
        if view.shape is not None:
            self._state.shown += [(record, view.shape) for record in shown.values()]
        return shown

    def _check(self, key: object) -> None:
        self._session.check_write(key, own=self._state)

    async def _load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> None:
        await self._session.run(self._state.load(keys, prefixes))


def returned(steps: Steps[Any]) -> Steps[tuple[Any] | Refusal]:
    """Protocol: what the function of a transaction returned, which may be a refusal's value, in a
    tuple; or the refusal that stopped it."""
    answer = yield from steps
    return answer.refusal if isinstance(answer, Stopped) else (answer,)
