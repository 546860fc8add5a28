"""The MCP server when calls are sent twice, answers are lost, or arguments make no sense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import interlock
from interlock.core.requests import Commit
from interlock.errors import AnswerLost
from interlock.server.mcp import calls
from interlock.server.mcp.agents import Agent, opened
from interlock.server.mcp.tools import TOOLS
from tests.processes.writers import Place
from tests.server.mcp_clients import BACKENDS, Tools, a_place, client_of, here, in_a_task, using

RULES = {
    "findings": interlock.merged("append"),
    "booking/*": interlock.guarded(machine=interlock.BOOKING),
}


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return a_place(request, tmp_path)


@pytest.fixture
async def us(place: Place) -> AsyncIterator[Tools]:
    async with in_a_task(here(place, rules=RULES)) as tools:
        yield tools


WRITES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("create", {"key": "new", "value": {"a": 1}}, {"value": {"a": 2}}),
    ("write", {"key": "k", "value": 2, "version": 1, "epoch": 0}, {"value": 3}),
    (
        "update_fields",
        {"key": "k", "fields": {"a": 2}, "version": 1, "epoch": 0},
        {"remove": ["b"]},
    ),
    ("append", {"key": "findings", "item": {"n": 1}}, {"item": {"n": True}}),
    ("transition", {"key": "booking/1", "to": "CANCELLED"}, {"to": "PENDING_PAYMENT"}),
    ("delete", {"key": "k", "version": 1, "epoch": 0}, {}),
]


async def made(tools: Tools) -> int:
    """Make what the writes are made to; return the last position of the log."""
    await tools.done("create", key="k", value={"a": 1, "b": 1})
    await tools.done("create", key="booking/1", value={"status": "PENDING"})
    return int((await tools.done("about"))["position"])


@pytest.mark.parametrize(("tool", "arguments", "other"), WRITES, ids=[each[0] for each in WRITES])
async def test_a_call_sent_again_is_applied_once(
    us: Tools, tool: str, arguments: dict[str, Any], other: dict[str, Any]
) -> None:
    start = await made(us)
    before = await us.done("outcome", key=arguments["key"], op_id="one")
    assert (before["applied"], before["written"]) == (False, [])
    first = await us.done(tool, op_id="one", **arguments)
    again = await us.done(tool, op_id="one", **arguments)
    assert again.pop("replayed") is True
    assert again == first
    assert (await us.done("about"))["position"] == start + 1
    (written,) = (await us.done("outcome", key=arguments["key"], op_id="one"))["written"]
    assert written["version"] == (first.get("record") or first["entry"])["version"]
    if other:  # the same name for something else is a mistake, and never a silent success
        refusal = await us.refused("Invalid", tool, op_id="one", **{**arguments, **other})
        assert "Use a new one" in refusal["message"]
    await us.refused("Invalid", "create", key=arguments["key"], value="x", op_id="one")
    assert (await us.done("about"))["position"] == start + 1


async def test_a_call_that_is_under_way_twice_is_applied_once(us: Tools) -> None:
    start = await made(us)
    await us.done("update_fields", key="k", fields={"b": 2}, version=1, epoch=0)
    calls = [
        us.done("update_fields", key="k", fields={"a": 2}, version=1, epoch=0, op_id="one")
        for _ in range(8)
    ]
    answers = await asyncio.gather(*calls)
    assert {answer["record"]["version"] for answer in answers} == {3}
    assert (await us.done("about"))["position"] == start + 2


async def test_a_call_that_was_applied_after_it_was_asked_for_is_told_what_it_did(
    us: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sending commits between the second one's question and its write."""
    await made(us)
    await us.done("update_fields", key="k", fields={"b": 2}, version=1, epoch=0)
    call = {"key": "k", "fields": {"a": 2}, "version": 1, "epoch": 0, "op_id": "one"}
    first = await us.done("update_fields", **call)
    real = calls.outcome_of
    asked = []

    async def outcome_of(agent: Agent, key: str, op_id: str) -> interlock.Committed | None:
        asked.append(op_id)
        return None if len(asked) == 1 else await real(agent, key, op_id)

    monkeypatch.setattr(calls, "outcome_of", outcome_of)
    again = await us.done("update_fields", **call)
    assert again["record"] == first["record"]


async def test_two_agents_may_give_operations_the_same_name(place: Place) -> None:
    async with here(place) as tools, here(place, "them") as others:
        await tools.done("create", key="k", value="ours", op_id="1")
        refusal = await others.refused("Conflict", "create", key="k", value="theirs", op_id="1")
        assert refusal["record"]["writer"] == "us"
        await others.done("create", key="other", value=1, op_id="1")
        await tools.done("create", key="another", value=1, op_id="1")


async def test_a_lease_asked_for_again_is_the_same(us: Tools) -> None:
    first = await us.done("take_lease", key="k", op_id="one")
    again = await us.done("take_lease", key="k", op_id="one")
    assert again["lease"]["lease_id"] == first["lease"]["lease_id"]
    await us.refused("Held", "take_lease", key="k", op_id="two")


class Wire:
    """Between a server and its store: says what becomes of the next commit."""

    def __init__(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        backend: Any = agent.space.session.driver.backend
        self._perform = backend.perform_async
        self.next = ""
        monkeypatch.setattr(backend, "perform_async", self.perform)
        monkeypatch.setattr("interlock.backends.drive_async.RESUBMIT_FOR", 0.0)

    async def perform(self, request: Any) -> Any:
        fate = self.next if isinstance(request, Commit) else ""
        if fate:
            self.next = ""
        if fate == "away":
            raise interlock.Unavailable("the store is away")
        if fate == "answer lost":
            await self._perform(request)
        if fate:
            raise AnswerLost("the cable was cut")
        return await self._perform(request)


@pytest.mark.parametrize(("tool", "arguments", "other"), WRITES, ids=[each[0] for each in WRITES])
@pytest.mark.parametrize("fate", ["answer lost", "request lost"])
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_an_unknown_outcome_is_settled_by_sending_again(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    fate: str,
    tool: str,
    arguments: dict[str, Any],
    other: dict[str, Any],
) -> None:
    async with (
        opened(place.url, place.space, "us", rules=RULES) as agents,
        using(client_of(agents)) as tools,
    ):
        start = await made(tools)
        wire = Wire(await agents.fixed("us"), monkeypatch)
        wire.next = fate
        refusal = await tools.refused("Unknown", tool, **arguments)
        assert refusal["retryable"]
        named = {"op_id": refusal["op_id"]}
        outcome = await tools.done("outcome", key=arguments["key"], **named)
        assert outcome["applied"] == (fate == "answer lost")
        await tools.done(tool, **arguments, **named)
        assert (await tools.done("about"))["position"] == start + 1
        wire.next = "away"
        assert (await tools.refused("Unavailable", "create", key="z", value=1))["retryable"]
        assert not (await tools.record("z"))["exists"]


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("read", {}, "'keys' is a required property"),
    ("read", {"keys": []}, "keys: "),
    ("read", {"keys": "k"}, "keys: 'k' is not of type 'array'"),
    ("read", {"keys": ["a//b"]}, "empty segment"),
    ("read", {"keys": ["$rules"]}, "are reserved"),
    ("write", {"key": "k", "value": 1}, "'version' is a required property"),
    ("write", {"key": "k", "value": 1, "version": "1", "epoch": 0}, "version: '1'"),
    ("write", {"key": "k", "value": 1, "version": True, "epoch": 0}, "version: True"),
    ("write", {"key": "k", "value": 1, "version": 1.5, "epoch": 0}, "version: 1.5"),
    ("write", {"key": "k", "value": 1, "version": -1, "epoch": 0}, "version: -1"),
    ("write", {"key": "k", "value": 1, "version": 10**30, "epoch": 0}, "version: "),
    ("write", {"key": "k", "value": 1, "version": 1, "epoch": 0, "force": True}, "'force'"),
    ("write", {"key": "*", "value": 1, "version": 0, "epoch": 0}, "only patterns may use"),
    ("write", {"key": "k" * 600, "value": 1, "version": 0, "epoch": 0}, "key: "),
    ("write", {"key": "k", "value": "x" * 2**21, "version": 1, "epoch": 0}, "the limit is"),
    ("create", {"key": "n", "value": 1, "op_id": ""}, "op_id: "),
    ("create", {"key": "n"}, "'value' is a required property"),
    ("update_fields", {"key": "k", "fields": [1], "version": 1, "epoch": 0}, "fields: "),
    ("append", {"key": "findings"}, "'item' is a required property"),
    ("transition", {"key": "k", "to": "X"}, "has no state machine"),
    ("take_lease", {"key": "k", "seconds": 0}, "seconds: "),
    ("take_lease", {"key": "k", "seconds": 10**9}, "seconds: "),
    ("release_lease", {"lease_id": "no"}, "You hold no lease"),
    ("log", {"after": 0, "limit": 0}, "limit: "),
    ("history", {"key": 5}, "key: 5"),
    ("list_keys", {"prefix": "a*"}, "prefix"),
]


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_malformed_arguments_change_nothing_and_are_told_what_is_wrong(us: Tools) -> None:
    start = await made(us)
    for tool, arguments, said in MALFORMED:
        refusal = await us.refused("Invalid", tool, **arguments)
        assert said in refusal["message"], (tool, arguments, refusal)
        assert len(refusal["message"]) < 1500
        assert not refusal["retryable"]
    assert (await us.done("about"))["position"] == start
    whole = await us.done("write", key="k", value=1, version=1.0, epoch=0.0)
    assert whole["record"]["version"] == 2


# Anything that JSON can carry, more often something that almost makes sense.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["k", "booking/1", "findings", "$rules", "a//b", "\x00", "é/ü", "k" * 600]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(["k", "booking/1", "findings", "new", "report"])
LIKELY = {
    "key": KEYS,
    "keys": st.lists(KEYS, max_size=3),
    "version": st.integers(0, 3),
    "epoch": st.integers(0, 1),
    "fields": st.dictionaries(st.sampled_from(["a", "b", "status", "op_id"]), VALUES, max_size=2),
    "remove": st.lists(st.sampled_from(["a", "b"]), max_size=2),
    "to": st.sampled_from(["CANCELLED", "PENDING_PAYMENT", "PENDING"]),
    "op_id": st.sampled_from(["1", "2"]),
    "wait": st.just(0),
    "prefix": st.sampled_from(["", "b"]),
    "limit": st.integers(1, 3),
    "position": st.integers(0, 9),
}


@st.composite
def drawn_call(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A call of a tool, with arguments that often fit."""
    tool = TOOLS[draw(st.sampled_from(sorted(TOOLS)))]
    arguments = {}
    for name in tool.properties:
        if name in tool.required or draw(st.booleans()):
            likely = name in LIKELY and draw(st.integers(0, 9)) > 0
            arguments[name] = draw(LIKELY[name] if likely else VALUES)
    if draw(st.integers(0, 9)) == 0:
        arguments[draw(st.text(max_size=4))] = draw(VALUES)
    return tool.name, arguments


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(drawn_call(), min_size=1, max_size=8))
def test_no_arguments_make_it_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sent: list[tuple[str, dict[str, Any]]]
) -> None:
    """Every call is answered or refused, and the log has a line for each write that was done."""

    async def send() -> None:
        async with (
            opened(f"sqlite:///{tmp_path / 'fuzzed.db'}", "s", "us", rules=RULES) as agents,
            using(client_of(agents)) as tools,
        ):
            for tool, arguments in sent:
                before = (await tools.done("about"))["position"]
                answer = await tools(tool, **arguments)
                after = (await tools.done("about"))["position"]
                assert answer.get("refusal", {}).get("kind") != "InternalError", answer
                wrote = answer["ok"] and not TOOLS[tool].reads and "lease" not in answer
                assert after - before == int(wrote and "replayed" not in answer), answer

    asyncio.run(send())
    assert "Traceback" not in caplog.text
