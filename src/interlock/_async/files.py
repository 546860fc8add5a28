"""Documents that several agents share, and the files that show them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from interlock._async import concurrency
from interlock._async.calls import AwaitsCalls, awaited
from interlock.core import read
from interlock.core.requests import Steps
from interlock.core.update import Limits
from interlock.errors import raise_refused
from interlock.files import operations, sync
from interlock.files.context import FilesContext, T, checked
from interlock.files.document import Document, FileStatus
from interlock.session import AsyncSession
from interlock.settings import DEFAULT_ATTEMPTS, WATCH_PAUSE


class AsyncFiles:
    """Documents that several agents share, and the files that show them.

    `document = await files.read("plan.md")`; `await files.write(document, text)`.  The content
    lives in the space; the file is its projection, for whoever reads it with `open`.
    """

    def __init__(self, session: AsyncSession, context: FilesContext) -> None:
        self._session = session
        self._context = context

    def __repr__(self) -> str:
        where = f"{self._context.workspace.root!r} {self._context.pattern!r}"
        return f"<interlock.{type(self).__name__} {where}>"

    @property
    def root(self) -> str:
        """The folder that the files are in."""
        return self._context.workspace.root

    @property
    def pattern(self) -> str:
        """The pattern of the paths in it."""
        return self._context.pattern

    async def read(self, path: str) -> Document:
        """Return a document; one that was never written has version 0 and the text "".

        Sees that the file is what the space holds.  Raises Invalid.
        """
        return await self._run(operations.read(self._context, path))

    async def paths(self) -> list[str]:
        """Return the paths of the documents in the space."""
        found, _ = await self._run(sync.everything(self._context))
        return [each.path for each in found if each.exists]

    async def write(
        self,
        document: Document,
        content: str | bytes,
        *,
        mode: int | None = None,
        op_id: str | None = None,
    ) -> Document:
        """Write over a document that was read; return the new one, which is on the disk.

        `mode`: permissions such as 0o755 (None: as they were).  With `merge=True` what others have
        changed elsewhere in it is kept, too.  Raises FileConflict with the fresh document,
        FileEdited if the file was changed around the space, Unpublished, Invalid.
        """
        name = self._session.op_id(op_id)
        return await self._run(operations.write(self._context, document, content, mode, name))

    async def update(
        self,
        path: str,
        fn: Callable[[Any], object],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
    ) -> Document:
        """Read, call `fn(text)`, commit what it returns; call it again if the document has changed.

        `fn` is a coroutine function, or a plain one, which then runs in a worker thread.

        `fn` gets "" if the document does not exist, and bytes if it is no text; it may return
        `interlock.DELETE`.  The other arguments are those of `Space.update`.
        """
        concurrency.check_function(fn, "fn")
        limits = Limits(attempts, patience, turns)
        thinking = self._context.thinking(path, fn, limits, op_id)
        return await self._run(operations.update(self._context, path, thinking))

    async def delete(self, document: Document, *, op_id: str | None = None) -> Document:
        """Delete a document that was read, and its file.

        Raises as `write` does.
        """
        return await self._run(
            operations.delete(self._context, document, self._session.op_id(op_id))
        )

    async def publish(
        self, contents: Mapping[Any, str | bytes], *, op_id: str | None = None
    ) -> tuple[Document, ...]:
        """Write several documents in one commit; return the new ones.

        `contents` are by document that was read, or by path if there must be none yet.  All are
        committed, or nothing is.  Raises as `write` does.
        """
        return await self._run(
            operations.publish(self._context, contents, self._session.op_id(op_id))
        )

    def transaction(self, *, op_id: str | None = None) -> AsyncFilesTx:
        """Begin a transaction over several documents, committed when its block ends."""
        return AsyncFilesTx(self._session, self._context, self._session.op_id(op_id))

    async def status(self) -> tuple[FileStatus, ...]:
        """Return what of the disk is not what the space holds, edits made around it first."""
        return await self._run(sync.status(self._context))

    async def sync(self) -> tuple[Document, ...]:
        """Make the disk what the space holds; files that were edited are left as they are.

        Returns the documents whose file was changed, or was edited.  Raises Unpublished.
        """
        return await self._run(sync.sync(self._context))

    async def rebuild(self) -> tuple[Document, ...]:
        """Make the disk what the space holds, whatever it is now; edits are set aside.

        Returns the documents whose file was changed.  Raises Unpublished.
        """
        return await self._run(sync.rebuild(self._context))

    async def follow(self) -> AsyncIterator[Document]:
        """Sync, then yield each document that others write when it is on this disk, without
        end."""
        position = await self._run(sync.head(self._context))
        for document in await self._run(sync.follow(self._context)):
            yield document
        while True:
            found, upto = await self._run(sync.catch_up(self._context, position))
            for document in found:
                yield document
            if upto == position:
                await self._session.run(read.wait(WATCH_PAUSE, position))
            position = upto

    async def adopt(self, path: str, *, over: Document | None = None) -> Document:
        """Commit what was edited around the space, or removed, and return the document.

        `over`: the document that the edit is to replace although it was made from an older one.
        Raises FileEdited if the document has moved and cannot be merged, Invalid.
        """
        return await self._run(sync.adopt(self._context, path, over))

    async def adopt_all(self) -> tuple[Document, ...]:
        """Commit all that was edited and every new file; return the documents.

        One that cannot be committed has the state `edited`.
        """
        return await self._run(sync.adopt_all(self._context))

    async def discard(self, path: str) -> Document:
        """Put the space's content in the place of an edit, which is set aside below `.interlock`.

        Raises Unpublished, Invalid.
        """
        return await self._run(sync.discard(self._context, path))

    async def _run(self, operation: Steps[T]) -> T:
        return await self._session.run(checked(operation))


class AsyncFilesTx(AwaitsCalls):
    """One transaction over documents: reads of one moment, and writes committed together.

    All methods are awaited; the block raises Invalid at its end if one was not.
    """

    def __init__(self, session: AsyncSession, context: FilesContext, op_id: str) -> None:
        self._session = session
        self._changes = operations.Changes(context)
        self._op_id = op_id
        self.written: tuple[Document, ...] = ()

    @awaited
    async def read(self, path: str) -> Document:
        """Return a document, with this transaction's own change.

        Raises FileConflict, Invalid.
        """
        return await self._run(self._changes.read(path))

    @awaited
    async def write(
        self, document: Document, content: str | bytes, *, mode: int | None = None
    ) -> None:
        """Write a document at the commit.

        Raises FileConflict, Invalid; the end of the block also raises FileEdited.
        """
        await self._run(self._changes.write(document, content, mode))

    @awaited
    async def create(self, path: str, content: str | bytes, *, mode: int | None = None) -> None:
        """Make a document that must not exist at the commit.  Raises as `write` does."""
        await self._run(self._changes.create(path, content, mode))

    @awaited
    async def delete(self, document: Document) -> None:
        """Delete a document at the commit.  Raises as `write` does."""
        await self._run(self._changes.delete(document))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._changes.state.ended = True
        unawaited = self._calls.unawaited()
        if kind is None:
            raise_refused(unawaited)
            self.written = await self._run(self._changes.commit(self._op_id))

    async def _run(self, operation: Steps[T]) -> T:
        return await self._session.run(checked(operation))
