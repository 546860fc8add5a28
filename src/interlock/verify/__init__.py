"""Tools that check Interlock and programs made with it.  They are public, and not needed to use it.

`explore` runs agent functions under every schedule of their requests, with crashes and lost
replies, and checks invariants in every state.  `pytest -p interlock.verify.pytest` offers it as the
fixture `explore_interlock`.
`laws` checks what a reducer of one's own claims, `check_projection` that a projection's fold is
pure.  `check_linearizable` and `check_serializable`
check recorded histories of any system, which `read_history` reads.  `check_store` checks that a
store agrees with itself.  `check_append` and `check_update` let many threads write to a store of
one's own at once.
Names are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.extras import later

if TYPE_CHECKING:
    from interlock.verify.explorer.agents import NotDeterministic, protocol_agent
    from interlock.verify.explorer.invariants import ALWAYS, View
    from interlock.verify.explorer.search import Exploration, explore
    from interlock.verify.explorer.story import Step, Violation
    from interlock.verify.folds import FoldBroken, LawBroken, check_projection, laws
    from interlock.verify.histories.history import (
        Anomaly,
        Dependency,
        MalformedHistory,
        Operation,
        State,
        Verdict,
        parse_history,
        read_history,
        write_history,
    )
    from interlock.verify.histories.linear import check_linearizable
    from interlock.verify.histories.serial import check_serializable
    from interlock.verify.store_check import Problem, StoreReport, check_store
    from interlock.verify.writers import WritersReport, check_append, check_update

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
    "WritersReport",
    "check_append",
    "check_linearizable",
    "check_projection",
    "check_serializable",
    "check_store",
    "check_update",
    "explore",
    "laws",
    "parse_history",
    "protocol_agent",
    "read_history",
    "write_history",
]

__getattr__ = later(
    __name__,
    {
        "explorer.agents": "NotDeterministic protocol_agent",
        "explorer.invariants": "ALWAYS View",
        "explorer.search": "Exploration explore",
        "explorer.story": "Step Violation",
        "folds": "FoldBroken LawBroken check_projection laws",
        "histories.history": "Anomaly Dependency MalformedHistory Operation State Verdict "
        "parse_history read_history write_history",
        "histories.linear": "check_linearizable",
        "histories.serial": "check_serializable",
        "store_check": "Problem StoreReport check_store",
        "writers": "WritersReport check_append check_update",
    },
)
