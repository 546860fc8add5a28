"""Tools that check Interlock and programs made with it.  They are public, and not needed to use it.

`explore` runs agent functions under every schedule of their requests, with crashes and lost
replies, and checks invariants in every state.  pytest offers it as the fixture `explore_interlock`.
`laws` checks what a reducer of one's own claims.  `interlock.verify.suite` holds the tests that
every backend passes.
Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlock.verify.explorer import explore
    from interlock.verify.explorer_agents import NotDeterministic, protocol_agent
    from interlock.verify.explorer_search import Exploration
    from interlock.verify.invariants import ALWAYS, View
    from interlock.verify.reducer_laws import LawBroken, laws
    from interlock.verify.story import Step, Violation

__all__ = [
    "ALWAYS",
    "Exploration",
    "LawBroken",
    "NotDeterministic",
    "Step",
    "View",
    "Violation",
    "explore",
    "laws",
    "protocol_agent",
]

_HOMES = {
    "ALWAYS": "invariants",
    "Exploration": "explorer_search",
    "LawBroken": "reducer_laws",
    "NotDeterministic": "explorer_agents",
    "Step": "story",
    "View": "invariants",
    "Violation": "story",
    "explore": "explorer",
    "laws": "reducer_laws",
    "protocol_agent": "explorer_agents",
}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
