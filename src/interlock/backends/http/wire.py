"""Requests and their answers as JSON, for both sides of the service.

A request is an object with one member: its name, and its fields as msgspec has them.  An answer is
`{"answer": ...}`, or `{"refusal": {"kind": ..., ...}}` where it is one.  A record travels without
its value: that is the `body`, or a Tail.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, cast

import msgspec

from interlock.core import refusals, requests, transfer
from interlock.core.conflict_report import RefusalNote
from interlock.core.group import Deliveries, GroupInfo
from interlock.core.keys import decode
from interlock.core.merge import Clash
from interlock.core.records import Committed, KeyInfo, Record, Snapshot, Tail, Waiter
from interlock.core.refusals import Refusal, Wait
from interlock.core.requests import Request, T

# What may be asked, and the type of its answer where it is no refusal.
ANSWERS: Mapping[type[Request[Any]], Any] = {
    requests.Load: Snapshot,
    requests.LoadAt: Snapshot,
    requests.ListKeys: tuple[KeyInfo, ...],
    requests.ListExpired: tuple[KeyInfo, ...],
    requests.ListWaiters: tuple[Waiter, ...],
    requests.Commit: Committed,
    requests.ReadLog: requests.LogPage,
    requests.ReadValues: requests.ValuePage,
    requests.TakeTurn: requests.Place,
    requests.LeaveTurn: None,
    requests.Enter: requests.Entered,
    requests.TakeLease: requests.Grant,
    requests.DropLease: None,
    requests.SaveFold: None,
    requests.SaveProjection: None,
    requests.LoadProjection: requests.Kept | None,
    requests.DropProjection: None,
    requests.Trim: requests.Floor,
    requests.Redact: requests.Redacted,
    requests.Scrub: requests.Scrubbed,
    requests.Noted: None,
    requests.ReadRefusals: list[RefusalNote],
    requests.ReadGroup: Deliveries,
    requests.AckGroup: int,
    requests.GroupState: GroupInfo | None,
    requests.ListGroups: tuple[str, ...],
    requests.DropGroup: None,
    requests.Pause: None,
    transfer.Dump: transfer.Dumped,
    transfer.ReadBase: transfer.BasePage,
}
_KINDS: Mapping[str, type[Refusal]] = {
    kind.__name__: kind
    for kind in (
        refusals.Invalid,
        refusals.Conflict,
        refusals.Held,
        refusals.Contended,
        refusals.Deadlock,
        refusals.Fenced,
        refusals.Forbidden,
        refusals.IllegalTransition,
        refusals.Outdated,
        refusals.Pruned,
    )
}
_NAMED = {kind.__name__: kind for kind in ANSWERS}


class Malformed(ValueError):
    """What arrived is no request, or no answer, that this version knows."""


class _Answered(msgspec.Struct):
    answer: msgspec.Raw = msgspec.Raw(b"null")
    refusal: dict[str, Any] | None = None


_envelope = msgspec.json.Decoder(_Answered)
_asked = msgspec.json.Decoder(dict[str, msgspec.Raw])
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode_request(request: Request[Any]) -> bytes:
    """Return a request as JSON."""
    if isinstance(request, requests.Noted):
        fields = {"refusal": _refusal(request.refusal), "agent": request.agent}
        return msgspec.json.encode({"Noted": fields})
    return msgspec.json.encode({type(request).__name__: request})


def decode_request(body: bytes) -> Request[Any]:
    """Return the request that `encode_request` has made.  Raises Malformed."""
    try:
        ((name, text),) = _asked.decode(body).items()
        if name == "Noted":
            found = msgspec.json.decode(text)
            return requests.Noted(_refused(found["refusal"]), str(found["agent"]))
        request: Request[Any] = _decoder(_NAMED[name]).decode(text)
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise Malformed(f"This is no request: {type(problem).__name__}: {problem}"[:300]) from None
    return request


def encode_answer(answer: object) -> bytes:
    """Return the answer of a request as JSON."""
    if isinstance(answer, Refusal):
        return msgspec.json.encode({"refusal": _refusal(answer)})
    return msgspec.json.encode({"answer": _sent(answer)})


def decode_answer(request: Request[T], body: bytes) -> T:
    """Return the answer of a request.  Raises Malformed."""
    try:
        found = _envelope.decode(body)
        if found.refusal is not None:
            return cast(T, _refused(found.refusal))
        expected = ANSWERS[type(request)]
        if isinstance(request, requests.TakeLease):
            return cast(T, _grant(found.answer))
        return cast(T, _received(_decoder(expected).decode(found.answer)))
    except (ValueError, KeyError, TypeError) as problem:
        raise Malformed(f"{type(problem).__name__}: {problem}"[:300]) from None


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    if kind not in _decoders:
        _decoders[kind] = msgspec.json.Decoder(kind)
    return _decoders[kind]


# Values


def _lean(record: Record) -> Record:
    """Return a record without what its body says."""
    return record if isinstance(record.value, Tail) else record._replace(value=None)


def _whole(record: Record) -> Record:
    """Return a record with its value."""
    if record.value is not None:
        return record._replace(value=Tail(*record.value))
    return record if record.body is None else record._replace(value=decode(record.body))


def _sent(answer: Any) -> Any:
    return _mapped(answer, _lean, _refusal)


def _received(answer: Any) -> Any:
    return _mapped(answer, _whole, _refused)


def _mapped(answer: Any, record: Callable[[Record], Record], refusal: Callable[[Any], Any]) -> Any:
    """Return an answer with each record of it changed."""
    match answer:
        case Snapshot():
            return answer._replace(
                records={key: record(each) for key, each in answer.records.items()},
                scans={prefix: tuple(map(record, each)) for prefix, each in answer.scans.items()},
            )
        case requests.Place():
            return answer._replace(snapshot=_mapped(answer.snapshot, record, refusal))
        case requests.Entered():
            return answer._replace(rules=record(answer.rules))
        case requests.Grant():
            found = None if answer.refusal is None else refusal(answer.refusal)
            return answer._replace(records=tuple(map(record, answer.records)), refusal=found)
    return answer


class _Grant(msgspec.Struct, array_like=True):
    """A Grant whose refusal is one of many kinds."""

    granted: bool
    records: tuple[Record, ...]
    holder: str
    seconds: float
    refusal: dict[str, Any] | None
    key: str


def _grant(text: msgspec.Raw) -> requests.Grant:
    found = _decoder(_Grant).decode(text)
    return requests.Grant(
        found.granted,
        tuple(map(_whole, found.records)),
        found.holder,
        found.seconds,
        None if found.refusal is None else _refused(found.refusal),
        found.key,
    )


# Refusals


def _refusal(refusal: Refusal) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": type(refusal).__name__, **vars(refusal)}
    if isinstance(found.get("record"), Record):
        found["record"] = _lean(found["record"])
    if isinstance(found.get("last"), Refusal):
        found["last"] = _refusal(found["last"])
    return found


def _refused(found: dict[str, Any]) -> Refusal:
    kind = _KINDS[found["kind"]]
    known = {each.name for each in fields(kind)}
    given = {name: value for name, value in found.items() if name in known}
    if "record" in given:
        given["record"] = _whole(msgspec.convert(given["record"], Record))
    if "cycle" in given:
        given["cycle"] = tuple(Wait(*each) for each in given["cycle"])
    if "clashes" in given:
        given["clashes"] = tuple(Clash(*each) for each in given["clashes"])
    if "allowed" in given:
        given["allowed"] = tuple(given["allowed"])
    if given.get("last") is not None:
        given["last"] = _refused(given["last"])
    return kind(**given)
