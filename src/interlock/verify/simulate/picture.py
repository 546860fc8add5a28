"""Draws a simulation: each agent's thoughts over time, and what became of them.

matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interlock.extras import needs
from interlock.verify.simulate.results import Result

_INK, _FAINT = "#1f2933", "#d5dbe3"
_THINKING = "#6f9fd8"
_MARKS = {  # what: (words, marker, colour)
    "kept": ("committed and kept", "o", "#12805c"),
    "lost": ("acknowledged, then lost", "X", "#d7263d"),
    "failed": ("failed", "D", "#e08e0b"),
}


class CannotDraw(Exception):
    """The picture cannot be drawn; the message says why and what to do."""


def check_drawable(file: Path) -> None:
    """Raise CannotDraw where `draw` could not write to `file`, NotInstalled without matplotlib."""
    if file.suffix.lower() not in (".svg", ".png"):
        raise CannotDraw("the picture is a .svg or a .png file; name one of these")
    if not file.absolute().parent.is_dir():
        raise CannotDraw(f"the folder {file.absolute().parent} does not exist; make it first")
    with needs("matplotlib", "plot"):
        if importlib.util.find_spec("matplotlib") is None:  # its import takes a second
            raise ModuleNotFoundError("matplotlib")


def draw(results: Sequence[Result], file: Path) -> None:
    """Write the timelines of `results` to `file` (.svg or .png), a panel for each.

    Raises CannotDraw, and NotInstalled where the extra `interlock[plot]` is missing.
    """
    check_drawable(file)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = max(result.agents for result in results)
    height = min(max(1.2, 0.021 * rows), 6.0)
    figure = Figure(
        figsize=(11, (height + 0.75) * len(results) + 0.6),
        layout=ConstrainedLayoutEngine(h_pad=0.1),
    )
    panels = figure.subplots(len(results), 1, squeeze=False)[:, 0]
    for panel, result in zip(panels, results, strict=True):
        _draw_agents(panel, result, height)
        _dress(panel, result)
    panels[-1].set_xlabel(
        "time since the start; every panel has its own scale", fontsize=8, color=_INK
    )
    figure.legend(handles=_legend(), loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    figure.savefig(file, dpi=150)


def _draw_agents(panel: Any, result: Result, height: float) -> None:
    """One row for each agent, whoever ends first at the top."""
    over = dict.fromkeys(range(result.agents), 0.0)
    for mark in result.marks:
        over[mark.agent] = max(over[mark.agent], mark.at)
    row = {agent: place for place, agent in enumerate(sorted(over, key=lambda a: (over[a], a)))}
    thick = 72 * height / result.agents  # points that one row has
    panel.hlines(
        list(row.values()),
        [result.arrivals[agent] for agent in row],
        [over[agent] for agent in row],
        color=_FAINT,
        linewidth=min(0.25 * thick, 1.0),
        zorder=1,
    )
    panel.barh(
        [row[thought.agent] for thought in result.timeline],
        [thought.over - thought.began for thought in result.timeline],
        left=[thought.began for thought in result.timeline],
        height=0.7,
        color=_THINKING,
        edgecolor="white",
        linewidth=0.3,
        zorder=2,
    )
    for what, (_, marker, colour) in _MARKS.items():
        marks = [mark for mark in result.marks if mark.what == what]
        panel.scatter(
            [mark.at for mark in marks],
            [row[mark.agent] for mark in marks],
            s=min(max(1.7 * thick, 3.0), 6.0) ** 2,
            marker=marker,
            color=colour,
            linewidths=0,
            zorder=3,
        )


def _dress(panel: Any, result: Result) -> None:
    panel.set_title(result.pattern, loc="left", fontsize=11, fontweight="bold", color=_INK)
    panel.set_title(
        f"{result.lost} lost   {result.failed} failed   {result.thoughts:.2f} thoughts per agent   "
        f"{result.wall_time()}",
        loc="right",
        fontsize=9,
        color=_MARKS["lost"][2] if result.lost or result.failed else _MARKS["kept"][2],
    )
    panel.set_xlim(left=0)
    panel.set_ylim(result.agents - 0.2, -0.8)
    panel.set_yticks([])
    panel.set_ylabel(f"{result.agents} agents", fontsize=8, color=_INK)
    panel.xaxis.set_major_formatter(lambda at, _: f"{at:g} s" if at else "0")
    panel.tick_params(axis="x", labelsize=8, length=2, color=_FAINT, labelcolor=_INK)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.spines["bottom"].set_color(_FAINT)


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(color=_THINKING, label="thinking"),
        Line2D([], [], color=_FAINT, label="waiting"),
        *(
            Line2D([], [], color=colour, marker=marker, linestyle="", label=words)
            for words, marker, colour in _MARKS.values()
        ),
    ]
