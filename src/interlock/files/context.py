"""What the operations share: the context of one `Files` object, and how a document is brought onto
the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec

from interlock.core import read, update
from interlock.core.document import folders_of, in_the_way
from interlock.core.keys import matches
from interlock.core.records import Record
from interlock.core.refusals import Conflict, Refusal
from interlock.core.requests import Steps, Think
from interlock.core.requests import T as T
from interlock.core.update import Limits
from interlock.core.writer import Writer
from interlock.errors import Corrupt, Invalid, Unavailable, raise_refusal
from interlock.files.document import (
    PREFIX,
    UNPUBLISHED,
    Document,
    FileConflict,
    FileStatus,
    Unpublished,
    as_found,
    checked_pattern,
    key_of,
    of_content,
    refused_file,
    to_document,
    to_version,
)
from interlock.files.workspace import EDITED, OVERTAKEN, PUBLISHED, Workspace
from interlock.session import BaseSession

P = ParamSpec("P")
REFUSE, ADOPT = "refuse", "adopt"
_MOST_OVERTAKEN = 5


@dataclass
class FilesContext:
    """What the operations of one `Files` object share."""

    session: BaseSession
    workspace: Workspace
    pattern: str
    outside: str
    merge: bool
    hidden: bool
    opened: bool = False

    @property
    def writer(self) -> Writer:
        """Who reads and writes."""
        return self.session.writer

    def op_id(self, given: str | None) -> str:
        """Return the operation id that the caller chose, or a fresh one.  Raises Invalid."""
        return self.session.op_id(given)

    def key(self, path: object) -> str:
        """Return the key of a path.  Raises Invalid."""
        key = key_of(path, self.pattern, self.hidden)
        self.session.check_read(key)
        return key

    def thinking(
        self, path: str, fn: Callable[[Any], object], limits: Limits, op_id: str | None
    ) -> Steps[Record | Refusal]:
        """Return the protocol that updates a document with a function of its text."""
        key, name = self.key(path), self.op_id(op_id)
        thought = self.session.thought(key, fn)
        think, chosen = thought.marked(of_content(path, fn)), op_id is not None
        return update.update(
            *(self.writer, key, think, None, limits, name, chosen), pace=thought.pace
        )


def files_context(
    session: BaseSession,
    root: str | os.PathLike[str],
    pattern: object,
    outside: str,
    merge: bool,
    hidden: bool,
) -> FilesContext:
    """Return the context of the files below `root`.  Raises Invalid."""
    if session.is_joined:
        raise Invalid("Files can't be part of your transaction. Use the space itself.")
    if outside not in (REFUSE, ADOPT):
        raise Invalid(f"outside={outside!r} must be {REFUSE!r} or {ADOPT!r}.")
    found = Workspace(os.fspath(root), session.writer.space)
    matching = checked_pattern(pattern)
    return FilesContext(session, found, matching, outside, merge, hidden)


def shown(context: FilesContext, document: Document) -> Steps[Document]:
    """See that a document is on the disk; disk errors are reported in its state."""
    try:
        return (yield from bring(context, document))
    except Unpublished:
        return as_found(document, UNPUBLISHED)


def bring(
    context: FilesContext, document: Document, force: bool = False, includes: str = ""
) -> Steps[Document]:
    """See that a document, or what has come since, is on the disk.

    `force` sets an edit aside; `includes` is the digest of one that was merged into the document.
    Returns the document with its state.  Raises Unpublished.
    """
    newest = document
    for _ in range(_MOST_OVERTAKEN):
        state = yield from on_disk(_put, context.workspace, newest, force, includes)
        if state != OVERTAKEN:
            break
        record = yield from load(context, document.record.key)
        if record.version == newest.version:
            break  # the store has stepped back
        newest = to_document(record)
    if state == PUBLISHED and newest is not document:
        state = OVERTAKEN
    return as_found(document, state)


def _put(workspace: Workspace, document: Document, force: bool, includes: str) -> str:
    """Put a document on the disk unless it is there."""
    want = to_version(document, includes)
    observed = workspace.see(document.path, not document.exists)
    if want.version == 0:
        return EDITED if observed.refuses(want) else PUBLISHED
    if observed.newest <= want.version and observed.shows(want):
        return PUBLISHED
    return workspace.publish(document.path, want, force)


def bring_all(
    context: FilesContext, found: Iterable[Document], force: bool = False
) -> Steps[tuple[Document, ...]]:
    """See that each document is on the disk, and go on where one cannot be.

    Returns the documents.  Raises the first Unpublished at the end.
    """
    done, failed = [], []
    for document in found:
        try:
            done.append((yield from bring(context, document, force)))
        except Unpublished as problem:
            failed.append(problem)
    if failed:
        raise failed[0]
    return tuple(done)


def read_all(
    context: FilesContext, records: Iterable[Record]
) -> tuple[list[Document], list[FileStatus]]:
    """Return the documents that are to be on this disk, and those that are passed by.

    Deleted ones come first: where one was a file, another may need a folder, and the reverse.
    """
    found, refused = [], []
    for record in records:
        path = record.key.removeprefix(PREFIX)
        if not matches(context.pattern, path):
            continue
        try:
            key_of(path, context.pattern, context.hidden)
            found.append(to_document(record))
        except (Invalid, Corrupt) as problem:
            if record.exists:
                refused.append(refused_file(path, record.version, problem))
    return sorted(found, key=lambda document: document.exists), refused


def check_place(context: FilesContext, key: str, gone: Collection[str] = ()) -> Steps[bool]:
    """See early, before a thought is spent, what the commit of a new document expects: that it
    needs no folder where another one is a file, nor the reverse.  Of one that was deleted
    elsewhere, the file goes.  `gone`: the keys that the same commit deletes.

    Returns whether one of those has the place now.  Raises Invalid.
    """
    folders, freed = folders_of(key), False
    snapshot = check((yield from read.load(context.writer, folders, (f"{key}/",))))
    for folder in folders:
        record = snapshot.records[folder]
        if record.exists:
            if folder not in gone:
                raise_refusal(in_the_way(key, folder))
            freed = True
        elif record.version:
            document = to_document(record)
            if (yield from on_disk(context.workspace.see, document.path)).last:
                yield from bring(context, document)
    for record in snapshot.scans[f"{key}/"]:
        if record.key not in gone:
            raise_refusal(in_the_way(record.key, key))
        freed = True
    return freed


def load(context: FilesContext, key: str) -> Steps[Record]:
    """Return the record of a key."""
    snapshot = check((yield from read.load(context.writer, (key,))))
    return snapshot.records[key]


def on_disk(fn: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Steps[T]:
    """Do something on the disk.

    Raises Unpublished where it refuses a document that is committed, Unavailable otherwise.
    """
    try:
        answer: T = yield Think(partial(fn, **named) if named else fn, arguments)
        return answer
    except OSError as problem:
        why = f"{problem.strerror or problem}"
        for document in arguments:
            if isinstance(document, Document):
                message = f"{document.path!r} version {document.version} is not on the disk: {why}"
                raise Unpublished(message, document) from problem
        raise Unavailable(f"Can't use the disk of the files: {why}") from problem


def check(answer: T | Refusal) -> T:
    """Return an answer, or raise a refusal; one by another writer of a document carries the fresh
    document."""
    if isinstance(answer, Conflict) and answer.key.startswith(PREFIX):
        raise FileConflict(answer, to_document(answer.record))
    if isinstance(answer, Refusal):
        raise_refusal(answer)
    return answer


def checked(operation: Steps[T | Refusal]) -> Steps[T]:
    """Return an operation that raises what it would return as a refusal."""
    return check((yield from operation))
