"""Draws a machine from its table: as text, as a Mermaid diagram, as SVG."""

from __future__ import annotations

from html import escape

from interlock.core.machines import Machine

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _EDGE = 150, 34, 70, 26, 20


def draw_machine(machine: Machine, kind: str = "text") -> str:
    """Return a drawing of `machine`, made from its table: `text`, `mermaid` or `svg`."""
    return {"text": text, "mermaid": mermaid, "svg": svg}[kind](machine)


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


def svg(machine: Machine) -> str:
    """Return an SVG picture: columns by distance from the initial states, arrows between them."""
    places = _places(machine)
    right = max(x for x, _ in places.values()) + _WIDTH + _EDGE
    bottom = max(y for _, y in places.values()) + _HEIGHT + 2 * _EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right} {bottom}" '
        f'width="{right}" height="{bottom}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(machine.name)}</title>",
        '<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z"/></marker></defs>',
    ]
    for state in machine.states:
        parts += [
            _arrow(places[state], places[target], _guard(machine, state, target))
            for target in machine.targets(state)
        ]
    for state, (x, y) in places.items():
        bold = 3 if state in machine.initial else 1
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="white" '
            f'stroke="black" stroke-width="{bold}"'
            + (' stroke-dasharray="4 2"' if state in machine.final else "")
            + "/>"
        )
        parts.append(
            f'<text x="{x + _WIDTH / 2:g}" y="{y + _HEIGHT / 2 + 4:g}" text-anchor="middle">'
            f"{escape(state)}</text>"
        )
    return "\n".join([*parts, "</svg>"])


def _places(machine: Machine) -> dict[str, tuple[int, int]]:
    column = dict.fromkeys(machine.initial, 0)
    queue = list(machine.initial)
    for state in queue:
        for target in machine.targets(state):
            if target not in column:
                column[target] = column[state] + 1
                queue.append(target)
    rows: dict[int, int] = {}
    places = {}
    for state in queue:
        row = rows.get(column[state], 0)
        rows[column[state]] = row + 1
        x = _EDGE + column[state] * (_WIDTH + _GAP_X)
        places[state] = (x, _EDGE + row * (_HEIGHT + _GAP_Y))
    return places


def _arrow(start: tuple[int, int], end: tuple[int, int], label: str | None) -> str:
    (x1, y1), (x2, y2) = start, end
    if x2 > x1:
        x1, y1, y2 = x1 + _WIDTH, y1 + _HEIGHT // 2, y2 + _HEIGHT // 2
        path = f"M{x1} {y1}L{x2} {y2}"
    else:  # back, or within a column: below the boxes
        x1, x2, y1, y2 = x1 + _WIDTH // 2, x2 + _WIDTH // 2 + 12, y1 + _HEIGHT, y2 + _HEIGHT
        low = max(y1, y2) + _GAP_Y - 6
        path = f"M{x1} {y1}C{x1} {low} {x2} {low} {x2} {y2}"
    line = f'<path d="{path}" fill="none" stroke="black" marker-end="url(#arrow)"/>'
    if label is None:
        return line
    middle = f'x="{(x1 + x2) / 2:g}" y="{(y1 + y2) / 2 - 4:g}"'
    return line + f'<text {middle} text-anchor="middle" font-size="10">{escape(label)}</text>'


def _guard(machine: Machine, state: str, target: str) -> str | None:
    return machine.guards.get(f"{state}->{target}") or machine.guards.get(target)


def _guarded(machine: Machine, state: str, target: str) -> str:
    guard = _guard(machine, state, target)
    return f"{target} [{guard}]" if guard else target
