"""The tools of the MCP server: what they do, on each backend, and what they say when refused."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import interlock
from interlock.core import trim
from interlock.core.keys import RESERVED
from interlock.server.mcp.agents import opened
from interlock.server.mcp.calls import CALLS, WRITES
from interlock.server.mcp.tools import TOOLS
from tests import newer
from tests.newer import store_rules
from tests.processes.writers import Place
from tests.server.mcp_clients import BACKENDS, Tools, a_place, client_of, here, in_a_task, using

RULES = {
    "booking/*": interlock.guarded(machine=interlock.BOOKING),
    "findings": interlock.merged("append"),
    "agent/{agent}/**": interlock.private(),
    "report": interlock.leased(),
    "team/*": interlock.owned(by="us"),
    "plan/*": interlock.guarded(on_conflict="rebase"),
}


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return a_place(request, tmp_path)


@pytest.fixture
def local(tmp_path: Path) -> Place:
    return Place(f"sqlite:///{tmp_path / 'local.db'}", "s")


@pytest.fixture
async def us(place: Place) -> AsyncIterator[Tools]:
    async with in_a_task(here(place, rules=RULES)) as tools:
        yield tools


@pytest.fixture
async def them(place: Place, us: Tools) -> AsyncIterator[Tools]:
    async with in_a_task(here(place, "them")) as tools:
        yield tools


async def test_tools_announce_valid_schemas_and_what_they_may_do(local: Place) -> None:
    async with here(local) as tools:
        listed = (await tools.client.list_tools()).tools
    assert [tool.name for tool in listed] == list(TOOLS)
    assert {*CALLS, "about"} == {*TOOLS}
    for tool in listed:
        assert tool.output_schema is not None
        for schema in (tool.input_schema, tool.output_schema):
            Draft202012Validator.check_schema(schema)
        properties = tool.input_schema["properties"]
        assert set(tool.input_schema["required"]) <= set(properties)
        assert all("type" in each for each in properties.values())
        assert tool.description
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint == TOOLS[tool.name].reads
    writers = {tool.name for tool in listed if "version" in tool.input_schema["properties"]}
    assert writers == {"write", "update_fields", "patch", "delete"}
    for name in writers:
        assert {"version", "epoch"} <= set(TOOLS[name].required)


async def test_a_write_from_an_old_version_gets_the_fresh_record(us: Tools, them: Tools) -> None:
    made = (await us.done("create", key="k", value={"n": 1}))["record"]
    assert (made["version"], made["epoch"], made["writer"]) == (1, 0, "us")
    theirs = await them.done("write", key="k", value={"n": 2}, version=1, epoch=0)
    refusal = await us.refused("Conflict", "write", key="k", value={"n": 3}, version=1, epoch=0)
    assert refusal["retryable"]
    assert (refusal["expected_version"], refusal["actual_version"]) == (1, 2)
    assert refusal["record"] == theirs["record"] == await us.record("k")
    fresh = refusal["record"]
    again = {"version": fresh["version"], "epoch": fresh["epoch"]}
    assert (await us.done("write", key="k", value={"n": 3}, **again))["record"]["version"] == 3


async def test_a_value_that_has_expired_is_not_written_over(us: Tools) -> None:
    made = (await us.done("create", key="k", value=1, expires=0.001))["record"]
    assert made["expires_at"] > made["at"]
    while (await us.record("k"))["exists"]:
        pass
    refusal = await us.refused("Conflict", "write", key="k", value=2, version=1, epoch=0)
    assert "expired" in refusal["message"]
    assert "create" in refusal["next_step"]
    again = (await us.done("create", key="k", value=2, expires=60))["record"]
    assert again["version"] == 2
    stays = (await us.done("write", key="k", value=2, version=2, epoch=0))["record"]
    assert "expires_at" not in stays
    await us.refused("Invalid", "create", key="x", value=1, expires=-1)


async def test_keys_that_exist_or_do_not(us: Tools) -> None:
    assert not (await us.record("k"))["exists"]
    await us.done("write", key="k", value=1, version=0, epoch=0)
    taken = await us.refused("Conflict", "create", key="k", value=2)
    assert taken["record"]["value"] == 1
    await us.refused("Conflict", "write", key="k", value=2, version=0, epoch=0)
    await us.refused("Conflict", "write", key="k", value=2, version=77, epoch=0)
    await us.refused("NotFound", "update_fields", key="x", fields={"a": 1}, version=0, epoch=0)
    gone = (await us.done("delete", key="k", version=1, epoch=0))["record"]
    assert (gone["exists"], gone["version"]) == (False, 2)
    await us.refused("Invalid", "delete", key="k", version=2, epoch=0)
    await us.refused("Conflict", "delete", key="k", version=1, epoch=0)
    back = await us.done("write", key="k", value=3, version=2, epoch=0)
    assert back["record"]["version"] == 3


async def test_fields_that_others_changed_are_kept(us: Tools, them: Tools) -> None:
    await us.done("create", key="k", value={"a": 1, "b": 1, "c": 1})
    await them.done("update_fields", key="k", fields={"a": 2}, version=1, epoch=0)
    asked = {"key": "k", "version": 1, "epoch": 0}
    merged = await us.done("update_fields", fields={"b": 2, "d": None}, remove=["c"], **asked)
    assert merged["record"]["value"] == {"a": 2, "b": 2, "d": None}
    refusal = await us.refused("Conflict", "update_fields", fields={"a": 3}, **asked)
    assert refusal["record"]["value"] == {"a": 2, "b": 2, "d": None}
    await us.refused("Conflict", "update_fields", remove=["c"], **asked)
    await us.refused("Conflict", "update_fields", fields={"d": 1}, **asked)
    assert (await us.record("k"))["version"] == 3


async def test_what_is_no_update_of_fields(us: Tools) -> None:
    await us.done("create", key="k", value=[1])
    asked = {"key": "k", "version": 1, "epoch": 0}
    await us.refused("Invalid", "update_fields", fields={"a": 1}, **asked)
    await us.refused("Invalid", "update_fields", **asked)
    await us.refused("Invalid", "update_fields", fields={"a": 1}, remove=["a"], **asked)
    assert (await us.record("k"))["value"] == [1]


async def test_merged_keys(us: Tools, them: Tools) -> None:
    await us.done("append", key="findings", item={"from": "us"})
    entry = (await them.done("append", key="findings", item="theirs"))["entry"]
    assert (entry["agent"], entry["version"], entry["kind"]) == ("them", 2, "append")
    assert (await us.record("findings"))["value"] == [{"from": "us"}, "theirs"]
    refusal = await us.refused("Forbidden", "write", key="findings", value=[], version=2, epoch=0)
    assert (refusal["rule"], refusal["pattern"]) == ("merged", "findings")
    await us.refused("Forbidden", "append", key="k", item=1)


async def test_a_machine_names_the_states_that_are_allowed(us: Tools) -> None:
    await us.done("create", key="booking/1", value={"status": "PENDING"})
    moved = await us.done("transition", key="booking/1", to="PENDING_PAYMENT", fields={"sum": 9})
    assert moved["record"]["value"] == {"status": "PENDING_PAYMENT", "sum": 9}
    refusal = await us.refused("IllegalTransition", "transition", key="booking/1", to="PENDING")
    assert (refusal["state"], refusal["asked"]) == ("PENDING_PAYMENT", "PENDING")
    assert refusal["allowed"] == ["COMPLETED", "FAILED", "CANCELLED"]
    back = {"status": "PENDING"}
    where = {"key": "booking/1", "version": 2, "epoch": 0}
    await us.refused("IllegalTransition", "write", value=back, **where)
    await us.refused("IllegalTransition", "update_fields", fields=back, **where)
    await us.refused("Invalid", "transition", key="booking/1", to="NOWHERE")
    op_id = {"op_id": "a field"}
    await us.refused("Invalid", "transition", key="booking/1", to="COMPLETED", fields=op_id)
    assert (await us.record("booking/1"))["version"] == 2


async def test_a_stale_step_of_a_machine_is_a_conflict(us: Tools, them: Tools) -> None:
    """It is judged by the state that its writer saw; only the store knows that it has moved."""
    await us.done("create", key="booking/1", value={"status": "PENDING"})
    await them.done("transition", key="booking/1", to="CANCELLED")
    to = {"status": "PENDING_PAYMENT"}
    await us.refused("Conflict", "write", key="booking/1", value=to, version=1, epoch=0)
    await us.refused("Conflict", "update_fields", key="booking/1", fields=to, version=1, epoch=0)


async def test_a_late_write_is_merged_with_what_its_writer_had_read(us: Tools, them: Tools) -> None:
    await us.done("create", key="plan/a", value={"mon": 1, "tue": 1})
    await them.done("write", key="plan/a", value={"mon": 2, "tue": 1}, version=1, epoch=0)
    late = {"key": "plan/a", "version": 1, "epoch": 0}
    merged = await us.done("write", value={"mon": 1, "tue": 2}, **late)
    assert merged["record"]["value"] == {"mon": 2, "tue": 2}
    refusal = await us.refused("Conflict", "write", value={"mon": 3, "tue": 1}, **late)
    assert refusal["clashes"] == [{"path": ["mon"], "base": 1, "mine": 3, "theirs": 2}]
    refusal = await us.refused("Conflict", "write", value={"mon": 3}, **late)
    assert {tuple(each["path"]) for each in refusal["clashes"]} == {("mon",), ("tue",)}


async def test_only_its_owner_writes_a_private_key(us: Tools, them: Tools) -> None:
    await us.done("create", key="agent/us/notes", value="mine")
    refusal = await them.refused(
        "Forbidden", "write", key="agent/us/notes", value="x", version=1, epoch=0
    )
    assert (refusal["rule"], refusal["pattern"]) == ("private", "agent/{agent}/**")
    assert (await them.record("agent/us/notes"))["value"] == "mine"


async def test_only_the_named_agent_writes_an_owned_key(us: Tools, them: Tools) -> None:
    await us.done("create", key="team/goals", value="ours")
    refusal = await them.refused(
        "Forbidden", "write", key="team/goals", value="x", version=1, epoch=0
    )
    assert (refusal["rule"], refusal["pattern"]) == ("owned", "team/*")
    (rule,) = [r for r in (await them.done("about"))["rules"] if r["pattern"] == "team/*"]
    assert rule["rule"] == "owned(by='us')"
    assert rule["how_to_write"] == "as guarded, and only by agent us"


async def test_a_key_under_a_rule_of_a_newer_version_can_only_be_read(local: Place) -> None:
    with interlock.open(local.url, space=local.space) as space:
        space.create("account/a", 1)
        store_rules(space, newer.RULES)
    async with here(local) as tools:
        refusal = await tools.refused(
            "Forbidden", "write", key="account/a", value=2, version=1, epoch=0
        )
        assert (refusal["rule"], refusal["pattern"]) == ("escrow", "account/*")
        assert "Upgrade Interlock" in refusal["message"]
        assert (await tools.record("account/a"))["value"] == 1
        told = (await tools.done("about"))["rules"]
    assert {rule["pattern"] for rule in told} == {*newer.RULES}
    assert {rule["how_to_write"] for rule in told} == {"read only: upgrade Interlock"}


async def test_a_lease_keeps_others_out_until_it_is_given_up(us: Tools, them: Tools) -> None:
    await us.refused("Forbidden", "create", key="report", value="no lease")
    taken = await us.done("take_lease", key="report", seconds=60)
    lease, read = taken["lease"]["lease_id"], taken["record"]
    assert 55 < taken["lease"]["seconds"] <= 60
    held = await them.refused("Held", "take_lease", key="report")
    assert held["holder"] == "us"
    assert 0 < held["seconds"] <= 30
    assert "yourself" in (await us.refused("Held", "take_lease", key="report"))["next_step"]
    wrong = await us.refused("Invalid", "take_lease", key="report", wait=0.2)
    assert "wait for yourself" in wrong["message"]
    at = {"key": "report", "version": read["version"], "epoch": read["epoch"]}
    await them.refused("Invalid", "write", value="x", lease_id=lease, **at)
    await us.refused("Invalid", "write", value="x", lease_id=lease, **{**at, "key": "other"})
    done = (await us.done("write", value={"text": "draft"}, lease_id=lease, **at))["record"]
    stale = await us.refused("Conflict", "write", value="x", lease_id=lease, **at)
    assert stale["record"]["version"] == done["version"]
    at = {"key": "report", "version": done["version"], "epoch": done["epoch"]}
    fields = {"title": "Report"}
    await us.done("update_fields", fields=fields, lease_id=lease, **at)
    assert (await us.record("report"))["value"] == {"text": "draft", "title": "Report"}
    renewed = await us.done("renew_lease", lease_id=lease, seconds=600)
    assert 590 < renewed["lease"]["seconds"] <= 600
    await us.done("release_lease", lease_id=lease)
    await us.refused("Invalid", "release_lease", lease_id=lease)
    again = await them.done("take_lease", key="report")
    at = {"key": "report", "version": again["record"]["version"]}
    at |= {"epoch": again["record"]["epoch"], "lease_id": again["lease"]["lease_id"]}
    assert not (await them.done("delete", op_id="d", **at))["record"]["exists"]
    assert (await them.done("delete", op_id="d", **at))["replayed"]


async def test_a_lease_ends_when_its_time_is_over(us: Tools, them: Tools) -> None:
    mine = await us.done("take_lease", key="k", seconds=0.05)
    await them.done("take_lease", key="k", wait=20)
    await us.refused("Invalid", "renew_lease", lease_id=mine["lease"]["lease_id"])


async def test_leases_end_with_the_server(place: Place, them: Tools) -> None:
    async with here(place, "gone") as tools:
        await tools.done("take_lease", key="k", seconds=600)
        await them.refused("Held", "take_lease", key="k")
    await them.done("take_lease", key="k")


async def test_whoever_was_replaced_is_fenced(us: Tools, place: Place) -> None:
    await us.done("create", key="k", value={})
    taken = await us.done("take_lease", key="k")
    with interlock.open(place.url, space=place.space, agent="boss") as space:
        space.reclaim("k")
    lease = {"lease_id": taken["lease"]["lease_id"], "epoch": taken["record"]["epoch"]}
    at = {"key": "k", "version": 1}
    for write in ({"value": 1, **lease, **at}, {"value": 1, "epoch": 0, **at}):
        refusal = await us.refused("Fenced", "write", **write)
        assert refusal["current_epoch"] == 2
    await us.refused("Fenced", "update_fields", fields={"a": 1}, epoch=0, **at)
    await us.refused("Fenced", "delete", epoch=0, **at)
    await us.refused("Fenced", "renew_lease", lease_id=lease["lease_id"])
    assert (await us.record("k"))["version"] == 1


async def test_a_name_that_was_taken_over_is_fenced(local: Place) -> None:
    async with here(local, "planner", exclusive=True) as first:
        await first.done("create", key="k", value=1)
        async with here(local, "planner", exclusive=True) as second:
            await first.refused("Fenced", "write", key="k", value=2, version=1, epoch=0)
            await second.done("write", key="k", value=2, version=1, epoch=0)


async def test_the_past_can_be_read_and_followed(us: Tools, them: Tools) -> None:
    start = (await us.done("about"))["position"]
    for version in range(5):
        await us.done("write", key="a/k", value=version, version=version, epoch=0)
    await them.done("create", key="b", value="other")
    (was,) = (await us.done("read_at", keys=["a/k"], position=start + 2))["records"]
    assert (was["value"], was["version"]) == (1, 2)
    later = "2100-01-01T00:00:00+00:00"
    (now,) = (await us.done("read_at", keys=["a/k"], time=later))["records"]
    assert now["version"] == 5
    moments: tuple[dict[str, Any], ...] = (
        {},
        {"position": 1, "time": later},
        {"time": "yesterday"},
        {"time": "2100-01-01"},
    )
    for moment in moments:
        await us.refused("Invalid", "read_at", keys=["a/k"], **moment)

    latest = await us.done("history", key="a/k", limit=2)
    assert [entry["version"] for entry in latest["entries"]] == [4, 5]
    page = await us.done("log", after=start, prefix="a/", limit=3)
    assert ([e["version"] for e in page["entries"]], page["more"]) == ([1, 2, 3], True)
    page = await us.done("log", after=page["next_after"], limit=3)
    assert [e["key"] for e in page["entries"]] == ["a/k", "a/k", "b"]
    assert not page["more"]
    assert (await us.done("log", after=page["next_after"]))["entries"] == []
    assert len((await us.done("log", limit=2))["entries"]) == 2
    chosen = await us.done("log", limit=2, agent=latest["entries"][0]["agent"], kinds=["put"])
    assert [e["version"] for e in chosen["entries"]] == [4, 5]
    assert chosen["next_after"] == start + 6
    assert (await us.done("log", kinds=["append"]))["entries"] == []
    await us.refused("Invalid", "log", kinds=["write"])

    page = await us.done("list_keys", limit=1)
    assert ([r["key"] for r in page["records"]], page["more"]) == (["a/k"], True)
    assert "value" not in page["records"][0]
    page = await us.done("list_keys", after=page["next_after"], values=True)
    assert [(r["key"], r["value"]) for r in page["records"]] == [("b", "other")]
    assert not page["more"]


async def test_listing_keys_reads_no_other_values(
    local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    async def read_many(self: interlock.AsyncSpace, keys: Iterable[str]) -> Any:
        read.extend(names := [*keys])
        return await whole(self, names)

    whole = interlock.AsyncSpace.read_many
    monkeypatch.setattr(interlock.AsyncSpace, "read_many", read_many)
    monkeypatch.setattr(interlock.AsyncSpace, "scan", None)
    async with here(local) as us:
        for key in "abc":
            await us.done("create", key=key, value="x" * 1000)
        page = await us.done("list_keys", limit=2)
        assert ([each["key"] for each in page["records"]], page["more"]) == (["a", "b"], True)
        assert read == []
        page = await us.done("list_keys", limit=1, after="a", values=True)
        assert [each["value"] for each in page["records"]] == ["x" * 1000]
        assert read == ["b"]


async def test_what_was_trimmed_is_refused_with_the_oldest_position(
    local: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trim, "KEPT_AT_LEAST", 0.0)
    async with here(local) as tools:
        for version in range(4):
            await tools.done("write", key="k", value=version, version=version, epoch=0)
        with interlock.open(local.url, space=local.space) as space:
            oldest = space.trim(keep=0, before=4).oldest
        refusal = await tools.refused("Pruned", "log", after=0)
        assert refusal["oldest_position"] == oldest > 1
        assert (await tools.done("log"))["entries"][0]["position"] == oldest
        # What the writer had read is kept no more: nothing can be merged, nothing is guessed.
        await tools.refused("Conflict", "write", key="k", value=9, version=1, epoch=0)


async def test_about_says_how_keys_are_written(us: Tools, place: Place) -> None:
    about = await us.done("about")
    assert (about["agent"], about["space"], about["read_only"]) == ("us", place.space, False)
    rules: dict[str, Any] = {rule["pattern"]: rule for rule in about["rules"]}
    assert rules["findings"]["how_to_write"] == "append"
    assert rules["booking/*"]["machine"]["transitions"]["COMPLETED"] == ["REFUND_PENDING"]
    with interlock.open(place.url, space=place.space) as space:
        space.apply_rules({"findings": interlock.merged("union")})
    assert [rule["pattern"] for rule in (await us.done("about"))["rules"]] == ["findings"]


async def test_a_server_that_only_reads(local: Place) -> None:
    async with here(local) as tools:
        await tools.done("create", key="k", value=1)
    async with here(local, read_only=True) as tools:
        listed = (await tools.client.list_tools()).tools
        assert {tool.name for tool in listed} == {n for n, tool in TOOLS.items() if tool.reads}
        await tools.refused("Forbidden", "write", key="k", value=2, version=1, epoch=0)
        assert (await tools.record("k"))["value"] == 1


async def test_a_failure_of_the_server_itself_is_told_without_its_insides(
    local: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(agent: Any, arguments: Any) -> Any:
        raise ZeroDivisionError("a secret")

    monkeypatch.setitem(CALLS, "read", broken)
    async with opened(local.url) as agents, using(client_of(agents)) as tools:
        refusal = await tools.refused("InternalError", "read", keys=["k"])
    assert "secret" not in refusal["message"]
    assert "a secret" in caplog.text


async def test_keys_of_adapters_are_hidden_and_refused(local: Place) -> None:
    named = sorted(f"{prefix}thread/secret" for prefix in RESERVED)
    with interlock.open(local.url, space=local.space) as space:
        for key in ("a", *named, "b", *named):
            space.update(key, lambda value: (value or 0) + 1)
    known = {"version": 2, "epoch": 0}
    async with in_a_task(here(local)) as tools:
        for key in named:
            calls: dict[str, dict[str, Any]] = {
                "read": {"keys": ["a", key]},
                "read_at": {"keys": [key], "position": 3},
                "history": {"key": key},
                "outcome": {"key": key, "op_id": "1"},
                "create": {"key": key + "/new", "value": 1},
                "write": {"key": key, "value": 1, **known},
                "update_fields": {"key": key, "fields": {}, **known},
                "append": {"key": key, "item": 1},
                "transition": {"key": key, "to": "PENDING"},
                "delete": {"key": key, **known},
                "take_lease": {"key": key},
            }
            for tool, arguments in calls.items():
                refusal = await tools.refused("Forbidden", tool, **arguments)
                assert "only it reads and writes" in refusal["message"]
        listed = await tools.done("list_keys", values=True)
        logged = [await tools.done("log"), await tools.done("log", after=0)]
        assert (await tools.done("list_keys", prefix="langgraph/"))["records"] == []
        assert (await tools.done("log", after=0, limit=1))["next_after"] < len(named) + 2
    assert [record["key"] for record in listed["records"]] == ["a", "b"]
    for page in logged:
        assert [entry["key"] for entry in page["entries"]] == ["a", "b"]
        assert (page["next_after"], page["more"]) == (2 * len(named) + 2, False)
    with_key = {"read", "read_at", "history", "outcome"} | set(WRITES) | {"take_lease"}
    taking = {name for name, tool in TOOLS.items() if {"key", "keys"} & tool.properties.keys()}
    assert taking == with_key, "a new tool that takes keys belongs into this test"


def test_adapters_keep_what_they_keep_under_reserved_prefixes() -> None:
    folder = Path(interlock.__file__).parent / "adapters"
    text = "".join(each.read_text(encoding="utf-8") for each in folder.rglob("*.py"))
    found = set(re.findall(r"""["']([a-z-]+/)[a-z{-]""", text))
    # Documents of Claude's memory and values of no framework are for others, too.
    assert found - {"text/", "branches/", "files/", "memories/", "kv/"} <= set(RESERVED)
    assert [prefix for prefix in RESERVED if prefix not in text] == []


async def test_a_value_from_a_tool_fits_the_schema_of_its_rule(local: Place) -> None:
    schema = {"title": "Seat", "type": "object", "properties": {"row": {"type": "integer"}}}
    async with here(local, rules={"seat/*": interlock.guarded(schema=schema)}) as tools:
        refused = await tools.refused("Invalid", "create", key="seat/1", value={"row": "x"})
        assert "does not fit Seat" in refused["message"]
        assert "$.row" in refused["message"]
        await tools.done("create", key="seat/1", value={"row": 1})
