"""What is found, and the rules by name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

from interlock.audit.value import Site


class Rule(NamedTuple):
    """A rule: its name and what it means."""

    name: str
    title: str
    about: str


RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "lost-update",
            "Read, change, write without a compare",
            "A value that was read from a store is changed and written back; a write in between is destroyed.",
        ),
        Rule(
            "lost-append",
            "Append by get and set",
            "A list is read, extended and written back; elements that others added in between are destroyed.",
        ),
        Rule(
            "shared-key",
            "Key built from shared properties of a task",
            "Several agents with the same topic, date or model write the same key; the last one wins.",
        ),
        Rule(
            "stale-retry",
            "Retry with old data",
            "The write is repeated after a conflict with data that were read before it.",
        ),
        Rule(
            "graph-state",
            "LangGraph state that parallel nodes destroy",
            "Parallel nodes write a key without a reducer, or its reducer drops or doubles what they write.",
        ),
        Rule(
            "write-behind",
            "Buffer flushed later",
            "What was accepted lives in memory only until a timer or the exit writes it.",
        ),
        Rule(
            "check-then-act",
            "Check, then act",
            "Whether to write was decided by a read that another writer can make untrue before the write.",
        ),
        Rule(
            "fixed-id",
            "Vector upserted under a fixed id",
            "Every run and every writer replaces the vector of the one before.",
        ),
        Rule(
            "unchecked-lease",
            "Lock or lease whose token is not compared",
            "The lock may have expired and been granted again; nothing at the write or release notices it.",
        ),
    )
}


class Step(NamedTuple):
    """A station on the way from the read to the write."""

    site: Site
    text: str


@dataclass
class Finding:
    """One line that can lose a write."""

    rule: str
    severity: str  # error, warning
    message: str
    why: str
    fix: str
    site: Site  # the write
    read: Site | None = None
    steps: list[Step] = field(default_factory=list)
    function: str = ""
    excerpt: str = ""  # the line of the write
    store: str = ""  # the kind of what is written

    @property
    def fingerprint(self) -> str:
        """What stays the same when lines move."""
        parts = (self.rule, self.site.file, self.function, " ".join(self.excerpt.split()))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
