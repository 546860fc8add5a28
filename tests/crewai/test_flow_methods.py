"""Methods of one flow at once, and flows that wait for a person: each counts once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from crewai.flow import HumanFeedbackPending, human_feedback
from crewai.flow.flow import Flow, listen, start
from crewai.flow.persistence import persist
from pydantic import BaseModel
from stories import WAIT, approval_flow, at_once, meeting

import interlock
from interlock.adapters.crewai import Persistence, typed_errors, update, update_async

# Methods of one flow that run at once


@pytest.mark.parametrize("asynchronous", [False, True])
def test_four_start_methods_at_once_are_all_kept(
    space: interlock.Space, asynchronous: bool
) -> None:
    persistence = Persistence(space)
    think = meeting(4)
    thoughts = threading.Semaphore(4)  # those that meet; a second thought does not wait

    def add(name: str) -> Any:
        def note(notes: list[str]) -> list[str]:
            if thoughts.acquire(blocking=False):
                think()
            return [*notes, name]

        async def note_later(notes: list[str]) -> list[str]:
            if thoughts.acquire(blocking=False):
                await asyncio.to_thread(think)
            return [*notes, name]

        def method(self: Any) -> None:
            update(self, "notes", note, default=[])

        async def method_later(self: Any) -> None:
            await update_async(self, "notes", note_later, default=[])

        made = method_later if asynchronous else method
        made.__name__ = name
        return start()(made)

    names = ("flights", "hotels", "museums", "weather")
    flow = persist(persistence)(type("Research", (Flow,), {name: add(name) for name in names}))
    flow().kickoff(inputs={"id": "trip"})
    saved = persistence.load_state("trip")
    assert saved is not None
    assert sorted(saved["notes"]) == list(names)


def test_of_two_saves_at_once_the_later_one_has_the_later_state(local: interlock.Space) -> None:
    persistence = Persistence(local)
    encoding, saved = threading.Event(), threading.Event()

    class Watched(Persistence):
        def save_state(self, flow_uuid: str, method_name: str, state_data: Any) -> None:
            super().save_state(flow_uuid, method_name, state_data)
            if method_name == "second":
                saved.set()

    class Slow:
        def __str__(self) -> str:
            if not encoding.is_set():
                encoding.set()
                saved.wait(0.3)  # it comes only where the other save need not wait for this one
            return "slow"

    @persist(Watched(local))
    class Two(Flow[dict[str, Any]]):
        @start()
        def first(self) -> None:
            self.state["first"] = Slow()

        @start()
        def second(self) -> None:
            assert encoding.wait(WAIT)
            self.state["second"] = True

    Two().kickoff(inputs={"id": "trip", "second": False})
    assert persistence.load_state("trip") == {"id": "trip", "first": "slow", "second": True}


def test_a_model_is_updated_as_a_dict_is(local: interlock.Space) -> None:
    class Count(BaseModel):
        id: str = ""
        seen: list[int] = []

    @persist(Persistence(local))
    class Counting(Flow[Count]):
        @start()
        def count(self) -> list[int]:
            found: list[int] = update(self, "seen", lambda seen: [*seen, 1])
            return found

    assert Counting().kickoff() == [1]


# Waiting for a person


@pytest.mark.parametrize("saved", [False, True], ids=["pause only", "each method"])
@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "at once"])
def test_an_answer_that_is_delivered_twice_acts_once(
    space: interlock.Space, saved: bool, together: bool
) -> None:
    persistence, done = Persistence(space), list[str]()
    flow = approval_flow(persistence, done, saved)
    asked = flow(persistence=persistence)
    asked.kickoff()
    resumed = [flow.from_pending(asked.flow_id, persistence) for _ in range(2)]

    def deliver(index: int) -> None:
        with typed_errors():
            flow.from_pending(asked.flow_id, persistence).resume(f"yes-{index}")

    if together:
        told = at_once(2, deliver)
    else:
        told = []
        for each in resumed:
            try:
                with typed_errors():
                    each.resume("yes-0")
                told.append(None)
            except interlock.Conflict as conflict:
                told.append(conflict)
    assert len(done) == 1
    assert None in told
    assert {type(each) for each in told if each} <= {interlock.Conflict, ValueError}
    assert persistence.load_pending_feedback(asked.flow_id) is None
    if saved:
        state = persistence.load_state(asked.flow_id)
        assert state is not None
        assert state["paid"] is True


@pytest.mark.parametrize("saved", [False, True], ids=["pause only", "each method"])
def test_a_flow_may_be_resumed_elsewhere_than_it_was_loaded(
    local: interlock.Space, saved: bool
) -> None:
    persistence, done = Persistence(local), list[str]()
    flow = approval_flow(persistence, done, saved)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):  # the thread has loaded another question before
            asked = flow(persistence=persistence)
            asked.kickoff()
            waiting = pool.submit(flow.from_pending, asked.flow_id, persistence).result()
            waiting.resume("yes")
    assert len(done) == 2


def test_two_answers_that_both_loaded_the_question_act_once(space: interlock.Space) -> None:
    persistence, done = Persistence(space), list[str]()
    flow = approval_flow(persistence, done, saved=False)
    asked = flow(persistence=persistence)
    asked.kickoff()
    both_loaded = meeting(2)

    def deliver(index: int) -> None:
        mine = flow.from_pending(asked.flow_id, persistence)
        both_loaded()
        with typed_errors():
            mine.resume(f"yes-{index}")

    told = at_once(2, deliver)
    assert [type(each) for each in told if each] == [interlock.Conflict]
    assert len(done) == 1


@pytest.mark.parametrize("saved", [False, True], ids=["pause only", "each method"])
def test_a_model_that_waits_for_a_person_twice_acts_once_each(
    local: interlock.Space, saved: bool
) -> None:
    persistence, done = Persistence(local), list[str]()

    class Paid(BaseModel):
        id: str = "trip"
        paid: int = 0

    class Ask:
        def request_feedback(self, context: Any, flow: Any) -> str:
            raise HumanFeedbackPending(context=context)

    class Approval(Flow[Paid]):
        initial_state = Paid

        @start()
        @human_feedback(message="Pay?", provider=Ask())
        def propose(self) -> str:
            return "pay 100"

        @listen(propose)
        @human_feedback(message="Sure?", provider=Ask())
        def pay(self, answer: Any) -> str:
            done.append(answer.feedback)
            self.state.paid += 1
            return "paid"

        @listen(pay)
        def thank(self, answer: Any) -> None:
            done.append(answer.feedback)

    flow = persist(persistence)(Approval) if saved else Approval
    flow(persistence=persistence).kickoff()
    late = flow.from_pending("trip", persistence)
    going_on = flow.from_pending("trip", persistence)
    going_on.resume("yes")
    with pytest.raises(interlock.Conflict), typed_errors():
        late.resume("yes, late")
    going_on.resume("sure")
    with pytest.raises(ValueError, match="No pending"):
        flow.from_pending("trip", persistence)
    assert done == ["yes", "sure"]


def test_of_two_runs_that_ask_at_once_with_equal_states_one_does(local: interlock.Space) -> None:
    persistence, think = Persistence(local), meeting(2)

    class Asks(BaseModel):
        id: str = ""

    class Ask:
        def request_feedback(self, context: Any, flow: Any) -> str:
            think()
            raise HumanFeedbackPending(context=context)

    @persist(persistence)
    class Both(Flow[Asks]):
        initial_state = Asks

        @start()
        @human_feedback(message="Pay?", provider=Ask())
        def propose(self) -> str:
            return "pay 100"

    persistence.save_state("trip", "begin", {"id": "trip"})

    def run(_: int) -> None:
        with typed_errors():
            Both().kickoff(inputs={"id": "trip"})

    told = at_once(2, run)
    assert sorted(str(type(each)) for each in told) == sorted(
        map(str, (type(None), interlock.Conflict))
    )
