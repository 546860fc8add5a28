"""Who may what through the service: tokens, roles, keys, and callers that mean harm."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import interlock
from interlock.backends.http.wire import encode_request
from interlock.cli import main
from interlock.core.plan import PUT, Expect, Plan, Write
from interlock.core.requests import (
    Commit,
    DropLease,
    Enter,
    Load,
    ReadLog,
    ReadValues,
    Redact,
    Request,
    SaveFold,
    TakeLease,
)
from interlock.core.writer import Writer
from tests.servers.process import wait_until
from tests.servers.service import Answer, Service, SpaceOf

_numbers = count()
RULES = {
    "of/{agent}/**": interlock.private(),
    "board": interlock.owned(by="curator"),
    "found": interlock.merged("append"),
    "paper": interlock.leased(),
    "job": interlock.guarded(
        machine=interlock.Machine("job", field="s", initial="a", transitions={"a": ["b"], "b": []})
    ),
}
Token = Callable[..., str]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with Service.start(folder, "--tokens", "--max-body", "1000000") as running:
        yield running


@pytest.fixture(scope="module")
def token(service: Service) -> Token:
    def make(agent: str, *options: str) -> str:
        ran = CliRunner().invoke(
            main, ["tokens", "create", service.stores[0], "--agent", agent, *options]
        )
        assert ran.exit_code == 0, ran.output
        return ran.output.strip()

    return make


@pytest.fixture(scope="module")
def admin(token: Token) -> str:
    return token("admin", "--role", "admin")


@pytest.fixture
def space(service: Service, admin: str) -> SpaceOf:
    made = service.space(f"s{next(_numbers)}", admin)
    rules = {pattern: rule.to_json() for pattern, rule in RULES.items()}
    assert made.ask("PUT", "rules", {"rules": rules}).status == 200
    return made


def relayed(space: SpaceOf, request: Request) -> Answer:
    """Send a typed request as a client that was changed to do harm would."""
    return space.ask("POST", "requests", encode_request(request))


def a_plan(agent: str, key: str, body: str, *, version: int | None = None, **more: Any) -> Plan:
    epoch = None if version is None else 0
    plan = Writer("", agent, 1 << 20).plan(
        f"op-{next(_numbers)}",
        expects=(Expect(key, version, epoch),),
        writes=(Write(PUT, key, body),),
    )
    more = {"rules": 1, **more}
    return plan._replace(**more)


def a_lease(key: str) -> TakeLease:
    return TakeLease((key,), name="n", agent="eve", incarnation=0, ttl=60.0)


def test_without_a_token_nothing_is_answered(service: Service, space: SpaceOf) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp5"}):
        for path in ("/v1/spaces", space.root, f"{space.root}/log", "/metrics", "/v1/audit"):
            refused = service.ask("GET", path, **headers)
            assert (refused.status, refused.json["title"]) == (401, "Unauthorized")
            assert "bearer" in refused.headers["www-authenticate"].lower()
    assert service.ask("GET", "/healthz").status == 200
    assert "Unauthorized" not in service.log_since_start()
    assert "GET /v1/audit" in service.log_since_start()


def test_a_token_is_kept_as_its_digest_and_ends_when_it_is_revoked(
    service: Service, space: SpaceOf, token: Token
) -> None:
    text = token("brief")
    name = text.split("_")[1]
    caller = space.under(text)
    assert caller.ask("GET", "log").status == 200
    other = text[:-1] + ("x" if text[-1] != "x" else "y")
    assert caller.under(other).ask("GET", "log").status == 401
    kept = (service.folder / "store.db").read_bytes()
    for wal in service.folder.glob("store.db-wal"):
        kept += wal.read_bytes()
    assert name.encode() in kept
    assert text.encode() not in kept
    listed = CliRunner().invoke(main, ["tokens", "list", service.stores[0], "--json"])
    assert [each["agent"] for each in json.loads(listed.output) if each["token"] == name] == [
        "brief"
    ]
    revoked = CliRunner().invoke(main, ["tokens", "revoke", service.stores[0], name])
    assert revoked.exit_code == 0
    wait_until(lambda: caller.ask("GET", "log").status == 401, "the token is refused", 10)
    again = CliRunner().invoke(main, ["tokens", "revoke", service.stores[0], name])
    assert again.exit_code == 2
    ended = token("ended", "--expires", "0.000001")
    wait_until(lambda: space.under(ended).ask("GET", "log").status == 401, "it has expired", 10)


def test_a_token_has_its_own_spaces(service: Service, space: SpaceOf, token: Token) -> None:
    elsewhere = token("a", "--space", "team-*")
    assert space.under(elsewhere).ask("GET", "log").status == 404
    assert service.ask("GET", "/v1/spaces", token=elsewhere).json == {"spaces": []}
    assert service.ask("PUT", "/v1/spaces/team-1", token=elsewhere).status == 403
    assert service.ask("GET", "/v1/spaces/interlock-service", token=elsewhere).status == 404


def test_roles_are_steps(service: Service, space: SpaceOf, token: Token, admin: str) -> None:
    reader, writer, operator = (token(r, "--role", r) for r in ("reader", "writer", "operator"))
    space.create("k", 1)
    assert space.under(reader).ask("GET", "records/k").status == 200
    assert space.under(reader).ask("PUT", "records/k", 2, If_Match='"1.0"').status == 403
    assert relayed(space.under(reader), Commit(a_plan("reader", "x", "1"))).status == 403
    assert relayed(space.under(reader), Enter("reader", True, "n")).status == 403
    for path in ("reclaim/k", "erase", "trim"):
        assert space.under(writer).ask("POST", path, {}).status == 403
    assert space.under(writer).ask("PUT", "rules", {"rules": {}}).status == 403
    assert relayed(space.under(writer), Redact(("k",), (1,))).status == 403
    rules = a_plan("writer", "$rules", "{}", version=1)
    assert relayed(space.under(writer), Commit(rules)).status == 403
    assert space.under(operator).ask("POST", "reclaim/k").status == 200
    assert service.ask("DELETE", space.root, token=operator).status == 403
    done = service.ask("GET", "/v1/audit?limit=1", token=operator).json["audit"]
    assert [(each["agent"], each["did"], each["key"]) for each in done] == [
        ("operator", "reclaim", "k")
    ]
    assert service.ask("GET", "/v1/audit", token=reader).status == 403


def test_nobody_writes_what_belongs_to_another_agent(space: SpaceOf, token: Token) -> None:
    a, eve = (space.under(token(name)) for name in ("a", "eve"))
    made = a.ask("PUT", "records/of/a/note", 1, If_None_Match="*")
    assert (made.status, made.json["writer"]) == (201, "a")
    for headers in ({"If_Match": made.etag}, {"If_Match": made.etag, "Interlock_Agent": "a"}):
        assert eve.ask("PUT", "records/of/a/note", 2, **headers).status == 403
    assert eve.ask("PUT", "records/board", 2, If_None_Match="*").status == 403
    assert eve.ask("POST", "leases/of/a/note", {}).status == 403
    assert relayed(eve, Enter("a", True, "n")).status == 403
    assert relayed(eve, Commit(a_plan("a", "x", "1"))).status == 403
    assert relayed(eve, a_lease("of/a/note")).status == 403
    lied = relayed(eve, Commit(a_plan("eve", "of/a/note", "2", version=1)))
    assert lied.json["refusal"]["kind"] == "Forbidden"
    assert a.ask("GET", "records/of/a/note").json["value"] == 1


def test_a_changed_client_cannot_break_what_the_rules_say(space: SpaceOf, token: Token) -> None:
    eve = space.under(token("eve"))
    space.create("job", {"s": "a"})
    moved = space.ask("PUT", "records/job", {"s": "b"}, If_Match='"1.0"')
    assert moved.status == 200
    for version, kind in ((2, "IllegalTransition"), (3, "Conflict")):
        back = relayed(eve, Commit(a_plan("eve", "job", '{"s": "a"}', version=version)))
        assert back.json["refusal"]["kind"] == kind
    assert relayed(eve, Commit(a_plan("eve", "k", "1", expects=()))).status == 400
    for body in ("{", "NaN", '"\\ud800"', "[" * 300 + "]" * 300):
        refused = relayed(eve, Commit(a_plan("eve", "k", body)))
        assert refused.json["refusal"]["kind"] == "Invalid", body
    stale = relayed(eve, Commit(a_plan("eve", "of/a/x", "1", rules=7)))
    assert stale.json["refusal"]["kind"] == "Outdated"
    assert space.ask("GET", "records/job").json["value"] == {"s": "b"}
    assert space.ask("GET", "log?prefix=k").json["entries"] == []


def test_nobody_uses_the_lease_of_another(space: SpaceOf, token: Token) -> None:
    a, eve = (space.under(token(name)) for name in ("a", "eve"))
    held = a.ask("POST", "leases/paper", {"ttl": 60}).json["epoch"]
    stolen = a_plan("eve", "paper", "1", leased=("paper",))
    stolen = stolen._replace(expects=(Expect("paper", 0, held),))
    assert relayed(eve, Commit(stolen)).json["refusal"]["kind"] == "Held"
    lease = {"If_Match": f'"0.{held}"', "Interlock_Lease": str(held)}
    assert eve.ask("PUT", "records/paper", 1, **lease).status == 423
    assert eve.ask("PUT", "leases/paper", {"epoch": held, "ttl": 60}).status == 423
    assert eve.ask("DELETE", f"leases/paper?epoch={held}").status == 204
    assert relayed(eve, DropLease("paper", held)).status == 200
    renewed = relayed(eve, a_lease("paper").replace(epoch=held)).json["answer"]
    assert renewed[0] is False
    assert relayed(eve, a_lease("paper").replace(reclaim=True)).status == 403
    assert a.ask("PUT", "records/paper", 1, **lease).status == 200


def test_a_fold_is_never_a_clients(space: SpaceOf, token: Token) -> None:
    eve = space.under(token("eve"))
    assert eve.ask("POST", "append/found", "true").status == 201
    fold = SaveFold("found", position=2, body='["false"]', rules=1)
    assert relayed(eve, fold).status == 200
    assert space.ask("GET", "records/found").json["value"] == ["true"]


def test_a_token_of_some_keys_sees_no_others(space: SpaceOf, token: Token) -> None:
    some = space.under(token("a", "--key", "booking/*", "--key", "of/{agent}/**"))
    space.create("secret", "s3cret")
    assert some.ask("PUT", "records/booking/1", 1, If_None_Match="*").status == 201
    assert some.ask("PUT", "records/of/a/x", 1, If_None_Match="*").status == 201
    assert some.ask("PUT", "records/of/b/x", 1, If_None_Match="*").status == 403
    assert some.ask("GET", "records/secret").status == 403
    change = {"kind": "create", "key": "secret2", "value": 1}
    assert some.ask("POST", "transactions", {"writes": [change]}).status == 403
    seen = [some.ask("GET", path).body for path in ("log", "records", "conflicts")]
    op_id = space.ask("GET", "log?prefix=secret").json["entries"][0]["op_id"]
    for request in (
        ReadLog(0, 100),
        Load((), (), op_id),
        Load(("booking/1",), ("of/a/",), op_id),
    ):
        answered = relayed(some, request)
        assert answered.status == 200
        seen.append(answered.body)
    assert all(b"s3cret" not in body for body in seen)
    assert b"booking/1" in seen[0]
    values = ReadValues(after=0, limit=9, key="secret")
    for refused in (Load(("secret",)), Load((), ("",)), ReadLog(0, 9, key="secret"), values):
        assert relayed(some, refused).status == 403
    with some.watching("?after=0") as events:
        assert [next(events)[1]["key"] for _ in range(2)] == ["booking/1", "of/a/x"]


def test_refused_writes_are_for_operators_and_forgotten_with_their_keys(
    service: Service, space: SpaceOf, token: Token
) -> None:
    writer, operator = (token(role, "--role", role) for role in ("writer", "operator"))
    for key in ("k", "of/admin/x"):
        old = space.create(key, {"n": 1}).etag
        space.ask("PUT", f"records/{key}", {"n": 2}, If_Match=old)
        assert space.ask("PUT", f"records/{key}", {"n": 3}, If_Match=old).status == 412
    change = {"kind": "put", "key": "k", "version": 1, "epoch": 0, "value": 4}
    assert space.ask("POST", "transactions", {"writes": [change]}).status == 409
    kept = space.under(operator).ask("GET", "refused").json["refused"]
    assert [(e["key"], e["value"], e["version"], e["agent"]) for e in kept] == [
        ("of/admin/x", {"n": 3}, 1, "admin"),
        ("k", {"n": 3}, 1, "admin"),
    ]
    page = f"/ui/{space.name}/refused/{kept[1]['id']}"
    form = b"csrf=&version=2&epoch=0"
    for who, status in ((writer, 403), (operator, 403)):  # by its role; by the mark that it lacks
        assert space.under(who).ask("GET", "refused").status == (403 if who == writer else 200)
        assert service.ask("POST", page, form, Cookie=f"interlock-token={who}").status == status
    assert space.ask("GET", "records/k").json["version"] == 2
    assert service.ask("GET", page, Cookie=f"interlock-token={writer}").status == 403
    some = token("some", "--role", "operator", "--key", "other/*")
    assert space.under(some).ask("GET", "refused").json == {"refused": []}
    assert service.ask("GET", page, Cookie=f"interlock-token={some}").status == 403
    assert space.ask("POST", "erase", {"prefix": "of/"}).status == 200
    assert [each["key"] for each in space.ask("GET", "refused").json["refused"]] == ["k"]


def test_python_clients_have_tokens_too(service: Service, space: SpaceOf, token: Token) -> None:
    text = token("planner", "--key", "plan/**")
    with interlock.open(service.url(text), space=space.name, agent="planner") as opened:
        opened.create("plan/a", 1)
        with pytest.raises(interlock.Forbidden, match="does not include the key 'other'"):
            opened.create("other", 1)
        assert text not in repr(opened)
    with pytest.raises(interlock.Forbidden, match="agent 'planner', not 'critic'"):
        interlock.open(service.url(text), space=space.name, agent="critic")
    with pytest.raises(interlock.Forbidden) as refused:
        interlock.open(service.url("wrong"), space=space.name)
    assert "wrong" not in str(refused.value).replace("unknown", "")


def test_requests_from_elsewhere_are_refused(service: Service, space: SpaceOf) -> None:
    port = service.port
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{port}"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1.evil.example:{port}"},
    ):
        refused = space.ask("GET", "log", **headers)
        assert refused.status in (403, 421), headers
        assert refused.json["title"] == "Forbidden"
    assert space.ask("GET", "log", Origin=f"http://127.0.0.1:{port}").status == 200


def test_paths_lead_nowhere_else(space: SpaceOf) -> None:
    for path in (
        "records/../../interlock-service/log",
        "records/%2e%2e/%2e%2e/interlock-service/log",
        "../interlock-service/records/token",
        "records/a%00b",
        "records/a%0d%0aX-Evil:1",
        "records//etc/passwd",
    ):
        refused = space.ask("GET", path)
        assert refused.status in (400, 404), path
        assert "x-evil" not in refused.headers
    assert (
        space.service.ask("GET", "/v1/spaces/interlock-service/log", token=space.token).status
        == 404
    )


def test_large_bodies_are_refused_before_they_are_read(service: Service, space: SpaceOf) -> None:
    head = f"PUT {space.root}/records/k HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: *\r\n"
    head += f"Authorization: Bearer {space.token}\r\n"
    place = (service.host, service.port)
    with socket.create_connection(place, timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: 10000000\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
    with (
        interlock.open(service.url(space.token), space=space.name, agent="admin") as opened,
        pytest.raises(interlock.Invalid, match="--max-body"),
    ):
        opened.create("k", "x" * 1_000_000)
    head += "Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(place, timeout=20) as connection:
        connection.sendall(head.encode())
        answered = b""
        try:
            for _ in range(200):
                connection.sendall(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        except OSError:
            pass
        try:
            answered = connection.recv(1000)
        except ConnectionError:
            answered = b"HTTP/1.1 413 "
        assert answered.startswith(b"HTTP/1.1 413 ")
    assert space.ask("GET", "records/k").status == 404


def test_who_asks_too_often_waits(tmp_path: Path) -> None:
    with Service.start(tmp_path / "s", "--rate", "2") as service:
        found = [service.ask("GET", "/v1/spaces").status for _ in range(8)]
        assert 429 in found
        late = next(
            a for a in iter(lambda: service.ask("GET", "/v1/spaces"), None) if a.status == 429
        )
        assert 0 < float(late.headers["retry-after"]) < 1
        assert service.ask("GET", "/healthz").status == 200
        began = time.monotonic()
        with interlock.open(service.url(), space="s", agent="a") as space:
            space.create("k", 1)
        assert time.monotonic() - began > 0.2


@pytest.mark.parametrize(
    "options",
    [
        ["--bind", "0.0.0.0:0"],
        ["--bind", "0.0.0.0:0", "--tokens"],
        ["--bind", "0.0.0.0:0", "--no-tokens", "--behind-proxy"],
        ["--bind", "127.0.0.1:0", "--no-tokens", "--behind-proxy"],
        ["--bind", "nowhere"],
        ["--tls-cert", __file__],
    ],
)
def test_what_is_not_safe_is_not_served(options: list[str], tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["serve", f"sqlite:///{tmp_path / 's.db'}", *options])
    assert ran.exit_code == 2, ran.output
    assert not (tmp_path / "s.db").exists()
