"""What a task or a thread has read, for frameworks whose writes do not carry a version."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from interlock import AsyncSpace, Space

Where = tuple[Space | AsyncSpace, str]  # a space, and a key in it
_MOST = 100  # places that a context remembers

# Never changed in place: a task that is begun gets what its parent knew then, and not what others
# of its kind learn later.
_known: ContextVar[Mapping[Where, Any]] = ContextVar(
    "interlock_adapters_seen", default=MappingProxyType({})
)


def known(where: Where, default: Any = None) -> Any:
    """Return what this context remembers of a place."""
    return _known.get().get(where, default)


def learn(where: Where, what: Any) -> None:
    """Remember something of a place in this context; what was learned long ago is forgotten."""
    others = {place: each for place, each in _known.get().items() if place != where}
    for oldest in list(others)[: max(len(others) + 1 - _MOST, 0)]:
        del others[oldest]
    _known.set({**others, where: what})
