"""What a store may lack, so that a difference between backends is declared, never passed over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

CAPABILITIES: Mapping[str, str] = {
    "shared": "whoever opens the URL again, in any process, finds the same store",
    "fork": "a forked child may go on with a space of its parent, over connections of its own",
    "groups": "consumer groups: ReadGroup, AckGroup, GroupState, ListGroups, DropGroup",
    "trimming": "cutting off the oldest part of the log: Trim",
}
_NO_FORK = {} if hasattr(os, "fork") else {"fork": "this system has no os.fork"}


@dataclass(frozen=True)
class Capabilities:
    """What a store has: all of `CAPABILITIES` but what it `lacks`, each with the reason."""

    lacks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted({*self.lacks} - {*CAPABILITIES}):
            raise ValueError(f"{', '.join(unknown)}: not among {', '.join(CAPABILITIES)}")
        if silent := [name for name, reason in self.lacks.items() if not reason.strip()]:
            raise ValueError(f"{', '.join(silent)}: no reason is given")

    def need(self, *names: str) -> None:
        """Skip the test that runs, with the reason, where the store lacks one of these."""
        for name in names:
            if name not in CAPABILITIES:
                raise ValueError(f"{name!r} is not among {', '.join(CAPABILITIES)}")
            reason = self.lacks.get(name) or _NO_FORK.get(name)
            if reason:
                pytest.skip(f"the store lacks {name!r}: {reason}")
