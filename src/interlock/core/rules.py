"""Rules: how the keys that match a pattern may be written.

**A rule narrows who may write, and how.**  `guarded` (the default): a write names the record that
it was computed from.  `merged`: anyone appends, nobody conflicts, the value is a fold.  `private`:
the agent named in the key writes.  `owned`: the agent named in the rule writes.  `leased`: whoever
has the lease writes.  A machine adds which state may follow.

**One rule decides.**  Of the patterns that match a key the most specific one counts; two of which
neither is the more specific are refused when they are declared.

**Rules are data.**  A rule set is a value of the space like any other, under the key `$rules`.
Every plan names the version that it was decided under, and a backend refuses it (`Outdated`) if
another one is in force: the writer learns that and decides again.  So all agents go by the same
rules, whatever they were opened with.  A change of rules is refused while stored values break it,
and it is a commit, which expects that what it looked at has not moved (`core/rule_change.py`).

**What is not understood is left alone.**  Of a kind, or with a field, that only a newer Interlock
knows, a rule becomes an `UnknownRule`: its keys can be read, and nothing of this version writes
them, changes which keys they are, or trims their history.

**A schema is stored with its rule**, so that values fit it whoever writes: see `schema`.

**Code stays in the process.**  Guards of machines and reducers are functions, which a store cannot
keep; it keeps their names, and the rule book of each writer the functions.

To add a kind of rule: give it a maker, its words in `KINDS` and its checks here (`_wrong_field`,
`_check_rule`) and in `rule_change._breaks`; decide it in `write.forbidden_by_rule` and, if keys of
it take contributions, in `not_appendable`; publish the maker in `interlock/__init__.py`.
The command line and the MCP server take their words from `Rule.about`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple

from interlock.core.keys import (
    OWNER,
    check_name,
    check_pattern,
    decode,
    matches,
    narrower,
    shared_key,
)
from interlock.core.keys import owner as owner_of
from interlock.core.machine import Guard, Machine
from interlock.core.merge import REDUCERS, Reducer
from interlock.core.refusals import Forbidden, Invalid, described
from interlock.core.schema import MISSING, Schema, schema_from_json, schema_of
from interlock.core.struct import Json

RULES_KEY = "$rules"
GUARDED, MERGED, LEASED = "guarded", "merged", "leased"
PRIVATE, OWNED = "private", "owned"  # one agent writes
ON_CONFLICT = ("raise", "retry", "rebase")
LEAST_EXPIRES, MOST_EXPIRES = 0.001, 100 * 365 * 86400  # seconds
EXPIRES_WITHIN = "from 0.001 to 100 years"


class About(NamedTuple):
    """What a kind of rule means, in words: for a table of rules, and for agents that call tools."""

    kind: str
    who: str
    how: str
    tools: str


KINDS: Mapping[str, About] = {
    GUARDED: About(
        "shared",
        "everybody",
        "from a record they read",
        "write or update_fields, with the version and epoch that you read",
    ),
    MERGED: About("merged", "everybody", "space.append(); the value is their {reducer}", "append"),
    PRIVATE: About(
        "private",
        "the agent named at {agent}",
        "from a record they read",
        "as guarded, and only by the agent whose name stands at {agent}",
    ),
    OWNED: About(
        "owned",
        "{by}",
        "from a record they read",
        "as guarded, and only by agent {by}",
    ),
    LEASED: About(
        "leased",
        "who holds the lease",
        "from a record they read",
        "take_lease first, then write with its lease_id",
    ),
}


@dataclass(frozen=True)
class Rule:
    """One rule.  Made by `guarded`, `merged`, `private`, `owned` and `leased`."""

    kind: str = GUARDED
    on_conflict: str = "retry"
    machine: Machine | None = None
    reducer: str | None = None
    keep: float | None = None
    by: str | None = None
    expires: float | None = None
    schema: Schema | Invalid | None = None  # Invalid: what it was declared with has none

    @property
    def about(self) -> About:
        """Who may write keys of this rule, and how, in words."""
        kind, who, how, tools = KINDS[self.kind]
        by = str(self.by)
        fits = f"; values fit {self.schema.title}" if isinstance(self.schema, Schema) else ""
        how = how.format(reducer=self.reducer) + fits
        return About(kind, who.replace("{by}", by), how, tools.replace("{by}", by) + fits)

    def owner(self, pattern: str, key: str) -> str | None:
        """Return the only agent that may write `key` ("": nobody may), None if others may, too."""
        return owner_of(pattern, key) or "" if self.kind == PRIVATE else self.by

    def to_json(self) -> dict[str, Json]:
        """Return the rule as the store keeps it."""
        data: dict[str, Json] = {"rule": self.kind}
        if self.on_conflict != "retry":
            data["on_conflict"] = self.on_conflict
        if self.machine is not None:
            data["machine"] = self.machine.to_json()
        if self.reducer is not None:
            data["reducer"] = self.reducer
        if self.keep is not None:
            data["keep"] = self.keep
        if self.by is not None:
            data["by"] = self.by
        if self.expires is not None:
            data["expires"] = self.expires
        if isinstance(self.schema, Schema):
            data["schema"] = self.schema.data
        return data


DEFAULT = Rule()
_FIELDS = Rule.__dataclass_fields__.keys() - {"kind"}


@dataclass(frozen=True)
class UnknownRule(Rule):
    """A stored rule that this version of Interlock does not know; `unknown` names what of it.

    `stored` is the rule as the store keeps it.
    """

    stored: Json = None
    unknown: str = field(default="", compare=False)

    @property
    def about(self) -> About:
        """Nobody may write keys of this rule with this version of Interlock."""
        advice = "upgrade Interlock"
        return About("unknown", "newer versions of Interlock", advice, f"read only: {advice}")

    def to_json(self) -> dict[str, Json]:
        """Return the rule as the store keeps it."""
        stored: dict[str, Json] = self.stored
        return stored


def guarded(
    *,
    machine: Machine | None = None,
    schema: object = None,
    on_conflict: str = "retry",
    keep: float | None = None,
    expires: float | None = None,
) -> Rule:
    """A write must come from a record that was read.  The default.

    `on_conflict`: `retry` (`update` thinks again), `raise` (it does not), or `rebase` (three-way
    merge; think again only if the same field changed).  `machine` binds a field to a state
    machine.  `schema`: a type that every value must fit, such as a dataclass, or a JSON Schema as a
    dict; whoever writes needs the extra `schema`.  `keep`: days that history is kept at least
    (None: forever).  `expires`: seconds after each write at which the key does not exist any more,
    unless the write says (None: it stays).
    """
    found = schema_of(schema)
    return Rule(GUARDED, on_conflict, machine, keep=keep, expires=expires, schema=found)


def merged(reducer: str | Reducer, *, schema: object = None, keep: float | None = None) -> Rule:
    """Anyone appends without reading and never conflicts; the value is the fold.

    `reducer`: `append`, `union`, `counter`, `maximum`, `minimum`, `last_writer`, `deep_merge`, or
    a Reducer of one's own.  `schema` is that of `guarded`: each contribution must fit it.
    """
    found = schema_of(schema)
    if isinstance(reducer, Reducer):
        return _WithReducer(MERGED, reducer=reducer.name, keep=keep, schema=found, code=reducer)
    return Rule(MERGED, reducer=reducer, keep=keep, schema=found)


def private(
    *, schema: object = None, keep: float | None = None, expires: float | None = None
) -> Rule:
    """Only the agent whose name stands at `{agent}` in the pattern writes; everyone may read.

    `schema`, `keep` and `expires` are those of `guarded`.
    """
    return Rule(PRIVATE, keep=keep, expires=expires, schema=schema_of(schema))


def owned(
    *, by: str, schema: object = None, keep: float | None = None, expires: float | None = None
) -> Rule:
    """Only the agent named `by` writes; everyone may read.

    `schema`, `keep` and `expires` are those of `guarded`.
    """
    return Rule(OWNED, keep=keep, by=by, expires=expires, schema=schema_of(schema))


def leased(
    *,
    machine: Machine | None = None,
    schema: object = None,
    keep: float | None = None,
    expires: float | None = None,
) -> Rule:
    """A write needs the key's current lease.

    `machine`, `schema`, `keep` and `expires` are those of `guarded`.
    """
    found = schema_of(schema)
    return Rule(LEASED, machine=machine, keep=keep, expires=expires, schema=found)


@dataclass(frozen=True)
class _WithReducer(Rule):
    code: Reducer | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RuleSet:
    """The rules of a space at one version of `$rules` (0: none were ever stored)."""

    version: int = 0
    rules: Mapping[str, Rule] = field(default_factory=dict)
    reducers: Mapping[str, Reducer] = field(default_factory=lambda: REDUCERS)

    @cached_property
    def expiring(self) -> bool:
        """Whether any rule says when values expire."""
        return any(rule.expires is not None for rule in self.rules.values())

    def __hash__(self) -> int:
        return id(self)

    def match(self, key: str) -> tuple[str, Rule]:
        """Return the most specific pattern for `key` and its rule; ("", DEFAULT) if none is."""
        return _match(self, key) if self.rules else ("", DEFAULT)

    def ttl_us(self, key: str) -> int:
        """Return after how many microseconds a value of `key` expires, 0 where it does not."""
        expires = None if key.startswith("$") else self.match(key)[1].expires
        return 0 if expires is None else round(expires * 1e6)

    def reducer(self, key: str) -> Reducer | None:
        """Return the reducer of a merged key; None if this process does not have it."""
        name = self.match(key)[1].reducer
        return None if name is None else self.reducers.get(name)

    def to_json(self) -> dict[str, Json]:
        """Return the rules as the value of `$rules`."""
        return {pattern: rule.to_json() for pattern, rule in sorted(self.rules.items())}


@lru_cache(maxsize=4096)
def _match(rules: RuleSet, key: str) -> tuple[str, Rule]:
    best = ""
    for pattern in rules.rules:
        if matches(pattern, key) and (not best or narrower(pattern, best)):
            best = pattern
    return (best, rules.rules[best]) if best else ("", DEFAULT)


class RuleBook:
    """What one space object knows of its space's rules, and the code that only this process has."""

    def __init__(self) -> None:
        self.rules = RuleSet()
        self.guards: dict[str, dict[str, Guard]] = {}  # by the machine's name
        self.reducers: dict[str, Reducer] = dict(REDUCERS)

    def knowing(self, declared: Mapping[str, Rule]) -> RuleBook:
        """Return a book that also has the functions that declared rules bring along."""
        book = RuleBook()
        book.rules = self.rules
        book.guards = {machine: dict(guards) for machine, guards in self.guards.items()}
        book.reducers = dict(self.reducers)
        for rule in declared.values():
            if rule.machine is not None:
                book.guards.setdefault(rule.machine.name, {}).update(rule.machine.functions)
            if isinstance(rule, _WithReducer) and rule.code is not None:
                book.reducers[rule.code.name] = rule.code
        return book

    def learn(self, other: RuleBook) -> None:
        """Take over the functions of another book."""
        self.guards, self.reducers = other.guards, other.reducers

    def load(self, version: int, value: Json) -> None:
        """Go by the rules that the store holds."""
        self.rules = self.read(version, value)

    def read(self, version: int, value: Json) -> RuleSet:
        """Return rules that the store holds, or held."""
        rules = {
            pattern: rule_from_json(data, self.guards) for pattern, data in (value or {}).items()
        }
        return RuleSet(version, rules, dict(self.reducers))


def rule_from_json(data: Json, guards: Mapping[str, Mapping[str, Guard]]) -> Rule:
    """Return a rule that the store, or a file, holds; `guards` are those of each machine.

    It is an UnknownRule if this version of Interlock does not know its kind, or a part of it.
    """
    fields = dict(data) if isinstance(data, dict) else {}
    kind, reducer = str(fields.pop("rule", None)), fields.get("reducer")
    others = sorted(fields.keys() - _FIELDS)
    if kind not in KINDS:
        unknown = f"rule {kind!r:.60}"
    elif others:
        unknown = f"field {others[0]!r:.60} of rule {kind!r}"
    else:
        try:
            if (machine := fields.get("machine")) is not None:
                fields["machine"] = Machine.from_json(machine, guards.get(machine["name"], {}))
            if "schema" in fields:
                fields["schema"] = schema_from_json(fields["schema"])
            rule = Rule(kind, **fields)
            wrong = _wrong_field(rule)
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            unknown = f"the machine of rule {kind!r} ({described(problem)})"
        else:
            if wrong is None:
                return rule
            unknown = f"{wrong[0]}={fields.get(wrong[0])!r:.60} of rule {kind!r}"
    fold = reducer if isinstance(reducer, str) else None  # its keys can still be read
    return UnknownRule(kind, reducer=fold, stored=data, unknown=unknown)


def check(declared: object, known: Mapping[str, Reducer] = REDUCERS) -> Invalid | None:
    """Return what is wrong with a set of rules: malformed, or ambiguous for some key.

    `known` are the reducers that need not be declared again.
    """
    if not isinstance(declared, Mapping):
        return Invalid(
            "rules= is a mapping from patterns to rules, like {'plan/*': interlock.guarded()}."
        )
    for pattern, rule in declared.items():
        wrong = check_pattern(pattern) or _check_rule(pattern, rule, known)
        if wrong is not None:
            return wrong
    return _two_of_one_name(declared) or ambiguity(declared)


def _two_of_one_name(declared: Mapping[str, Rule]) -> Invalid | None:
    """Return which machine is declared twice with different tables or guards."""
    machines: dict[str, Machine] = {}
    for rule in declared.values():
        if rule.machine is None:
            continue
        first = machines.setdefault(rule.machine.name, rule.machine)
        if first != rule.machine or dict(first.functions) != dict(rule.machine.functions):
            return Invalid(f"Two different machines are named {first.name!r}. Rename one.")
    return None


def ambiguity(declared: Mapping[str, Rule]) -> Invalid | None:
    """Return which patterns both match some key with neither more specific than the other."""
    names = sorted(declared)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            wrong = _check_pair(one, other)
            if wrong is not None:
                return wrong
    return None


def plain(rule: Rule) -> Rule:
    """Return a rule without the code that it was declared with."""
    if isinstance(rule, _WithReducer):
        return Rule(**{name: getattr(rule, name) for name in Rule.__dataclass_fields__})
    return rule


def describe_rule(rule: Rule) -> str:
    """Return a rule as one would write it; an unknown one as the store keeps it."""
    if isinstance(rule, UnknownRule):
        return f"unknown, upgrade Interlock: {json.dumps(rule.stored, ensure_ascii=False)}"
    parts = []
    if rule.reducer is not None:
        parts.append(repr(rule.reducer))
    if rule.machine is not None:
        parts.append(f"machine={rule.machine.name!r}")
    if rule.on_conflict != "retry":
        parts.append(f"on_conflict={rule.on_conflict!r}")
    if rule.keep is not None:
        parts.append(f"keep={rule.keep}")
    if rule.by is not None:
        parts.append(f"by={rule.by!r}")
    if rule.expires is not None:
        parts.append(f"expires={rule.expires}")
    if isinstance(rule.schema, Schema):
        parts.append(f"schema={rule.schema.title}")
    return f"{rule.kind}({', '.join(parts)})"


def _check_rule(pattern: str, rule: object, known: Mapping[str, Reducer]) -> Invalid | None:
    if isinstance(rule, UnknownRule):
        return None  # it is declared only to a space that has it: see `rule_change`
    if not isinstance(rule, Rule) or rule.kind not in KINDS:
        return Invalid(
            f"The rule for {pattern!r} is {rule!r:.60}. "
            "Use guarded(), merged(), private(), owned() or leased()."
        )
    if isinstance(rule.schema, Invalid):
        return Invalid(f"{pattern!r}: schema=: {rule.schema.message}")
    wrong = _wrong_field(rule)
    if wrong is not None:
        name, limit = wrong
        return Invalid(f"{pattern!r}: {name}={getattr(rule, name)!r} {limit}.")
    malformed = None if rule.schema is None else rule.schema.malformed()
    if malformed not in (None, MISSING):  # without the library, what is stored can be declared
        return Invalid(f"{pattern!r}: schema=: {malformed}.")
    if rule.kind == PRIVATE and OWNER not in pattern.split("/"):
        return Invalid(f"{pattern!r} is private(): name its owner, as in 'agent/{{agent}}/**'.")
    if rule.kind == MERGED:
        return _check_reducer(pattern, rule, known)
    return None


def _wrong_field(rule: Rule) -> tuple[str, str] | None:
    """Return which field of a rule has a value that it cannot have, and what it must be."""
    if rule.on_conflict not in ON_CONFLICT:
        return "on_conflict", f"is not one of {', '.join(ON_CONFLICT)}"
    keep = rule.keep
    if keep is not None and (
        isinstance(keep, bool) or not isinstance(keep, int | float) or keep <= 0
    ):
        return "keep", "must be a number of days above 0"
    if rule.kind == MERGED and not isinstance(rule.reducer, str):
        return "reducer", f"is not one of {', '.join(REDUCERS)}. For your own, pass a Reducer"
    if rule.kind == OWNED and check_name("agent", rule.by) is not None:
        return "by", "must be the name of an agent"
    if rule.by == OWNER:
        return "by", "names no agent. Use private() for keys that have their owner's name in them"
    if rule.kind != OWNED and rule.by is not None:
        return "by", "is only for owned()"
    if rule.expires is not None:
        if rule.kind == MERGED:
            return "expires", "is not for merged(): nobody would know which contributions are gone"
        if wrong_expiry(rule.expires):
            return "expires", f"must be a number of seconds {EXPIRES_WITHIN}"
    if rule.schema is not None and not isinstance(rule.schema, Schema):
        return "schema", "must be a type, or a JSON Schema as a dict"
    return None


def wrong_expiry(expires: object) -> bool:
    """Whether `expires` is not a number of seconds that a value can last."""
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        return True
    return not LEAST_EXPIRES <= expires <= MOST_EXPIRES


def _check_reducer(pattern: str, rule: Rule, known: Mapping[str, Reducer]) -> Invalid | None:
    code = rule.code if isinstance(rule, _WithReducer) else None
    if code is None:
        if rule.reducer in known:
            return None
        return Invalid(
            f"{pattern!r}: reducer {rule.reducer!r} is not one of {', '.join(REDUCERS)}. "
            "For your own, pass a Reducer."
        )
    if code.name in REDUCERS and code is not REDUCERS[code.name]:
        return Invalid(f"{pattern!r}: Interlock has its own reducer {code.name!r}. Rename yours.")
    if code.claims and code.checked != code.digest():
        return Invalid(
            f"{pattern!r}: reducer {code.name!r} claims to be {', '.join(code.claims)}, unchecked. "
            "Run interlock.verify.laws(reducer, strategy) and pass the checked= that it returns."
        )
    return None


def _check_pair(one: str, other: str) -> Invalid | None:
    example = shared_key(one, other)
    if example is None:
        return None
    inside, outside = narrower(one, other), narrower(other, one)
    if inside == outside:  # neither is the narrower one, or both are the same
        return Invalid(f"{one!r} and {other!r} both match {example!r}. Make one more specific.")
    return None


def unknown_reducer(key: str, pattern: str, rule: Rule) -> Invalid:
    """The refusal of a process that does not have the code of a key's reducer."""
    if isinstance(rule, UnknownRule):
        why = f"{key!r} can't be read: {unknown_rule(pattern, rule)}"
    else:
        why = (
            f"{key!r} is merged with {rule.reducer!r}, which this process does not know. "
            "Open the space with its rules=."
        )
    return Invalid(why, key, by_rules=True)


def not_understood(key: str, pattern: str, rule: UnknownRule) -> Forbidden:
    """The refusal of writing under a rule that only a newer version of Interlock knows."""
    why = f"{key!r} can only be read: {unknown_rule(pattern, rule)}"
    return Forbidden(why, key, pattern, rule.kind)


def not_its_writer(agent: str, key: str, pattern: str, rule: Rule) -> Forbidden | None:
    """Return why an agent may not write a key at all, and so not take its lease either."""
    owner = rule.owner(pattern, key)
    if owner is None or owner == agent:
        return None
    why = f"Only {owner!r} may write {key!r} ({rule.kind}); this is {agent!r}."
    return Forbidden(why, key, pattern, rule.kind)


def not_appendable(
    rules: RuleSet, key: str, pattern: str, rule: Rule, body: str | None
) -> Invalid | Forbidden | None:
    """Return why nothing, or not this contribution, can be added to a key."""
    if rule.kind != MERGED:
        why = f"{key!r} is not a merged key. To append, declare it with interlock.merged(...)."
        return Forbidden(why, key, pattern, rule.kind)
    reducer = rules.reducer(key)
    if reducer is None:
        return unknown_reducer(key, pattern, rule)
    if reducer.accepts is None and rule.schema is None:
        return None
    item = decode(body)
    wrong = reducer.accepts(item) if reducer.accepts is not None else None
    if wrong is not None:
        return Invalid(f"{key!r} is merged with {reducer.name!r}: {wrong}", key, by_rules=True)
    return misfit(key, pattern, rule, item)


def misfit(key: str, pattern: str, rule: Rule, value: Json) -> Invalid | Forbidden | None:
    """Return why a value, or a contribution, breaks the schema of its rule."""
    if not isinstance(rule.schema, Schema):
        return None
    why = rule.schema.misfit(value)
    if why is None:
        return None
    if why == MISSING:
        why = f"{key!r} can only be read: its rule {pattern!r} has a schema, and {why}."
        return Forbidden(why, key, pattern, rule.kind)
    why = f"The value for {key!r} does not fit {rule.schema.title} (rule {pattern!r}): {why}."
    return Invalid(why, key, by_rules=True)


def unknown_rule(pattern: str, rule: UnknownRule) -> str:
    """Say what of a rule this version of Interlock does not know, and what to do."""
    return (
        f"this version of Interlock does not know {rule.unknown} (pattern {pattern!r}). "
        "Upgrade Interlock."
    )
