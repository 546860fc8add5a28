"""Draws a history as lanes, one per agent: reads, writes, and writes that were lost."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from interlock.errors import Invalid
from interlock.extras import needs
from interlock.forensics.history import READ, Event
from interlock.forensics.report import Findings

_MOST = 5000  # events that a picture can show
_INK, _FAINT = "#222222", "#dddddd"
_MARKS = {
    "read": ("o", "#9aa5b1"),
    "write": ("s", "#2563eb"),
    "overwrites": ("X", "#d97706"),
    "lost": ("D", "#dc2626"),
}


def check_drawable(file: Path) -> None:
    """Raise Invalid where `draw` could not write to `file`, NotInstalled without matplotlib."""
    if file.suffix.lower() not in (".svg", ".png"):
        raise Invalid(f"{str(file)!r} must be a .svg or a .png file.")
    if not file.absolute().parent.is_dir():
        raise Invalid(f"The folder {file.absolute().parent} does not exist.")
    with needs("matplotlib", "plot"):
        if importlib.util.find_spec("matplotlib") is None:  # its import takes a second
            raise ModuleNotFoundError("matplotlib")


def draw(findings: Findings, events: Iterable[Event], file: Path) -> None:
    """Write a picture of the first 5,000 events of the keys that have lost something, of all keys
    if none has, to a .svg or .png file.  Raises Invalid, and NotInstalled without matplotlib."""
    check_drawable(file)
    from matplotlib.figure import Figure

    chosen = {loss.key for loss in findings.losses} or set(findings.keys)
    shown = list(islice((event for event in events if event.key in chosen), _MOST))
    lanes = {name: row for row, name in enumerate(dict.fromkeys(_lane(each) for each in shown))}
    lost = {(loss.key, loss.lost_position) for loss in findings.losses}
    over = {(loss.key, loss.position) for loss in findings.losses}
    start = min((event.time_us for event in shown), default=0)
    figure = Figure(figsize=(11, 1.4 + 0.45 * max(len(lanes), 1)), layout="constrained")
    panel = figure.subplots()
    panel.hlines(list(lanes.values()), 0, _at(shown[-1], start) if shown else 1, color=_FAINT)
    for what, (marker, colour) in _MARKS.items():
        marks = [
            event
            for event in shown
            if what
            == (
                "read"
                if event.kind == READ
                else "lost"
                if (event.key, event.position) in lost
                else "overwrites"
                if (event.key, event.position) in over
                else "write"
            )
        ]
        panel.scatter(
            [_at(event, start) for event in marks],
            [lanes[_lane(event)] for event in marks],
            marker=marker,
            color=colour,
            label=f"{what} ({len(marks)})",
            s=36,
            zorder=3,
        )
    panel.set_yticks(list(lanes.values()), list(lanes), fontsize=8)
    panel.set_ylim(len(lanes) - 0.5, -0.5)
    panel.set_xlabel("seconds since the first event", fontsize=8, color=_INK)
    panel.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    figure.savefig(file, dpi=150)


def _lane(event: Event) -> str:
    return event.agent or "unknown"


def _at(event: Event, start: int) -> float:
    return (event.time_us - start) / 1e6 if event.time_us else float(event.position)
