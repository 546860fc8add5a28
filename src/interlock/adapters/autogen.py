"""AutoGen: state of teams, memory and caches that several teams, processes and hosts may share.

The state of a conversation is the key `autogen/state/<name>`, whose lease a team has while it runs.
Each entry of a memory is a key `autogen/memory/<name>/<random>`, each one of a cache a key
`autogen/cache/<name>/<key>`.  Names are quoted, and hashed if they are long.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol, Self, TypeVar

from interlock import AsyncLease, AsyncSpace, Conflict, Invalid, Json, Lease, Record, Space
from interlock.adapters.observed import Observed, ObservedDict, observed
from interlock.adapters.space import (
    awaitable,
    checked,
    commit,
    give_up,
    one_of,
    quoted,
    run_async,
    synchronous,
    take,
    write,
)
from interlock.extras import needs

with needs("AutoGen", "autogen"):
    from autogen_core import CacheStore, CancellationToken, Image
    from autogen_core.memory import (
        Memory,
        MemoryContent,
        MemoryMimeType,
        MemoryQueryResult,
        UpdateContextResult,
    )
    from autogen_core.model_context import ChatCompletionContext
    from autogen_core.models import SystemMessage
    from pydantic import BaseModel

__all__ = ["SharedCacheStore", "SharedMemory", "team_state"]

T = TypeVar("T")
_NOT_NAMED = object()


class SharedCacheStore(CacheStore[T]):
    """A cache store of AutoGen in a space from `interlock.open`.

    `set` writes if nothing is there, or over what its caller has read: the dict, list or text that
    `get` returned carries its version, so pass that back, changed or not, or name it:
    `set(key, value, base=found)`.  `update` reads, thinks and writes.  Otherwise `set` raises
    Conflict.  With `on_conflict="keep"` it leaves what others stored: for caches of answers, when
    any of them will do.  With `unread="overwrite"` what nobody read is written over.

    Values are JSON; a pydantic model is stored as JSON, and `get` returns that.
    """

    def __init__(
        self,
        space: Space,
        name: str = "default",
        *,
        on_conflict: Literal["raise", "keep"] = "raise",
        unread: Literal["refuse", "overwrite"] = "refuse",
    ) -> None:
        one_of("on_conflict", on_conflict, "raise", "keep")
        one_of("unread", unread, "refuse", "overwrite")
        self._space = synchronous(space, "SharedCacheStore")
        self._prefix = f"autogen/cache/{quoted(name)}/"
        self._keeps = on_conflict == "keep"
        self._overwrites = unread == "overwrite"

    def get(self, key: str, default: T | None = None) -> T | None:
        """Return the value of `key`, or `default` if there is none."""
        record = self._space.read(self._key(key))
        return _carrying(record) if record.exists else default

    def set(self, key: str, value: T, *, base: object = _NOT_NAMED) -> None:
        """Store `value`.  `base` is what `get` returned, if `value` does not carry its version;
        None: nothing was there.

        Raises Conflict if others came first or the caller has not read what is there, Invalid.
        """
        try:
            self._set(self._space.read(self._key(key)), value, base)
        except Conflict:
            if not self._keeps:
                raise

    def update(self, key: str, fn: Callable[[T | None], T]) -> T | None:
        """Store `fn(value)`, called again if others came first; None if there is no value.

        Raises as `Space.update` does.
        """
        stored: T = _carrying(self._space.update(self._key(key), lambda value: _json(fn(value))))
        return stored

    def _set(self, fresh: Record, value: Any, base: object) -> None:
        basis = observed(value if base is _NOT_NAMED else base, fresh)
        if basis is not None:
            written = self._space.write(basis.record(fresh), _json(value))
            if base is _NOT_NAMED:
                value.observed = Observed.of(written)  # it may be changed and set again
        elif base not in (_NOT_NAMED, None):
            raise Invalid("base= is not a dict, list or text that get() returned for this key")
        elif self._overwrites and base is _NOT_NAMED:
            self._space.update(fresh.key, lambda _: _json(value))
        else:
            self._space.create(fresh.key, _json(value))

    def _key(self, key: str) -> str:
        return f"{self._prefix}{quoted(key)}"


class _List(list[Json]):
    """A JSON array that carries the version it was read at."""

    def __init__(self, items: Iterable[Json], observed: Observed) -> None:
        super().__init__(items)
        self.observed = observed

    def copy(self) -> Self:
        """Return a shallow copy, read at the same version."""
        return type(self)(self, self.observed)

    __copy__ = copy

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), ([*self], self.observed)


class _Text(str):
    """A text that carries the version it was read at."""

    observed: Observed

    def __reduce__(self) -> tuple[object, ...]:
        return _text, (str(self), self.observed)


def _text(text: str, observed: Observed) -> _Text:
    made = _Text(text)
    made.observed = observed
    return made


def _carrying(record: Record) -> Json:
    """Return the value of a record, with its version if it can carry one."""
    value, version = record.value, Observed.of(record)
    if isinstance(value, dict):
        return ObservedDict(value, version)
    if isinstance(value, list):
        return _List(value, version)
    return _text(value, version) if isinstance(value, str) else value


def _json(value: object) -> Json:
    """Return a value with its pydantic models as JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_json(each) for each in value] if isinstance(value, list) else value


class SharedMemory(Memory):
    """A memory of AutoGen in a space, in the order in which contents were added.

    Like AutoGen's `ListMemory`, a query returns everything, and `update_context` adds everything as
    one system message.  Its place is a space, so it has no component configuration.
    """

    def __init__(self, space: Space | AsyncSpace, name: str = "default") -> None:
        self._space = checked(space, "SharedMemory")
        self._calls = awaitable(self._space)
        self._name = name
        self._prefix = f"autogen/memory/{quoted(name)}/"

    @property
    def name(self) -> str:
        """The name of the memory: the same for all who share it."""
        return self._name

    async def add(
        self, content: MemoryContent, cancellation_token: CancellationToken | None = None
    ) -> None:
        """Add a content.  Never conflicts.  Raises Invalid if it is no JSON, or too large."""
        key = f"{self._prefix}{uuid.uuid4().hex}"
        await run_async(self._space, self._calls.create(key, _packed(content)))

    async def query(
        self,
        query: str | MemoryContent = "",
        cancellation_token: CancellationToken | None = None,
        **kwargs: object,
    ) -> MemoryQueryResult:
        """Return all contents, in the order in which they were added."""
        return MemoryQueryResult(results=await run_async(self._space, self._contents()))

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Add all contents to a model's context, as one system message."""
        found = await self.query()
        if found.results:
            lines = [f"{n}. {content.content!s}" for n, content in enumerate(found.results, 1)]
            text = "\n".join(["Relevant memory content (in chronological order):", *lines])
            await model_context.add_message(SystemMessage(content=f"\n{text}\n"))
        return UpdateContextResult(memories=found)

    async def clear(self) -> None:
        """Delete the contents that are there now; what others add meanwhile stays."""
        await run_async(self._space, self._clear())

    async def close(self) -> None:
        """Do nothing: the space belongs to whoever opened it."""

    async def _contents(self) -> list[MemoryContent]:
        found = await self._calls.scan(self._prefix)
        records = sorted(found.values(), key=lambda record: record.position)
        return [_unpacked(record.value) for record in records]

    async def _clear(self) -> None:
        while True:
            found = await self._calls.scan(self._prefix)
            try:
                await commit(self._calls, [("delete", record) for record in found.values()])
                return
            except Conflict:
                continue  # somebody else clears it, too


def _packed(content: MemoryContent) -> dict[str, Json]:
    """Return a content as JSON."""
    held, mime = content.content, content.mime_type
    packed: dict[str, Json]
    if isinstance(held, Image):
        packed = {"image": held.to_base64()}
    elif isinstance(held, bytes):
        packed = {"bytes": base64.b64encode(held).decode()}
    else:
        packed = {"value": held}
    kind = {"standard": mime.value} if isinstance(mime, MemoryMimeType) else {"mime_type": mime}
    return {**packed, **kind, "metadata": content.metadata}


def _unpacked(packed: dict[str, Json]) -> MemoryContent:
    """Return the content that `_packed` was given."""
    held: Json = packed.get("value")
    if "image" in packed:
        held = Image.from_base64(packed["image"])
    elif "bytes" in packed:
        held = base64.b64decode(packed["bytes"])
    standard = "standard" in packed
    mime = MemoryMimeType(packed["standard"]) if standard else packed["mime_type"]
    return MemoryContent(content=held, mime_type=mime, metadata=packed["metadata"])


class HasState(Protocol):
    """What AutoGen's teams, agents and runtimes have in common."""

    async def save_state(self) -> Mapping[str, Json]:
        """Return the state as JSON values."""

    async def load_state(self, state: Mapping[str, Json], /) -> None:
        """Go on from a state that `save_state` returned."""


@asynccontextmanager
async def team_state(
    space: Space | AsyncSpace,
    name: str,
    team: HasState,
    *,
    wait: float | None = None,
    ttl: float = 30.0,
) -> AsyncIterator[Lease | AsyncLease]:
    """Go on with the conversation `name`: `async with team_state(...): await team.run(task=...)`.

    Takes the lease of the conversation (`ttl` seconds, renewed; `wait` seconds in a first-come
    queue, None: without limit), loads its state into `team`, if it has one, and saves the team's
    state at the end of the block.  If the block raises, nothing is saved.  Gives the lease,
    whose `epoch` is the number to pass on to whatever else must be fenced.

    Raises Held if `wait` has passed, Fenced at the end if the lease was taken away meanwhile
    (nothing is saved then), Invalid if the state is larger than a value may be.
    """
    lease = await take(checked(space, "team_state"), f"autogen/state/{quoted(name)}", ttl, wait)
    try:
        if lease.record.exists:
            await team.load_state(lease.value)
        yield lease
        await write(lease, dict(await team.save_state()))
    finally:
        await give_up(lease)
