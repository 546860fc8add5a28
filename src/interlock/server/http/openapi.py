"""The OpenAPI document, made of the table of operations and of the types of their bodies."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

import interlock
from interlock import Json
from interlock.server.http.api import OPERATIONS, Operation
from interlock.server.http.call import answer

_WHOLE = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_QUERY: dict[str, Json] = {
    "after": {"type": "string", "description": "A position, or of records a key."},
    "before": {"type": "integer", "minimum": 1, "description": "Only entries before it."},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000},
    "position": _WHOLE,
    "time": {"type": "string", "format": "date-time"},
    "values": {"type": "boolean"},
    "newest_first": {"type": "boolean"},
    "open": {"type": "boolean"},
    "expires": {"type": "number", "description": "Seconds until the value expires."},
    "epoch": {"type": "integer", "minimum": 1},
    "kinds": {"type": "string", "pattern": "^(put|append|delete)(,(put|append|delete))*$"},
}
_RECORD = {
    "type": "object",
    "required": ["key", "value", "version", "epoch", "writer", "at", "exists"],
    "properties": {
        "key": _TEXT,
        "value": {},
        "version": _WHOLE,
        "epoch": _WHOLE,
        "writer": {"type": ["string", "null"]},
        "at": {"type": ["string", "null"], "format": "date-time"},
        "exists": {"type": "boolean"},
        "expires_at": {"type": "string", "format": "date-time"},
        "erased": {"type": "boolean"},
    },
}
_ENTRY = {
    "type": "object",
    "required": ["position", "key", "version", "epoch", "kind", "agent", "at", "op_id"],
    "properties": {
        "position": _WHOLE,
        "key": _TEXT,
        "version": _WHOLE,
        "epoch": _WHOLE,
        "kind": {"enum": ["put", "append", "delete"]},
        "value": {},
        "agent": _TEXT,
        "at": {"type": "string", "format": "date-time"},
        "op_id": _TEXT,
        "reads": {"type": ["object", "null"]},
        "trace": {"type": ["string", "null"]},
    },
}


def _object(required: str, **properties: Json) -> dict[str, Json]:
    return {"type": "object", "required": required.split(), "properties": properties}


def _of(name: str) -> dict[str, Json]:
    return {"$ref": f"#/components/schemas/{name}"}


_SCHEMAS: dict[str, Json] = {
    "object": {"type": "object"},
    "Record": _RECORD,
    "Entry": _ENTRY,
    "Records": _object(
        "records next_after more",
        records={"type": "array", "items": {"type": "object"}},
        next_after={"type": ["string", "null"]},
        more={"type": "boolean"},
    ),
    "Entries": _object(
        "entries next_after more",
        entries={"type": "array", "items": _of("Entry")},
        next_after={"type": ["integer", "null"]},
        next_before={"type": ["integer", "null"]},
        more={"type": "boolean"},
    ),
    "Spaces": _object("spaces", spaces={"type": "array", "items": _TEXT}),
    "Space": _object(
        "space uid position agent role",
        space=_TEXT,
        uid=_TEXT,
        position=_WHOLE,
        agent=_TEXT,
        role={"enum": ["reader", "writer", "operator", "admin"]},
    ),
    "Lease": _object(
        "key epoch ttl record",
        key=_TEXT,
        epoch=_WHOLE,
        ttl={"type": "number"},
        record=_of("Record"),
    ),
    "Committed": _object(
        "position replayed writes",
        position=_WHOLE,
        replayed={"type": "boolean"},
        writes={"type": "array", "items": {"type": "object"}},
    ),
    "Problem": _object(
        "type title status detail",
        type=_TEXT,
        title=_TEXT,
        status={"type": "integer"},
        detail=_TEXT,
        retryable={"type": "boolean"},
        next_step=_TEXT,
    ),
}


@cache
def document() -> dict[str, Json]:
    """Return the OpenAPI document."""
    bodies = [each.body for each in OPERATIONS if _is_struct(each.body)]
    _, components = msgspec.json.schema_components(
        bodies, ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, Json] = {}
    for each in OPERATIONS:
        path = re.sub(r":path\}", "}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Interlock",
            "version": interlock.__version__,
            "description": "Agents share state without silently destroying each other's work.",
        },
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**_SCHEMAS, **components},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(each: Operation) -> dict[str, Json]:
    first, _, rest = (each.run.__doc__ or "").strip().partition("\n")
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"\{(\w+)", each.path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": _QUERY.get(name, _TEXT)} for name in each.query
    ]
    parameters += [{"name": name, "in": "header", "schema": _TEXT} for name in each.headers]
    if "records/{key" in each.path and each.method == "GET":
        parameters = [p for p in parameters if p["name"] != "after"]
    good: dict[str, Json] = {"description": "Done."}
    if each.streams and each.path.endswith("/watch"):
        good["content"] = {"text/event-stream": {"schema": _TEXT}}
    elif each.path == "/metrics":
        good["content"] = {"text/plain": {"schema": _TEXT}}
    elif each.status != 204:
        good["content"] = {"application/json": {"schema": _of(each.schema)}}
        if each.streams:
            good["content"]["application/x-ndjson"] = {"schema": _TEXT}
    answers: dict[str, Json] = {str(each.status): good}
    if each.path.endswith("records/{key:path}") and each.method in ("GET", "PUT"):
        other, said = ("304", "It has not changed.") if each.method == "GET" else ("201", "Made.")
        answers[other] = {"description": said}
        if other == "201":
            answers[other] = {**good, "description": said}
    problem = {"application/problem+json": {"schema": _of("Problem")}}
    answers["default"] = {"description": "It is not done: why.", "content": problem}
    found: dict[str, Json] = {
        "operationId": f"{each.run.__module__.rpartition('.')[2]}_{each.run.__name__}",
        "summary": first,
        "description": f"{' '.join(rest.split())} Needs the role {each.role}.".strip(),
        "parameters": parameters,
        "responses": answers,
    }
    if each.body is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _body(each.body)}},
        }
    return found


def _body(kind: Any) -> dict[str, Json]:
    if _is_struct(kind):
        return _of(kind.__name__)
    return {} if kind is Any else {"type": "object"}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


async def openapi(request: Request) -> Response:
    """Answer with the document.  It is no secret."""
    return answer(document())
