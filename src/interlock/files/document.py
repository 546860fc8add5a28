"""What a document is, how a space keeps it, and how its writes are refused."""

from __future__ import annotations

import inspect
import os
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from interlock.core import refusals
from interlock.core.document import FILES, MODES, check_document, check_path
from interlock.core.keys import DELETE, check_key, check_pattern, matches
from interlock.core.records import Record
from interlock.core.struct import Json
from interlock.errors import Conflict, Corrupt, Fault, Invalid, Refused, raise_refusal
from interlock.files.workspace import EDITED, PUBLISHED, STATE, Version

PREFIX = FILES
DEFAULT_MODE = 0o644
LINKED = (
    "{!r} is a hard link, perhaps of a file from elsewhere; replace it with a copy to commit it"
)
UNPUBLISHED, REFUSED = "unpublished", "refused"


@dataclass(frozen=True, eq=False)
class Document:
    """One document as it was read, or was written.

    `data` is None where it does not exist.  `state` says what of it is on the disk: `published`;
    `overtaken` (a newer version is, or will be); `edited` (the file was changed around the space,
    and was left as it is); `unpublished` (the disk refused).
    """

    path: str
    data: bytes | None
    version: int
    mode: int
    record: Record
    state: str = PUBLISHED

    @property
    def text(self) -> str:
        """The content as text, "" where it does not exist.  Raises Invalid where it is none."""
        try:
            return (self.data or b"").decode()
        except UnicodeDecodeError as problem:
            raise Invalid(f"{self.path!r} is no UTF-8 text: use .data.") from problem

    @property
    def exists(self) -> bool:
        """Whether it exists."""
        return self.data is not None

    @property
    def edited(self) -> bool:
        """Whether the file was changed around the space."""
        return self.state == EDITED

    @property
    def writer(self) -> str | None:
        """Who wrote this version."""
        return self.record.writer

    @property
    def at(self) -> datetime | None:
        """When it was written (store's clock)."""
        return self.record.at

    def __repr__(self) -> str:
        return f"<interlock.Document {self.path!r} version={self.version} {self.state}>"


class FileStatus(NamedTuple):
    """A document whose file is not what the space holds.

    `state`: `edited`, `missing`, `new` (a file that the space does not have), `behind` (not
    published yet), `saved` (an edit that was set aside, in the file `where`), `refused` (it is not
    put on this disk, or is not committed from it; `reason` says why).
    """

    path: str
    state: str
    version: int
    where: str
    reason: str = ""


class _Edited(refusals.Conflict):
    @property
    def next_step(self) -> str:
        return "Commit the edit with adopt(path), or set it aside with discard(path)."


class FileConflict(Conflict):
    """Somebody else has written the document.  `document` is the fresh one."""

    def __init__(self, outcome: refusals.Conflict, document: Document) -> None:
        super().__init__(outcome)
        self.document = document

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.outcome, self.document)


class FileEdited(FileConflict):
    """The file was changed around the space, and is left as it is.

    `outside` is what it holds now, None where it is no plain file.
    """

    def __init__(
        self, outcome: refusals.Conflict, document: Document, outside: bytes | None = None
    ) -> None:
        super().__init__(outcome, document)
        self.outside = outside

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.outcome, self.document, self.outside)


class Unpublished(Fault):
    """The write is committed, and the disk refused the file; `files.sync()` tries again."""

    def __init__(self, message: str, document: Document | None = None) -> None:
        super().__init__(message)
        self.document = document

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.document)


def checked_pattern(pattern: object) -> str:
    """Return a pattern of paths.  Raises Invalid."""
    wrong = check_pattern(pattern)
    if wrong is not None:
        raise_refusal(wrong)
    return str(pattern)


def key_of(path: object, pattern: str, hidden: bool) -> str:
    """Return the key of a document.

    Raises Invalid where the path is none, does not match, or is hidden and must not be.
    """
    if not isinstance(path, str):
        raise Invalid(f"A path is a str, not {type(path).__name__}: {path!r:.60}")
    wrong = check_key(PREFIX + path) or check_path(PREFIX + path)
    if wrong is not None:
        raise Invalid(f"Path {path!r:.100}: {wrong.message}")
    if os.sep != "/" and os.sep in path:
        raise Invalid(f"Path {path!r} has {os.sep!r}: separate folders by '/'.")
    if unicodedata.normalize("NFC", path) != path:
        raise Invalid(f"Path {path!r} is not in the Unicode normal form NFC.")
    if path.split("/")[0].lower() == STATE:
        raise Invalid(f"Path {path!r} is in {STATE}, which is reserved.")
    if not hidden and any(segment.startswith(".") for segment in path.split("/")):
        raise Invalid(
            f"Path {path!r} is hidden, and such files may run or be trusted (.git/hooks, .envrc). "
            "To allow them, open the files with hidden=True."
        )
    if not matches(pattern, path):
        raise Invalid(f"Path {path!r} is not among {pattern!r}, the files of this folder.")
    return PREFIX + path


def is_path(path: str, pattern: str, hidden: bool) -> bool:
    """Say whether a file that was found can be a document."""
    try:
        key_of(path, pattern, hidden)
    except Invalid:
        return False
    return True


def new_file(path: str, links: int) -> FileStatus:
    """Return the status of a file that the space does not have."""
    if links > 1:
        return FileStatus(path, REFUSED, 0, "", LINKED.format(path))
    return FileStatus(path, "new", 0, "")


def refused_file(path: str, version: int, problem: Exception) -> FileStatus:
    """Return the status of a file or a document that is passed by."""
    if isinstance(problem, OSError):
        why = problem.strerror or str(problem)
    else:
        why = problem.outcome.message if isinstance(problem, Refused) else str(problem)
    return FileStatus(path, REFUSED, version, "", why)


def to_bytes(content: object) -> bytes:
    """Return the bytes of text or bytes.  Raises Invalid."""
    if isinstance(content, bytes):
        return content
    if not isinstance(content, str):
        raise Invalid(f"content must be str or bytes, not {type(content).__name__}.")
    try:
        return content.encode()
    except UnicodeEncodeError as problem:
        raise Invalid(f"The text can't be written as UTF-8: {problem}") from problem


def to_value(data: bytes, mode: int) -> dict[str, Json]:
    """Return what the space holds of a content: text where it is text."""
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= MODES:
        raise Invalid(f"mode={mode!r} must be permissions such as 0o644.")
    if b"\0" not in data:
        try:
            return {"text": data.decode(), "mode": mode}
        except UnicodeDecodeError:
            pass
    return {"base64": b64encode(data).decode("ascii"), "mode": mode}


def from_value(key: str, value: Json) -> tuple[bytes, int]:
    """Return content and permissions out of a value.  Raises Corrupt."""
    wrong = check_document(key, value)
    if wrong is not None:
        raise Corrupt(wrong.message)
    content: bytes = value["text"].encode() if "text" in value else b64decode(value["base64"])
    return content, value["mode"]


def of_content(path: str, fn: Callable[[Any], Any]) -> Callable[[Json], Json]:
    """Return `fn`, which makes new content of a document's content, as a function of its value.

    `fn` gets text, or bytes that are no text, and "" where there is no document.
    """

    def content(value: Json) -> str | bytes:
        data, _ = (b"", 0) if value is None else from_value(path, value)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    def changed(before: Json, made: object) -> Json:
        if made is None or made is DELETE:
            return made  # what these mean is the same for every update
        mode = DEFAULT_MODE if before is None else int(before["mode"])
        return to_value(to_bytes(made), mode)

    def think(value: Json) -> Json:
        return changed(value, fn(content(value)))

    async def think_async(value: Json) -> Json:
        return changed(value, await fn(content(value)))

    return think_async if inspect.iscoroutinefunction(fn) else think


def to_document(record: Record) -> Document:
    """Return the document of a record.  Raises Corrupt."""
    path = record.key.removeprefix(PREFIX)
    if not record.exists:
        return Document(path, None, record.version, DEFAULT_MODE, record)
    data, mode = from_value(record.key, record.value)
    return Document(path, data, record.version, mode, record)


def to_version(document: Document, includes: str = "") -> Version:
    """Return what is to be on the disk of a document."""
    position = document.record.position
    return Version(document.version, position, document.mode, document.data, includes)


def as_found(document: Document, state: str) -> Document:
    """Return a document with what came of publishing it."""
    return replace(document, state=state)


def edited(document: Document, outside: bytes | None, base: int | None) -> FileEdited:
    """Return the refusal of a write to a file that was changed around the space."""
    message = (
        f"{document.path!r} was edited on the disk after version {base or 0} was published"
        if base
        else f"{document.path!r} is a file that this space did not publish"
    )
    refusal = _Edited(message, document.record.key, base, document.version, document.record)
    return FileEdited(refusal, document, outside)
