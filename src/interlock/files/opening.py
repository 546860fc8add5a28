"""How a space hands out its files: the method that both façades take from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interlock.core.decide import Writer

if TYPE_CHECKING:
    import os

    from interlock.backends.drive import SyncDriver
    from interlock.backends.drive_async import AsyncDriver
    from interlock.files.aio_handles import AsyncFiles
    from interlock.files.handles import Files


class OpensFiles:
    """Shared documents, with the synchronous façade."""

    _driver: SyncDriver
    _writer: Writer
    _op_id: Callable[[str | None], str]

    def files(
        self,
        root: str | os.PathLike[str],
        pattern: str = "**",
        *,
        outside: str = "refuse",
        merge: bool = False,
        hidden: bool = False,
    ) -> Files:
        """Return the documents whose paths match `pattern`, shown as files below `root`.

        `outside`: what becomes of a file that was changed around the space: `refuse` leaves it
        and refuses writes of the document until it is adopted or discarded, `adopt` commits it.
        `merge`: a write that conflicts is merged, by lines (JSON by fields), where both sides
        changed other places.  `hidden`: whether paths such as `.git/hooks/post-merge` or `.envrc`,
        which programs run or trust, may be documents, too.  Raises Invalid.
        """
        from interlock.files.handles import Files

        return Files(self._driver, _desk(self, root, pattern, outside, merge, hidden))


class OpensAsyncFiles:
    """Shared documents, with the asyncio façade."""

    _driver: AsyncDriver
    _writer: Writer
    _op_id: Callable[[str | None], str]

    def files(
        self,
        root: str | os.PathLike[str],
        pattern: str = "**",
        *,
        outside: str = "refuse",
        merge: bool = False,
        hidden: bool = False,
    ) -> AsyncFiles:
        """Return the documents whose paths match `pattern`, shown as files below `root`.

        The arguments are those of `interlock.Space.files`.
        """
        from interlock.files.aio_handles import AsyncFiles

        return AsyncFiles(self._driver, _desk(self, root, pattern, outside, merge, hidden))


def _desk(space: Any, root: Any, pattern: str, outside: str, merge: bool, hidden: bool) -> Any:
    import os

    from interlock.files.desk import desk

    return desk(space._writer, os.fspath(root), pattern, outside, merge, hidden, space._op_id)
