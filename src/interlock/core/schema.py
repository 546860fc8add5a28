"""Schemas of rules: what every writer's values must look like, as JSON Schema.

A schema is stored with its rule, so it binds writers that do not have the type that it was made
from.  The library `jsonschema` validates, because it interprets a schema: one that compiles
schemas to code would run what anybody who may change rules puts into one.  A process that does not
have it refuses to write.  Nothing is fetched: a reference can only lead to a place in the schema.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from functools import lru_cache
from typing import Any

from interlock.core.refusals import Invalid, described
from interlock.core.struct import Json, is_model
from interlock.core.types import TYPE, VERSION, Shape, Tagged, shape_of, version_of

MISSING = "jsonschema is not installed: pip install 'interlock[schema]'"
_LONGEST = 200  # characters of what is wrong


@dataclass(frozen=True)
class Schema:
    """A JSON Schema, as text with its names in order: equal schemas are equal."""

    text: str

    @property
    def data(self) -> dict[str, Json]:
        """The schema itself."""
        found: dict[str, Json] = json.loads(self.text)
        return found

    @property
    def title(self) -> str:
        """What it is called, or "schema"."""
        return str(self.data.get("title", "schema"))

    def malformed(self) -> str | None:
        """Return what is wrong with the schema itself, or that nobody here can say."""
        try:
            _validator(self.text)
        except ImportError:
            return MISSING
        except Exception as problem:
            return f"the schema is malformed: {_short(getattr(problem, 'message', problem))}"
        return None

    def misfit(self, value: Json) -> str | None:
        """Return why a value does not fit, with the path inside it; None if it does."""
        try:
            validator = _validator(self.text)
            error = _best_match(validator.iter_errors(value))
        except ImportError:
            return MISSING
        except Exception as problem:  # a reference that leads nowhere, a schema without an end
            return f"the schema can't be applied: {_short(described(problem))}"
        if error is None:
            return None
        where = "" if error.json_path == "$" else f" at {error.json_path}"
        return f"{_short(error.message)}{where}"


def schema_from_json(data: object) -> Schema | Invalid:
    """Return a JSON Schema as it is stored, or why it is none."""
    if not isinstance(data, dict):
        return Invalid(f"A JSON Schema is an object, not {data!r:.60}.")
    try:
        return Schema(json.dumps(data, ensure_ascii=False, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as problem:
        return Invalid(f"The schema is not JSON: {problem}")


def schema_of(given: Any) -> Schema | Invalid | None:
    """Return the schema of a type, or of JSON Schema as a dict; None for None."""
    if given is None or isinstance(given, Schema):
        return given
    if isinstance(given, dict):
        return schema_from_json(given)
    shape = shape_of(given)
    if isinstance(shape, Invalid):
        return shape
    try:
        return schema_from_json(_described(shape))
    except Exception as problem:  # what msgspec or pydantic says against it
        return Invalid(f"{shape.name} has no JSON Schema: {described(problem)}")


def _described(shape: Shape[Any]) -> dict[str, Json]:
    """Return the JSON Schema of what a shape encodes to."""
    import msgspec

    members = shape.members if isinstance(shape, Tagged) else (shape.form,)
    found, parts = msgspec.json.schema_components(
        members, schema_hook=_model_schema, ref_template="#/$defs/{name}"
    )
    for cls in shape.classes:
        part = parts.get(cls.__name__)
        if part is not None and not is_model(cls):
            _add_reserved(part, version_of(cls))
            for field in getattr(msgspec.inspect.type_info(cls), "fields", ()):
                _add_times(field.type, part.get("properties", {}).get(field.encode_name, {}))
    for member, each in zip(members, found, strict=True):
        _add_times(msgspec.inspect.type_info(member), each)
    options = list(found)
    if isinstance(shape, Tagged):
        for index, tag in enumerate(shape.tags):
            named = {"properties": {TYPE: {"const": tag}}, "required": [TYPE]}
            options[index] = {"allOf": [found[index], named]}
    whole: dict[str, Json] = options[0] if len(options) == 1 else {"anyOf": options}
    whole = {"title": shape.name, **whole}
    return {**whole, "$defs": parts} if parts else whole


def _add_reserved(part: dict[str, Json], version: int) -> None:
    """Let an object have the fields that Interlock adds; its version must be the newest."""
    if "properties" not in part:
        return
    part["properties"] = {**part["properties"]}
    if part.get("additionalProperties") is False:
        part["properties"][TYPE] = {}
    if version > 1:
        part["properties"][VERSION] = {"const": version}
        part["required"] = [*part.get("required", ()), VERSION]


def _add_times(info: Any, part: dict[str, Json]) -> None:
    """Say of texts that they are times: msgspec does where they must have a time zone."""
    from msgspec import inspect

    if isinstance(info, inspect.Metadata):
        _add_times(info.type, part)
    elif isinstance(info, inspect.DateTimeType | inspect.TimeType):
        name = "time" if isinstance(info, inspect.TimeType) else "date-time"
        part.setdefault("format", name)
    elif isinstance(info, inspect.UnionType):
        texts = [each for each in part.get("anyOf", ()) if each == {"type": "string"}]
        times = [
            each for each in info.types if isinstance(each, inspect.DateTimeType | inspect.TimeType)
        ]
        if len(texts) == len(times) == 1:
            _add_times(times[0], texts[0])
        for each in info.types:
            for option in part.get("anyOf", ()):
                if isinstance(each, inspect.CollectionType) and option.get("type") == "array":
                    _add_times(each, option)
    elif isinstance(info, inspect.CollectionType) and isinstance(part.get("items"), dict):
        _add_times(info.item_type, part["items"])
    elif isinstance(info, inspect.DictType) and isinstance(part.get("additionalProperties"), dict):
        _add_times(info.value_type, part["additionalProperties"])


def _model_schema(cls: Any) -> dict[str, Json]:
    """Return the schema of a pydantic model, with references that stay inside it."""
    if not is_model(cls):
        raise TypeError(f"{cls.__qualname__} is not a type that msgspec or pydantic knows")
    found: dict[str, Json] = cls.model_json_schema()
    version = version_of(cls)
    _add_reserved(found.get("$defs", {}).get(cls.__name__, found), version)
    return {"$id": f"urn:interlock:{cls.__module__}.{cls.__qualname__}", **found}


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    """Return what validates by a schema.  Raises ImportError, or what is wrong with the schema."""
    from decimal import Decimal

    from jsonschema import Draft202012Validator, FormatChecker
    from jsonschema.validators import extend, validator_for
    from referencing import Registry

    data = json.loads(text)
    draft = validator_for(data, default=Draft202012Validator)
    draft.check_schema(data)
    # 1.0 is no integer here, as it is none of a type: what one writes another could not read.
    exact = draft.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    draft = extend(draft, type_checker=exact)
    checker = FormatChecker()
    # It checks `date` and `uuid` itself.
    formats = {"date-time": datetime, "time": time, "duration": timedelta, "decimal": Decimal}
    for name, form in formats.items():
        checker.checks(name)(_reads_as(form))
    return draft(data, format_checker=checker, registry=Registry())


def _reads_as(form: Any) -> Any:
    def check(value: object) -> bool:
        import msgspec

        try:
            if isinstance(value, str):
                msgspec.convert(value, form)
        except msgspec.ValidationError:
            return False
        return True

    return check


def _best_match(errors: Any) -> Any:
    from jsonschema.exceptions import best_match

    return best_match(errors)


def _short(text: object) -> str:
    whole = str(text)
    return whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}..."
