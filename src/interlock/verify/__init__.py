"""Tools that check Interlock and programs made with it.  They are public, and not needed to use it.

`explore` runs agent functions under every schedule of their requests, with crashes and lost
replies, and checks invariants in every state.  `pytest -p interlock.verify.pytest` offers it as the
fixture `explore_interlock`.
`laws` checks what a reducer of one's own claims, `check_projection` that a projection's fold is
pure.  `check_linearizable` and `check_serializable`
check recorded histories of any system, which `read_history` reads.  `check_store` checks that a
store agrees with itself.
Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interlock.verify.explorer import explore
    from interlock.verify.explorer_agents import NotDeterministic, protocol_agent
    from interlock.verify.explorer_search import Exploration
    from interlock.verify.histories.linear import check_linearizable
    from interlock.verify.histories.operations import MalformedHistory, Operation, State
    from interlock.verify.histories.reading import parse_history, read_history, write_history
    from interlock.verify.histories.serial import check_serializable
    from interlock.verify.histories.verdicts import Anomaly, Dependency, Verdict
    from interlock.verify.invariants import ALWAYS, View
    from interlock.verify.projection_check import FoldBroken, check_projection
    from interlock.verify.reducer_laws import LawBroken, laws
    from interlock.verify.store_check import Problem, StoreReport, check_store
    from interlock.verify.story import Step, Violation

__all__ = [
    "ALWAYS",
    "Anomaly",
    "Dependency",
    "Exploration",
    "FoldBroken",
    "LawBroken",
    "MalformedHistory",
    "NotDeterministic",
    "Operation",
    "Problem",
    "State",
    "Step",
    "StoreReport",
    "Verdict",
    "View",
    "Violation",
    "check_linearizable",
    "check_projection",
    "check_serializable",
    "check_store",
    "explore",
    "laws",
    "parse_history",
    "protocol_agent",
    "read_history",
    "write_history",
]

_HOMES = {
    "ALWAYS": "invariants",
    "Anomaly": "histories.verdicts",
    "Dependency": "histories.verdicts",
    "Exploration": "explorer_search",
    "FoldBroken": "projection_check",
    "LawBroken": "reducer_laws",
    "MalformedHistory": "histories.operations",
    "NotDeterministic": "explorer_agents",
    "Operation": "histories.operations",
    "Problem": "store_check",
    "State": "histories.operations",
    "Step": "story",
    "StoreReport": "store_check",
    "Verdict": "histories.verdicts",
    "View": "invariants",
    "Violation": "story",
    "check_linearizable": "histories.linear",
    "check_projection": "projection_check",
    "check_serializable": "histories.serial",
    "check_store": "store_check",
    "explore": "explorer",
    "laws": "reducer_laws",
    "parse_history": "histories.reading",
    "protocol_agent": "explorer_agents",
    "read_history": "histories.reading",
    "write_history": "histories.reading",
}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
