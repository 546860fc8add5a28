"""Changing a part of a value: the rest stays as it is, whoever changes it meanwhile.

Nothing is thought about in between, so a conflict is not the caller's: the same change is made to
the fresh value.  Where the caller read a record first, he may have decided from what he read of the
very fields that he changes; such a change is refused with Conflict if one of them has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from interlock.core.keys import decode
from interlock.core.merge import merge_patch, same
from interlock.core.records import Record
from interlock.core.refusals import Invalid, Refusal
from interlock.core.requests import Steps
from interlock.core.struct import Json
from interlock.core.write import Decision, change, plan_put
from interlock.core.writer import Writer


def patch(
    writer: Writer,
    target: Record | str,
    changes: Mapping[str, Json],
    op_id: str,
    touch: bool = True,
) -> Steps[Record | Refusal]:
    """Protocol: apply a JSON Merge Patch to a key, or to a record in hand."""
    if not isinstance(changes, Mapping) or not changes:
        return Invalid(f"A patch is an object with the fields to change, not {changes!r:.80}.")
    return (
        yield from _change_fields(
            writer, target, changes, lambda value: merge_patch(value, changes), op_id, touch
        )
    )


def update_fields(
    writer: Writer,
    target: Record | str,
    fields: Mapping[str, Json],
    remove: Iterable[str],
    op_id: str,
    touch: bool = True,
) -> Steps[Record | Refusal]:
    """Protocol: set whole fields of a key, or of a record in hand, and remove others."""
    removed = (remove,) if isinstance(remove, str) else remove
    removed = tuple(removed) if isinstance(removed, Iterable) else (removed,)
    if not all(isinstance(name, str) for name in removed):
        return Invalid("Name the fields to remove in remove, as texts.")
    if not isinstance(fields, Mapping) or not (fields or removed) or fields.keys() & {*removed}:
        return Invalid("Name at least one field in fields or remove, and none in both.")
    return (
        yield from _change_fields(
            writer,
            target,
            dict.fromkeys((*fields, *removed)),
            lambda value: fields_set(value, fields, removed),
            op_id,
            touch,
        )
    )


def fields_set(
    value: Mapping[str, Json], fields: Mapping[str, Json], remove: Iterable[str]
) -> dict[str, Json]:
    """Return an object with some fields set and others removed."""
    return {name: each for name, each in value.items() if name not in {*remove}} | dict(fields)


def _change_fields(
    writer: Writer,
    target: Record | str,
    touched: Mapping[str, Json],
    changed: Callable[[Json], Json],
    op_id: str,
    touch: bool,
) -> Steps[Record | Refusal]:
    """Protocol: commit `changed(value)`.  `touched` has the fields that it changes, nested."""

    def decide(record: Record) -> Decision:
        if record.exists and record.body is None:
            return plan_put(writer, record, None, op_id)  # a merged key: its rule refuses it
        value = decode(record.body)
        if not record.exists:
            return Invalid(f"Nothing to change: {record.key!r} does not exist.", record.key)
        if not isinstance(value, dict):
            return Invalid(
                f"{record.key!r} holds no object, so it has no fields. Use write().", record.key
            )
        return plan_put(writer, record, changed(value), op_id)

    def still(base: Record, fresh: Record) -> bool:
        return same(_part(decode(base.body), touched), _part(decode(fresh.body), touched))

    return (yield from change(writer, target, decide, op_id, still, touch=touch))


def _part(value: Json, touched: Json) -> Json:
    """Return what `value` has in the places that `touched` names."""
    if not isinstance(touched, Mapping) or not isinstance(value, Mapping):
        return value
    return {name: _part(value[name], each) for name, each in touched.items() if name in value}
