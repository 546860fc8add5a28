"""What everybody but a run's worker does with runs, with either façade."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlock.backends.drive import SyncDriver
from interlock.backends.drive_async import AsyncDriver
from interlock.core.decide import Writer
from interlock.errors import raise_refused
from interlock.runs import admin, replaying
from interlock.runs.records import RunInfo
from interlock.runs.replaying import RunMoment

Moments = list[RunMoment]  # inside the classes below `list` is their method


class _Desk:
    def __init__(self, driver: Any, writer: Writer, op_id: Callable[[str | None], str]) -> None:
        self._driver = driver
        self._writer = writer
        self._op_id = op_id


class Runs(_Desk):
    """The runs of a space: `space.runs`."""

    _driver: SyncDriver

    def start(self, id: str, program: str, input: Any = None) -> None:
        """Make a run that a worker takes up: `program` names what it calls, with `input`.

        Raises Conflict where there is a run of this id, Invalid.
        """
        op_id = self._op_id(None)
        self._run(admin.start(self._writer, id, program, input, op_id))

    def list(self, open: bool = False) -> list[RunInfo]:
        """Return every run without its steps, or those that have not ended (`open`)."""
        return list(self._run(admin.runs(self._writer, open)).values())

    def show(self, id: str) -> RunInfo:
        """Return a run with its steps.  Raises Invalid where there is none."""
        info: RunInfo = self._run(admin.show(self._writer, id))
        return info

    def replay(self, id: str) -> Moments:
        """Return each commit of a run, and the run as it was after it, in order.

        Raises Invalid where there is no such run.  The log's oldest part may be cut.
        """
        moments: Moments = self._run(replaying.replay(self._writer, id))
        return moments

    def send(self, id: str, name: str, value: Any = None) -> None:
        """Give a run what it waits for, or will wait for, as `name`.

        Raises Conflict where it was given something under this name before, Invalid where there is
        no such run, or it has ended.
        """
        self._run(admin.send(self._writer, id, name, value, self._op_id(None)))

    def settle(self, id: str, path: str, happened: bool, result: Any = None) -> None:
        """Say whether the effect at step `path`, which is in doubt, has happened.

        `result` is what its function would have returned.  Raises Conflict where it was said
        before, Invalid where nothing is in doubt there.
        """
        op_id = self._op_id(None)
        self._run(admin.settle(self._writer, id, path, happened, result, op_id))

    def resume(self, id: str) -> None:
        """Have a run that is parked, or pauses after a failure, taken up at once."""
        self._run(admin.resume(self._writer, id, self._op_id(None)))

    def reclaim(self, id: str) -> None:
        """Take a run away from whoever works on it, such as a process that is known to be dead.

        It can be taken up at once, and whoever worked on it is Fenced.
        """
        self._run(admin.reclaim(self._writer, id, self._op_id(None)))

    def cancel(self, id: str, reason: str = "cancelled") -> bool:
        """Have a run fail, whoever works on it; return whether it has by now.

        It has not where effects are to be undone: the next one to take the run up does that.
        """
        done: bool = self._run(admin.cancel(self._writer, id, reason, self._op_id(None)))
        return done

    def _run(self, steps: Any) -> Any:
        answer = self._driver.run(steps)
        raise_refused(answer)
        return answer


class AsyncRuns(_Desk):
    """The runs of a space, awaited: see `interlock.Runs`."""

    _driver: AsyncDriver

    async def start(self, id: str, program: str, input: Any = None) -> None:
        """Make a run that a worker takes up: see `interlock.Runs.start`."""
        op_id = self._op_id(None)
        await self._run(admin.start(self._writer, id, program, input, op_id))

    async def list(self, open: bool = False) -> list[RunInfo]:
        """Return every run without its steps, or those that have not ended (`open`)."""
        return list((await self._run(admin.runs(self._writer, open))).values())

    async def show(self, id: str) -> RunInfo:
        """Return a run with its steps.  Raises Invalid where there is none."""
        info: RunInfo = await self._run(admin.show(self._writer, id))
        return info

    async def replay(self, id: str) -> Moments:
        """Return each commit of a run, and the run after it: see `interlock.Runs.replay`."""
        moments: Moments = await self._run(replaying.replay(self._writer, id))
        return moments

    async def send(self, id: str, name: str, value: Any = None) -> None:
        """Give a run what it waits for, or will wait for: see `interlock.Runs.send`."""
        await self._run(admin.send(self._writer, id, name, value, self._op_id(None)))

    async def settle(self, id: str, path: str, happened: bool, result: Any = None) -> None:
        """Say whether an effect in doubt has happened: see `interlock.Runs.settle`."""
        op_id = self._op_id(None)
        await self._run(admin.settle(self._writer, id, path, happened, result, op_id))

    async def resume(self, id: str) -> None:
        """Have a run that is parked, or pauses after a failure, taken up at once."""
        await self._run(admin.resume(self._writer, id, self._op_id(None)))

    async def reclaim(self, id: str) -> None:
        """Take a run away from whoever works on it: see `interlock.Runs.reclaim`."""
        await self._run(admin.reclaim(self._writer, id, self._op_id(None)))

    async def cancel(self, id: str, reason: str = "cancelled") -> bool:
        """Have a run fail, whoever works on it: see `interlock.Runs.cancel`."""
        op_id = self._op_id(None)
        done: bool = await self._run(admin.cancel(self._writer, id, reason, op_id))
        return done

    async def _run(self, steps: Any) -> Any:
        answer = await self._driver.run(steps)
        raise_refused(answer)
        return answer
