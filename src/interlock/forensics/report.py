"""What a history shows, key by key: counts, overlapping writes, lost updates."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from interlock.forensics.analyzer import Analyzer, Key, host_of
from interlock.forensics.history import Event
from interlock.forensics.loss import CERTAIN, LIKELY, POSSIBLE, Loss, Overlap

MOST_SHOWN = 10_000  # losses, and overlaps, that a report holds
CERTAINTIES = (CERTAIN, LIKELY, POSSIBLE)


class Findings(NamedTuple):
    """What was found in a history.

    `losses` and `overlaps` are the first 10,000 of each, `lost` and `overlapping` count all,
    losses by certainty.  `keys` are in the order of their first event.
    """

    events: int
    keys: dict[str, Key]
    losses: list[Loss]
    overlaps: list[Overlap]
    lost: Counter[str]
    overlapping: int


def find_losses(
    events: Iterable[Event],
    *,
    window: float = 0.1,
    think: float = 60.0,
    from_start: bool = True,
    shows_reads: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Findings:
    """Find the overlapping writes and the lost updates of a history.

    `window` and `think` are seconds: writes of different agents that are closer than `window`
    overlap; where it is not known what was read, a loss is `likely` up to `think` after what it
    lacks was written.  `from_start`: the history shows the first write of each key, `shows_reads`:
    all reads.  `progress` is called now and then with the number of events so far.
    """
    analyzer = Analyzer(round(window * 1e6), round(think * 1e6), from_start, shows_reads)
    losses: list[Loss] = []
    overlaps: list[Overlap] = []
    lost: Counter[str] = Counter()
    count = overlapping = 0
    with _few_collections():
        for count, event in enumerate(events, 1):
            for found in analyzer.see(event):
                if isinstance(found, Loss):
                    lost[found.certainty] += 1
                    if len(losses) < MOST_SHOWN:
                        losses.append(found)
                else:
                    overlapping += 1
                    if len(overlaps) < MOST_SHOWN:
                        overlaps.append(found)
            if progress is not None and count % 1000 == 0:
                progress(count)
    for loss in losses:
        if loss.certainty == CERTAIN and host_of(loss.agent) in analyzer.pooled:
            loss.certainty = LIKELY
            loss.why = f"{loss.why}, but connections of its host seem to be a pool's"
            lost.update({CERTAIN: -1, LIKELY: 1})
            whose = analyzer.keys[loss.key].lost or {}
            whose.update({CERTAIN: whose[CERTAIN] - 1, LIKELY: whose.get(LIKELY, 0) + 1})
    keys = {name: key for name, key in analyzer.keys.items() if key.writes}
    lost += Counter()  # without zeros
    return Findings(count, keys, losses, overlaps, lost, overlapping)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Look for garbage seldom: what an analyzer holds is large and has no cycles, and looking
    through it takes a quarter of the time."""
    before = gc.get_threshold()
    gc.set_threshold(1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
