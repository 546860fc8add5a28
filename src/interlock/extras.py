"""Libraries that an adapter or a server needs and the base install leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from interlock.errors import InterlockError


class NotInstalled(InterlockError, ImportError):
    """A library that is needed here is missing or too old; says what to install."""


@contextmanager
def needs(library: str, extra: str) -> Iterator[None]:
    """Import within it what the extra `extra` brings.

    Raises NotInstalled where it is missing, or older than the extra asks for.
    """
    old = too_old(extra)
    if old:
        raise NotInstalled(f"{old}: pip install --upgrade 'interlock[{extra}]'")
    try:
        yield
    except ImportError as problem:
        raise NotInstalled(
            f"{library} is not installed: pip install 'interlock[{extra}]'"
        ) from problem


@lru_cache
def too_old(extra: str) -> str | None:
    """Return which installed package is older than an extra asks for, None where none is.

    What is not installed is not old, and a package that says nothing that can be compared is taken
    for new enough.
    """
    from importlib.metadata import PackageNotFoundError, version

    for name, least in bounds(extra).items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if _numbers(found) < _numbers(least):
            return f"{name} {found} is older than {least}, which the extra {extra!r} asks for"
    return None


def bounds(extra: str) -> dict[str, str]:
    """Return the oldest versions that an extra asks for, by package, as they were installed."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        asked = requires("interlock") or []
    except PackageNotFoundError:  # the sources alone
        return {}
    ours = re.compile(r"([\w.-]+)(?:\[[\w, -]*\])?\s*>=\s*([\w.]+)\s*;.*extra == ['\"](.+)['\"]")
    found = filter(None, map(ours.match, asked))
    return {each[1]: each[2] for each in found if each[3] == extra}


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    numbers = re.match(r"[\d.]*", version)
    return tuple(int(part) for part in numbers[0].split(".") if part) if numbers else ()
