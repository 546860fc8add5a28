"""Where a store is: the file behind a URL, whether it may sit there, and its way to the disk."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from interlock.backends.redaction import redact_url
from interlock.errors import IncompatibleStore, Invalid, Unavailable, Unconfirmed

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
_MOUNTS = "/proc/self/mountinfo"


class Location(NamedTuple):
    """Where a store is: `path` is None in memory; `read_only` opens without writing; `permissions`
    are those of a file that is made."""

    path: Path | None
    read_only: bool
    permissions: int = 0o600

    def __str__(self) -> str:
        return "the in-memory store" if self.path is None else str(self.path)


def parse(url: str) -> Location:
    """Return the location of `sqlite://` (memory), `sqlite:///relative` or `sqlite:////absolute`.

    `?mode=ro` opens the file read-only; `?permissions=0660` are those of a file that is made.
    Raises Invalid.
    """
    if url.partition("://")[2][:1] not in ("", "/", "?"):
        raise Invalid(
            f"{redact_url(url)!r} names a host. Write sqlite:///relative.db "
            "or sqlite:////absolute.db (three or four slashes)."
        )
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    mode, permissions = options.pop("mode", "rwc"), options.pop("permissions", "0600")
    if options or mode not in ("ro", "rwc"):
        unknown = f"mode={mode!r}" if mode not in ("ro", "rwc") else next(iter(options))
        raise Invalid(
            f"{url.partition('?')[0]!r} has an unknown option: {unknown}. "
            "There are '?mode=ro' and '?permissions=0660'."
        )
    if not re.fullmatch("0?6[046][046]", permissions):
        raise Invalid(
            f"permissions={permissions!r} must be an octal file mode from 0600 to 0666, like 0660."
        )
    name = unquote(parts.path)
    if name in ("", "/"):
        return Location(None, False)
    if "\0" in name:
        raise Invalid(f"{url!r} contains a NUL character.")
    return Location(Path(os.path.abspath(name[1:])), mode == "ro", int(permissions, 8))


def check(place: Location) -> None:
    """Refuse a folder, a missing folder, a file under two names, and a network file system, where
    they can be detected."""
    path = place.path
    if path is None:
        return
    if path.is_dir():
        raise Invalid(f"{path} is a folder. Name a file in it, such as {path / 'team.db'}.")
    if not path.parent.is_dir():
        raise Invalid(f"The folder {path.parent} does not exist. Create it first.")
    if place.read_only and not path.exists():
        raise Invalid(f"{path} does not exist, so it can't be opened read-only.")
    if path.is_file():
        if 0 < path.stat().st_size < _SMALLEST:
            raise IncompatibleStore(f"{path} is not an Interlock store. Name another file.")
        identity(path)
    if is_mount_point(path):
        raise IncompatibleStore(
            f"{path} is mounted as a file, without its write-ahead log: commits would be lost. "
            "Mount its folder instead."
        )
    kind = file_system(path.parent)
    if kind in _NETWORK or kind in _NETWORK_FUSE:
        raise IncompatibleStore(
            f"{path} is on a network file system ({kind}), where SQLite's locks don't work. "
            "Use a local disk, or PostgreSQL or Redis for several hosts."
        )


def is_settled(path: Path) -> bool:
    """Whether a file holds everything and nobody can write beside it here: a read-only mount, or
    the folder of another user.  Who has the store open for writing has a write-ahead log there."""
    folder, log = path.resolve().parent, Path(f"{path.resolve()}-wal")
    return not os.access(folder, os.W_OK) and not log.exists()


def make(place: Location) -> None:
    """Make an empty file with its permissions where there is none.  SQLite gives the write-ahead
    log and the shared memory those of the file."""
    if place.path is None or place.read_only:
        return
    with suppress(OSError):  # there is one already; or SQLite says better why it cannot be made
        path = place.path.resolve()
        if hasattr(os, "mknod") and sys.platform == "linux":
            os.mknod(path, 0o600)  # opens nothing: closing it would drop SQLite's locks
        else:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        path.chmod(place.permissions)  # whatever the umask is


def identity(path: Path | str, known: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return what tells a file from another that has its name later.

    SQLite names the write-ahead log by the file: who opens the same file under another name has
    another log, and each loses what the other commits.  Raises IncompatibleStore where the file has
    several names, and Unavailable where it is not the one `known` any more.
    """
    try:
        found = os.stat(path)
    except OSError as problem:
        _moved(path, problem)
    if known is not None and (found.st_dev, found.st_ino) != known:
        _moved(path)
    if found.st_nlink > 1:
        raise IncompatibleStore(
            f"{path} has {found.st_nlink} names (hard links); opened under two of them it loses "
            "commits. Remove the other names, or copy the file."
        )
    return found.st_dev, found.st_ino


def _moved(path: Path | str, problem: OSError | None = None) -> NoReturn:
    raise Unavailable(
        f"{path} was moved, replaced or deleted while it was open. Nothing was written. "
        "Close the space and open it again."
    ) from problem


def is_mount_point(path: Path, mounts: str = _MOUNTS) -> bool:
    """Whether something is mounted at this very file."""
    target = str(path.resolve())
    return any(point == target for point, _ in _mounted(mounts))


def sync_log(place: Location) -> None:
    """Bring everything that is in the write-ahead log to the disk.  Raises Unconfirmed.

    What is there no longer was synced by the checkpoint that moved it.  (The file of the store
    itself must not be opened here: closing it would drop SQLite's locks.)
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


def file_system(folder: Path, mounts: str = _MOUNTS) -> str | None:
    """Return the type of the file system that holds `folder`, None where it cannot be told."""
    target, best, kind = str(folder.resolve()), -1, None
    for point, each in _mounted(mounts):
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, kind = len(point), each
    return kind


def _mounted(mounts: str) -> Iterator[tuple[str, str]]:
    """Yield each mount point and the type of its file system; nothing where Linux does not tell."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields, _, source = line.partition(" - ")
        point, kind = fields.split()[4:5], source.split()[:1]
        if point and kind:
            yield re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), point[0]), kind[0]
