"""The operations of the service in one table, which routes and the OpenAPI document are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.responses import Response

from interlock.server.http import leases, log, operate, records, work
from interlock.server.http.call import Call
from interlock.server.http.relay import relay

SPACE = "/v1/spaces/{space}"
_PAGE = ("prefix", "after", "limit")


class Operation(NamedTuple):
    """One operation: who may ask for it, what it takes (`query` parameters, headers, a body), and
    the schema that it answers with."""

    method: str
    path: str
    run: Callable[[Call], Awaitable[Response]]
    role: str = "reader"
    body: Any = None
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    status: int = 200
    schema: str = "object"
    streams: bool = False
    creates: bool = False


_MATCH = ("If-Match", "Idempotency-Key")
_ONCE = ("Idempotency-Key",)
_RECORD = SPACE + "/records/{key:path}"
OPERATIONS = (
    Operation("GET", "/v1/spaces", operate.spaces, schema="Spaces"),
    Operation("GET", SPACE, operate.show_space, schema="Space"),
    Operation(
        "PUT", SPACE, operate.create_space, "admin", status=201, creates=True, schema="Space"
    ),
    Operation("DELETE", SPACE, operate.drop_space, "admin", status=204),
    Operation(
        "GET",
        SPACE + "/records",
        records.listed,
        query=(*_PAGE, "values", "position", "time"),
        schema="Records",
        streams=True,
    ),
    Operation(
        "GET",
        _RECORD,
        records.read,
        query=("position", "time"),
        headers=("If-None-Match",),
        schema="Record",
    ),
    Operation(
        "PUT",
        _RECORD,
        records.put,
        "writer",
        body=Any,
        query=("expires",),
        headers=("If-None-Match", *_MATCH, "Interlock-Lease"),
        schema="Record",
    ),
    Operation(
        "PATCH",
        _RECORD,
        records.patch,
        "writer",
        body=dict[str, Any],
        headers=_MATCH,
        schema="Record",
    ),
    Operation(
        "DELETE",
        _RECORD,
        records.delete,
        "writer",
        headers=(*_MATCH, "Interlock-Lease"),
        schema="Record",
    ),
    Operation(
        "GET",
        SPACE + "/history/{key:path}",
        log.history,
        query=("after", "limit"),
        schema="Entries",
    ),
    Operation(
        "POST",
        SPACE + "/append/{key:path}",
        records.append,
        "writer",
        body=Any,
        headers=_ONCE,
        status=201,
        schema="Entry",
    ),
    Operation(
        "POST",
        SPACE + "/transition/{key:path}",
        records.transition,
        "writer",
        body=records.Transition,
        headers=_MATCH,
        schema="Record",
    ),
    Operation(
        "POST",
        SPACE + "/transactions",
        records.transact,
        "writer",
        body=records.Transaction,
        headers=_ONCE,
        schema="Committed",
    ),
    Operation(
        "POST",
        SPACE + "/leases/{key:path}",
        leases.acquire,
        "writer",
        body=leases.Acquire,
        headers=_ONCE,
        status=201,
        schema="Lease",
    ),
    Operation(
        "PUT",
        SPACE + "/leases/{key:path}",
        leases.renew,
        "writer",
        body=leases.Renew,
        schema="Lease",
    ),
    Operation(
        "DELETE",
        SPACE + "/leases/{key:path}",
        leases.release,
        "writer",
        query=("epoch",),
        status=204,
    ),
    Operation("GET", SPACE + "/queue/{key:path}", leases.queue),
    Operation("POST", SPACE + "/reclaim/{key:path}", leases.reclaim, "operator", schema="Record"),
    Operation(
        "GET",
        SPACE + "/log",
        log.read,
        query=(*_PAGE, "before", "agent", "kinds", "newest_first"),
        schema="Entries",
        streams=True,
    ),
    Operation(
        "GET",
        SPACE + "/watch",
        log.watch,
        query=("prefix", "after"),
        headers=("Last-Event-ID",),
        streams=True,
    ),
    Operation("GET", SPACE + "/groups", work.groups),
    Operation("GET", SPACE + "/groups/{group}", work.show_group),
    Operation(
        "POST", SPACE + "/groups/{group}/take", work.take, "writer", body=work.Take, headers=_ONCE
    ),
    Operation("POST", SPACE + "/groups/{group}/ack", work.ack, "writer", body=work.Ack),
    Operation("GET", SPACE + "/runs", work.runs, query=("open",)),
    Operation("POST", SPACE + "/runs", work.start_run, "writer", body=work.Start, status=201),
    Operation("GET", SPACE + "/runs/{run}", work.show_run),
    Operation("POST", SPACE + "/runs/{run}/send", work.send, "writer", body=work.Send, status=204),
    Operation("POST", SPACE + "/runs/{run}/cancel", work.cancel, "writer", body=work.Cancel),
    Operation("GET", SPACE + "/rules", operate.rules),
    Operation("PUT", SPACE + "/rules", operate.apply_rules, "operator", body=operate.Rules),
    Operation("GET", SPACE + "/conflicts", operate.conflicts, query=("limit",)),
    Operation("GET", SPACE + "/refused", operate.refused, "operator"),
    Operation("GET", SPACE + "/metrics", operate.metrics),
    Operation("POST", SPACE + "/erase", operate.erase, "operator", body=operate.Erase),
    Operation("POST", SPACE + "/trim", operate.trim, "operator", body=operate.Trim),
    Operation("POST", SPACE + "/requests", relay, body=bytes, query=("uid",)),
    Operation("GET", "/v1/audit", operate.audit, "operator", query=("limit",)),
    Operation("GET", "/metrics", operate.prometheus),
)
