"""From a store's URL to its backend, imported only then."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from interlock.backends.contract import Backend, Options
from interlock.backends.redaction import check_server_url, redact_url
from interlock.errors import Invalid

_POSTGRES = ("postgresql", "postgres")  # with or without a driver, as SQLAlchemy spells them
_REDIS = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")

_OTHERS: dict[str, Callable[..., Backend]] = {}


def register(scheme: str, make: Callable[..., Backend]) -> None:
    """Have `make(url, name, **options)` open the stores whose URLs begin with `scheme://`.

    `options` are `create`, `durability` and `busy_timeout` where they were given to
    `interlock.open`.
    """
    _OTHERS[scheme] = make


def open_backend(url: str, name: str, create: bool = True, **options: Any) -> Backend:
    """Return the backend of space `name` in the store at `url`.  Raises Invalid and the faults.

    `create`: whether to make the store and the space where there are none.

    Where the environment names a folder as INTERLOCK_RECORD, what it is asked is recorded there.
    """
    backend = _opened(url, name, create, **options)
    folder = os.environ.get("INTERLOCK_RECORD")
    if not folder:
        return backend
    from interlock.backends.trace import RecordingBackend

    try:
        return RecordingBackend(backend, folder)
    except BaseException:
        backend.close()
        raise


def _opened(url: str, name: str, create: bool, **options: Any) -> Backend:
    if not isinstance(url, str):
        raise Invalid(f"{redact_url(url)} is not a store URL. Example: sqlite:///team.db")
    scheme, separator, rest = url.partition("://")
    known = {name: value for name, value in options.items() if value is not None}
    if scheme == "sqlite" and separator:
        from interlock.backends.sqlite import SQLiteBackend

        return SQLiteBackend(url, name, Options(**known), create=create)
    if scheme.partition("+")[0] in _POSTGRES and separator:
        from interlock.backends.postgres import PostgresBackend

        check_server_url(url)
        return PostgresBackend(f"postgresql://{rest}", name, Options(**known), create)
    if scheme in _REDIS and separator:
        from interlock.backends.redis import RedisBackend

        check_server_url(url)
        return RedisBackend(url, name, Options(**known), create)
    if separator and (make := _OTHERS.get(scheme)) is not None:
        return make(url, name, **known, **({} if create else {"create": False}))
    safe = redact_url(url)
    hint = f" Did you mean 'sqlite:///{safe}'?" if not separator and safe == url else ""
    raise Invalid(f"{safe!r} is not a store URL.{hint or ' Example: sqlite:///team.db'}")
