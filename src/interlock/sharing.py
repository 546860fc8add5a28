"""Several agents over the connections of one open space, for a server that stands between.

What a server may not do is let a client choose its name: it hands out spaces that it opened here.
"""

from __future__ import annotations

from interlock.aio import AsyncSpace
from interlock.core.decide import Writer
from interlock.core.keys import check_name
from interlock.errors import raise_refused


async def under(space: AsyncSpace, agent: str, exclusive: bool = False) -> AsyncSpace:
    """Return the space under another agent's name, over the same connections.

    It shares the rules that `space` knows, and the code that they were declared with.  `exclusive`
    takes the name over, as `interlock.open_async` does.  Only the space that was opened is to be
    closed.  Raises Invalid, or a fault.
    """
    raise_refused(check_name("agent", agent))
    ours = space._writer
    other = AsyncSpace(space._driver, Writer(ours.space, agent, ours.max_value_bytes, ours.book))
    await other._enter(exclusive, None)
    return other
