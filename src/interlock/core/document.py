"""What the keys under `files/` hold: documents, which `space.files` shows as files on disks.

Whoever writes such a key writes a file on every disk that follows, so its name, its value and its
place are checked here, for every writer.  A document cannot be a file where another one needs a
folder.  What that demands follows from the key alone, so a commit expects it unread.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from types import MappingProxyType

from interlock.core.plan import Expect, Plan, Scanned
from interlock.core.refusals import Conflict, Invalid
from interlock.core.struct import Json

FILES = "files/"
NOTHING_GONE: Mapping[str, Expect] = MappingProxyType({})
MAX_SEGMENT_BYTES = 240  # file systems take 255; what is set aside gets a longer name
MODES = 0o777  # neither setuid, nor setgid, nor the sticky bit


def check_document(key: str, value: Json) -> Invalid | None:
    """Return why `value` cannot be the document at `key`, or why that is no name of a file."""
    wrong = check_path(key)
    if wrong is not None:
        return wrong
    if not isinstance(value, dict) or value.keys() not in ({"text", "mode"}, {"base64", "mode"}):
        return _malformed(key, 'it is {"text": ..., "mode": ...} or {"base64": ..., "mode": ...}')
    mode = value["mode"]
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= MODES:
        return _malformed(key, f"mode {mode!r:.40} is not a number of permissions such as 0o644")
    content = value["text"] if "text" in value else value["base64"]
    if not isinstance(content, str):
        return _malformed(key, "its content is no string")
    if "base64" in value:
        try:
            base64.b64decode(content, validate=True)
        except ValueError:
            return _malformed(key, "its content is no base64")
    return None


def check_path(key: str) -> Invalid | None:
    """Return why the rest of a key under `files/` is not the path of a file."""
    for segment in key.removeprefix(FILES).split("/"):
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            return Invalid(
                f"{key!r:.100}: the name {segment!r:.40} has {len(segment.encode())} bytes; "
                f"the limit is {MAX_SEGMENT_BYTES}.",
                key,
            )
    return None


def folders_of(key: str) -> tuple[str, ...]:
    """Return the keys at which no document can be beside the one at `key`, which needs a folder
    there; none if `key` is not of a document."""
    if not key.startswith(FILES):
        return ()
    return tuple(key[:at] for at in range(len(FILES), len(key)) if key[at] == "/")


def in_the_way(key: str, folder: str) -> Invalid:
    """The refusal of two documents of which one is a file where the other needs a folder."""
    path, where = key.removeprefix(FILES), folder.removeprefix(FILES)
    return Invalid(f"Document {path!r} needs a folder {where!r}, but that is a document.", key)


def expected_place(
    key: str, gone: Mapping[str, Expect] = NOTHING_GONE
) -> tuple[tuple[Expect, ...], tuple[Scanned, ...]]:
    """What the commit of a new document expects of its place: no document where it needs a folder,
    and none below it, but for those that the same plan deletes (`gone`, as it expects them)."""
    if not key.startswith(FILES):
        return (), ()
    folders = tuple(Expect(each, None, None) for each in folders_of(key) if each not in gone)
    inside = f"{key}/"
    members = tuple(
        (each, expected.version or 0, expected.epoch or 0)
        for each, expected in sorted(gone.items())
        if each.startswith(inside)
    )
    return folders, (Scanned(inside, members),)


def misplaced(plan: Plan, conflict: Conflict) -> Invalid | None:
    """Return the refusal of a new document whose place was found taken at the commit."""
    for write in plan.writes:
        if conflict.expected is None and conflict.key in folders_of(write.key):
            return in_the_way(write.key, conflict.key)
        if conflict.prefix == f"{write.key}/" and conflict.record.exists:
            return in_the_way(conflict.key, write.key)
    return None


def _malformed(key: str, why: str) -> Invalid:
    return Invalid(f"{key!r:.100} needs a document: {why}", key)
