"""What the agents of the losing application wrote, and what of it they lost: the ground truth.

Each contribution is a token such as `scout-3`, so that it can be looked for in any value.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

TOKEN = re.compile(r"\b(?:scout|planner|scribe)-\d+\b")


class Lost(NamedTuple):
    """A contribution that was overwritten by an agent that had not seen it."""

    key: str
    token: str
    by: str


class Ledger:
    """Compares every write with what was there, and with what its writer knew."""

    def __init__(self) -> None:
        self.writes = 0
        self.lost: list[Lost] = []
        self._current: dict[str, set[str]] = {}
        self._dropped: dict[str, set[str]] = {}

    def wrote(self, key: str, agent: str, knew: Any, value: Any) -> None:
        """Take note of a write: `knew` is the value that it was computed from."""
        new, known = tokens(value), tokens(knew)
        # What was taken out on purpose, and only came back because somebody wrote an old value.
        dropped = self._dropped.setdefault(key, set())
        dropped |= known - new
        gone = self._current.get(key, set()) - new - known - dropped
        self.lost += [Lost(key, token, agent) for token in sorted(gone)]
        self._current[key] = new
        self.writes += 1

    def taken_out(self, key: str) -> set[str]:
        """Return the contributions to a key that somebody who had seen them took out."""
        return self._dropped.get(key, set())


def tokens(value: Any) -> set[str]:
    """Return the contributions in a value."""
    return set(TOKEN.findall(json.dumps(value)))
