"""Changing a part of a value: the rest stays as it is, whoever changes it meanwhile.

Nothing is thought about in between, so a conflict is not the caller's: the same change is made to
the fresh value.  Where the caller read a record first, he may have decided from what he read of the
very fields that he changes; such a change is refused with Conflict if one of them has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from interlock.core.keys import decode
from interlock.core.merge import merge_patch, same
from interlock.core.records import Record
from interlock.core.refusals import Invalid, Refusal
from interlock.core.requests import Steps
from interlock.core.struct import Json
from interlock.core.write import Decision, change, plan_put
from interlock.core.writer import Writer


class Part(NamedTuple):
    """A change of some fields: `of(value)` is the object that it makes of another.

    `touched` has the fields that it changes, nested.
    """

    touched: Mapping[str, Json]
    of: Callable[[Mapping[str, Json]], Json]


def merging(changes: Mapping[str, Json]) -> Part | Invalid:
    """Return the change that a JSON Merge Patch is, or what is malformed."""
    if not isinstance(changes, Mapping) or not changes:
        return Invalid(f"A patch is an object with the fields to change, not {changes!r:.80}.")
    return Part(changes, lambda value: merge_patch(value, changes))


def setting(fields: Mapping[str, Json], remove: Iterable[str]) -> Part | Invalid:
    """Return the change that sets whole fields and removes others, or what is malformed."""
    names = (remove,) if isinstance(remove, str) else remove
    removed = tuple(names) if isinstance(names, Iterable) else (names,)
    if not all(isinstance(name, str) for name in removed):
        return Invalid("Name the fields to remove in remove, as texts.")
    if not isinstance(fields, Mapping) or not (fields or removed) or fields.keys() & {*removed}:
        return Invalid("Name at least one field in fields or remove, and none in both.")
    touched = dict.fromkeys((*fields, *removed))
    return Part(touched, lambda value: fields_set(value, fields, removed))


def fields_set(
    value: Mapping[str, Json], fields: Mapping[str, Json], remove: Iterable[str]
) -> dict[str, Json]:
    """Return an object with some fields set and others removed."""
    return {name: each for name, each in value.items() if name not in {*remove}} | dict(fields)


def changed(record: Record, part: Part) -> Json | Invalid:
    """Return the value of a record with a change made, or why it has no fields."""
    if record.exists and record.body is None:
        return None  # a merged key: its rule refuses whatever is written
    value = decode(record.body)
    if not record.exists:
        return Invalid(f"Nothing to change: {record.key!r} does not exist.", record.key)
    if not isinstance(value, dict):
        return Invalid(
            f"{record.key!r} holds no object, so it has no fields. Use write().", record.key
        )
    return part.of(value)


def change_part(
    writer: Writer, target: Record | str, part: Part | Invalid, op_id: str, touch: bool = True
) -> Steps[Record | Refusal]:
    """Protocol: make a change, if it is one, to what a key holds, or to a record in hand."""
    if isinstance(part, Invalid):
        return part

    def decide(record: Record) -> Decision:
        value = changed(record, part)
        return value if isinstance(value, Invalid) else plan_put(writer, record, value, op_id)

    def still(base: Record, fresh: Record) -> bool:
        touched = part.touched
        return same(_part(decode(base.body), touched), _part(decode(fresh.body), touched))

    return (yield from change(writer, target, decide, op_id, still, touch=touch))


def _part(value: Json, touched: Json) -> Json:
    """Return what `value` has in the places that `touched` names."""
    if not isinstance(touched, Mapping) or not isinstance(value, Mapping):
        return value
    return {name: _part(value[name], each) for name, each in touched.items() if name in value}
