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
        return Invalid("the value holds a lone surrogate, which UTF-8 cannot carry")
    except RecursionError:
        return Invalid("the value is nested too deeply, or holds itself")
    except (TypeError, ValueError) as problem:
        return Invalid(f"the value is not JSON: {problem}")
    if size > limit:
        return Invalid(
            f"the value is {size:,} bytes of JSON; the limit is {limit:,} "
            "(interlock.open(..., max_value_bytes=...) sets it)"
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
        return f"the value is nested deeper than {MAX_DEPTH} levels, or holds itself"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{path} has the key {key!r} of type {type(key).__name__}; JSON keys are str"
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
        return f"{path} is interlock.DELETE, which only the function of an update may return"
    return f"{path} is a {type(value).__name__}, which is not JSON"
