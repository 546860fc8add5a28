"""What is imported when it is used: libraries that the base install leaves out, public names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module

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


def later(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return the `__getattr__` of a package whose public names are imported when they are first
    used.  `homes` has them by module, separated by spaces."""
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def imported(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found: object = getattr(import_module(f"{package}.{home_of[name]}"), name)
        return found

    return imported


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
