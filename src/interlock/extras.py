"""Libraries that an adapter or a server needs and the base install leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from interlock.errors import InterlockError


class NotInstalled(InterlockError, ImportError):
    """A library that is needed here is missing; says what to install."""


@contextmanager
def needs(library: str, extra: str) -> Iterator[None]:
    """Import within it what the extra `extra` brings.  Raises NotInstalled where it is missing."""
    try:
        yield
    except ImportError as problem:
        raise NotInstalled(
            f"{library} is not installed: pip install 'interlock[{extra}]'"
        ) from problem
