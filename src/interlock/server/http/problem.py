"""What goes wrong, as problem documents (RFC 9457) that are named as in Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

import interlock
from interlock import InterlockError, Json, Refused

_STATUS: dict[type[InterlockError], int] = {
    interlock.Conflict: 409,  # 412 where it is that of a precondition
    interlock.Fenced: 409,
    interlock.Held: 423,
    interlock.Contended: 409,
    interlock.Deadlock: 409,
    interlock.Forbidden: 403,
    interlock.IllegalTransition: 409,
    interlock.Invalid: 400,
    interlock.Pruned: 410,
    interlock.ProgramChanged: 409,
    interlock.RunFailed: 409,
    interlock.BreakerOpen: 503,
    interlock.Unavailable: 503,
    interlock.Unknown: 504,
    interlock.Dropped: 410,
    interlock.Closed: 503,
    interlock.TimedOut: 504,
    interlock.NotInstalled: 501,
}


class Problem(Exception):
    """A request that is not done, and why.  `name` is that of the exception in Python, or NotFound,
    Unauthorized, PreconditionRequired, TooLarge, TooMany, InternalError."""

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **fields: Json,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.name = name
        self.headers = dict(headers or {})
        self.fields = fields

    def response(self) -> Response:
        """Return it as an answer."""
        document = {
            "type": f"urn:interlock:{self.name}",
            "title": self.name,
            "status": self.status,
            "detail": str(self),
            **self.fields,
        }
        body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
        return Response(body, self.status, self.headers, media_type="application/problem+json")


def problem_of(error: InterlockError, precondition: bool = False) -> Problem:
    """Return the problem of an exception of the API; `precondition`: the request had If-Match."""
    fields: dict[str, Any] = {"retryable": False, "next_step": "", **_details(error)}
    headers: dict[str, str] = {}
    status = next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)
    if isinstance(error, Refused):
        fields |= {"retryable": error.retryable, "next_step": error.next_step}
    if isinstance(error, interlock.Unavailable | interlock.Unknown):
        fields["retryable"] = True
    if precondition and isinstance(error, interlock.Conflict | interlock.Fenced):
        status = 412
    if isinstance(error, interlock.Held | interlock.BreakerOpen):
        headers["Retry-After"] = str(max(1, round(error.seconds)))
    if isinstance(error, interlock.Conflict) and error.record.version:
        headers["ETag"] = etag(error.record)
    return Problem(status, type(error).__name__, str(error), headers=headers, **fields)


def etag(record: interlock.Record) -> str:
    """Return what names the version and the epoch of a record."""
    return f'"{record.version}.{record.epoch}"'


def not_found(what: str, **fields: Json) -> Problem:
    """Return the problem of what is not there."""
    return Problem(404, "NotFound", what, **fields)


def invalid(why: str) -> Problem:
    """Return the problem of a malformed request."""
    return Problem(400, "Invalid", why, retryable=False, next_step="")


def forbidden(why: str, **fields: Json) -> Problem:
    """Return the problem of what the caller may not do."""
    return Problem(403, "Forbidden", why, retryable=False, next_step="", **fields)


def _details(error: InterlockError) -> dict[str, Any]:
    match error:
        case interlock.Conflict():
            return {
                "key": error.key,
                "expected": error.expected,
                "actual": error.actual,
                "record": error.record.to_dict(),
            }
        case interlock.Held():
            return {"holder": error.holder, "seconds": round(error.seconds, 1)}
        case interlock.Contended():
            return {"attempts": error.attempts}
        case interlock.Deadlock():
            return {"key": error.key, "cycle": [wait._asdict() for wait in error.cycle]}
        case interlock.Fenced():
            return {"held": error.held, "current": error.current}
        case interlock.Forbidden():
            return {"key": error.key, "pattern": error.pattern, "rule": error.rule}
        case interlock.IllegalTransition():
            return {
                "key": error.key,
                "before": error.before,
                "after": error.after,
                "allowed": list(error.allowed),
            }
        case interlock.Pruned():
            return {"oldest": error.oldest}
        case interlock.Unknown():
            return {"op_id": error.op_id}
    return {}
