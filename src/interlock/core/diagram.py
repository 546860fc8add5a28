"""Diagrams of a machine, made from its table: text, Mermaid, Graphviz."""

from __future__ import annotations

from interlock.core.machines import Machine


def draw_machine(machine: Machine, kind: str = "text") -> str:
    """Return a diagram of `machine`: as `text`, as a `mermaid` diagram, or as source for `dot`.

    `interlock machine draw --format svg` makes a picture of it.  Raises ValueError.
    """
    kinds = {"text": text, "mermaid": mermaid, "dot": dot}
    if kind not in kinds:
        raise ValueError(f"no diagram of kind {kind!r}: use {', '.join(kinds)}")
    return kinds[kind](machine)


def text(machine: Machine) -> str:
    """Return one line a state: what may follow, and under which guard."""
    lines = [f"{machine.name}: field {machine.field!r}"]
    width = max(map(len, machine.states))
    for state in machine.states:
        mark = "*" if state in machine.initial else " "
        targets = ", ".join(_guarded(machine, state, target) for target in machine.targets(state))
        lines.append(f"{mark} {state:<{width}} -> {targets or '(final)'}")
    lines.append("* a new value begins here")
    return "\n".join(lines)


def mermaid(machine: Machine) -> str:
    """Return a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {state}" for state in machine.initial]
    for state in machine.states:
        for target in machine.targets(state):
            guard = _guard(machine, state, target)
            lines.append(f"    {state} --> {target}" + (f" : {guard}" if guard else ""))
    lines += [f"    {state} --> [*]" for state in machine.final]
    return "\n".join(lines)


def dot(machine: Machine) -> str:
    """Return the source of a Graphviz graph: initial states are bold, final ones dashed."""
    lines = [f"digraph {_quoted(machine.name)} {{", "    rankdir=LR", "    node [shape=box]"]
    for state in machine.states:
        styles = ["rounded"]
        styles += ["bold"] if state in machine.initial else []
        styles += ["dashed"] if state in machine.final else []
        lines.append(f'    {_quoted(state)} [style="{",".join(styles)}"]')
    for state in machine.states:
        for target in machine.targets(state):
            guard = _guard(machine, state, target)
            label = f" [label={_quoted(guard)}]" if guard else ""
            lines.append(f"    {_quoted(state)} -> {_quoted(target)}{label}")
    return "\n".join([*lines, "}"])


def _quoted(name: str) -> str:
    """Return a name as Graphviz shows it unchanged: a backslash begins an escape in a label."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _guard(machine: Machine, state: str, target: str) -> str | None:
    return machine.guards.get(f"{state}->{target}") or machine.guards.get(target)


def _guarded(machine: Machine, state: str, target: str) -> str:
    guard = _guard(machine, state, target)
    return f"{target} [{guard}]" if guard else target
