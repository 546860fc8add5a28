"""The HTTP service: records with preconditions, transactions, leases, the log, groups, runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

import interlock
from tests.servers.service import Service, SpaceOf

_numbers = count()
BOOKING = interlock.Machine(
    "booking", field="state", initial="new", transitions={"new": ["paid"], "paid": []}
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.start(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def space(service: Service) -> SpaceOf:
    return service.space(f"space {next(_numbers)}")


def test_a_record_is_created_once(space: SpaceOf) -> None:
    made = space.create("plan/a.md", {"text": "draft", "n": 2**70})
    assert made.json["version"] == 1
    assert made.headers["location"] == f"{space.root}/records/plan/a.md"
    again = space.ask("PUT", "records/plan/a.md", 1, If_None_Match="*")
    assert (again.status, again.json["title"], again.json["actual"]) == (412, "Conflict", 1)
    read = space.ask("GET", "records/plan/a.md")
    assert (read.status, read.etag, read.json["value"]["n"]) == (200, '"1.0"', 2**70)


def test_a_write_from_an_old_version_is_refused_with_the_fresh_record(space: SpaceOf) -> None:
    old = space.create("k", 1).etag
    assert space.ask("PUT", "records/k", 2, If_Match=old).json["version"] == 2
    late = space.ask("PUT", "records/k", 3, If_Match=old)
    assert (late.status, late.headers["content-type"]) == (412, "application/problem+json")
    assert (late.json["title"], late.json["expected"], late.json["actual"]) == ("Conflict", 1, 2)
    assert (late.json["record"]["value"], late.etag) == (2, '"2.0"')
    assert space.ask("DELETE", "records/k", If_Match=old).status == 412
    assert space.ask("GET", "records/k").json["value"] == 2
    (found,) = space.ask("GET", "conflicts").json["keys"]
    assert (found["key"], found["refusals"]) == ("k", 2)


def test_a_write_that_does_not_say_what_it_read_is_refused(space: SpaceOf) -> None:
    space.create("k", 1)
    for method, headers in (("PUT", {}), ("DELETE", {}), ("PUT", {"If_Match": "*"})):
        refused = space.ask(method, "records/k", 2, **headers)
        assert (refused.status, refused.json["title"]) == (428, "PreconditionRequired")
    assert space.ask("PUT", "records/k", 2, If_Match='"x"').status == 400
    assert space.ask("PUT", "records/k", 2, If_Match='"9.0"').status == 412  # yet to come
    assert space.ask("GET", "records/k").json["value"] == 1


def test_a_record_that_has_not_changed_is_not_sent_again(space: SpaceOf) -> None:
    etag = space.create("k", 1).etag
    same = space.ask("GET", "records/k", If_None_Match=etag)
    assert (same.status, same.body, same.etag) == (304, b"", etag)
    gone = space.ask("DELETE", "records/k", If_Match=etag)
    assert (gone.status, gone.json["version"]) == (200, 2)
    missing = space.ask("GET", "records/k")
    assert (missing.status, missing.json["title"], missing.json["version"]) == (404, "NotFound", 2)


def test_an_operation_that_is_sent_again_is_applied_once(space: SpaceOf) -> None:
    etag = space.create("k", 1).etag
    for _ in range(2):
        done = space.ask("PUT", "records/k", 2, If_Match=etag, Idempotency_Key="op")
        assert (done.status, done.json["version"]) == (200, 2)
    other = space.ask("PUT", "records/k", 3, If_Match=etag, Idempotency_Key="op")
    assert (other.status, other.json["title"]) == (400, "Invalid")
    change = {"kind": "create", "key": "n", "value": 1}
    for replayed in (False, True):
        done = space.ask("POST", "transactions", {"writes": [change]}, Idempotency_Key="tx")
        assert (done.status, done.json["replayed"]) == (200, replayed)
    assert space.ask("GET", "log").json["next_after"] == 3


def test_a_patch_loses_no_other_field(space: SpaceOf) -> None:
    read = space.create("k", {"a": 1, "b": 1}).etag
    assert space.ask("PATCH", "records/k", {"a": 2}).status == 200
    assert space.ask("PATCH", "records/k", {"b": 2}, If_Match=read).status == 412
    assert space.ask("PATCH", "records/k", [1]).status == 400
    assert space.ask("GET", "records/k").json["value"] == {"a": 2, "b": 1}


def test_rules_hold_for_every_caller(space: SpaceOf) -> None:
    rules = {
        "booking/*": interlock.guarded(machine=BOOKING).to_json(),
        "found": {"rule": "merged", "reducer": "append"},
        "of/{agent}": {"rule": "private"},
    }
    checked = space.ask("PUT", "rules", {"rules": rules, "dry_run": True})
    assert checked.status == 200, checked
    assert space.ask("PUT", "rules", {"rules": rules}).status == 200
    assert space.ask("GET", "rules").json["rules"] == rules
    space.create("booking/1", {"state": "new"})
    moved = space.ask("POST", "transition/booking/1", {"to": "paid", "changes": {"by": "card"}})
    assert moved.json["value"] == {"state": "paid", "by": "card"}
    back = space.ask("PUT", "records/booking/1", {"state": "new"}, If_Match=moved.etag)
    assert (back.status, back.json["title"]) == (409, "IllegalTransition")
    assert (back.json["before"], back.json["allowed"]) == ("paid", [])
    for n in range(2):
        assert space.ask("POST", "append/found", n, Idempotency_Key=f"id {n}").status == 201
    assert space.ask("POST", "append/found", 1, Idempotency_Key="id 1").status == 201
    assert space.ask("GET", "records/found").json["value"] == [0, 1]
    mine = space.ask("PUT", "records/of/a", 1, If_None_Match="*", Interlock_Agent="a")
    assert (mine.status, mine.json["writer"]) == (201, "a")
    other = space.ask("PUT", "records/of/a", 2, If_Match=mine.etag, Interlock_Agent="b")
    assert (other.status, other.json["rule"]) == (403, "private")


def test_a_transaction_is_refused_where_anything_that_it_read_has_moved(space: SpaceOf) -> None:
    for key in ("a", "b", "c"):
        space.create(key, 1)
    space.ask("PUT", "records/c", 2, If_Match='"1.0"')
    writes = [
        {"kind": "put", "key": "a", "value": 0, "version": 1, "epoch": 0},
        {"kind": "delete", "key": "b", "version": 1, "epoch": 0},
        {"kind": "create", "key": "d", "value": 1},
    ]
    asked = {"writes": writes, "expect": [{"key": "c", "version": 1, "epoch": 0}]}
    refused = space.ask("POST", "transactions", asked)
    assert (refused.status, refused.json["key"], refused.json["actual"]) == (409, "c", 2)
    assert space.ask("GET", "records/a").json["value"] == 1
    asked["expect"][0]["version"] = 2
    done = space.ask("POST", "transactions", asked)
    assert [each["version"] for each in done.json["writes"]] == [2, 2, 1]
    listed = space.ask("GET", "records").json["records"]
    assert [(each["key"], each["value"]) for each in listed] == [("a", 0), ("c", 2), ("d", 1)]


def test_a_lease_is_named_by_its_epoch(space: SpaceOf) -> None:
    read = space.create("k", 1).etag
    taken = space.ask("POST", "leases/k", {"ttl": 20}, Interlock_Agent="holder")
    assert (taken.status, taken.json["epoch"], taken.etag) == (201, 1, '"1.1"')
    others = space.ask("PUT", "records/k", 2, If_Match=taken.etag)
    assert (others.status, others.json["holder"]) == (423, "holder")
    assert int(others.headers["retry-after"]) > 0
    assert space.ask("POST", "leases/k", {}).status == 423
    assert (
        space.ask("PUT", "leases/k", {"epoch": 1, "ttl": 30}, Interlock_Agent="holder").status
        == 200
    )
    written = space.ask(
        "PUT", "records/k", 2, If_Match=taken.etag, Interlock_Lease="1", Interlock_Agent="holder"
    )
    assert written.json["version"] == 2
    assert space.ask("PUT", "records/k", 3, If_Match=read).status == 412
    assert space.ask("POST", "reclaim/k").json["epoch"] == 2
    late = space.ask(
        "PUT", "records/k", 3, If_Match=written.etag, Interlock_Lease="1", Interlock_Agent="holder"
    )
    assert (late.status, late.json["title"], late.json["current"]) == (412, "Fenced", 2)
    assert space.ask("PUT", "leases/k", {"epoch": 1}).json["title"] == "Fenced"
    assert space.ask("DELETE", "leases/k?epoch=1").status == 204
    assert space.ask("PUT", "leases/other", {"epoch": 0}).status == 400, "that would take it"


def test_who_holds_a_key_is_told(space: SpaceOf) -> None:
    assert space.ask("GET", "queue/k").json == {"key": "k", "lease": None, "waiters": []}
    assert space.ask("POST", "leases/k", {"ttl": 60}, Interlock_Agent="holder").status == 201
    lease = space.ask("GET", "queue/k").json["lease"]
    assert (lease["holder"], lease["epoch"]) == ("holder", 1)


def test_the_log_is_read_in_pages_and_as_a_stream(space: SpaceOf) -> None:
    for n in range(5):
        space.create(f"k/{n}", n)
    first = space.ask("GET", "log?limit=2").json
    assert ([e["position"] for e in first["entries"]], first["more"]) == ([1, 2], True)
    rest = space.ask("GET", f"log?after={first['next_after']}&prefix=k/&kinds=put").json
    assert ([e["value"] for e in rest["entries"]], rest["more"]) == ([2, 3, 4], False)
    newest = space.ask("GET", "log?limit=1&newest_first=true").json["entries"]
    assert newest[0]["key"] == "k/4"
    for what in ("log", "records"):
        whole = space.ask("GET", what, Accept="application/x-ndjson")
        assert [json.loads(line)["value"] for line in whole.body.splitlines()] == [0, 1, 2, 3, 4]
    page = space.ask("GET", "records?prefix=k/&limit=3&values=false").json
    assert (len(page["records"]), page["next_after"], page["more"]) == (3, "k/2", True)
    assert space.ask("GET", "log?limit=x").status == 400
    assert space.ask("GET", "log?after=99").status == 200


def test_any_moment_is_read_again(space: SpaceOf) -> None:
    space.create("k", "was")
    space.ask("PUT", "records/k", "is", If_Match='"1.0"')
    assert space.ask("GET", "records/k?position=1").json["value"] == "was"
    assert space.ask("GET", "records?position=1").json["records"][0]["value"] == "was"
    entries = space.ask("GET", "history/k").json["entries"]
    assert [each["value"] for each in entries] == ["was", "is"]
    assert space.ask("GET", "records/k?time=noon").status == 400


def test_watching_goes_on_where_it_was(space: SpaceOf) -> None:
    space.create("a", 1)
    with space.watching("?prefix=b") as events:
        space.create("b", 2)
        position, entry = next(events)
        assert (position, entry["key"], entry["value"]) == ("2", "b", 2)
        space.create("c", 3)
        space.create("b2", 4)
        assert next(events)[0] == "4"
    with space.watching(Last_Event_ID="1") as events:
        assert [next(events)[0] for _ in range(3)] == ["2", "3", "4"]
        space.create("d", 5)
        assert next(events)[0] == "5"
    assert space.ask("GET", "watch?after=77").status == 400


def test_a_group_deals_entries_and_is_acknowledged(space: SpaceOf) -> None:
    space.create("job/1", "x")
    taken = space.ask("POST", "groups/g/take", {"consumer": "c", "prefix": "job/"})
    (delivery,) = taken.json["deliveries"]
    assert (delivery["entry"]["key"], delivery["deliveries"]) == ("job/1", 1)
    done = [{"position": delivery["entry"]["position"], "deliveries": 1}]
    assert space.ask("POST", "groups/g/ack", {"consumer": "c", "deliveries": done}).json == {
        "done": 1
    }
    assert space.ask("GET", "groups").json == {"groups": ["g"]}
    assert space.ask("GET", "groups/g").json["pending"] == []
    assert space.ask("GET", "groups/none").status == 404


def test_a_run_is_started_shown_answered_and_cancelled(space: SpaceOf) -> None:
    started = space.ask("POST", "runs", {"id": "r", "program": "buy", "input": [1]})
    assert (started.status, started.json["state"]) == (201, "Idle")
    assert space.ask("POST", "runs", {"id": "r", "program": "buy"}).json["title"] == "Conflict"
    assert space.ask("POST", "runs/r/send", {"name": "ok", "value": True}).status == 204
    assert space.ask("GET", "runs/r").json["sent"] == {"ok": True}
    assert [each["id"] for each in space.ask("GET", "runs?open=true").json["runs"]] == ["r"]
    assert space.ask("POST", "runs/r/cancel", {}).json == {"failed": True}
    assert space.ask("GET", "runs/none").status == 404


def test_what_operators_do(space: SpaceOf) -> None:
    space.create("k", "secret")
    assert space.ask("POST", "erase", {"key": "k"}).json["keys"] == ["k"]
    assert b"secret" not in space.ask("GET", "log").body
    assert space.ask("POST", "erase", {}).status == 400
    assert space.ask("POST", "trim", {}).json["cut"] == 0
    assert space.ask("GET", "metrics").json["space"] == space.name
    assert b"interlock_commits" in space.service.ask("GET", "/metrics").body
    assert space.name in space.service.ask("GET", "/v1/spaces").json["spaces"]
    assert space.service.ask("DELETE", space.root).status == 204
    assert space.ask("GET", "records").status == 404


def test_malformed_requests_change_nothing(space: SpaceOf) -> None:
    service = space.service
    assert service.ask("GET", "/v1/spaces/none").json["title"] == "NotFound"
    assert service.ask("GET", "/nothing").json["title"] == "NotFound"
    assert service.ask("POST", "/v1/spaces").json["title"] == "NotAllowed"
    for body in (b"", b"{", b"NaN", b"\xff", b"[" * 10_000):
        refused = space.ask("PUT", "records/k", body, If_None_Match="*")
        assert (refused.status, refused.json["title"]) == (400, "Invalid"), refused
    for key in ("$rules", "a//b", "a/../b", "langgraph/x"):
        assert space.ask("PUT", f"records/{key}", 1, If_None_Match="*").status in (400, 403)
    wrong: list[dict[str, Any]] = [{"writes": [{"kind": "put"}]}, {"writes": []}, {"else": 1}]
    for plan in wrong:
        assert space.ask("POST", "transactions", plan).status in (200, 400)
    for body in (b"{}", b'{"Think": {}}', b'{"Load": {"keys": 1}}', b"[]"):
        assert space.ask("POST", "requests", body).status == 400
    assert space.ask("GET", "log").json["entries"] == []
