"""From a store's URL to its backend, imported only then."""

from __future__ import annotations

from typing import Any

from interlock.backends.contract import Backend
from interlock.errors import Invalid

_PLANNED = ("postgresql", "postgres", "redis", "rediss", "redis+cluster")


def open_backend(url: str, name: str, **options: Any) -> Backend:
    """Return the backend of space `name` in the store at `url`.  Raises Invalid and the faults."""
    if not isinstance(url, str):
        raise Invalid(f"a store is named by a URL such as 'sqlite:///team.db', not {url!r}")
    scheme, separator, _ = url.partition("://")
    if scheme == "sqlite" and separator:
        from interlock.backends.sqlite import SQLiteBackend, SQLiteOptions

        known = {name: value for name, value in options.items() if value is not None}
        return SQLiteBackend(url, name, SQLiteOptions(**known))
    if scheme in _PLANNED:
        raise Invalid(f"{scheme}:// stores come with a later version; this one opens sqlite://")
    hint = "" if separator else f"; did you mean 'sqlite:///{url}'?"
    raise Invalid(f"{url!r} is not the URL of a store, such as 'sqlite:///team.db'{hint}")
