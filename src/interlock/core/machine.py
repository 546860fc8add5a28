"""State machines: along which transitions the value of a key may move.

A machine is a table, checked when it is declared; what may follow what is read from it and from
nowhere else.  It travels to the store as JSON, all but its guards, which are Python functions:
the store keeps their names, and a process that does not have them may not move along them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from interlock.core.refusals import IllegalTransition, Invalid, Refusal
from interlock.core.struct import Json

Guard = Callable[[Json, Json, str], Json]
_FIELDS = ("name", "field", "initial", "transitions", "final", "guards")  # as the store keeps it


class MachineError(ValueError):
    """The table of a machine contradicts itself; the message says where."""


@dataclasses.dataclass(frozen=True, init=False)
class Machine:
    """A state machine on one field of a value.

    `initial`: the state, or states, that a new key may have.  `transitions`: for each state those
    that may follow.  `final`: states without a way out that are meant to have none (None: all of
    those).  `guards`: for a pair `(from, to)`, or for a target `to`, a pure function of old value,
    new value and agent name; it allows the move by returning True (or None) and refuses it by
    returning False or the reason.  A key may only be deleted in a final state.

    Raises MachineError if a target is not a state, a state cannot be reached, or a state has no
    way out and is not final.
    """

    name: str
    field: str
    initial: tuple[str, ...]
    transitions: Mapping[str, tuple[str, ...]]
    final: tuple[str, ...]
    guards: Mapping[str, str]  # "from->to" or "to": the guard's name
    functions: Mapping[str, Guard] = dataclasses.field(compare=False, repr=False)

    def __init__(
        self,
        name: str,
        field: str,
        initial: str | Iterable[str],
        transitions: Mapping[str, Iterable[str]],
        final: Iterable[str] | None = None,
        guards: Mapping[str | tuple[str, str], Guard | str] | None = None,
    ) -> None:
        first = (initial,) if isinstance(initial, str) else tuple(initial)
        table = {state: tuple(targets) for state, targets in transitions.items()}
        for targets in list(table.values()):
            for target in targets:
                table.setdefault(target, ())
        for state in first:
            table.setdefault(state, ())
        ends = tuple(s for s in table if not table[s]) if final is None else tuple(final)
        names, functions = _named(guards or {})
        for attribute, value in (
            ("name", name),
            ("field", field),
            ("initial", first),
            ("transitions", table),
            ("final", ends),
            ("guards", names),
            ("functions", functions),
        ):
            object.__setattr__(self, attribute, value)
        self._check(set(transitions), final is not None)

    def __hash__(self) -> int:
        return hash((self.name, self.field, self.initial))

    @property
    def states(self) -> tuple[str, ...]:
        """Every state, in the order of the table."""
        return tuple(self.transitions)

    def targets(self, state: str) -> tuple[str, ...]:
        """Return the states that may follow `state`."""
        return self.transitions.get(state, ())

    def to_json(self) -> dict[str, Json]:
        """Return the machine as the store keeps it."""
        return {
            "name": self.name,
            "field": self.field,
            "initial": list(self.initial),
            "transitions": {state: list(after) for state, after in self.transitions.items()},
            "final": list(self.final),
            "guards": dict(self.guards),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Json], functions: Mapping[str, Guard]) -> Machine:
        """Return the machine that the store kept, with those of its guards that are known here.

        Raises MachineError if it has a field that this version of Interlock does not know.
        """
        unknown = data.keys() - {*_FIELDS}
        if unknown:
            raise MachineError(f"Machine {data['name']!r} has the unknown field {min(unknown)!r}")
        guards = {
            place: functions.get(guard, guard) for place, guard in data.get("guards", {}).items()
        }
        return cls(
            data["name"], data["field"], data["initial"], data["transitions"], data["final"], guards
        )

    def _check(self, declared: set[str], final_given: bool) -> None:
        where = f"Machine {self.name!r}"
        if not self.name or not self.field or not self.initial:
            raise MachineError(f"{where} needs a name, a field and an initial state")
        for state in self.states:
            if not isinstance(state, str) or not state:
                raise MachineError(f"{where}: the state {state!r} is not a name")
        for state in (*self.initial, *self.final):
            if state not in declared and not any(
                state in after for after in self.transitions.values()
            ):
                raise MachineError(f"{where}: {state!r} is not a state of its transitions")
        reached, left = set(self.initial), list(self.initial)
        while left:
            for target in self.targets(left.pop()):
                if target not in reached:
                    reached.add(target)
                    left.append(target)
        for state in self.states:
            if state not in reached:
                raise MachineError(f"{where}: no transition leads to {state!r}")
            if final_given and not self.targets(state) and state not in self.final:
                raise MachineError(
                    f"{where}: {state!r} has no way out and is not final. "
                    "Give it transitions, or name it in final=."
                )
            if state in self.final and self.targets(state):
                raise MachineError(f"{where}: {state!r} is final and has transitions")
        for place in self.guards:
            start, arrow, end = place.rpartition("->")
            known = end in self.targets(start) if arrow else end in self.transitions
            if not known:
                raise MachineError(f"{where}: the guard of {place!r} guards no transition")


def check_move(
    machine: Machine, key: str, old: Json, exists: bool, new: Json, agent: str
) -> Refusal | None:
    """Return why the value of `key` may not go from `old` to `new`, None if it may."""
    after = state_of(machine, key, new)
    if isinstance(after, Refusal):
        return after
    if not exists:
        if after not in machine.initial:
            return illegal(machine, key, None, after)
        return _guarded(machine, key, None, after, None, new, agent)
    before = state_of(machine, key, old)
    if isinstance(before, Refusal):
        return before
    if after not in machine.targets(before):
        # Other fields may change while the state stays.
        return None if after == before else illegal(machine, key, before, after)
    return _guarded(machine, key, before, after, old, new, agent)


def check_delete(machine: Machine, key: str, old: Json) -> Refusal | None:
    """Return why `key` may not be deleted: only final states may end."""
    before = state_of(machine, key, old)
    if isinstance(before, Refusal) or before in machine.final:
        return None if isinstance(before, str) else before
    return illegal(machine, key, before, None)


def state_of(machine: Machine, key: str, value: Json) -> str | Invalid:
    """Return the state that `value` is in, or why it has none."""
    if not isinstance(value, dict) or machine.field not in value:
        return Invalid(
            f"{key!r} needs an object with the field {machine.field!r} "
            f"(state machine {machine.name!r})",
            key,
        )
    state = value[machine.field]
    if not isinstance(state, str) or state not in machine.transitions:
        return Invalid(
            f"{key!r}: {machine.field} = {state!r:.80} is not a state of {machine.name!r}. "
            f"States: {', '.join(machine.states)}.",
            key,
        )
    return state


def illegal(
    machine: Machine, key: str, before: str | None, after: str | None, why: str = ""
) -> IllegalTransition:
    """The refusal of a move that the machine does not allow."""
    allowed = machine.initial if before is None else machine.targets(before)
    if after is None:
        text = f"{key!r} can't be deleted in state {before!r}"
        may = f" Final states: {', '.join(map(repr, machine.final))}." if machine.final else ""
    else:
        moves = f"start as {after!r}" if before is None else f"go from {before!r} to {after!r}"
        text = f"{key!r} can't {moves}"
        may = f" Allowed: {', '.join(map(repr, allowed)) or 'nothing, the state is final'}."
    text += f": {why}" if why else f".{may if after is not None else ''}"
    return IllegalTransition(text, key, machine.name, before, after, tuple(allowed))


def _guarded(
    machine: Machine, key: str, before: str | None, after: str, old: Json, new: Json, agent: str
) -> Refusal | None:
    for place in (f"{before}->{after}", after):
        name = machine.guards.get(place)
        if name is None or (before is None and place != after):
            continue
        function = machine.functions.get(name)
        if function is None:
            why = f"this process does not know its guard {name!r}. Open the space with its rules=."
            return illegal(machine, key, before, after, why)
        verdict = function(old, new, agent)
        if verdict is not None and verdict is not True:
            why = verdict if isinstance(verdict, str) else f"guard {name!r} refused it"
            return illegal(machine, key, before, after, why)
    return None


def _named(
    guards: Mapping[str | tuple[str, str], Guard | str],
) -> tuple[dict[str, str], dict[str, Guard]]:
    names: dict[str, str] = {}
    functions: dict[str, Guard] = {}
    for place, guard in guards.items():
        text = place if isinstance(place, str) else "->".join(place)
        if isinstance(guard, str):
            names[text] = guard
            continue
        name = getattr(guard, "__name__", type(guard).__name__)
        if functions.setdefault(name, guard) is not guard:
            raise MachineError(f"Two guards are named {name!r}. Rename one.")
        names[text] = name
    return names, functions


BOOKING = Machine(
    "booking",
    field="status",
    initial=("PENDING", "PENDING_PAYMENT"),
    transitions={
        "PENDING": ["PENDING_PAYMENT", "CANCELLED"],
        "PENDING_PAYMENT": ["COMPLETED", "FAILED", "CANCELLED"],
        "COMPLETED": ["REFUND_PENDING"],
        "FAILED": ["PENDING_PAYMENT", "CANCELLED"],
        "REFUND_PENDING": ["REFUNDED"],
        "REFUNDED": [],
        "CANCELLED": [],
    },
    final=("CANCELLED", "REFUNDED"),
)


AGENT_LIFECYCLE = Machine(
    "agent-lifecycle",
    field="state",
    initial="Idle",
    transitions={
        "Idle": ["Processing"],
        "Processing": ["AwaitingInput", "Completed", "Failed"],
        "AwaitingInput": ["Processing", "Completed", "Failed"],
        "Completed": [],
        "Failed": [],
    },
    final=("Completed", "Failed"),
)


def draw_machine(machine: Machine, kind: str = "text") -> str:
    """Return a diagram of `machine`: as `text`, as a `mermaid` diagram, or as source for `dot`.

    `interlock machine draw --format svg` makes a picture of it.  Raises ValueError.
    """
    kinds = {"text": _text, "mermaid": _mermaid, "dot": _dot}
    if kind not in kinds:
        raise ValueError(f"no diagram of kind {kind!r}: use {', '.join(kinds)}")
    return kinds[kind](machine)


def _text(machine: Machine) -> str:
    """Return one line a state: what may follow, and under which guard."""
    lines = [f"{machine.name}: field {machine.field!r}"]
    width = max(map(len, machine.states))
    for state in machine.states:
        mark = "*" if state in machine.initial else " "
        targets = ", ".join(
            _with_guard(machine, state, target) for target in machine.targets(state)
        )
        lines.append(f"{mark} {state:<{width}} -> {targets or '(final)'}")
    lines.append("* a new value begins here")
    return "\n".join(lines)


def _mermaid(machine: Machine) -> str:
    """Return a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {state}" for state in machine.initial]
    for state in machine.states:
        for target in machine.targets(state):
            guard = _guard_of(machine, state, target)
            lines.append(f"    {state} --> {target}" + (f" : {guard}" if guard else ""))
    lines += [f"    {state} --> [*]" for state in machine.final]
    return "\n".join(lines)


def _dot(machine: Machine) -> str:
    """Return the source of a Graphviz graph: initial states are bold, final ones dashed."""
    lines = [f"digraph {_quoted(machine.name)} {{", "    rankdir=LR", "    node [shape=box]"]
    for state in machine.states:
        styles = ["rounded"]
        styles += ["bold"] if state in machine.initial else []
        styles += ["dashed"] if state in machine.final else []
        lines.append(f'    {_quoted(state)} [style="{",".join(styles)}"]')
    for state in machine.states:
        for target in machine.targets(state):
            guard = _guard_of(machine, state, target)
            label = f" [label={_quoted(guard)}]" if guard else ""
            lines.append(f"    {_quoted(state)} -> {_quoted(target)}{label}")
    return "\n".join([*lines, "}"])


def _quoted(name: str) -> str:
    """Return a name as Graphviz shows it unchanged: a backslash begins an escape in a label."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _guard_of(machine: Machine, state: str, target: str) -> str | None:
    return machine.guards.get(f"{state}->{target}") or machine.guards.get(target)


def _with_guard(machine: Machine, state: str, target: str) -> str:
    guard = _guard_of(machine, state, target)
    return f"{target} [{guard}]" if guard else target
