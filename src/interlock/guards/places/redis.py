"""Keys of a Redis that other programs use: strings that hold JSON, hashes, and lists of JSON.

What is stored is compared and replaced by a script, in one round trip.  Beside each key that is
written, `interlock:receipts:...` names the operations of the last minutes, so that a script whose
answer was lost, and which is sent again, by us or by the client, is applied once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from hashlib import sha1
from importlib.resources import files
from inspect import isawaitable, iscoroutinefunction
from itertools import chain
from typing import TYPE_CHECKING, Any

from interlock.backends.redis.client import COMMAND, is_cluster
from interlock.backends.redis.faults import fault_of, redis, script_is_missing
from interlock.backends.redis.wire import packed
from interlock.core.keys import decode
from interlock.core.refusals import Refusal
from interlock.core.struct import Json
from interlock.errors import Invalid
from interlock.guards.place import (
    ABSENT,
    Answers,
    Change,
    Changed,
    Found,
    Stopped,
    Stored,
    Together,
)

if TYPE_CHECKING:
    from interlock.backends.redis.calls import Inlined
    from interlock.guards.log import Scripted
    from interlock.session import AsyncSession, Session

RECEIPTS = "interlock:receipts:"
_KEPT = 180_000  # milliseconds: longer than anybody sends an operation again


class RedisKeys:
    """What the kinds have in common; `what` is the type of Redis, and names a script."""

    what: str
    texts = False
    several = True

    def __init__(self, client: Any, name: str, receipts: bool) -> None:
        self.name = name
        self.asynchronous = iscoroutinefunction(client.execute_command)
        self._client = client
        self._pooled = type(client) is redis.Redis and client.connection is None
        self._kept = _KEPT if receipts else 0
        self._script = script(self.what)

    def check_key(self, key: str) -> str | None:
        """Return why `key` can't be one here: it is one of ours."""
        return f"{key!r} is a key of Interlock's own." if key.startswith("interlock:") else None

    def has_receipts(self, key: str) -> bool:
        """Whether there is a key for them, and they are asked for."""
        return self._kept > 0 and receipts_of(key) != key

    async def replace(self, change: Change) -> object | Changed:
        """Compare and replace what is there: `replace_all` without what one key does not need."""
        key = change.key
        receipts = receipts_of(key)
        kept = 0 if receipts == key else self._kept
        arguments = [change.op_id, kept, 1, *self._arguments(change)]
        said, _, there = await self._run(*self._script, (receipts, key), arguments)
        if said == b"done" or said == "done":
            return self._answer(change, there[0] if there else 0)
        return self._refused(said, key, there)

    async def replace_all(
        self, changes: Sequence[Change], beside: Scripted | None
    ) -> Answers | Changed:
        """Compare and replace several keys of one hash slot, and commit what is beside them."""
        first = changes[0]
        receipts = receipts_of(first.key)
        kept = _KEPT if beside else self._kept  # else an entry would be all that is known of it
        kept = 0 if receipts == first.key else kept
        keys = [change.key for change in changes]
        self._check_slot(keys)
        arguments: list[object] = [first.op_id, kept, len(changes)]
        for change in changes:
            arguments += self._arguments(change)
        inlined: Inlined | None = None
        if beside is not None:
            inlined = beside.session.driver.backend.inlined(beside.closed())  # type: ignore[attr-defined]  # is_one_with
            assert inlined is not None
            keys, arguments = [*keys, *inlined.keys], [*arguments, *inlined.arguments]
        text, digest = script(self.what, inlined.text if inlined else "")
        said, which, there = await self._run(text, digest, (receipts, *keys), arguments)
        said = as_bytes(said)
        if said in (b"type", b"changed"):
            return self._refused(said, keys[which - 1], there)
        if said == b"beside" and inlined is not None:
            outcome = inlined.parse(which)
            if isinstance(outcome, Refusal):
                raise Stopped(outcome)
        numbers = there or [0] * len(changes)  # strings, and what was applied before, say nothing
        return [self._answer(*each) for each in zip(changes, numbers, strict=True)]

    async def keys(self, pattern: str) -> list[str]:
        """Scan for the keys of this kind."""
        found = self._client.scan_iter(match=pattern, count=1000, _type=self.what)
        try:
            names = [each async for each in found] if self.asynchronous else [*found]
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self.name, sent=False) from problem
        try:
            texts = {as_bytes(name).decode() for name in names}
        except UnicodeDecodeError as problem:
            raise Invalid(f"A key that matches {pattern!r} is no UTF-8: {problem}") from problem
        return sorted(key for key in texts if self.check_key(key) is None)

    async def is_one_with(self, session: Session | AsyncSession) -> Together:
        """Whether the space is in the same database of the same server."""
        backend: Any = session.driver.backend
        server = getattr(backend, "server_id", "")
        if not server or is_cluster(self._client):
            return Together.NOT
        here = await self._ask("INFO", "server")
        told = here.get("run_id") if isinstance(here, dict) else None
        uid = await self._ask("HGET", backend.state_key, "uid")
        same = told == server and uid is not None and as_bytes(uid) == backend.uid.encode()
        return Together.SCRIPT if same else Together.NOT

    def in_callers_transaction(self) -> bool:
        """Never."""
        return False

    def within(self) -> AbstractAsyncContextManager[object]:
        """There is none."""
        raise NotImplementedError

    def _refused(self, said: object, key: str, there: Any) -> Changed:
        """Return what the script found instead of what was compared.  Raises Invalid."""
        if as_bytes(said) == b"type":
            raise wrong_type(key, f"a {as_bytes(there).decode()}", self.what)
        return Changed(self._found(key, there), key)

    def _arguments(self, change: Change) -> list[object]:
        """Return what the script is told of a change."""
        raise NotImplementedError

    def _answer(self, change: Change, said: int) -> object:
        """Return the new tag, or what is there."""
        raise NotImplementedError

    def _found(self, key: str, stored: Any) -> Found:
        """Return what the server says is there."""
        raise NotImplementedError

    def _check_slot(self, keys: Sequence[str]) -> None:
        if len(keys) == 1 or not is_cluster(self._client):
            return
        from redis.crc import key_slot

        slots = {key_slot(key.encode()): key for key in keys}
        if len(slots) > 1:
            raise Invalid(
                f"{' and '.join(map(repr, [*slots.values()][:2]))} are in different slots of the "
                "cluster. Give keys that are written together the same {tag}."
            )

    async def _read(self, *command: object) -> Any:
        try:
            return await self._ask(*command)
        except redis.exceptions.ResponseError as problem:
            if str(problem).startswith("WRONGTYPE"):
                raise wrong_type(str(command[1]), f"no {self.what}", self.what) from problem
            raise fault_of(problem, self.name, sent=True) from problem

    async def _run(
        self, text: str, digest: str, keys: Sequence[str], arguments: Sequence[object]
    ) -> Any:
        call: tuple[Any, ...] = ("EVALSHA", digest, len(keys), *keys, *arguments)
        try:
            return self._sent(call) if self._pooled else await self._ask(*call)
        except redis.exceptions.ResponseError as problem:
            if not script_is_missing(problem):
                raise fault_of(problem, self.name, sent=True) from problem
        try:
            return await self._ask("EVAL", text, len(keys), *keys, *arguments)
        except redis.exceptions.ResponseError as problem:
            raise fault_of(problem, self.name, sent=True) from problem

    def _sent(self, call: tuple[Any, ...]) -> Any:
        """Send a call on a connection of the client's pool, without what the client does about each
        command, which takes as long as the server does: the driver sends again what was lost."""
        pool = self._client.connection_pool
        try:
            connection = pool.get_connection(*COMMAND)
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self.name, sent=False) from problem
        try:
            connection.send_packed_command(packed(connection, [call]), check_health=True)
            return connection.read_response()
        except redis.exceptions.ResponseError:
            raise
        except BaseException as problem:
            connection.disconnect()  # a reply that nobody read may be on its way
            if isinstance(problem, redis.exceptions.RedisError | OSError):
                raise fault_of(problem, self.name, sent=True) from problem
            raise
        finally:
            pool.release(connection)

    async def _ask(self, *words: Any, **options: Any) -> Any:
        try:
            answer = self._client.execute_command(*words, **options)
            return await answer if isawaitable(answer) else answer
        except redis.exceptions.ResponseError:
            raise
        except (redis.exceptions.RedisError, OSError) as problem:
            raise fault_of(problem, self.name, sent=True) from problem


class RedisStrings(RedisKeys):
    """Strings that hold JSON; their tag is their bytes."""

    what = "string"
    _has_ifeq = True  # until the server says that it has not

    async def load(self, key: str) -> Found:
        """Return what the string holds."""
        return found(key, await self._read("GET", key))

    async def replace(self, change: Change) -> object | Changed:
        """Compare and replace its bytes: by one command where the server has it, and there are no
        receipts to be written with it."""
        plain = change.body is not None and change.tag is not ABSENT
        if not self._kept and self._has_ifeq and plain:
            new = Stored((change.body or "").encode())
            command = ("SET", change.key, new, "IFEQ", change.tag, "KEEPTTL", "GET")
            try:
                there = await self._ask(*command, get=True)
            except redis.exceptions.ResponseError as problem:
                if "syntax" not in str(problem):
                    if str(problem).startswith("WRONGTYPE"):
                        raise wrong_type(change.key, "no string", "string") from problem
                    raise fault_of(problem, self.name, sent=True) from problem
                self._has_ifeq = False
            else:
                same = there is not None and as_bytes(there) == change.tag
                return new if same else Changed(found(change.key, there))
        return await super().replace(change)

    def _arguments(self, change: Change) -> list[object]:
        absent, body = change.tag is ABSENT, change.body
        verb = "del" if body is None else "set"
        return [
            *("-" if absent else "=", b"" if absent else change.tag),
            *("keep" if change.compared_only else verb, b"" if body is None else body.encode()),
        ]

    def _answer(self, change: Change, said: int) -> object:
        return ABSENT if change.body is None else Stored(change.body.encode())

    def _found(self, key: str, stored: Any) -> Found:
        return found(key, stored)


class RedisHashes(RedisKeys):
    """Hashes whose fields are texts; their tag is all of their fields, and those that change are
    written."""

    what = "hash"
    texts = True

    async def load(self, key: str) -> Found:
        """Return the fields."""
        return found_fields(key, await self._read("HGETALL", key))

    def _arguments(self, change: Change) -> list[object]:
        old: dict[str, str] = {} if change.tag is ABSENT else dict(change.tag)
        new = old if change.compared_only else texts_of(change.key, decode(change.body))
        put = {field: text for field, text in new.items() if old.get(field) != text}
        gone = [field for field in old if field not in new]
        return [
            *(len(old), *chain(*old.items())),
            *(len(put), *chain(*put.items())),
            *(len(gone), *gone),
        ]

    def _answer(self, change: Change, said: int) -> object:
        return tuple(sorted(texts_of(change.key, decode(change.body)).items())) or ABSENT

    def _found(self, key: str, stored: Any) -> Found:
        return found_fields(key, stored)


class RedisLists(RedisKeys):
    """Lists whose items are JSON: anybody adds to the end, and their tag is all of their items."""

    what = "list"

    async def load(self, key: str) -> Found:
        """Return the items."""
        return found_items(key, await self._read("LRANGE", key, 0, -1))

    def _arguments(self, change: Change) -> list[object]:
        if change.appended:
            return ["*", 0, "push", (change.body or "").encode()]
        items = () if change.tag is ABSENT else change.tag
        return ["=", len(items), *items, "keep" if change.compared_only else "del", b""]

    def _answer(self, change: Change, said: int) -> object:
        return said if change.appended else ABSENT

    def _found(self, key: str, stored: Any) -> Found:
        return found_items(key, stored)


KINDS: dict[str, type[RedisStrings | RedisHashes | RedisLists]] = {
    "json": RedisStrings,
    "hash": RedisHashes,
    "list": RedisLists,
}


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


def found_items(key: str, stored: Sequence[Any]) -> Found:
    """Return the items of a list.  Raises Invalid where they are no JSON."""
    items = tuple(map(as_bytes, stored))
    try:
        value = [json.loads(item) for item in items]
    except (ValueError, RecursionError) as problem:
        raise Invalid(f"{key!r} has an item that is no JSON: {problem}") from problem
    return Found(items, value) if items else Found(ABSENT, ABSENT)


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
    form = {"string": "strings that hold JSON", "hash": "hashes", "list": "lists"}[wanted]
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
def script(kind: str, beside: str = "") -> tuple[str, str]:
    """Return the script of a kind, with a commit `beside` it, and its digest."""
    folder = files(__package__)

    def part(name: str) -> str:
        return folder.joinpath(f"{name}.lua").read_text("utf-8")

    local = "local commit_beside\n"
    if beside:
        local = f"local function commit_to(KEYS, ARGV)\n{beside}\nend\n{part('beside')}"
    text = part("receipts") + part(kind) + local + part("step")
    return text, sha1(text.encode(), usedforsecurity=False).hexdigest()
