"""Cases for the state of FastMCP's sessions: what `session_state_store` must keep."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from interlock.verify.frameworks.agents import (
    PATIENCE,
    Connection,
    Gate,
    Report,
    Result,
    acknowledged,
    connected,
    counted,
    refusals,
    together,
    until_told_yes,
)

_REQUESTS = 5


def check_session_state(make: Callable[[], Any], *, patience: float = PATIENCE) -> Report:
    """Try what an `AsyncKeyValue` keeps of FastMCP's sessions when five requests come at once.

    `make()` opens the store as one more server would: it returns a store, or a context manager
    (`async with`, too) that gives one.  All of them share one database, which is empty at first.
    A request that is refused is made again.  `patience`: seconds that requests are held for others.

    The cases: `different_keys` of one session, which FastMCP stores as one value; `same_key`, which
    each gets, thinks about, and sets.
    """
    kit = _Kit(make, patience)
    cases = (partial(kit.requests, "different_keys"), partial(kit.requests, "same_key"))
    return Report("FastMCP session state", tuple(case() for case in cases))


class _Kit:
    def __init__(self, make: Callable[[], Any], patience: float) -> None:
        self.make = make
        self.patience = patience

    def requests(self, case: str) -> Result:
        gate = Gate(_REQUESTS, self.patience)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                async def attempt() -> None:
                    session = _session(_Held(opened, gate, number), case)
                    if case == "same_key":
                        notes = await session.get("notes", [])
                        await session.set("notes", [*notes, f"{number}"])
                    else:
                        await session.set(f"notes {number}", [f"{number}"])

                await until_told_yes(attempt)

            return connected(self.make, "get", body, in_loop=True)

        async def read(opened: Connection) -> list[str]:
            session = _session(opened.subject, case)
            keys = ["notes", *(f"notes {n}" for n in range(_REQUESTS))]
            return [note for key in keys for note in await session.get(key, [])]

        answers = together([partial(agent, n) for n in range(_REQUESTS)], gate)
        done = [*map(str, acknowledged(answers))]
        found = connected(self.make, "get", read, in_loop=True)
        return counted(case, done, found, refusals(answers))


class _Held:
    """A store that holds an agent at its first read: `session.set` begins with one."""

    def __init__(self, opened: Connection, gate: Gate, agent: int) -> None:
        self._opened = opened
        self._gate = gate
        self._agent = agent

    async def get(self, key: str, **named: Any) -> Any:
        found = await self._opened.subject.get(key, **named)
        await self._opened.hold(self._gate, self._agent)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened.subject, name)


def _session(store: Any, name: str) -> Any:
    from fastmcp.server.server import StateValue
    from fastmcp.server.sessions import Session
    from key_value.aio.adapters.pydantic import PydanticAdapter

    adapter: Any = PydanticAdapter
    values = adapter(store, StateValue, default_collection="fastmcp_state")
    return Session(store=values, principal=None, session_id=name)
