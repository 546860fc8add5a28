"""The curator: memory events are checked, counted once and routed to scopes that it owns."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest

import interlock
from tests.contract.test_leases import elsewhere_while
from tests.facades import Facades

RULES = {"events/*": interlock.merged("append")}
pytestmark = [pytest.mark.interlock_space(agent="lead", rules=RULES)]


@pytest.fixture
def worker(facades: Facades, space: Any) -> Any:
    """Another agent, with the synchronous API, so that it can be called from anywhere."""
    return facades.peer("w1")


def texts(space: Any, scope: str) -> list[str]:
    return [memory["text"] for memory in space.read(f"memory/{scope}").value or []]


def rejected(space: Any, curator: Any) -> dict[str, str]:
    found = space.scan(curator.rejected).values()
    return {str(record.value["contribution"]): record.value["reason"] for record in found}


def remember(worker: Any, *events: Any) -> None:
    for event in events:
        worker.append("events/w1", event)


def memory(text: str, scope: Any = "project", **fields: Any) -> dict[str, Any]:
    return {"scope": scope, "text": text, **fields}


def test_events_are_checked_counted_once_and_routed_to_scopes(space: Any, worker: Any) -> None:
    remember(
        worker,
        memory("deploys on Fridays fail"),
        memory("likes tea", "user/anna"),
        memory("deploys on Fridays fail"),  # seen before
        memory("   "),
        memory("be brief", ["user/anna", "agent"]),
    )
    curator = space.curator("events/", validate=lambda event: bool(event["text"].strip()))
    progress = curator.catch_up()
    assert (progress.merged, progress.rejected, progress.duplicates) == (3, 1, 1)
    assert texts(space, "project") == ["deploys on Fridays fail"]
    assert texts(space, "user/anna") == ["likes tea", "be brief"]
    assert texts(space, "agent") == ["be brief"]
    assert rejected(space, curator) == {str(memory("   ")): "it is not valid"}
    writers = {entry.agent for entry in space.log(prefix="memory/")}
    assert writers == {"curator"}
    assert curator.catch_up() == progress._replace(
        cursor=space.position(), head=space.position()
    ), "nothing new, nothing done"


def test_a_malformed_event_is_rejected_and_named_and_stops_nothing(
    space: Any, worker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bad = ["no object", 7, [], {"scope": "project"}, memory("x", "team"), memory("x", 1)]
    bad += [memory("x", []), memory("x", "user//"), memory("x", None), {"text": "x"}]
    for event in bad:
        remember(worker, event, memory(f"good after {event}"))
    curator = space.curator("events/", validate=lambda event: event["text"] != "")
    with caplog.at_level(logging.WARNING, "interlock.coordinator"):
        progress = curator.catch_up()
    assert (progress.merged, progress.rejected) == (len(bad), len(bad))
    assert len(texts(space, "project")) == len(bad)
    reasons = rejected(space, curator)
    assert set(reasons) == {str(event) for event in bad}
    assert reasons["no object"].startswith("TypeError")
    assert reasons[str({"scope": "project"})] == "KeyError: 'text'"
    for event in (memory("x", "team"), memory("x", 1), memory("x", None), {"text": "x"}):
        assert "is not a scope: project, user, agent" in reasons[str(event)]
    assert reasons[str(memory("x", []))] == "It was routed to no scope."
    assert "empty segment" in reasons[str(memory("x", "user//"))]
    assert sorted({record.key for record in space.scan("memory/").values()}) == ["memory/project"]
    said = [record.getMessage() for record in caplog.records]
    start = "curator 'curator' rejected contribution 'events/w1' at position"
    assert all(each.startswith(start) for each in said)
    assert len(said) == len(bad)


def test_the_curator_alone_writes_what_it_owns(space: Any, worker: Any) -> None:
    remember(worker, memory("a fact"))
    curator = space.curator("events/")
    curator.catch_up()
    record = worker.read("memory/project")
    assert record.value == [memory("a fact")], "everybody reads"
    for key in ("memory/project", "memory/user/new", f"{curator.rejected}1", "curator/coordinator"):
        with pytest.raises(interlock.Forbidden, match="curator"):
            worker.update(key, lambda value: ["pollution"], default=None)
    assert space.rules["memory/**"] == interlock.owned(by="curator")


@pytest.mark.any_store
def test_rules_that_make_it_the_owner_are_left_as_they_are(space: Any, worker: Any) -> None:
    mine = {**RULES, "memory/**": interlock.owned(by="curator", keep=30)}
    space.apply_rules(mine)
    remember(worker, memory("a fact"))
    assert space.curator("events/").catch_up().merged == 1
    assert space.rules["memory/**"] == mine["memory/**"]
    space.apply_rules({**RULES, "memory/**": interlock.guarded()})
    with pytest.raises(interlock.Invalid, match=r"guarded\(\) for 'memory/\*\*', not owned"):
        space.curator("events/").catch_up()


@pytest.mark.any_store
def test_dedupe_and_route_may_be_functions(space: Any, worker: Any) -> None:
    remember(worker, memory("Tea", who="anna"), memory("tea ", who="anna"), memory("milk", who=""))
    curator = space.curator(
        "events/",
        dedupe=lambda event: event["text"].strip().lower(),
        route=lambda event: f"user/{event['who']}" if event["who"] else None,
    )
    progress = curator.catch_up()
    assert (progress.merged, progress.duplicates, progress.rejected) == (1, 1, 1)
    assert texts(space, "user/anna") == ["Tea"]
    assert list(rejected(space, curator).values()) == [
        "TypeError: route returned None: is a return missing?"
    ]


@dataclass
class Learned:
    """A memory event with a type."""

    text: str
    about: str = ""


@pytest.mark.any_store
def test_events_of_a_type_are_checked_by_it(space: Any, worker: Any) -> None:
    learned = worker.events("events/typed", Learned)
    learned.append(Learned("likes tea", "anna"))
    remember(worker, {"text": 7}, {"about": "anna"}, "no object", {"text": "no one's"})
    options: dict[str, Any] = {
        "type": Learned,
        "dedupe": lambda event: event.text,
        "route": lambda event: f"user/{event.about}" if event.about else "project",
    }
    assert space.curator("events/", **options).catch_up()[2:4] == (2, 3)
    assert texts(space, "user/anna") == ["likes tea"]
    reasons = rejected(space, space.curator("events/"))
    assert "str" in reasons[str({"text": 7})]
    assert "text" in reasons[str({"about": "anna"})]
    options |= {"name": "again", "into": "more", "effect": True}
    judging = space.curator("events/", validate=lambda event: event.text != "likes tea", **options)
    assert judging.catch_up()[2:4] == (1, 4)


@pytest.mark.any_store
def test_scopes_and_merge_can_be_chosen(space: Any, worker: Any) -> None:
    remember(worker, memory("Oslo", "city", id="a"), memory("Rome", "city", id="b"))
    curator = space.curator(
        "events/",
        scopes=("city",),
        into="facts",
        merge=lambda facts, event: {**facts, event["id"]: event["text"]},
        initial={},
        name="cities",
        agent="clerk",
    )
    assert curator.catch_up().merged == 2
    assert space.read("facts/city").value == {"a": "Oslo", "b": "Rome"}
    assert (curator.name, curator.rejected) == ("cities", "cities/rejected/")
    assert space.rules["facts/**"] == interlock.owned(by="clerk")


@pytest.mark.any_store
def test_an_event_for_two_scopes_reaches_both_or_neither(space: Any, worker: Any) -> None:
    def merge(value: list[Any], event: Any) -> list[Any]:
        if len(value) == 1 and value[0]["text"] == "full":
            raise ValueError("there is no room")
        value.append(event)  # changed in place
        return value

    remember(worker, memory("full", "user"), memory("both", ["project", "user"]), memory("next"))
    curator = space.curator("events/", merge=merge, initial=[])
    assert curator.catch_up().rejected == 1
    assert (texts(space, "project"), texts(space, "user")) == (["next"], ["full"])


@pytest.mark.any_store
@pytest.mark.interlock_space(agent="lead", rules=RULES, max_value_bytes=1000)
def test_a_scope_that_is_full_rejects_what_does_not_fit(space: Any, worker: Any) -> None:
    remember(worker, memory("a" * 400), memory("b" * 600), memory("c"), memory("d" * 600, "user"))
    curator = space.curator("events/")
    progress = curator.catch_up()
    assert (progress.merged, progress.rejected) == (3, 1)
    assert texts(space, "project") == ["a" * 400, "c"]
    assert texts(space, "user") == ["d" * 600]
    (reason,) = rejected(space, curator).values()
    assert "the limit is 1,000" in reason


def test_it_thinks_again_where_one_of_its_keys_moved(space: Any, facades: Facades) -> None:
    other = facades.peer("curator")  # a person repairs a memory under the curator's name
    moved: list[Any] = []

    def merge(value: list[Any], event: Any) -> list[Any]:
        if not moved and event["scope"] == "user":
            moved.append(other.create("memory/user", [memory("theirs", "user")]))
        return [*value, event]

    remember(facades.peer("w1"), memory("one"), memory("two", "user"))
    assert space.curator("events/", merge=merge, initial=[]).catch_up().merged == 2
    assert (texts(space, "project"), texts(space, "user")) == (["one"], ["theirs", "two"])


def test_one_curator_works_and_a_replaced_one_is_fenced(
    facades: Facades, space: Any, worker: Any
) -> None:
    remember(worker, memory("one"))
    running = iter(space.curator("events/"))
    assert next(running).merged == 1
    with pytest.raises(interlock.Held, match="'curator' holds the lease"):
        elsewhere_while(facades, lambda: worker.curator("events/", wait=0).catch_up())

    def stall(value: list[Any], event: Any) -> list[Any]:
        worker.reclaim("curator/coordinator")
        assert worker.curator("events/").catch_up().merged == 2
        return [*value, event]

    running.close()
    remember(worker, memory("two"))
    with pytest.raises(interlock.Fenced, match="curator/coordinator"):
        space.curator("events/", merge=stall).catch_up()
    assert texts(space, "project") == ["one", "two"]


def test_a_backlog_takes_several_commits_and_iterating_waits(space: Any, worker: Any) -> None:
    worker.append_many("events/w1", [memory(f"{n}") for n in range(150)])
    running = iter(space.curator("events/"))
    assert [progress.merged for progress in islice(running, 2)] == [100, 150]
    threading.Timer(0.05, remember, (worker, memory("late"))).start()
    assert next(running).merged == 151
    running.close()


class Model:
    """A language model that judges, and counts what it was asked."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.fails = fails

    def judge(self, event: Any) -> str | None:
        self.asked.append(event["text"])
        if self.fails is not None:
            raise self.fails
        return "a guess" if event["text"].startswith("maybe") else None


class Dies(BaseException):
    """The process ends here."""


def test_a_verdict_is_recorded_before_the_merge_and_not_asked_for_again(
    space: Any, worker: Any
) -> None:
    model = Model()

    def dies(value: Any, event: Any) -> Any:
        raise Dies

    remember(worker, memory("one"), memory("maybe two"), memory("one"))
    with pytest.raises(Dies):
        space.curator("events/", validate=model.judge, effect=True, merge=dies).catch_up()
    assert model.asked == ["one"]
    curator = space.curator("events/", validate=model.judge, effect=True)
    progress = curator.catch_up()
    assert (progress.merged, progress.rejected, progress.duplicates) == (1, 1, 1)
    assert model.asked == ["one", "maybe two"], "a duplicate costs no call, a recorded one neither"
    assert list(rejected(space, curator).values()) == ["a guess"]
    first = min(entry.position for entry in space.log(prefix="events/"))
    (verdict,) = space.runs.show(f"curator-{first}").steps
    assert (verdict.kind, verdict.name, verdict.state) == ("effect", "validate", "finished")


def test_a_service_that_fails_stops_it_and_an_event_that_does_not_fit_does_not(
    space: Any, worker: Any
) -> None:
    class RateLimited(Exception):
        """As SDKs have them: no OSError."""

    remember(worker, memory("one"))
    away = Model(RateLimited("429"))
    with pytest.raises(interlock.InDoubt, match="RateLimited: 429") as problem:
        space.curator("events/", validate=away.judge, effect=True).catch_up()
    assert "in curator 'curator', for contribution 'events/w1'" in problem.value.__notes__[0]
    remember(worker, {"scope": "project"}, "no object")
    model = Model()
    curator = space.curator("events/", validate=model.judge, effect=True)
    assert curator.catch_up()[2:4] == (1, 2)
    assert model.asked == ["one"], "asked again: nobody knows what became of the first call"
    reasons = rejected(space, curator)
    assert reasons[str({"scope": "project"})] == "KeyError: 'text'"
    assert reasons["no object"].startswith("TypeError")


def test_several_verdicts_are_asked_for_at_a_time_and_merged_in_order(
    space: Any, worker: Any
) -> None:
    together, asked, failed = threading.Barrier(3), list[str](), list[str]()

    def judge(event: Any) -> None:
        asked.append(event["text"])
        if len(asked) <= 3:
            together.wait(60)
        if event["text"] == "2" and not failed:
            failed.append("2")
            raise RuntimeError("the service is busy")

    remember(worker, *(memory(text) for text in "1231"), "no object", *(memory(t) for t in "456"))
    curator = space.curator("events/", validate=judge, effect=True, slots=4)
    assert curator.catch_up()[2:] == (6, 1, 1)
    assert texts(space, "project") == list("123456")
    assert sorted(asked) == list("1223456"), "asked again when its turn had come; no duplicates"


@pytest.mark.any_store
def test_a_person_can_give_up_an_event_that_the_service_fails_on(space: Any, worker: Any) -> None:
    remember(worker, memory("one"), memory("two"))
    with pytest.raises(interlock.InDoubt):
        space.curator("events/", validate=Model(RuntimeError()).judge, effect=True).catch_up()
    (open_run,) = space.runs.list(open=True)
    space.runs.cancel(open_run.id, "the model can't read it")
    curator = space.curator("events/", validate=Model().judge, effect=True)
    assert curator.catch_up()[2:4] == (1, 1)
    assert "the model can't read it" in rejected(space, curator)[str(memory("one"))]


@pytest.mark.any_store
def test_its_functions_may_be_async_with_the_asyncio_facade_only(
    facades: Facades, space: Any
) -> None:
    async def judge(event: Any) -> bool:
        return bool(event["text"] != "bad")

    async def route(event: Any) -> str:
        return "user"

    def curated(name: str, **options: Any) -> Any:
        return space.curator("events/", into=name, name=f"{name}s", **options)

    remember(space, memory("good"), memory("bad"))
    if facades.kind == "async":
        for effect in (False, True):
            curator = curated(f"m{effect}", validate=judge, route=route, effect=effect)
            assert curator.catch_up()[2:4] == (1, 1)
    else:
        for options in ({"validate": judge}, {"route": route}):
            with pytest.raises(interlock.Invalid, match="open_async"):
                curated("m", **options)


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"source": "memory/"}, "nobody else can write events"),
        ({"source": "memory/user/"}, "nobody else can write events"),
        ({"source": "curator/"}, "would read its own"),
        ({"source": ""}, "would read its own"),
        ({"into": "curator"}, "give it another name="),
        ({"into": "curator/memory"}, "give it another name="),
        ({"into": "a//b"}, "empty segment"),
        ({"route": "scope"}, "route='scope' must be a function"),
        ({"scopes": "project"}, "scopes='project' must be several names"),
        ({"scopes": 7}, "scopes=7"),
        ({"scopes": ()}, "at least one scope"),
        ({"scopes": ("user/anna",)}, "'user/anna' contains '/'"),
        ({"scopes": ("",)}, "scope"),
        ({"name": "a/b"}, "without '/'"),
        ({"name": 7}, "without '/'"),
        ({"effect": True}, "effect=True is about validate="),
        ({"slots": 2}, "give effect=True"),
        ({"slots": 0}, "slots=0 must be a whole number"),
        ({"validate": 7}, "validate=7"),
        ({"dedupe": "name"}, "dedupe='name'"),
        ({"merge": None}, "merge=None"),
        ({"agent": ""}, "agent"),
        ({"type": 7}, "can't be the type of a value"),
    ],
)
def test_a_malformed_curator_is_invalid(space: Any, options: dict[str, Any], names: str) -> None:
    arguments = {"source": "events/", **options}
    with pytest.raises(interlock.Invalid, match=names):
        space.curator(arguments.pop("source"), **arguments)
