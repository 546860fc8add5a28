"""The state of a team between its runs: one team at a time, and nothing of a zombie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from interlock import AsyncLease, AsyncSpace, Json, Lease, Space
from interlock.adapters.names import quoted
from interlock.adapters.space import checked
from interlock.adapters.turns import give_up, take, write


class HasState(Protocol):
    """What AutoGen's teams, agents and runtimes have in common."""

    async def save_state(self) -> Mapping[str, Json]:
        """Return the state as JSON values."""

    async def load_state(self, state: Mapping[str, Json], /) -> None:
        """Go on from a state that `save_state` returned."""


@asynccontextmanager
async def team_state(
    space: Space | AsyncSpace,
    name: str,
    team: HasState,
    *,
    wait: float | None = None,
    ttl: float = 30.0,
) -> AsyncIterator[Lease | AsyncLease]:
    """Go on with the conversation `name`: `async with team_state(...): await team.run(task=...)`.

    Takes the lease of the conversation (`ttl` seconds, renewed; `wait` seconds in a first-come
    queue, None: without limit), loads its state into `team`, if it has one, and saves the team's
    state at the end of the block.  If the block raises, nothing is saved.  Gives the lease,
    whose `epoch` is the number to pass on to whatever else must be fenced.

    Raises Held if `wait` has passed, Fenced at the end if the lease was taken away meanwhile
    (nothing is saved then), Invalid if the state is larger than a value may be.
    """
    lease = await take(checked(space, "team_state"), f"autogen/state/{quoted(name)}", ttl, wait)
    try:
        if lease.record.exists:
            await team.load_state(lease.value)
        yield lease
        await write(lease, dict(await team.save_state()))
    finally:
        await give_up(lease)
