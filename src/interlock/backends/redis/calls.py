"""From requests to commands: one request, one call of a script, one round trip."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple

from interlock.backends import answers
from interlock.backends.answers import LogRow, Row
from interlock.core import refusals, requests, transfer
from interlock.core.conflict_report import RefusalNote
from interlock.core.group import FORGOTTEN_AFTER, LISTED, SCANNED, Deliveries, GroupInfo
from interlock.core.keys import prefix_end
from interlock.core.plan import DELETE, PUT, Plan
from interlock.core.records import Committed, KeyInfo, Snapshot, Waiter
from interlock.core.refusals import Outcome, Pruned
from interlock.core.requests import PAGE_BYTES, LogPage, Request, T, ValuePage
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


class Script(NamedTuple):
    """A script and the name that the server knows it by."""

    name: str
    text: str
    sha: str


def _read_script(name: str) -> Script:
    shared = ("common", "groups") if name in _OF_GROUPS else ("common",)
    parts = [pkgutil.get_data(__package__, f"{part}.lua") or b"" for part in (*shared, name)]
    text = b"\n".join(parts).decode()
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_OF_GROUPS = ("read_group", "ack_group", "group_state", "drop_group")
_NAMES = (
    *(
        "commit",
        "load",
        "list_keys",
        "list_expired",
        "list_waiters",
        "load_at",
        "log",
        "turn",
        "leave",
        "enter",
        "open",
        "lease",
        "mark",
    ),
    *("drop_lease", "fold", "trim", "redact", "scrub"),
    *("save_projection", "load_projection", "drop_projection"),
    *_OF_GROUPS,
    *("ask", "drop_space", "rename_space", "import", "import_mark", "restore", "finish_import"),
    *("dump", "read_base", "examine"),
)
SCRIPTS = {name: _read_script(name) for name in _NAMES}
BY_SHA = {script.sha: script.text for script in SCRIPTS.values()}


_LAST = 1 << 52  # a position that no log reaches, exact as a Lua number
_STREAMED = 1000  # entries that are looked at, at least, for those of a prefix
_COPIED = 500  # entries of the log that one call copies
_FEW = 64  # entries; where no more fit into a page, a script counts their bytes

Command = tuple[Any, ...]


class Call(NamedTuple, Generic[T]):
    """Commands that travel together, and how their replies are read.

    `waits`: the answer waits for replicas and files, as the store's URL says.  `claims`: only an
    answer that says that something was applied does; where the call does not wait, it is sent again
    so that it waits.
    """

    commands: Sequence[Command]
    parse: Callable[[list[Any]], T]
    waits: bool = False
    claims: Callable[[T], bool] | None = None


class Keys:
    """The names of a space's keys, and how long its values are."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.log = f"{state}:log"
        self.refusals = f"{state}:refusals"
        self.fixed = (state, self.log, f"{state}:keys", f"{state}:queues")
        self.groups = f"{state}:groups"
        self.projections = f"{state}:projections"
        self.erasing, self.copy, self.old = (
            f"{state}:{each}" for each in ("erasing", "copy", "old")
        )
        self._merged = f"{state}:m:"
        self.longest: int | None = None  # value of the log, as far as it is known

    def merged(self, key: str) -> str:
        """The list of a merged key's contributions."""
        return self._merged + key

    def group(self, name: str) -> tuple[str, ...]:
        """All that the scripts about a consumer group use."""
        return (*self.fixed, self.groups, f"{self.state}:g:{name}", f"{self.state}:d:{name}")


def script(name: str, keys: Sequence[str], *arguments: object) -> Command:
    """Return the command that runs a script."""
    return ("EVALSHA", SCRIPTS[name].sha, len(keys), *keys, *arguments)


def ask(name: str, keys: Keys, key: str, *arguments: Any) -> Command:
    """Return the command that runs one command on a key, if the space is there."""
    return script("ask", (*keys.fixed, key), name, *arguments)


def call_of(request: Request[object], keys: Keys, uid: str, known: tuple[int, str]) -> Call[Any]:
    """Return the call of a request.  `known`: a commit that must be in the log."""
    if isinstance(request, requests.Load):
        return _load(request, keys, uid, known)
    if isinstance(request, requests.ReadLog | requests.ReadValues):
        return _read_log(request, keys, known)
    return _CALLS[type(request)](request, keys, uid)


def commit(
    plans: Sequence[Plan], keys: Keys, uid: str, known: tuple[int, str]
) -> Call[list[Outcome]]:
    """Return the call that judges and applies plans."""
    names: list[str] = [*keys.fixed]
    arguments: list[object] = [*known, len(plans)]
    for plan in plans:
        _add_plan(plan, keys, names, arguments)

    def parse(replies: list[Any]) -> list[Outcome]:
        found = replies[0]
        if found[0] == "back":
            raise answers.lost_commits(int(found[1]))
        return [_outcome(plan, reply, uid) for plan, reply in zip(plans, found, strict=True)]

    return Call((script("commit", names, *arguments),), parse, True, _any_committed)


class Inlined(NamedTuple):
    """A commit as a part of another script: `text` is the body of a function of KEYS and ARGV, and
    `parse` reads what it returns."""

    text: str
    keys: Sequence[str]
    arguments: Sequence[object]
    parse: Callable[[list[Any]], Outcome]


def inlined(plan: Plan, keys: Keys, uid: str) -> Inlined:
    """Return a commit for a script that writes something else, too."""
    call = commit((plan,), keys, uid, (0, ""))
    ((_, _, count, *words),) = call.commands
    parse = call.parse
    return Inlined(
        *(SCRIPTS["commit"].text, words[:count], (*words[count:], uid)),
        lambda reply: parse([text(reply)])[0],
    )


def text(reply: Any) -> Any:
    """Return a reply with texts in place of bytes, as a client that decodes would."""
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        return [text(each) for each in reply]
    if isinstance(reply, dict):
        return {text(key): text(value) for key, value in reply.items()}
    return reply


def _any_committed(outcomes: Sequence[Outcome]) -> bool:
    return any(isinstance(each, Committed) for each in outcomes)


def mark(keys: Keys) -> Command:
    """Return a write that whoever waits for replicas sends before: see mark.lua."""
    return script("mark", keys.fixed)


def add_refusals(notes: Sequence[RefusalNote], keys: Keys, kept: int) -> Call[None]:
    """Return the call that keeps refusals."""
    texts = [json.dumps(each) for each in notes]
    commands = [
        ask("LPUSH", keys, keys.refusals, *texts),
        ask("LTRIM", keys, keys.refusals, 0, kept - 1),
    ]
    return Call(commands, _nothing)


def _add_plan(plan: Plan, keys: Keys, names: list[str], arguments: list[object]) -> None:
    expects, writes = plan.expects, plan.writes
    numbers: dict[str, int] = {}
    for key in (*[e.key for e in expects], *[w.key for w in writes]):
        numbers.setdefault(key, len(numbers) + 1)
    arguments += (
        *(plan.op_id, plan.agent, plan.incarnation, plan.rules, plan.ticket, int(plan.gives_way)),
        answers.reads_of(plan) or "",
        *(len(numbers), len(expects), len(writes), len(plan.scans)),
        *numbers,
    )
    for expected in expects:
        arguments += (
            numbers[expected.key],
            "" if expected.wanted is None else expected.wanted,
            "" if expected.epoch is None else expected.epoch,
        )
    for kind, key, body, ttl_us in writes:
        if kind != PUT:
            names.append(keys.merged(key))
        held, text = int(key in plan.leased), "" if body is None else body
        arguments += (numbers[key], kind, held, text, ttl_us or 0)
    for scan in plan.scans:
        arguments += (scan.prefix, prefix_end(scan.prefix) or "", len(scan.members))
        for member in scan.members:
            arguments += member


def _outcome(plan: Plan, reply: list[Any], uid: str) -> Outcome:
    position = reply[0]
    if isinstance(position, list):
        return answers.outcomes([plan], _rows(reply), uid)[0]
    writes = tuple(
        answers.written(write, reply[2 + 2 * i], reply[3 + 2 * i], position + i, reply[1])
        for i, write in enumerate(plan.writes)
    )
    return Committed(position, reply[1], plan.agent, writes)


def _load(request: requests.Load, keys: Keys, uid: str, known: tuple[int, str]) -> Call[Snapshot]:
    names = [*keys.fixed, *map(keys.merged, request.keys)]
    command = script("load", names, request.op_id or "", *known, *_named(request))
    call = _one(command, lambda rows: answers.snapshot(_rows(rows), uid, request.prefixes))
    return call._replace(claims=lambda snapshot: snapshot.applied is not None)


def _list_keys(request: requests.ListKeys, keys: Keys, uid: str) -> Call[tuple[KeyInfo, ...]]:
    prefix, after = request.prefix, request.after
    names = (prefix, max(prefix, after), prefix_end(prefix) or "", after)
    command = script("list_keys", keys.fixed, *names, request.limit, int(request.deleted))
    return _one(command, lambda rows: tuple(map(KeyInfo._make, rows)))


def _list_expired(request: requests.ListExpired, keys: Keys, uid: str) -> Call[tuple[KeyInfo, ...]]:
    command = script("list_expired", keys.fixed, request.limit)
    return _one(command, lambda rows: tuple(map(KeyInfo._make, rows)))


def _list_waiters(request: requests.ListWaiters, keys: Keys, uid: str) -> Call[tuple[Waiter, ...]]:
    return _one(script("list_waiters", keys.fixed, request.key, request.limit), answers.waiters)


def _load_at(request: requests.LoadAt, keys: Keys, uid: str) -> Call[Snapshot | Pruned]:
    names = [*keys.fixed, *map(keys.merged, request.keys)]
    position = "" if request.position is None else min(request.position, _LAST)
    command = script("load_at", names, position, request.time_us or 0, *_named(request))
    return _one(command, lambda rows: answers.moment(_rows(rows), uid, request))


def _named(request: requests.Load | requests.LoadAt) -> list[str | int]:
    found: list[str | int] = [len(request.keys), *request.keys, len(request.prefixes)]
    for prefix in request.prefixes:
        found += (prefix, prefix_end(prefix) or "")
    return found


def _read_log(
    request: requests.ReadLog | requests.ReadValues, keys: Keys, known: tuple[int, str]
) -> Call[LogPage | ValuePage | Pruned]:
    """Of one key: by a script, which counts bytes.  Of all, where no value is long: off the stream
    as it is, of which a script would make Lua values first, and then what the log is known by, so
    that what was cut meanwhile is noticed."""
    after, key = min(request.after, _LAST), request.key or ""
    prefix = "" if key else request.prefix
    count = max(request.limit, _STREAMED) if prefix else request.limit
    fit = 0 if keys.longest is None else PAGE_BYTES // keys.longest
    streamed = request.key is None and fit >= min(count, _FEW)
    most = min(count, fit)
    look = script("log", keys.fixed, after, 0 if streamed else count, key, *known, PAGE_BYTES, most)
    first = "-" if after < 0 else after + 1
    stream = ("XRANGE", keys.log, first, "+", "COUNT", most)

    def parse(replies: list[Any]) -> LogPage | ValuePage | Pruned:
        reply = replies[-1]
        keys.longest = reply[5]
        if streamed:
            erasing = frozenset(map(int, reply[7]))
            rows = [_streamed(item, erasing) for item in replies[0]]
            reached = rows[-1][0] if rows else max(request.after, reply[1])
        else:
            rows, reached = reply[3], max(reply[4], request.after)
        if prefix:
            rows = [row for row in rows if row[1].startswith(prefix)]
        if len(rows) >= request.limit:
            rows = rows[: request.limit]
            reached = rows[-1][0]
        return _page(request, reply, rows, reached)

    return Call((stream, look) if streamed else (look,), parse)


def _page(
    request: requests.ReadLog | requests.ReadValues,
    reply: list[int],
    rows: list[LogRow],
    reached: int,
) -> LogPage | ValuePage | Pruned:
    """Return a page of the log; `reached`: what it is complete up to."""
    head, floor, lost = reply[:3]
    if lost:
        raise answers.lost_commits(head)
    if 0 <= request.after < floor:
        return refusals.pruned(request.after, floor)
    if isinstance(request, requests.ReadValues):
        return ValuePage(answers.lines_of(rows), reached, head, reply[6])
    return LogPage(answers.entries_of(rows), reached, head, reply[6])


def _streamed(item: Sequence[Any], erasing: frozenset[int]) -> LogRow:
    """Return the row of an entry of the stream; see common.lua for its fields.  `erasing`: the
    positions of those that are erased and still have their values there."""
    number, fields = item
    if isinstance(fields, dict):  # where redis-py sent it again, because the slot had moved
        fields = [text for pair in fields.items() for text in pair]
    _, key, _, op, _, meta, _, body, *more = fields
    found = dict(zip(more[::2], more[1::2], strict=True))
    version, epoch, kind, time, agent = meta.split(" ", 4)
    position = int(number[:-2])
    value = None if kind == DELETE or position in erasing else body or None
    read, expires = found.get("r"), int(found.get("x", 0))
    return position, key, int(version), int(epoch), kind, value, agent, int(time), op, read, expires


def _take_turn(request: requests.TakeTurn, keys: Keys, uid: str) -> Call[requests.Place]:
    queues = sorted(request.keys)
    names = [*keys.fixed, *map(keys.merged, queues)]
    ttl = int(request.ttl * 1e6)
    command = script(
        "turn",
        names,
        *(request.name, request.agent, ttl, request.ticket, int(request.firm)),
        *(len(queues), *queues, *request.holding),
    )
    return _one(command, lambda rows: answers.place(_rows(rows), uid))


def _leave_turn(request: requests.LeaveTurn, keys: Keys, uid: str) -> Call[None]:
    return _one(script("leave", keys.fixed, request.ticket, request.name), _nothing)


def _enter(request: requests.Enter, keys: Keys, uid: str) -> Call[requests.Entered]:
    command = script("enter", keys.fixed, request.agent, int(request.exclusive), request.name)
    return _one(command, lambda rows: answers.entered(_rows(rows), uid), request.exclusive)


def _take_lease(request: requests.TakeLease, keys: Keys, uid: str) -> Call[requests.Grant]:
    command = script(
        "lease",
        [*keys.fixed, *map(keys.merged, request.keys)],
        *(request.name, request.agent, request.incarnation, int(request.ttl * 1e6)),
        *(request.epoch, request.ticket, int(request.reclaim), *request.keys),
    )
    call = _one(command, lambda rows: answers.grant(_rows(rows), uid, request), True)
    return call._replace(claims=lambda grant: grant.granted or request.reclaim)


def _drop_lease(request: requests.DropLease, keys: Keys, uid: str) -> Call[None]:
    command = script("drop_lease", keys.fixed, request.key, request.epoch, request.name)
    return _one(command, _nothing)


def _save_fold(request: requests.SaveFold, keys: Keys, uid: str) -> Call[None]:
    names = [*keys.fixed, keys.merged(request.key)]
    arguments = (request.key, request.position, request.body, request.rules, request.erasures)
    return _one(script("fold", names, *arguments), _nothing)


def _save_projection(request: requests.SaveProjection, keys: Keys, uid: str) -> Call[None]:
    return _one(
        script(
            "save_projection",
            (*keys.fixed, keys.projections),
            request.name,
            request.position,
            request.body,
            "" if request.erasures is None else request.erasures,
        ),
        _nothing,
    )


def _load_projection(
    request: requests.LoadProjection, keys: Keys, uid: str
) -> Call[requests.Kept | None]:
    command = script("load_projection", keys.fixed, request.name)
    return _one(command, lambda reply: requests.Kept(*reply) if reply else None)


def _drop_projection(request: requests.DropProjection, keys: Keys, uid: str) -> Call[None]:
    command = script("drop_projection", (*keys.fixed, keys.projections), request.name)
    return _one(command, _nothing, True)


def _trim(request: requests.Trim, keys: Keys, uid: str) -> Call[requests.Floor]:
    folds = [text for fold in request.folds for text in fold]
    names = (*keys.fixed, keys.groups, keys.projections)
    command = script("trim", names, request.upto, request.erasures, *folds)
    return _one(command, lambda reply: answers.floor(*reply), request.upto > 0)


def _redact(request: requests.Redact, keys: Keys, uid: str) -> Call[requests.Redacted]:
    names = (*keys.fixed, keys.projections, keys.erasing, keys.copy)
    bases = [(key, position, body or "") for key, position, body in request.bases]
    arguments: list[str | int] = []
    for each in (request.keys, request.positions, request.folds):
        arguments += (len(each), *each)
    arguments += (len(bases), *(field for base in bases for field in base))
    command = script("redact", (*names, *map(keys.merged, request.folds)), *arguments)

    def parse(reply: Any) -> requests.Redacted:
        return requests.Redacted(reply[0], reply[1], tuple(reply[2]))

    return _one(command, parse, True)


def _scrub(request: requests.Scrub, keys: Keys, uid: str) -> Call[requests.Scrubbed]:
    command = script("scrub", (*keys.fixed, keys.erasing, keys.copy, keys.old), _COPIED)
    return _one(command, lambda reply: requests.Scrubbed(reply[0]), True)


def _read_refusals(request: requests.ReadRefusals, keys: Keys, uid: str) -> Call[list[RefusalNote]]:
    command = ask("LRANGE", keys, keys.refusals, 0, min(request.limit, _LAST) - 1)
    return _one(command, lambda texts: [RefusalNote(*json.loads(text)) for text in texts])


def _read_group(request: requests.ReadGroup, keys: Keys, uid: str) -> Call[Deliveries | Pruned]:
    command = script(
        "read_group",
        keys.group(request.group),
        *(request.group, request.consumer, request.prefix, min(request.start, _LAST)),
        *(request.limit, int(request.ttl * 1e6), int(request.resume), request.name),
        *(SCANNED, int(FORGOTTEN_AFTER * 1e6)),
    )
    return _one(command, lambda rows: answers.dealt(rows, request))


def _ack_group(request: requests.AckGroup, keys: Keys, uid: str) -> Call[int]:
    names = keys.group(request.group)
    pairs = zip(request.positions, request.deliveries, strict=True)
    command = script("ack_group", names, request.consumer, *(n for pair in pairs for n in pair))
    return _one(command, int, True)


def _group_state(request: requests.GroupState, keys: Keys, uid: str) -> Call[GroupInfo | None]:
    command = script("group_state", keys.group(request.group), LISTED)
    return _one(command, lambda rows: answers.group_info(_rows(rows), request.group))


def _list_groups(request: requests.ListGroups, keys: Keys, uid: str) -> Call[tuple[str, ...]]:
    return _one(ask("ZRANGE", keys, keys.groups, 0, -1), tuple)


def _drop_group(request: requests.DropGroup, keys: Keys, uid: str) -> Call[None]:
    return _one(script("drop_group", keys.group(request.group), request.group), _nothing, True)


def begin_import(keys: Keys, importing: Importing, schema: int) -> Call[list[str]]:
    """Return the call that makes a space for an import; its answer has a reason where it is not."""
    new = os.urandom(8).hex()
    command = script("import", keys.fixed, importing.source, importing.floor, new, schema)
    return _one(command, list, True)


def _dump(request: Dump, keys: Keys, uid: str) -> Call[Dumped]:
    def parse(reply: list[Any]) -> Dumped:
        position, floor, epochs, agents, groups, pending, kept = reply
        return Dumped(
            position,
            floor,
            Parts(
                tuple((key, epoch) for key, epoch in epochs),
                tuple((agent, incarnation) for agent, incarnation in agents),
                tuple(map(GroupAt._make, groups)),
                tuple(map(Pending._make, pending)),
                tuple((name, at, body) for name, at, body in kept),
            ),
        )

    return _one(script("dump", keys.fixed), parse)


def _read_base(request: ReadBase, keys: Keys, uid: str) -> Call[BasePage]:
    command = script("read_base", keys.fixed, request.after, request.limit, request.position)

    def parse(reply: list[Any]) -> BasePage:
        floor, rows = reply
        return BasePage(tuple(transfer.Row(*row) for row in rows), floor)

    return _one(command, parse)


def _mark(request: Mark, keys: Keys, uid: str) -> Call[Marked]:
    return _one(script("import_mark", keys.fixed), Marked._make)


def _restore(request: Restore, keys: Keys, uid: str) -> Call[int]:
    rows = (
        "" if field is None else field for row in (*request.base, *request.rows) for field in row
    )
    command = script("restore", keys.fixed, request.position, len(request.base), *rows)
    return _one(command, int, True)


def _finish(request: Finish, keys: Keys, uid: str) -> Call[bool]:
    told: list[Any] = [request.position]
    for part in request.parts.ordered():
        told += (len(part), *(field for row in part for field in row))
    return _one(script("finish_import", keys.fixed, *told), lambda reply: reply == 1, True)


def _one(command: Command, parse: Callable[[Any], T], waits: bool = False) -> Call[T]:
    return Call((command,), lambda replies: parse(replies[0]), waits)


def _rows(rows: list[Any]) -> list[Row]:
    return [Row._make(row) for row in rows]


def _nothing(replies: object) -> None:
    return None


_CALLS: dict[type[Request[object]], Callable[[Any, Keys, str], Call[Any]]] = {
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
    Mark: _mark,
    Restore: _restore,
    Finish: _finish,
}
