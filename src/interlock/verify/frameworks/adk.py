"""Cases for the session services of Google ADK: events, state of sessions, users and apps."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
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

_AGENTS = 5
_APP = "app"


def check_session_service(make: Callable[[], Any], *, patience: float = PATIENCE) -> Report:
    """Try what a `BaseSessionService` of Google ADK keeps when several agents use it at once.

    `make()` opens the service as one more process would: it returns a service, or a context manager
    (`async with`, too) that gives one.  All of them share one database, which is empty at first.
    An agent whose `append_event` raises anything gets the session anew and thinks again; a refused
    run of a `Runner` is not made again.  `patience`: seconds that agents are held for others.

    The cases: `parallel_events` of one session; `session_state`, `user_state` and `app_state`, a
    list in the state (`user:` and `app:` are shared by sessions) to which each agent adds;
    `zombie_agent`, one that stalls between reading the state and adding to it; `parallel_runs`, of
    which each acknowledged one must be there with its question and its answer.
    """
    kit = _Kit(make, patience)
    cases = (
        kit.parallel_events,
        partial(kit.parallel_state, "session_state", "notes"),
        partial(kit.parallel_state, "user_state", "user:notes"),
        partial(kit.parallel_state, "app_state", "app:notes"),
        kit.zombie_agent,
        kit.parallel_runs,
    )
    return Report("Google ADK session service", tuple(case() for case in cases))


class _Kit:
    def __init__(self, make: Callable[[], Any], patience: float) -> None:
        self.make = make
        self.patience = patience

    def parallel_events(self) -> Result:
        case, gate = "parallel_events", Gate(_AGENTS, self.patience)
        self.begin(case)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                async def attempt() -> None:
                    session = await _get(opened, case)
                    await opened.hold(gate, number)
                    await opened.subject.append_event(session, _event(f"{number}"))

                await until_told_yes(attempt)

            return self.connected(body)

        answers = together([partial(agent, n) for n in range(_AGENTS)], gate)
        return counted(case, map(str, acknowledged(answers)), self.texts(case), refusals(answers))

    def parallel_state(self, case: str, name: str) -> Result:
        """Agents add to a list in the state: of one session, of a user's, or of an app's."""
        gate = Gate(_AGENTS, self.patience)
        sessions = {
            "session_state": [(case, "user")] * _AGENTS,
            "user_state": [(f"{case}-{n}", "user") for n in range(_AGENTS)],
            "app_state": [(f"{case}-{n}", f"user-{n}") for n in range(_AGENTS)],
        }[case]
        for session, user in dict.fromkeys(sessions):
            self.begin(session, user)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                async def attempt() -> None:
                    session = await _get(opened, *sessions[number])
                    notes = [*session.state.get(name, ()), f"{number}"]
                    await opened.hold(gate, number)
                    await opened.subject.append_event(session, _event("noted", {name: notes}))

                await until_told_yes(attempt)

            return self.connected(body)

        answers = together([partial(agent, n) for n in range(_AGENTS)], gate)
        found = self.state(*sessions[0]).get(name, ())
        return counted(case, map(str, acknowledged(answers)), found, refusals(answers))

    def zombie_agent(self) -> Result:
        case, stalls, goes_on = "zombie_agent", threading.Event(), threading.Event()
        self.begin(case)

        async def add(opened: Connection, session: Any, note: str) -> None:
            notes = [*session.state.get("notes", ()), note]
            await opened.subject.append_event(session, _event("noted", {"notes": notes}))

        async def zombie(opened: Connection) -> None:
            try:
                session = await _get(opened, case)
            finally:
                stalls.set()
            goes_on.wait(self.patience)
            await add(opened, session, "0")

        async def replacement(opened: Connection) -> None:
            stalls.wait()
            try:
                await add(opened, await _get(opened, case), "1")
            finally:
                goes_on.set()

        answers = together([partial(self.connected, each) for each in (zombie, replacement)])
        found = self.state(case).get("notes", ())
        return counted(case, map(str, acknowledged(answers)), found, refusals(answers))

    def parallel_runs(self) -> Result:
        case, gate = "parallel_runs", Gate(_AGENTS, self.patience)
        self.begin(case)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                async def thinks() -> str:
                    await opened.hold(gate, number)
                    return f"answer {number}"

                await _run(opened.subject, case, f"question {number}", thinks)

            return self.connected(body)

        answers = together([partial(agent, n) for n in range(_AGENTS)], gate)
        kinds = ("question", "answer")
        expected = [f"{kind} {n}" for n in acknowledged(answers) for kind in kinds]
        return counted(case, expected, self.texts(case), refusals(answers))

    def begin(self, session: str, user: str = "user") -> None:
        async def body(opened: Connection) -> None:
            await opened.subject.create_session(app_name=_APP, user_id=user, session_id=session)

        self.connected(body)

    def texts(self, session: str) -> list[str]:
        """Return the texts of the events that a reader finds."""

        async def body(opened: Connection) -> list[str]:
            events = (await _get(opened, session)).events
            parts = [part for each in events if each.content for part in each.content.parts or ()]
            return [part.text for part in parts]

        return self.connected(body)

    def state(self, session: str, user: str = "user") -> dict[str, Any]:
        async def body(opened: Connection) -> dict[str, Any]:
            return dict((await _get(opened, session, user)).state)

        return self.connected(body)

    def connected(self, body: Body[T]) -> T:
        return connected(self.make, "append_event", body, in_loop=True)


async def _get(opened: Connection, session: str, user: str = "user") -> Any:
    return await opened.subject.get_session(app_name=_APP, user_id=user, session_id=session)


def _event(text: str, state: dict[str, Any] | None = None) -> Any:
    from google.adk.events import Event, EventActions
    from google.genai import types

    content = types.Content(role="user", parts=[types.Part(text=text)])
    return Event(author="user", content=content, actions=EventActions(state_delta=state or {}))


async def _run(service: Any, session: str, question: str, thinks: Callable[[], Any]) -> None:
    """Make one run of an agent that answers what `thinks` returns."""
    from google.adk.agents import BaseAgent
    from google.adk.runners import Runner
    from google.genai import types

    class Thinker(BaseAgent):
        async def _run_async_impl(self, ctx: Any) -> AsyncGenerator[Any, None]:
            event = _event(await thinks())
            yield event.model_copy(update={"author": self.name, "invocation_id": ctx.invocation_id})

    runner = Runner(app_name=_APP, agent=Thinker(name="thinker"), session_service=service)
    message = types.Content(role="user", parts=[types.Part(text=question)])
    async for _ in runner.run_async(user_id="user", session_id=session, new_message=message):
        pass
