"""How a version of a document gets onto the disk, whoever else is stopped, killed or woken there.

Nobody holds a lock.  Each document has a folder of its own below `.interlock`, in which

* `fence.VERSION...` says that lower versions must not be put in place any more,
* `temp.VERSION...` is a whole file, on the disk, that is about to be put in place,
* `done.VERSION` says that this version was in place: what differs from it was edited.

To publish is to make the fence, make the temp file, look for higher fences, take lower temp files
away, and let the temp file and the file at its place change places in one step.  Either the writer
of a lower version sees the fence, or its temp file is seen and taken away, so that its step
fails, however late it comes: both make their mark before they look (Dekker's mutual exclusion,
1965).  What was at the place is then at hand: where it was not published from here, it is set
aside, not removed.  A deleted document changes places with an empty folder, which is removed by a
call that removes nothing else.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from interlock.files import disk
from interlock.files.disk import ABSENT, BLOCKED, EMPTY_FOLDER, FOLDER, PLAIN, Found

STATE = ".interlock"
PUBLISHED, OVERTAKEN, EDITED = "published", "overtaken", "edited"
_KEPT_FENCES = 20
_MOST_TRIES = 1000
_MARK = re.compile(r"\.[0-9a-f]{8}\Z")  # of what is set aside
_GONE = "-"  # stands for the digest of a document that was deleted


class Version(NamedTuple):
    """One version of a document: what is to be at its place, nothing where `data` is None.

    `includes` is the digest of an edit that was merged into it, so that it may replace it.
    """

    version: int
    position: int
    mode: int
    data: bytes | None
    includes: str = ""

    @property
    def digest(self) -> str:
        """The digest of its content."""
        return digest_of(self.data)


class Fence(NamedTuple):
    """A version that was, or is about to be, in place."""

    version: int
    position: int
    mode: int
    digest: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"fence.{self.version}.{self.position}.{self.mode:o}.{self.digest}"


class Listing:
    """What the folder of a document holds."""

    def __init__(self, names: list[str]) -> None:
        self.fences: dict[int, Fence] = {}
        self.temps: list[tuple[int, str]] = []
        self.taken: list[str] = []
        dones = [0]
        for name in names:
            kind, *parts = name.split(".")
            if kind == "fence":
                version, position, mode, digest = parts
                self.fences[int(version)] = Fence(int(version), int(position), int(mode, 8), digest)
            elif kind == "done":
                dones.append(int(parts[0]))
            elif kind in ("temp", "draft"):
                self.temps.append((int(parts[0]), name))
            elif kind == "taken":
                self.taken.append(name)
        self.done = max(dones)
        self.newest = max(self.fences, default=0)

    @property
    def last(self) -> Fence | None:
        """The version that was in place last."""
        return self.fences.get(self.done)

    def since(self, done: int) -> set[str]:
        """Return what may be in place, where version `done` was."""
        return {fence.digest for fence in self.fences.values() if fence.version >= done}


class Observation(NamedTuple):
    """What is at the place of a document, what was put there last, and whether that was edited."""

    found: Found
    last: Fence | None
    newest: int
    edited: bool

    def shows(self, want: Version) -> bool:
        """Whether a version is in place, and known to be."""
        if self.found.kind == BLOCKED:
            return want.data is None
        done = self.last is not None and self.last.version == want.version
        return done and not self.refuses(want) and digest_of(self.found.data) == want.digest

    def refuses(self, want: Version) -> bool:
        """Whether an edit is in place that a version must not replace: not where it is deleted, and
        other documents have a folder there."""
        return self.edited and not (want.data is None and self.found.kind == FOLDER)


def digest_of(data: bytes | None) -> str:
    """Return the digest of a content."""
    return _GONE if data is None else hashlib.sha256(data).hexdigest()[:32]


class Workspace:
    """The files of a folder that are a projection of one space, `uid`."""

    def __init__(self, root: str, uid: str) -> None:
        self.root = os.path.realpath(root)
        self.state = os.path.join(self.root, STATE)
        self._shelves = os.path.join(self.state, hashlib.sha256(uid.encode()).hexdigest()[:12])
        self.set_aside = os.path.join(self.state, "saved")

    def publish(self, path: str, want: Version, force: bool = False) -> str:
        """Put a version in place.  Returns PUBLISHED, OVERTAKEN or EDITED.

        `force`: what was edited is set aside.  Raises OSError.
        """
        shelf = self._shelf(path)
        fence = Fence(want.version, want.position, want.mode, want.digest)
        disk.mark(os.path.join(shelf, fence.name))
        for _ in range(_MOST_TRIES):
            temp = self._stage(shelf, want)
            if temp is None:
                continue  # taken away while it was written: look who did
            with self._place(path, make=True) as (folder, name):
                try:
                    how = self._attempt(path, folder, name, want, temp, force)
                except (FileNotFoundError, FileExistsError):
                    how = None  # the place or the temp file has changed meanwhile
                self._inspect(path, temp, want.includes)
                if how == PUBLISHED:
                    self._finish(path, folder, name, want)
                if how is not None:
                    return how
        raise OSError(errno.EBUSY, "the file changes all the time", path)

    def see(self, path: str, deleted: bool = False) -> Observation:
        """Look at the place of a document.  Raises OSError; where it is `deleted`, not because a
        file, such as a later document, is in place of a folder that it was in."""
        for _ in range(_MOST_TRIES):
            observed = self._look_between(path, deleted)
            if observed is not None:
                return observed
        raise OSError(errno.EBUSY, "the file changes all the time", path)

    def _look_between(self, path: str, deleted: bool) -> Observation | None:
        """Look at the place between two looks at the fences; None where what was seen is unknown
        and versions came meanwhile: its fence may be gone."""
        shelf = self._shelf_of(path)
        before = Listing(disk.names(shelf))
        try:
            with self._place(path, make=False) as (folder, name):
                found = disk.look(name, folder)
        except FileNotFoundError:
            found = Found(ABSENT)
        except NotADirectoryError:
            if not deleted:
                raise
            found = Found(BLOCKED)
        after = Listing(disk.names(shelf))
        edited = not _is_ours(found, before, after)
        if edited and before.done != after.done:
            return None
        last = after.last or before.last
        return Observation(found, last, after.newest, edited)

    def step_back(self, path: str, version: int) -> None:
        """Forget the versions above `version`: the store has lost them."""
        shelf = self._shelf_of(path)
        for name in disk.names(shelf):
            kind, _, rest = name.partition(".")
            if kind in ("fence", "done") and int(rest.split(".")[0]) > version:
                disk.remove(os.path.join(shelf, name))

    def paths(self) -> list[str]:
        """Return the paths of the documents that were ever published here."""
        disk.check_own(self.state)
        disk.check_own(self._shelves)
        found = []
        for shelf in disk.names(self._shelves):
            with (
                suppress(FileNotFoundError),
                open(os.path.join(self._shelves, shelf, "path"), encoding="utf-8") as file,
            ):
                found.append(file.read())
        return sorted(found)

    def files(self, hidden: bool = False) -> Iterator[str]:
        """Yield the paths of the plain files in the folder; of hidden ones, too, if `hidden`."""

        def is_left_out(name: str) -> bool:
            return name.lower() == STATE or (name.startswith(".") and not hidden)

        for folder, folders, files in os.walk(self.root):
            folders[:] = sorted(each for each in folders if not is_left_out(each))
            inside = os.path.relpath(folder, self.root)
            for name in sorted(files):
                if not is_left_out(name) and not os.path.islink(os.path.join(folder, name)):
                    path = name if inside == "." else os.path.join(inside, name)
                    yield path.replace(os.sep, "/")

    def links(self, path: str) -> int:
        """Return how many names a file in the folder has."""
        with suppress(OSError):
            return os.lstat(os.path.join(self.root, *path.split("/"))).st_nlink
        return 1

    def saved(self) -> list[tuple[str, str]]:
        """Return what was set aside: the path of the document, and where it is now."""
        found = []
        for folder, _, files in os.walk(self.set_aside):
            for name in files:
                whole = os.path.join(folder, name)
                parts = os.path.relpath(whole, self.set_aside).split(os.sep)
                marked = [at for at, part in enumerate(parts) if _MARK.search(part)]
                if marked:  # a file, or a folder with all that was in it
                    parts[marked[-1]] = _MARK.sub("", parts[marked[-1]])
                found.append(("/".join(parts), whole))
        return sorted(found)

    def _attempt(
        self, path: str, folder: int, name: str, want: Version, temp: str, force: bool
    ) -> str:
        """Look, and let the temp file change places with what is there."""
        shelf = os.path.dirname(temp)
        before = Listing(disk.names(shelf))
        if before.newest > want.version:
            return OVERTAKEN
        self._take_away(path, before, want.version - 1)
        found = disk.look(name, folder)
        after = Listing(disk.names(shelf))
        if after.newest > want.version:
            return OVERTAKEN
        if found.kind in (PLAIN, ABSENT, FOLDER) and found.data == want.data:
            return PUBLISHED  # a folder holds other documents: of a deleted one nothing is there
        merged = found.kind == PLAIN and digest_of(found.data) == want.includes
        if not force and not merged and not _is_ours(found, before, after):
            return EDITED
        if found.kind == ABSENT:
            disk.place(temp, folder, name)
        else:
            if found.kind == PLAIN and before.last and before.last.mode == want.mode:
                os.chmod(temp, found.mode)
            disk.exchange(temp, folder, name)
        disk.flush(folder)
        return PUBLISHED

    def _finish(self, path: str, folder: int, name: str, want: Version) -> None:
        """Note that a version is in place; take away what would put it there once more."""
        if want.data is None:
            disk.remove_folder(folder, name)
        shelf = self._shelf_of(path)
        disk.mark(os.path.join(shelf, f"done.{want.version}"))
        listing = Listing(disk.names(shelf))
        self._take_away(path, listing, want.version)
        for version in sorted(listing.fences)[:-_KEPT_FENCES]:
            if version < listing.done:
                disk.remove(os.path.join(shelf, listing.fences[version].name))
        for name in disk.names(shelf):
            if name.startswith("done.") and int(name[5:]) < listing.done:
                disk.remove(os.path.join(shelf, name))

    def _take_away(self, path: str, listing: Listing, upto: int) -> None:
        """Take away the temp files up to a version, so that nobody can put them in place."""
        shelf = self._shelf_of(path)
        taken = list(listing.taken)
        for version, name in listing.temps:
            if version <= upto and name.startswith("draft"):
                disk.remove(os.path.join(shelf, name))
            elif version <= upto:
                with suppress(FileNotFoundError):
                    disk.rename(os.path.join(shelf, name), os.path.join(shelf, f"taken.{name}"))
                    taken.append(f"taken.{name}")
        for name in taken:
            self._inspect(path, os.path.join(shelf, name))

    def _inspect(self, path: str, temp: str, includes: str = "") -> None:
        """Remove a temp file, or set aside what it holds where that is not known to the space."""
        found = disk.look(temp)
        if found.kind == ABSENT:
            return
        if found.kind == EMPTY_FOLDER:
            with suppress(FileNotFoundError):
                os.rmdir(temp)
            return
        shelf, name = os.path.split(temp)
        if found.kind == PLAIN:
            digest = digest_of(found.data)
            own = name.split(".")[-2]
            if digest in (own, includes, *Listing(disk.names(shelf)).since(0)):
                disk.remove(temp)
                return
        *folders, plain = path.split("/")
        disk.check_own(self.set_aside)
        os.makedirs(self.set_aside, exist_ok=True)
        folder = disk.enter(self.set_aside, folders, make=True)
        try:
            with suppress(FileNotFoundError):
                disk.place(temp, folder, f"{plain}.{secrets.token_hex(4)}")
        finally:
            os.close(folder)

    def _stage(self, shelf: str, want: Version) -> str | None:
        """Make the temp file; None where it was taken away."""
        rest = f"{want.version}.{want.digest}.{secrets.token_hex(8)}"
        temp, draft = (os.path.join(shelf, f"{kind}.{rest}") for kind in ("temp", "draft"))
        if want.data is None:
            os.mkdir(temp)
        else:
            disk.write(draft, want.data, want.mode)
            try:
                disk.rename(draft, temp)
            except FileNotFoundError:
                return None
        disk.flush(shelf)
        return temp

    def _shelf_of(self, path: str) -> str:
        """Return the folder of a document.  Raises OSError where a link would lead elsewhere."""
        shelf = os.path.join(self._shelves, hashlib.sha256(path.encode()).hexdigest()[:32])
        for folder in (self.state, self._shelves, shelf):
            disk.check_own(folder)
        return shelf

    def _shelf(self, path: str) -> str:
        """Return the folder of a document, made where it is not there."""
        shelf = self._shelf_of(path)
        named = os.path.join(shelf, "path")
        if not os.path.exists(named):
            os.makedirs(shelf, exist_ok=True)
            draft = f"{named}-{secrets.token_hex(8)}"
            disk.write(draft, path.encode(), 0o600)
            disk.rename(draft, named)
            ignore = os.path.join(self.state, ".gitignore")
            with suppress(FileExistsError):
                disk.write(ignore, b"*\n", 0o644)
        return shelf

    @contextmanager
    def _place(self, path: str, make: bool) -> Iterator[tuple[int, str]]:
        *folders, name = path.split("/")
        if make:
            os.makedirs(self.root, exist_ok=True)
        try:
            folder = disk.enter(self.root, folders, make)
        except OSError as problem:
            if problem.errno in (errno.ENOTDIR, errno.ELOOP):
                problem.strerror = "a folder on the way is a link or a file"
            raise
        try:
            yield folder, name
        finally:
            os.close(folder)


def _is_ours(found: Found, before: Listing, after: Listing) -> bool:
    """Whether what is in place was put there from here, or is nothing that would be lost."""
    if found.kind in (ABSENT, BLOCKED, EMPTY_FOLDER):
        return True
    return found.kind == PLAIN and digest_of(found.data) in after.since(before.done)
