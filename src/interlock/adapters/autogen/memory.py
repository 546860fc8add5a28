"""A memory that parallel teams add to: nobody conflicts, nothing is lost."""

from __future__ import annotations

import base64
import uuid
from typing import Any

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

from interlock import AsyncSpace, Conflict, Record, Space
from interlock.adapters.calls import Steps, call, checked, commit, run_async
from interlock.adapters.naming import quoted


class SharedMemory(Memory):
    """A memory of AutoGen in a space, in the order in which contents were added.

    Like AutoGen's `ListMemory`, a query returns everything, and `update_context` adds everything as
    one system message.  Its place is a space, so it has no component configuration.
    """

    def __init__(self, space: Space | AsyncSpace, name: str = "default") -> None:
        self._space = checked(space, "SharedMemory")
        self._name = name
        self._prefix = f"autogen/memory/{quoted(name)}/"

    @property
    def name(self) -> str:
        """The name of the memory: the same for all who share it."""
        return self._name

    async def add(
        self, content: MemoryContent, cancellation_token: CancellationToken | None = None
    ) -> None:
        """Add a content.  Never conflicts.  Raises Invalid where it is no JSON, or too large."""
        await run_async(self._space, self._add(content))

    async def query(
        self,
        query: str | MemoryContent = "",
        cancellation_token: CancellationToken | None = None,
        **kwargs: Any,
    ) -> MemoryQueryResult:
        """Return all contents, in the order in which they were added."""
        return MemoryQueryResult(results=await run_async(self._space, self._contents()))

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Add all contents to a model's context, as one system message."""
        found = await self.query()
        if found.results:
            lines = [f"{n}. {content.content!s}" for n, content in enumerate(found.results, 1)]
            told = "\n".join(["Relevant memory content (in chronological order):", *lines])
            await model_context.add_message(SystemMessage(content=f"\n{told}\n"))
        return UpdateContextResult(memories=found)

    async def clear(self) -> None:
        """Delete the contents that are there now; what others add meanwhile stays."""
        await run_async(self._space, self._clear())

    async def close(self) -> None:
        """Do nothing: the space belongs to whoever opened it."""

    def _add(self, content: MemoryContent) -> Steps:
        yield call("create", f"{self._prefix}{uuid.uuid4().hex}", _packed(content))

    def _contents(self) -> Steps:
        found = yield call("scan", self._prefix)
        records: list[Record] = sorted(found.values(), key=lambda record: record.position)
        return [_unpacked(record.value) for record in records]

    def _clear(self) -> Steps:
        while True:
            found = yield call("scan", self._prefix)
            try:
                return (yield commit([("delete", record) for record in found.values()]))
            except Conflict:
                continue  # somebody else clears it, too


def _packed(content: MemoryContent) -> dict[str, Any]:
    """Return a content as JSON."""
    held, mime = content.content, content.mime_type
    packed: dict[str, Any]
    if isinstance(held, Image):
        packed = {"image": held.to_base64()}
    elif isinstance(held, bytes):
        packed = {"bytes": base64.b64encode(held).decode()}
    else:
        packed = {"value": held}
    kind = {"standard": mime.value} if isinstance(mime, MemoryMimeType) else {"mime_type": mime}
    return {**packed, **kind, "metadata": content.metadata}


def _unpacked(packed: dict[str, Any]) -> MemoryContent:
    """Return the content that `_packed` was given."""
    held: Any = packed.get("value")
    if "image" in packed:
        held = Image.from_base64(packed["image"])
    elif "bytes" in packed:
        held = base64.b64decode(packed["bytes"])
    standard = "standard" in packed
    mime = MemoryMimeType(packed["standard"]) if standard else packed["mime_type"]
    return MemoryContent(content=held, mime_type=mime, metadata=packed["metadata"])
