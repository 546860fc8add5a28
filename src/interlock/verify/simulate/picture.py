"""Draws a simulation: each agent's thoughts over time, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interlock.errors import Invalid
from interlock.verify.simulate.results import Result

_COLOURS = {"kept": "#2a9d8f", "lost": "#e63946", "wasted": "#c9ced6"}
_WORDS = {
    "kept": "thought and committed",
    "lost": "acknowledged, then lost",
    "wasted": "thought, then refused",
}


def draw(results: Sequence[Result], file: Path) -> None:
    """Write the timelines of `results` to `file` (.svg or .png).  Needs `interlock[plot]`."""
    if file.suffix not in (".svg", ".png"):
        raise Invalid(f"--plot {file}: the picture is a .svg or a .png file")
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as missing:
        raise Invalid(
            "drawing needs matplotlib, which is not installed; pip install 'interlock[plot]'"
        ) from missing
    figure = Figure(figsize=(11, 2.2 * len(results) + 0.9), layout="constrained")
    panels = figure.subplots(len(results), 1, squeeze=False)[:, 0]
    for panel, result in zip(panels, results, strict=True):
        order = {
            agent: row
            for row, agent in enumerate(
                sorted(
                    range(result.agents),
                    key=lambda a: max((t.over for t in result.timeline if t.agent == a), default=0),
                )
            )
        }
        for ending, colour in _COLOURS.items():
            bars = [thought for thought in result.timeline if thought.ended == ending]
            panel.barh(
                [order[bar.agent] for bar in bars],
                [bar.over - bar.began for bar in bars],
                left=[bar.began for bar in bars],
                height=0.9,
                color=colour,
            )
        panel.set_title(
            f"{result.pattern}: {result.lost} lost, {result.failed} failed, "
            f"{result.thoughts:.2f} thoughts per agent, {result.seconds:.1f} s",
            loc="left",
            fontsize=10,
        )
        panel.set_xlim(left=0)
        panel.set_yticks([])
        panel.set_ylabel(f"{result.agents} agents", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("seconds")
    handles = [Patch(color=_COLOURS[ending], label=word) for ending, word in _WORDS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(file, dpi=150)
