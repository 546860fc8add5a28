"""Documents of MongoDB that other programs use: one `find_one_and_update` compares and writes.

Fields are compared as aggregation does: exactly, where a query would take an array for each of its
items.  BSON has types that JSON has not: a time is shown in ISO 8601, an ObjectId and a decimal as
text, and what is written in place of one becomes one again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from inspect import isawaitable, iscoroutinefunction
from typing import Any, NamedTuple

from interlock.core.struct import Json
from interlock.errors import AnswerLost, Invalid, Unavailable
from interlock.extras import needs
from interlock.guards.place import ABSENT, Alone, Change, Changed, Found

with needs("pymongo", "mongodb"):
    import bson
    import pymongo.errors


class Seen(NamedTuple):
    """The tag of a document: its fields as they were read."""

    document: dict[str, Any]


class Documents(Alone):
    """The documents of one collection."""

    def __init__(
        self,
        collection: Any,
        key: str,
        version: str | None,
        make_id: Callable[[str], Any],
        name: str,
    ) -> None:
        self.name = name
        self.asynchronous, self.texts = iscoroutinefunction(collection.find_one), False
        self._collection = collection
        self._key, self._version, self._make_id = key, version, make_id
        for field in (key, *([] if version is None else [version])):
            _check_field(field)
        if key == version:
            raise Invalid(f"{key!r} can't be the version and the key.")

    def check_key(self, key: str) -> str | None:
        """Return why `key` names no document."""
        try:
            self._id(key)
        except (ValueError, TypeError, bson.errors.BSONError) as problem:
            return f"{key!r} is no key here: {problem}"
        return None

    async def load(self, key: str) -> Found:
        """Read the document."""
        return self._found(await self._ask("find_one", self._id(key), sent=False))

    async def replace(self, change: Change) -> object | Changed:
        """Write the fields that change, if all that were read are what they were."""
        if change.tag is ABSENT:
            answer = await self._create(change)
        else:
            seen: Seen = change.tag
            answer = await self._write(change, seen.document)
        if isinstance(answer, Changed) and change.again:
            raise AnswerLost("what is there has changed since, by this write or by another")
        return answer

    async def _create(self, change: Change) -> object | Changed:
        value = self._object(change)
        key = self._id(change.key)
        if _shown({**key, **value}) != _shown({**value, **key}):
            raise Invalid(f"{change.key!r}: {self._key} is another one in the value.")
        document = {**value, **key} | ({} if self._version is None else {self._version: 1})
        try:
            await self._ask("insert_one", document)
        except pymongo.errors.DuplicateKeyError as problem:
            found = await self.load(change.key)
            if found.value is ABSENT:
                raise Invalid(
                    f"Another document has a unique value of {change.key!r}."
                ) from problem
            return Changed(found)
        return await self.load(change.key) if self._key != "_id" else self._found(document)

    async def _write(self, change: Change, before: dict[str, Any]) -> object | Changed:
        query = {**self._id(change.key), "$expr": {"$and": [*map(_same, before.items())]}}
        if change.body is None:
            gone = await self._ask("find_one_and_delete", query)
            return ABSENT if gone is not None else Changed()
        value = self._object(change)
        kept = {"_id", self._key, self._version}
        added = {name: value[name] for name in value.keys() - before.keys()}
        changed = {
            name: restored(before[name], value[name])
            for name in value.keys() & before.keys()
            if _text(value[name]) != _text(_shown(before[name]))
        }
        removed = before.keys() - value.keys() - kept
        if fixed := sorted((added.keys() | changed.keys()) & kept):
            raise Invalid(f"{change.key!r}: {fixed[0]} can't be changed.")
        query["$expr"]["$and"] += [{"$eq": [{"$type": f"${name}"}, "missing"]} for name in added]
        sets = {**added, **changed}
        if self._version is not None:
            sets[self._version] = _count(before.get(self._version)) + 1
        update = {"$set": sets} if sets else {}
        update |= {"$unset": dict.fromkeys(removed, "")} if removed else {}
        if not update:
            return await self.load(change.key)  # nothing changes
        after = await self._ask("find_one_and_update", query, update, return_document=True)
        return Changed() if after is None else self._found(after)

    def _id(self, key: str) -> dict[str, Any]:
        return {self._key: self._make_id(key)}

    def _object(self, change: Change) -> dict[str, Any]:
        value = json.loads(change.body or "null")
        if not isinstance(value, dict):
            raise Invalid(f"{change.key!r} needs an object: it is a document.")
        for field in value:
            _check_field(field)
        return value

    def _found(self, document: dict[str, Any] | None) -> Found:
        if document is None:
            return Found(ABSENT, ABSENT)
        for field in document:
            _check_field(field)
        version = 0 if self._version is None else _count(document.get(self._version))
        return Found(Seen(document), _shown(document), version)

    async def _ask(self, method: str, *arguments: Any, sent: bool = True, **options: Any) -> Any:
        try:
            answer = getattr(self._collection, method)(*arguments, **options)
            return await answer if isawaitable(answer) else answer
        except pymongo.errors.DuplicateKeyError:
            if method == "insert_one":
                raise
            raise Invalid(f"Another document of {self.name} has one of these values.") from None
        except pymongo.errors.ServerSelectionTimeoutError as problem:
            raise Unavailable(f"Can't reach {self.name}: {problem}. Nothing was sent.") from problem
        except pymongo.errors.ConnectionFailure as problem:
            if sent:
                raise AnswerLost(str(problem)) from problem
            raise Unavailable(f"Can't reach {self.name}: {problem}.") from problem
        except (pymongo.errors.WriteError, bson.errors.BSONError, OverflowError) as problem:
            raise Invalid(f"{self.name}: {problem}.") from problem
        except pymongo.errors.PyMongoError as problem:
            raise Unavailable(f"{self.name} refused the call: {problem}.") from problem


def restored(before: Any, after: Json) -> Any:
    """Return JSON with the types of BSON that were in its place.  Raises Invalid."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {name: restored(before.get(name), each) for name, each in after.items()}
    if isinstance(before, list) and isinstance(after, list):
        padded = before + [None] * len(after)
        return [restored(old, new) for old, new in zip(padded, after, strict=False)]
    if _shown(before) == after and type(_shown(before)) is type(after):
        return before
    try:
        if isinstance(before, datetime) and isinstance(after, str):
            return datetime.fromisoformat(after)
        if isinstance(before, bson.ObjectId | bson.Decimal128) and isinstance(after, str):
            return type(before)(after)
    except (ValueError, ArithmeticError, bson.errors.BSONError) as problem:
        raise Invalid(f"{after!r:.60} is no {type(before).__name__}.") from problem
    return after


def _shown(value: Any) -> Json:
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return aware.isoformat()
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return int(value)
    return "\\x" + value.hex() if isinstance(value, bytes) else str(value)


def _same(item: tuple[str, Any]) -> dict[str, Any]:
    name, value = item
    if value is None:
        return {"$eq": [{"$type": f"${name}"}, "null"]}
    return {"$eq": [f"${name}", {"$literal": value}]}


def _text(value: Json) -> str:
    return json.dumps(value)  # the order of fields is part of a document


def _count(version: Any) -> int:
    whole = isinstance(version, int) and not isinstance(version, bool)
    return int(version) if whole and version > 0 else 0


def _check_field(name: object) -> None:
    if not isinstance(name, str) or not name or name.startswith("$") or {".", "\0"} & {*name}:
        raise Invalid(f"{name!r:.60} is no name of a field that a guard can compare.")
