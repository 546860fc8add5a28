"""A memory that parallel teams add to: nobody conflicts, nothing is lost."""

from __future__ import annotations

import base64
import uuid

from autogen_core import CancellationToken, Image
from autogen_core.memory import (
    Memory,
    MemoryContent,
    MemoryMimeType,
    MemoryQueryResult,
    UpdateContextResult,
)
from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import SystemMessage

from interlock import AsyncSpace, Conflict, Json, Space
from interlock.adapters.names import quoted
from interlock.adapters.space import awaitable, checked, commit, run_async


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
