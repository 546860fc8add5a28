"""What can go wrong with a graph's state when nodes run in parallel."""

from __future__ import annotations

import copy
import dataclasses
import enum
import random
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interlock.adapters.langgraph.reducers import OURS
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langgraph.channels import AnyValue, BinaryOperatorAggregate, LastValue
    from langgraph.graph import StateGraph, add_messages

_TRIPLES = 60
_ON_PURPOSE = "last_writer"
# What to use for a key that has no reducer, by its type.
_ADVICE: dict[object, str] = {
    list: "append",
    tuple: "append",
    set: "union",
    frozenset: "union",
    dict: "deep_merge",
    int: "counter",
    float: "counter",
}

Reducing = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Problem:
    """Something about one key: what is wrong, an example that shows it, and how to mend it."""

    key: str
    what: str
    fix: str
    example: str = ""

    def __str__(self) -> str:
        example = f"\n    example: {self.example}" if self.example else ""
        return f"{self.key}: {self.what}{example}\n    fix: {self.fix}"


@dataclass(frozen=True)
class StateReport:
    """What `check_state` found.

    `problems` lose updates or fail; `notes` are what one should know of reducers that are in
    order: that the order of nodes shows, that an update which is delivered twice counts twice.
    """

    schema: str
    keys: tuple[str, ...]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"{self.schema}: {len(self.keys)} keys, {count} problem{'' if count == 1 else 's'}"
        lines = [head, *(f"- {each}" for each in self.problems)]
        lines += ["notes:"] * bool(self.notes)
        return "\n".join([*lines, *(f"- {each.key}: {each.what}" for each in self.notes)])


def check_state(
    state: Any,
    *,
    one_writer: Collection[str] = (),
    samples: Mapping[str, Sequence[object]] | None = None,
    seed: int = 0,
) -> StateReport:
    """Report what parallel nodes could do to the state of a graph.

    `state` is a state's class (TypedDict, dataclass or pydantic model), a StateGraph or a compiled
    graph.  `one_writer` names the keys that never two nodes write in one step.  Reducers are tried
    with values made by the annotated types, the same for the same `seed`; `samples` gives values
    for keys whose types are not known here.
    """
    builder = getattr(state, "builder", state)
    if not isinstance(builder, StateGraph):
        try:
            builder = StateGraph(builder)
        except ValueError as problem:
            broken = Problem("", f"LangGraph refuses it: {problem}", "mend the annotation")
            return StateReport(_name(state), (), (broken,), ())
    schema = builder.state_schema
    hints = typing.get_type_hints(schema)
    problems: list[Problem] = []
    notes: list[Problem] = []
    for key, channel in builder.channels.items():
        if key.startswith("__") or key not in hints:
            continue
        if isinstance(channel, BinaryOperatorAggregate):
            given = (samples or {}).get(key)
            for serious, found in _tried(key, hints[key], channel.operator, given, seed):
                (problems if serious else notes).append(found)
        elif isinstance(channel, LastValue | AnyValue) and key not in one_writer:
            problems.append(_unreduced(key, hints[key], silently=isinstance(channel, AnyValue)))
    return StateReport(_name(schema), tuple(hints), tuple(problems), tuple(notes))


def _name(state: object) -> str:
    return str(getattr(state, "__name__", type(state).__name__))


def _unreduced(key: str, hint: object, silently: bool) -> Problem:
    kind = typing.get_origin(hint) or hint
    reducer = _ADVICE.get(kind, _ON_PURPOSE)
    outcome = "overwrite each other" if silently else "fail with InvalidUpdateError"
    named = getattr(hint, "__name__", str(hint)) if kind is hint else str(hint)
    return Problem(
        key,
        f"no reducer: nodes that write it in one step {outcome}",
        f"{key}: Annotated[{named}, {reducer}], or one_writer=[{key!r}] if only one node does",
    )


# Reducers

Finding = tuple[bool, Problem]  # whether it is serious


def _tried(
    key: str, hint: object, reducer: Reducing, given: Sequence[object] | None, seed: int
) -> Iterator[Finding]:
    """Yield what is wrong with a reducer, or what to know of it."""
    if reducer is add_messages or getattr(reducer, "__name__", "") == "_add_messages":
        yield (
            False,
            Problem(key, "messages come in the order of nodes, one with a known id replaces", ""),
        )
        return
    chance = random.Random(f"{seed} {key}")
    try:
        values = list(given) if given else values_of(hint)
    except UnknownType as unknown:
        fix = f"check_state(..., samples={{{key!r}: [...]}})"
        yield False, Problem(key, f"not tried: no samples of {unknown}; {fix}", fix)
        return
    trial = _Trial(key, reducer, [tuple(chance.choices(values, k=3)) for _ in range(_TRIPLES)])
    broken = trial.broken()
    if broken is not None:
        yield True, broken
        return
    for law in (trial.grouping, trial.order, trial.twice):
        finding = law()
        if finding is not None:
            yield finding
            if finding[0]:
                return  # what comes of the same fault is not said again


@dataclass(frozen=True)
class _Trial:
    """A reducer and the values that it is tried with: one that is there, and two updates."""

    key: str
    reducer: Reducing
    triples: Sequence[tuple[object, ...]]

    def fold(self, *values: object) -> object:
        """Reduce copies of values, from the left."""
        result, *updates = copy.deepcopy(values)
        for update in updates:
            result = self.reducer(result, update)
        return result

    def broken(self) -> Problem | None:
        """What makes a reducer useless: it fails, changes its arguments, or depends on luck."""
        for value, update, _ in self.triples:
            kept = copy.deepcopy((value, update))
            try:
                one, other = self.fold(value, update), self.reducer(*(given := copy.deepcopy(kept)))
            except Exception as problem:
                what = f"the reducer fails: {type(problem).__name__}: {problem}"
                return self._problem(
                    what, f"a reducer for this type, such as {self._advice(value)}", (value, update)
                )
            if given != kept:
                what = "the reducer changes its arguments, which checkpoints and other nodes hold"
                return self._problem(what, "return a new value", (value, update))
            if one != other:
                return self._problem(
                    "the reducer gives two results for the same arguments",
                    "leave out clocks, random numbers and ids",
                    (value, update),
                )
        return None

    def grouping(self) -> Finding | None:
        """Whether updates may be reduced with each other first."""
        for a, b, c in self.triples:
            try:
                grouped = self.reducer(copy.deepcopy(a), self.fold(b, c))
            except Exception:
                continue  # it takes updates of another type than its values
            if self.fold(a, b, c) != grouped:
                what = "the reducer is not associative: how updates are grouped changes the value"
                return True, self._problem(what, self._better(a), (a, b, c))
        return None

    def order(self) -> Finding | None:
        """Whether the order of nodes shows, and whether it decides what is kept."""
        finding: Finding | None = None
        for a, b, c in self.triples:
            one, other = self.fold(a, b, c), self.fold(a, c, b)
            if one == other:
                continue
            if self.reducer in OURS:
                return False, self._problem(
                    f"{self._named()}: the order of nodes decides", "", (a, b, c)
                )
            if not (isinstance(one, list | tuple | str) and _sorted(one) == _sorted(other)):
                what = "which node comes last decides: the update of another one is lost"
                return True, self._problem(what, self._better(a), (a, b, c))
            finding = False, self._problem("items come in the order of nodes", "", (a, b, c))
        return finding

    def twice(self) -> Finding | None:
        """Whether an update that is delivered twice counts once."""
        for a, b, _ in self.triples:
            if self.fold(a, b) != self.fold(a, b, b):
                what = "an update that is delivered twice counts twice"
                return False, self._problem(what, "", (a, b))
        return None

    def _better(self, value: object) -> str:
        return f"use {self._advice(value)}, or {_ON_PURPOSE} to say that it is on purpose"

    def _advice(self, value: object) -> str:
        return _ADVICE.get(type(value), _ON_PURPOSE)

    def _named(self) -> str:
        return str(getattr(self.reducer, "__name__", self.reducer))

    def _problem(self, what: str, fix: str, values: tuple[object, ...]) -> Problem:
        value, *updates = map(repr, values)
        example = f"{value} updated with {' and '.join(updates)}, {self._named()}"
        return Problem(self.key, what, fix, example)


def _sorted(items: Any) -> list[str]:
    return sorted(map(repr, items))


# Values to try a reducer with

_PLAIN: dict[object, list[Any]] = {
    bool: [False, True],
    int: [3, -2, 7, 0, -5],
    float: [1.25, -0.5, 7.0, 0.0, -2.75],  # sums of quarters are exact
    str: ["a", "bc", "", "cab", "b"],
    bytes: [b"a", b"bc", b"", b"cab"],
    type(None): [None],
    Any: [3, "a", -2, "bc"],
}
_DEEPEST = 4


class UnknownType(Exception):
    """A type that there are no values of."""


def values_of(hint: Any, depth: int = 0) -> list[Any]:
    """Return a few different values of an annotated type.  Raises UnknownType."""
    while typing.get_origin(hint) in (typing.Annotated, typing.Required, typing.NotRequired):
        hint = typing.get_args(hint)[0]
    if hint in _PLAIN:
        return _PLAIN[hint]
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is typing.Literal:
        return list(arguments)
    if kind in (typing.Union, types.UnionType):
        return [value for each in arguments for value in values_of(each, depth)]
    if not isinstance(kind, type) or depth > 2 * _DEEPEST:
        raise UnknownType(hint)
    if issubclass(kind, enum.Enum):
        return list(kind)
    if typing.is_typeddict(kind) or dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if dataclasses.is_dataclass(kind):
            hints = {each.name: hints[each.name] for each in dataclasses.fields(kind) if each.init}
        rows = _rows([values_of(each, depth + 1) for each in hints.values()])
        return [kind(**dict(zip(hints, row, strict=True))) for row in rows]
    if not issubclass(kind, dict | list | set | frozenset | tuple):
        raise UnknownType(hint)
    if depth > _DEEPEST:
        return [kind()]  # of a type that holds itself
    parts = [values_of(each, depth + 1) for each in arguments if each is not Ellipsis]
    if issubclass(kind, dict):
        pairs = _rows(parts or [_PLAIN[str], _PLAIN[int]])
        keys, values = zip(*pairs, strict=True)
        return [{}, dict(pairs[:1]), dict(pairs), dict(zip(keys, reversed(values), strict=True))]
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        return _rows(parts)
    items = parts[0] if parts else _PLAIN[str]
    return [kind(items[first:last]) for first, last in ((0, 0), (0, 1), (1, 3), (0, 3))]


def _rows(columns: Sequence[Sequence[object]]) -> list[tuple[Any, ...]]:
    """Return rows of one value of each column, short columns repeated."""
    length = max(map(len, columns), default=1)
    return [tuple(each[row % len(each)] for each in columns) for row in range(length)]
