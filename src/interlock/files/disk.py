"""Single steps on the disk: each is one that a process may be killed or stopped before or after.

Two files change places in one step with `renameat2` (Linux) or `renameatx_np` (macOS).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

from interlock.core.document import MODES

PLAIN, ABSENT, BLOCKED = "plain", "absent", "blocked"  # blocked: a folder on the way is a file
EMPTY_FOLDER, FOLDER, OTHER = "empty folder", "folder", "other"
STEPS = ("mark", "write", "rename", "exchange", "place", "remove", "remove_folder", "look", "names")
_NO_REPLACE, _EXCHANGE = 1, 2  # flags of renameat2
_DARWIN = {_NO_REPLACE: 4, _EXCHANGE: 2}
_SYSCALLS = {"x86_64": 316, "aarch64": 276}
_AT_FDCWD = -2 if sys.platform == "darwin" else -100


class Found(NamedTuple):
    """What is at the place of a file: where it is a plain file, its bytes, its permissions, and how
    many names it has."""

    kind: str
    data: bytes | None = None
    mode: int = 0
    links: int = 1


def mark(path: str) -> None:
    """Make an empty file, unless it is there."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def write(path: str, data: bytes, mode: int) -> None:
    """Write a new file and see it on the disk."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(file, "wb") as out:
        out.write(data)
        out.flush()
        os.fchmod(file, mode & MODES)
        os.fsync(file)


def rename(source: str, target: str) -> None:
    """Give a file another name."""
    os.rename(source, target)


def exchange(source: str, folder: int, name: str) -> None:
    """Let a file and the one that is at its place change places.  Raises FileNotFoundError."""
    _renamed(source, folder, name, _EXCHANGE)


def place(source: str, folder: int, name: str) -> None:
    """Put a file where nothing is.  Raises FileNotFoundError, FileExistsError."""
    _renamed(source, folder, name, _NO_REPLACE)


def remove(path: str) -> None:
    """Remove a file that may be gone."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_folder(folder: int, name: str) -> None:
    """Remove an empty folder; do nothing where there is anything else."""
    with suppress(FileNotFoundError, NotADirectoryError):
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def look(name: str, folder: int | None = None) -> Found:
    """Return what is at a place.  A link is not followed."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        return Found(ABSENT)
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            return Found(OTHER)
        raise
    try:
        status = os.fstat(file)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            return Found(FOLDER if os.listdir(file) else EMPTY_FOLDER)
        if not stat.S_ISREG(mode):
            return Found(OTHER)
        with open(file, "rb", closefd=False) as content:
            return Found(PLAIN, content.read(), mode & MODES, status.st_nlink)
    finally:
        os.close(file)


def check_own(path: str) -> None:
    """Raise OSError where a folder of the library's own is a link, or no folder."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise OSError(errno.ENOTDIR, "it is a link or a file, not a folder; remove it", path)


def names(folder: str) -> list[str]:
    """Return the names in a folder; none where it is not there."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def flush(folder: str | int) -> None:
    """See the names in a folder on the disk."""
    if isinstance(folder, int):
        os.fsync(folder)
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def enter(root: str, folders: list[str], make: bool) -> int:
    """Open a folder below `root`, following no link.  Raises FileNotFoundError, OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    at = os.open(root, flags)
    try:
        for name in folders:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=at)
            below = os.open(name, flags | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
    except BaseException:
        os.close(at)
        raise
    return at


def _renamed(source: str, folder: int, name: str, how: int) -> None:
    if _call()(_AT_FDCWD, os.fsencode(source), folder, os.fsencode(name), how):
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise OSError(number, "this file system cannot exchange two files in one step", name)
        raise OSError(number, os.strerror(number), name)


@cache
def _call() -> Callable[..., int]:
    """Return the function of the system that renames with flags."""
    system = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "darwin":
        swap = system.renameatx_np
        return lambda at, old, to, new, how: swap(at, old, to, new, _DARWIN[how])
    if hasattr(system, "renameat2"):
        return system.renameat2
    return syscall(system)


def syscall(system: ctypes.CDLL) -> Callable[..., int]:
    """Return `renameat2` for a C library that does not have it."""
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange two files in one step")
    return lambda *arguments: system.syscall(number, *arguments)
