"""What a space keeps no longer: values that are erased, and the oldest part of its log."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from interlock.core.records import Entry
from interlock.session import AsyncSession

if TYPE_CHECKING:
    from interlock.core.erase import Erasure, Progress
    from interlock.core.trim import Trimmed


class AsyncRetention:
    """Takes things out of a space."""

    session: AsyncSession

    async def erase(
        self,
        key: str | None = None,
        *,
        prefix: str | None = None,
        where: Callable[[Entry], bool] | None = None,
        dry_run: bool = False,
        vacuum: bool = False,
        progress: Progress | None = None,
    ) -> Erasure:
        """Remove the values of `key`, or of all keys under `prefix`, for good.

        With `where` only entries for which `where(entry)` is true; alone it looks at the whole
        space, finished runs included.  `dry_run` only says what would go.  `vacuum`: have the
        server rewrite its files, too, which may hold others up.  `progress(done, total)` is called
        after each step: with log positions that were looked at, then with those and the values that
        were removed.  If interrupted, even by `kill -9`, call it again: it finishes the rest.
        Raises Held if a lease holds a key, Contended if somebody keeps a snapshot open, Invalid.
        """
        from interlock.runs import erase

        chosen = (key, prefix, where, dry_run, vacuum, progress)
        looks = where is not None or str(key or prefix or "$").startswith("$")
        session = self.session if looks else self.session.unread()
        return await session.run(erase.erasing(session, *chosen))

    async def trim(self, *, keep: float | None = None, before: int | None = None) -> Trimmed:
        """Delete the keys that have expired, cut off the oldest part of the log that nobody needs,
        and say what is kept and why.

        `keep`: days that entries are kept whose rule does not say, at least one (None: forever).
        `before`: what begins at that position is kept.  What consumer groups and coordinators have
        not handled is kept, and so is what every key was at the cut.  A thousand entries a step.
        """
        from interlock.core import trim  # only here: few who write ever trim

        name = self.session.op_id(None)
        return await self.session.run(trim.trim(self.session.writer, keep, before, name))
