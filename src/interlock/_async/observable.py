"""How a space is seen from outside: hooks and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

from interlock._async import concurrency
from interlock.session import AsyncSession

if TYPE_CHECKING:
    from interlock.observe.metrics import Metrics
    from interlock.observe.notices import (
        CommitNotice,
        LeaseNotice,
        RefusalNotice,
        StoreNotice,
        TurnNotice,
    )

Off = Callable[[], None]


class AsyncObservable:
    """What every space tells of itself."""

    session: AsyncSession

    @overload
    def on(
        self, event: Literal["commit", "slow_commit"], fn: Callable[[CommitNotice], object]
    ) -> Off: ...

    @overload
    def on(
        self,
        event: Literal[
            "conflict",
            "contended",
            "deadlock",
            "fenced",
            "forbidden",
            "held",
            "illegal_transition",
            "invalid",
            "refusal",
        ],
        fn: Callable[[RefusalNotice], object],
    ) -> Off: ...

    @overload
    def on(self, event: Literal["turn"], fn: Callable[[TurnNotice], object]) -> Off: ...

    @overload
    def on(
        self, event: Literal["lease", "reclaim"], fn: Callable[[LeaseNotice], object]
    ) -> Off: ...

    @overload
    def on(
        self, event: Literal["fault", "reconnect"], fn: Callable[[StoreNotice], object]
    ) -> Off: ...

    def on(self, event: str, fn: Callable[[Any], object]) -> Off:
        """Have `fn(notice)` called whenever something happens; return a function that ends this.

        `event`: `commit`; `slow_commit`; `refusal`, or one sort of it (`conflict`, `contended`,
        `deadlock`, `fenced`, `forbidden`, `held`, `illegal_transition`, `invalid`); `turn`;
        `lease`; `reclaim`; `fault`; `reconnect`.  It is about what this space does, and leases and
        runs that were made from it.  `fn` is called later, in a thread of its own, one notice after
        the other, so it can neither slow nor break a write.  If 10,000 wait, more are left out.
        What `fn` raises is logged once.

        A coroutine function is called in the event loop that this was called in.

        Raises Invalid.
        """
        return self.session.driver.observer.on(event, concurrency.hook(fn))

    def metrics(self) -> Metrics:
        """Return what this space did since it was opened: counts, times, rates."""
        from interlock.observe.metrics import metrics_of

        observer = self.session.driver.observer
        return metrics_of(observer.space, observer.counters, observer.hooks.left_out)
