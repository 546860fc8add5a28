"""Runs of one flow at once: each is kept or refused, none is destroyed."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from crewai.flow.flow import Flow, listen, start
from crewai.flow.persistence import persist
from crewai.flow.persistence.factory import set_flow_persistence_factory
from pydantic import BaseModel
from stories import WAIT, approval_flow, at_once, kickoff, meeting, no_thought, notes_flow

import interlock
from interlock.adapters.crewai import Persistence, typed_errors
from interlock.adapters.crewai.persistence import flow_key

# Kickoffs of one flow id at once


def test_of_five_kickoffs_at_once_one_is_kept_and_four_are_told(space: interlock.Space) -> None:
    persistence = Persistence(space)
    kickoff(notes_flow(persistence, no_thought), "first")
    flow = notes_flow(persistence, meeting(5))
    told = at_once(5, lambda n: kickoff(flow, f"agent-{n}"))
    causes = [type(each.__cause__) for each in told if isinstance(each, RuntimeError)]
    assert causes == [interlock.Conflict] * 4
    (winner,) = [f"agent-{n}" for n in range(5) if told[n] is None]
    saved = persistence.load_state("trip")
    assert saved is not None
    assert saved["notes"] == ["first", winner]


def test_five_kickoffs_that_take_turns_are_all_kept(space: interlock.Space) -> None:
    persistence = Persistence(space)
    flow = notes_flow(persistence, no_thought)
    kickoff(flow, "first")

    def take_turn(index: int) -> None:
        with persistence.run("trip") as run:
            flow().kickoff(inputs={**run.inputs, "who": f"agent-{index}"})

    assert at_once(5, take_turn) == [None] * 5
    saved = persistence.load_state("trip")
    assert saved is not None
    assert sorted(saved["notes"]) == [*(f"agent-{n}" for n in range(5)), "first"]


async def test_more_tasks_take_turns_than_asyncio_has_threads(local: interlock.Space) -> None:
    persistence = Persistence(local)
    flow = notes_flow(persistence, no_thought)

    async def take_turn(index: int) -> None:
        async with persistence.run("trip") as run:
            await flow().kickoff_async(inputs={**run.inputs, "who": index})

    async with asyncio.timeout(WAIT):
        await asyncio.gather(*(take_turn(index) for index in range(40)))
    saved = persistence.load_state("trip")
    assert saved is not None
    assert sorted(saved["notes"]) == list(range(40))


async def test_a_task_cancelled_while_it_waits_leaves_no_lease(local: interlock.Space) -> None:
    persistence = Persistence(local)

    async def take_turn() -> None:
        async with persistence.run("trip"):
            pytest.fail("it was cancelled before its turn")

    async with persistence.run("trip"):
        waiting = asyncio.create_task(take_turn())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(WAIT), persistence.run("trip") as run:
        assert run.epoch >= 2


async def test_a_run_that_is_cut_off_leaves_the_flow_to_the_next_at_once(
    local: interlock.Space,
) -> None:
    persistence, begun = Persistence(local), asyncio.Event()

    async def hang() -> None:
        async with persistence.run("trip"):
            begun.set()
            await asyncio.Event().wait()

    hanging = asyncio.create_task(hang())
    await begun.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hanging, 0)
    async with persistence.run("trip", wait=0) as run:
        assert run.inputs == {"id": "trip"}


def test_a_kickoff_outside_the_run_block_is_held_back(space: interlock.Space) -> None:
    persistence = Persistence(space)
    flow = notes_flow(persistence, no_thought)
    with persistence.run("trip") as run:
        told = at_once(1, lambda _: kickoff(flow, "outside"))
        flow().kickoff(inputs={**run.inputs, "who": "inside"})
    assert isinstance(told[0], RuntimeError)
    assert isinstance(told[0].__cause__, interlock.Held)
    saved = persistence.load_state("trip")
    assert saved is not None
    assert saved["notes"] == ["inside"]


def test_a_run_that_was_taken_over_is_fenced(space: interlock.Space) -> None:
    persistence = Persistence(space)

    def taken_over() -> None:
        space.reclaim(flow_key("trip"))

    with (
        pytest.raises(interlock.Fenced),
        persistence.run("trip") as run,
    ):
        notes_flow(persistence, taken_over)().kickoff(inputs={**run.inputs, "who": "zombie"})
    assert persistence.load_state("trip") is None


def test_two_flow_objects_in_one_run_block_do_not_undo_each_other(local: interlock.Space) -> None:
    persistence = Persistence(local)
    flow = notes_flow(persistence, meeting(2))
    with persistence.run("trip") as run:
        told: list[BaseException] = []

        async def both() -> None:
            kickoffs = [flow().kickoff_async({**run.inputs, "who": who}) for who in "ab"]
            found = await asyncio.gather(*kickoffs, return_exceptions=True)
            told.extend(each for each in found if isinstance(each, BaseException))

        asyncio.run(both())
    assert [type(each.__cause__) for each in told] == [interlock.Invalid]


def test_it_waits_no_longer_than_it_should(local: interlock.Space) -> None:
    persistence = Persistence(local)
    with (
        persistence.run("trip"),
        pytest.raises(interlock.Held),
        persistence.run("trip", wait=0),
    ):
        pytest.fail("two runs of one flow")


# What a save must come from


def test_a_flow_object_goes_on_from_its_own_last_save(local: interlock.Space) -> None:
    persistence = Persistence(local)
    flow = notes_flow(persistence, no_thought)()
    flow.kickoff(inputs={"who": "a"})
    flow.kickoff(inputs={"who": "b"})
    saved = persistence.load_state(flow.flow_id)
    assert saved is not None
    assert saved["notes"] == ["a", "b"]


def test_a_flow_that_did_not_load_what_is_there_cannot_overwrite_it(
    local: interlock.Space,
) -> None:
    persistence = Persistence(local)

    class Fixed(BaseModel):
        id: str = "fixed"
        steps: int = 0

    @persist(persistence)
    class Counting(Flow[Fixed]):
        initial_state = Fixed

        @start()
        def count(self) -> None:
            self.state.steps += 1

    Counting().kickoff()
    with pytest.raises(interlock.Conflict), typed_errors():
        Counting().kickoff()
    assert persistence.load_state("fixed") is not None  # a look is not the flow's
    with pytest.raises(interlock.Conflict), typed_errors():
        Counting().kickoff()
    Counting().kickoff(inputs={"id": "fixed"})
    assert persistence.load_state("fixed") == {"id": "fixed", "steps": 2}


def test_a_flow_that_another_one_overtook_inside_it_is_told(local: interlock.Space) -> None:
    persistence = Persistence(local)
    inner = notes_flow(persistence, no_thought)

    @persist(persistence)
    class Outer(Flow[dict[str, Any]]):
        @start()
        async def begin(self) -> None:
            await inner().kickoff_async(inputs={"id": "trip", "who": "inner"})

    kickoff(inner, "first")
    with pytest.raises(interlock.Conflict), typed_errors():
        Outer().kickoff(inputs={"id": "trip"})
    saved = persistence.load_state("trip")
    assert saved is not None
    assert saved["notes"] == ["first", "inner"]


def test_looking_at_the_state_inside_a_flow_does_not_count_as_loading_it(
    local: interlock.Space,
) -> None:
    persistence = Persistence(local)
    other = notes_flow(persistence, no_thought)

    def look() -> None:
        other().kickoff(inputs={"id": "trip", "who": "other"})
        assert persistence.load_state("trip") is not None

    with pytest.raises(interlock.Conflict), typed_errors():
        kickoff(notes_flow(persistence, look), "looked")


def test_a_class_derived_from_it_is_guarded_the_same(local: interlock.Space) -> None:
    class Mine(Persistence):
        def save_state(self, flow_uuid: str, method_name: str, state_data: Any) -> None:
            super().save_state(flow_uuid, method_name, state_data)

    flow = notes_flow(Mine(local), meeting(2))
    told = at_once(2, lambda n: kickoff(flow, str(n)))
    assert [type(each.__cause__) for each in told if each] == [interlock.Conflict]


def test_whichever_thread_saves_it_is_the_flow_that_saves(local: interlock.Space) -> None:
    class Elsewhere(Persistence):
        def save_state(self, *arguments: Any, **named: Any) -> None:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(super().save_state, *arguments, **named).result()

    persistence = Elsewhere(local)
    flow = notes_flow(persistence, no_thought)()
    for who in "ab":
        flow.kickoff(inputs={"who": who})
    kickoff(notes_flow(persistence, no_thought), "c", flow.flow_id)
    with pytest.raises(interlock.Conflict), typed_errors():
        flow.kickoff(inputs={"who": "late"})
    assert (persistence.load_state(flow.flow_id) or {})["notes"] == ["a", "b", "c"]


def test_one_line_opens_a_persistence_and_closes_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with Persistence(url, space="travel", agent="crew") as persistence:
        kickoff(notes_flow(persistence, no_thought), "a")
    with pytest.raises(interlock.Closed):
        persistence.load_state("trip")
    flow = notes_flow(Persistence(url, space="travel"), meeting(2))
    told = at_once(2, lambda n: kickoff(flow, str(n)))
    assert [type(each.__cause__) for each in told if each] == [interlock.Conflict]
    with interlock.open(url, space="travel") as space:
        assert len((Persistence(space).load_state("trip") or {})["notes"]) == 2


def test_each_flow_may_get_a_persistence_of_its_own(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    set_flow_persistence_factory(lambda: Persistence(url))
    done = list[str]()
    try:
        asked = approval_flow(Persistence(url), done, saved=True)()
        asked.kickoff()
        flow = type(asked)
        flow.from_pending(asked.flow_id).resume("yes")
        with pytest.raises(ValueError, match="No pending feedback"):
            flow.from_pending(asked.flow_id)
    finally:
        set_flow_persistence_factory(None)
    assert done == ["yes"]


def test_called_by_hand_it_compares_with_what_was_loaded(local: interlock.Space) -> None:
    persistence = Persistence(local)
    persistence.save_state("trip", "by hand", {"n": 1})
    with ThreadPoolExecutor(1) as elsewhere:  # where it was loaded does not matter
        mine, theirs = (elsewhere.submit(persistence.load_state, "trip").result() for _ in "12")
    for unseen in ({"n": 2}, dict(mine or {})):
        with pytest.raises(interlock.Conflict):
            persistence.save_state("trip", "unseen", unseen)
    for n in (3, 4):  # on from its own save
        assert theirs is not None
        theirs["n"] = n
        persistence.save_state("trip", "by hand", theirs)
    with pytest.raises(interlock.Conflict):
        persistence.save_state("trip", "late", mine)
    assert persistence.load_state("trip") == {"n": 4}
    Persistence(local, unread="overwrite").save_state("trip", "asked for", {"n": 5})
    assert persistence.load_state("trip") == {"n": 5}


def test_a_rule_that_merges_does_not_merge_behind_the_flow(tmp_path: Any) -> None:
    rules = {"crewai/flow/*": interlock.guarded(on_conflict="rebase")}
    with interlock.open(f"sqlite:///{tmp_path / 's.db'}", agent="crew", rules=rules) as space:
        persistence = Persistence(space)
        kickoff(notes_flow(persistence, no_thought), "x", "t")
        flow = notes_flow(persistence, meeting(2))
        told = at_once(2, lambda n: flow().kickoff(inputs={"id": "t", "who": "x", f"f{n}": n}))
    assert [type(each.__cause__) for each in told if each] == [interlock.Conflict]


# What reaches the user's code


async def test_the_typed_error_gets_out_of_a_running_loop(local: interlock.Space) -> None:
    persistence = Persistence(local)
    quick = notes_flow(persistence, no_thought)
    overtaken = notes_flow(persistence, lambda: kickoff(quick, "other"))
    with pytest.raises(interlock.Conflict) as caught, typed_errors():
        kickoff(overtaken, "slow")
    assert caught.value.key == flow_key("trip")
    assert caught.value.record.value["state"]["notes"] == ["other"]
    # CrewAI's events keep the error; let go of the coroutine of its second try, never awaited.
    caught.value.__context__ = None
    del caught
    gc.collect()


def test_errors_that_are_not_ours_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="of its own"), typed_errors():
        raise RuntimeError("of its own")


def test_a_conflict_is_no_runtime_error() -> None:
    """CrewAI takes a RuntimeError in the background for its own shutdown, and drops the save."""
    refused = [interlock.Conflict, interlock.Held, interlock.Fenced, interlock.Invalid]
    assert [each for each in refused if issubclass(each, RuntimeError)] == []


def test_a_state_that_is_no_json_is_refused_and_says_so(local: interlock.Space) -> None:
    flow = notes_flow(Persistence(local), no_thought)
    with pytest.raises(interlock.Invalid), typed_errors():
        flow().kickoff(inputs={"who": float("nan")})
    with pytest.raises(interlock.Invalid, match="saved as JSON"):
        Persistence(local).save_state("trip", "by hand", {("a", "b"): 1})
    with pytest.raises(interlock.Invalid, match="not int"):
        Persistence(local).save_state("trip", "by hand", 3)


# Where it goes in


def test_it_can_be_the_default_of_all_flows(local: interlock.Space) -> None:
    set_flow_persistence_factory(lambda: Persistence(local))
    try:

        @persist()
        class Saved(Flow[dict[str, Any]]):
            @start()
            def first(self) -> None:
                self.state["n"] = 1

            @listen(first)
            def second(self) -> None:
                self.state["n"] += 1

        flow = Saved()
        flow.kickoff()
        assert Persistence(local).load_state(flow.flow_id) == {"id": flow.flow_id, "n": 2}
        again = Persistence.model_validate(Persistence(local).model_dump())
        assert again.load_state(flow.flow_id) == {"id": flow.flow_id, "n": 2}
    finally:
        set_flow_persistence_factory(None)
    with pytest.raises(interlock.Invalid, match="needs a space"):
        Persistence()


async def test_an_asynchronous_space_is_refused() -> None:
    async with interlock.open_async("sqlite://") as space:
        with pytest.raises(interlock.Invalid, match=r"interlock\.open"):
            Persistence(space)  # type: ignore[arg-type]  # wrong on purpose


def test_any_text_is_a_flow_id(local: interlock.Space) -> None:
    persistence = Persistence(local)
    ids = ["..", "a/b", "a%2Fb", "*", " ", "$", "ü" * 300, "ü" * 301, "crewai/flow/a"]
    for each in ids:
        persistence.save_state(each, "by hand", {"id": each})
    assert [persistence.load_state(each) for each in ids] == [{"id": each} for each in ids]
    assert len({flow_key(each) for each in ids}) == len(ids)
