"""Draws requests for a backend: mostly right for what it holds, some wrong on purpose."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from interlock.backends.postgres.calls import _plain
from interlock.backends.sqlite.backend import SQLiteBackend
from interlock.core.keys import encode
from interlock.core.plan import APPEND, DELETE, PUT, Expect, Plan, Scanned, Write
from interlock.core.refusals import QUEUE, Forbidden
from interlock.core.requests import (
    PROJECTIONS,
    Commit,
    DropLease,
    DropProjection,
    Enter,
    LeaveTurn,
    ListExpired,
    ListKeys,
    Load,
    LoadAt,
    LoadProjection,
    LogPage,
    Noted,
    Place,
    ReadLog,
    ReadRefusals,
    ReadValues,
    SaveFold,
    SaveProjection,
    TakeLease,
    TakeTurn,
    Trim,
)
from interlock.core.rules import RULES_KEY
from interlock.core.writer import Writer

QUEUED = ("a", "b/1", "b/1:0", "ключ 'ü\"")  # leases and turns are about these
KEYS = (*QUEUED, "b/2", "b", "c:1", "😀/1", "z" * 512)
PREFIXES = ("", "b", "b/", "b/1", "😀", "$", "\U0010ffff", "nothing/")
AGENTS = ("one", "two 'ü\" \\ %s", "{three}:1")
LONG, LONGER = 1000.0, 2000.0  # seconds; a ttl of 0 is over at once
SHORT_US, LONG_US = 1, 1_000_000_000  # in which values expire: before the next request, or never
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**70, 0.1, 1e300, -0.0, "", "\0", "'", '"', "\\", "a\nb\r\t", "\u2028"),
    *("😀", "%s {0} $1", [], {}, [[]], {"": {}}, {"a": [], "ключ": "\x7f"}, ["]", "}", ":", ","]),
)


class LoadAtTimeOf(NamedTuple):
    """A LoadAt of each store's own time of an entry, and so many microseconds."""

    position: int
    more_us: int
    keys: tuple[str, ...]
    prefixes: tuple[str, ...]


class Group(NamedTuple):
    """Plans that travel together."""

    plans: tuple[Plan, ...]


class Seen:
    """What the reference holds, so that the next request can be right, or wrong on purpose."""

    def __init__(self) -> None:
        self.joined = 0  # the last ticket
        self.touched: set[str] = set()  # keys with leases and queues, now or before
        self.kinds: dict[str, str] = {}  # whether a key is put or appended to
        self.plans: list[Plan] = []
        self.sent: list[Any] = []

    def look(self, reference: SQLiteBackend) -> None:
        """Read everything."""
        found = reference.perform(Load((*KEYS, RULES_KEY), ("",)))
        self.position = found.position
        self.records = dict(found.records)
        self.kinds |= {
            key: APPEND if record.body is None else PUT
            for key, record in found.records.items()
            if record.exists
        }
        self.members = {r.key: (r.version, r.epoch) for r in found.scans[""]}
        page = reference.perform(ReadLog(after=-1, limit=9999))
        assert isinstance(page, LogPage)
        self.entries = page.entries
        self.incarnations = {
            agent: reference.perform(Enter(agent, False, "")).incarnation for agent in AGENTS
        }

    def told(self, request: Any, answer: Any) -> None:
        """Remember what was asked and answered."""
        self.sent.append(request)
        if isinstance(answer, Place):
            self.joined = max(self.joined, answer.ticket)
        if isinstance(request, TakeLease | TakeTurn):
            self.touched.update(request.keys)
        elif isinstance(request, Commit):
            self.plans.append(request.plan)
        elif isinstance(request, Group):
            self.plans += request.plans

    def fits(self, request: Any) -> bool:
        """Whether a request that is sent again keeps values and contributions apart."""
        plans = getattr(request, "plans", [request.plan] if isinstance(request, Commit) else [])
        writes = [write for plan in plans for write in plan.writes if write.kind != DELETE]
        return all(write.kind == self.kinds.get(write.key, write.kind) for write in writes)

    def imagine(self, plan: Plan) -> None:
        """Go on as if a plan had been applied."""
        for write in plan.writes:
            was = self.records[write.key]
            self.records[write.key] = was._replace(version=was.version + 1)


class Drawing:
    """Draws one request by a number: the same for the same number and history."""

    def __init__(self, number: int, seen: Seen) -> None:
        self._chance = random.Random(number)
        self._expiry = random.Random(~number)
        self._seen = seen

    def request(self) -> Any:
        """Return a request of any kind."""
        seen = self._seen
        if self._expiry.random() < 0.02:
            return ListExpired(99)
        if seen.sent and self._rare(0.05):
            again = self._chance.choice(seen.sent[-8:])
            if seen.fits(again):
                return again
        draws = {
            self._commit: 34,
            self._group: 14,
            self._turn: 10,
            self._lease: 10,
            self._drop: 5,
            self._leave: 3,
            self._load: 7,
            self._load_at: 7,
            self._read_log: 4,
            self._read_values: 2,
            self._list_keys: 1,
            self._fold: 4,
            self._enter: 3,
            self._refusal: 1,
            self._trim: 2,
            self._projection: 3,
        }
        return self._chance.choices([*draws], [*draws.values()])[0]()

    def _rare(self, probability: float) -> bool:
        return self._chance.random() < probability

    def _name(self, what: str) -> str:
        return f"{what} 'ü\" {{%s}} {self._chance.randrange(5)}"

    def _ticket(self) -> int:
        return self._chance.randint(1, self._seen.joined + 1)

    def _some(self, texts: Sequence[str], least: int, most: int) -> tuple[str, ...]:
        return tuple(self._chance.sample(texts, self._chance.randint(least, most)))

    def _agent(self) -> tuple[str, int]:
        agent = self._chance.choice(AGENTS)
        now = self._seen.incarnations[agent]
        return agent, max(0, now - 1) if self._rare(0.1) else now

    def _body(self) -> str:
        chance = self._chance
        value = chance.choice(VALUES) if chance.random() < 0.4 else chance.randrange(100)
        text = encode(value)
        assert isinstance(text, str)
        return text

    # Commits

    def _commit(self) -> Commit:
        """A plan on its own.  What was deleted may be put or appended to from now on, as where
        the rules change."""
        for key in [k for k in self._seen.kinds if not self._seen.records[k].exists]:
            if self._rare(0.1):
                del self._seen.kinds[key]
        return Commit(self._plan(simple=self._rare(0.5)))

    def _group(self) -> Group:
        """Plans in an order in which PostgreSQL, too, applies them: those that it judges together
        come first, and of these the one whose lease or queue must be looked at is the last."""
        seen, chance, found = self._seen, self._chance, list[Plan]()
        simple = chance.choice((0.2, 0.8, 1.0))
        for _ in range(chance.randint(2, 6)):
            plan = self._plan(self._rare(simple))
            if found and self._rare(0.1):
                plan = plan._replace(op_id=chance.choice(found).op_id)
            found.append(plan)
            if self._rare(0.5):
                seen.imagine(plan)
        while True:
            together = _plain(found)
            closer = [n for n in together if found[n].writes[0].key in seen.touched]
            if len(closer) < 2:
                break
            del found[closer[0]]  # which of those left are judged together may be others now
        order = sorted(range(len(found)), key=lambda n: (n not in together, n in closer))
        return Group(tuple(found[n] for n in order))

    def _plan(self, simple: bool) -> Plan:
        chance, seen = self._chance, self._seen
        if seen.plans and self._rare(0.05):
            again = chance.choice(seen.plans[-12:])
            if seen.fits(Commit(again)):
                return again
        agent, incarnation = self._agent()
        op_id = f"op '\"ü {{{len(seen.sent)}}} {chance.random()}"
        if seen.plans and self._rare(0.04):
            op_id = chance.choice(seen.plans).op_id
        rules = seen.records[RULES_KEY].version
        if self._rare(0.04):
            keys: tuple[str, ...] = (RULES_KEY,)
            writes = [Write(PUT, RULES_KEY, "{}")]
        else:
            keys = self._some(KEYS, 1, 1 if simple else 4)
            writes = [self._write(key) for key in keys]
            writes += [
                self._write(w.key, APPEND) for w in writes if w.kind == APPEND and not simple
            ]
        others = () if simple else self._some(KEYS, 0, 2)
        expects = [self._expect(key) for key in keys if not self._rare(0.15)]
        expects += [self._expect(key) for key in others if key not in keys]
        if simple and all(w.kind == APPEND for w in writes) and self._rare(0.3):
            writes += [Write(APPEND, keys[0], self._body(), 0) for _ in range(2)]
            expects = []
        leased = tuple(k for k in keys if k in seen.touched and self._rare(0.4 - 0.3 * simple))
        plan = Writer("", agent, 0, incarnation=incarnation).plan(
            op_id,
            expects=expects,
            scans=tuple(map(self._scan, () if simple else self._some(PREFIXES, 0, 2))),
            writes=writes,
            ticket=self._ticket() if self._rare(0.15 - 0.1 * simple) else 0,
            gives_way=self._rare(0.3),
            leased=leased,
        )
        return plan._replace(rules=rules + chance.choice((-1, 1)) if self._rare(0.04) else rules)

    def _write(self, key: str, kind: str = "") -> Write:
        kind = kind or self._seen.kinds.setdefault(key, self._chance.choice((PUT, APPEND)))
        if self._seen.records[key].exists and self._rare(0.25):
            return Write(DELETE, key, None)
        expires = kind == PUT and self._expiry.random() < 0.2
        return Write(
            kind, key, self._body(), self._expiry.choice((SHORT_US, LONG_US)) if expires else 0
        )

    def _expect(self, key: str) -> Expect:
        chance, record = self._chance, self._seen.records[key]
        version, epoch = record.version, record.epoch
        if self._rare(0.3 if not record.exists else 0.04):
            return Expect(key, None, None)
        if self._rare(0.06):
            version = max(0, version + chance.choice((-1, 1)))
        if epoch and self._rare(0.2):
            epoch -= 1
        expired = record.expired and self._expiry.random() > 0.2
        return Expect(key, version, None if self._rare(0.08) else epoch, expired)

    def _scan(self, prefix: str) -> Scanned:
        members = [
            (key, *found)
            for key, found in sorted(self._seen.members.items())
            if key.startswith(prefix)
        ]
        if members and self._rare(0.2):
            n = self._chance.randrange(len(members))
            key, version, epoch = members[n]
            more = self._chance.choice(((-1, 0), (1, 0), (0, 1)))
            members[n] = (key, version + more[0], epoch + more[1])
        elif members and self._rare(0.1):
            del members[self._chance.randrange(len(members))]
        elif self._rare(0.1):
            members.append((prefix + "\U0010ffff", 1, 0))
        return Scanned(prefix, tuple(members))

    # Turns, leases, incarnations

    def _turn(self) -> TakeTurn:
        keys = self._some((*QUEUED, QUEUE + QUEUED[0], QUEUE + QUEUED[1]), 1, 3)
        ttl = self._chance.choice((0.0, LONG, LONG, LONGER))
        ticket = self._ticket() if self._rare(0.4) else 0
        agent, firm = self._chance.choice(AGENTS), self._rare(0.3)
        holding = tuple(dict.fromkeys((self._name("lease"), self._name("turn"))))
        return TakeTurn(
            keys,
            name=self._name("turn"),
            agent=agent,
            ttl=ttl,
            ticket=ticket,
            firm=firm,
            holding=holding if self._rare(0.5) else (),
        )

    def _leave(self) -> LeaveTurn:
        return LeaveTurn(self._ticket() if self._rare(0.6) else 0, self._name("turn"))

    def _lease(self) -> TakeLease:
        keys, ttl = self._some(QUEUED, 1, 2), self._chance.choice((0.0, LONG))
        now = self._seen.records[keys[0]].epoch
        epoch = max(0, now - self._rare(0.2)) if self._rare(0.25) else 0
        ticket = self._ticket() if self._rare(0.4) else 0
        (agent, incarnation), reclaims = self._agent(), self._rare(0.2)
        if epoch or reclaims:
            keys = keys[:1]
        return TakeLease(
            keys,
            name=self._name("lease"),
            agent=agent,
            incarnation=incarnation,
            ttl=ttl,
            epoch=epoch,
            ticket=ticket,
            reclaim=reclaims,
        )

    def _drop(self) -> DropLease:
        key = self._chance.choice(QUEUED)
        now = self._seen.records[key].epoch
        epoch = max(0, now - self._rare(0.2)) if self._rare(0.6) else 0
        return DropLease(key, epoch, self._name("lease"))

    def _enter(self) -> Enter:
        return Enter(self._chance.choice(AGENTS), self._rare(0.8), self._name("entry"))

    # Reading

    def _load(self) -> Load:
        plans = self._seen.plans
        op_id = self._chance.choice(plans).op_id if plans and self._rare(0.3) else None
        keys = self._some((*KEYS, RULES_KEY, "never"), 0, 5)
        return Load(keys, self._some(PREFIXES, 0, 2), op_id)

    def _load_at(self) -> LoadAt | LoadAtTimeOf:
        end, chance = self._seen.position, self._chance
        keys, prefixes = self._some((*KEYS, RULES_KEY), 0, 5), self._some(PREFIXES, 0, 2)
        if end and self._rare(0.4):
            return LoadAtTimeOf(chance.randint(1, end), chance.choice((-1, 0)), keys, prefixes)
        return LoadAt(
            position=chance.choice((0, end, end + 1, 2**70, end // 2)),
            time_us=None,
            keys=keys,
            prefixes=prefixes,
        )

    def _read_log(self) -> ReadLog:
        chance = self._chance
        after = chance.choice((-1, 0, chance.randint(0, self._seen.position + 1), 2**70))
        key = chance.choice((*KEYS, "never")) if self._rare(0.5) else None
        return ReadLog(
            after=after,
            prefix=chance.choice(PREFIXES),
            key=key,
            limit=chance.choice((1, 2, 5, 1000)),
        )

    def _read_values(self) -> ReadValues:
        log = self._read_log()
        return ReadValues(after=log.after, limit=log.limit, key=log.key or "never")

    def _list_keys(self) -> ListKeys:
        chance = self._chance
        after = chance.choice(("", *KEYS, "never"))
        limit, deleted = chance.choice((1, 2, 1000)), self._expiry.random() < 0.3
        return ListKeys(chance.choice(PREFIXES), after, limit=limit, deleted=deleted)

    def _refusal(self) -> ReadRefusals | Noted:
        if self._rare(0.5):
            return ReadRefusals(self._chance.choice((1, 1000)))
        return Noted(Forbidden("no", self._chance.choice(KEYS), "*", "private"), "one")

    def _trim(self) -> Trim:
        """At the end of a commit, with the folds that a protocol would send."""
        entries = self._seen.entries
        ends = [one for one, two in pairwise(entries) if one.op_id != two.op_id] + entries[-1:]
        if not ends or self._rare(0.2):
            return Trim(0, ())
        upto = self._chance.choice(ends).position
        last = {entry.key: entry for entry in entries if entry.position <= upto}
        appended = [entry for entry in last.values() if entry.kind == APPEND]
        return Trim(upto, tuple((each.key, fold_at(each.position)) for each in appended))

    def _projection(self) -> SaveProjection | LoadProjection | DropProjection:
        name = PROJECTIONS + self._chance.choice(("ключ 'ü\"/1", "b/2"))
        if self._rare(0.4):
            return LoadProjection(name)
        if self._rare(0.4):  # for what is kept holds the log
            return DropProjection(name)
        place = self._chance.randint(0, self._seen.position + 1)
        return SaveProjection(name, place, f'"as of {place}"')

    def _fold(self) -> SaveFold | Load:
        seen = self._seen
        merged = [key for key, kind in seen.kinds.items() if kind == APPEND]
        if not merged:
            return self._load()
        key = self._chance.choice(merged)
        rules = seen.records[RULES_KEY].version + self._rare(0.1)
        places = [entry.position for entry in seen.entries if entry.key == key]
        if not places:  # what it is where the log was cut has been said there
            return self._load()
        place = self._chance.choice((places[-1], *places))
        return SaveFold(key, position=place, body=fold_at(place), rules=rules)


def fold_at(position: int) -> str:
    """A fold up to an entry, which is the same whoever makes it."""
    return f'"folded up to {position}"'
