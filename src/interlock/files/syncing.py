"""The disk and the space: what differs, and making it the same; edits made around the space."""

from __future__ import annotations

from contextlib import suppress

from interlock.core import read, write
from interlock.core.records import Record
from interlock.core.refusals import Conflict, Pruned, Refusal
from interlock.core.requests import Steps
from interlock.errors import Forbidden, Held, IllegalTransition, Invalid, Unavailable
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
from interlock.files.documents import (
    PREFIX,
    Document,
    FileConflict,
    FileStatus,
    Unpublished,
    as_found,
    edited,
    to_document,
    to_value,
    to_version,
)
from interlock.files.merging import merged
from interlock.files.workspace import EDITED, Seen, Workspace, digest_of

_PAGE = 1000  # entries


def opened(desk: Desk) -> Steps[None]:
    """Make good, once, what those who were killed have left undone."""
    if not desk.opened:
        with suppress(Unpublished):  # whoever writes, or calls sync, is told
            yield from sync(desk)


def sync(desk: Desk, force: bool = False) -> Steps[tuple[Document, ...]]:
    """See that the disk is what the space holds.

    Returns the documents whose file was changed, or is left as it was edited.
    """
    desk.opened = True
    before = yield from on_disk(_not_shown, desk.workspace, (yield from everything(desk))[0])
    found = list((yield from bring_all(desk, before, force)))
    if desk.outside == ADOPT and not force:
        found = [each for each in found if not each.edited]
        found += yield from adopt_all(desk)
    return tuple(found)


def follow(desk: Desk) -> Steps[tuple[Document, ...]]:
    """Sync; what the disk refuses has the state `unpublished`, and does not stop the others."""
    found, _ = yield from everything(desk)
    try:
        return (yield from sync(desk))
    except Unpublished:
        done = []
        for document in (yield from on_disk(_not_shown, desk.workspace, found)):
            done.append((yield from shown(desk, document)))
        return tuple(done)


def rebuild(desk: Desk) -> Steps[tuple[Document, ...]]:
    """Make the disk what the space holds; what was edited is set aside.  Returns the documents."""
    paths = yield from on_disk(desk.workspace.paths)
    highest = yield from on_disk(_highest, desk.workspace, paths)
    found, _ = yield from everything(desk)
    yield from on_disk(_step_back, desk.workspace, highest, found)
    return (yield from sync(desk, force=True))


def _highest(workspace: Workspace, paths: list[str]) -> dict[str, int]:
    highest = {}
    for path in paths:
        with suppress(OSError):  # it is passed by
            highest[path] = workspace.see(path).newest
    return highest


def _step_back(workspace: Workspace, highest: dict[str, int], found: list[Document]) -> None:
    """Forget versions that a store that stepped back has lost: it was read after the disk was."""
    for document in found:
        if highest.get(document.path, 0) > document.version:
            workspace.step_back(document.path, document.version)


def everything(desk: Desk) -> Steps[tuple[list[Document], list[FileStatus]]]:
    """Return the documents of the space, and those deleted that were once published here; then
    those that cannot be on this disk."""
    snapshot = check((yield from read.load(desk.writer, (), (PREFIX,))))
    records = {record.key: record for record in snapshot.scans[PREFIX]}
    paths = yield from on_disk(desk.workspace.paths)
    known = [path for path in paths if documents.is_path(path, desk.pattern, desk.hidden)]
    keys = tuple(key for key in (PREFIX + path for path in known) if key not in records)
    if keys:
        gone = check((yield from read.load(desk.writer, keys)))
        records |= gone.records
    return read_all(desk, (records[key] for key in sorted(records)))


def _not_shown(workspace: Workspace, found: list[Document]) -> list[Document]:
    """Return the documents whose place does not show them."""
    return [each for each in found if _status_of(workspace, each) is not None]


def status(desk: Desk) -> Steps[tuple[FileStatus, ...]]:
    """Return what of the disk is not what the space holds."""
    found, refused = yield from everything(desk)
    told = yield from on_disk(_status, desk, found, refused)
    return told


def _status(desk: Desk, found: list[Document], refused: list[FileStatus]) -> tuple[FileStatus, ...]:
    workspace = desk.workspace
    known = {each.path for each in found} | {each.path for each in refused}
    told = [*refused]
    for document in found:
        state = _status_of(workspace, document)
        if state is not None:
            told.append(state)
    told += [
        documents.new_file(path, workspace.links(path))
        for path in workspace.files(desk.hidden)
        if path not in known and documents.is_path(path, desk.pattern, desk.hidden)
    ]
    told += [
        FileStatus(path, "saved", 0, where)
        for path, where in workspace.saved()
        if documents.is_path(path, desk.pattern, desk.hidden)
    ]
    return tuple(sorted(told))


def _status_of(workspace: Workspace, document: Document) -> FileStatus | None:
    """Return what is the matter with the file of a document, None where nothing is."""
    try:
        state = _state(workspace, document)
    except OSError as problem:
        return documents.refused(document.path, document.version, problem)
    return None if state is None else FileStatus(document.path, state, document.version, "")


def _state(workspace: Workspace, document: Document) -> str | None:
    """Return what is the matter with the file of a document, None where nothing is."""
    want, seen = to_version(document), workspace.see(document.path, not document.exists)
    if seen.refuses(want):
        return EDITED if seen.found.data is None or seen.found.data != want.data else "behind"
    if want.version == 0 or seen.shows(want):
        return None
    done = seen.last is not None and seen.last.version == want.version
    return "missing" if done and seen.found.data is None else "behind"


# Edits made around the space


def adopt(desk: Desk, path: object, over: Document | None = None) -> Steps[Document]:
    """Commit what the file holds.  Returns the document."""
    key = desk.key(path)
    seen = yield from on_disk(desk.workspace.see, key.removeprefix(PREFIX))
    fresh = to_document((yield from load(desk, key)))
    data = seen.found.data
    removed = seen.found.kind == "absent" and seen.last is not None
    base = seen.last.version if seen.last is not None else 0
    if not seen.edited and not removed:
        return (yield from shown(desk, fresh))
    if seen.found.links > 1:
        raise Invalid(documents.LINKED.format(fresh.path))
    if data is None and not removed:
        raise Invalid(f"Can't commit {fresh.path!r}: it is no plain file on the disk.")
    if data == fresh.data:
        return (yield from bring(desk, fresh))
    record, includes = fresh.record if over is None else over.record, ""
    if over is None and fresh.version != base:
        data = yield from _rebased(desk, seen, fresh)
        includes = digest_of(seen.found.data)
        if data == fresh.data:
            return (yield from bring(desk, fresh, includes=includes))
    if data is not None and not record.exists:
        yield from check_place(desk, key)
    outcome = yield from _adopted(desk, record, data, seen.found.mode or fresh.mode)
    if isinstance(outcome, Conflict):
        raise edited(to_document(outcome.record), seen.found.data, base)
    return (yield from bring(desk, to_document(check(outcome)), includes=includes))


def _adopted(desk: Desk, record: Record, data: bytes | None, mode: int) -> Steps[Record | Refusal]:
    """Commit an edit over a record.  Returns its Record or a Refusal."""
    op_id = desk.op_id(None)
    if data is None:
        steps = write.write_one(desk.writer, lambda: write.plan_delete(desk.writer, record, op_id))
    else:
        value = to_value(data, mode)
        steps = write.write_one(
            desk.writer, lambda: write.plan_put(desk.writer, record, value, op_id, False)
        )
    return (yield from steps)


def _rebased(desk: Desk, seen: Seen, fresh: Document) -> Steps[bytes]:
    """Return the edit made to the fresh document.  Raises FileEdited where it cannot be."""
    last, data = seen.last, seen.found.data
    if desk.merge and last is not None and data is not None and fresh.data is not None:
        key = fresh.record.key
        snapshot = yield from read.load_at(desk.writer, last.position, None, (key,))
        if not isinstance(snapshot, Pruned):
            was = to_document(check(snapshot).records[key])
            if was.version == last.version and was.data is not None:
                both = merged(fresh.path, was.data, data, fresh.data)
                if both is not None:
                    return both
    raise edited(fresh, data, last.version if last is not None else None)


def adopt_all(desk: Desk) -> Steps[tuple[Document, ...]]:
    """Commit every edit and every new file.  Returns the documents; clashes are left as they
    are."""
    done = []
    for found in (yield from status(desk)):
        if found.state in (EDITED, "new"):
            try:
                done.append((yield from adopt(desk, found.path)))
            except FileConflict as refused:
                done.append(as_found(refused.document, EDITED))
            except (Forbidden, Held, IllegalTransition, Invalid, Unavailable):
                key = PREFIX + found.path  # one file that cannot be committed stops no other
                done.append(as_found(to_document((yield from load(desk, key))), EDITED))
    return tuple(done)


def discard(desk: Desk, path: object) -> Steps[Document]:
    """Set aside what the file holds and put the space's content in its place."""
    key = desk.key(path)
    document = to_document((yield from load(desk, key)))
    if document.version == 0:
        raise Invalid(f"{document.path!r} is not in the space: adopt the file, or remove it.")
    return (yield from bring(desk, document, force=True))


# Following


def head(desk: Desk) -> Steps[int]:
    """Return where the log ends."""
    snapshot = check((yield from read.load(desk.writer, ())))
    return snapshot.position


def catch_up(desk: Desk, position: int) -> Steps[tuple[tuple[Document, ...], int]]:
    """Bring what came after a position.  Returns the documents and the next position."""
    page = check((yield from read.log_page(PREFIX, position, _PAGE)))
    check(read.check_reached(position, page.head))
    keys = tuple(
        dict.fromkeys(
            entry.key
            for entry in page.entries
            if documents.is_path(entry.key.removeprefix(PREFIX), desk.pattern, desk.hidden)
        )
    )
    found: tuple[Document, ...] = ()
    if keys:
        snapshot = check((yield from read.load(desk.writer, keys)))
        for document in read_all(desk, snapshot.records.values())[0]:
            found = (*found, (yield from shown(desk, document)))
    return found, page.upto
