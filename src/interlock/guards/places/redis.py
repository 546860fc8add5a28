"""Keys of a Redis that other programs use: strings that hold JSON.

The stored bytes are compared and replaced by a script, in one round trip.  Beside each key that is
written, `interlock:receipts:...` names the operations of the last minutes, so that a script whose
answer was lost, and which is sent again, by us or by the client, is applied once.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha1
from importlib.resources import files
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from interlock.backends.redis.faults import fault_of, redis, script_is_missing
from interlock.errors import Invalid
from interlock.guards.place import ABSENT, Change, Changed, Found, Stored

RECEIPTS = "interlock:receipts:"
_KEPT = 180_000  # milliseconds: longer than anybody sends an operation again


class RedisStrings:
    """Strings that hold JSON; their tag is their bytes."""

    def __init__(self, client: Any, name: str, receipts: bool) -> None:
        self.name = name
        self.asynchronous = iscoroutinefunction(client.execute_command)
        self._client = client
        self._kept = _KEPT if receipts else 0

    def check_key(self, key: str) -> str | None:
        """Return why `key` can't be one here: it is one of ours."""
        return f"{key!r} is a key of Interlock's own." if key.startswith("interlock:") else None

    async def load(self, key: str) -> Found:
        """Return what the string holds."""
        try:
            stored = await self._ask("GET", key)
        except redis.exceptions.ResponseError as problem:
            if str(problem).startswith("WRONGTYPE"):
                raise wrong_type(key, "no string") from problem
            raise fault_of(problem, self.name, sent=True) from problem
        return found(key, stored)

    async def replace(self, change: Change) -> object | Changed:
        """Compare and replace its bytes."""
        key, body = change.key, change.body
        new = Stored(b"" if body is None else body.encode())
        absent, receipts = change.tag is ABSENT, receipts_of(key)
        reply = await self._run(
            *(key, receipts, change.op_id, 0 if receipts == key else self._kept),
            *("-" if absent else "=", b"" if absent else change.tag),
            *("del" if body is None else "set", new),
        )
        said = as_bytes(reply[0])
        if said == b"type":
            raise wrong_type(key, f"a {as_bytes(reply[1]).decode()}")
        if said == b"changed":
            return Changed(found(key, reply[1]))
        return ABSENT if body is None else new

    async def _run(self, *arguments: object) -> Any:
        text, digest = script("replace")
        try:
            return await self._ask("EVALSHA", digest, 2, *arguments)
        except redis.exceptions.ResponseError as problem:
            if not script_is_missing(problem):
                raise fault_of(problem, self.name, sent=True) from problem
        try:
            return await self._ask("EVAL", text, 2, *arguments)
        except redis.exceptions.ResponseError as problem:
            raise fault_of(problem, self.name, sent=True) from problem

    async def _ask(self, *words: Any) -> Any:
        try:
            answer = self._client.execute_command(*words)
            return await answer if isawaitable(answer) else answer
        except redis.exceptions.ResponseError:
            raise
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self.name, sent=True) from problem


def found(key: str, stored: object) -> Found:
    """Return what a string holds.  Raises Invalid where it is no JSON."""
    if stored is None:
        return Found(ABSENT, ABSENT)
    tag = Stored(as_bytes(stored))
    try:
        return Found(tag, json.loads(tag))
    except (ValueError, RecursionError) as problem:
        raise Invalid(f"{key!r} does not hold JSON: {problem}") from problem


def wrong_type(key: str, what: str) -> Invalid:
    """The refusal of a key that holds something else."""
    return Invalid(f"{key!r} holds {what}. This guard is for strings that hold JSON.")


def receipts_of(key: str) -> str:
    """Return the key of the receipts of a key, in the same hash slot; the key itself where no
    other name is certainly there."""
    start = key.find("{")
    if start >= 0 and key.find("}", start) > start + 1:
        return RECEIPTS + key
    return key if "}" in key else f"{RECEIPTS}{{{key}}}"


def as_bytes(text: Any) -> bytes:
    """Return what the server sent, which the client may have decoded."""
    return text.encode() if isinstance(text, str) else bytes(text)


@cache
def script(name: str) -> tuple[str, str]:
    """Return a script and its digest."""
    text = files(__package__).joinpath(f"{name}.lua").read_text("utf-8")
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()
