"""The schedule explorer: every interleaving of a few agents' requests, with faults.

The agents are real functions on the real façade, the store is the real SQLite backend in memory.
This is its front door; the search is in `explorer_search`, the agents in `explorer_agents`, the
store's contents in `explorer_store`, the words of a schedule in `story`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from interlock import Space
from interlock.errors import Invalid
from interlock.verify.explorer_agents import Agents
from interlock.verify.explorer_search import Exploration, Faults, Search
from interlock.verify.explorer_store import Stores
from interlock.verify.invariants import ALWAYS, Invariant
from interlock.verify.story import Violation


def explore(
    agents: Mapping[str, Any],
    *,
    setup: Callable[[Space], Any] | None = None,
    invariants: Invariant | Iterable[Invariant] = (),
    final: Invariant | Iterable[Invariant] = (),
    crashes: int = 1,
    lost_replies: int = 1,
    stalls: int = 0,
    power_failures: int = 0,
    always: Iterable[Invariant] = ALWAYS,
    max_states: int = 500_000,
    horizon: float = 60.0,
) -> Exploration:
    """Run every schedule of the agents' requests, and check invariants in every state.

    `agents` maps a name to a plain function that takes a `Space`, to a generator function that
    takes a `Writer`, or to what `protocol_agent` returns.  They run many times, so they must
    depend on nothing but what the space answers.  `setup(space)` runs once, before.

    `invariants` are checked in every state, `final` where everybody has ended or crashed; each is a
    function of a `View`.  `always` are the built-in ones (`always=()` turns them off).  At most
    `crashes` agents die, before a request or before its answer arrives; `lost_replies` answers are
    lost, so that the driver sends the same request again; `stalls` times the agents stand still for
    longer than a place in a queue lasts.  In a power failure everybody dies, and the store is cut
    to what had reached its disk: a commit whose answer was lost, or whose agent died before it had
    one, has not.  `horizon`: seconds of the store's clock after which agents that only wait are
    deadlocked.

    Raises Violation with a shortest schedule that breaks an invariant, deadlocks, or makes an agent
    raise anything but a `Refused`; NotDeterministic; Invalid for wrong arguments or where there are
    more than `max_states` states.
    """
    __tracebackhide__ = True
    if not isinstance(agents, Mapping) or not agents:
        raise Invalid("agents= maps at least one name to a function that takes a Space")
    faults = Faults(crashes, lost_replies, stalls, power_failures)
    for name, limit in faults._asdict().items():
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise Invalid(f"{name}={limit!r} is not a number of faults from 0")
    stores = Stores()
    try:
        if setup is not None:
            stores.set_up(setup)
        search = Search(
            Agents(agents, stores), stores, max_states=max_states, horizon_us=int(horizon * 1e6)
        )
        search.always = tuple(always)
        search.invariants = _several(invariants)
        search.final = _several(final)
        return search.run(faults)
    except Violation as violation:
        raise violation.with_traceback(None)  # noqa: B904  # the story says where; not these frames
    finally:
        stores.close()


def _several(invariants: Invariant | Iterable[Invariant]) -> tuple[Invariant, ...]:
    return (invariants,) if callable(invariants) else tuple(invariants)
