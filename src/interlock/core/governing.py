"""The protocols of a space's own state: coming in, declaring its rules."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from interlock.core import decide, rules
from interlock.core.conflicts import ConflictReport
from interlock.core.decide import Writer
from interlock.core.machines import state_of
from interlock.core.outcome import Committed, Conflict, Fenced, Invalid, Outdated, Refusal
from interlock.core.patterns import fixed_prefix
from interlock.core.plan import PUT, Write
from interlock.core.records import Record, Tail
from interlock.core.requests import Commit, Enter, Load, ReadRefusals, Steps
from interlock.core.rules import MERGED, RULES_KEY, Rule, RuleSet

_SHOWN = 10  # values that break a rule, in one message


def enter(writer: Writer, exclusive: bool, name: str) -> Steps[None]:
    """Come into the space: learn its rules and the incarnation of one's name.  Returns None."""
    entered = yield from Enter(writer.agent, exclusive, name)
    writer.incarnation = entered.incarnation
    writer.book.load(entered.rules.version, entered.rules.value)


def declare(
    writer: Writer, declared: Mapping[str, Rule], op_id: str, whole: bool, dry_run: bool = False
) -> Steps[RuleSet | Refusal]:
    """Store rules: added to those that are stored, or in place of them (`whole`).  `dry_run` only
    looks whether they could be.

    Returns the RuleSet in force, or Invalid: malformed, ambiguous, contradicting what is stored,
    or broken by values that exist.
    """
    wrong = rules.check(declared, writer.book.reducers)
    if wrong is not None:
        return wrong
    book = writer.book.knowing(declared)  # its code counts once the rules do
    while True:
        snapshot = yield from Load((RULES_KEY,))
        record = snapshot.records[RULES_KEY]
        writer.book.load(record.version, record.value)
        stored = book.read(record.version, record.value)
        wanted = wanted_rules(stored, declared, whole)
        if isinstance(wanted, Invalid):
            return wanted
        new = RuleSet(0, wanted, dict(book.reducers))
        if new.to_json() == stored.to_json():
            if not dry_run:
                writer.book.learn(book)
                writer.book.load(record.version, record.value)
            return stored
        prefixes = _prefixes(stored, new)
        snapshot = yield from Load((), prefixes)
        broken = broken_by(stored, new, (r for found in snapshot.scans.values() for r in found))
        if broken:
            return _report(broken)
        if dry_run:
            return stored
        plan = writer.plan(
            op_id,
            expects=(decide.expect(record),),
            scans=(decide.scanned(prefix, snapshot.scans[prefix]) for prefix in prefixes),
            writes=(Write(PUT, RULES_KEY, json.dumps(new.to_json(), ensure_ascii=False)),),
        )
        outcome = yield from Commit(plan)
        if isinstance(outcome, Committed):
            writer.book.learn(book)
            writer.book.load(outcome.writes[0].version, new.to_json())
            return writer.book.rules
        if not isinstance(outcome, Conflict | Outdated | Fenced) or (
            isinstance(outcome, Fenced) and not outcome.key
        ):
            return outcome


def wanted_rules(
    stored: RuleSet, declared: Mapping[str, Rule], whole: bool
) -> dict[str, Rule] | Invalid:
    """Return the rules to store: the declared ones alone, or together with the stored ones."""
    if whole:
        return {pattern: rules.plain(rule) for pattern, rule in declared.items()}
    together = rules.union(stored, declared)
    if isinstance(together, Invalid):
        return together
    return rules.ambiguity(together) or together


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
    if contributions and after.kind != MERGED:
        return f"has contributions and would become {after.kind}"
    if not contributions and after.kind == MERGED:
        return "has a plain value and would become merged"
    if contributions and before.reducer != after.reducer:
        return f"has contributions for {before.reducer!r}, not for {after.reducer!r}"
    if after.machine is not None and before.machine != after.machine:
        state = state_of(after.machine, record.key, record.value)
        return state.message if isinstance(state, Invalid) else None
    return None


def _prefixes(stored: RuleSet, new: RuleSet) -> tuple[str, ...]:
    """Return what to scan: where a changed pattern may meet values that break it."""
    every = (*stored.rules.values(), *new.rules.values())
    if not any(rule.kind == MERGED or rule.machine is not None for rule in every):
        return ()  # values can break neither
    changed = [
        pattern
        for pattern in stored.rules.keys() | new.rules.keys()
        if stored.rules.get(pattern) != new.rules.get(pattern)
    ]
    prefixes = sorted({fixed_prefix(pattern) for pattern in changed})
    return tuple(
        prefix
        for prefix in prefixes
        if not any(prefix != other and prefix.startswith(other) for other in prefixes)
    )


def _report(broken: dict[str, str]) -> Invalid:
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


def conflicts(limit: int) -> Steps[ConflictReport | Invalid]:
    """Return the last refusals, counted, as a ConflictReport."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        return Invalid(f"limit={limit!r} must be a whole number from 1.")
    from interlock.core.conflicts import report  # only here: few who write ever ask

    return report((yield from ReadRefusals(limit)))
