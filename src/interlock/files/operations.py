"""The operations on shared documents, written once: generators whose requests a driver performs.

What is done on the disk is a `Think`: with asyncio it is done in a thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress

from interlock.core import transact
from interlock.core.plan import DELETE
from interlock.core.read import load as load_records
from interlock.core.records import Record, absent
from interlock.core.refusals import Conflict, Refusal
from interlock.core.requests import Steps
from interlock.core.transact import Transaction
from interlock.core.write import plan_delete, put, records_of, write_one
from interlock.errors import Invalid
from interlock.files.context import (
    ADOPT,
    FilesContext,
    bring,
    bring_all,
    check,
    check_place,
    load,
    on_disk,
    read_all,
    shown,
)
from interlock.files.disk import FOLDER
from interlock.files.document import (
    DEFAULT_MODE,
    Document,
    FileConflict,
    FileEdited,
    edited,
    to_bytes,
    to_document,
    to_value,
)
from interlock.files.merge import merged
from interlock.files.sync import adopt, opened

_MOST_MERGES = 100


def read(context: FilesContext, path: object) -> Steps[Document]:
    """Read a document, and see that it is on the disk.  Returns a Document."""
    key = context.key(path)
    yield from opened(context)
    record = yield from load(context, key)
    document = yield from shown(context, to_document(record))
    if document.edited and context.outside == ADOPT:
        with suppress(FileEdited, Invalid):  # it clashes, or is too large: left as it is
            return (yield from adopt(context, document.path))
    return document


def write(
    context: FilesContext, document: Document, content: object, mode: int | None, op_id: str
) -> Steps[Document]:
    """Write a document that was read.  Returns the new one."""
    data = to_bytes(content)
    new_mode = document.mode if mode is None else mode
    context.key(document.path)
    yield from settled(context, document)
    record, exact = document.record, not context.merge
    for _ in range(_MOST_MERGES):
        value = to_value(data, new_mode)
        outcome = yield from put(context.writer, record, value, op_id, exact=exact)
        if not isinstance(outcome, Conflict):
            break
        fresh = to_document(outcome.record)
        both = _both(context, document, data, fresh)
        if both is None:
            raise FileConflict(outcome, fresh)
        data, record, document, exact = both, outcome.record, fresh, False
        new_mode = fresh.mode if mode is None else mode
    written = records_of(check(outcome), context.writer.space)[0]
    return (yield from bring(context, to_document(written)))


def _both(context: FilesContext, base: Document, mine: bytes, theirs: Document) -> bytes | None:
    """Return both changes, None where they are not to be merged, or cannot be."""
    if not context.merge or base.data is None or theirs.data is None:
        return None
    return merged(base.path, base.data, mine, theirs.data)


def delete(context: FilesContext, document: Document, op_id: str) -> Steps[Document]:
    """Delete a document that was read.  Returns what is left of it."""
    context.key(document.path)
    yield from settled(context, document)
    outcome = yield from write_one(
        context.writer, lambda: plan_delete(context.writer, document.record, op_id)
    )
    return (yield from bring(context, to_document(check(outcome))))


def update(context: FilesContext, path: object, think: Steps[Record | Refusal]) -> Steps[Document]:
    """Run an update of the document's key; see that what it wrote is on the disk."""
    key = context.key(path)
    yield from opened(context)
    yield from settled(context, to_document((yield from load(context, key))))
    record = check((yield from think))
    return (yield from bring(context, to_document(record)))


def settled(context: FilesContext, document: Document, gone: Collection[str] = ()) -> Steps[None]:
    """See that a document can be written here: another one is not in its way, and its file was not
    changed around the space.  `gone`: the keys that the same commit deletes.

    Raises Invalid, FileEdited.
    """
    key, freed = document.record.key, False
    if not document.exists:
        freed = yield from check_place(context, key, gone)
    observed = yield from on_disk(context.workspace.see, document.path, freed)
    if not observed.edited or (freed and observed.found.kind == FOLDER):
        return
    if context.outside == ADOPT:
        yield from adopt(context, document.path)
        return
    fresh = to_document((yield from load(context, key)))
    if observed.found.data is None or observed.found.data != fresh.data:
        raise edited(fresh, observed.found.data, observed.last.version if observed.last else None)


class Changes:
    """A transaction over documents: what it has read, and what it will write."""

    def __init__(self, context: FilesContext) -> None:
        self.context = context
        self.state = Transaction(context.writer)
        self.documents: dict[str, Document] = {}  # as they were before they were changed here

    def read(self, path: object) -> Steps[Document]:
        """Read a document.  Returns it, with this transaction's own change."""
        key = self.context.key(path)
        yield from opened(self.context)
        check((yield from self.state.load((key,))))
        return (yield from _shown_unless_changed(self, key))

    def write(self, document: Document, content: object, mode: int | None) -> Steps[None]:
        """Write a document at the commit."""
        self.context.key(document.path)
        value = to_value(to_bytes(content), document.mode if mode is None else mode)
        yield from opened(self.context)
        check(self.state.write(document.record, value))
        self.documents.setdefault(document.record.key, document)

    def create(self, path: object, content: object, mode: int | None) -> Steps[None]:
        """Make a document that must not exist at the commit."""
        key = self.context.key(path)
        value = to_value(to_bytes(content), DEFAULT_MODE if mode is None else mode)
        yield from opened(self.context)
        check(self.state.create(key, value))
        self.documents.setdefault(key, to_document(absent(key, self.context.writer.space)))

    def delete(self, document: Document) -> Steps[None]:
        """Delete a document at the commit."""
        self.context.key(document.path)
        yield from opened(self.context)
        check(self.state.delete(document.record))
        self.documents.setdefault(document.record.key, document)

    def commit(self, op_id: str) -> Steps[tuple[Document, ...]]:
        """Commit all, then see that all is on the disk.  Returns the documents written."""
        self.state.ended = True
        writes = self.state.writes
        gone = {write.key for write in writes.values() if write.kind == DELETE}
        for key, document in self.documents.items():
            if key in writes:
                yield from settled(self.context, document, gone)
        outcome = check((yield from transact.commit_transaction(self.state, op_id)))
        keys = tuple(dict.fromkeys(each.key for each in outcome.writes))
        if not keys:
            return ()
        snapshot = check((yield from load_records(self.context.writer, keys)))
        return (
            yield from bring_all(self.context, read_all(self.context, snapshot.records.values())[0])
        )


def _shown_unless_changed(changes: Changes, key: str) -> Steps[Document]:
    document = to_document(changes.state.view(key))
    if key in changes.state.writes:
        return document
    return (yield from shown(changes.context, document))


def publish(
    context: FilesContext, contents: Mapping[Document | str, object], op_id: str
) -> Steps[tuple[Document, ...]]:
    """Write several documents in one commit.  Returns the new ones."""
    changes = Changes(context)
    for target, content in contents.items():
        if isinstance(target, Document):
            yield from changes.write(target, content, None)
        else:
            yield from changes.create(target, content, None)
    return (yield from changes.commit(op_id))
