"""The last minute of a space, second by second: counted once a second for all who look."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from interlock import Entry, Json
from interlock.server.http.call import Call

_SECONDS = 60
_MOST = 5000  # entries and refusals that are looked at
_FRESH = 1.0  # seconds
_HOT = 8  # keys


class Pulses:
    """The pulse of each space."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], tuple[float, dict[str, Json]]] = {}

    async def of(self, call: Call) -> dict[str, Json]:
        """Return the commits and refusals of the last minute, and the keys with most of them."""
        whose = (call.hosted.uid, call.identity.token)
        since, found = self._found.get(whose, (-_FRESH, {}))
        if time.monotonic() - since < _FRESH:
            return found
        found = await _counted(call)
        self._found[whose] = (time.monotonic(), found)
        return found


async def _counted(call: Call) -> dict[str, Json]:
    now = await call.space.time()
    start = now - timedelta(seconds=_SECONDS)
    entries: list[Entry] = []
    async for entry in call.space.log(newest_first=True, limit=_MOST):
        if entry.at < start:
            break
        if call.sees(entry.key):
            entries.append(entry)
    report = await call.space.conflicts(_MOST)
    refusals = [e for e in report.refusals if e.at >= start and call.sees(e.key)]
    commits = {entry.op_id: entry.at for entry in entries}
    hot: Counter[str] = Counter(entry.key for entry in entries)
    refused = Counter(each.key for each in refusals)
    tried = len(commits) + len(refusals)
    return {
        "seconds": [int(start.timestamp()) + n + 1 for n in range(_SECONDS)],
        "commits": _by_second(commits.values(), start),
        "refusals": _by_second((each.at for each in refusals), start),
        "attempts_per_commit": round(tried / len(commits), 2) if commits else None,
        "hot": [
            {"key": key, "commits": hot[key], "refusals": refused[key]}
            for key, _ in (hot + refused).most_common(_HOT)
        ],
    }


def _by_second(times: Any, start: datetime) -> list[Json]:
    counts: list[Json] = [0] * _SECONDS
    for at in times:
        counts[min(int((at - start).total_seconds()), _SECONDS - 1)] += 1
    return counts
