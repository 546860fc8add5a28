"""Workers inside one process: what they take up, how they tell, and how they stop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock import Worked
from tests.servers.process import wait_until

WITHIN = 10.0  # seconds


@pytest.fixture
def space(tmp_path: Path) -> Iterator[interlock.Space]:
    with interlock.open(f"sqlite:///{tmp_path / 'runs.db'}", agent="us") as opened:
        yield opened


class Background:
    """A worker that runs in a thread until the block is left."""

    def __init__(self, worker: interlock.Worker) -> None:
        self.worker = worker
        self.problem: BaseException | None = None
        self.thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        try:
            self.worker.work()
        except Exception as problem:
            self.problem = problem

    def __enter__(self) -> Background:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.worker.stop()
        self.thread.join(WITHIN)
        assert not self.thread.is_alive()


def ends_as(space: interlock.Space, id: str, state: str) -> None:
    wait_until(lambda: space.runs.show(id).state == state, f"{id} is {state}", WITHIN)


def approve(run: interlock.Run) -> Any:
    return run.wait_for("approval")


def test_news_wakes_a_worker_long_before_it_would_look_again(space: interlock.Space) -> None:
    with Background(space.worker({"approve": approve}, poll=600, ttl=1200)):
        began = time.monotonic()
        space.runs.start("r", "approve")
        ends_as(space, "r", "AwaitingInput")
        space.runs.send("r", "approval", "yes")
        ends_as(space, "r", "Completed")
        assert time.monotonic() - began < WITHIN
    assert space.runs.show("r").result == "yes"


def test_what_was_sent_while_a_worker_left_the_run_is_not_missed(space: interlock.Space) -> None:
    """The answer comes between the worker's last commit and the end of its lease."""
    real = space.session.driver.answer

    def answer(request: Any) -> Any:
        if type(request).__name__ == "DropLease" and request.key == "$run/r" and not sent:
            sent.append(True)
            space.runs.send("r", "approval", "yes")
            threading.Event().wait(0.3)  # so that the others look while the lease is still held
        return real(request)

    sent: list[bool] = []
    space.session.driver.answer = answer  # type: ignore[method-assign]  # it sends at the worst moment
    space.runs.start("r", "approve")
    with Background(space.worker({"approve": approve}, poll=600, ttl=1200)):
        ends_as(space, "r", "Completed")
    assert sent == [True]


def test_a_time_that_comes_wakes_a_worker(space: interlock.Space) -> None:
    def naps(run: interlock.Run) -> str:
        run.sleep(0.2)
        try:
            run.wait_for("never", timeout=0.2)
        except interlock.TimedOut:
            return "rested"
        return "disturbed"

    hows: list[str] = []
    space.runs.start("r", "naps")
    with Background(
        space.worker({"naps": naps}, poll=600, ttl=1200, on_worked=lambda w: hows.append(w.how))
    ):
        ends_as(space, "r", "Completed")
    assert space.runs.show("r").result == "rested"
    assert hows == ["waits", "waits", "completed"]


def test_only_due_runs_of_its_own_programs_are_taken_up(space: interlock.Space) -> None:
    began: list[str] = []

    def program(run: interlock.Run) -> None:
        began.append(run.id)

    for name, of in (("a", "mine"), ("b", "other"), ("c", "mine"), ("d", "mine")):
        space.runs.start(name, of)
    with space.run("c"):  # somebody works on it
        space.worker({"mine": program}).work(once=True)
        assert sorted(began) == ["a", "d"]
    with pytest.raises(ValueError, match="not now"), space.run("e", input=1):
        raise ValueError("not now")
    space.worker({"mine": program}).work(once=True)
    assert sorted(began) == ["a", "d"]
    states = {info.id: info.state for info in space.runs.list()}
    assert states == {
        "a": "Completed",
        "b": "Idle",
        "c": "Completed",
        "d": "Completed",
        "e": "Processing",
    }


def test_a_backlog_that_is_old_by_the_time_it_is_worked_on(space: interlock.Space) -> None:
    """Runs that are over, or not due any more, when the worker comes to them."""
    began: list[str] = []

    def fails(run: interlock.Run) -> None:
        raise ValueError(run.id)

    def program(run: interlock.Run) -> None:
        began.append(run.id)
        if len(began) == 1:
            space.runs.cancel(next(name for name in names if name != run.id))
            space.worker({"p": fails}, attempts=1).work(once=True)  # parks what is left

    names = ("a", "b", "c", "d")
    for name in names:
        space.runs.start(name, "p")
    worked_on: list[Worked] = []
    space.worker({"p": program}, slots=1, on_worked=worked_on.append).work(once=True)
    assert [(worked.id, worked.how) for worked in worked_on] == [(began[0], "completed")]
    states = sorted(info.state for info in space.runs.list())
    assert states == ["AwaitingInput", "AwaitingInput", "Completed", "Failed"]


@pytest.mark.parametrize("moment", range(8))
@pytest.mark.parametrize("waits", [False, True])
def test_a_run_that_is_taken_up_while_it_is_cancelled(
    tmp_path: Path, space: interlock.Space, waits: bool, moment: int
) -> None:
    """A worker comes before any one request of the one who cancels it."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with interlock.open(url, agent="other") as other:
        worker = other.worker({"approve": approve})
        space.runs.start("r", "approve")
        if waits:
            worker.work(once=True)
            space.runs.send("r", "something", 1)  # it is due
        real, requests = space.session.driver.answer, [0]

        def answer(request: Any) -> Any:
            requests[0] += 1
            if requests[0] == moment + 1:
                worker.work(once=True)
            return real(request)

        space.session.driver.answer = answer  # type: ignore[method-assign]  # a worker comes in between
        assert space.runs.cancel("r")
        info = other.runs.show("r")
        assert (info.state, info.error) == ("Failed", "cancelled")


def test_a_pause_after_a_failure_is_kept(space: interlock.Space) -> None:
    def fails(run: interlock.Run) -> None:
        raise SystemExit(3)  # counted like any failure, and ends nothing else

    worked_on: list[tuple[float, Worked]] = []
    space.runs.start("r", "fails")
    with Background(
        space.worker({"fails": fails}, on_worked=lambda w: worked_on.append((time.monotonic(), w)))
    ):
        wait_until(lambda: len(worked_on) == 2, "it fails twice", WITHIN)
    (first, worked), (second, _) = worked_on
    assert second - first >= 0.9, "it pauses for a second"
    assert (worked.how, space.runs.show("r").failures) == ("again", 2)
    assert "SystemExit(3)" in str(worked.error)


def test_undoing_is_left_and_gone_on_with(space: interlock.Space) -> None:
    undone: list[str] = []

    def undo(key: str, result: str) -> None:
        undone.append(result)
        if result == "second":
            worker.stop()

    def program(run: interlock.Run) -> None:
        for name in ("first", "second"):
            run.effect(name, lambda key, name: name, name, compensate=undo)
        raise interlock.RunFailed("no")

    worked_on: list[Worked] = []
    space.runs.start("r", "p")
    worker = space.worker({"p": program}, on_worked=worked_on.append)
    worker.work()
    assert ([w.how for w in worked_on], undone) == (["left"], ["second"])
    assert space.runs.show("r").state == "Processing"
    space.worker({"p": program}, attempts=1, on_worked=worked_on.append).work(
        once=True
    )  # nobody died
    assert ([w.how for w in worked_on], undone) == (["left", "failed"], ["second", "first"])


def test_a_program_that_swallows_the_stop_does_not_complete_the_run(space: interlock.Space) -> None:
    def greedy(run: interlock.Run) -> str:
        run.step("one", lambda: worker.stop())
        try:
            run.step("two", lambda: None)
        except BaseException:
            return "done"
        return "done, too"

    worked_on: list[Worked] = []
    space.runs.start("r", "p")
    worker = space.worker({"p": greedy}, on_worked=worked_on.append)
    worker.work()
    assert [w.how for w in worked_on] == ["left"]
    assert space.runs.show("r").state == "Processing"


def test_being_left_again_and_again_is_no_death(space: interlock.Space) -> None:
    worked_on: list[Worked] = []

    def program(run: interlock.Run) -> str:
        if len(worked_on) < 4:
            worker.stop()
        run.step("one", lambda: None)
        return "done"

    space.runs.start("r", "p")
    for _ in range(5):
        worker = space.worker({"p": program}, attempts=2, on_worked=worked_on.append)
        worker.work(once=True)
    assert [w.how for w in worked_on] == [*["left"] * 4, "completed"]


def test_what_told_raises_ends_the_worker(space: interlock.Space) -> None:
    def worked_on(worked: Worked) -> None:
        raise BrokenPipeError(worked.id)

    space.runs.start("r", "p")
    worker = space.worker({"p": lambda run: None}, on_worked=worked_on)
    with pytest.raises(BrokenPipeError, match="r"):
        worker.work(once=True)
    assert worker.stopped


def test_a_worker_whose_name_was_taken_over_ends(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    with interlock.open(url, agent="w", exclusive=True) as old:
        worker = old.worker({"approve": approve})
        with interlock.open(url, agent="w", exclusive=True) as new:
            new.runs.start("r", "approve")
            with pytest.raises(interlock.Fenced):
                worker.work()
            assert new.runs.show("r").state == "Idle"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots=0"),
        ({"slots": True}, "slots=True"),
        ({"ttl": 0}, "ttl=0"),
        ({"poll": "often"}, "poll='often'"),
        ({"attempts": 0}, "attempts=0"),
        ({"programs": {}}, "at least one"),
        ({"programs": {"p": 1}}, "not a program"),
        ({"programs": [approve]}, "must map"),
    ],
)
def test_options_are_checked(space: interlock.Space, options: Any, message: str) -> None:
    given = {"programs": {"p": approve}, **options}
    with pytest.raises(interlock.Invalid, match=message):
        space.worker(**given)


async def test_each_facade_has_its_kind_of_program(space: interlock.Space) -> None:
    async def awaited(run: interlock.AsyncRun) -> None: ...

    with pytest.raises(interlock.Invalid, match="coroutine function"):
        space.worker({"p": awaited})  # type: ignore[dict-item]  # it is refused
    async with await interlock.open_async("sqlite://") as other:
        with pytest.raises(interlock.Invalid, match="not a coroutine function"):
            other.worker({"p": lambda run: None})


async def test_a_worker_in_tasks(tmp_path: Path) -> None:
    async with await interlock.open_async(f"sqlite:///{tmp_path / 'a.db'}", agent="us") as space:

        async def program(run: interlock.AsyncRun) -> Any:
            async def add(name: str) -> str:
                await run.tx.create(f"made/{run.id}/{name}", name)
                return name

            async with asyncio.TaskGroup() as group:
                group.create_task(run.step("a", add, "a"))
                answer = group.create_task(run.wait_for("go"))
            if answer.result() == "fail":
                raise ValueError("told to")
            return answer.result()

        worked_on: list[Worked] = []
        worker = space.worker({"p": program}, on_worked=worked_on.append, slots=2, attempts=1)
        for n in range(3):
            await space.runs.start(f"r{n}", "p")
        await worker.work(once=True)
        assert [w.how for w in worked_on] == ["waits"] * 3
        for n, word in enumerate(("yes", "yes", "fail")):
            await space.runs.send(f"r{n}", "go", word)
        await worker.work(once=True)
        assert sorted((w.id, w.how) for w in worked_on[3:]) == [
            ("r0", "completed"),
            ("r1", "completed"),
            ("r2", "parked"),
        ]
        assert len(await space.scan("made/")) == 3


async def test_what_is_left_running_beside_a_wait_begins_nothing_new(tmp_path: Path) -> None:
    async with await interlock.open_async(f"sqlite:///{tmp_path / 'a.db'}", agent="us") as space:
        gate, ended = asyncio.Event(), asyncio.Event()

        async def beside(run: interlock.AsyncRun) -> None:
            try:
                await gate.wait()
                with pytest.raises(interlock.Invalid, match="was left"):
                    await run.effect("late", lambda key: None)
            finally:
                ended.set()

        async def program(run: interlock.AsyncRun) -> None:
            await asyncio.gather(beside(run), run.wait_for("go"))

        await space.runs.start("r", "p")
        await space.worker({"p": program}).work(once=True)
        gate.set()
        await ended.wait()
        assert [step.name for step in (await space.runs.show("r")).steps] == ["go"]


async def test_a_cancelled_worker_leaves_its_runs(tmp_path: Path) -> None:
    async with await interlock.open_async(f"sqlite:///{tmp_path / 'a.db'}", agent="us") as space:
        reached, gate = asyncio.Event(), asyncio.Event()

        async def program(run: interlock.AsyncRun) -> str:
            async def work(n: int) -> int:
                reached.set()
                await gate.wait()
                return n

            for n in range(3):
                await run.step("work", work, n)
            return "done"

        worked_on: list[Worked] = []
        await space.runs.start("r", "p")
        task = asyncio.create_task(space.worker({"p": program}, on_worked=worked_on.append).work())
        await reached.wait()
        task.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [w.how for w in worked_on] == ["left"]
        assert len((await space.runs.show("r")).steps) == 1
        await space.worker({"p": program}, on_worked=worked_on.append).work(once=True)
        assert (await space.runs.show("r")).result == "done"
