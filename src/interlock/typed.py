"""What the API shows and takes where it is given a type: records, entries, functions of a value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, get_origin

from interlock.core import types
from interlock.core.keys import DELETE
from interlock.core.plan import APPEND, PUT
from interlock.core.records import Entry, Record
from interlock.core.struct import Json
from interlock.core.types import Misfit, Shape, shape_of
from interlock.errors import Invalid, accepted, raise_refused

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


class Missing(Enum):
    """In place of a default that was not given."""

    MISSING = "..."

    def __repr__(self) -> str:
        return self.value


MISSING = Missing.MISSING


class Typed(Generic[T]):
    """Values as the type that the caller named; as JSON where that is None.  Raises Invalid."""

    def __init__(self, form: TypeForm[T] | None) -> None:
        self.shape: Shape[T] | None = None if form is None else accepted(shape_of(form))

    def record(self, record: Record) -> Record[T]:
        """Return a record with its value as the type; one that does not exist has none."""
        if self.shape is None or not record.exists:
            return record
        return record._replace(value=self.value(record.value, _of(record.key, record.version)))

    def records(self, records: Mapping[str, Record]) -> dict[str, Record[T]]:
        """Return records by key with their values as the type."""
        if self.shape is None:
            return dict(records)
        return {key: self.record(record) for key, record in records.items()}

    def entry(self, entry: Entry) -> Entry[T]:
        """Return an entry with its value, or contribution, as the type; a deletion has none."""
        if self.shape is None or entry.kind not in (PUT, APPEND):
            return entry
        return entry._replace(value=self.value(entry.value, _of(entry.key, entry.version)))

    def entries(self, entries: Sequence[Entry]) -> Iterable[Entry[T]]:
        """Yield entries as `entry` returns them, decoded in one pass if all of them fit."""
        shape = self.shape
        if shape is None:
            return entries
        if any(entry.kind not in (PUT, APPEND) for entry in entries):
            return map(self.entry, entries)
        try:
            values = shape.decode_many([entry.value for entry in entries])
        except Misfit:
            return map(self.entry, entries)  # up to the first one that does not fit
        pairs = zip(entries, values, strict=True)
        return (entry._replace(value=value) for entry, value in pairs)

    def picking(self, prefix: str) -> Callable[[Sequence[Entry]], Iterable[Entry[T]]]:
        """Return `entries` for a log under `prefix`: without those of the library's own keys, which
        are of no type of the caller's, unless the prefix names them."""
        if self.shape is None or prefix.startswith("$"):
            return self.entries
        return lambda page: self.entries([each for each in page if not each.key.startswith("$")])

    def value(self, value: Json, what: str) -> T:
        """Return JSON as the type; `what` names it in the message of Invalid."""
        if self.shape is None:
            untyped: T = value
            return untyped
        try:
            return self.shape.decode(value)
        except Misfit as problem:
            self._refuse(what, problem)

    def json(self, value: T, what: str) -> Json:
        """Return an object of the type as JSON."""
        if self.shape is None:
            return value
        try:
            return self.shape.encode(value)
        except Misfit as problem:
            self._refuse(what, problem)

    def default(self, default: Any, key: str) -> Json:
        """Return what stands for the value of a key that does not exist."""
        if self.shape is None:
            return None if default is MISSING else default
        return default if default in (MISSING, None) else self.json(default, f"default= of {key!r}")

    def deciding(
        self, fn: Callable[[T], Any], key: str, default: Any = MISSING
    ) -> Callable[[Json], Any]:
        """Return a function of JSON out of one that decides the next value from the value.

        Fields that the type does not know stay as they are.
        """
        if self.shape is None:
            return fn
        shape, what = self.shape, f"what the function for {key!r} returned"

        def given(value: Json) -> Any:
            if value is MISSING:
                return self._absent(key)
            if value is None and default is None:
                return None
            return self.value(value, f"the value of {key!r}")

        def taken(before: Json, result: Any) -> Json:
            if result is None or result is DELETE:
                return result
            try:
                if isinstance(before, dict | list):
                    return shape.changed(before, result)
                return shape.encode(result)
            except Misfit as problem:
                self._refuse(what, problem)

        async def finish(before: Json, result: Any) -> Json:
            return taken(before, await result)

        async def decide_async(value: Json) -> Json:
            return taken(value, await fn(given(value)))

        def decide(value: Json) -> Any:
            result = fn(given(value))
            return finish(value, result) if inspect.isawaitable(result) else taken(value, result)

        return decide_async if inspect.iscoroutinefunction(fn) else decide

    def taking(self, fn: Callable[[Any, T], Any], what: str) -> Callable[[Any, Json], Any]:
        """Return a function whose second argument is JSON out of one that is given the type."""
        if self.shape is None:
            return fn

        async def take_async(first: Any, value: Json) -> Any:
            return await fn(first, self.value(value, what))

        def take(first: Any, value: Json) -> Any:
            return fn(first, self.value(value, what))

        return take_async if inspect.iscoroutinefunction(fn) else take

    def _absent(self, key: str) -> T:
        """Return None where the type allows it."""
        assert self.shape is not None
        try:
            return self.shape.decode(None)
        except Misfit:
            name = self.shape.name
        raise Invalid(
            f"{key!r} does not exist. Pass default=, or a type that allows None: {name} | None."
        )

    def _refuse(self, what: str, problem: Misfit) -> NoReturn:
        assert self.shape is not None
        text = f"{what[0].upper()}{what[1:]} does not fit {self.shape.name}: {problem}."
        raise Invalid(text) from problem


def upcast(type: type[Any], from_version: int, fn: Callable[[dict[str, Any]], Any]) -> None:
    """Lift objects of a class that were stored as `from_version` to the next version, when read.

    `fn(fields)` gets the fields of one as JSON has them, without `$version`, and returns those of
    the next version.  The class then has one version more than the newest that is lifted from, and
    its objects are stored with it in the field `$version`; one without that field is of version 1.
    Whatever reads the class lifts: step by step, inside of other types, in the past of `at`, too.
    A version that no function lifts, or that is newer than this process knows, is Invalid there.

    Declare them where the class is, before it is used.  Raises Invalid if the class can't have
    versions, or has another function for this one.
    """
    raise_refused(types.upcast(type, from_version, fn))


UNTYPED: Typed[Any] = Typed(None)


def typed_call(args: tuple[Any, ...]) -> tuple[Typed[Any], tuple[Any, ...]]:
    """Return the type that arguments begin with, which are JSON else, and the others."""
    if args and (isinstance(args[0], type | UnionType) or get_origin(args[0]) is not None):
        return Typed(args[0]), args[1:]
    return UNTYPED, args


def _of(key: str, version: int) -> str:
    return f"the value of {key!r} (version {version})"
