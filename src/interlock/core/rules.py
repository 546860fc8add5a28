"""Rules: how the keys that match a pattern may be written.

A rule set is a value of the space like any other, under the key `$rules`; its version is named by
every commit that was decided under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from interlock.core import patterns
from interlock.core.machines import Guard, Machine
from interlock.core.merges import REDUCERS, Reducer
from interlock.core.outcome import Invalid
from interlock.core.struct import Json

RULES_KEY = "$rules"
GUARDED, MERGED, PRIVATE, LEASED = "guarded", "merged", "private", "leased"
ON_CONFLICT = ("raise", "retry", "rebase")


@dataclass(frozen=True)
class Rule:
    """One rule.  Made by `guarded`, `merged`, `private` and `leased`."""

    kind: str = GUARDED
    on_conflict: str = "retry"
    machine: Machine | None = None
    reducer: str | None = None
    keep: float | None = None

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
        return data


DEFAULT = Rule()


def guarded(
    *, machine: Machine | None = None, on_conflict: str = "retry", keep: float | None = None
) -> Rule:
    """A write must come from a record that was read.  The default.

    `on_conflict`: `retry` (`update` thinks again), `raise` (it does not), or `rebase` (three-way
    merge; think again only where the same field changed).  `machine` binds a field to a state
    machine.  `keep`: days that history is kept at least (None: forever).
    """
    return Rule(GUARDED, on_conflict, machine, None, keep)


def merged(reducer: str | Reducer, *, keep: float | None = None) -> Rule:
    """Anyone appends without reading and never conflicts; the value is the fold.

    `reducer`: `append`, `union`, `counter`, `maximum`, `minimum`, `last_writer`, `deep_merge`, or
    a Reducer of one's own.
    """
    if isinstance(reducer, Reducer):
        return _WithReducer(MERGED, reducer=reducer.name, keep=keep, code=reducer)
    return Rule(MERGED, reducer=reducer, keep=keep)


def private(*, keep: float | None = None) -> Rule:
    """Only the agent whose name stands at `{agent}` in the pattern writes; everyone may read."""
    return Rule(PRIVATE, keep=keep)


def leased(*, machine: Machine | None = None, keep: float | None = None) -> Rule:
    """A write needs the key's current lease."""
    return Rule(LEASED, machine=machine, keep=keep)


@dataclass(frozen=True)
class _WithReducer(Rule):
    code: Reducer | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RuleSet:
    """The rules of a space at one version of `$rules` (0: none were ever stored)."""

    version: int = 0
    rules: Mapping[str, Rule] = field(default_factory=dict)
    reducers: Mapping[str, Reducer] = field(default_factory=lambda: REDUCERS)

    def __hash__(self) -> int:
        return id(self)

    def match(self, key: str) -> tuple[str, Rule]:
        """Return the most specific pattern for `key` and its rule; ("", DEFAULT) where none is."""
        return _match(self, key) if self.rules else ("", DEFAULT)

    def reducer(self, key: str) -> Reducer | None:
        """Return the reducer of a merged key; None where this process does not have it."""
        name = self.match(key)[1].reducer
        return None if name is None else self.reducers.get(name)

    def to_json(self) -> dict[str, Json]:
        """Return the rules as the value of `$rules`."""
        return {pattern: rule.to_json() for pattern, rule in sorted(self.rules.items())}


@lru_cache(maxsize=4096)
def _match(rules: RuleSet, key: str) -> tuple[str, Rule]:
    best = ""
    for pattern in rules.rules:
        if patterns.matches(pattern, key) and (not best or patterns.narrower(pattern, best)):
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
            pattern: rule_from_json(data, self._guards_of(data))
            for pattern, data in (value or {}).items()
        }
        return RuleSet(version, rules, dict(self.reducers))

    def _guards_of(self, data: Mapping[str, Any]) -> Mapping[str, Guard]:
        return self.guards.get((data.get("machine") or {}).get("name", ""), {})


def rule_from_json(data: Mapping[str, Any], guards: Mapping[str, Guard]) -> Rule:
    """Return a rule that the store, or a file, holds."""
    machine = data.get("machine")
    return Rule(
        data["rule"],
        data.get("on_conflict", "retry"),
        None if machine is None else Machine.from_json(machine, guards),
        data.get("reducer"),
        data.get("keep"),
    )


def check(declared: object, known: Mapping[str, Reducer] = REDUCERS) -> Invalid | None:
    """Return what is wrong with a set of rules: malformed, or ambiguous for some key.

    `known` are the reducers that need not be declared again.
    """
    if not isinstance(declared, Mapping):
        return Invalid(
            "rules= is a mapping from patterns to rules, like {'plan/*': interlock.guarded()}."
        )
    for pattern, rule in declared.items():
        wrong = patterns.check_pattern(pattern) or _check_rule(pattern, rule, known)
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


def union(stored: RuleSet, declared: Mapping[str, Rule]) -> dict[str, Rule] | Invalid:
    """Return stored and declared rules together; Invalid where they contradict each other."""
    for pattern, rule in declared.items():
        known = stored.rules.get(pattern)
        if known is not None and known.to_json() != rule.to_json():
            return Invalid(
                f"The space has {describe_rule(known)} for {pattern!r}, not "
                f"{describe_rule(rule)}. Change it with space.apply_rules()."
            )
    return {**stored.rules, **{pattern: plain(rule) for pattern, rule in declared.items()}}


def plain(rule: Rule) -> Rule:
    """Return a rule without the code that it was declared with."""
    return Rule(rule.kind, rule.on_conflict, rule.machine, rule.reducer, rule.keep)


def describe_rule(rule: Rule) -> str:
    """Return a rule as one would write it."""
    parts = []
    if rule.reducer is not None:
        parts.append(repr(rule.reducer))
    if rule.machine is not None:
        parts.append(f"machine={rule.machine.name!r}")
    if rule.on_conflict != "retry":
        parts.append(f"on_conflict={rule.on_conflict!r}")
    if rule.keep is not None:
        parts.append(f"keep={rule.keep}")
    return f"{rule.kind}({', '.join(parts)})"


def _check_rule(pattern: str, rule: object, known: Mapping[str, Reducer]) -> Invalid | None:
    if not isinstance(rule, Rule) or rule.kind not in (GUARDED, MERGED, PRIVATE, LEASED):
        return Invalid(
            f"The rule for {pattern!r} is {rule!r:.60}. "
            "Use guarded(), merged(), private() or leased()."
        )
    if rule.on_conflict not in ON_CONFLICT:
        return Invalid(
            f"{pattern!r}: on_conflict={rule.on_conflict!r} is not one of {', '.join(ON_CONFLICT)}"
        )
    keep = rule.keep
    if keep is not None and (
        isinstance(keep, bool) or not isinstance(keep, int | float) or keep <= 0
    ):
        return Invalid(f"{pattern!r}: keep={keep!r} must be a number of days above 0.")
    if rule.kind == PRIVATE and patterns.OWNER not in pattern.split("/"):
        return Invalid(
            f"{pattern!r} is private() but names no owner. Example: 'agent/{{agent}}/**'."
        )
    if rule.kind == MERGED:
        return _check_reducer(pattern, rule, known)
    return None


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
    example = patterns.shared_key(one, other)
    if example is None:
        return None
    inside, outside = patterns.narrower(one, other), patterns.narrower(other, one)
    if inside == outside:  # neither is the narrower one, or both are the same
        return Invalid(f"{one!r} and {other!r} both match {example!r}. Make one more specific.")
    return None
