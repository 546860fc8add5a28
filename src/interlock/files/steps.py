"""The operations on shared documents, written once: generators whose requests a driver performs.

What is done on the disk is a `Think`: with asyncio it is done in a thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from interlock.core import transact
from interlock.core.plan import DELETE
from interlock.core.read import load as load_records
from interlock.core.records import Record, absent
from interlock.core.refusals import Conflict, Refusal
from interlock.core.requests import Steps
from interlock.core.transact import Transaction
from interlock.core.write import plan_delete, put, records_of, write_one
from interlock.errors import Invalid
from interlock.files import documents
from interlock.files.desk import (
    ADOPT,
    Desk,
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
from interlock.files.documents import (
    Document,
    FileConflict,
    FileEdited,
    edited,
    to_bytes,
    to_document,
    to_value,
)
from interlock.files.merging import merged
from interlock.files.syncing import adopt, opened

_MOST_MERGES = 100


def read(desk: Desk, path: object) -> Steps[Document]:
    """Read a document, and see that it is on the disk.  Returns a Document."""
    key = desk.key(path)
    yield from opened(desk)
    record = yield from load(desk, key)
    document = yield from shown(desk, to_document(record))
    if document.edited and desk.outside == ADOPT:
        with suppress(FileEdited, Invalid):  # it clashes, or is too large: left as it is
            return (yield from adopt(desk, document.path))
    return document


def write(
    desk: Desk, document: Document, content: Any, mode: int | None, op_id: str
) -> Steps[Document]:
    """Write a document that was read.  Returns the new one."""
    data = to_bytes(content)
    kept = document.mode if mode is None else mode
    desk.key(document.path)
    yield from settled(desk, document)
    record, exact = document.record, not desk.merge
    for _ in range(_MOST_MERGES):
        value = to_value(data, kept)
        outcome = yield from put(desk.writer, record, value, op_id, exact=exact)
        if not isinstance(outcome, Conflict):
            break
        fresh = to_document(outcome.record)
        both = _both(desk, document, data, fresh)
        if both is None:
            raise FileConflict(outcome, fresh)
        data, record, document, exact = both, outcome.record, fresh, False
        kept = fresh.mode if mode is None else mode
    written = records_of(check(outcome), desk.writer.space)[0]
    return (yield from bring(desk, to_document(written)))


def _both(desk: Desk, base: Document, mine: bytes, theirs: Document) -> bytes | None:
    """Return both changes, None where they are not to be merged, or cannot be."""
    if not desk.merge or base.data is None or theirs.data is None:
        return None
    return merged(base.path, base.data, mine, theirs.data)


def delete(desk: Desk, document: Document, op_id: str) -> Steps[Document]:
    """Delete a document that was read.  Returns what is left of it."""
    desk.key(document.path)
    yield from settled(desk, document)
    outcome = yield from write_one(
        desk.writer, lambda: plan_delete(desk.writer, document.record, op_id)
    )
    return (yield from bring(desk, to_document(check(outcome))))


def update(desk: Desk, path: object, think: Steps[Record | Refusal]) -> Steps[Document]:
    """Run an update of the document's key; see that what it wrote is on the disk."""
    key = desk.key(path)
    yield from opened(desk)
    yield from settled(desk, to_document((yield from load(desk, key))))
    record = check((yield from think))
    return (yield from bring(desk, to_document(record)))


def settled(desk: Desk, document: Document, gone: Collection[str] = ()) -> Steps[None]:
    """See that a document can be written here: another one is not in its way, and its file was not
    changed around the space.  `gone`: the keys that the same commit deletes.

    Raises Invalid, FileEdited.
    """
    key, freed = document.record.key, False
    if not document.exists:
        freed = yield from check_place(desk, key, gone)
    seen = yield from on_disk(desk.workspace.see, document.path, freed)
    if not seen.edited or (freed and seen.found.kind == FOLDER):
        return
    if desk.outside == ADOPT:
        yield from adopt(desk, document.path)
        return
    fresh = to_document((yield from load(desk, key)))
    if seen.found.data is None or seen.found.data != fresh.data:
        raise edited(fresh, seen.found.data, seen.last.version if seen.last else None)


class Changes:
    """A transaction over documents: what it has read, and what it will write."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.state = Transaction(desk.writer)
        self.documents: dict[str, Document] = {}  # as they were before they were changed here

    def read(self, path: object) -> Steps[Document]:
        """Read a document.  Returns it, with this transaction's own change."""
        key = self.desk.key(path)
        yield from opened(self.desk)
        check((yield from self.state.load((key,))))
        return (yield from _shown_unless_changed(self, key))

    def write(self, document: Document, content: Any, mode: int | None) -> Steps[None]:
        """Write a document at the commit."""
        self.desk.key(document.path)
        value = to_value(to_bytes(content), document.mode if mode is None else mode)
        yield from opened(self.desk)
        check(self.state.write(document.record, value))
        self.documents.setdefault(document.record.key, document)

    def create(self, path: object, content: Any, mode: int | None) -> Steps[None]:
        """Make a document that must not exist at the commit."""
        key = self.desk.key(path)
        value = to_value(to_bytes(content), documents.DEFAULT_MODE if mode is None else mode)
        yield from opened(self.desk)
        check(self.state.create(key, value))
        self.documents.setdefault(key, to_document(absent(key, self.desk.writer.space)))

    def delete(self, document: Document) -> Steps[None]:
        """Delete a document at the commit."""
        self.desk.key(document.path)
        yield from opened(self.desk)
        check(self.state.delete(document.record))
        self.documents.setdefault(document.record.key, document)

    def commit(self, op_id: str) -> Steps[tuple[Document, ...]]:
        """Commit all, then see that all is on the disk.  Returns the documents written."""
        self.state.ended = True
        writes = self.state.writes
        gone = {write.key for write in writes.values() if write.kind == DELETE}
        for key, document in self.documents.items():
            if key in writes:
                yield from settled(self.desk, document, gone)
        outcome = check((yield from transact.commit_transaction(self.state, op_id)))
        keys = tuple(dict.fromkeys(each.key for each in outcome.writes))
        if not keys:
            return ()
        snapshot = check((yield from load_records(self.desk.writer, keys)))
        return (yield from bring_all(self.desk, read_all(self.desk, snapshot.records.values())[0]))


def _shown_unless_changed(changes: Changes, key: str) -> Steps[Document]:
    document = to_document(changes.state.view(key))
    if key in changes.state.writes:
        return document
    return (yield from shown(changes.desk, document))


def publish(desk: Desk, contents: Mapping[Any, Any], op_id: str) -> Steps[tuple[Document, ...]]:
    """Write several documents in one commit.  Returns the new ones."""
    changes = Changes(desk)
    for target, content in contents.items():
        if isinstance(target, Document):
            yield from changes.write(target, content, None)
        else:
            yield from changes.create(target, content, None)
    return (yield from changes.commit(op_id))
