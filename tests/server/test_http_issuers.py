"""Callers whom an OpenID Connect provider knows: their JWTs are tokens of the service."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

import interlock
from interlock.server import Issuer
from interlock.server.http.identity import Identity
from interlock.server.http.issuer import Issuers, read_issuer
from interlock.server.http.problem import Problem
from tests.servers.service import Service

NAME = "https://login.example/team"
OURS, THEIRS = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def jwks(**keys: Any) -> str:
    """Return a key set of public keys by their ids."""
    listed = [
        {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig"}
        for kid, key in keys.items()
    ]
    return json.dumps({"keys": listed})


def a_jwt(key: Any = OURS, kid: str = "a", alg: str = "ES256", **claims: Any) -> str:
    """Return a JWT that holds unless something is said otherwise; None leaves a claim out."""
    all_claims = {
        "iss": NAME,
        "aud": "interlock",
        "sub": "planner",
        "exp": int(time.time()) + 60,
        "interlock_role": "writer",
        **claims,
    }
    kept = {name: each for name, each in all_claims.items() if each is not None}
    return jwt.encode(kept, key, algorithm=alg, headers={"kid": kid})


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(jwks(a=OURS))
    return path


def issuer(keys: object, **options: Any) -> Issuer:
    return Issuer(issuer=NAME, audience="interlock", keys=str(keys), **options)


def identity(issuers: Issuers, text: str) -> Identity:
    return asyncio.run(issuers.identity(text))


def refusal(issuers: Issuers, text: str) -> tuple[int, str]:
    with pytest.raises(Problem) as refused:
        identity(issuers, text)
    return refused.value.status, str(refused.value)


def test_a_jwt_is_a_token_beside_those_of_the_store(tmp_path: Path, keys: Path) -> None:
    about = tmp_path / "issuer.toml"
    about.write_text(
        f'issuer = "{NAME}"\naudience = "interlock"\nkeys = "{keys}"\nspaces = "team.spaces"\n'
    )
    team = {"spaces": ["main", "s-*"]}
    with Service.start(tmp_path / "s", "--issuer", str(about)) as service:
        good = a_jwt(team=team)
        with interlock.open(service.stores[0], "main", "setup") as space:
            space.create("k", 1)
        path = "/v1/spaces/main/records/k"
        written = service.ask("PUT", path, 2, token=good, If_Match='"1.0"')
        assert (written.status, written.json["writer"]) == (200, "planner")
        assert service.ask("GET", "/v1/spaces/other", token=good).status == 404
        assert service.ask("PUT", "/v1/spaces/s-1", token=good).status == 403  # a writer
        with interlock.open(service.url(good), "main", "planner") as opened:
            assert opened.update("k", lambda n: n + 1).value == 3
        for wrong in (a_jwt(THEIRS, team=team), a_jwt(exp=1, team=team), a_jwt(aud="x"), "a.b.c"):
            refused = service.ask("GET", path, token=wrong)
            assert (refused.status, refused.json["title"]) == (401, "Unauthorized"), refused
            assert refused.headers["content-type"] == "application/problem+json"
            assert wrong not in service.log_since_start()
        assert service.ask("GET", path).status == 401
        operator = a_jwt(sub="olaf", interlock_role="operator", team={"spaces": "main"})
        assert service.ask("POST", "/v1/spaces/main/reclaim/k", token=operator).status == 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lambda: a_jwt(None, alg="none"), "algorithm"),
        (lambda: a_jwt("x" * 64, alg="HS256"), "algorithm"),
        (lambda: a_jwt(THEIRS), "key"),
        (lambda: a_jwt(kid="unknown"), "key"),
        (lambda: a_jwt(exp=int(time.time()) - 31), "expired"),
        (lambda: a_jwt(exp=None), "lacks"),
        (lambda: a_jwt(aud="another"), "audience"),
        (lambda: a_jwt(aud=None), "lacks"),
        (lambda: a_jwt(iss="https://evil.example"), "not trusted"),
        (lambda: a_jwt(iss=None), "not trusted"),
        (lambda: a_jwt(nbf=int(time.time()) + 31), "not valid yet"),
        (lambda: a_jwt()[:-4] + "AAAA", "key"),
        (lambda: "x.y.z", "malformed"),
        (lambda: a_jwt(more="x" * 20_000), "malformed"),
    ],
)
def test_a_jwt_that_does_not_hold_is_refused(keys: Path, text: Any, said: str) -> None:
    status, why = refusal(Issuers([issuer(keys)]), text())
    assert status == 401
    assert said in why


def test_clocks_may_differ_a_little(keys: Path) -> None:
    late = a_jwt(exp=int(time.time()) - 20)
    assert identity(Issuers([issuer(keys)]), late).agent == "planner"
    assert refusal(Issuers([issuer(keys, leeway=0.0)]), late)[0] == 401


def test_a_key_is_used_with_the_algorithm_that_it_names(tmp_path: Path) -> None:
    named = json.loads(jwks(a=OURS))
    named["keys"][0]["alg"] = "ES384"
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(named))
    assert refusal(Issuers([issuer(path, algorithms=("ES256", "ES384"))]), a_jwt())[0] == 401


def test_claims_say_agent_role_spaces_and_keys(keys: Path) -> None:
    own = issuer(
        keys,
        agent="preferred.name",
        role="https://interlock.example/groups",
        roles={"team": "reader", "leads": "operator"},
        spaces="scope",
        patterns="keys",
    )
    claims: dict[str, Any] = {
        "preferred": {"name": "anna"},
        "https://interlock.example/groups": ["leads", "team", "admin"],
        "scope": "main team-*",
        "keys": ["plan/**"],
    }
    found = identity(Issuers([own]), a_jwt(**claims))
    assert (found.agent, found.role) == ("anna", "operator")
    assert (found.spaces, found.keys) == (("main", "team-*"), ("plan/**",))
    for wrong in (
        {"preferred": {"name": "*"}},
        {"preferred": None},
        {"https://interlock.example/groups": ["admin"]},
        {"https://interlock.example/groups": None},
        {"keys": ["a/**/b/**"]},
    ):
        assert refusal(Issuers([own]), a_jwt(**{**claims, **wrong}))[0] == 403, wrong
    nothing = identity(Issuers([own]), a_jwt(**{**claims, "scope": None, "keys": None}))
    assert (nothing.spaces, nothing.keys) == ((), ())


@pytest.mark.parametrize(("fresh", "gone"), [(300.0, True), (0.0, False)])
def test_keys_are_read_again_when_they_are_old_or_another_is_named(
    keys: Path, fresh: float, gone: bool
) -> None:
    async def story() -> list[bool]:
        issuers, held = Issuers([issuer(keys)], fresh=fresh, again=0.0), []
        for published in (jwks(a=OURS), jwks(a=OURS, b=THEIRS), jwks(b=THEIRS)):
            keys.write_text(published)
            for text in (a_jwt(), a_jwt(THEIRS, "b")):
                try:
                    await issuers.identity(text)
                except Problem:
                    held.append(False)
                else:
                    held.append(True)
        return held

    assert asyncio.run(story()) == [True, False, True, True, gone, True]


@pytest.fixture
def provider() -> Iterator[tuple[str, list[str]]]:
    """A provider of which only the configuration is known: its address, and what it was asked."""
    asked: list[str] = []

    class Provider(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            base = f"http://127.0.0.1:{server.server_port}"
            about = json.dumps({"issuer": base, "jwks_uri": f"{base}/keys"})
            self.send_response(200)
            self.end_headers()
            self.wfile.write((jwks(a=OURS) if self.path == "/keys" else about).encode())

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_keys_are_found_by_discovery_and_asked_for_seldom(provider: tuple[str, list[str]]) -> None:
    url, asked = provider

    async def story() -> None:
        issuers = Issuers([Issuer(issuer=url, audience="interlock")])
        for _ in range(3):
            assert (await issuers.identity(a_jwt(iss=url))).agent == "planner"
            with pytest.raises(Problem):
                await issuers.identity(a_jwt(iss=url, kid="made up"))

    asyncio.run(story())
    assert asked == ["/.well-known/openid-configuration", "/keys"]


def test_without_keys_nobody_knows_who_it_is(tmp_path: Path) -> None:
    status, why = refusal(Issuers([issuer(tmp_path / "none.json")]), a_jwt())
    assert (status, why) == (503, "The issuer's keys can't be read.")


@pytest.mark.parametrize(
    "options",
    [
        {"algorithms": ("HS256",)},
        {"algorithms": ("none",)},
        {"algorithms": ()},
        {"leeway": -1.0},
        {"roles": {"team": "king"}},
        {"keys": "http://login.example/keys"},
        {"keys": "ftp://login.example/keys"},
        {"issuer": "login.example", "keys": ""},
        {"audience": ""},
    ],
)
def test_an_issuer_that_proves_nothing_is_refused(keys: Path, options: dict[str, Any]) -> None:
    described = {"issuer": NAME, "audience": "interlock", "keys": str(keys), **options}
    with pytest.raises(interlock.Invalid):
        Issuers([Issuer(**described)])


def test_a_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "issuer.toml"
    path.write_text('issuer = "x"\naudience = "y"\nalgorithm = "RS256"\n')
    with pytest.raises(interlock.Invalid, match="unknown field `algorithm`"):
        read_issuer(path)
