"""Where a store is: the file behind a URL, whether it may sit there, and its way to the disk."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from interlock.errors import IncompatibleStore, Invalid, Unconfirmed

# File systems on which SQLite's locks, or its shared memory, do not hold between hosts.
_NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "ncpfs",
)
_NETWORK_FUSE = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse")


_SMALLEST = 512  # bytes of a database; SQLite takes a shorter file for an empty one, to overwrite


class Place(NamedTuple):
    """A store's place: `path` is None in memory; `read_only` opens without writing."""

    path: Path | None
    read_only: bool

    def __str__(self) -> str:
        return "the in-memory store" if self.path is None else str(self.path)


def parse(url: str) -> Place:
    """Return the place of `sqlite://` (memory), `sqlite:///relative` or `sqlite:////absolute`.

    `?mode=ro` opens the file read-only.  Raises Invalid.
    """
    parts = urlsplit(url)
    if parts.netloc:
        raise Invalid(
            f"{url!r} names the host {parts.netloc!r}; a file is sqlite:///relative.db "
            "or sqlite:////absolute.db (three or four slashes)"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    mode = options.pop("mode", "rwc")
    if options or mode not in ("ro", "rwc"):
        raise Invalid(f"{url!r} has an option that is not known; '?mode=ro' is the only one")
    name = unquote(parts.path)
    if name in ("", "/"):
        return Place(None, False)
    if "\0" in name:
        raise Invalid(f"{url!r} holds a NUL character")
    return Place(Path(os.path.abspath(name[1:])), mode == "ro")


def check(place: Place) -> None:
    """Refuse a folder, a missing folder, and a network file system where it can be detected."""
    path = place.path
    if path is None:
        return
    if path.is_dir():
        raise Invalid(
            f"{path} is a folder, not a file; name a file in it, such as {path / 'team.db'}"
        )
    if not path.parent.is_dir():
        raise Invalid(f"the folder {path.parent} does not exist; make it first")
    if place.read_only and not path.exists():
        raise Invalid(f"{path} does not exist, so it cannot be opened read-only")
    if path.is_file() and 0 < path.stat().st_size < _SMALLEST:
        raise IncompatibleStore(f"{path} is not an Interlock store; name another file")
    kind = file_system(path.parent)
    if kind in _NETWORK or kind in _NETWORK_FUSE:
        raise IncompatibleStore(
            f"{path} is on a network file system ({kind}), where SQLite's locks do not hold; "
            "use a local disk, or PostgreSQL or Redis for several hosts"
        )


def sync_log(place: Place) -> None:
    """Bring everything that is in the write-ahead log to the disk.  Raises Unconfirmed.

    What is there no longer was synced by the checkpoint that moved it.  (The file of the store itself
    must not be opened here: closing it would drop SQLite's locks.)
    """
    if place.path is None:
        return
    try:
        log = os.open(
            os.path.realpath(place.path) + "-wal", os.O_RDONLY if place.read_only else os.O_RDWR
        )
        try:
            os.fsync(log)
        finally:
            os.close(log)
    except FileNotFoundError:
        return
    except OSError as problem:
        raise Unconfirmed(f"applied, but not synced to the disk: {problem}") from problem


def file_system(folder: Path, mounts: str = "/proc/self/mounts") -> str | None:
    """Return the type of the file system that holds `folder`, None where it cannot be told."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    target, best, kind = str(folder.resolve()), -1, None
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[1])
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), fields[2]
    return kind
