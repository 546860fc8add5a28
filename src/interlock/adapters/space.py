"""The space of an adapter, used in one way with and without asyncio.

A framework asks for the same thing twice, as `put` and as `aput`.  An adapter writes it once, as a
coroutine function of an `AsyncSpace`.  `awaitable(space)` gives a `Space` the same methods; what
they return never waits, so `run` needs no event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote

from interlock import (
    AsyncLease,
    AsyncSpace,
    Committed,
    Conflict,
    Entry,
    Held,
    Invalid,
    Json,
    Lease,
    Record,
    Refused,
    Space,
    Tx,
)
from interlock.cancellation import finish, obtain

T = TypeVar("T")
Work = Coroutine[object, None, T]
Write = tuple[Any, ...]  # the name of a method of a transaction, and its arguments


def checked(space: object, adapter: str) -> Space | AsyncSpace:
    """Return the space that an adapter was given.  Raises Invalid if it is none.

    The message doesn't show what was given: it may be a URL with a password.
    """
    if isinstance(space, Space | AsyncSpace):
        return space
    if hasattr(space, "__await__"):
        raise Invalid(f"{adapter} got interlock.open_async(...) without await: await it first.")
    raise Invalid(
        f"{adapter} needs an open space, not {type(space).__name__}: "
        f"{adapter}(interlock.open(url)), or interlock.open_async(url) in an `async with` block"
    )


def synchronous(space: object, adapter: str) -> Space:
    """Return the space that a synchronous adapter was given.  Raises Invalid."""
    found = checked(space, adapter)
    if not isinstance(found, Space):
        raise Invalid(
            f"{adapter} is synchronous, in asyncio too: open its space with interlock.open, "
            "not interlock.open_async."
        )
    return found


def one_of(name: str, given: object, *allowed: str) -> None:
    """Raise Invalid if an argument has none of the values that are allowed."""
    if given not in allowed:
        raise Invalid(f"{name}={given!r:.60} must be one of {', '.join(map(repr, allowed))}.")


@contextmanager
def raised_as(*kinds: type[Refused]) -> Iterator[None]:
    """Raise a refusal as a class of `kinds`, whose first base is the refusal's own."""
    try:
        yield
    except Refused as refused:
        for kind in kinds:
            if isinstance(refused, kind.__bases__[0]) and not isinstance(refused, kind):
                raise kind(refused.outcome) from refused
        raise


async def delete_all(space: AsyncSpace, *keys: str, below: Iterable[str] = ()) -> None:
    """Delete what is there now, at keys and below prefixes, in one commit.  Raises Held."""
    while True:
        found = await space.read_many(keys) if keys else {}
        for prefix in below:
            found |= await space.scan(prefix)
        try:
            await commit(space, [("delete", each) for each in found.values() if each.exists])
            return
        except Conflict:
            continue  # somebody has changed or deleted it meanwhile


async def erase_deleted(space: AsyncSpace, *prefixes: str) -> None:
    """Erase for good what is not there any more under the prefixes.  What exists stays, also where
    it was made meanwhile.  Raises Held if a lease holds a key, Contended."""
    for prefix in prefixes:
        upto = await space.position()
        there = {record.position for record in (await space.scan(prefix)).values()}

        def gone(entry: Entry, upto: int = upto, there: set[int] = there) -> bool:
            return entry.position <= upto and entry.position not in there

        await space.erase(prefix=prefix, where=gone)


# Calls, with and without asyncio


def awaitable(space: Space | AsyncSpace) -> AsyncSpace:
    """Return a space whose methods are awaited, for code that is given to `run` or `run_async`."""
    return space if isinstance(space, AsyncSpace) else cast(AsyncSpace, _AwaitedSpace(space))


def run(space: Space | AsyncSpace, work: Work[T]) -> T:
    """Run code that was given `awaitable(space)`.

    Raises Invalid if `space` was opened with `interlock.open_async`.
    """
    if isinstance(space, Space):
        return _ended(work)
    work.close()
    raise Invalid(
        "This space is from interlock.open_async: use the asynchronous methods, or interlock.open."
    )


async def run_async(space: Space | AsyncSpace, work: Work[T]) -> T:
    """Await code that was given `awaitable(space)`.

    A `Space` is called in a thread, which a cancelled caller waits for: what it writes is written
    when this returns.
    """
    if isinstance(space, Space):
        return await finish(asyncio.to_thread(_ended, work))
    return await work


async def commit(
    space: AsyncSpace, writes: Iterable[Write], op_id: str | None = None
) -> Committed | None:
    """Commit several writes, such as `("write", record, value)`, in one transaction."""
    async with space.transaction(op_id=op_id) as tx:
        for name, *args in writes:
            await getattr(tx, name)(*args)
    return tx.committed


def _ended(work: Work[T]) -> T:
    """Return what a coroutine returns that has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as done:
        answer: T = done.value
        return answer
    finally:
        work.close()
    raise AssertionError("code for a synchronous space waited for something else")


class _Awaited:
    """A synchronous object whose methods are awaited."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if not callable(found):
            return found

        async def method(*args: object, **named: object) -> object:
            return found(*args, **named)

        return method

    async def __aenter__(self) -> Self:
        self._of.__enter__()
        return self

    async def __aexit__(self, *problem: object) -> None:
        self._of.__exit__(*problem)


class _AwaitedSpace(_Awaited):
    """A synchronous space whose methods are awaited."""

    def lease(self, *args: object, **named: object) -> _Awaited:
        return _Awaited(self._of.lease(*args, **named))

    def transaction(self, **named: object) -> _Awaited:
        return _Awaited(self._of.transaction(**named))

    async def transact(self, fn: Callable[[Any], Work[T]]) -> T:
        answer: T = self._of.transact(lambda tx: _ended(fn(_Awaited(tx))))
        return answer

    async def log(self, after: int, prefix: str) -> AsyncIterator[Entry]:
        for entry in self._of.log(after, prefix):
            yield entry

    async def history(self, key: str, **named: object) -> AsyncIterator[Entry]:
        for entry in self._of.history(key, **named):
            yield entry


def write_over(
    space: Space,
    key: str,
    base: Record | None,
    value: Json,
    check: Callable[[Tx], None] = lambda tx: None,
) -> Record:
    """Write `value` over `base`, or to a key that must not exist; return the new record.

    `check` may read and write other keys in the same commit.

    Never merged, whatever the key's rule says: who writes goes on from `value`, and would undo at
    its next save what had been merged in.  Raises Conflict, Held.
    """
    if base is None:
        base = space.read(key)
        if base.exists:
            space.create(key, value)  # raises the Conflict
    with space.transaction() as tx:
        check(tx)
        tx.write(base, value)
    assert tx.committed is not None  # a block that did not raise was committed
    return as_written(base, value, tx.committed)


def as_written(base: Record, value: Json, committed: Committed) -> Record:
    """Return the record that a commit made of `base`, whose key it wrote `value` to."""
    written = next(each for each in committed.writes if each.key == base.key)
    return base._replace(
        value=value,
        version=written.version,
        epoch=written.epoch,
        writer=committed.agent,
        time_us=committed.time_us,
        position=written.position,
        exists=True,
        body=written.body,
    )


# A lease that asyncio code takes, whichever kind of space it was given

_SHORTEST, _LONGEST = 0.005, 0.25  # seconds between two questions
_MOMENT = 0.1  # seconds in the store's queue


async def take(
    space: Space | AsyncSpace, key: str, ttl: float, wait: float | None
) -> Lease | AsyncLease:
    """Take the lease of `key`, waiting at most `wait` seconds for it (None: without limit).

    Raises Held, Fenced, Invalid.
    """
    if not isinstance(space, Space):
        return await space.lease(key, ttl, wait=wait).acquire()

    def acquire(moment: float) -> Lease:
        return space.lease(key, ttl, wait=moment).acquire()

    return await taken(space, acquire, Lease.release, wait)


async def taken(
    space: Space, take: Callable[[float], T], give_up: Callable[[T], object], wait: float | None
) -> T:
    """Return what `take(0)` does in a thread, asked again if it raises Held.

    Nobody waits in a worker thread: whoever has what is waited for needs those to go on.  Only who
    holds something waits there, for a moment each time: in the store's queue a cycle of waits, or
    a wait for oneself, is found.  What was taken after this was cancelled is given up.

    Raises Held once `wait` seconds have passed, Deadlock, and what `take` does.
    """

    async def give_back(got: T) -> None:
        await asyncio.to_thread(give_up, got)

    until = None if wait is None else time.monotonic() + wait
    pause = _SHORTEST
    while True:
        moment = _MOMENT if wait != 0 and space.session.holds() else 0
        try:
            context = contextvars.copy_context()
            running = asyncio.get_running_loop().run_in_executor(None, context.run, take, moment)
            found = await obtain(_awaited(running), give_back)
            _adopt(context)
            return found
        except Held:
            if until is not None and time.monotonic() >= until:
                raise
        if moment:
            continue
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)


async def _awaited(future: asyncio.Future[T]) -> T:
    return await future


def _adopt(context: contextvars.Context) -> None:
    """Make this task hold what a thread took for it: waiting for that is then refused."""
    for variable, value in context.items():
        if variable.get(None) is not value:
            variable.set(value)


async def write(lease: Lease | AsyncLease, value: Json) -> Record:
    """Write the key of a lease.  Raises Fenced if it was taken away, Invalid."""
    if isinstance(lease, Lease):
        return await finish(asyncio.to_thread(lease.write, value))
    return await lease.write(value)


async def give_up(lease: Lease | AsyncLease) -> None:
    """Give up a lease, even if the caller is cancelled meanwhile; one that was lost is none of
    ours."""
    if isinstance(lease, Lease):
        await finish(asyncio.to_thread(lease.release))
    else:
        await finish(lease.release())


# Names that users choose, such as a session's, as one segment of a key

_LONGEST_NAME = 256  # characters of a name as it is; a whole key may have 512 bytes
_DIGEST = 40  # characters


def quoted(name: str, longest: int = _LONGEST_NAME) -> str:
    """Return `name` as a segment of a key: any text, and two names never share one.

    One of more than `longest` characters is cut, and told apart by its SHA-256.
    """
    text = quote(name, safe="", errors="surrogatepass").replace("~", "%7E") or "%"
    if text in (".", ".."):
        return text.replace(".", "%2E")
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:_DIGEST]
    return f"{text[: longest - _DIGEST - 1]}~{digest}"  # no other text has a tilde
