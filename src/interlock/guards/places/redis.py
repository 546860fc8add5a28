"""Keys of a Redis that other programs use: strings that hold JSON, and hashes.

What is stored is compared and replaced by a script, in one round trip.  Beside each key that is
written, `interlock:receipts:...` names the operations of the last minutes, so that a script whose
answer was lost, and which is sent again, by us or by the client, is applied once.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha1
from importlib.resources import files
from inspect import isawaitable, iscoroutinefunction
from itertools import chain
from typing import Any

from interlock.backends.redis.faults import fault_of, redis, script_is_missing
from interlock.core.keys import decode
from interlock.core.struct import Json
from interlock.errors import Invalid
from interlock.guards.place import ABSENT, Change, Changed, Found, Stored

RECEIPTS = "interlock:receipts:"
_KEPT = 180_000  # milliseconds: longer than anybody sends an operation again


class RedisKeys:
    """What strings and hashes have in common."""

    texts = False

    def __init__(self, client: Any, name: str, receipts: bool) -> None:
        self.name = name
        self.asynchronous = iscoroutinefunction(client.execute_command)
        self._client = client
        self._kept = _KEPT if receipts else 0

    def check_key(self, key: str) -> str | None:
        """Return why `key` can't be one here: it is one of ours."""
        return f"{key!r} is a key of Interlock's own." if key.startswith("interlock:") else None

    async def _read(self, command: str, key: str, what: str) -> Any:
        try:
            return await self._ask(command, key)
        except redis.exceptions.ResponseError as problem:
            if str(problem).startswith("WRONGTYPE"):
                raise wrong_type(key, f"no {what}", what) from problem
            raise fault_of(problem, self.name, sent=True) from problem

    async def _replace(self, name: str, change: Change, what: str, *arguments: object) -> Any:
        """Run the script `name`; return what it says is there, None if it has replaced that."""
        receipts = receipts_of(change.key)
        kept = 0 if receipts == change.key else self._kept
        said, *there = await self._run(name, change.key, receipts, change.op_id, kept, *arguments)
        if as_bytes(said) == b"type":
            raise wrong_type(change.key, f"a {as_bytes(there[0]).decode()}", what)
        return there if as_bytes(said) == b"changed" else None

    async def _run(self, name: str, *arguments: object) -> Any:
        text, digest = script(name)
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


class RedisStrings(RedisKeys):
    """Strings that hold JSON; their tag is their bytes."""

    async def load(self, key: str) -> Found:
        """Return what the string holds."""
        return found(key, await self._read("GET", key, "string"))

    async def replace(self, change: Change) -> object | Changed:
        """Compare and replace its bytes."""
        body, absent = change.body, change.tag is ABSENT
        new = Stored(b"" if body is None else body.encode())
        there = await self._replace(
            *("replace", change, "string", "-" if absent else "=", b"" if absent else change.tag),
            *("del" if body is None else "set", new),
        )
        if there is not None:
            return Changed(found(change.key, there[0]))
        return ABSENT if body is None else new


class RedisHashes(RedisKeys):
    """Hashes whose fields are texts; their tag is all of their fields, and those that change are
    written."""

    texts = True

    async def load(self, key: str) -> Found:
        """Return the fields."""
        return found_fields(key, await self._read("HGETALL", key, "hash"))

    async def replace(self, change: Change) -> object | Changed:
        """Compare all fields and write those that are others."""
        new = texts_of(change.key, decode(change.body))
        old: dict[str, str] = {} if change.tag is ABSENT else dict(change.tag)
        put = {field: text for field, text in new.items() if old.get(field) != text}
        gone = [field for field in old if field not in new]
        there = await self._replace(
            *("replace_hash", change, "hash"),
            *(len(old), *chain(*old.items())),
            *(len(put), *chain(*put.items())),
            *(len(gone), *gone),
        )
        if there is not None:
            return Changed(found_fields(change.key, there[0]))
        return tuple(sorted(new.items())) or ABSENT


KINDS: dict[str, type[RedisStrings | RedisHashes]] = {"json": RedisStrings, "hash": RedisHashes}


def found(key: str, stored: object) -> Found:
    """Return what a string holds.  Raises Invalid where it is no JSON."""
    if stored is None:
        return Found(ABSENT, ABSENT)
    tag = Stored(as_bytes(stored))
    try:
        return Found(tag, json.loads(tag))
    except (ValueError, RecursionError) as problem:
        raise Invalid(f"{key!r} does not hold JSON: {problem}") from problem


def found_fields(key: str, stored: Any) -> Found:
    """Return the fields of a hash.  Raises Invalid where they are no texts."""
    pairs = (
        stored.items() if isinstance(stored, dict) else zip(stored[::2], stored[1::2], strict=True)
    )
    try:
        value = {as_bytes(name).decode(): as_bytes(text).decode() for name, text in pairs}
    except UnicodeDecodeError as problem:
        raise Invalid(f"{key!r} has a field that is no UTF-8: {problem}") from problem
    return Found(tuple(sorted(value.items())), value) if value else Found(ABSENT, ABSENT)


def texts_of(key: str, value: Json) -> dict[str, str]:
    """Return a value as the fields of a hash, none for None.  Raises Invalid."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not value:
        raise Invalid(f"{key!r} is a hash: its value is an object with at least one field.")
    for name, text in value.items():
        if not isinstance(text, str):
            raise Invalid(f"{key!r}: field {name!r} of a hash must be a str, not {text!r:.60}.")
    return value


def wrong_type(key: str, what: str, wanted: str) -> Invalid:
    """The refusal of a key that holds something else."""
    form = "strings that hold JSON" if wanted == "string" else "hashes"
    return Invalid(f"{key!r} holds {what}. This guard is for {form}.")


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
    folder = files(__package__)
    text = "".join(folder.joinpath(f"{part}.lua").read_text("utf-8") for part in ("receipts", name))
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()
