"""Values: JSON text with integers kept exactly.  Merging and comparing values lives in `merges`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum

from interlock.core.outcome import Invalid
from interlock.core.struct import Json

DEFAULT_MAX_VALUE_BYTES = 1024 * 1024

MAX_DEPTH = 200  # levels; a fixed limit, so that whoever reads a value can decode it, too
_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SCALARS = (str, int, float, bool, type(None))


class Deletion(Enum):
    """What the function of an update returns to delete the key: `interlock.DELETE`."""

    DELETE = "DELETE"

    def __repr__(self) -> str:
        return "interlock.DELETE"


DELETE = Deletion.DELETE


def encode(value: Json, limit: int = DEFAULT_MAX_VALUE_BYTES) -> str | Invalid:
    """Return `value` as compact JSON text, or why it is not a value.  `limit` is in UTF-8 bytes."""
    try:
        wrong = _not_json(value, "value", 1)
        if wrong is not None:
            return Invalid(wrong)
        text = _encoder.encode(value)
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        return Invalid("The value contains a lone surrogate, which UTF-8 can't encode.")
    except RecursionError:
        return Invalid("The value is nested too deeply, or contains itself.")
    except (TypeError, ValueError) as problem:
        return Invalid(f"The value is not JSON: {problem}")
    if size > limit:
        return Invalid(
            f"The value has {size:,} bytes; the limit is {limit:,}. "
            "Raise max_value_bytes= or split it."
        )
    return text


def decode(text: str | None) -> Json:
    """Return the value of JSON `text`; None where there is no value."""
    return None if text is None else json.loads(text)


def decode_many(texts: Sequence[str]) -> list[Json]:
    """Return the values of many JSON texts in one pass, several times faster than one by one."""
    values: list[Json] = json.loads("[" + ",".join(texts) + "]")
    return values


def _not_json(value: Json, path: str, depth: int) -> str | None:
    """Say what the encoder would silently change: keys that are not str, types made for it."""
    if depth > MAX_DEPTH:
        return f"The value is nested deeper than {MAX_DEPTH} levels, or contains itself."
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{_the(path)} has the key {key!r} ({_a(key)}); JSON keys are str."
            if not isinstance(item, _SCALARS) and (
                found := _not_json(item, f"{path}[{key!r}]", depth + 1)
            ):
                return found
        return None
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if not isinstance(item, _SCALARS) and (
                found := _not_json(item, f"{path}[{index}]", depth + 1)
            ):
                return found
        return None
    if isinstance(value, _SCALARS):
        return None
    if value is DELETE:
        return f"{_the(path)} is interlock.DELETE, which only the function of an update may return."
    use = ": use a list" if isinstance(value, (set, frozenset)) else ""
    if depth == 1:
        return f"{'A' + _a(value)[1:]} is not JSON{use}."
    return f"{path} is {_a(value)}, which is not JSON{use}."


def _the(path: str) -> str:
    return "The value" if path == "value" else path


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
