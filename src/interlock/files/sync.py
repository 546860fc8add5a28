"""The disk and the space: what differs, and making it the same; edits made around the space."""

from __future__ import annotations

from contextlib import suppress

from interlock.core import read, write
from interlock.core.records import Record
from interlock.core.refusals import Conflict, Pruned, Refusal
from interlock.core.requests import Steps
from interlock.errors import Forbidden, Held, IllegalTransition, Invalid, Unavailable
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
from interlock.files.document import (
    LINKED,
    PREFIX,
    Document,
    FileConflict,
    FileStatus,
    Unpublished,
    as_found,
    edited,
    is_path,
    new_file,
    refused_file,
    to_document,
    to_value,
    to_version,
)
from interlock.files.merge import merged
from interlock.files.workspace import EDITED, Observation, Workspace, digest_of

_PAGE = 1000  # entries


def opened(context: FilesContext) -> Steps[None]:
    """Finish interrupted publications, once."""
    if not context.opened:
        with suppress(Unpublished):  # whoever writes, or calls sync, gets the error
            yield from sync(context)


def sync(context: FilesContext, force: bool = False) -> Steps[tuple[Document, ...]]:
    """See that the disk is what the space holds.

    Returns the documents whose file was changed, or is left as it was edited.
    """
    context.opened = True
    before = yield from on_disk(_not_shown, context.workspace, (yield from everything(context))[0])
    found = list((yield from bring_all(context, before, force)))
    if context.outside == ADOPT and not force:
        found = [each for each in found if not each.edited]
        found += yield from adopt_all(context)
    return tuple(found)


def follow(context: FilesContext) -> Steps[tuple[Document, ...]]:
    """Sync; what the disk refuses has the state `unpublished`, and does not stop the others."""
    found, _ = yield from everything(context)
    try:
        return (yield from sync(context))
    except Unpublished:
        done = []
        for document in (yield from on_disk(_not_shown, context.workspace, found)):
            done.append((yield from shown(context, document)))
        return tuple(done)


def rebuild(context: FilesContext) -> Steps[tuple[Document, ...]]:
    """Make the disk what the space holds; what was edited is set aside.  Returns the documents."""
    paths = yield from on_disk(context.workspace.paths)
    highest = yield from on_disk(_highest, context.workspace, paths)
    found, _ = yield from everything(context)
    yield from on_disk(_step_back, context.workspace, highest, found)
    return (yield from sync(context, force=True))


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


def everything(context: FilesContext) -> Steps[tuple[list[Document], list[FileStatus]]]:
    """Return the documents of the space, and those deleted that were once published here; then
    those that cannot be on this disk."""
    snapshot = check((yield from read.load(context.writer, (), (PREFIX,))))
    records = {record.key: record for record in snapshot.scans[PREFIX]}
    paths = yield from on_disk(context.workspace.paths)
    recorded = [path for path in paths if is_path(path, context.pattern, context.hidden)]
    keys = tuple(key for key in (PREFIX + path for path in recorded) if key not in records)
    if keys:
        gone = check((yield from read.load(context.writer, keys)))
        records |= gone.records
    return read_all(context, (records[key] for key in sorted(records)))


def _not_shown(workspace: Workspace, found: list[Document]) -> list[Document]:
    """Return the documents whose place does not show them."""
    return [each for each in found if _status_of(workspace, each) is not None]


def status(context: FilesContext) -> Steps[tuple[FileStatus, ...]]:
    """Return what of the disk is not what the space holds."""
    found, refused = yield from everything(context)
    return (yield from on_disk(_status, context, found, refused))


def _status(
    context: FilesContext, found: list[Document], refused: list[FileStatus]
) -> tuple[FileStatus, ...]:
    workspace = context.workspace
    recorded = {each.path for each in found} | {each.path for each in refused}
    report = [*refused]
    for document in found:
        state = _status_of(workspace, document)
        if state is not None:
            report.append(state)
    report += [
        new_file(path, workspace.links(path))
        for path in workspace.files(context.hidden)
        if path not in recorded and is_path(path, context.pattern, context.hidden)
    ]
    report += [
        FileStatus(path, "saved", 0, where)
        for path, where in workspace.saved()
        if is_path(path, context.pattern, context.hidden)
    ]
    return tuple(sorted(report))


def _status_of(workspace: Workspace, document: Document) -> FileStatus | None:
    """Return what is the matter with the file of a document, None where nothing is."""
    try:
        state = _state(workspace, document)
    except OSError as problem:
        return refused_file(document.path, document.version, problem)
    return None if state is None else FileStatus(document.path, state, document.version, "")


def _state(workspace: Workspace, document: Document) -> str | None:
    """Return what is the matter with the file of a document, None where nothing is."""
    want, observed = to_version(document), workspace.see(document.path, not document.exists)
    if observed.refuses(want):
        return (
            EDITED if observed.found.data is None or observed.found.data != want.data else "behind"
        )
    if want.version == 0 or observed.shows(want):
        return None
    done = observed.last is not None and observed.last.version == want.version
    return "missing" if done and observed.found.data is None else "behind"


# Edits made around the space


def adopt(context: FilesContext, path: object, over: Document | None = None) -> Steps[Document]:
    """Commit what the file holds.  Returns the document."""
    key = context.key(path)
    observed = yield from on_disk(context.workspace.see, key.removeprefix(PREFIX))
    fresh = to_document((yield from load(context, key)))
    data = observed.found.data
    removed = observed.found.kind == "absent" and observed.last is not None
    base = observed.last.version if observed.last is not None else 0
    if not observed.edited and not removed:
        return (yield from shown(context, fresh))
    if observed.found.links > 1:
        raise Invalid(LINKED.format(fresh.path))
    if data is None and not removed:
        raise Invalid(f"Can't commit {fresh.path!r}: it is no plain file on the disk.")
    if data == fresh.data:
        return (yield from bring(context, fresh))
    record, includes = fresh.record if over is None else over.record, ""
    if over is None and fresh.version != base:
        data = yield from _rebased(context, observed, fresh)
        includes = digest_of(observed.found.data)
        if data == fresh.data:
            return (yield from bring(context, fresh, includes=includes))
    if data is not None and not record.exists:
        yield from check_place(context, key)
    outcome = yield from _adopted(context, record, data, observed.found.mode or fresh.mode)
    if isinstance(outcome, Conflict):
        raise edited(to_document(outcome.record), observed.found.data, base)
    return (yield from bring(context, to_document(check(outcome)), includes=includes))


def _adopted(
    context: FilesContext, record: Record, data: bytes | None, mode: int
) -> Steps[Record | Refusal]:
    """Commit an edit over a record.  Returns its Record or a Refusal."""
    op_id = context.op_id(None)
    if data is None:
        steps = write.write_one(
            context.writer, lambda: write.plan_delete(context.writer, record, op_id)
        )
    else:
        value = to_value(data, mode)
        steps = write.write_one(
            context.writer, lambda: write.plan_put(context.writer, record, value, op_id, False)
        )
    return (yield from steps)


def _rebased(context: FilesContext, observed: Observation, fresh: Document) -> Steps[bytes]:
    """Return the edit made to the fresh document.  Raises FileEdited where it cannot be."""
    last, data = observed.last, observed.found.data
    if context.merge and last is not None and data is not None and fresh.data is not None:
        key = fresh.record.key
        snapshot = yield from read.load_at(context.writer, last.position, None, (key,))
        if not isinstance(snapshot, Pruned):
            was = to_document(check(snapshot).records[key])
            if was.version == last.version and was.data is not None:
                both = merged(fresh.path, was.data, data, fresh.data)
                if both is not None:
                    return both
    raise edited(fresh, data, last.version if last is not None else None)


def adopt_all(context: FilesContext) -> Steps[tuple[Document, ...]]:
    """Commit every edit and every new file.  Returns the documents; clashes are left as they
    are."""
    done = []
    for found in (yield from status(context)):
        if found.state in (EDITED, "new"):
            try:
                done.append((yield from adopt(context, found.path)))
            except FileConflict as refused:
                done.append(as_found(refused.document, EDITED))
            except (Forbidden, Held, IllegalTransition, Invalid, Unavailable):
                key = PREFIX + found.path  # one file that cannot be committed stops no other
                done.append(as_found(to_document((yield from load(context, key))), EDITED))
    return tuple(done)


def discard(context: FilesContext, path: object) -> Steps[Document]:
    """Set aside what the file holds and put the space's content in its place."""
    key = context.key(path)
    document = to_document((yield from load(context, key)))
    if document.version == 0:
        raise Invalid(f"{document.path!r} is not in the space: adopt the file, or remove it.")
    return (yield from bring(context, document, force=True))


# Following


def head(context: FilesContext) -> Steps[int]:
    """Return where the log ends."""
    snapshot = check((yield from read.load(context.writer, ())))
    return snapshot.position


def catch_up(context: FilesContext, position: int) -> Steps[tuple[tuple[Document, ...], int]]:
    """Bring what came after a position.  Returns the documents and the next position."""
    page = check((yield from read.log_page(PREFIX, position, _PAGE)))
    check(read.check_reached(position, page.head))
    keys = tuple(
        dict.fromkeys(
            entry.key
            for entry in page.entries
            if is_path(entry.key.removeprefix(PREFIX), context.pattern, context.hidden)
        )
    )
    found: tuple[Document, ...] = ()
    if keys:
        snapshot = check((yield from read.load(context.writer, keys)))
        for document in read_all(context, snapshot.records.values())[0]:
            found = (*found, (yield from shown(context, document)))
    return found, page.upto
