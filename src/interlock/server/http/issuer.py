"""Issuers: whose JWTs the service takes for tokens, and what their claims stand for.

A JWT is checked with keys of its issuer and nothing else: the algorithm must be one that the issuer
is set up for, never what the token asks for.  Keys change while the service runs, so they are
looked up again when they are old, and when a token names one that is not known.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from interlock import Invalid, Json
from interlock.core.keys import check_name, check_pattern
from interlock.extras import needs
from interlock.server.http.identity import ANY_AGENT, ROLES, Identity, unauthorized
from interlock.server.http.problem import Problem, forbidden

_ASYMMETRIC = ("RS", "PS", "ES", "Ed")  # what a public key checks
_FRESH = 300.0  # seconds for which keys are not looked up again
_AGAIN = 10.0  # seconds between two lookups, whatever callers send
_STALE = 3600.0  # seconds for which keys are used though they can't be looked up
_WAITS = 5.0  # seconds for an answer of the issuer
_MOST = 1 << 20  # bytes of it
_LONGEST = 16_384  # characters of a JWT that is looked at
_LOCAL = ("127.0.0.1", "localhost", "::1")
_log = logging.getLogger("interlock.server")


class Issuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An OpenID Connect provider, or anyone else who signs JWTs, as `interlock serve --issuer`
    reads it from a TOML file.

    `issuer`: the claim `iss`.  `audience`: what must be in `aud`.  `keys`: URL or file of its JWKS;
    empty: where `ISSUER/.well-known/openid-configuration` says.  `algorithms`: what it signs with,
    none of them symmetric.  `leeway`: seconds by which clocks may differ.

    `agent`, `role`, `spaces` and `patterns` are names of claims; `a.b` is `b` inside `a`.  The role
    is `reader`, `writer`, `operator` or `admin`, or what `roles` has for the claim's value; of
    several it is the highest.  `spaces` and `patterns` hold lists, or words with spaces between;
    without a claim named here, every space and every key.
    """

    issuer: str
    audience: str | list[str]
    keys: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    leeway: float = 30.0
    agent: str = "sub"
    role: str = "interlock_role"
    roles: dict[str, str] = {}
    spaces: str = ""
    patterns: str = ""


def read_issuer(path: Path) -> Issuer:
    """Read an issuer from a TOML file.  Raises Invalid."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), Issuer)
    except (OSError, ValueError) as problem:
        raise Invalid(f"{path} does not describe an issuer: {problem}") from None


class Issuers:
    """The issuers of a service."""

    def __init__(
        self, issuers: Sequence[Issuer], fresh: float = _FRESH, again: float = _AGAIN
    ) -> None:
        self._by_name: dict[str, tuple[Issuer, _Keys]] = {}
        for each in issuers:
            _check(each)
            if each.issuer in self._by_name:
                raise Invalid(f"Issuer {each.issuer!r} is named twice.")
            self._by_name[each.issuer] = (each, _Keys(each, fresh, again))

    def may_be(self, text: str) -> bool:
        """Whether a token looks like a JWT, and there is somebody who issues some."""
        return bool(self._by_name) and text.count(".") == 2

    async def identity(self, text: str) -> Identity:
        """Return whom a JWT stands for.  Raises Problem."""
        import jwt

        try:
            if len(text) > _LONGEST:
                raise jwt.DecodeError("too long")
            unverified = jwt.decode(text, options={"verify_signature": False})
            header, name = jwt.get_unverified_header(text), unverified.get("iss")
            if not isinstance(name, str) or name not in self._by_name:
                raise jwt.InvalidIssuerError
            issuer, keys = self._by_name[name]
            if header.get("alg") not in issuer.algorithms:
                raise jwt.InvalidAlgorithmError
            key = await keys.get(header.get("kid"))
            if key is None:
                raise jwt.InvalidSignatureError
            claims = jwt.decode(
                text,
                key.public,
                algorithms=[each for each in issuer.algorithms if key.algorithm in (None, each)],
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except (jwt.PyJWTError, TypeError, ValueError) as problem:
            raise unauthorized(_why(problem)) from None
        return _identity(issuer, claims)


def _check(issuer: Issuer) -> None:
    with needs("PyJWT", "oidc"):
        from jwt.algorithms import get_default_algorithms
    known = sorted(n for n in get_default_algorithms() if n.startswith(_ASYMMETRIC))
    for name in issuer.algorithms:
        if name not in known:
            raise Invalid(f"algorithms: {name!r:.40} must be one of {', '.join(known)}.")
    if not issuer.algorithms or not issuer.audience or not issuer.issuer:
        raise Invalid("An issuer needs its name, an audience and an algorithm.")
    if not 0 <= issuer.leeway <= 300:
        raise Invalid(f"leeway={issuer.leeway:g} must be from 0 to 300 seconds.")
    for role in issuer.roles.values():
        if role not in ROLES:
            raise Invalid(f"roles: {role!r:.40} must be one of {', '.join(ROLES)}.")
    if not issuer.keys or "://" in issuer.keys:
        _check_url(issuer.keys or issuer.issuer)


def _check_url(url: str) -> None:
    """Raise Invalid where keys would come from whoever is on the way."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise Invalid(f"{url!r:.200} must begin with https://.")


def _why(problem: Exception) -> str:
    import jwt

    match problem:
        case jwt.ExpiredSignatureError():
            return "The JWT has expired."
        case jwt.InvalidAudienceError():
            return "The JWT is for another audience."
        case jwt.InvalidIssuerError():
            return "The JWT is of an issuer that is not trusted here."
        case jwt.InvalidAlgorithmError():
            return "The JWT is signed with an algorithm that is not allowed."
        case jwt.ImmatureSignatureError() | jwt.InvalidIssuedAtError():
            return "The JWT is not valid yet."
        case jwt.MissingRequiredClaimError():
            return "The JWT lacks one of the claims exp, iss and aud."
        case jwt.InvalidSignatureError() | jwt.InvalidKeyError() | TypeError():
            return "The JWT is signed with a key that is not the issuer's."
    return "The JWT is malformed."


# Claims


def _identity(issuer: Issuer, claims: Mapping[str, Any]) -> Identity:
    agent = _claim(claims, issuer.agent)
    if not isinstance(agent, str) or agent == ANY_AGENT or check_name("agent", agent):
        raise forbidden(f"The claim {issuer.agent!r} of the JWT is no agent's name.")
    named = issuer.roles or {role: role for role in ROLES}
    held = [named[word] for word in _words(_claim(claims, issuer.role)) if word in named]
    if not held:
        raise forbidden(f"The claim {issuer.role!r} of the JWT names no role.")
    spaces = _words(_claim(claims, issuer.spaces)) if issuer.spaces else ["*"]
    patterns = _words(_claim(claims, issuer.patterns)) if issuer.patterns else ["**"]
    if any(check_pattern(each.removeprefix("$")) for each in patterns):
        raise forbidden(f"The claim {issuer.patterns!r} of the JWT holds no patterns of keys.")
    return Identity(
        agent,
        max(held, key=ROLES.index),
        tuple(spaces),
        tuple(patterns),
        token=f"{issuer.issuer} {agent}",
    )


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim, whose name may have dots itself."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _words(claim: Any) -> list[str]:
    words = claim.split() if isinstance(claim, str) else claim
    return [each for each in words if isinstance(each, str)] if isinstance(words, list) else []


# Keys


class _Key(NamedTuple):
    public: Any
    algorithm: str | None  # the only one that it is used with, where it names one


class _Keys:
    """The keys of one issuer, as they were when they were looked up last."""

    def __init__(self, issuer: Issuer, fresh: float, again: float) -> None:
        self._issuer = issuer
        self._fresh = fresh
        self._again = again
        self._found: dict[str | None, _Key] = {}
        self._at = self._tried = float("-inf")
        self._looking = asyncio.Lock()

    async def get(self, kid: str | None) -> _Key | None:
        """Return a key by its id, None where the issuer has none.  Raises Problem."""
        if self._needs_lookup(kid):
            async with self._looking:
                if self._needs_lookup(kid):
                    await self._look_up()
        if time.monotonic() - self._at > _STALE:
            raise Problem(503, "Unavailable", "The issuer's keys can't be read.", retryable=True)
        if kid is None and len(self._found) == 1:
            return next(iter(self._found.values()))
        return self._found.get(kid)

    def _needs_lookup(self, kid: str | None) -> bool:
        now = time.monotonic()
        old = now - self._at > self._fresh or (kid is not None and kid not in self._found)
        return old and now - self._tried >= self._again

    async def _look_up(self) -> None:
        self._tried = time.monotonic()
        try:
            async with asyncio.timeout(2 * _WAITS):
                self._found = _keys_of(await asyncio.to_thread(_jwks, self._issuer))
        except (OSError, ValueError, Invalid) as problem:
            _log.warning("Keys of %s can't be read: %s", self._issuer.issuer, problem)
        else:
            self._at = self._tried


def _keys_of(document: Json) -> dict[str | None, _Key]:
    from jwt import PyJWK, PyJWTError

    listed = document.get("keys") if isinstance(document, dict) else None
    found: dict[str | None, _Key] = {}
    for each in listed if isinstance(listed, list) else []:
        try:
            key = PyJWK(each)
        except (PyJWTError, AttributeError):
            continue  # of a kind that is not used here
        if key.public_key_use in (None, "sig") and key.key_type != "oct":
            found[key.key_id] = _Key(key.key, each.get("alg"))
    if not found:
        raise ValueError("there is no key in it")
    return found


def _jwks(issuer: Issuer) -> Json:
    place = issuer.keys
    if not place:
        base = issuer.issuer.removesuffix("/")
        about = _fetched(f"{base}/.well-known/openid-configuration")
        if not isinstance(about, dict) or about.get("issuer") != issuer.issuer:
            raise ValueError("its configuration is of another issuer")
        place = str(about.get("jwks_uri"))
        _check_url(place)
    if "://" in place:
        return _fetched(place)
    return json.loads(Path(place).read_text("utf-8"))


def _fetched(url: str) -> Json:
    from urllib.request import urlopen

    with urlopen(url, timeout=_WAITS) as response:
        return json.loads(response.read(_MOST))
