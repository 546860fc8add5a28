"""From requests to calls of the stored functions: one request, one call, one round trip."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple

from interlock.backends import answers
from interlock.backends.answers import Row
from interlock.core import refusals, requests, transfer
from interlock.core.conflict_report import RefusalNote
from interlock.core.group import FORGOTTEN_AFTER, LISTED, SCANNED, Deliveries, GroupInfo
from interlock.core.keys import prefix_end
from interlock.core.plan import APPEND, DELETE, Expect, Plan
from interlock.core.records import KeyInfo, Snapshot, Waiter
from interlock.core.refusals import Outcome, Pruned
from interlock.core.requests import LogPage, Request, ValuePage
from interlock.core.rules import RULES_KEY
from interlock.core.transfer import (
    BasePage,
    Dump,
    Dumped,
    Finish,
    GroupAt,
    Importing,
    Mark,
    Marked,
    Parts,
    Pending,
    ReadBase,
    Restore,
)

Rows = list[tuple[Any, ...]]  # whole numbers, texts and NULL, as the function's columns are
Argument = str | int | list[str] | list[str | None] | None
_PARTS = ("epochs", "agents", "groups", "pending", "projections")  # of `dump`
_LAST = 1 << 62  # a position that no log reaches
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


LATER = -1  # in the last column of a row that stands for the whole answer
# Functions that answer values while they hold the lock of the space: what fetches the rest, and the
# column of `key`.
_BOUNDED = {
    "commit": ("answers", 2),
    "commit_single": ("answers", 2),
    "take_lease": ("answers", 2),
    "take_turn": ("answers", 2),
    "enter": ("answers", 2),
    "read_group": ("deliveries", 1),
}


class Call(NamedTuple, Generic[requests.A_co]):
    """A stored function, its arguments, and how its rows are read.  `writes`: it changes something,
    so that an answer that is lost leaves doubt."""

    function: str
    arguments: tuple[Argument, ...]
    parse: Callable[[Rows], requests.A_co]
    writes: bool = True

    @property
    def sql(self) -> str:
        """The statement."""
        return statement(self.function, len(self.arguments))

    def sql_within(self, milliseconds: int) -> str:
        """Return the statement that waits so long for locks: set before the function is called.
        One without arguments only reads, and waits for none."""
        if not self.arguments:
            return self.sql
        first = "$1::integer" if isinstance(self.arguments[0], int) else "$1::text"
        setting = f"set_config('lock_timeout', '{milliseconds}', true)"
        return self.sql.replace("($1", f"(CASE WHEN {setting} <> '' THEN {first} END", 1)

    def rest_of(self, rows: Rows) -> Call[Rows] | None:
        """Return the call for what was too much to be sent while the space was locked: whoever
        does not read his answer must hold up nobody."""
        if self.function not in _BOUNDED or len(rows) != 1 or rows[0][-1] != LATER:
            return None
        function, column = _BOUNDED[self.function]
        return Call(f"fetch_{function}", (rows[0][column],), lambda found: found, False)


@lru_cache(maxsize=64)
def statement(function: str, arguments: int) -> str:
    """Return the statement that calls a function."""
    places = ", ".join(f"${number}" for number in range(1, arguments + 1))
    call = f"interlock.{function}({places})"
    if function in _BOUNDED and function != "commit_single":  # which does it itself, if it must
        return f"SELECT * FROM interlock.bounded(ARRAY(SELECT a FROM {call} AS a))"
    return f"SELECT * FROM {call}"


def call_of(
    request: Request[object], space: int, uid: str, known: tuple[int, str], durable: bool
) -> Call[object]:
    """Return the call of a request.  `known`: a commit that must be in the log."""
    if isinstance(request, requests.Load):
        return _load(request, space, uid, known, durable)
    if isinstance(request, requests.ReadLog | requests.ReadValues):
        return _read_log(request, space, known)
    return _CALLS[type(request)](request, space, uid)


def commit(
    plans: Sequence[Plan], space: int, uid: str, known: tuple[int, str], durable: bool
) -> Call[list[Outcome]]:
    """Return the call that judges and applies plans."""
    if len(plans) == 1 and len(plans[0].writes) == 1 and _is_simple(plans[0]):
        return _commit_single(plans[0], space, uid, known, durable)
    plain = _plain(plans)
    texts = [(_flat if n in plain else _full)(n, plan) for n, plan in enumerate(plans)]
    arguments = (space, _encode(texts), *known, durable)
    return Call("commit", arguments, lambda rows: answers.outcomes(plans, _rows(rows), uid))


def _commit_single(
    plan: Plan, space: int, uid: str, known: tuple[int, str], durable: bool
) -> Call[list[Outcome]]:
    kind, key, body, ttl_us = plan.writes[0]
    version, epoch = None, None
    if plan.expects:
        version, epoch = _expected(plan.expects[0])
    arguments = (
        *(space, plan.op_id, plan.agent, plan.incarnation, plan.rules, plan.gives_way),
        *(answers.reads_of(plan), key, version, epoch, kind, body, ttl_us or None, *known, durable),
    )
    return Call(
        "commit_single", arguments, lambda rows: answers.outcomes((plan,), _rows(rows), uid)
    )


def _expected(expected: Expect) -> tuple[int, int | None]:
    """Return the version and epoch that a plan of one key names."""
    return -1 if expected.wanted is None else expected.wanted, expected.epoch


def _is_simple(plan: Plan) -> bool:
    """Whether a plan puts or appends to one key, computed from that key at most, or appends many
    values to one key from nothing."""
    if plan.scans or plan.ticket or plan.leased:
        return False
    (kind, key, _, ttl_us), expects = plan.writes[0], plan.expects
    if len(plan.writes) > 1:
        first = (APPEND, key, ttl_us)
        return not expects and all((w.kind, w.key, w.ttl_us) == first for w in plan.writes)
    mine = not expects or (len(expects) == 1 and expects[0].key == key)
    return mine and kind != DELETE


def _plain(plans: Sequence[Plan]) -> set[int]:
    """Return the numbers of those plans that one statement may judge together: of one key each,
    and of one that no other plan touches, unless all of them append to it without reading it.
    None where one of them changes the rules, which those after it must be judged by."""
    if any(write.key == RULES_KEY for plan in plans for write in plan.writes):
        return set()
    by_key: dict[str, list[int]] = {}
    shared = set()
    operations: set[str] = set()
    for n, plan in enumerate(plans):
        keys = {each.key for each in plan.expects} | {each.key for each in plan.writes}
        if plan.op_id in operations or not _is_simple(plan):
            shared |= keys
        operations.add(plan.op_id)
        for key in keys:
            by_key.setdefault(key, []).append(n)
    scanned = tuple(scan.prefix for plan in plans for scan in plan.scans)
    found: set[int] = set()
    for key, numbers in by_key.items():
        appends = all(not plans[n].expects and plans[n].writes[0].kind == APPEND for n in numbers)
        if key not in shared and (len(numbers) == 1 or appends) and not key.startswith(scanned):
            found.update(numbers)
    return found


def add_refusals(notes: Sequence[RefusalNote], space: int, kept: int) -> Call[None]:
    """Return the call that keeps refusals."""
    names = ("key", "agent", "reason", "other", "behind", "time", "op")
    found = [dict(zip(names, each, strict=True)) for each in notes]
    return Call("add_refusals", (space, _encode(found), kept), _nothing)


def _common(n: int, plan: Plan) -> dict[str, object]:
    return {
        "n": n,
        "op": plan.op_id,
        "agent": plan.agent,
        "incarnation": plan.incarnation,
        "rules": plan.rules,
        "ticket": plan.ticket,
        "yields": plan.gives_way,
        "reads": answers.reads_of(plan),
    }


def _flat(n: int, plan: Plan) -> dict[str, object]:
    found, write = _common(n, plan), plan.writes[0]
    found |= {"key": write.key, "kind": write.kind, "ttl": write.ttl_us or None}
    if len(plan.writes) > 1:
        found["bodies"] = [each.body for each in plan.writes]
    else:
        found["body"] = write.body
    for expected in plan.expects:
        found["version"], found["epoch"] = _expected(expected)
    return found


def _full(n: int, plan: Plan) -> dict[str, object]:
    return _common(n, plan) | {
        "expects": [e.key for e in plan.expects],
        "versions": [e.wanted for e in plan.expects],
        "epochs": [e.epoch for e in plan.expects],
        "kinds": [w.kind for w in plan.writes],
        "writes": [w.key for w in plan.writes],
        "bodies": [w.body for w in plan.writes],
        "ttls": [w.ttl_us or None for w in plan.writes],
        "leased": plan.leased,
        "scans": answers.scans_of(plan),
    }


def _load(
    request: requests.Load, space: int, uid: str, known: tuple[int, str], durable: bool
) -> Call[Snapshot]:
    arguments = (space, *_names(request), request.op_id, *known, durable)
    return Call("load", arguments, lambda rows: _snapshot(rows, uid, request.prefixes), False)


def _list_keys(request: requests.ListKeys, space: int, uid: str) -> Call[tuple[KeyInfo, ...]]:
    prefix, after = request.prefix, request.after
    arguments = (space, prefix, prefix_end(prefix), max(prefix, after), after)
    most = (request.limit, request.deleted)
    return Call("list_keys", arguments + most, lambda rows: tuple(map(KeyInfo._make, rows)), False)


def _list_expired(request: requests.ListExpired, space: int, uid: str) -> Call[tuple[KeyInfo, ...]]:
    arguments = (space, request.limit)
    return Call("list_expired", arguments, lambda rows: tuple(map(KeyInfo._make, rows)), False)


def _list_waiters(request: requests.ListWaiters, space: int, uid: str) -> Call[tuple[Waiter, ...]]:
    arguments = (space, request.key, refusals.QUEUE + request.key, request.limit)
    return Call("list_waiters", arguments, answers.waiters, False)


def _load_at(request: requests.LoadAt, space: int, uid: str) -> Call[Snapshot | Pruned]:
    position = None if request.position is None else min(request.position, _LAST)
    moment = request.time_us if position is None else None
    arguments = (space, position, moment, *_names(request))
    return Call("load_at", arguments, lambda rows: answers.moment(_rows(rows), uid, request), False)


def _names(
    request: requests.Load | requests.LoadAt,
) -> tuple[list[str], list[str], list[str | None]]:
    prefixes = request.prefixes
    return [*request.keys], [*prefixes], [prefix_end(prefix) for prefix in prefixes]


def _read_log(
    request: requests.ReadLog | requests.ReadValues, space: int, known: tuple[int, str]
) -> Call[LogPage | ValuePage | Pruned]:
    after, prefix = min(request.after, _LAST), request.prefix
    arguments = (space, after, request.limit, request.key, prefix, prefix_end(prefix), *known)

    def parse(rows: Rows) -> LogPage | ValuePage | Pruned:
        head, floor, back = rows[0][0], rows[0][2], rows[0][4] is not None
        if back:
            raise answers.lost_commits(head)
        if 0 <= request.after < floor:
            return refusals.pruned(request.after, floor)
        if isinstance(request, requests.ReadValues):
            return answers.value_page(rows[1:], head, request, rows[0][3])
        begun = request.replace(after=max(request.after, floor))
        return answers.log_page(rows[1:], head, begun, rows[0][3])

    return Call("read_log", arguments, parse, False)


def _take_turn(request: requests.TakeTurn, space: int, uid: str) -> Call[requests.Place]:
    arguments = (
        space,
        [*request.keys],
        request.name,
        request.agent,
        int(request.ttl * 1e6),
        request.ticket,
        request.firm,
        [*request.holding],
    )
    return Call("take_turn", arguments, lambda rows: answers.place(_rows(rows), uid))


def _leave_turn(request: requests.LeaveTurn, space: int, uid: str) -> Call[None]:
    return Call("leave_turn", (space, request.ticket, request.name), _nothing)


def _enter(request: requests.Enter, space: int, uid: str) -> Call[requests.Entered]:
    arguments = (space, request.agent, request.exclusive, request.name)
    return Call("enter", arguments, lambda rows: answers.entered(_rows(rows), uid))


def _take_lease(request: requests.TakeLease, space: int, uid: str) -> Call[requests.Grant]:
    arguments = (
        space,
        [*request.keys],
        request.name,
        request.agent,
        request.incarnation,
        int(request.ttl * 1e6),
        request.epoch,
        request.ticket,
        request.reclaim,
    )
    return Call("take_lease", arguments, lambda rows: answers.grant(_rows(rows), uid, request))


def _drop_lease(request: requests.DropLease, space: int, uid: str) -> Call[None]:
    return Call("drop_lease", (space, request.key, request.epoch, request.name), _nothing)


def _save_fold(request: requests.SaveFold, space: int, uid: str) -> Call[None]:
    made_after = (request.rules, request.erasures)
    arguments = (space, request.key, request.position, request.body, *made_after)
    return Call("save_fold", arguments, _nothing)


def _save_projection(request: requests.SaveProjection, space: int, uid: str) -> Call[None]:
    arguments = (space, request.name, request.position, request.body, request.erasures)
    return Call("save_projection", arguments, _nothing)


def _load_projection(
    request: requests.LoadProjection, space: int, uid: str
) -> Call[requests.Kept | None]:
    arguments = (space, request.name)
    return Call(
        "load_projection", arguments, lambda rows: requests.Kept(*rows[0]) if rows else None, False
    )


def _drop_projection(request: requests.DropProjection, space: int, uid: str) -> Call[None]:
    return Call("drop_projection", (space, request.name), _nothing)


def _trim(request: requests.Trim, space: int, uid: str) -> Call[requests.Floor]:
    folds = ([k for k, _ in request.folds], [b for _, b in request.folds])
    arguments = (space, request.upto, *folds, request.erasures)
    return Call("trim", arguments, lambda rows: answers.floor(*rows[0]), request.upto > 0)


def _redact(request: requests.Redact, space: int, uid: str) -> Call[requests.Redacted]:
    positions = "{" + ",".join(map(str, request.positions)) + "}"
    arguments = (space, [*request.keys], positions, _encode(request.bases), [*request.folds])

    def parse(rows: Rows) -> requests.Redacted:
        entries, folds, projections = rows[0]
        return requests.Redacted(entries, folds, tuple(json.loads(projections)))

    return Call("redact", arguments, parse)


def _scrub(request: requests.Scrub, space: int, uid: str) -> Call[requests.Scrubbed]:
    return Call("scrub", (space,), lambda rows: requests.Scrubbed(0))


def _read_refusals(request: requests.ReadRefusals, space: int, uid: str) -> Call[list[RefusalNote]]:
    limit = min(request.limit, _LAST)
    return Call(
        "read_refusals", (space, limit), lambda rows: [RefusalNote(*r) for r in rows], False
    )


def _read_group(request: requests.ReadGroup, space: int, uid: str) -> Call[Deliveries | Pruned]:
    arguments = (
        *(space, request.group, request.consumer, request.prefix, min(request.start, _LAST)),
        *(request.limit, int(request.ttl * 1e6), request.resume, request.name),
        *(SCANNED, int(FORGOTTEN_AFTER * 1e6)),
    )
    return Call("read_group", arguments, lambda rows: answers.dealt(rows, request))


def _ack_group(request: requests.AckGroup, space: int, uid: str) -> Call[int]:
    positions = "{" + ",".join(map(str, request.positions)) + "}"
    deliveries = "{" + ",".join(map(str, request.deliveries)) + "}"
    arguments = (space, request.group, request.consumer, positions, deliveries)
    return Call("ack_group", arguments, lambda rows: rows[0][0])


def _group_state(request: requests.GroupState, space: int, uid: str) -> Call[GroupInfo | None]:
    arguments = (space, request.group, LISTED)
    return Call(
        "group_state", arguments, lambda rows: answers.group_info(_rows(rows), request.group), False
    )


def _list_groups(request: requests.ListGroups, space: int, uid: str) -> Call[tuple[str, ...]]:
    return Call("list_groups", (space,), lambda rows: tuple(name for (name,) in rows), False)


def _drop_group(request: requests.DropGroup, space: int, uid: str) -> Call[None]:
    return Call("drop_group", (space, request.group), _nothing)


def begin_import(name: str, importing: Importing) -> Call[tuple[int, str, str | None]]:
    """Return the call that makes a space for an import; its answer has a reason where it is not."""
    arguments = (name, importing.source, importing.floor, os.urandom(8).hex())
    return Call("begin_import", arguments, lambda rows: rows[0])


def _dump(request: Dump, space: int, uid: str) -> Call[Dumped]:
    def parse(rows: list[Any]) -> Dumped:
        found = json.loads(rows[0][0])
        epochs, agents, groups, pending, kept = (found[name] or () for name in _PARTS)
        return Dumped(
            found["position"],
            found["floor"],
            Parts(
                tuple((key, epoch) for key, epoch in epochs),
                tuple((agent, incarnation) for agent, incarnation in agents),
                tuple(map(GroupAt._make, groups)),
                tuple(map(Pending._make, pending)),
                tuple((name, at, body) for name, at, body in kept),
            ),
        )

    return Call("dump", (space,), parse, False)


def _read_base(request: ReadBase, space: int, uid: str) -> Call[BasePage]:
    arguments = (space, request.after, request.limit, request.position)

    def parse(rows: list[Any]) -> BasePage:
        return BasePage(tuple(transfer.Row(*row) for row in rows[1:]), rows[0][0])

    return Call("read_base", arguments, parse, False)


def _import_mark(request: Mark, space: int, uid: str) -> Call[Marked]:
    return Call("import_mark", (space,), lambda rows: Marked(*rows[0]), False)


def _restore(request: Restore, space: int, uid: str) -> Call[int]:
    texts = (_encode([row._asdict() for row in rows]) for rows in (request.base, request.rows))
    return Call("restore", (space, request.position, *texts), lambda rows: int(rows[0][0]))


def _finish_import(request: Finish, space: int, uid: str) -> Call[bool]:
    arguments = (space, request.position, _encode(request.parts._asdict()))
    return Call("finish_import", arguments, lambda rows: rows[0][0] == 1)


def _snapshot(rows: Rows, uid: str, prefixes: Sequence[str]) -> Snapshot:
    return answers.snapshot(_rows(rows), uid, prefixes)


def _rows(rows: Rows) -> list[Row]:
    return [Row._make(row) for row in rows]


def _nothing(rows: Rows) -> None:
    return None


_CALLS: dict[type[Request[object]], Callable[[Any, int, str], Call[object]]] = {
    requests.ListKeys: _list_keys,
    requests.ListExpired: _list_expired,
    requests.ListWaiters: _list_waiters,
    requests.LoadAt: _load_at,
    requests.TakeTurn: _take_turn,
    requests.LeaveTurn: _leave_turn,
    requests.Enter: _enter,
    requests.TakeLease: _take_lease,
    requests.DropLease: _drop_lease,
    requests.SaveFold: _save_fold,
    requests.SaveProjection: _save_projection,
    requests.LoadProjection: _load_projection,
    requests.DropProjection: _drop_projection,
    requests.Trim: _trim,
    requests.Redact: _redact,
    requests.Scrub: _scrub,
    requests.ReadRefusals: _read_refusals,
    requests.ReadGroup: _read_group,
    requests.AckGroup: _ack_group,
    requests.GroupState: _group_state,
    requests.ListGroups: _list_groups,
    requests.DropGroup: _drop_group,
    Dump: _dump,
    ReadBase: _read_base,
    Mark: _import_mark,
    Restore: _restore,
    Finish: _finish_import,
}
