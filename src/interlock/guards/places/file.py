"""Files that other programs read and write: JSON, TOML, text or bytes.

**One at a time.**  Who replaces a file holds a lock (`flock`) on a file beside it, which ends with
its process, however that ends.

**Whoever writes around the lock.**  The new file changes places with the old one in one step, so
the old one is still there to be compared: one that nobody had seen is put back, and the write is
refused.  What remains possible: a program that writes into the old file while it is replaced, and
not into a new one that it renames, may write to what is no more there.

**Whoever is killed** leaves the file as it was or as it was to be, and perhaps the other one of the
two beside it, under a name that says what it was to be.  The next one to hold the lock looks at it.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from datetime import time as time_of_day
from errno import EINVAL, ENOSYS, ENOTSUP
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from interlock.core.keys import decode
from interlock.core.struct import Json
from interlock.errors import Invalid, Unavailable
from interlock.extras import needs
from interlock.files import disk
from interlock.files.merge import indent, merged_text
from interlock.guards.place import ABSENT, Alone, Change, Changed, Found, Stored

T = TypeVar("T")

FORMATS = {".json": "json", ".toml": "toml", ".md": "text", ".txt": "text", ".rst": "text"}
_MODE = 0o644  # of a new file
_PATIENCE = 20.0  # seconds that somebody who lives may keep the lock
_TORN = 0.02  # seconds after which a file that cannot be read is looked at again
_MARK = ".interlock-"


class Files(Alone):
    """A folder whose files are keys, or one file whose name is the only key."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        name: str,
        kind: str | None,
        merge: bool,
        asynchronous: bool,
    ) -> None:
        where = Path(path).resolve()
        self.name = name
        self.texts = False
        self.asynchronous = asynchronous
        self._only = None if where.is_dir() else where.name
        self._root = where if self._only is None else where.parent
        self._kind = kind
        self._merge = merge
        if kind is not None and kind not in (*FORMATS.values(), "bytes"):
            raise Invalid(f"kind={kind!r:.40} must be 'json', 'toml', 'text' or 'bytes'.")
        if not self._root.is_dir():
            raise Invalid(f"{str(self._root)!r} is no folder.")

    def check_key(self, key: str) -> str | None:
        """Return why `key` names no file here, or None."""
        parts = key.split("/")
        if self._only is not None and key != self._only:
            return f"This guard is of one file: its key is {self._only!r}."
        if "\0" in key or any(part in ("", ".", "..") or _MARK in part for part in parts):
            return f"{key!r} is no path below the guard's folder."
        return None

    async def load(self, key: str) -> Found:
        """Read the file."""
        return await self._in_thread(self._load, key)

    async def replace(self, change: Change) -> object | Changed:
        """Compare and replace the file, holding its lock."""
        return await self._in_thread(self._replace, change)

    async def _in_thread(self, fn: Callable[[Any], T], argument: object) -> T:
        try:
            return await asyncio.to_thread(fn, argument) if self.asynchronous else fn(argument)
        except OSError as problem:
            raise Unavailable(f"{problem}. Nothing was written.") from problem

    def _load(self, key: str) -> Found:
        path = self._root / key
        there = _look(path)
        try:
            return self._found(key, there.data)
        except Invalid:
            time.sleep(_TORN)  # it may have been half written
            again = _look(path)
            if again.data == there.data:
                raise
            return self._found(key, again.data)

    def _replace(self, change: Change) -> object | Changed:
        path = self._root / change.key
        if change.body is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.is_dir():
            return Changed(Found(ABSENT, ABSENT))
        with _locked(path):
            _recover(path)
            there = _look(path)
            old: bytes | None = None if change.tag is ABSENT else change.tag
            if change.body is None:
                new, value = None, None
            else:
                value = decode(change.body)
                new = Stored(self._text(change.key, value, there.data))
            if there.data != old:
                merged = self._merged(change.key, old, new, there.data)
                if merged is None:
                    return self._changed(change.key, there.data)
                old, new = there.data, merged
            seen = _exchange(path, old, new, there.mode or _MODE)
            if seen is not None:
                return self._changed(change.key, seen.data)
        return ABSENT if new is None else self._found(change.key, new)

    def _changed(self, key: str, data: bytes | None) -> Changed:
        try:
            return Changed(self._found(key, data))
        except Invalid:  # it may be half written: it is loaded
            return Changed()

    def _merged(
        self, key: str, base: bytes | None, mine: bytes | None, theirs: bytes | None
    ) -> Stored | None:
        """Return both changes of a text; None where they touch, or where that was not asked for."""
        if not self._merge or self._format(key) != "text" or None in (base, mine, theirs):
            return None
        try:
            text = merged_text(*((each or b"").decode() for each in (base, mine, theirs)))
        except UnicodeDecodeError:
            return None
        return None if text is None else Stored(text.encode())

    def _format(self, key: str) -> str:
        return self._kind or FORMATS.get(Path(key).suffix.lower(), "bytes")

    def _found(self, key: str, data: bytes | None) -> Found:
        if data is None:
            return Found(ABSENT, ABSENT)
        kind, value = self._format(key), None
        try:
            if kind == "json":
                value = json.loads(data)
            elif kind == "toml":
                value = _plain(tomllib.loads(data.decode()))
            elif kind == "text":
                value = data.decode()
            else:
                value = {"base64": base64.b64encode(data).decode()}
        except (ValueError, RecursionError) as problem:
            raise Invalid(f"{key!r} is no file of {kind}: {problem}") from problem
        return Found(Stored(data), value)

    def _text(self, key: str, value: Json, before: bytes | None) -> bytes:
        """Return what is to be in the file, in the style that it has."""
        kind = self._format(key)
        try:
            if kind == "json":
                style = "{\n  \n}\n" if before is None else before.decode(errors="replace")
                text = json.dumps(value, ensure_ascii=False, indent=indent(style))
                return (text + "\n" * style.endswith("\n")).encode()
            if kind == "toml":
                with needs("tomli-w", "toml"):
                    import tomli_w
                old = {} if before is None else tomllib.loads(before.decode())
                return tomli_w.dumps(_restored(value, old)).encode()
            if kind == "text":
                return bytes(value.encode())
            return base64.b64decode(value["base64"], validate=True)
        except (TypeError, ValueError, KeyError, AttributeError) as problem:
            wanted = {"text": "a str", "toml": "an object without null"}
            what = wanted.get(kind, '{"base64": "..."}')
            raise Invalid(
                f"{key!r} takes {what}, as it is a file of {kind}: {problem}"
            ) from problem


def _look(path: Path) -> disk.Found:
    """Return what is at a path.  Raises Invalid where it is no file."""
    try:
        there = disk.look(str(path))
    except NotADirectoryError:
        there = disk.Found(disk.ABSENT)
    if there.kind not in (disk.PLAIN, disk.ABSENT):
        raise Invalid(f"{str(path)!r} is a link, a folder or a device, and no file.")
    return there


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}{_MARK}{what}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which ends with this process.  Raises Unavailable."""
    lock = os.open(
        _beside(path, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666
    )
    try:
        began, pause = time.monotonic(), 0.0005
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - began > _PATIENCE:
                    raise Unavailable(
                        f"Another process has had the lock of {str(path)!r} for {_PATIENCE:g} s. "
                        "Nothing was written."
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
        yield
    finally:
        os.close(lock)


def _exchange(path: Path, old: bytes | None, new: bytes | None, mode: int) -> disk.Found | None:
    """Let `new` take the place of `old`; return what is there if that is something else."""
    aside = _beside(path, f"{_digest(old)}-{_digest(new)}")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if new is not None:
            part = _beside(path, "part")
            disk.remove(str(part))
            disk.write(str(part), new, mode)
            os.rename(part, aside)
        try:
            if new is None:
                os.rename(path, aside)
            elif old is None:
                disk.place(str(aside), folder, path.name)
            else:
                _swap(aside, folder, path)
        except (FileNotFoundError, FileExistsError):
            disk.remove(str(aside))
            return _look(path)
        if old is not None:
            displaced = disk.look(str(aside))
            if displaced.data != old:
                _put_back(path, aside, folder, new)
                return _look(path)
            disk.remove(str(aside))
        disk.flush(folder)
        return None
    finally:
        os.close(folder)


def _swap(aside: Path, folder: int, path: Path) -> None:
    try:
        disk.exchange(str(aside), folder, path.name)
    except OSError as problem:
        if problem.errno not in (EINVAL, ENOSYS, ENOTSUP):
            raise
        os.rename(path, _beside(path, "part"))  # this file system cannot: for a moment, no file
        os.rename(aside, path)
        os.rename(_beside(path, "part"), aside)


def _put_back(path: Path, aside: Path, folder: int, new: bytes | None) -> None:
    """Return what was displaced to its place, unless something else has come there meanwhile."""
    try:
        if new is None:
            disk.place(str(aside), folder, path.name)
            return None
        _swap(aside, folder, path)
    except (FileNotFoundError, FileExistsError):
        return _keep(path, aside)
    if disk.look(str(aside)).data == new:
        disk.remove(str(aside))
    else:  # somebody wrote over ours: that is the newest
        _swap(aside, folder, path)
        _keep(path, aside)
    return None


def _recover(path: Path) -> None:
    """Finish what somebody who was killed has left beside a file; the caller has the lock."""
    prefix = f".{path.name}{_MARK}"
    for name in disk.names(str(path.parent)):
        old, _, new = name.removeprefix(prefix).partition("-")
        if not name.startswith(prefix) or not new or old == "kept":
            continue
        aside = path.with_name(name)
        left, there = disk.look(str(aside)), disk.look(str(path))
        if _digest(left.data) in (old, new):  # it was not placed yet, or was to be replaced
            disk.remove(str(aside))
        elif _digest(there.data) == new:  # nobody had seen what it replaced
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _put_back(path, aside, folder, there.data)
            finally:
                os.close(folder)
        else:
            _keep(path, aside)


def _keep(path: Path, aside: Path) -> None:
    """Keep beside a file what nobody has seen, and what could not be put back."""
    os.rename(aside, _beside(path, f"kept-{_digest(disk.look(str(aside)).data)}"))


def _digest(data: bytes | None) -> str:
    return "none" if data is None else sha256(data).hexdigest()[:32]


def _plain(value: Any) -> Json:
    """Return what TOML has as JSON has it: times as texts."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, date | datetime | time_of_day) else value


def _restored(value: Json, before: Any) -> Any:
    """Return JSON as TOML has it: a text that stands for a time that was there is that time."""
    if isinstance(value, dict):
        old = before if isinstance(before, dict) else {}
        return {name: _restored(each, old.get(name)) for name, each in value.items()}
    if isinstance(value, list):
        items = before if isinstance(before, list) else []
        return [
            _restored(each, items[at] if at < len(items) else None) for at, each in enumerate(value)
        ]
    same = isinstance(before, date | datetime | time_of_day) and before.isoformat() == value
    return before if same else value
