"""A change of rules: one commit, refused while stored values break the new rules.

It expects the rules that it replaces, and every value that it looked at, not to have moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from interlock.core.keys import fixed_prefix, narrower
from interlock.core.machine import state_of
from interlock.core.plan import PUT, Plan, Write, expect, scanned
from interlock.core.records import Committed, Record, Tail
from interlock.core.refusals import Conflict, Fenced, Forbidden, Invalid, Outdated, Refusal
from interlock.core.requests import Commit, Load, Steps
from interlock.core.rules import (
    DEFAULT,
    MERGED,
    RULES_KEY,
    Rule,
    RuleBook,
    RuleSet,
    UnknownRule,
    ambiguity,
    check,
    describe_rule,
    plain,
    unknown_rule,
)
from interlock.core.schema import MISSING, Schema

_SHOWN = 10  # values that break a rule, in one message


def declare(
    book: RuleBook,
    plan: Callable[..., Plan],
    declared: Mapping[str, Rule],
    op_id: str,
    whole: bool,
    dry_run: bool = False,
) -> Steps[RuleSet | Refusal]:
    """Store rules: added to those that are stored, or in place of them (`whole`).  `dry_run` only
    looks whether they could be.  `book` and `plan` are those of the writer.

    Returns the RuleSet in force, or Invalid: malformed, ambiguous, contradicting what is stored,
    or broken by values that exist.
    """
    wrong = check(declared, book.reducers)
    if wrong is not None:
        return wrong
    new_book = book.knowing(declared)  # its code counts once the rules do
    while True:
        snapshot = yield from Load((RULES_KEY,))
        record = snapshot.records[RULES_KEY]
        book.load(record.version, record.value)
        stored = new_book.read(record.version, record.value)
        wanted = wanted_rules(stored, declared, whole)
        if isinstance(wanted, Refusal):
            return wanted
        new = RuleSet(0, wanted, dict(new_book.reducers))
        if new.to_json() == stored.to_json():
            if not dry_run:
                book.learn(new_book)
                book.load(record.version, record.value)
            return stored
        unchecked = _without_validator(stored, new)
        if unchecked is not None:
            return unchecked
        prefixes = _scanned_for(stored, new)
        snapshot = yield from Load((), prefixes)
        broken = broken_by(stored, new, (r for found in snapshot.scans.values() for r in found))
        if broken:
            return _not_changed(broken)
        if dry_run:
            return stored
        wish = plan(
            op_id,
            expects=(expect(record),),
            scans=(scanned(prefix, snapshot.scans[prefix]) for prefix in prefixes),
            writes=(Write(PUT, RULES_KEY, json.dumps(new.to_json(), ensure_ascii=False)),),
        )
        outcome = yield from Commit(wish)
        if isinstance(outcome, Committed):
            book.learn(new_book)
            book.load(outcome.writes[0].version, new.to_json())
            return book.rules
        if not isinstance(outcome, Conflict | Outdated | Fenced) or (
            isinstance(outcome, Fenced) and not outcome.key
        ):
            return outcome


def wanted_rules(
    stored: RuleSet, declared: Mapping[str, Rule], whole: bool
) -> dict[str, Rule] | Refusal:
    """Return the rules to store: the declared ones alone, or together with the stored ones."""
    named = {pattern: plain(rule) for pattern, rule in declared.items()}
    wanted = named if whole else {**stored.rules, **named}
    wrong = _unknown_changed(stored, wanted)
    if wrong is None and not whole:
        wrong = _contradiction(stored, declared) or ambiguity(wanted)
    return wrong or wanted


def _contradiction(stored: RuleSet, declared: Mapping[str, Rule]) -> Invalid | None:
    """Return which declared rule is stored as another one."""
    for pattern, rule in declared.items():
        known = stored.rules.get(pattern)
        if known is not None and known.to_json() != rule.to_json():
            return Invalid(
                f"The space has {describe_rule(known)} for {pattern!r}, not "
                f"{describe_rule(rule)}. Change it with space.apply_rules()."
            )
    return None


def _without_validator(stored: RuleSet, new: RuleSet) -> Invalid | None:
    """Return why this process cannot change schemas: it could not check any."""
    for pattern in _changed(stored.rules, new.rules):
        schema = new.rules.get(pattern, DEFAULT).schema
        if isinstance(schema, Schema) and schema.malformed() is not None:
            return Invalid(f"Rules not changed: {pattern!r} has a schema, and {MISSING}.")
    return None


def _unknown_changed(stored: RuleSet, wanted: Mapping[str, Rule]) -> Refusal | None:
    """Return why this version of Interlock cannot store `wanted`: that would change a rule that it
    does not know, or which keys the rule is for, or it would declare one."""
    changed = _changed(stored.rules, wanted)
    for pattern, rule in stored.rules.items():
        if isinstance(rule, UnknownRule):
            for other in changed:
                if narrower(other, pattern):
                    why = f"Rules not changed: {unknown_rule(pattern, rule)}"
                    return Forbidden(why, RULES_KEY, pattern, rule.kind)
    for pattern in changed:
        rule = wanted.get(pattern, DEFAULT)
        if isinstance(rule, UnknownRule):
            return Invalid(
                f"Rules not changed: this version of Interlock does not know {rule.unknown} "
                f"(pattern {pattern!r}). Correct it, or upgrade Interlock."
            )
    return None


def broken_by(stored: RuleSet, new: RuleSet, records: Iterable[Record]) -> dict[str, str]:
    """Return, by key, why existing values break the rules that would hold for them from now on."""
    broken = {}
    for record in records:
        before, after = stored.match(record.key)[1], new.match(record.key)[1]
        why = _breaks(before, after, record)
        if why is not None:
            broken[record.key] = why
    return broken


def _breaks(before: Rule, after: Rule, record: Record) -> str | None:
    contributions = isinstance(record.value, Tail)
    if before == after:
        return None
    if contributions and after.kind != MERGED:
        return f"has contributions and would become {after.kind}"
    if not contributions and after.kind == MERGED:
        return "has a plain value and would become merged"
    if contributions and before.reducer != after.reducer:
        return f"has contributions for {before.reducer!r}, not for {after.reducer!r}"
    if after.machine is not None and before.machine != after.machine:
        state = state_of(after.machine, record.key, record.value)
        if isinstance(state, Invalid):
            return state.message
    if isinstance(after.schema, Schema) and before.schema != after.schema:
        if contributions:
            return f"has contributions, which were not checked by {after.schema.title}"
        misfit = after.schema.misfit(record.value)
        return None if misfit is None else f"does not fit {after.schema.title}: {misfit}"
    return None


def _scanned_for(stored: RuleSet, new: RuleSet) -> tuple[str, ...]:
    """Return what to scan: where a changed pattern may meet values that break it."""
    every = (*stored.rules.values(), *new.rules.values())
    if not any(rule.kind == MERGED or rule.machine or rule.schema for rule in every):
        return ()  # values can break none of them
    changed = _changed(stored.rules, new.rules)
    prefixes = sorted({fixed_prefix(pattern) for pattern in changed})
    return tuple(
        prefix
        for prefix in prefixes
        if not any(prefix != other and prefix.startswith(other) for other in prefixes)
    )


def _changed(stored: Mapping[str, Rule], new: Mapping[str, Rule]) -> list[str]:
    """Return the patterns whose rules are not the same in both."""
    every = sorted(stored.keys() | new.keys())
    return [pattern for pattern in every if stored.get(pattern) != new.get(pattern)]


def _not_changed(broken: dict[str, str]) -> Invalid:
    shown = [
        why if why.startswith(repr(key)) else f"{key!r} {why}"
        for key, why in sorted(broken.items())[:_SHOWN]
    ]
    if len(broken) > _SHOWN:
        shown.append(f"and {len(broken) - _SHOWN} more")
    values = "value breaks" if len(broken) == 1 else "values break"
    return Invalid(
        f"Rules not changed: {len(broken)} {values} them. "
        + "; ".join(each.rstrip(".") for each in shown)
    )
