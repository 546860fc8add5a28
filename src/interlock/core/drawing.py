"""Draws a machine from its table: as text, as a Mermaid diagram, as SVG."""

from __future__ import annotations

from html import escape

from interlock.core.machines import Machine

_WIDTH, _HEIGHT, _GAP, _EDGE = 150, 34, 26, 20
_LANE, _PORT, _STUB = 12, 16, 24  # between arrows side by side; between their ends; before a state
_COLOURS = ("#1f4e99", "#a63d00", "#1b6e3a", "#7a1f7a", "#6b5200", "#00667a", "#444444")


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
    """Return an SVG picture: columns by distance from the initial states, arrows between them.

    An arrow leaves its state on the right and comes to the next one from the left.  In between it
    has a lane of its own, in the gap between two columns or below all states, where no state is.
    """
    layout = _Layout(machine)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {layout.width} {layout.height}" '
        f'width="{layout.width}" height="{layout.height}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(machine.name)}</title>",
        "<defs>",
        *(
            f'<marker id="arrow{number}" viewBox="0 0 10 10" refX="10" refY="5" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
            for number, colour in enumerate(_COLOURS)
        ),
        "</defs>",
    ]
    for state, target in layout.arrows:
        parts += _arrow(layout, state, target, _guard(machine, state, target))
    for state, (x, y, height) in layout.boxes.items():
        bold = 3 if state in machine.initial else 1
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{height}" rx="8" fill="white" '
            f'stroke="black" stroke-width="{bold}"'
            + (' stroke-dasharray="4 2"' if state in machine.final else "")
            + "/>"
        )
        parts.append(
            f'<text x="{x + _WIDTH / 2:g}" y="{y + height / 2 + 4:g}" text-anchor="middle">'
            f"{escape(state)}</text>"
        )
    return "\n".join([*parts, "</svg>"])


class _Layout:
    """Where everything is.  `boxes`: x, y and height by state; `lanes`: x by arrow and gap, where
    gap n is to the left of column n; `below`: y of the arrows that pass below all states."""

    def __init__(self, machine: Machine) -> None:
        self.columns = _columns(machine)
        self.arrows = [(s, t) for s in self.columns for t in machine.targets(s)]
        self.lanes: dict[tuple[str, str, int], int] = {}
        self.below: dict[tuple[str, str], int] = {}
        last = max(self.columns.values())
        gaps: list[list[tuple[str, str]]] = [[] for _ in range(last + 2)]
        for arrow in self.arrows:
            for gap in dict.fromkeys(self.gaps(arrow)):
                gaps[gap].append(arrow)
        x, lefts = _EDGE, []
        for gap, arrows in enumerate(gaps):
            x += _LANE if arrows else 0
            for arrow in arrows:
                self.lanes[(*arrow, gap)] = x
                x += _LANE
            x += _STUB if arrows else 0
            lefts.append(x)
            x += _WIDTH + _STUB
        self.width = x - _WIDTH - _STUB + _EDGE
        self.boxes: dict[str, tuple[int, int, int]] = {}
        bottoms = dict.fromkeys(range(last + 1), _EDGE)
        for state, column in self.columns.items():
            ports = max(len(self.leaving(state)), len(self.coming(state)))
            height = max(_HEIGHT, _PORT * (ports + 1))
            self.boxes[state] = (lefts[column], bottoms[column], height)
            bottoms[column] += height + _GAP
        bottom = max(bottoms.values())
        for arrow in self.arrows:
            if len(self.gaps(arrow)) == 2:
                self.below[arrow] = bottom
                bottom += _LANE
        self.height = bottom + _EDGE

    def gaps(self, arrow: tuple[str, str]) -> tuple[int, ...]:
        """The gaps that an arrow runs down or up: one to the next column, two to any other."""
        leaves, comes = self.columns[arrow[0]] + 1, self.columns[arrow[1]]
        return (leaves,) if leaves == comes else (leaves, comes)

    def leaving(self, state: str) -> list[tuple[str, str]]:
        """The arrows that leave a state, from the top."""
        return sorted((a for a in self.arrows if a[0] == state), key=lambda a: len(self.gaps(a)))

    def coming(self, state: str) -> list[tuple[str, str]]:
        """The arrows that come to a state, from the top."""
        return sorted((a for a in self.arrows if a[1] == state), key=lambda a: len(self.gaps(a)))

    def route(self, arrow: tuple[str, str]) -> list[tuple[int, int]]:
        """Return the corners of an arrow, its ends included."""
        (x1, top1, height1), (x2, top2, height2) = (self.boxes[state] for state in arrow)
        leaving, coming = self.leaving(arrow[0]), self.coming(arrow[1])
        y1 = top1 + height1 * (leaving.index(arrow) + 1) // (len(leaving) + 1)
        y2 = top2 + height2 * (coming.index(arrow) + 1) // (len(coming) + 1)
        y1, y2 = y1 // 8 * 8, y2 // 8 * 8 + 4  # an end never lies on the line of a beginning
        first, *rest = (self.lanes[(*arrow, gap)] for gap in self.gaps(arrow))
        corners = [(x1 + _WIDTH, y1), (first, y1)]
        for lane in rest:
            corners += [(first, self.below[arrow]), (lane, self.below[arrow])]
        return [*corners, (rest[-1] if rest else first, y2), (x2, y2)]


def _columns(machine: Machine) -> dict[str, int]:
    """Return how far each state is from the initial ones, the nearest first."""
    column = dict.fromkeys(machine.initial, 0)
    queue = list(machine.initial)
    for state in queue:
        for target in machine.targets(state):
            if target not in column:
                column[target] = column[state] + 1
                queue.append(target)
    return column


def _arrow(layout: _Layout, state: str, target: str, label: str | None) -> list[str]:
    number = list(layout.boxes).index(state) % len(_COLOURS)
    corners = layout.route((state, target))
    parts = [
        f'<path d="M{"L".join(f"{x} {y}" for x, y in corners)}" fill="none" '
        f'stroke="{_COLOURS[number]}" marker-end="url(#arrow{number})">'
        f"<title>{escape(state)} to {escape(target)}</title></path>"
    ]
    if label is not None:
        x, y = corners[0]
        parts.append(
            f'<text x="{x + 4}" y="{y - 3}" font-size="10" fill="{_COLOURS[number]}" '
            f'stroke="white" stroke-width="3" paint-order="stroke">{escape(label)}</text>'
        )
    return parts


def _guard(machine: Machine, state: str, target: str) -> str | None:
    return machine.guards.get(f"{state}->{target}") or machine.guards.get(target)


def _guarded(machine: Machine, state: str, target: str) -> str:
    guard = _guard(machine, state, target)
    return f"{target} [{guard}]" if guard else target
