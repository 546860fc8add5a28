"""Cases for what AutoGen agents share: a `CacheStore`, and the saved state of a team."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from interlock import Json
from interlock.verify.frameworks.agents import (
    PATIENCE,
    Connection,
    Gate,
    Report,
    acknowledged,
    connected,
    counted,
    refusals,
    together,
    until_told_yes,
)

_WRITERS, _RUNS = 5, 5
_FIRST = ["hello", "hello to you"]


def check_cache_store(make: Callable[[], Any], *, patience: float = PATIENCE) -> Report:
    """Try what an AutoGen `CacheStore` keeps when five writers get a value, think, and set it.

    `make()` opens the store as one more process would: it returns a store, or a context manager
    that gives one.  All of them share one database, which is empty at first.  A writer whose `set`
    raises anything reads again.  `patience`: seconds that writers are held for others.

    The case: `parallel_writers`.
    """
    gate = Gate(_WRITERS, patience)

    def agent(number: int) -> object:
        async def body(opened: Connection) -> None:
            async def attempt() -> None:
                found = opened.subject.get("notes", None)
                notes = [] if found is None else found.copy()
                await opened.hold(gate, number)
                notes.append(f"{number}")  # what was read, changed: a store may tell by it
                opened.subject.set("notes", notes)

            await until_told_yes(attempt)

        return connected(make, "set", body)

    async def read(opened: Connection) -> list[str]:
        return list(opened.subject.get("notes", None) or [])

    answers = together([partial(agent, n) for n in range(_WRITERS)], gate)
    done = [*map(str, acknowledged(answers))]
    found = connected(make, "set", read)
    return Report(
        "AutoGen CacheStore", (counted("parallel_writers", done, found, refusals(answers)),)
    )


class _Team:
    """What a team is to whoever saves it: `save_state`, `load_state`, and a run that adds to it."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    async def save_state(self) -> Mapping[str, Json]:
        """Return the state, as AutoGen's teams do."""
        return {"type": "Team", "version": "1.0.0", "messages": list(self.messages)}

    async def load_state(self, state: Mapping[str, Json]) -> None:
        """Take a state on, as AutoGen's teams do."""
        self.messages = list(state["messages"])


def check_team_state(make: Callable[[Any], Any], *, patience: float = PATIENCE) -> Report:
    """Try what is kept of an AutoGen team when five runs go on with one saved conversation.

    `make(team)` returns what a run is made in, an `async with` block: it loads the state that was
    saved last into the team (`load_state`), and saves it at the end (`save_state`), as one more
    process would.  There is no state at first.  A run that is refused is not made again.
    `patience`: seconds that runs are held for others.

    The case: `parallel_runs`.
    """
    gate = Gate(_RUNS, patience)

    def run(messages: list[str], number: int | None = None) -> list[str]:
        team = _Team()

        async def body(opened: Connection) -> list[str]:
            if number is not None:
                await opened.hold(gate, number)
            team.messages += messages
            return team.messages

        return connected(lambda: make(team), "never", body, in_loop=True)

    def agent(number: int) -> object:
        return run([f"question {number}", f"answer {number}"], number)

    run(_FIRST)
    answers = together([partial(agent, n) for n in range(_RUNS)], gate)
    done = acknowledged(answers)
    expected = [text for n in done for text in (f"question {n}", f"answer {n}")]
    if done:
        expected = [*_FIRST, *expected]
    result = counted("parallel_runs", expected, run([]), refusals(answers))
    return Report("AutoGen team state", (result,))
