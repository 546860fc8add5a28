"""Cases for whatever has a `get` and a `set`: plug-ins, settings, FastMCP's `AsyncKeyValue`."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from interlock.verify.frameworks.agents import (
    PATIENCE,
    Body,
    Connection,
    Gate,
    Report,
    Result,
    T,
    acknowledged,
    connected,
    counted,
    refusals,
    together,
    until_told_yes,
)

_WRITERS = 5


def check_key_value(
    make: Callable[[], Any], *, get: str = "get", set: str = "set", patience: float = PATIENCE
) -> Report:
    """Try what a store of values by name keeps when several agents use it at once.

    `make()` opens the store as one more process would: it returns a store, or a context manager
    (`async with`, too) that gives one.  All of them share one database, which is empty at first.
    `get` and `set` name its methods, plain or coroutine functions: `get(name)` returns an object,
    or None; `set(name, object)` stores one.  A writer that is refused reads again and thinks again.
    `patience`: seconds that writers are held for others.

    The cases: `parallel_writers` of one name; `different_names`, one of each writer;
    `read_in_a_child_task`, as in `asyncio.wait_for` and `gather`; `blind_writers`, who have read
    nothing, and destroy what is there unless they are refused; `zombie_writer`, one that stalls
    between reading and writing.
    """
    kit = _Kit(make, get, set, patience)
    cases = (
        partial(kit.parallel_writers, "parallel_writers"),
        kit.different_names,
        partial(kit.parallel_writers, "read_in_a_child_task", in_child=True),
        kit.blind_writers,
        kit.zombie_writer,
    )
    return Report("Key-value store", tuple(case() for case in cases))


class _Kit:
    def __init__(self, make: Callable[[], Any], get: str, set: str, patience: float) -> None:
        self.make = make
        self.names = (get, set)
        self.patience = patience

    def parallel_writers(self, case: str, in_child: bool = False) -> Result:
        gate = Gate(_WRITERS, self.patience)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                async def attempt() -> None:
                    reads = self.get(opened, case)
                    found = await (asyncio.create_task(reads) if in_child else reads)
                    await opened.hold(gate, number)
                    await self.set(opened, case, _noted(found, f"{number}"))

                await until_told_yes(attempt)

            return self.connected(body)

        answers = together([partial(agent, n) for n in range(_WRITERS)], gate)
        return counted(case, map(str, acknowledged(answers)), self.notes(case), refusals(answers))

    def different_names(self) -> Result:
        gate = Gate(_WRITERS, self.patience)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                async def attempt() -> None:
                    found = await self.get(opened, f"different/{number}")
                    await opened.hold(gate, number)
                    await self.set(opened, f"different/{number}", _noted(found, f"{number}"))

                await until_told_yes(attempt)

            return self.connected(body)

        answers = together([partial(agent, n) for n in range(_WRITERS)], gate)
        found = [note for n in range(_WRITERS) for note in self.notes(f"different/{n}")]
        return counted("different_names", map(str, acknowledged(answers)), found, refusals(answers))

    def blind_writers(self) -> Result:
        async def first(opened: Connection) -> None:
            await self.set(opened, "blind", {"notes": ["first"]})

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                await self.set(opened, "blind", {"notes": [f"{number}"]})

            return self.connected(body)

        self.connected(first)
        answers = together([partial(agent, n) for n in range(_WRITERS)])
        expected = ["first", *map(str, acknowledged(answers))]
        return counted("blind_writers", expected, self.notes("blind"), refusals(answers))

    def zombie_writer(self) -> Result:
        stalls, goes_on = threading.Event(), threading.Event()

        async def zombie(opened: Connection) -> None:
            try:
                found = await self.get(opened, "zombie")
            finally:
                stalls.set()
            goes_on.wait(self.patience)
            await self.set(opened, "zombie", _noted(found, "0"))

        async def replacement(opened: Connection) -> None:
            stalls.wait()
            try:
                found = await self.get(opened, "zombie")
                await self.set(opened, "zombie", _noted(found, "1"))
            finally:
                goes_on.set()

        answers = together([partial(self.connected, each) for each in (zombie, replacement)])
        return counted(
            "zombie_writer",
            map(str, acknowledged(answers)),
            self.notes("zombie"),
            refusals(answers),
        )

    def notes(self, name: str) -> list[str]:
        """Return what a reader finds."""

        async def body(opened: Connection) -> list[str]:
            return list((await self.get(opened, name) or {}).get("notes", ()))

        return self.connected(body)

    async def get(self, opened: Connection, name: str) -> Any:
        return await _called(opened.subject, self.names[0], name)

    async def set(self, opened: Connection, name: str, value: object) -> None:
        await _called(opened.subject, self.names[1], name, value)

    def connected(self, body: Body[T]) -> T:
        return connected(self.make, self.names[0], body, in_loop=True)


async def _called(subject: Any, name: str, *arguments: object) -> Any:
    answer = getattr(subject, name)(*arguments)
    return await answer if inspect.isawaitable(answer) else answer


def _noted(found: Any, note: str) -> Any:
    """Return what was read with one more note: a store may tell by it what its caller has read."""
    changed = {} if found is None else found.copy()
    changed["notes"] = [*changed.get("notes", ()), note]
    return changed
