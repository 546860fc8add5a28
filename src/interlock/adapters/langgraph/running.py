"""A run on a thread: the exclusive right to work on it, checked with every checkpoint."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from itertools import chain, repeat
from types import TracebackType
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol

from interlock import AsyncLease, AsyncSpace, Held, InterlockError, Invalid, Lease, Refused, Space
from interlock.adapters.calls import Steps, call, commit, run, run_async
from interlock.adapters.langgraph.keys import once_key, run_key
from interlock.adapters.langgraph.removing import rolled_back
from interlock.adapters.langgraph.storing import ENDED, EPOCH, ONCE, RUNNING
from interlock.adapters.turns import taken
from interlock.cancellation import finish

TTL = 30.0  # seconds
POLICIES = ("enqueue", "reject", "interrupt", "rollback")
_DONE = "done"


class AlreadyDone(InterlockError):
    """The input that `once` names was handled by an earlier run; there is nothing left to do."""


# The runs that the code at work is inside of; what a run calls inherits its context.
_runs: ContextVar[tuple[ThreadRun, ...]] = ContextVar("interlock_langgraph_runs", default=())


class ThreadRun:
    """A run on a thread; see `Saver.run`."""

    def __init__(
        self,
        space: Space | AsyncSpace,
        serde: SerializerProtocol,
        thread_id: str,
        config: RunnableConfig | None = None,
        on_busy: str = "enqueue",
        once: str | None = None,
        ttl: float = TTL,
        wait: float | None = None,
    ) -> None:
        if on_busy not in POLICIES:
            raise Invalid(f"on_busy={on_busy!r} is not one of {', '.join(POLICIES)}")
        self._space = space
        self._serde = serde
        self._thread = str(thread_id)
        self._given = config
        self._on_busy = on_busy
        self._once = None if once is None else once_key(self._thread, once)
        self._name = once
        self._ttl = ttl
        self._wait = wait
        self._victim: int | None = None
        self._begun = False
        self._entered = False
        self._lease: Any = None

    @property
    def lost(self) -> bool:
        """Whether the thread is known to have been taken away from this run."""
        return self._lease is not None and bool(self._lease.lost)

    def input(self, given: Any) -> Any:
        """Return what to call the graph with: `given`, or None where an earlier run that died had
        put it into the thread already, so that the graph goes on where that one stopped."""
        return None if self._begun else given

    def __enter__(self) -> RunnableConfig:
        if not isinstance(self._space, Space):
            raise Invalid("`with` needs a space from interlock.open; here it is `async with`")
        run(self._space, self._not_inside())
        return self._inside(self._enter(self._space, self._on_busy, self._wait))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert isinstance(self._space, Space)  # it was entered
        self._outside()
        try:
            if kind is None:
                run(self._space, self._finished())
            self._lease.write(self._state(ENDED))
        except Refused:
            if kind is None:
                raise
        finally:
            self._lease.release()

    async def __aenter__(self) -> RunnableConfig:
        await run_async(self._space, self._not_inside())
        if isinstance(self._space, Space):
            return self._inside(await self._enter_threaded(self._space))
        self._lease = await self._taken_async(self._space)
        try:
            await run_async(self._space, self._prepared())
            await self._lease.write(self._state(RUNNING))
        except BaseException:
            await self._lease.release()
            raise
        return self._inside(self._config())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._outside()
        if isinstance(self._space, Space):
            # To its end, also where the caller is cancelled: others wait for the thread.
            await finish(asyncio.to_thread(self.__exit__, kind, problem, traceback))
            return
        try:
            if kind is None:
                await run_async(self._space, self._finished())
            await self._lease.write(self._state(ENDED))
        except Refused:
            if kind is None:
                raise
        finally:
            await self._lease.release()

    def _not_inside(self) -> Steps:
        """Raise Invalid inside of another run of this thread, which would wait for itself."""
        for other in _runs.get() if self._on_busy != "reject" else ():
            if other._entered and other._thread == self._thread:
                record = yield call("read", run_key(self._thread))
                if record.space == other._lease.record.space:
                    raise Invalid(
                        f"saver.run({self._thread!r:.80}) inside of another run of that thread "
                        "would wait for itself: use the config that the outer one gives. A task "
                        "that is to run after it needs create_task(..., context=Context())"
                    )

    def _inside(self, config: RunnableConfig) -> RunnableConfig:
        self._entered = True
        _runs.set((*_runs.get(), self))
        return config

    def _outside(self) -> None:
        self._entered = False
        _runs.set(tuple(each for each in _runs.get() if each is not self))

    def _enter(self, space: Space, on_busy: str, wait: float | None) -> RunnableConfig:
        self._lease = self._taken(space, on_busy, wait)
        try:
            run(space, self._prepared())
            self._lease.write(self._state(RUNNING))
        except BaseException:
            self._lease.release()
            raise
        return self._config()

    def _taken(self, space: Space, on_busy: str, wait: float | None) -> Lease:
        """Take the thread, from whoever has it where that is asked for."""
        key = run_key(self._thread)
        if on_busy == "enqueue":
            return space.lease(key, self._ttl, wait=wait).acquire()
        try:
            return space.lease(key, self._ttl, wait=0).acquire()
        except Held:
            if on_busy == "reject":
                raise
        self._replace(space.reclaim(key).value)
        return space.lease(key, self._ttl, wait=wait).acquire()

    async def _taken_async(self, space: AsyncSpace) -> AsyncLease:
        key, wait = run_key(self._thread), self._wait
        if self._on_busy == "enqueue":
            return await space.lease(key, self._ttl, wait=wait).acquire()
        try:
            return await space.lease(key, self._ttl, wait=0).acquire()
        except Held:
            if self._on_busy == "reject":
                raise
        self._replace((await space.reclaim(key)).value)
        return await space.lease(key, self._ttl, wait=wait).acquire()

    async def _enter_threaded(self, space: Space) -> RunnableConfig:
        """Enter with a synchronous space."""
        # Asked again, whoever had the thread was told to leave it.
        policies = chain([self._on_busy], repeat("enqueue"))
        return await taken(
            space,
            lambda moment: self._enter(space, next(policies), moment),
            lambda config: self._lease.release(),
            0 if self._on_busy == "reject" else self._wait,
        )

    def _replace(self, state: Any) -> None:
        """Remember the run that the thread was taken from."""
        running = state is not None and state["state"] == RUNNING
        self._victim = state["epoch"] if running and self._on_busy == "rollback" else None

    def _prepared(self) -> Steps:
        """Look whether the input was handled; remove what a run that is rolled back has stored."""
        self._begun = False
        if self._once is not None:
            record = yield call("read", self._once)
            if record.value == _DONE:
                raise AlreadyDone(f"{self._name!r} was handled on thread {self._thread!r}")
            self._begun = record.exists
        if self._victim is not None:
            victim, epoch = self._victim, self._lease.epoch
            yield from rolled_back(self._serde, self._thread, victim, epoch)
            self._victim = None

    def _finished(self) -> Steps:
        """Note that the input was handled; only for whoever still has the thread."""
        if self._once is not None:
            record = yield call("read", self._once)
            yield commit([("expect", self._lease.record), ("write", record, _DONE)])

    def _state(self, state: str) -> dict[str, Any]:
        return {"state": state, "epoch": self._lease.epoch, "once": self._name}

    def _config(self) -> RunnableConfig:
        config: RunnableConfig = {**(self._given or {})}
        config["configurable"] = {
            **config.get("configurable", {}),
            "thread_id": self._thread,
            EPOCH: self._lease.epoch,
        }
        if self._once is not None:
            config["configurable"][ONCE] = self._once
        return config
