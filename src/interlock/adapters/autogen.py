"""AutoGen: state of teams, memories, contexts and caches that teams, processes and hosts share.

The state of a conversation is the key `autogen/state/<name>`, whose lease a team has while it runs.
Each content of a memory is a key `autogen/memory/<name>/<random>`, each message of a context a key
`autogen/context/<name>/<random>`, each value of a cache a key `autogen/cache/<name>/<key>`.  Names
are quoted, and hashed if they are long.
"""

from __future__ import annotations

import base64
import math
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from interlock import AsyncLease, AsyncSpace, Conflict, Invalid, Json, Lease, Record, Space
from interlock.adapters.home import AsyncClosing, AtHome, Closing
from interlock.adapters.kv import carrying
from interlock.adapters.observed import Observed, observed
from interlock.adapters.space import (
    checked,
    commit,
    delete_all,
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
    from autogen_core import CacheStore, CancellationToken, Component, ComponentBase, Image
    from autogen_core.memory import (
        Memory,
        MemoryContent,
        MemoryMimeType,
        MemoryQueryResult,
        UpdateContextResult,
    )
    from autogen_core.model_context import ChatCompletionContext, ChatCompletionContextState
    from autogen_core.models import LLMMessage, SystemMessage
    from pydantic import BaseModel

__all__ = ["Persistence", "SharedCacheStore", "SharedContext", "SharedMemory", "team_state"]

T = TypeVar("T")
_NOT_NAMED = object()


class SharedConfig(BaseModel):
    """What `dump_component` says of a component: where it is kept, and its options."""

    url: str
    space: str = "default"
    agent: str | None = None
    name: str = "default"
    options: dict[str, Any] = {}


class _Shared(AtHome, ComponentBase[BaseModel], Component[SharedConfig]):
    """A component of AutoGen in a space; it has a configuration if it was made with a URL."""

    component_type: ClassVar[str] = "interlock"  # each has AutoGen's own
    component_config_schema = SharedConfig
    owner: object = None
    _name: str
    _where: SharedConfig | None

    def _at(
        self,
        where: Space | AsyncSpace | str,
        name: str,
        space: str,
        agent: str | None,
        **options: object,
    ) -> None:
        self._open(where, space, agent)
        self._name = name
        self._where = None
        if isinstance(where, str):
            self._where = SharedConfig(
                url=where, space=space, agent=agent, name=name, options=options
            )

    def _to_config(self) -> SharedConfig:
        """Return what `dump_component` shows.  Raises Invalid if there is no URL to show."""
        if self._where is None:
            raise Invalid("It was given an open space: make it with a URL to dump it.")
        parts = urlsplit(self._where.url)
        if parts.password or "password" in parts.query.lower():
            raise Invalid("Its URL has a password. Dump it with the password in the environment.")
        return self._where

    @classmethod
    def _from_config(cls, config: SharedConfig) -> Self:
        return cls(
            config.url, config.name, space=config.space, agent=config.agent, **config.options
        )  # type: ignore[call-arg]  # of each component


class SharedCacheStore(_Shared, CacheStore[T]):
    """A cache store of AutoGen in a space: `SharedCacheStore(url, name)`, or with a space from
    `interlock.open` in its place.

    `set` writes if nothing is there, or over what its caller has read: the dict, list or text that
    `get` returned carries its version, so pass that back, changed or not, or name it:
    `set(key, value, base=found)`.  `update` reads, thinks and writes.  Otherwise `set` raises
    Conflict.  With `on_conflict="keep"` it leaves what others stored: for caches of answers, when
    any of them will do.  With `unread="overwrite"` what nobody read is written over.

    Values are JSON; a pydantic model is stored as JSON, and `get` returns that.
    """

    component_type = "cache_store"
    _space: Space

    def __init__(
        self,
        where: Space | str,
        name: str = "default",
        *,
        on_conflict: Literal["raise", "keep"] = "raise",
        unread: Literal["refuse", "overwrite"] = "refuse",
        space: str = "default",
        agent: str | None = None,
    ) -> None:
        one_of("on_conflict", on_conflict, "raise", "keep")
        one_of("unread", unread, "refuse", "overwrite")
        self._at(where, name, space, agent, on_conflict=on_conflict, unread=unread)
        self._space = synchronous(self._space, "SharedCacheStore")
        self._prefix = f"autogen/cache/{quoted(name)}/"
        self._keeps = on_conflict == "keep"
        self._overwrites = unread == "overwrite"

    def get(self, key: str, default: T | None = None) -> T | None:
        """Return the value of `key`, or `default` if there is none."""
        record = self._space.read(self._key(key))
        return carrying(record.value, Observed.of(record)) if record.exists else default

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
        record = self._space.update(self._key(key), lambda value: _json(fn(value)))
        stored: T = carrying(record.value, Observed.of(record))
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


def _json(value: object) -> Json:
    """Return a value with its pydantic models as JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_json(each) for each in value] if isinstance(value, list) else value


class _Entries(AsyncClosing, _Shared):
    """What many add to, in the order in which it was added."""

    _prefix: str

    @property
    def name(self) -> str:
        """The name: the same for all who share it."""
        return self._name

    async def clear(self) -> None:
        """Delete what is there now; what others add meanwhile stays."""
        await run_async(self._space, delete_all(self._calls, below=[self._prefix]))

    async def _add(self, values: Iterable[Json]) -> None:
        for value in values:
            made = self._calls.create(f"{self._prefix}{uuid.uuid4().hex}", value)
            await run_async(self._space, made)

    async def _all(self) -> list[Record]:
        found = await run_async(self._space, self._calls.scan(self._prefix))
        return sorted(found.values(), key=lambda record: record.position)


class SharedMemory(_Entries, Memory):
    """A memory of AutoGen in a space: `SharedMemory(url, name)`, or with a space in its place.

    A query returns everything, what fits it best first, or `k` contents (`score_threshold`: that
    fit at least so well, from 0 to 1).  `update_context` adds everything as one system message, as
    AutoGen's `ListMemory` does, or the `k` contents that fit the last message best.

    What fits is counted in words, rare ones for more; `score(query, texts)` takes its place, such
    as a model of embeddings.
    """

    component_type = "memory"

    def __init__(
        self,
        where: Space | AsyncSpace | str,
        name: str = "default",
        *,
        k: int | None = None,
        score_threshold: float = 0.0,
        score: Callable[[str, Sequence[str]], Sequence[float]] | None = None,
        space: str = "default",
        agent: str | None = None,
    ) -> None:
        if k is not None and k < 1:
            raise Invalid(f"k={k!r:.40} is not a number of contents from 1")
        self._at(where, name, space, agent, k=k, score_threshold=score_threshold)
        self._prefix = f"autogen/memory/{quoted(name)}/"
        self._k, self._threshold, self._score = k, score_threshold, score or _by_words

    async def add(
        self, content: MemoryContent, cancellation_token: CancellationToken | None = None
    ) -> None:
        """Add a content.  Never conflicts.  Raises Invalid if it is no JSON, or too large."""
        await self._add([_packed(content)])

    async def query(
        self,
        query: str | MemoryContent = "",
        cancellation_token: CancellationToken | None = None,
        *,
        k: int | None = None,
        score_threshold: float | None = None,
        **kwargs: object,
    ) -> MemoryQueryResult:
        """Return the contents that fit `query` best, with their `score` in the metadata; without a
        query everything, in the order in which it was added."""
        found = [_unpacked(record.value) for record in await self._all()]
        text = str(query.content if isinstance(query, MemoryContent) else query)
        if not text.strip():
            return MemoryQueryResult(results=found)
        least = self._threshold if score_threshold is None else score_threshold
        scores = self._score(text, [str(content.content) for content in found])
        best = sorted(zip(scores, found, strict=True), key=lambda each: -each[0])
        scored = [
            content.model_copy(update={"metadata": {**(content.metadata or {}), "score": score}})
            for score, content in best
            if score >= least
        ]
        return MemoryQueryResult(results=scored[: k or self._k])

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Add contents to a model's context, as one system message."""
        said = await model_context.get_messages() if self._k else []
        found = await self.query(str(said[-1].content) if said else "")
        if found.results:
            lines = [f"{n}. {content.content!s}" for n, content in enumerate(found.results, 1)]
            order = "most relevant first" if said else "in chronological order"
            text = "\n".join([f"Relevant memory content ({order}):", *lines])
            await model_context.add_message(SystemMessage(content=f"\n{text}\n"))
        return UpdateContextResult(memories=found)


class SharedContext(_Entries, ChatCompletionContext):
    """A context of messages in a space, which several agents share: `SharedContext(url, name)`.

    Each message that is added is kept; `last` gives a model only so many of the newest.  A state
    that is loaded (of an agent that was saved) never takes the place of messages that it does not
    have: with more there, those stay, and what has gone another way raises Conflict.
    """

    component_type = "chat_completion_context"

    def __init__(
        self,
        where: Space | AsyncSpace | str,
        name: str = "default",
        *,
        last: int | None = None,
        space: str = "default",
        agent: str | None = None,
    ) -> None:
        super().__init__()
        if last is not None and last < 1:
            raise Invalid(f"last={last!r:.40} is not a number of messages from 1")
        self._at(where, name, space, agent, last=last)
        self._prefix = f"autogen/context/{quoted(name)}/"
        self._last = last

    async def add_message(self, message: LLMMessage) -> None:
        """Add a message.  Never conflicts.  Raises Invalid if it is no JSON, or too large."""
        await self._add(_messages([message]))

    async def get_messages(self) -> list[LLMMessage]:
        """Return the messages in the order in which they were added."""
        values = [record.value for record in await self._all()]
        found = ChatCompletionContextState.model_validate({"messages": values}).messages
        if self._last is None:
            return found
        newest = found[-self._last :]  # a result of a call without the call is refused by models
        return newest[1:] if newest[0:1] and newest[0].type == _RESULT else newest

    async def save_state(self) -> Mapping[str, Any]:
        """Return the messages."""
        return {"messages": [record.value for record in await self._all()]}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Add the messages of a state to an empty context.  Raises Conflict: see the class."""
        wanted = _messages(ChatCompletionContextState.model_validate(state).messages)
        there = await self._all()
        if [record.value for record in there[: len(wanted)]] == wanted:
            return
        # All or none; what is there would have to be replaced, which refuses.
        keys = [record.key for record in there] or [
            f"{self._prefix}{number:08d}" for number in range(len(wanted))
        ]
        made = [("create", key, value) for key, value in zip(keys, wanted, strict=False)]
        await run_async(self._space, commit(self._calls, made))


_RESULT = "FunctionExecutionResultMessage"


def _messages(messages: list[LLMMessage]) -> list[Json]:
    found: list[Json] = ChatCompletionContextState(messages=messages).model_dump(mode="json")[
        "messages"
    ]
    return found


def _by_words(query: str, texts: Sequence[str]) -> list[float]:
    """Return how much of a query each text has, from 0 to 1; what few texts have counts more."""
    words = [set(re.findall(r"\w+", text.lower())) for text in texts]
    wanted = {
        word: math.log(1 + len(texts) / (1 + sum(word in each for each in words)))
        for word in re.findall(r"\w+", query.lower())
    }
    whole = sum(wanted.values()) or 1.0
    return [sum(wanted[word] for word in wanted if word in each) / whole for each in words]


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


S = TypeVar("S", bound=_Shared)


class Persistence(Closing):
    """Everything of AutoGen that may be shared, in one space: `Persistence(url)`.

    `async with Persistence(url).run("conversation-17", team): await team.run(task=...)`.  With a
    URL it opens the space called `space` and closes it: at the end of a `with` or `async with`
    block, by `close()`, or when nobody refers to it any more.  It may be given a space.
    """

    def __init__(
        self,
        where: Space | AsyncSpace | str,
        /,
        *,
        space: str = "default",
        agent: str | None = None,
    ) -> None:
        self._open(where, space, agent)

    @asynccontextmanager
    async def run(
        self, name: str, team: HasState, *, wait: float | None = None, ttl: float = 30.0
    ) -> AsyncIterator[Lease | AsyncLease]:
        """Go on with a conversation, as `team_state` does."""
        async with team_state(self._space, name, team, wait=wait, ttl=ttl) as lease:
            yield lease

    def memory(self, name: str = "default", **options: Any) -> SharedMemory:
        """Return a `SharedMemory` of the same space."""
        return self._kept_by(SharedMemory(self._space, name, **options))

    def context(self, name: str = "default", **options: Any) -> SharedContext:
        """Return a `SharedContext` of the same space."""
        return self._kept_by(SharedContext(self._space, name, **options))

    def cache(self, name: str = "default", **options: Any) -> SharedCacheStore[Any]:
        """Return a `SharedCacheStore` of the same space."""
        space = synchronous(self._space, "SharedCacheStore")
        return self._kept_by(SharedCacheStore[Any](space, name, **options))

    def _kept_by(self, made: S) -> S:
        made.owner = self  # the space stays open as long as somebody uses it
        return made
