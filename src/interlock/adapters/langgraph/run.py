"""A run on a thread: the exclusive right to work on it, checked with every checkpoint."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from itertools import chain, repeat
from typing import TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol

from interlock import AsyncLease, Held, InterlockError, Invalid, Json, Refused, Space
from interlock.adapters.home import Home
from interlock.adapters.langgraph.call import End, in_node
from interlock.adapters.langgraph.checkpoints import ENDED, EPOCH, ONCE, RUNNING
from interlock.adapters.langgraph.keys import once_key, run_key
from interlock.adapters.langgraph.refusals import of_thread
from interlock.adapters.langgraph.thread import rolled_back
from interlock.adapters.space import commit, one_of, run, taken

T = TypeVar("T")

TTL = 30.0  # seconds
POLICIES = ("enqueue", "reject", "interrupt", "rollback")
_DONE = "done"
_CLOSING = 1.0  # seconds


class AlreadyDone(InterlockError):
    """The input that `once` names was handled by an earlier run; there is nothing left to do."""


# The runs that the code at work is inside of; what a run calls inherits its context.
_runs: ContextVar[tuple[ThreadRun, ...]] = ContextVar("interlock_langgraph_runs", default=())


class ThreadRun:
    """A run on a thread; see `Saver.run`."""

    _lease: AsyncLease

    def __init__(
        self,
        home: Home,
        serde: SerializerProtocol,
        thread_id: str,
        config: RunnableConfig | None = None,
        on_busy: str = "enqueue",
        once: str | None = None,
        ttl: float = TTL,
        wait: float | None = None,
        noted: bool = True,
    ) -> None:
        one_of("on_busy", on_busy, *POLICIES)
        self._noted = noted  # in the store: when it began and ended, which takes two commits
        self._home = home
        self._calls = home.calls
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
        self._called = False  # it is that of a call, and ends with it

    @property
    def lost(self) -> bool:
        """Whether the thread is known to have been taken away from this run."""
        return hasattr(self, "_lease") and bool(self._lease.lost)

    def input(self, given: T) -> T | None:
        """Return what to call the graph with: `given`, or None if an earlier run that died had
        put it into the thread already, so that the graph goes on where that one stopped."""
        return None if self._begun else given

    def __enter__(self) -> RunnableConfig:
        self._home.run(self._not_inside())
        return self._inside(self._home.run(self._enter(self._on_busy, self._wait)))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._outside()
        self._home.run(self._leave(done=kind is None))

    async def __aenter__(self) -> RunnableConfig:
        await self._streams_closed()
        await self._home.run_async(self._not_inside())
        if isinstance(self._home.space, Space):
            return self._inside(await self._enter_threaded(self._home.space))
        return self._inside(await self._enter(self._on_busy, self._wait))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._outside()
        await self._home.run_async(self._leave(done=kind is None))

    def begin(self, config: RunnableConfig, end: End) -> None:
        """Enter for a synchronous call of a graph, and leave at its end."""
        config["configurable"][EPOCH] = self.__enter__()["configurable"][EPOCH]
        end.then(lambda: self.__exit__(InterlockError))

    async def begin_async(self, config: RunnableConfig, end: End) -> None:
        """Enter for an asynchronous call of a graph, and leave at its end."""
        config["configurable"][EPOCH] = (await self.__aenter__())["configurable"][EPOCH]
        end.then_await(lambda: self.__aexit__(InterlockError))
        self._called = True

    async def _streams_closed(self) -> None:
        """Give asyncio time to close a stream that the caller has stopped reading."""
        until = time.monotonic() + _CLOSING
        while any(each._called for each in self._outer()) and time.monotonic() < until:
            if in_node():
                return  # it is the call that this one is inside of
            await asyncio.sleep(0.001)

    def _outer(self) -> list[ThreadRun]:
        """Return the runs of this thread that the caller is inside of."""
        return [each for each in _runs.get() if each._entered and each._thread == self._thread]

    async def _not_inside(self) -> None:
        """Raise Invalid inside another run of this thread, which would wait for itself."""
        for other in self._outer() if self._on_busy != "reject" else ():
            record = await self._calls.read(run_key(self._thread))
            if record.space == other._lease.record.space:
                raise Invalid(
                    f"A run of thread {self._thread!r:.80} inside another run of that thread would "
                    "wait for itself: use the outer one's config, or close its stream first. A "
                    "task that is to run after it needs create_task(..., context=Context())"
                )

    def _inside(self, config: RunnableConfig) -> RunnableConfig:
        self._entered = True
        _runs.set((*(each for each in _runs.get() if each._entered), self))
        return config

    def _outside(self) -> None:
        self._entered = False
        _runs.set(tuple(each for each in _runs.get() if each._entered))

    async def _enter(self, on_busy: str, wait: float | None) -> RunnableConfig:
        with of_thread(self._thread):
            self._lease = await self._taken(on_busy, wait)
        try:
            await self._prepared()
            if self._noted or (self._lease.value or {}).get("state") != RUNNING:
                await self._lease.write(self._state(RUNNING))
        except BaseException:
            await self._lease.release()
            raise
        return self._config()

    async def _enter_threaded(self, space: Space) -> RunnableConfig:
        """Enter with a synchronous space."""
        # The policy is for the first try: by the next one, the holder has been asked to leave.
        policies = chain([self._on_busy], repeat("enqueue"))
        return await taken(
            space,
            lambda moment: run(space, self._enter(next(policies), moment)),
            lambda config: run(space, self._lease.release()),
            0 if self._on_busy == "reject" else self._wait,
        )

    async def _taken(self, on_busy: str, wait: float | None) -> AsyncLease:
        """Take the thread, from whoever has it if that is asked for."""
        key = run_key(self._thread)
        lease = self._calls.lease(key, self._ttl, wait=wait if on_busy == "enqueue" else 0)
        try:
            await lease.acquire()
            return lease
        except Held:
            if on_busy in ("enqueue", "reject"):
                raise
        self._replace((await self._calls.reclaim(key)).value)
        lease = self._calls.lease(key, self._ttl, wait=wait)
        await lease.acquire()
        return lease

    async def _leave(self, done: bool) -> None:
        try:
            with of_thread(self._thread):
                if done:
                    await self._finished()
                if self._noted:
                    await self._lease.write(self._state(ENDED))
        except Refused:
            if done:
                raise
        finally:
            await self._lease.release()

    def _replace(self, state: Json) -> None:
        """Remember the run that the thread was taken from."""
        running = state is not None and state["state"] == RUNNING
        self._victim = state["epoch"] if running and self._on_busy == "rollback" else None

    async def _prepared(self) -> None:
        """Look whether the input was handled; remove what a run that is rolled back has stored."""
        self._begun = False
        if self._once is not None:
            record = await self._calls.read(self._once)
            if record.value == _DONE:
                raise AlreadyDone(f"{self._name!r} was already handled on thread {self._thread!r}")
            self._begun = record.exists
        if self._victim is not None:
            victim, epoch = self._victim, self._lease.epoch
            await rolled_back(self._calls, self._serde, self._thread, victim, epoch)
            self._victim = None

    async def _finished(self) -> None:
        """Note that the input was handled; only for whoever still has the thread."""
        if self._once is not None:
            record = await self._calls.read(self._once)
            await commit(self._calls, [("expect", self._lease.record), ("write", record, _DONE)])

    def _state(self, state: str) -> dict[str, object]:
        epoch = self._lease.epoch if self._noted else None
        return {"state": state, "epoch": epoch, "once": self._name}

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


def inherited(config: RunnableConfig) -> int | None:
    """Return the epoch of the run that this code is inside of, on the thread of a config."""
    thread = str(config["configurable"]["thread_id"])
    epochs = [each._lease.epoch for each in _runs.get() if each._entered and each._thread == thread]
    return epochs[-1] if epochs else None
