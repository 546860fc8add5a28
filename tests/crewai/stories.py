"""The flows that the tests kick off: several at once, and one that asks a person."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from crewai.flow import HumanFeedbackPending, human_feedback
from crewai.flow.flow import Flow, listen, start
from crewai.flow.persistence import FlowPersistence, persist

WAIT = 60  # seconds; keeps a test from waiting forever


def no_thought() -> None:
    """Think of nothing."""


def kickoff(flow: type[Flow[Any]], who: str, flow_id: str = "trip") -> Any:
    return flow().kickoff(inputs={"id": flow_id, "who": who})


def notes_flow(persistence: FlowPersistence, think: Callable[[], object]) -> type[Flow[Any]]:
    """A flow that reads its notes, thinks, and adds one."""

    @persist(persistence)
    class Notes(Flow[dict[str, Any]]):
        @start()
        def note(self) -> None:
            before = list(self.state.get("notes", []))
            think()
            self.state["notes"] = [*before, self.state["who"]]

    return Notes


def approval_flow(persistence: FlowPersistence, done: list[str], saved: bool) -> type[Flow[Any]]:
    """A flow that asks a person, then acts; `saved`: after each method, not only at the pause."""

    class Ask:
        def request_feedback(self, context: Any, flow: Any) -> str:
            raise HumanFeedbackPending(context=context)

    class Approval(Flow[dict[str, Any]]):
        @start()
        @human_feedback(message="Pay?", provider=Ask())
        def propose(self) -> str:
            return "pay 100"

        @listen(propose)
        def pay(self, answer: Any) -> None:
            done.append(answer.feedback)
            self.state["paid"] = True

    return persist(persistence)(Approval) if saved else Approval


def at_once(number: int, work: Callable[[int], Any]) -> list[BaseException | None]:
    """Do `work(index)` in threads; return what each raised."""
    with ThreadPoolExecutor(number) as pool:
        return [each.exception(WAIT) for each in [pool.submit(work, n) for n in range(number)]]


def meeting(number: int) -> Callable[[], object]:
    """Return a thought that ends when so many think it."""
    barrier = threading.Barrier(number)
    return lambda: barrier.wait(WAIT)
