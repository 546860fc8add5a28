"""What agents report, what a simulation measured, and what it means: in one sentence, and drawn.

matplotlib is imported only when something is drawn.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from interlock import Json
from interlock.extras import needs
from interlock.verify.simulate.settings import Settings

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


class Ready(NamedTuple):
    """An agent is connected and waits for the start."""

    agent: int


class Thought(NamedTuple):
    """One thought of an agent; seconds."""

    agent: int
    began: float
    over: float


class Acknowledged(NamedTuple):
    """The store, or the pattern, told the agent that its item is written."""

    agent: int
    item: str
    at: float


class Ended(NamedTuple):
    """An agent stopped; `error` says why it failed, None where it did everything."""

    agent: int
    error: str | None
    at: float


class Mark(NamedTuple):
    """A moment in an agent's life.  `what` is `kept`, `lost` or `failed`."""

    agent: int
    at: float
    what: str


Event = Ready | Thought | Acknowledged | Ended


class Result(NamedTuple):
    """One pattern's run.  Times in seconds since the start; `thoughts` is the average per agent.

    `errors` counts the failed agents by what stopped them; `arrivals`, `timeline` and `marks` are
    each agent's life.
    """

    pattern: str
    agents: int
    acknowledged: int
    kept: int
    lost: int
    failed: int
    thoughts: float
    seconds: float
    lower_bound: float
    errors: Mapping[str, int]
    arrivals: tuple[float, ...]
    timeline: tuple[Thought, ...]
    marks: tuple[Mark, ...]

    def as_json(self) -> dict[str, Json]:
        """Return the object that `interlock simulate --json` prints."""
        return {
            "pattern": self.pattern,
            "agents": self.agents,
            "acknowledged": self.acknowledged,
            "kept": self.kept,
            "lost": self.lost,
            "failed": self.failed,
            "thoughts": round(self.thoughts, 3),
            "seconds": round(self.seconds, 3),
        }

    def wall_time(self) -> str:
        """Say how long it took, and how that compares with one agent after the other."""
        digits = 2 if self.seconds < 1 else 1 if self.seconds < 100 else 0
        took = f"{self.seconds:.{digits}f} s"
        return f"{took} ({self.seconds / self.lower_bound:.2f}x)" if self.lower_bound else took

    def most_at_once(self) -> int:
        """Return how many agents were thinking at the same time, at most."""
        changes = [(thought.began, 1) for thought in self.timeline]
        changes += [(thought.over, -1) for thought in self.timeline]
        now = most = 0
        for _, change in sorted(changes):
            now += change
            most = max(most, now)
        return most

    def sentence(self) -> str:
        """Say in one sentence what happened."""
        failed = f"{self.failed} of {self.agents} agents failed"
        if self.lost:
            told = f"{self.lost} of {self.acknowledged} acknowledged writes are gone, and the "
            told += "agents that made them were told that they had succeeded"
            return f"{told}; {failed}." if self.failed else f"{told}."
        if self.failed:
            return (
                f"nothing acknowledged was lost, but {failed}; "
                f"each agent thought {self.thoughts:.2f} times on average."
            )
        took = f"in {self.wall_time().partition(' (')[0]}"
        if self.lower_bound:
            took += f", {self.seconds / self.lower_bound:.2f} times the serial time"
        if self.most_at_once() == 1 < self.agents:
            how = "never more than one agent thought at a time"
        else:
            how = f"each agent thought {self.thoughts:.2f} times on average"
        return f"nothing was lost and nobody failed; {how}, {took}."


def score(
    pattern: str, settings: Settings, events: Iterable[Event], released: float, kept: Set[str]
) -> Result:
    """Return the result of one run.

    `events`: what the agents reported, with the clock's times; `released`: that clock's time at
    the start; `kept`: the items that the store holds in the end.
    """
    events = list(events)
    acknowledged = [event for event in events if isinstance(event, Acknowledged)]
    ended = [event for event in events if isinstance(event, Ended)]
    items = {event.item for event in acknowledged}
    marks = [
        Mark(event.agent, event.at - released, "kept" if event.item in kept else "lost")
        for event in acknowledged
    ]
    marks += [
        Mark(event.agent, max(event.at - released, 0.0), "failed")  # it may fail before the start
        for event in ended
        if event.error is not None
    ]
    timeline = tuple(
        Thought(event.agent, event.began - released, event.over - released)
        for event in events
        if isinstance(event, Thought)
    )
    return Result(
        pattern=pattern,
        agents=settings.agents,
        acknowledged=len(items),
        kept=len(items & kept),
        lost=len(items - kept),
        failed=sum(event.error is not None for event in ended),
        thoughts=len(timeline) / settings.agents,
        seconds=max((mark.at for mark in marks), default=0.0),
        lower_bound=settings.lower_bound(),
        errors=Counter(event.error for event in ended if event.error is not None),
        arrivals=settings.arrival_times(),
        timeline=timeline,
        marks=tuple(marks),
    )


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


def _draw_agents(panel: Axes, result: Result, height: float) -> None:
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


def _dress(panel: Axes, result: Result) -> None:
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


def _legend() -> list[Artist]:
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
