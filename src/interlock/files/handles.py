"""Shared documents as agents use them, with the synchronous façade."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from interlock import reentry
from interlock.backends.drive import SyncDriver
from interlock.core import protocol
from interlock.core.requests import Steps
from interlock.core.turns import Limits
from interlock.core.values import DELETE
from interlock.errors import Invalid
from interlock.files import documents, steps, syncing
from interlock.files.desk import Desk, Doing, T, check
from interlock.files.documents import Document, FileStatus
from interlock.settings import DEFAULT_ATTEMPTS, WATCH_PAUSE

Think = Callable[[Any], Any]


class FilesHandle:
    """What the files of a space know, with either façade."""

    def __init__(self, driver: Any, desk: Desk) -> None:
        self._driver = driver
        self._desk = desk

    def __repr__(self) -> str:
        where = f"{self._desk.workspace.root!r} {self._desk.pattern!r}"
        return f"<interlock.{type(self).__name__} {where}>"

    @property
    def root(self) -> str:
        """The folder that the files are in."""
        return self._desk.workspace.root

    @property
    def pattern(self) -> str:
        """The pattern of the paths in it."""
        return self._desk.pattern

    def _updating(
        self, path: object, think: Think, limits: Limits, op_id: str | None
    ) -> Steps[Any]:
        writer, key, name = self._desk.writer, self._desk.key(path), self._desk.op_id(op_id)
        think = reentry.Thought(writer.space, key).marked(think)
        return protocol.update(writer, key, think, None, limits, name, op_id is not None)

    def _content(self, path: str, value: Any) -> str | bytes:
        """Return what an update's function is given: text, or bytes that are no text."""
        if value is None:
            return ""
        data, _ = documents.from_value(path, value)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    def _value(self, before: Any, content: Any) -> Any:
        if content is None or content is DELETE:
            return content  # what these mean is the same for every update
        mode = documents.DEFAULT_MODE if before is None else int(before["mode"])
        return documents.to_value(documents.to_bytes(content), mode)


class Files(FilesHandle):
    """Documents that several agents share, and the files that show them.

    `document = files.read("plan.md")`; `files.write(document, text)`.  The content lives in the
    space; the file is its projection, for whoever reads it with `open`.
    """

    _driver: SyncDriver

    def read(self, path: str) -> Document:
        """Return a document; one that was never written has version 0 and the text "".

        Sees that the file is what the space holds.  Raises Invalid.
        """
        return self._run(steps.read(self._desk, path))

    def paths(self) -> list[str]:
        """Return the paths of the documents in the space."""
        return [each.path for each in self._run(syncing.everything(self._desk))[0] if each.exists]

    def write(
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
        FileEdited where the file was changed around the space, Unpublished, Invalid.
        """
        name = self._desk.op_id(op_id)
        return self._run(steps.write(self._desk, document, content, mode, name))

    def update(
        self,
        path: str,
        fn: Callable[[Any], str | bytes],
        *,
        attempts: int = DEFAULT_ATTEMPTS,
        patience: float | None = None,
        turns: str = "auto",
        op_id: str | None = None,
    ) -> Document:
        """Read, let `fn(text)` think, commit what it returns; think again where that has moved.

        `fn` gets "" where the document does not exist, and bytes where it is no text; it may return
        `interlock.DELETE`.  The other arguments are those of `Space.update`.
        """
        if inspect.iscoroutinefunction(fn):
            raise Invalid(
                "fn is a coroutine function; use interlock.open_async for async functions"
            )

        def think(value: Any) -> Any:
            return self._value(value, fn(self._content(path, value)))

        thinking = self._updating(path, think, Limits(attempts, patience, turns), op_id)
        return self._run(steps.update(self._desk, path, thinking))

    def delete(self, document: Document, *, op_id: str | None = None) -> Document:
        """Delete a document that was read, and its file.

        Raises as `write` does.
        """
        return self._run(steps.delete(self._desk, document, self._desk.op_id(op_id)))

    def publish(
        self, contents: Mapping[Any, str | bytes], *, op_id: str | None = None
    ) -> tuple[Document, ...]:
        """Write several documents in one commit; return the new ones.

        `contents` are by document that was read, or by path where there must be none yet.  All are
        committed, or nothing is.  Raises as `write` does.
        """
        return self._run(steps.publish(self._desk, contents, self._desk.op_id(op_id)))

    def transaction(self, *, op_id: str | None = None) -> FilesTx:
        """Begin a transaction over several documents, committed when its block ends."""
        return FilesTx(self._driver, steps.Changes(self._desk), self._desk.op_id(op_id))

    def status(self) -> tuple[FileStatus, ...]:
        """Return what of the disk is not what the space holds, edits made around it first."""
        return self._run(syncing.status(self._desk))

    def sync(self) -> tuple[Document, ...]:
        """Make the disk what the space holds; files that were edited are left as they are.

        Returns the documents whose file was changed, or was edited.  Raises Unpublished.
        """
        return self._run(syncing.sync(self._desk))

    def rebuild(self) -> tuple[Document, ...]:
        """Make the disk what the space holds, whatever it is now; edits are set aside.

        Returns the documents whose file was changed.  Raises Unpublished.
        """
        return self._run(syncing.rebuild(self._desk))

    def follow(self) -> Iterator[Document]:
        """Sync, then yield each document that others write when it is on this disk, without
        end."""
        position = self._run(syncing.head(self._desk))
        yield from self._run(syncing.follow(self._desk))
        while True:
            found, upto = self._run(syncing.catch_up(self._desk, position))
            yield from found
            if upto == position:
                self._driver.run(protocol.wait(WATCH_PAUSE, position))
            position = upto

    def adopt(self, path: str, *, over: Document | None = None) -> Document:
        """Commit what was edited around the space, or removed, and return the document.

        `over`: the document that the edit is to replace although it was made from an older one.
        Raises FileEdited where the document has moved and cannot be merged, Invalid.
        """
        return self._run(syncing.adopt(self._desk, path, over))

    def adopt_all(self) -> tuple[Document, ...]:
        """Commit all that was edited and every new file; return the documents.

        One that cannot be committed has the state `edited`.
        """
        return self._run(syncing.adopt_all(self._desk))

    def discard(self, path: str) -> Document:
        """Put the space's content in the place of an edit, which is set aside below `.interlock`.

        Raises Unpublished, Invalid.
        """
        return self._run(syncing.discard(self._desk, path))

    def _run(self, operation: Doing[T]) -> T:
        answer: Any = self._driver.run(operation)
        done: T = check(answer)
        return done


class FilesTx:
    """One transaction over documents: reads of one moment, and writes committed together."""

    def __init__(self, driver: SyncDriver, changes: steps.Changes, op_id: str) -> None:
        self._driver = driver
        self._changes = changes
        self._op_id = op_id
        self.written: tuple[Document, ...] = ()

    def read(self, path: str) -> Document:
        """Return a document, with this transaction's own change.

        Raises FileConflict, Invalid.
        """
        return self._run(self._changes.read(path))

    def write(self, document: Document, content: str | bytes, *, mode: int | None = None) -> None:
        """Write a document at the commit.

        Raises FileConflict, Invalid; the end of the block also raises FileEdited.
        """
        self._run(self._changes.write(document, content, mode))

    def create(self, path: str, content: str | bytes, *, mode: int | None = None) -> None:
        """Make a document that must not exist at the commit.  Raises as `write` does."""
        self._run(self._changes.create(path, content, mode))

    def delete(self, document: Document) -> None:
        """Delete a document at the commit.  Raises as `write` does."""
        self._run(self._changes.delete(document))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._changes.state.ended = True
        if kind is None:
            self.written = self._run(self._changes.commit(self._op_id))

    def _run(self, operation: Doing[T]) -> T:
        answer: Any = self._driver.run(operation)
        done: T = check(answer)
        return done
