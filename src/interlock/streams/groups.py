"""Consumer groups as agents use them, with the synchronous façade."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from interlock.backends.drive import SyncDriver
from interlock.core.groups import Deliveries, Delivery, GroupInfo, GroupPending
from interlock.errors import AnswerLost, Closed, InterlockError, Refused, raise_refused
from interlock.streams import consuming
from interlock.streams.consuming import Membership


class GroupHandle:
    """What a handle on a group knows, with either façade."""

    def __init__(self, driver: Any, member: Membership, op_id: Callable[[str | None], str]) -> None:
        self._driver = driver
        self._member = member
        self._op_id = op_id
        self._resume = True  # whether entries may be pending that this handle did not hand out

    @property
    def name(self) -> str:
        """The name of the group."""
        return self._member.group

    @property
    def consumer(self) -> str:
        """The name that this handle takes entries under."""
        return self._member.consumer

    def __repr__(self) -> str:
        return f"<interlock.{type(self).__name__} {self.name!r} consumer={self.consumer!r}>"


class Group(GroupHandle):
    """One consumer of a group: `for delivery in group: ...; group.ack(delivery)`.

    Every entry is delivered until somebody acknowledges it, and the entries of one key are never
    with two consumers at once.  While the loop runs, or from `take` to `close`, the consumer is
    kept alive in the background.  One thread at a time; each worker has a name of its own.
    """

    _driver: SyncDriver
    _over: threading.Event | None = None
    _thread: threading.Thread
    _pid = 0  # of the process that was given entries

    def __iter__(self) -> Iterator[Delivery]:
        """Yield entries one at a time and wait for more, without end.

        What this consumer was given before and did not acknowledge comes first.
        """
        self._resume = True
        try:
            while True:
                yield from self.take(1, None)
        finally:
            self._stop()
            self._resume = True

    def take(self, limit: int = 10, wait: float | None = 0) -> list[Delivery]:
        """Return the next entries, at most `limit`, in the log's order.

        Waits `wait` seconds for the first one (None: without limit).  Raises Invalid.
        """
        steps = consuming.take(self._member, limit, wait, self._resume, self._op_id(None))
        try:
            found: Deliveries = self._run(steps)
        except Refused:
            raise
        except BaseException:
            self._pid, self._resume = os.getpid(), True  # it may have been given some
            raise
        self._resume = False
        if found.items:
            self._pid = os.getpid()
            self._keep()
        return list(found.items)

    def ack(self, *deliveries: Delivery) -> int:
        """Say that entries are done; return how many of them were still this consumer's.

        One that was claimed by another meanwhile does not count: it is that one's to finish.
        """
        done: int = self._run(consuming.acknowledge(self._member, deliveries))
        return done

    def info(self) -> GroupInfo:
        """Return the group as it is.  Raises Invalid where it was never read."""
        info: GroupInfo = self._run(consuming.state(self.name))
        return info

    def pending(self) -> list[GroupPending]:
        """Return what is not acknowledged, the first 1,000 entries.  Raises Invalid."""
        return list(self.info().pending)

    def drop(self) -> None:
        """Forget the group.  Stop its consumers first: one that reads makes it anew."""
        self._stop()
        self._pid, self._resume = 0, True
        self._run(consuming.drop(self.name))

    def close(self) -> None:
        """Let others have at once what this consumer was given and did not acknowledge."""
        self._stop()
        if self._pid == os.getpid():  # a forked child has only a copy
            self._pid, self._resume = 0, True
            self._run(consuming.renew(self._member, 0.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _keep(self) -> None:
        """Begin to give signs of life, until `_stop` or until nobody has the handle any more."""
        if not self._driver.keeps_alive:
            return
        if self._over is None or not self._thread.is_alive():
            self._over = threading.Event()
            weakref.finalize(self, self._over.set)
            values = (self._driver, self._member, self._over)
            self._thread = threading.Thread(
                target=_renew, args=values, name="interlock-group", daemon=True
            )
            self._thread.start()

    def _stop(self) -> None:
        if self._over is not None:
            self._over.set()
            self._thread.join()
            self._over = None

    def _run(self, steps: Any) -> Any:
        answer = self._driver.run(steps)
        raise_refused(answer)
        return answer


def _renew(driver: SyncDriver, member: Membership, over: threading.Event) -> None:
    while not over.wait(member.ttl / consuming.RENEWALS_PER_TTL):
        try:
            driver.run(consuming.renew(member, member.ttl))
        except Closed:
            return
        except (AnswerLost, InterlockError):
            continue  # the next one may get through; the store judges in the end
